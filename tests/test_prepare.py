"""Raw layouts in, common form out: what the prepared labels and the index hold, dataset by dataset."""

import csv
import json
import pickle
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from fgaseg.data.classes import ClassEntry, class_table
from fgaseg.data.prepare import prepare, prepare_items, shrink
from fgaseg.data.raw import RAW_DATASETS
from fgaseg.data.raw.ade20k import A_847, full_survey, load_index, photographs
from fgaseg.data.raw.pascal import PUBLISHED_VAL, Segments
from fgaseg.data.vocabulary import coco_matches, kind, seen
from fgaseg.errors import UserError
from fgaseg.sample.concepts import CONCEPTS, Concept
from fgaseg.sample.datasets import MINIATURES, write_sample

FEW = dict.fromkeys(MINIATURES, 4)


@pytest.fixture(scope="module")
def raw_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("raw")
    write_sample(root, counts=FEW)
    return root


def read_index(out: Path) -> list[dict[str, str]]:
    with (out / "index.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def prepared_labels(out: Path) -> dict[str, np.ndarray]:
    return {Path(row["label"]).stem: np.asarray(Image.open(row["label"])) for row in read_index(out)}


@pytest.mark.parametrize("dataset", RAW_DATASETS)
def test_every_dataset_is_prepared_from_its_raw_layout(dataset: str, raw_root: Path, tmp_path: Path) -> None:
    prepare(dataset, raw_root, tmp_path)
    table = class_table(RAW_DATASETS[dataset].classes)
    void, dtype = (65535, np.uint16) if len(table) > 255 else (255, np.uint8)
    rows = read_index(tmp_path)
    assert len(rows) == 4
    found: set[int] = set()
    for row in rows:
        labels = np.asarray(Image.open(row["label"]))
        assert labels.dtype == dtype
        assert Image.open(row["image"]).size == (int(row["width"]), int(row["height"])) == labels.shape[::-1]
        found |= set(np.unique(labels).tolist())
    assert all(label < len(table) or label == void for label in found)
    classes = json.loads((tmp_path / "classes.json").read_text())
    assert [c["name"] for c in classes] == [entry.name for entry in table]
    assert {i for i, c in enumerate(classes) if c["present"]} == found - {void}
    assert not list(tmp_path.rglob("*.tmp"))


@pytest.mark.parametrize("dataset", ["coco-stuff-val", "a-150", "pas-20"])
def test_grey_and_palette_labels_become_positions_in_the_table(dataset: str, tmp_path: Path) -> None:
    places = {
        "coco-stuff-val": ("coco/val2017", "coco/stuffthingmaps/val2017"),
        "a-150": ("ADEChallengeData2016/images/validation", "ADEChallengeData2016/annotations/validation"),
        "pas-20": ("VOCdevkit/VOC2012/JPEGImages", "VOCdevkit/VOC2012/SegmentationClassAug"),
    }
    raw = {
        "coco-stuff-val": [[0, 12, 13], [181, 255, 11]],  # ids 11 and 25 are in no published file
        "a-150": [[0, 1, 2], [150, 149, 0]],
        "pas-20": [[0, 1, 20], [255, 11, 0]],
    }
    expected = {
        "coco-stuff-val": [[0, 11, 12], [170, 255, 255]],
        "a-150": [[255, 0, 1], [149, 148, 255]],
        "pas-20": [[255, 0, 19], [255, 10, 255]],
    }
    images, annotations = (tmp_path / folder for folder in places[dataset])
    for folder in (images, annotations):
        folder.mkdir(parents=True)
    Image.new("RGB", (3, 2)).save(images / "a.jpg")
    label = Image.fromarray(np.array(raw[dataset], np.uint8))
    if dataset == "pas-20":
        label.putpalette([i // 3 for i in range(768)])
        listed = tmp_path / "VOCdevkit/VOC2012/ImageSets/Segmentation/val.txt"
        listed.parent.mkdir(parents=True)
        listed.write_text("a\n")
    label.save(annotations / "a.png")
    prepare(dataset, tmp_path, tmp_path / "out")
    assert prepared_labels(tmp_path / "out")["a"].tolist() == expected[dataset]


def test_one_set_of_photographs_carries_both_vocabularies_of_pascal_context(raw_root: Path, tmp_path: Path) -> None:
    prepare("pc-59", raw_root, tmp_path / "59")
    prepare("pc-459", raw_root, tmp_path / "459")
    small, large = prepared_labels(tmp_path / "59"), prepared_labels(tmp_path / "459")
    assert small.keys() == large.keys()
    # Pascal Context merges its class "table" into "diningtable": that name alone differs between the two tables.
    position = {entry.raw_id: i for i, entry in enumerate(class_table("pc-59"))}
    to_small = np.full(65536, 255)
    to_small[: len(class_table("pc-459"))] = [position.get(entry.raw_id, 255) for entry in class_table("pc-459")]
    for stem in small:
        np.testing.assert_array_equal(small[stem], to_small[large[stem]])


def test_later_segments_lie_over_earlier_ones() -> None:
    from pycocotools import mask

    def code(pixels: list[list[int]]) -> Any:
        return mask.encode(np.asfortranarray(np.array(pixels, np.uint8)))

    segments = Segments("", 2, 3, ((7, code([[1, 1, 0], [1, 0, 0]])), (9, code([[0, 1, 1], [0, 0, 0]]))))
    assert segments().tolist() == [[7, 9, 9], [7, 0, 0]]


def test_only_the_validation_phase_of_pascal_context_is_read(raw_root: Path, tmp_path: Path) -> None:
    source = raw_root / "VOCdevkit" / "VOC2010"
    target = tmp_path / "VOCdevkit" / "VOC2010"
    target.mkdir(parents=True)
    (target / "JPEGImages").symlink_to(source / "JPEGImages")
    content = json.loads((source / "trainval_merged.json").read_text())
    content["images"][0]["phase"] = "train"
    (target / "trainval_merged.json").write_text(json.dumps(content))
    prepare("pc-59", tmp_path, tmp_path / "out")
    assert content["images"][0]["file_name"] not in [Path(row["image"]).name for row in read_index(tmp_path / "out")]


def test_the_published_split_of_pascal_context_is_complete() -> None:
    stems = PUBLISHED_VAL.read_text().split()
    assert len(stems) == len(set(stems)) == 5104


def test_coded_colours_give_ids_beyond_8_bits(tmp_path: Path) -> None:
    wall, person = 2978, 1831
    Image.new("RGB", (3, 1)).save(tmp_path / "a.jpg")
    codes = [(wall // 256 * 10 + 3, wall % 256, 7), (person // 256 * 10, person % 256, 1), (0, 0, 0)]
    Image.fromarray(np.array([codes], np.uint8)).save(tmp_path / "a_seg.png")
    prepare_items(A_847, photographs(tmp_path), tmp_path / "out")
    names = [e.name for e in class_table("a-847")]
    assert prepared_labels(tmp_path / "out")["a"].tolist() == [[names.index("wall"), names.index("person"), 65535]]


def test_large_photographs_are_shrunk_with_their_labels(tmp_path: Path) -> None:
    pixels = np.zeros((600, 900, 3), np.uint8)
    pixels[:, 450:] = (2978 // 256 * 10, 2978 % 256, 0)
    Image.fromarray(pixels).save(tmp_path / "a_seg.png")
    Image.fromarray(np.where(pixels.any(-1, keepdims=True), 255, pixels).astype(np.uint8)).save(tmp_path / "a.jpg")
    prepare_items(A_847, photographs(tmp_path), tmp_path / "out")
    (row,) = read_index(tmp_path / "out")
    assert (row["width"], row["height"]) == ("768", "512")
    assert Path(row["image"]).parent == tmp_path / "out" / "images"
    labels = np.asarray(Image.open(row["label"]))
    image = np.asarray(Image.open(row["image"]).convert("L"))
    assert set(np.unique(labels)) == {0, 65535}
    assert ((labels == 0) == (image > 127)).mean() > 0.998


def test_shrinking_picks_the_nearest_label() -> None:
    labels = np.arange(12, dtype=np.uint8).reshape(2, 6)
    assert shrink(Image.new("RGB", (6, 2)), labels, 1)[1].tolist() == [[7, 9, 11]]


def test_the_index_chooses_the_split(raw_root: Path) -> None:
    assert len(full_survey(raw_root).sound()) == 4
    with pytest.raises(UserError, match="lists no photograph of training"):
        full_survey(raw_root, "training")


def test_an_index_of_numpy_arrays_is_read(tmp_path: Path) -> None:
    index = {
        "filename": np.array(["a.jpg"], object),
        "folder": ["x"],
        "objectnames": np.array(["wall"]),
        "objectPresence": np.zeros((2, 3), np.uint16),
        "count": np.float64(3),
    }
    for protocol in (2, 4, 5):
        (tmp_path / "index.pkl").write_bytes(pickle.dumps(index, protocol))
        loaded = load_index(tmp_path / "index.pkl")
        assert list(loaded["filename"]) == ["a.jpg"]
        assert loaded["objectPresence"].shape == (2, 3)


def test_workers_change_nothing(raw_root: Path, tmp_path: Path) -> None:
    prepare("a-150", raw_root, tmp_path / "out")
    alone = {path.relative_to(tmp_path): path.read_bytes() for path in tmp_path.rglob("*.*")}
    prepare("a-150", raw_root, tmp_path / "out", workers=2)
    assert alone == {path.relative_to(tmp_path): path.read_bytes() for path in tmp_path.rglob("*.*")}


def test_paths_below_the_current_directory_are_relative(
    raw_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    prepare("a-150", raw_root, Path("out"))
    row = read_index(tmp_path / "out")[0]
    assert row["label"] == f"out/labels/{Path(row['image']).stem}.png"
    assert Path(row["image"]).is_absolute()


@pytest.mark.parametrize(
    ("name", "synonyms", "expected"),
    [
        ("Potted Plant", (), ("potted plant",)),
        ("pottedplant", (), ("potted plant",)),
        ("sky", (), ("sky-other",)),
        ("wall-brick", (), ("wall-brick",)),
        ("car", ("auto", "automobile"), ("car",)),
        ("lounge", ("couch",), ("couch",)),
        ("water", (), ("river", "sea", "water-other")),
        ("andiron", ("firedog", "dog"), ()),
        ("escalator", ("moving staircase",), ()),
    ],
)
def test_names_find_the_coco_classes_of_the_same_meaning(
    name: str, synonyms: tuple[str, ...], expected: tuple[str, ...]
) -> None:
    assert coco_matches(ClassEntry(0, name, synonyms)) == expected


def test_every_voc_class_is_a_thing_that_coco_knows() -> None:
    assert {kind(entry) for entry in class_table("pas-20")} == {"thing"}


def test_aliases_name_classes_that_exist() -> None:
    coco = {entry.name for entry in class_table("coco-stuff")}
    text = resources.files("fgaseg.data.classes").joinpath("aliases.csv").read_text(encoding="utf-8")
    for row in csv.DictReader(text.splitlines()):
        assert set(filter(None, row["coco"].split("|"))) <= coco, row


@pytest.mark.parametrize("concept", CONCEPTS, ids=lambda concept: concept.key)
def test_vocabulary_agrees_with_the_sample_concepts(concept: Concept) -> None:
    names = {c.names["coco-stuff"] for c in CONCEPTS if c.seen}
    training = tuple(entry for entry in class_table("coco-stuff") if entry.name in names)
    for dataset, name in concept.names.items():
        entry = next(e for e in class_table(dataset) if e.name == name)
        assert seen(entry, training) is concept.seen, (dataset, name)
        assert kind(entry) == concept.kind, (dataset, name)


def test_a_class_of_coco_stuff_means_itself_alone() -> None:
    """So what a training on COCO-Stuff has shown is told by the names of its classes."""
    assert {entry.name: coco_matches(entry) for entry in class_table("coco-stuff")} == {
        entry.name: (entry.name,) for entry in class_table("coco-stuff")
    }


def test_a_name_that_coco_lacks_is_seen_where_training_has_it() -> None:
    escalator, glove = ClassEntry(3, "escalator", ("moving staircase",)), ClassEntry(4, "Moving-Staircase", ())
    assert seen(glove, (escalator,))
    assert not seen(glove, (ClassEntry(3, "car", ()),))
    assert seen(ClassEntry(0, "automobile", ("car",)), (ClassEntry(7, "car", ()),))
