"""Real photographs of ADE20K and PASCAL VOC, where FGASEG_SAMPLES says they are, through prepare, evaluate and predict."""

import json
import pickle
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from photographs import ADE, CLASSES, VOC, ade_photographs, each_photograph, needs_photographs, voc_photographs
from PIL import Image
from project import Project

from fgaseg.data.classes import class_table

pytestmark = needs_photographs


def write_ade(root: Path) -> None:
    """The photographs as the validation set of the 2021 release; object names are the table's, then the annotators' own."""
    names = ["-"] * 3688
    for entry in class_table("a-847"):
        names[entry.raw_id - 1] = ", ".join(entry.all_names())
    index: dict[str, list[str]] = {"filename": [], "folder": [], "objectnames": names}
    for photograph in ade_photographs():
        folder = Path(ADE.name, "images", "ADE", "validation", *photograph.parent.parts[-2:])
        (root / folder).mkdir(parents=True, exist_ok=True)
        for file in (photograph, photograph.with_name(f"{photograph.stem}_seg.png")):
            shutil.copy(file, root / folder)
        index["filename"].append(photograph.name)
        index["folder"].append(str(folder))
        annotation = json.loads(photograph.with_suffix(".json").read_text())["annotation"]
        for thing in annotation["object"]:
            if thing["parts"]["part_level"] == 0:
                names[thing["name_ndx"] - 1] = thing["name"]
    (root / ADE.name / "index_ade20k.pkl").write_bytes(pickle.dumps(index))


def write_voc(root: Path) -> None:
    """The photographs as VOC 2012's validation set."""
    folder = root / "VOCdevkit" / "VOC2012"
    shutil.copytree(VOC / "JPEGImages", folder / "JPEGImages")
    shutil.copytree(VOC / "SegmentationClass", folder / "SegmentationClassAug")
    listed = folder / "ImageSets" / "Segmentation" / "val.txt"
    listed.parent.mkdir(parents=True)
    listed.write_text("".join(f"{path.stem}\n" for path in voc_photographs()))


@pytest.fixture(scope="module")
def real(finished: Project, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """The throw-away project with real photographs for A-847 and PAS-20, prepared and evaluated on these two."""
    project = finished.copy(tmp_path_factory.mktemp("real") / "project")
    data = project.root / "data" / "sample"
    for folder in (ADE.name, "VOCdevkit/VOC2012"):
        shutil.rmtree(data / folder)
    write_ade(data)
    write_voc(data)
    project.edit("params/scale/sample.yaml", "set:\n", "set:\n  data.benchmarks: [a-847, pas-20]\n")
    for path in (project.root / "params" / "tables").iterdir():
        path.unlink()
    rows = [{"label": {"method": "Dense CLIP"}, "method": "dense_clip"}, {"label": {"method": "FGAseg"}}]
    project.write("params/tables/table_1.yaml", yaml.safe_dump({"title": "Two", "caption": "Real.", "rows": rows}))
    for dataset in ("a-847", "pas-20"):
        project.remove(project.dataset(dataset))
        project.succeed("prepare", dataset)
    result = project.run("evaluate", project.ids("table_1", 2)[1])
    assert result.status == 0, result.err
    return project


@pytest.fixture(scope="module")
def evaluation(real: Project) -> dict[str, Any]:
    return json.loads((real.results / "evaluations" / real.ids("table_1", 2)[1] / "evaluation.json").read_text())


def prepared(real: Project, benchmark: str, stem: str) -> np.ndarray:
    return np.asarray(Image.open(real.root / real.dataset(benchmark) / "labels" / f"{stem}.png"))


def test_prepared_labels_have_the_photographs_size_or_a_short_side_of_512(real: Project) -> None:
    for path in voc_photographs():
        assert prepared(real, "pas-20", path.stem).shape == Image.open(path).size[::-1]
    for path in ade_photographs():
        height, width = prepared(real, "a-847", path.stem).shape
        assert min(height, width) == 512
        original = Image.open(path)
        assert width / height == pytest.approx(original.width / original.height, abs=0.003)


def test_the_evaluation_counts_the_labelled_pixels_of_each_class(real: Project, evaluation: dict[str, Any]) -> None:
    for benchmark, photographs in (("a-847", ade_photographs()), ("pas-20", voc_photographs())):
        result = evaluation["benchmarks"][benchmark]
        assert result["images"] == len(photographs)
        labels = np.concatenate([prepared(real, benchmark, path.stem).ravel() for path in photographs])
        pixels = np.bincount(labels[labels < len(result["classes"])], minlength=len(result["classes"]))
        assert [c["pixels"] for c in result["classes"]] == pixels.tolist()
        assert 0 <= result["miou"] <= 1
        assert 0 <= result["pixel_accuracy"] <= 1
        assert [c["iou"] is not None for c in result["classes"]] == (pixels > 0).tolist()


def test_the_evaluation_names_what_people_see_in_the_photographs(evaluation: dict[str, Any]) -> None:
    shown = {b: {c["name"] for c in r["classes"] if c["pixels"]} for b, r in evaluation["benchmarks"].items()}
    assert shown["pas-20"] == {"bottle", "person", "chair", "sofa", "bus", "car"}
    assert {"building", "tree", "sky", "person"} <= shown["a-847"]


def test_kept_label_maps_have_the_size_of_the_prepared_photographs(real: Project) -> None:
    folder = real.results / "evaluations" / real.ids("table_1", 2)[1]
    panels = json.loads((folder / "panels.json").read_text())["segmentations"]
    assert len(panels) == len(ade_photographs()) + len(voc_photographs())
    for panel in panels:
        size = Image.open(folder / panel["image"]).size
        assert Image.open(folder / panel["prediction"]).size == Image.open(folder / panel["label"]).size == size


@each_photograph
def test_predict_labels_every_pixel_of_a_photograph(photo: Path, real: Project) -> None:
    out = real.root / "out" / f"{photo.stem}.png"
    real.succeed("predict", photo, "--classes", CLASSES, "--out", out)
    width, height = Image.open(photo).size
    labels = np.asarray(Image.open(out.with_suffix(".labels.png")))
    assert labels.shape == (height, width)
    areas = json.loads(out.with_suffix(".json").read_text())["classes"]
    assert [area["pixels"] for area in areas] == np.bincount(labels.ravel(), minlength=len(areas)).tolist()
    overlay = Image.open(out)
    assert overlay.width >= width
    assert overlay.height > height
