"""The study at the paper's scale, dry: the workflow's own commands, real architectures, sizes and class tables, few pictures.

Five benchmarks are scored with as many windows and classes as in a real run; CLIP's weights are random, two iterations train.
"""

import csv
import json
import math
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from paper_scale import name_weights, write_dry_project, write_weights
from PIL import Image
from project import DATASETS, Project

from fgaseg.data.prepared import PreparedDataset
from fgaseg.loading import untrained_model
from fgaseg.model.prompts import tokenise
from fgaseg.plan import Plan
from fgaseg.training.metrics import read_metrics

pytestmark = [pytest.mark.paper, pytest.mark.timeout(3600)]

CLASSES = {"a-847": 847, "pc-459": 459, "a-150": 150, "pc-59": 59, "pas-20": 20}


def snakemake(project: Project, *arguments: str) -> str:
    """The main job by the command that README names; what Snakemake said."""
    command = [sys.executable, "-m", "snakemake", *arguments, "--resources", "gpu=1", "--config", "scale=paper", "--", "main"]
    done = subprocess.run(command, cwd=project.root, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def dry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    """The dry project with its main job done; it is removed at the end, for it has gigabytes of weights."""
    project = write_dry_project(tmp_path_factory.mktemp("paper") / "dry")
    name_weights(project)
    write_weights(project, "base")
    project.edit("params/launch.yaml", "recompute: {sample: false, paper: false}", "recompute: {sample: false, paper: true}")
    snakemake(project, "--cores", "all")
    yield project
    shutil.rmtree(project.root)


@pytest.fixture(scope="module")
def plan(dry: Project) -> Plan:
    return Plan(dry.root, "paper")


@pytest.fixture(scope="module")
def evaluations(plan: Plan) -> dict[str, dict[str, Any]]:
    """What `evaluation.json` says of each of the main job's rows, by method."""
    folders = [plan.paths.evaluation(row.eval_id) for row in plan.main_rows]
    found = [json.loads((folder / "evaluation.json").read_text()) for folder in folders]
    return {evaluation["method"]: evaluation for evaluation in found}


def test_nothing_but_length_batch_and_weights_differs_from_the_real_parameters(plan: Plan, project_root: Path) -> None:
    real, ours = (p.default.model_dump(mode="json") for p in (Plan(project_root, "paper"), plan))
    for section, key in (("training", "iterations"), ("training", "validate_every"), ("training", "global_batch")):
        real[section].pop(key), ours[section].pop(key)
    assert (real["vlm"].pop("pretrained"), ours["vlm"].pop("pretrained")) == ("openai", "weights/base.pt")
    assert ours == real


def test_raw_layouts_become_images_and_labels_of_the_papers_classes_and_sizes(dry: Project, plan: Plan) -> None:
    for name in DATASETS:
        dataset = PreparedDataset(plan.paths.dataset(name))
        assert len(dataset.classes) == CLASSES.get(name, 171)
        with Image.open(dry.root / dataset.samples[0].label) as label:
            assert label.mode == ("I;16" if len(dataset.classes) > 255 else "L")
            assert min(label.size) == 512 if name == "a-847" else min(label.size) >= 333


def test_two_iterations_over_all_classes_are_trained_and_validated(plan: Plan) -> None:
    run = plan.default_row.run_id
    assert run is not None
    lines = read_metrics(plan.paths.run(run) / "metrics.jsonl")
    assert {line["step"] for line in lines} == {2}
    values = {key: value for line in lines for key, value in line.items()}
    assert all(math.isfinite(values[key]) for key in ("loss", "loss_t2p", "grad_norm", "validation_miou"))
    assert math.isclose(values["loss_seg"], math.log(171), rel_tol=0.5)  # it knows nothing yet
    assert (plan.paths.run(run) / "model.safetensors").stat().st_size > 10**8


@pytest.mark.parametrize("method", ["dense_clip", "fgaseg"])
def test_every_benchmark_is_scored_over_all_of_its_classes(evaluations: dict[str, dict[str, Any]], method: str) -> None:
    found = evaluations[method]["benchmarks"]
    assert {name: len(scores["classes"]) for name, scores in found.items()} == CLASSES
    for scores in found.values():
        assert scores["images"] == 1
        assert 0 <= scores["miou"] <= 1
    assert evaluations[method]["backbone"] == "ViT-B/16"


def test_predictions_and_pseudo_masks_of_every_benchmark_are_kept(plan: Plan) -> None:
    folder = plan.paths.evaluation(plan.default_row.eval_id)
    panels = json.loads((folder / "panels.json").read_text())
    assert {panel["benchmark"] for panel in panels["segmentations"]} == CLASSES.keys()
    assert {panel["benchmark"] for panel in panels["pseudo_masks"]} == CLASSES.keys()
    for panel in panels["segmentations"]:
        with Image.open(folder / panel["prediction"]) as prediction, Image.open(folder / panel["image"]) as image:
            assert prediction.size == image.size


def test_table_1_has_the_published_rows_and_both_measured_ones(plan: Plan) -> None:
    report = plan.paths.report / "main"
    with (report / "table_1.csv").open(newline="") as file:
        lines = [line for line in csv.DictReader(file) if line["source"] == "measured" and line["classes"] == "all"]
    assert [(line["method"], line["benchmark"]) for line in lines] == [
        (method, benchmark) for benchmark in (*CLASSES, "mean") for method in ("dense CLIP", "FGAseg")
    ]
    assert all(0 <= float(line["miou"]) <= 100 and line["low"] == line["high"] == "one image" for line in lines)
    published, measured = (report / "table_1.md").read_text().split("**Measured here, paper scale**")
    assert len(re.findall(r"^\| (?!Method|--|:-)", published, re.MULTILINE)) == 28
    assert len(re.findall(r"^\| .*ViT-B/16", measured.split("<details>")[0], re.MULTILINE)) == 3
    assert (report / "report.html").stat().st_size > 10**5


def test_a_part_of_the_photographs_is_called_so_wherever_a_person_looks(dry: Project, plan: Plan) -> None:
    for name in DATASETS:
        (log,) = (plan.paths.results / "logs" / "prepare").glob(f"{name}-*.log")
        assert re.search(rf"WARNING: \d photographs with labels, where {name} has \d+: \d+ are missing", log.read_text())
    verified = dry.quick("data", "verify", "--scale", "paper")
    assert verified.status == 1
    findings = [line for line in verified.out.splitlines() if line.startswith("  found")]
    assert len(findings) == len(DATASETS)
    assert all("are missing" in line for line in findings)
    for file in ("table_1.md", "table_1.txt", "report.html"):
        text = (plan.paths.report / "main" / file).read_text()
        assert "Scored on another number of photographs than the benchmarks are published with" in text


def test_a_second_call_has_nothing_to_do(dry: Project) -> None:
    assert "Nothing to be done" in snakemake(dry, "-n")


def test_the_large_backbone_is_provided_built_and_run(dry: Project, plan: Plan) -> None:
    write_weights(dry, "large")
    dry.succeed("vlm", "large", "--scale", "paper")
    params = plan.backbones["large"]
    model = untrained_model(plan.paths, params).eval()
    names = [entry.name for entry in PreparedDataset(plan.paths.dataset("pas-20")).classes]
    side = params.evaluation.window
    with torch.no_grad():
        text = model.clip.encode_text(tokenise(names, params.vlm.prompts, params.vlm.architecture))
        logits = model(torch.randn(1, 3, side, side), text).logits
    assert logits.shape == (1, len(names), side // 4, side // 4)
    assert logits.isfinite().all()
