"""`fgaseg data verify`: every planted defect is found and named, and nothing is found where nothing is wrong."""

import json
import os
import pickle
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from project import Project

from fgaseg.data.raw import RAW_DATASETS
from fgaseg.data.raw.ade20k import photographs
from fgaseg.data.raw.base import read_ids
from fgaseg.data.raw.pascal import labelled
from fgaseg.plan import Plan
from fgaseg.sample.datasets import write_sample
from fgaseg.verification.scan import Scan, scan
from fgaseg.verification.sheet import contact_sheet
from fgaseg.verification.shift import shift_remarks
from fgaseg.verification.verify import Verification, verify

ROOT = Path(__file__).parents[1]
SAMPLES = Path(os.environ.get("FGASEG_SAMPLES", "/nonexistent"))

COCO, MAPS = "coco/train2017", "coco/stuffthingmaps/train2017"
CHALLENGE = "ADEChallengeData2016/{}/validation"
VOC, CONTEXT = "VOCdevkit/VOC2012", "VOCdevkit/VOC2010"


@pytest.fixture(scope="session")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with the whole sample data, drawn anew. To be copied, not changed."""
    root = tmp_path_factory.mktemp("sample")
    shutil.copytree(ROOT / "params", root / "params")
    shutil.copy(ROOT / "data.dvc", root)
    write_sample(root / "data" / "sample")
    return root


@pytest.fixture
def root(sample: Path, tmp_path: Path) -> Path:
    return shutil.copytree(sample, tmp_path / "project", copy_function=os.link)


def found(root: Path, dataset: str) -> Verification:
    return verify(Plan(root, "sample"), dataset, workers=1)


def replace(path: Path, content: bytes) -> None:
    """Write a file anew: the old one is linked to others."""
    path.unlink()
    path.write_bytes(content)


def truncate(path: Path) -> None:
    replace(path, path.read_bytes()[: path.stat().st_size // 2])


def relabel(path: Path, change: Callable[[np.ndarray], np.ndarray]) -> None:
    with Image.open(path) as image:
        palette, pixels = image.getpalette(), np.array(image)
    changed = Image.fromarray(change(pixels.astype(np.int64)).astype(np.uint8))
    if palette:
        changed.putpalette(palette)
    path.unlink()
    changed.save(path)


def paint(value: int) -> Callable[[Path], None]:
    def change(pixels: np.ndarray) -> np.ndarray:
        pixels[:3, :3] = value
        return pixels

    return lambda path: relabel(path, change)


def widen(path: Path) -> None:
    relabel(path, lambda pixels: np.pad(pixels, ((0, 0), (0, 2))))


def colour(path: Path) -> None:
    with Image.open(path) as image:
        converted = image.convert("RGB")
    path.unlink()
    converted.save(path)


def unlist(path: Path) -> None:
    """Leave out the last photograph of Pascal Context's segments."""
    content = json.loads(path.read_text())
    content["annos_segmentation"] = [
        s for s in content["annos_segmentation"] if s["image_id"] != content["images"][-1]["image_id"]
    ]
    replace(path, json.dumps(content).encode())


def renumber(path: Path) -> None:
    """Another release's numbers of the classes."""
    index = pickle.loads(path.read_bytes())
    replace(path, pickle.dumps(index | {"objectnames": index["objectnames"][::-1]}))


PLANTED = {
    "a truncated photograph": ("a-150", f"{CHALLENGE.format('images')}/ADE_val_00000003.jpg", truncate, "cannot be read"),
    "an empty photograph": (
        "coco-stuff-val", "coco/val2017/000000000285.jpg", lambda path: replace(path, b""), "cannot be read",
    ),
    "a truncated label": ("a-150", f"{CHALLENGE.format('annotations')}/ADE_val_00000003.png", truncate, "cannot be read"),
    "a label of another size": ("pas-20", f"{VOC}/SegmentationClassAug/2007_000042.png", widen, "pixels, its image"),
    "an id outside the table": (
        "a-150", f"{CHALLENGE.format('annotations')}/ADE_val_00000002.png", paint(151), "id 151 outside the table",
    ),
    "an undeclared void": (
        "a-150", f"{CHALLENGE.format('annotations')}/ADE_val_00000002.png", paint(255), "255 is often void; here void is 0",
    ),
    "a label in colours": (
        "coco-stuff-train", f"{MAPS}/000000000025.png", colour, "labels need one grey or palette channel",
    ),
    "a photograph without label": ("coco-stuff-train", f"{MAPS}/000000000025.png", Path.unlink, "has no label"),
    "a label without photograph": ("coco-stuff-train", f"{COCO}/000000000025.jpg", Path.unlink, "has no image"),
    "a listed photograph that is missing": ("pas-20", f"{VOC}/JPEGImages/2007_000042.jpg", Path.unlink, "is missing"),
    "a damaged label map": ("pc-459", f"{CONTEXT}/trainval/2008_000005.mat", truncate, "no readable LabelMap"),
    "a photograph without segments": ("pc-59", f"{CONTEXT}/trainval_merged.json", unlist, "holds no segment of it"),
    "damaged segments": ("pc-59", f"{CONTEXT}/trainval_merged.json", truncate, "is no trainval_merged.json"),
    "another release's numbers": (
        "a-847", "ADE20K_2021_17_01/index_ade20k.pkl", renumber, "numbers the classes otherwise",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("dataset", "file", "plant", "reason"), PLANTED.values(), ids=PLANTED)
def test_a_defect_of_a_file_is_named_with_file_and_reason(
    root: Path, dataset: str, file: str, plant: Callable[[Path], None], reason: str
) -> None:
    plant(root / "data" / "sample" / file)
    defects = found(root, dataset).defects
    assert len(defects) == 1
    assert reason in defects[0].text
    assert Path(file).stem in defects[0].text
    assert "\n" not in defects[0].text


def shift_pngs(folder: str, change: Callable[[np.ndarray], np.ndarray]) -> Callable[[Path], None]:
    def plant(root: Path) -> None:
        for path in (root / folder).glob("*.png"):
            relabel(path, change)

    return plant


def drop_pair(root: Path) -> None:
    (root / COCO / "000000000025.jpg").unlink()
    (root / MAPS / "000000000025.png").unlink()


def up(pixels: np.ndarray) -> np.ndarray:
    """Every class one too high, void where it was."""
    return np.where((pixels == 0) | (pixels == 255), pixels, pixels + 1)


def whole(root: Path, change: Callable[[int], int]) -> None:
    """Change the category of every segment of Pascal Context."""
    path = root / CONTEXT / "trainval_merged.json"
    content = json.loads(path.read_text())
    for segment in content["annos_segmentation"]:
        segment["category_id"] = change(segment["category_id"])
    replace(path, json.dumps(content).encode())


SHIFTED = {
    "COCO-Stuff one too high": (
        "coco-stuff-train", shift_pngs(MAPS, lambda x: np.where(x == 255, x, x + 1)), ["one too high"],
    ),
    "COCO-Stuff one too low": (
        "coco-stuff-train", shift_pngs(MAPS, lambda x: np.where(x == 255, x, np.maximum(x - 1, 0))),
        ["no published file holds", "one too low"],
    ),
    "ADE20K one too high": ("a-150", shift_pngs(CHALLENGE.format("annotations"), up), ["one too high"]),
    "ADE20K counted from 0": (
        "a-150", shift_pngs(CHALLENGE.format("annotations"), lambda x: x - 1),
        ["id 255 outside the table", "one too low"],
    ),
    "ADE20K's void counted among the walls": (
        "a-150", shift_pngs(CHALLENGE.format("annotations"), lambda x: np.maximum(x - 1, 0)), ["one too low"],
    ),
    "VOC's background as a class": (
        "pas-20", shift_pngs(f"{VOC}/SegmentationClassAug", lambda x: np.where(x == 255, x, x + 1)),
        ["id 1 ('aeroplane') covers"],
    ),
    "VOC's background as void": (
        "pas-20", shift_pngs(f"{VOC}/SegmentationClassAug", lambda x: x - 1), ["background, id 0, is in", "255 covers"],
    ),
    "Pascal Context one too high": ("pc-59", lambda root: whole(root, lambda i: i + 1), ["one too high"]),
    "a photograph and its label gone": ("coco-stuff-train", drop_pair, ["239 photographs", "has 240", "1 are missing"]),
}  # fmt: skip


@pytest.mark.parametrize(("dataset", "plant", "words"), SHIFTED.values(), ids=SHIFTED)
def test_a_defect_of_all_files_together_is_named(
    root: Path, dataset: str, plant: Callable[[Path], None], words: list[str]
) -> None:
    plant(root / "data" / "sample")
    text = " ".join(defect.text for defect in found(root, dataset).defects)
    assert [word for word in words if word not in text] == [], text


@pytest.mark.parametrize("dataset", RAW_DATASETS)
def test_nothing_is_found_in_the_sample(sample: Path, dataset: str) -> None:
    result = found(sample, dataset)
    assert result.defects == ()
    assert len(result.items) == result.expected
    shown = [share for share in result.classes if share.images]
    assert len(shown) + len(result.unseen) == len(RAW_DATASETS[dataset].table)
    assert all(share.pixels for share in shown)


@pytest.mark.skipif(not SAMPLES.exists(), reason="FGASEG_SAMPLES names no folder")
def test_nothing_is_found_in_real_photographs() -> None:
    voc = SAMPLES / "VOCdevkit" / "VOC2011"
    labels = sorted((voc / "SegmentationClass").glob("*.png"))
    pairs = [labelled(voc / "JPEGImages" / f"{path.stem}.jpg", path, voc, read_ids) for path in labels]
    for name, items in (("a-847", photographs(SAMPLES / "ADE20K_2021_17_01")), ("pas-20", pairs)):
        raw = RAW_DATASETS[name]
        scans = [scan(item, raw) for item in items]
        assert scans
        assert [defect for one in scans for defect in one.defects] == []
        assert shift_remarks(raw, scans) == []


def test_real_photographs_repeated_often_speak_for_no_shift() -> None:
    """So that it is their colours that speak, not that they are few."""
    if not SAMPLES.exists():
        pytest.skip("FGASEG_SAMPLES names no folder")
    raw = RAW_DATASETS["a-847"]
    scans = [scan(item, raw) for item in photographs(SAMPLES / "ADE20K_2021_17_01")]
    assert shift_remarks(raw, scans * 50) == []


@pytest.mark.parametrize(
    ("ids", "words"),
    [(range(20), "ids are one too low"), (range(2, 21), "ids are one too high"), (range(21), ""), ([0, 3], "")],
)
def test_a_table_of_which_only_an_end_is_missing_is_shifted(ids: Iterable[int], words: str) -> None:
    shown = np.unique([0, *ids])
    one = Scan(shown, np.where(shown == 0, 90, 1), np.zeros((len(shown), 3), np.float32))
    remarks = shift_remarks(RAW_DATASETS["pas-20"], [one])
    assert words in " ".join(remarks)
    assert bool(remarks) == bool(words)


@pytest.mark.parametrize(("count", "words"), [(5105, "5105 is often said"), (5000, "104 are missing")])
def test_counts_of_pascal_context_are_told_apart(count: int, words: str) -> None:
    from fgaseg.verification.verify import _miscounted

    assert words in _miscounted("pc-459", Path("x"), count, 5104)


def test_a_background_among_a_users_classes_is_asked_about(root: Path) -> None:
    content = "role: benchmark\nimages: i\nlabels: l\nclasses: [background, sky]\n"
    folder = root / "params" / "datasets"
    (folder / "harbour.yaml").write_text(content)
    for name in ("i/a.jpg", "l/a.png"):
        (root / name).parent.mkdir()
        Image.new("L", (8, 8), 1).save(root / name)
    (defect,) = found(root, "harbour").defects
    assert "the class 'background' is scored like any other" in defect.text
    assert "under void" in defect.text


def test_several_processes_find_the_same(root: Path) -> None:
    paint(200)(root / "data" / "sample" / MAPS / "000000000025.png")
    plan = Plan(root, "sample")
    alone, together = (verify(plan, "coco-stuff-train", workers) for workers in (1, 2))
    assert alone.defects == together.defects
    assert alone.classes == together.classes


def test_the_command_tells_by_its_exit_status(project: Project) -> None:
    """A small project holds fewer photographs than the sample is drawn with, which is found too."""
    result = project.quick("data", "verify", "a-150", "--sheet", "sheet.png", "--json", "found.json")
    assert result.status == 1
    assert result.out.startswith("a-150 (sample scale, data/sample): 3 of 28 sound images, 1 finding\n")
    assert "3 photographs with labels, where a-150 has 28: 25 are missing" in result.out
    (report,) = json.loads((project.root / "found.json").read_text())
    assert report["dataset"] == "a-150"
    assert len(report["classes"]) == 150
    assert len(report["findings"]) == 1
    with Image.open(project.root / "sheet.png") as sheet:
        assert sheet.width > 1000
    assert "choose one of" in project.one_line(project.quick("data", "verify", "a-151"))
    assert "ends in .png" in project.one_line(project.quick("data", "verify", "a-150", "--sheet", "sheet.jpg"))


def test_a_sheet_leaves_out_what_cannot_be_read(root: Path, tmp_path: Path) -> None:
    truncate(root / "data" / "sample" / CHALLENGE.format("images") / "ADE_val_00000001.jpg")
    contact_sheet([found(root, "a-150")], tmp_path / "sheet.png")
    contact_sheet([Verification("a-150", (), 28, ())], tmp_path / "empty.png")
    assert (tmp_path / "sheet.png").stat().st_size > 50_000
    assert (tmp_path / "empty.png").stat().st_size > 1000
