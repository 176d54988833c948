"""Real photographs of ADE20K and PASCAL VOC, where FGASEG_SAMPLES says they are: the readers agree with their own names."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fgaseg.data.classes import class_table
from fgaseg.data.prepare import prepare_items
from fgaseg.data.raw.ade20k import A_847, photographs
from fgaseg.data.raw.base import read_ids
from fgaseg.data.raw.pascal import PAS_20, labelled

SAMPLES = Path(os.environ.get("FGASEG_SAMPLES", "/nonexistent"))
ADE = SAMPLES / "ADE20K_2021_17_01"
VOC = SAMPLES / "VOCdevkit" / "VOC2011"

needs_ade = pytest.mark.skipif(not ADE.exists(), reason="FGASEG_SAMPLES names no folder with ADE20K_2021_17_01")
needs_voc = pytest.mark.skipif(not VOC.exists(), reason="FGASEG_SAMPLES names no folder with VOCdevkit/VOC2011")


def labels(out: Path, stem: str) -> np.ndarray:
    return np.asarray(Image.open(out / "labels" / f"{stem}.png"))


@needs_ade
def test_ade20k_labels_carry_the_names_that_the_annotators_wrote(tmp_path: Path) -> None:
    items = photographs(ADE)
    prepare_items(A_847, items, tmp_path)
    table = class_table("a-847")
    by_raw_id = {entry.raw_id: (label, entry) for label, entry in enumerate(table)}
    checked = 0
    for item in items:
        objects = json.loads(item.image.with_suffix(".json").read_text(encoding="utf-8"))["annotation"]["object"]
        whole = {o["name_ndx"]: o["name"] for o in objects if o["parts"]["part_level"] == 0}
        for raw_id, name in whole.items():
            if raw_id in by_raw_id:
                assert by_raw_id[raw_id][1].name in name.split(", ")
                checked += 1
        prepared = set(np.unique(labels(tmp_path, item.image.stem)).tolist()) - {65535}
        assert prepared <= {by_raw_id[raw_id][0] for raw_id in whole if raw_id in by_raw_id}
        assert set(np.unique(item.decode()).tolist()) - {0} <= whole.keys()
    assert checked > 10


@needs_ade
def test_ade20k_objects_lie_inside_their_polygons(tmp_path: Path) -> None:
    from PIL import ImageDraw

    for item in photographs(ADE):
        ids = item.decode()
        objects = json.loads(item.image.with_suffix(".json").read_text(encoding="utf-8"))["annotation"]["object"]
        for raw_id in np.unique(ids[ids > 0]):
            canvas = Image.new("1", ids.shape[::-1])
            for o in objects:
                if o["name_ndx"] == raw_id and o["parts"]["part_level"] == 0:
                    corners = list(zip(o["polygon"]["x"], o["polygon"]["y"], strict=True))
                    ImageDraw.Draw(canvas).polygon(corners, fill=1, outline=1)
            inside = np.asarray(canvas)[ids == raw_id].mean()
            assert inside > 0.9, (item.image.name, int(raw_id), float(inside))


@needs_ade
def test_large_ade20k_photographs_are_shrunk_to_a_short_side_of_512(tmp_path: Path) -> None:
    items = photographs(ADE)
    prepare_items(A_847, items, tmp_path)
    for item in items:
        before, after = (Image.open(p / f"{item.image.stem}.jpg") for p in (item.image.parent, tmp_path / "images"))
        assert min(before.size) > 512 == min(after.size)
        assert after.width / after.height == pytest.approx(before.width / before.height, abs=0.003)
        assert labels(tmp_path, item.image.stem).shape == (after.height, after.width)


@needs_voc
def test_voc_palettes_decode_to_the_classes_of_its_own_list(tmp_path: Path) -> None:
    names = VOC.joinpath("class_names.txt").read_text().split("\n")[1:21]
    table = [entry.name for entry in class_table("pas-20")]
    assert [name.replace(" ", "").replace("/", "") for name in names] == table
    images, annotations = VOC / "JPEGImages", VOC / "SegmentationClass"
    stems = sorted(path.stem for path in annotations.glob("*.png"))
    items = [labelled(images / f"{s}.jpg", annotations / f"{s}.png", VOC) for s in stems]
    prepare_items(PAS_20, items, tmp_path)
    for stem in stems:
        raw, prepared = read_ids(annotations / f"{stem}.png"), labels(tmp_path, stem)
        ignored = (raw == 0) | (raw == 255)
        assert (prepared[ignored] == 255).all()
        np.testing.assert_array_equal(prepared[~ignored], raw[~ignored] - 1)
    present = {stem: {table[i] for i in np.unique(labels(tmp_path, stem)) if i != 255} for stem in stems}
    assert present == {
        "2011_000003": {"bottle", "person"},
        "2011_000006": {"chair", "person", "sofa"},
        "2011_000025": {"bus", "car"},
    }
