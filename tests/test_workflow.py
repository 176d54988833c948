"""The workflow as Snakemake sees it."""

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from fgaseg.plan import Plan
from fgaseg.schema import Scale

ROOT = Path(__file__).parents[1]


def snakemake(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "snakemake", *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """The workflow without data or results."""
    for name in ("Snakefile", "data.dvc", "environment.yml"):
        shutil.copy(ROOT / name, tmp_path)
    for name in ("workflow", "params", "profiles"):
        shutil.copytree(ROOT / name, tmp_path / name)
    return tmp_path


def jobs(output: str) -> dict[str, int]:
    """The table of job counts that Snakemake prints."""
    lines = output.split("Job stats:")[1].strip().splitlines()[2:]
    counts: dict[str, int] = {}
    for line in lines:
        words = line.split()
        if len(words) != 2:
            break
        counts[words[0]] = int(words[1])
    return counts


@pytest.mark.parametrize("scale", ["sample", "paper"])
def test_all_plans_the_whole_paper_without_any_data(project: Path, scale: Scale) -> None:
    planned = snakemake(project, "-n", "--config", f"scale={scale}", "--", "all")
    assert planned.returncode == 0, planned.stderr
    counts = jobs(planned.stdout + planned.stderr)
    plan = Plan(project, scale)
    expected = (len(plan.runs), len(plan.evaluations), 7, 2)
    assert (counts["train"], counts["evaluate"], counts["prepare"], counts["vlm"]) == expected
    assert counts["train"] >= 37


def test_main_is_the_default_target_and_needs_one_training(project: Path) -> None:
    planned = snakemake(project, "-n")
    counts = jobs(planned.stdout + planned.stderr)
    assert (counts["train"], counts["evaluate"], counts["main"]) == (1, 2, 1)


def test_a_mistake_in_a_row_stops_the_workflow_before_any_rule_with_one_line(project: Path) -> None:
    table = project / "params" / "tables" / "table_3b.yaml"
    table.write_text(table.read_text().replace("model.p2tformer.layers: 2", "model.p2tformer.layer: 2"))
    planned = snakemake(project, "-n", "--", "all")
    assert planned.returncode != 0
    message = "table_3b.yaml, row 2: unknown parameter 'model.p2tformer.layer'; did you mean 'model.p2tformer.layers'?"
    assert message in planned.stderr + planned.stdout
    assert "Traceback" not in planned.stderr


def test_the_runs_of_the_workflow_are_the_runs_of_the_plan(project: Path) -> None:
    listed = snakemake(project, "-n", "--quiet", "host", "reason", "--", "all")
    text = listed.stdout + listed.stderr
    for run in Plan(project, "sample").runs:
        assert f"training {run}" in text


@pytest.mark.parametrize(("scale", "stale"), [("sample", True), ("paper", False)])
def test_new_sample_data_make_only_the_sample_stale(project: Path, scale: Scale, stale: bool) -> None:
    plan = Plan(project, scale)
    datasets = ["coco-stuff-train", "coco-stuff-val", *plan.default.data.benchmarks]
    files = [plan.paths.dataset(name) / file for name in datasets for file in ("index.csv", "classes.json")]
    for path in [*files, *(plan.paths.vlm(backbone) for backbone in plan.backbones)]:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    os.utime(project / "data.dvc", (time.time() + 60, time.time() + 60))
    planned = snakemake(project, "-n", "--config", f"scale={scale}", "--", "main")
    assert ("prepare" in jobs(planned.stdout + planned.stderr)) == stale
