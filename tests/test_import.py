"""`fgaseg data import`: publishers' archives become the raw layout, safely, and an interrupted import goes on."""

import dataclasses
import io
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import time
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from project import Project, assert_says

from fgaseg.data.prepare import prepare
from fgaseg.data.raw import RAW_DATASETS
from fgaseg.errors import UserError
from fgaseg.intake import importing, sources
from fgaseg.intake.importing import Imported, import_dataset
from fgaseg.intake.publishers import PUBLICATIONS, Archive, Publication
from fgaseg.sample.datasets import MINIATURES, write_sample

A_150 = PUBLICATIONS["a-150"]


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The six datasets as they lie unpacked."""
    root = tmp_path_factory.mktemp("drawn")
    write_sample(root, counts=dict.fromkeys(MINIATURES, 3))
    return root


def files(folder: Path, prefix: str = "") -> dict[str, bytes]:
    """The files below a folder by their paths in an archive."""
    found = sorted(path for path in folder.rglob("*") if path.is_file())
    return {f"{prefix}{path.relative_to(folder).as_posix()}": path.read_bytes() for path in found}


def write_zip(path: Path, content: Mapping[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in content.items():
            archive.writestr(zipfile.ZipInfo(name, (2017, 9, 1, 12, 30, 2)), data)
    return path


def write_tar(path: Path, content: Mapping[str, bytes]) -> Path:
    with tarfile.open(path, "w:gz" if path.name.endswith("gz") else "w") as archive:
        for name, data in content.items():
            info = tarfile.TarInfo(name)
            info.size, info.mtime = len(data), 1_300_000_000
            archive.addfile(info, io.BytesIO(data))
    return path


def downloads(drawn: Path, folder: Path) -> dict[str, list[Path]]:
    """Each dataset as its publisher offers it, with much that nobody needs."""
    coco, challenge, full = drawn / "coco", drawn / "ADEChallengeData2016", drawn / "ADE20K_2021_17_01"
    voc, context = drawn / "VOCdevkit" / "VOC2012", drawn / "VOCdevkit" / "VOC2010"
    maps = write_zip(folder / "stuffthingmaps_trainval2017.zip", files(coco / "stuffthingmaps"))
    more = {"ADEChallengeData2016/images/training/ADE_train_00000001.jpg": b"x", "ADEChallengeData2016/objectInfo150.txt": b"x"}
    parts = {"ADE20K_2021_17_01/images/ADE/validation/urban/street/ADE_val_00000001/instance_000_ADE_val_00000001.png": b"x"}
    photographs = write_tar(
        folder / "VOCtrainval_03-May-2010.tar", files(context / "JPEGImages", "VOCdevkit/VOC2010/JPEGImages/")
    )
    lists = {"VOCdevkit/VOC2010/ImageSets/SegmentationContext/val.txt": files(context)["ImageSets/SegmentationContext/val.txt"]}
    return {
        "coco-stuff-train": [write_zip(folder / "train2017.zip", files(coco / "train2017", "train2017/")), maps],
        "coco-stuff-val": [write_zip(folder / "val2017.zip", files(coco / "val2017", "val2017/")), maps],
        "a-150": [write_zip(folder / "ADEChallengeData2016.zip", files(challenge, "ADEChallengeData2016/") | more)],
        "a-847": [write_zip(folder / "ADE20K_2021_17_01.zip", files(full, "ADE20K_2021_17_01/") | parts)],
        "pc-59": [photographs, context / "trainval_merged.json"],
        "pc-459": [
            write_tar(folder / "trainval.tar.gz", files(context / "trainval", "trainval/") | {"trainval/._x.mat": b"x"}),
            photographs,
            write_tar(folder / "lists.tgz", lists),
        ],
        "pas-20": [
            write_tar(
                folder / "VOCtrainval_11-May-2012.tar",
                files(voc / "JPEGImages", "VOCdevkit/VOC2012/JPEGImages/")
                | files(voc / "ImageSets", "VOCdevkit/VOC2012/ImageSets/"),
            ),
            write_zip(folder / "SegmentationClassAug.zip", files(voc / "SegmentationClassAug")),
        ],
    }


@pytest.fixture(scope="module")
def offered(drawn: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Path]]:
    return downloads(drawn, tmp_path_factory.mktemp("downloads"))


def take(archive: Path, root: Path, publication: Publication = A_150, check: bool = False, workers: int = 1) -> Imported:
    (result,) = import_dataset(publication, [archive], root, check, workers)
    return result


@pytest.mark.parametrize("dataset", RAW_DATASETS)
def test_archives_become_the_raw_layout(dataset: str, drawn: Path, offered: dict[str, list[Path]], tmp_path: Path) -> None:
    root = tmp_path / "data"
    import_dataset(PUBLICATIONS[dataset], offered[dataset], root, check=False, workers=1)
    assert files(root).items() <= files(drawn).items()
    assert len(RAW_DATASETS[dataset].items(root)) == 3
    assert [path.name for path in tmp_path.iterdir()] == ["data"]
    prepare(dataset, root, tmp_path / "imported")
    prepare(dataset, drawn, tmp_path / "drawn")
    labels = [files(tmp_path / name / "labels") for name in ("imported", "drawn")]
    assert labels[0] == labels[1]


@pytest.mark.parametrize("inside", ["", "ADEChallengeData2016"])
def test_an_unpacked_folder_does_as_well(inside: str, drawn: Path, tmp_path: Path) -> None:
    result = take(drawn / inside, tmp_path / "data")
    assert (result.written, files(tmp_path / "data").items() <= files(drawn).items()) == (6, True)
    assert take(tmp_path / "data", tmp_path / "data").kept == 6


def many(count: int) -> dict[str, bytes]:
    folder = "ADEChallengeData2016/images/validation"
    return {f"{folder}/ADE_val_{i:08d}.jpg": os.urandom(3000) for i in range(count)}


@pytest.mark.parametrize("write", [write_zip, write_tar])
def test_several_processes_write_the_same(write: Callable[..., Path], tmp_path: Path) -> None:
    content = many(200)
    archive = write(tmp_path / "x.zip", content)
    assert take(archive, tmp_path / "data", workers=2).written == 200
    assert files(tmp_path / "data") == content


FORMATS = {"zip": write_zip, "tar": write_tar, "tgz": write_tar}


@pytest.mark.parametrize("suffix", FORMATS)
def test_a_killed_import_leaves_whole_files_alone_and_the_next_keeps_them(suffix: str, tmp_path: Path) -> None:
    content = many(3000)
    archive, root = FORMATS[suffix](tmp_path / f"x.{suffix}", content), tmp_path / "data"
    code = (
        "import sys; from pathlib import Path; from fgaseg.intake.importing import import_dataset; "
        "from fgaseg.intake.publishers import PUBLICATIONS; "
        "import_dataset(PUBLICATIONS['a-150'], [Path(sys.argv[1])], Path(sys.argv[2]), False, 1)"
    )
    process = subprocess.Popen([sys.executable, "-c", code, archive, root], start_new_session=True)
    folder = root / "ADEChallengeData2016" / "images" / "validation"
    while not folder.exists() or sum(1 for _ in folder.iterdir()) < 300:
        assert process.poll() is None
        time.sleep(0.002)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    before = files(root)
    assert 300 <= len(before) < 3000
    assert before.items() <= content.items()
    held = {path: path.open("rb") for path in folder.iterdir()}
    inodes = {path: path.stat().st_ino for path in held}
    result = take(archive, root)
    for file in held.values():
        file.close()
    assert (result.kept, result.written) == (len(before), 3000 - len(before))
    assert {path: path.stat().st_ino for path in held} == inodes
    assert files(root) == content
    assert not list(tmp_path.glob(".data*"))


def test_a_file_that_was_changed_afterwards_is_brought_back(tmp_path: Path) -> None:
    content = many(2)
    archive = write_zip(tmp_path / "x.zip", content)
    take(archive, tmp_path / "data")
    changed = next((tmp_path / "data").rglob("*.jpg"))
    changed.write_bytes(os.urandom(3000))
    assert take(archive, tmp_path / "data").written == 1
    assert files(tmp_path / "data") == content


NEEDED = "ADEChallengeData2016/images/validation/ADE_val_00000001.jpg"


def zip_with(name: str, mode: int = 0) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        with zipfile.ZipFile(folder / "evil.zip", "w") as archive:
            info = zipfile.ZipInfo(name)
            info.external_attr = mode << 16
            archive.writestr(info, b"/etc/passwd")
        return folder / "evil.zip"

    return write


def tar_with(name: str, kind: bytes = tarfile.REGTYPE, suffix: str = "tar") -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        with tarfile.open(folder / f"evil.{suffix}", "w:gz" if suffix == "tgz" else "w") as archive:
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, "/etc/passwd"
            archive.addfile(info)
        return folder / f"evil.{suffix}"

    return write


def linked_folder(folder: Path) -> Path:
    path = folder / "unpacked" / NEEDED
    path.parent.mkdir(parents=True)
    path.symlink_to("/etc/passwd")
    return folder / "unpacked"


def cut(folder: Path) -> Path:
    path = write_zip(folder / "cut.zip", many(3))
    path.write_bytes(path.read_bytes()[:-200])
    return path


def cut_stream(folder: Path) -> Path:
    path = write_tar(folder / "cut.tgz", many(30))
    path.write_bytes(path.read_bytes()[:50_000])
    return path


def cut_tar(folder: Path) -> Path:
    path = write_tar(folder / "cut.tar", many(3))
    path.write_bytes(path.read_bytes()[:6000])
    return path


def flipped(folder: Path) -> Path:
    path = write_zip(folder / "flipped.zip", {NEEDED: bytes(4000)})
    content = bytearray(path.read_bytes())
    content[len(NEEDED) + 30 + 4] ^= 0xFF
    path.write_bytes(content)
    return path


def other(folder: Path) -> Path:
    return write_zip(folder / "other.zip", {"readme.txt": b"hello"})


def twice(folder: Path) -> Path:
    return write_zip(folder / "twice.zip", {f"a/{NEEDED}": b"1", f"b/{NEEDED}": b"2"})


REFUSED: dict[str, tuple[Callable[[Path], Path], list[str]]] = {
    "a zip that leads up": (zip_with(f"../../{NEEDED}"), ["evil.zip", "leads outside"]),
    "a zip that leads up by backslashes": (zip_with(f"..\\..\\{NEEDED}"), ["evil.zip", "leads outside"]),
    "a zip with an absolute path": (zip_with(f"/tmp/{NEEDED}"), ["evil.zip", "leads outside"]),
    "a zip with a link": (zip_with(NEEDED, 0o120777), [NEEDED, "is a link"]),
    "a tar that leads up": (tar_with(f"x/../../{NEEDED}"), ["evil.tar", "leads outside"]),
    "a tar with a link": (tar_with(NEEDED, tarfile.SYMTYPE), [NEEDED, "is a link"]),
    "a tar with a hard link": (tar_with(NEEDED, tarfile.LNKTYPE), [NEEDED, "is a link"]),
    "a tar with a device": (tar_with(NEEDED, tarfile.CHRTYPE), [NEEDED, "a device"]),
    "a compressed tar with a link": (tar_with(NEEDED, tarfile.SYMTYPE, "tgz"), [NEEDED, "is a link"]),
    "a compressed tar that leads up": (tar_with(f"../{NEEDED}", suffix="tgz"), ["evil.tgz", "leads outside"]),
    "a folder with a link": (linked_folder, [NEEDED, "is a link"]),
    "a zip that ends early": (cut, ["cut.zip", "damaged or incomplete", "download it again"]),
    "a compressed tar that ends early": (cut_stream, ["cut.tgz", "download it again"]),
    "a tar that ends early": (cut_tar, ["cut.tar", "download it again"]),
    "a zip with a wrong check sum": (flipped, ["flipped.zip", "damaged or incomplete"]),
    "an archive of something else": (other, ["other.zip", "holds no file of this dataset", "ADEChallengeData2016.zip"]),
    "two files for one place": (twice, ["twice.zip", "two files for"]),
    "nothing": (lambda folder: folder / "none.zip", ["none.zip: no such file or folder"]),
}


@pytest.mark.parametrize(("make", "words"), REFUSED.values(), ids=REFUSED)
def test_what_is_unsafe_or_damaged_is_refused_and_nothing_is_half_written(
    make: Callable[[Path], Path], words: list[str], tmp_path: Path
) -> None:
    (tmp_path / "sources").mkdir()
    download, root = make(tmp_path / "sources"), tmp_path / "project" / "data"
    with pytest.raises(UserError) as caught:
        take(download, root)
    assert_says(str(caught.value), *words)
    assert "\n" not in str(caught.value)
    assert all(len(content) == 3000 for content in files(root).values())
    assert {path.name for path in (tmp_path / "project").glob("*")} <= {"data"}
    assert {path.name for path in tmp_path.iterdir()} <= {"sources", "project"}


@pytest.mark.parametrize(("limit", "most"), [("MOST_FILES", 2), ("MOST_BYTES", 8000)])
@pytest.mark.parametrize("suffix", FORMATS)
def test_more_than_any_dataset_has_is_refused(
    limit: str, most: int, suffix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importing, limit, most)
    archive = FORMATS[suffix](tmp_path / f"x.{suffix}", many(5))
    with pytest.raises(UserError, match="holds more than"):
        take(archive, tmp_path / "data")
    assert len(files(tmp_path / "data")) <= 2


def test_links_among_what_nobody_needs_are_left_out(tmp_path: Path) -> None:
    content = many(1)
    with tarfile.open(write_tar(tmp_path / "x.tar", content), "a") as archive:
        link = tarfile.TarInfo("ADEChallengeData2016/latest")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
    result = take(tmp_path / "x.tar", tmp_path / "data")
    assert (result.written, result.left_out) == (1, 1)
    assert files(tmp_path / "data") == content


def test_a_publishers_size_and_digest_are_compared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archive = write_zip(tmp_path / "known.zip", many(1))
    size = archive.stat().st_size

    def offered(size: int, digest: str) -> Publication:
        return dataclasses.replace(A_150, archives=(Archive("known.zip", "", size, digest),))

    with pytest.raises(UserError, match=rf"known.zip: has {size} bytes, published are 1; download it again"):
        take(archive, tmp_path / "data", offered(1, "md5:0"), check=True)
    with pytest.raises(UserError, match=r"known.zip: its md5 is .*, that of the published file 0; download it again"):
        take(archive, tmp_path / "data", offered(size, "md5:0"), check=True)
    assert not files(tmp_path / "data")
    digest = importing.hashlib.md5(archive.read_bytes()).hexdigest()
    assert take(archive, tmp_path / "data", offered(size, f"md5:{digest}"), check=True).written == 1


def test_a_resumed_import_does_not_read_for_the_digest_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archive = write_zip(tmp_path / "known.zip", many(1))
    digest = importing.hashlib.md5(archive.read_bytes()).hexdigest()
    publication = dataclasses.replace(A_150, archives=(Archive("known.zip", "", None, f"md5:{digest}"),))
    read: list[object] = []
    original = importing.hashlib.file_digest
    monkeypatch.setattr(importing.hashlib, "file_digest", lambda *a: read.append(a) or original(*a))
    with monkeypatch.context() as patch:
        patch.setattr(importing, "_write", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            take(archive, tmp_path / "data", publication, check=True)
    take(archive, tmp_path / "data", publication, check=True)
    assert len(read) == 1


def test_a_disk_that_is_too_small_is_named_before_anything_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(1, 1, 10))  # type: ignore[attr-defined]
    with pytest.raises(UserError, match="GB are needed for"):
        take(write_zip(tmp_path / "x.zip", many(1)), tmp_path / "data")
    assert not files(tmp_path / "data")


def test_no_place_of_a_file_leads_outside() -> None:
    for publication in PUBLICATIONS.values():
        for path in ("../" * 5 + NEEDED, "ADE20K_2021_17_01/images/ADE/validation/../../x/ADE_val_00000001.jpg"):
            target = publication.target(path)
            assert target is None or ".." not in Path(target).parts
    assert sources.safe("a/b.jpg", Path("x")) == "a/b.jpg"


def test_the_command_says_what_is_still_missing_and_what_comes_next(project: Project, offered: dict[str, list[Path]]) -> None:
    project.remove("data/sample/coco/train2017")
    project.remove("data/sample/coco/stuffthingmaps/train2017")
    images, maps = offered["coco-stuff-train"]
    first = project.succeed("data", "import", "coco-stuff-train", images, "--scale", "sample")
    assert_says(first.out, "3 files written, 0 there already", "not complete yet", "stuffthingmaps")
    second = project.succeed("data", "import", "coco-stuff-train", maps, images, "--scale", "sample", "--workers", "1")
    assert_says(
        second.out, "3 files written", "3 there already", "3 images with labels; next: fgaseg data verify", "dvc commit"
    )
    assert "choose one of" in project.one_line(project.quick("data", "import", "a-151", images))
