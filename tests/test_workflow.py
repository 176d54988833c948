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
    for name in ("workflow", "params", "profiles", "slurm"):
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
    found = (counts["train"], counts["evaluate"], counts["prepare"], counts["vlm"], counts["timing"])
    assert found == (37, len(plan.evaluations_of("all")), 7, 2, 1)


def test_the_slurm_profile_plans_the_same_jobs(project: Path) -> None:
    here, there = (snakemake(project, "-n", *profile, "--", "all") for profile in ([], ["--profile", "slurm"]))
    assert there.returncode == 0, there.stderr
    assert jobs(there.stdout + there.stderr) == jobs(here.stdout + here.stderr)


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
    for row in Plan(project, "sample").evaluations_of("all").values():
        assert row.run_id is None or f"training {row.run_id}" in text


def touch_inputs(plan: Plan) -> None:
    """What trainings read, as far as Snakemake looks at it: files that are there, and their age."""
    datasets = ["coco-stuff-train", "coco-stuff-val", *plan.default.data.benchmarks]
    files = [plan.paths.dataset(name) / file for name in datasets for file in ("index.csv", "classes.json")]
    touch([*files, *(plan.paths.vlm(backbone) for backbone in plan.backbones)])


def touch(paths: list[Path]) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def finish(project: Path) -> None:
    """What is there after `all`, as far as Snakemake looks at it."""
    plan = Plan(project, "sample")
    touch_inputs(plan)
    touch([plan.paths.run(run) / "model.safetensors" for run in plan.runs])
    kept = ("evaluation.json", "counts.npz", "panels.json")
    touch([plan.paths.evaluation(i) / file for i in plan.evaluations for file in kept])
    touch([plan.paths.timing("table_6")])
    touch([plan.paths.report / "all" / file for file in ("report.html", "metrics.json")])
    touch([plan.paths.results / "tracked" / "all"])


@pytest.fixture
def finished(project: Path) -> Path:
    """The project after `all`."""
    finish(project)
    return project


def change(project: Path, file: str, old: str, new: str) -> None:
    path = project / "params" / file
    assert path.read_text().count(old) == 1
    path.write_text(path.read_text().replace(old, new))


def test_after_all_nothing_is_left_to_do(finished: Path) -> None:
    planned = snakemake(finished, "-n", "--", "all")
    assert "Nothing to be done" in planned.stdout + planned.stderr


def test_a_new_row_trains_and_evaluates_that_row_alone(finished: Path) -> None:
    row = "  - label: {weight: '0.1'}\n    set: {model.t2p.weight: 0.1}\n"
    table = finished / "params" / "tables" / "table_3d.yaml"
    table.write_text(table.read_text() + row)
    planned = snakemake(finished, "-n", "--", "all")
    counts = jobs(planned.stdout + planned.stderr)
    assert (counts.pop("train"), counts.pop("evaluate")) == (1, 1)
    assert counts.keys() == {"report", "track", "all", "total"}


def test_another_top_n_trains_nothing(finished: Path) -> None:
    change(finished, "tables/table_6.yaml", "evaluation.top_n: 8", "evaluation.top_n: 7")
    planned = snakemake(finished, "-n", "--", "all")
    counts = jobs(planned.stdout + planned.stderr)
    assert "train" not in counts
    assert counts["evaluate"] == 1


def test_a_parameter_of_all_rows_trains_them_all(finished: Path) -> None:
    change(finished, "scale/sample.yaml", "training.lr: 3.0e-3", "training.lr: 1.0e-3")
    planned = snakemake(finished, "-n", "--", "all")
    assert jobs(planned.stdout + planned.stderr)["train"] == 37


@pytest.mark.parametrize(("scale", "stale"), [("sample", True), ("paper", False)])
def test_new_sample_data_make_only_the_sample_stale(project: Path, scale: Scale, stale: bool) -> None:
    touch_inputs(Plan(project, scale))
    os.utime(project / "data.dvc", (time.time() + 60, time.time() + 60))
    planned = snakemake(project, "-n", "--config", f"scale={scale}", "--", "main")
    assert ("prepare" in jobs(planned.stdout + planned.stderr)) == stale


def test_another_file_of_weights_in_the_place_of_the_former_trains_anew(project: Path) -> None:
    weights = project / "weights" / "mini.safetensors"
    touch([weights])
    scale = project / "params" / "scale" / "sample.yaml"
    scale.write_text(scale.read_text().replace("data/sample/vlm/fgaseg-mini.safetensors", "weights/mini.safetensors"))
    finish(project)
    planned = snakemake(project, "-n", "--", "all")
    assert "Nothing to be done" in planned.stdout + planned.stderr
    os.utime(weights, (time.time() + 60, time.time() + 60))
    planned = snakemake(project, "-n", "--", "all")
    counts = jobs(planned.stdout + planned.stderr)
    assert (counts["vlm"], counts["train"]) == (2, 37)


def test_make_clean_removes_the_sample_scales_results_alone(tmp_path: Path) -> None:
    shutil.copy(ROOT / "Makefile", tmp_path)
    for scale in ("sample", "paper"):
        (tmp_path / "results" / scale / "runs").mkdir(parents=True)
    subprocess.run(["make", "clean"], cwd=tmp_path, check=True)
    assert [folder.name for folder in (tmp_path / "results").iterdir()] == ["paper"]
