"""The sample data are what `write_sample` draws: real layouts, real ids, the same pixels again."""

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fgaseg.data.classes import class_table
from fgaseg.data.raw import RAW_DATASETS
from fgaseg.data.raw.ade20k import load_index
from fgaseg.sample.concepts import CONCEPTS
from fgaseg.sample.datasets import LARGEST, MINIATURES, SMALLEST, write_sample

SHIPPED = Path(__file__).parents[1] / "data" / "sample"
BENCHMARKS = {"coco-stuff-train": "coco-train", "coco-stuff-val": "coco-val", "a-150": "a-150", "a-847": "a-847"}
BENCHMARKS |= {"pc-59": "context", "pc-459": "context", "pas-20": "voc"}


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("drawn")
    write_sample(root)
    return root


@pytest.fixture(scope="module")
def shipped() -> Path:
    if not (SHIPPED / "coco").exists():
        pytest.skip(f"{SHIPPED} holds no sample data")
    return SHIPPED


def files(root: Path, *suffixes: str) -> set[Path]:
    return {path.relative_to(root) for path in root.rglob("*") if path.suffix in suffixes}


def test_shipped_files_are_those_that_are_drawn(shipped: Path, drawn: Path) -> None:
    kinds = (".jpg", ".png", ".mat", ".json", ".pkl", ".txt")
    folders = {path.name for path in drawn.iterdir()}
    assert {path for path in files(shipped, *kinds) if path.parts[0] in folders} == files(drawn, *kinds)


def test_shipped_labels_are_drawn_again_exactly(shipped: Path, drawn: Path) -> None:
    for path in sorted(files(drawn, ".png")):
        np.testing.assert_array_equal(np.asarray(Image.open(shipped / path)), np.asarray(Image.open(drawn / path)), str(path))
    for dataset in ("pc-59", "pc-459"):
        pairs = zip(RAW_DATASETS[dataset].items(shipped), RAW_DATASETS[dataset].items(drawn), strict=True)
        for theirs, ours in pairs:
            np.testing.assert_array_equal(theirs.decode(), ours.decode(), str(ours.annotation))


def test_shipped_photographs_are_drawn_again(shipped: Path, drawn: Path) -> None:
    for path in sorted(files(drawn, ".jpg")):
        theirs, ours = (np.asarray(Image.open(root / path), np.float32) for root in (shipped, drawn))
        assert np.abs(theirs - ours).mean() < 0.05, path  # sines differ in the last bit between processors


def test_drawing_twice_writes_the_same_bytes(tmp_path: Path) -> None:
    few = dict.fromkeys(MINIATURES, 2)
    for name in ("a", "b"):
        write_sample(tmp_path / name, counts=few)
    write_sample(tmp_path / "other seed", seed=1, counts=few)
    first, second, other = (
        {p.relative_to(root): p.read_bytes() for p in root.rglob("*") if p.is_file()} for root in sorted(tmp_path.iterdir())
    )
    assert first == second
    assert first.keys() == other.keys()
    assert not [path for path in first if path.suffix in (".jpg", ".png", ".mat") and first[path] == other[path]]


@pytest.mark.parametrize(("dataset", "miniature"), BENCHMARKS.items())
def test_every_miniature_has_its_size(dataset: str, miniature: str, drawn: Path) -> None:
    items = RAW_DATASETS[dataset].items(drawn)
    assert len(items) == MINIATURES[miniature].count
    sizes = np.array([Image.open(item.image).size for item in items])
    assert sizes.min() >= SMALLEST
    assert sizes.max() <= LARGEST
    assert len({tuple(size) for size in sizes.tolist()}) > len(items) // 2


@pytest.mark.parametrize("dataset", BENCHMARKS)
def test_raw_ids_stand_for_the_concepts_that_the_dataset_can_name(dataset: str, drawn: Path) -> None:
    raw = RAW_DATASETS[dataset]
    name = {entry.raw_id: entry.name for entry in raw.table}
    concepts = [c for c in CONCEPTS if raw.classes in c.names and (c.seen or raw.classes != "coco-stuff")]
    allowed = {c.names[raw.classes] for c in concepts}
    if dataset == "pc-459":  # its photographs are shared with pc-59
        allowed = {c.names["pc-459"] for c in concepts if "pc-59" in c.names or c.key == "sand"}
    void = {0, 255} if raw.classes != "coco-stuff" else {255}
    counts = Counter(int(i) for item in raw.items(drawn) for i in np.unique(item.decode()))
    shown = {name[i]: count for i, count in counts.items() if i not in void}
    assert shown.keys() == allowed
    assert min(shown.values()) >= (1 if dataset == "coco-stuff-val" else 3)


@pytest.mark.parametrize("dataset", ["coco-stuff-val", "a-150", "a-847", "pas-20"])
def test_contours_are_void_but_thin(dataset: str, drawn: Path) -> None:
    raw = RAW_DATASETS[dataset]
    void = 0 if dataset.startswith("a-") else 255
    share = np.mean([(item.decode() == void).mean() for item in raw.items(drawn)])
    assert 0.005 < share < 0.06


def test_sand_is_void_in_the_smaller_vocabulary_of_pascal_context(drawn: Path) -> None:
    sand = next(e.raw_id for e in class_table("pc-459") if e.name == "sand")
    areas = 0
    for small, large in zip(RAW_DATASETS["pc-59"].items(drawn), RAW_DATASETS["pc-459"].items(drawn), strict=True):
        small_ids, large_ids = small.decode(), large.decode()
        np.testing.assert_array_equal(small_ids == 0, large_ids == sand)
        areas += int((large_ids == sand).sum())
    assert areas > 0


def test_the_index_of_ade20k_names_every_class_of_the_table(drawn: Path) -> None:
    index = load_index(drawn / "ADE20K_2021_17_01" / "index_ade20k.pkl")
    for entry in class_table("a-847"):
        assert index["objectnames"][entry.raw_id - 1] == ", ".join(entry.all_names())


def test_segments_follow_the_layout_of_the_detail_annotations(drawn: Path) -> None:
    content = json.loads((drawn / "VOCdevkit" / "VOC2010" / "trainval_merged.json").read_text())
    assert content.keys() >= {"images", "annos_segmentation", "categories", "parts", "annos_occlusion"}
    ids = {category["category_id"] for category in content["categories"]}
    for segment in content["annos_segmentation"]:
        assert segment["category_id"] in ids
        assert isinstance(segment["segmentation"]["counts"], str)


def test_labels_of_voc_show_its_colours(drawn: Path) -> None:
    label = Image.open(next((drawn / "VOCdevkit/VOC2012/SegmentationClassAug").glob("*.png")))
    palette = np.array(label.getpalette()).reshape(-1, 3)
    assert label.mode == "P"
    assert palette[[0, 1, 2, 15]].tolist() == [[0, 0, 0], [128, 0, 0], [0, 128, 0], [192, 128, 128]]


def test_the_whole_sample_is_a_few_megabytes(drawn: Path) -> None:
    assert sum(path.stat().st_size for path in drawn.rglob("*") if path.is_file()) < 8e6
