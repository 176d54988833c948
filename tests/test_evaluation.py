"""`fgaseg evaluate`: its numbers are those of a second computation, by plain loops, from the label maps it kept."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from project import PICTURES, Project

from fgaseg.data.classes import class_table
from fgaseg.data.vocabulary import coco_matches
from fgaseg.evaluation.sliding import merge, window_origins
from fgaseg.plan import Plan
from fgaseg.schema import Params

BENCHMARKS = ("a-847", "pc-459", "a-150", "pc-59", "pas-20")
ROWS = {"dense_clip": 1, "fgaseg": 2}

Pairs = list[Counter[tuple[int, int]]]
"""For each image, how many pixels have a predicted and a true class; pixels without a true class are left out."""


@pytest.fixture(scope="module", params=ROWS)
def folder(request: pytest.FixtureRequest, finished: Project) -> Path:
    return finished.results / "evaluations" / finished.ids("table_1", ROWS[request.param])[1]


@pytest.fixture(scope="module")
def evaluation(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "evaluation.json").read_text())


def read(path: Path) -> list[int]:
    return [int(value) for value in np.asarray(Image.open(path)).ravel()]


def pairs(folder: Path, benchmark: str) -> Pairs:
    """Count the kept label maps against the prepared labels, pixel by pixel."""
    (labels,) = folder.parents[1].glob(f"data/*/{benchmark}/labels")
    found = []
    for predicted in sorted((folder / "panels" / benchmark).iterdir()):
        truth = read(labels / predicted.name)
        void = 255 if len(class_table(benchmark)) <= 255 else 65535
        counted = zip(read(predicted), truth, strict=True)
        found.append(Counter(pair for pair in counted if pair[1] != void))
    return found


def ious(images: Pairs) -> dict[int, float]:
    """IoU of every class that the labels show, from sets of pixels: intersection over union."""
    total = sum(images, Counter())
    result = {}
    for c in sorted({truth for _, truth in total}):
        both = total[c, c]
        either = sum(count for pair, count in total.items() if c in pair)
        result[c] = both / either
    return result


@pytest.mark.parametrize("benchmark", BENCHMARKS)
def test_metrics_are_those_of_the_kept_label_maps(benchmark: str, folder: Path, evaluation: dict[str, Any]) -> None:
    images = pairs(folder, benchmark)
    expected = ious(images)
    found = evaluation["benchmarks"][benchmark]
    assert found["images"] == len(images) == PICTURES
    assert len(found["classes"]) == len(class_table(benchmark))
    assert {i: c["iou"] for i, c in enumerate(found["classes"]) if c["iou"] is not None} == pytest.approx(expected, abs=1e-12)
    assert found["miou"] == pytest.approx(sum(expected.values()) / len(expected), abs=1e-12)
    total = sum(images, Counter())
    hits = sum(count for (predicted, truth), count in total.items() if predicted == truth)
    assert found["pixel_accuracy"] == pytest.approx(hits / total.total(), abs=1e-12)
    labelled = Counter(truth for pair, count in total.items() for truth in [pair[1]] * count)
    assert [c["pixels"] for c in found["classes"]] == [labelled[i] for i in range(len(found["classes"]))]


@pytest.mark.parametrize("benchmark", BENCHMARKS)
def test_counts_of_each_image_give_the_same_metrics(benchmark: str, folder: Path, evaluation: dict[str, Any]) -> None:
    arrays = np.load(folder / "counts.npz")
    columns = (arrays[f"{benchmark}/{key}"].tolist() for key in ("image", "class", "intersection", "predicted", "labelled"))
    entries = list(zip(*columns, strict=True))
    expected = {
        (i, c): (
            image[c, c],
            sum(count for pair, count in image.items() if pair[0] == c),
            sum(count for pair, count in image.items() if pair[1] == c),
        )
        for i, image in enumerate(pairs(folder, benchmark))
        for c in {c for pair in image for c in pair}
    }
    assert {(i, c): rest for i, c, *rest in entries} == {key: list(values) for key, values in expected.items()}
    assert len(entries) == len(expected)
    values = []
    for c in {c for _, c, *_ in entries}:
        hit, predicted, labelled = (sum(entry[k] for entry in entries if entry[1] == c) for k in (2, 3, 4))
        if labelled:
            values.append(hit / (predicted + labelled - hit))
    assert sum(values) / len(values) == pytest.approx(evaluation["benchmarks"][benchmark]["miou"], abs=1e-12)


@pytest.mark.parametrize("benchmark", BENCHMARKS)
def test_groups_are_the_means_of_their_classes(
    benchmark: str, folder: Path, evaluation: dict[str, Any], finished: Project
) -> None:
    training = json.loads((finished.root / finished.dataset("coco-stuff-train") / "classes.json").read_text())
    trained_on = {c["name"] for c in training if c["present"]}
    stuff_ids = {c["name"]: c["raw_id"] >= 91 for c in training}
    classes, table = evaluation["benchmarks"][benchmark]["classes"], class_table(benchmark)
    assert [c["name"] for c in classes] == [entry.name for entry in table]
    members: dict[str, list[float]] = {"seen": [], "unseen": [], "stuff": [], "thing": []}
    for entry, iou in zip(table, (c["iou"] for c in classes), strict=True):
        if iou is not None:
            matches = coco_matches(entry)
            members["seen" if trained_on & set(matches) else "unseen"].append(iou)
            kinds = {stuff_ids[match] for match in matches}
            if len(kinds) == 1:
                members["stuff" if kinds == {True} else "thing"].append(iou)
    for name, values in members.items():
        group = evaluation["benchmarks"][benchmark]["groups"][name]
        assert group["classes"] == len(values), name
        assert group["miou"] == (pytest.approx(sum(values) / len(values), abs=1e-12) if values else None)
    assert members["seen"]
    assert members["thing"]
    assert bool(members["stuff"]) == (benchmark != "pas-20")


def test_some_classes_are_unseen(evaluation: dict[str, Any]) -> None:
    assert any(result["groups"]["unseen"]["classes"] for result in evaluation["benchmarks"].values())


def test_an_evaluation_says_what_was_evaluated(folder: Path, evaluation: dict[str, Any], finished: Project) -> None:
    assert evaluation["eval_id"] == folder.name
    assert list(evaluation["benchmarks"]) == list(BENCHMARKS)
    run = finished.ids("table_1", 2)[0]
    assert (evaluation["method"], evaluation["run_id"]) in (("dense_clip", None), ("fgaseg", run))
    assert evaluation["provenance"]["data_digest"] == Plan(finished.root, "sample").digest
    for result in evaluation["benchmarks"].values():
        assert result["seconds_per_image"]["median"] > 0


def test_kept_label_maps_have_the_size_of_their_photographs(folder: Path, finished: Project) -> None:
    panels = json.loads((folder / "panels.json").read_text())["segmentations"]
    assert Counter(panel["benchmark"] for panel in panels) == dict.fromkeys(BENCHMARKS, PICTURES)
    for panel in panels:
        sizes = {Image.open(folder / panel[key]).size for key in ("image", "label", "prediction")}
        assert len(sizes) == 1, panel


def contents(project: Project, evaluation: str) -> dict[str, Any]:
    """Every file of an evaluation, without timings and the project's own place."""
    folder = project.results / "evaluations" / evaluation
    found: dict[str, Any] = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.suffix == ".json":
            found[name] = json.loads(path.read_text().replace(str(project.root), "ROOT"))
        elif path.is_file():
            found[name] = path.read_bytes()
    for result in found["evaluation.json"]["benchmarks"].values():
        del result["seconds_per_image"]
    return found


def test_evaluating_again_gives_the_same_files(project: Project, finished: Project) -> None:
    evaluation = project.ids("table_1", 2)[1]
    project.succeed("evaluate", evaluation)
    assert contents(project, evaluation) == contents(finished, evaluation)


def test_predict_gives_an_image_of_a_benchmark_the_same_labels(project: Project) -> None:
    names = [entry.name for entry in class_table("pas-20")]
    panels = project.results / "evaluations" / project.ids("table_1", 2)[1] / "panels" / "pas-20"
    for panel in panels.iterdir():
        photo = f"data/sample/VOCdevkit/VOC2012/JPEGImages/{panel.stem}.jpg"
        project.succeed("predict", photo, "--classes", ",".join(names), "--out", "overlay.png")
        assert read(project.root / "overlay.labels.png") == read(panel)


@pytest.mark.parametrize("scale", ["sample", "paper"])
def test_windows_cover_every_pixel_to_the_last(scale: str, project_root: Path) -> None:
    params = Plan(project_root, scale).default.evaluation  # type: ignore[arg-type]
    covered = {
        (row, column)
        for top, left in window_origins(params)
        for row in (top, top + params.window - 1)
        for column in (left, left + params.window - 1)
    }
    assert {(0, 0), (params.resize - 1, params.resize - 1)} <= covered
    for axis in (0, 1):
        starts = sorted({origin[axis] for origin in window_origins(params)})
        reached = 0
        for start in starts:
            assert start <= reached
            reached = start + params.window
        assert reached == params.resize
    assert len(window_origins(params)) == len(starts) ** 2


def test_merged_windows_leave_no_cell_empty(sample_params: Params) -> None:
    params = sample_params.evaluation
    length = 32
    views = len(window_origins(params)) + params.whole_image
    merged = merge(torch.ones(views, 2, length, length), params)
    assert merged.shape == (2, 54, 54)
    torch.testing.assert_close(merged, torch.ones(2, 54, 54))
