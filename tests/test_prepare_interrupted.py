"""A preparation that was interrupted goes on: nothing finished is done again, nothing is lost, and no change goes unnoticed."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks.preparation import measure, start_up
from fgaseg.data import prepare as module
from fgaseg.data.prepare import prepare
from fgaseg.errors import UserError
from fgaseg.sample.datasets import MINIATURES, write_sample

IMAGES = 12
STOP_AFTER = 5


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("drawn")
    write_sample(root, counts=dict.fromkeys(MINIATURES, 0) | {"coco-val": IMAGES, "a-847": 3, "context": 3})
    return root


@pytest.fixture
def raw(drawn: Path, tmp_path: Path) -> Path:
    return shutil.copytree(drawn, tmp_path / "raw")


@pytest.fixture
def interrupted(raw: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a preparation that died after some photographs, in the middle of the next."""
    with monkeypatch.context() as patch:
        stop_after(STOP_AFTER, patch)
        with pytest.raises(KeyboardInterrupt):
            prepare("coco-stuff-val", raw, tmp_path / "out")
    (tmp_path / "out" / "labels" / ".000000000869.png.1.tmp").write_bytes(b"half")
    return tmp_path / "out"


def stop_after(count: int, patch: pytest.MonkeyPatch) -> None:
    original, done = module._prepare_item, list[object]()

    def dying(*arguments: object) -> object:
        if len(done) == count:
            raise KeyboardInterrupt
        done.append(arguments)
        return original(*arguments)  # type: ignore[arg-type]

    patch.setattr(module, "_prepare_item", dying)


def contents(out: Path) -> dict[str, bytes]:
    """All files of a prepared dataset; the index without the name of its folder."""
    return {
        str(path.relative_to(out)): path.read_bytes().replace(str(out).encode(), b"")
        for path in out.rglob("*")
        if path.is_file()
    }


def inodes(out: Path) -> dict[str, int]:
    """A file that is written again has another inode, for the old one is still held here."""
    return {path.name: path.stat().st_ino for path in (out / "labels").iterdir()}


def redone(out: Path, resume: Callable[[], None]) -> set[str]:
    """The names of the labels that were there and that `resume` wrote again."""
    held = [path.open("rb") for path in (out / "labels").iterdir()]
    before = inodes(out)
    resume()
    after = inodes(out)
    for file in held:
        file.close()
    return {name for name, inode in before.items() if not name.startswith(".") and after[name] != inode}


def test_it_goes_on_without_redoing_anything_and_ends_in_the_same_bytes(raw: Path, interrupted: Path, tmp_path: Path) -> None:
    assert len(list((interrupted / "labels").glob("0*.png"))) == STOP_AFTER
    assert not (interrupted / "index.csv").exists()
    assert redone(interrupted, lambda: prepare("coco-stuff-val", raw, interrupted)) == set()
    prepare("coco-stuff-val", raw, tmp_path / "undisturbed")
    assert contents(interrupted) == contents(tmp_path / "undisturbed")
    assert len(list((interrupted / "labels").iterdir())) == IMAGES


def change_label(path: Path) -> None:
    """Another label in a file of the same size, with the same time of its last change."""
    stat = path.stat()
    pixels = np.array(Image.open(path))
    Image.fromarray(np.roll(pixels, 7, axis=1)).save(path)
    with path.open("r+b") as file:
        file.truncate(max(stat.st_size, path.stat().st_size))
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))


@pytest.mark.parametrize("folder", ["val2017", "stuffthingmaps/val2017"])
def test_a_raw_file_that_changed_in_between_is_read_again(raw: Path, interrupted: Path, folder: str, tmp_path: Path) -> None:
    path = sorted((raw / "coco" / folder).iterdir())[1]
    if path.suffix == ".png":
        change_label(path)
    else:
        shutil.copy2(path, path.with_suffix(".copy"))
        path.with_suffix(".copy").rename(path)
    assert redone(interrupted, lambda: prepare("coco-stuff-val", raw, interrupted)) == {f"{path.stem}.png"}
    prepare("coco-stuff-val", raw, tmp_path / "undisturbed")
    assert contents(interrupted) == contents(tmp_path / "undisturbed")


def test_a_written_file_that_is_lost_or_damaged_is_written_again(raw: Path, interrupted: Path, tmp_path: Path) -> None:
    first, second, *_ = sorted((interrupted / "labels").glob("0*.png"))
    first.write_bytes(b"")
    second.unlink()
    prepare("coco-stuff-val", raw, interrupted)
    prepare("coco-stuff-val", raw, tmp_path / "undisturbed")
    assert contents(interrupted) == contents(tmp_path / "undisturbed")


def test_a_photograph_that_is_gone_leaves_nothing_behind(raw: Path, interrupted: Path) -> None:
    for folder in ("val2017", "stuffthingmaps/val2017"):
        min((raw / "coco" / folder).iterdir()).unlink()
    prepare("coco-stuff-val", raw, interrupted)
    assert len(list((interrupted / "labels").iterdir())) == IMAGES - 1


def test_a_mistake_that_is_mended_costs_only_the_rest(raw: Path, tmp_path: Path) -> None:
    broken = sorted((raw / "coco" / "stuffthingmaps" / "val2017").iterdir())[-1]
    content = broken.read_bytes()
    broken.write_bytes(content[:20])
    with pytest.raises(UserError, match="cannot be read"):
        prepare("coco-stuff-val", raw, tmp_path / "out")
    broken.write_bytes(content)
    assert redone(tmp_path / "out", lambda: prepare("coco-stuff-val", raw, tmp_path / "out")) == set()


def test_segments_of_one_file_count_each_for_itself(raw: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        stop_after(2, patch)
        with pytest.raises(KeyboardInterrupt):
            prepare("pc-59", raw, tmp_path / "out")
    path = raw / "VOCdevkit" / "VOC2010" / "trainval_merged.json"
    path.write_text(path.read_text() + " ")
    assert redone(tmp_path / "out", lambda: prepare("pc-59", raw, tmp_path / "out")) == set()


def test_two_hundred_images_killed_halfway(tmp_path: Path) -> None:
    found = measure(tmp_path, 200, workers=1)
    assert found.identical
    assert found.redone <= 1
    assert 100 <= found.finished < 200  # killed before the end
    listed, crop = start_up(tmp_path / "whole", 10_000)
    assert listed + crop < 5
