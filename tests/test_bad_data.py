"""A mistake in the raw data gives one line that names the file and the remedy, and leaves nothing half-written."""

import json
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fgaseg.data.prepare import prepare
from fgaseg.data.raw import RAW_DATASETS
from fgaseg.errors import UserError
from fgaseg.sample.datasets import MINIATURES, write_sample

CHALLENGE = "ADEChallengeData2016"
STEM = "ADE_val_00000002"
LABEL = f"{CHALLENGE}/annotations/validation/{STEM}.png"
IMAGE = f"{CHALLENGE}/images/validation/{STEM}.jpg"
INDEX = "ADE20K_2021_17_01/index_ade20k.pkl"
DETAIL = "VOCdevkit/VOC2010/trainval_merged.json"


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("sound")
    write_sample(root, counts=dict.fromkeys(MINIATURES, 2))
    return root


@pytest.fixture
def root(sound: Path, tmp_path: Path) -> Path:
    return shutil.copytree(sound, tmp_path / "raw")


def failure(dataset: str, root: Path, workers: int = 1) -> str:
    """The message with which `prepare` refuses; the folder held a good index before and must hold none after."""
    out = root.parent / "out"
    out.mkdir()
    (out / "index.csv").write_text("image,label,width,height\n")
    with pytest.raises(UserError) as caught:
        prepare(dataset, root, out, workers)
    assert not (out / "index.csv").exists()
    assert not list(out.rglob("*.tmp"))
    for label in out.rglob("*.png"):
        Image.open(label).load()
    message = str(caught.value)
    assert "\n" not in message
    return message


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def rename_names(path: Path) -> None:
    index = pickle.loads(path.read_bytes())
    index["objectnames"] = index["objectnames"][::-1]
    path.write_bytes(pickle.dumps(index))


def forget_files(path: Path) -> None:
    index = pickle.loads(path.read_bytes())
    path.write_bytes(pickle.dumps(index | {"filename": [], "folder": []}))


def resize(path: Path) -> None:
    image = Image.open(path)
    image.resize((image.width + 1, image.height)).save(path)


def paint(value: int | tuple[int, int, int]) -> Callable[[Path], None]:
    """Overwrite one pixel of a PNG with `value`."""

    def change(path: Path) -> None:
        pixels = np.array(Image.open(path))
        pixels[0, 0] = value
        Image.fromarray(pixels).save(path)

    return change


def edit(change: Callable[[dict], None]) -> Callable[[Path], None]:  # type: ignore[type-arg]
    """Change the content of a JSON file."""

    def apply(path: Path) -> None:
        content = json.loads(path.read_text())
        change(content)
        path.write_text(json.dumps(content))

    return apply


def drop_segments(content: dict[str, list[dict[str, int]]]) -> None:
    last = content["images"][-1]["image_id"]
    content["annos_segmentation"] = [s for s in content["annos_segmentation"] if s["image_id"] != last]


def make_colour(path: Path) -> None:
    Image.open(path).convert("RGB").save(path)


def empty(path: Path) -> None:
    path.write_text("")


class Attack:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (os.environ["ATTACKED"],)


COCO_IMAGE = "coco/val2017/000000000285.jpg"
COCO_LABEL = "coco/stuffthingmaps/val2017/000000000285.png"
FULL_IMAGE = f"ADE20K_2021_17_01/images/ADE/validation/nature_landscape/coast/{STEM}.jpg"
FULL_LABEL = FULL_IMAGE.replace(".jpg", "_seg.png")
VOC_IMAGE = "VOCdevkit/VOC2012/JPEGImages/2007_000042.jpg"
VOC_LABEL = "VOCdevkit/VOC2012/SegmentationClassAug/2007_000042.png"
VOC_LIST = "VOCdevkit/VOC2012/ImageSets/Segmentation/val.txt"
CONTEXT_LIST = "VOCdevkit/VOC2010/ImageSets/SegmentationContext/val.txt"
CONTEXT_IMAGE = "VOCdevkit/VOC2010/JPEGImages/2008_000005.jpg"
CONTEXT_LABEL = "VOCdevkit/VOC2010/trainval/2008_000005.mat"


@pytest.mark.parametrize(
    ("dataset", "file", "change", "words"),
    [
        ("a-150", IMAGE, truncate, ["cannot be read", "unpack"]),
        ("a-150", LABEL, truncate, ["cannot be read", "unpack"]),
        ("a-150", LABEL, resize, ["pixels", "download"]),
        ("a-150", LABEL, paint(151), ["label id 151", "0 to 150", "download"]),
        ("a-150", LABEL, make_colour, ["RGB", "one grey or palette channel", "unpack"]),
        ("a-150", LABEL, Path.unlink, [f"{STEM}.jpg has no label", "unpack"]),
        ("a-150", IMAGE, Path.unlink, [f"{STEM}.png has no image", "unpack"]),
        ("coco-stuff-val", COCO_LABEL, paint(200), ["label id 200", "0 to 181 and 255", "download"]),
        ("coco-stuff-val", COCO_LABEL, Path.unlink, ["has no label", "unpack"]),
        ("coco-stuff-val", COCO_IMAGE, Path.unlink, ["has no image", "unpack"]),
        ("coco-stuff-val", COCO_IMAGE, truncate, ["cannot be read", "unpack"]),
        ("a-847", FULL_LABEL, paint((140, 105, 0)), ["label id 3689", "0 to 3688", "download"]),
        ("a-847", FULL_LABEL, Path.unlink, ["has no label", "unpack"]),
        ("a-847", FULL_IMAGE, Path.unlink, ["is missing", "index names it", "unpack"]),
        ("a-847", FULL_LABEL, resize, ["pixels", "download"]),
        ("a-847", INDEX, truncate, ["no ADE20K index", "unpack"]),
        ("a-847", INDEX, rename_names, ["numbers the classes otherwise", "ADE20K_2021_17_01"]),
        ("pas-20", VOC_LABEL, paint(21), ["label id 21", "0 to 20 and 255", "download"]),
        ("pas-20", VOC_LABEL, Path.unlink, ["is missing", "val.txt lists it", "unpack"]),
        ("pas-20", VOC_IMAGE, Path.unlink, ["is missing", "val.txt lists it", "unpack"]),
        ("pas-20", VOC_LIST, empty, ["lists no photograph", "unpack"]),
        ("pc-459", CONTEXT_LIST, empty, ["lists no photograph", "unpack"]),
        ("pc-59", DETAIL, edit(lambda c: c.update(images=[])), ["lists no photograph", "download"]),
        ("a-847", INDEX, forget_files, ["lists no photograph", "unpack"]),
        ("pc-459", CONTEXT_LABEL, truncate, ["no readable LabelMap", "unpack"]),
        ("pc-459", CONTEXT_LABEL, Path.unlink, ["is missing", "val.txt lists it", "unpack"]),
        ("pc-459", CONTEXT_IMAGE, resize, ["pixels", "download"]),
        ("pc-59", CONTEXT_IMAGE, resize, ["pixels", "download"]),
        ("pc-59", CONTEXT_IMAGE, Path.unlink, ["is missing", "lists it", "unpack"]),
        ("pc-59", DETAIL, truncate, ["no trainval_merged.json", "download"]),
        ("pc-59", DETAIL, edit(drop_segments), ["2008_000005.jpg has no label", "download"]),
        ("pc-59", DETAIL, edit(lambda c: c["annos_segmentation"][-1].update(category_id=460)), ["label id 460", "0 to 459"]),
        ("pc-59", DETAIL, edit(lambda c: c["images"][-1].update(width=9)), ["2008_000005.jpg", "9 x ", "download"]),
    ],
)
def test_a_damaged_file_is_named(dataset: str, file: str, change: Callable[[Path], None], words: list[str], root: Path) -> None:
    change(root / file)
    message = failure(dataset, root)
    assert Path(file).name in message
    assert not [word for word in words if word not in message], message


def test_both_sizes_are_named(root: Path) -> None:
    width, height = Image.open(root / IMAGE).size
    resize(root / LABEL)
    message = failure("a-150", root)
    assert f"{width + 1} x {height}" in message
    assert f"{width} x {height}" in message
    assert str(root / IMAGE) in message
    assert str(root / LABEL) in message


@pytest.mark.parametrize("dataset", RAW_DATASETS)
def test_missing_raw_data_say_what_to_download_and_where_to_put_it(dataset: str, tmp_path: Path) -> None:
    message = failure(dataset, tmp_path / "raw")
    assert "is missing" in message
    assert "download" in message or "request" in message
    assert ".zip" in message or ".tar" in message
    assert f"unpack it in {tmp_path / 'raw'}" in message


def test_empty_folders_are_no_dataset(tmp_path: Path) -> None:
    for folder in (IMAGE, LABEL):
        (tmp_path / "raw" / folder).parent.mkdir(parents=True)
    message = failure("a-150", tmp_path / "raw")
    assert "holds no photograph" in message
    assert str((tmp_path / "raw" / IMAGE).parent) in message


def test_an_unknown_dataset_is_answered_with_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="a-847"):
        prepare("a-151", tmp_path, tmp_path)


def test_a_mistake_found_by_a_worker_reaches_the_user(root: Path) -> None:
    paint(151)(root / LABEL)
    assert "label id 151" in failure("a-150", root, workers=2)


def test_an_index_that_runs_code_is_refused(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    attacked = root.parent / "attacked"
    monkeypatch.setenv("ATTACKED", str(attacked))
    (root / INDEX).write_bytes(pickle.dumps({"filename": Attack()}))
    message = failure("a-847", root)
    assert "mkdir" in message
    assert not attacked.exists()


def test_a_full_disk_leaves_no_partial_label(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail_midway(self: Image.Image, path: Path, **options: object) -> None:
        Path(path).write_bytes(b"\x89PNG")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", fail_midway)
    with pytest.raises(UserError, match="no space left on the disk; free some"):
        prepare("a-150", root, root.parent / "out")
    assert [path for path in (root.parent / "out").rglob("*") if path.is_file()] == []
