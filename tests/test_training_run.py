"""A training as the user runs it: the same weights however often it is killed."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from cluster import wait_until
from project import DATASETS, Project, write_project

from fgaseg.training.metrics import VALIDATION, read_metrics
from fgaseg.training.starts import read_starts

STEPS = 8
COMMAND = str(Path(sys.executable).parent / "fgaseg")


@pytest.fixture(scope="module")
def untrained(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A prepared project whose run takes eight iterations, with a checkpoint after each."""
    project = write_project(tmp_path_factory.mktemp("training"))
    scale = project.root / "params" / "scale" / "sample.yaml"
    scale.write_text(scale.read_text().replace("training.iterations: 3", f"training.iterations: {STEPS}"))
    for name in DATASETS[:2]:
        project.succeed("prepare", name)
    project.succeed("vlm", "base")
    return project


def train_and_kill(project: Project, run: str, after: int) -> None:
    """Start the training and end it with SIGKILL once iteration `after` is logged."""
    metrics = project.results / "runs" / run / "metrics.jsonl"
    process = subprocess.Popen(
        [COMMAND, "train", run], cwd=project.root, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    deadline = time.monotonic() + 240
    while process.poll() is None and time.monotonic() < deadline:
        lines = read_metrics(metrics)
        if lines and lines[-1]["step"] >= after:
            break
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert not (project.results / "runs" / run / "model.safetensors").exists()


@pytest.mark.slow
def test_a_training_killed_twice_ends_in_the_same_weights_bit_for_bit(untrained: Project, tmp_path: Path) -> None:
    run, _ = untrained.ids("table_1", 2)
    undisturbed, killed = untrained.copy(tmp_path / "undisturbed"), untrained.copy(tmp_path / "killed")
    undisturbed.succeed("train", run)
    for after in (2, 5):
        train_and_kill(killed, run, after)
    resumed = killed.succeed("train", run)
    assert "continuing from iteration" in resumed.err

    models = [p.results / "runs" / run / "model.safetensors" for p in (undisturbed, killed)]
    assert models[0].read_bytes() == models[1].read_bytes()
    curves = [read_metrics(p.results / "runs" / run / "metrics.jsonl") for p in (undisturbed, killed)]
    losses = [[(line["step"], line["loss"]) for line in lines if "loss" in line] for lines in curves]
    assert losses[0] == losses[1]
    assert [step for step, _ in losses[0]] == list(range(1, STEPS + 1))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR2])
def test_a_training_that_is_asked_to_end_saves_first_and_loses_nothing(
    untrained: Project, tmp_path: Path, number: signal.Signals
) -> None:
    project = untrained.copy(tmp_path / "asked")
    project.edit("params/launch.yaml", "sample: 0", "sample: 600")  # no checkpoint but that one
    run, _ = project.ids("table_1", 2)
    folder = project.results / "runs" / run
    command = ["env", "--default-signal=INT", COMMAND, "train", run]
    with subprocess.Popen(command, cwd=project.root, stderr=subprocess.DEVNULL) as process:
        wait_until(lambda: read_metrics(folder / "metrics.jsonl"), 240, "an iteration is logged")
        process.send_signal(number)
        assert process.wait(timeout=60) == 128 + number
    reached = read_metrics(folder / "metrics.jsonl")[-1]["step"]
    assert [path.name for path in (folder / "checkpoints").iterdir()] == [f"step_{reached:08d}.pt"]
    assert reached < STEPS
    assert f"continuing from iteration {reached} " in project.succeed("train", run).err
    assert [start.step for start in read_starts(folder)] == [0, reached]
    assert (folder / "model.safetensors").exists()


def test_a_validation_that_was_cut_short_is_made_up_for(untrained: Project, tmp_path: Path) -> None:
    """A checkpoint is saved before the validation of its iteration, and the next start begins with that one."""
    project = untrained.copy(tmp_path / "cut short")
    run, _ = project.ids("table_1", 2)
    train_and_kill(project, run, 4)
    folder = project.results / "runs" / run
    for path in (folder / "checkpoints").iterdir():
        if path.name > "step_00000003.pt":
            path.unlink()
    assert "continuing from iteration 3 " in project.succeed("train", run).err
    steps = [line["step"] for line in read_metrics(folder / "metrics.jsonl") if VALIDATION in line]
    assert steps == [3, 6, STEPS]


def test_a_training_continued_by_other_code_names_both_and_leaves_no_checkpoint(untrained: Project, tmp_path: Path) -> None:
    project = untrained.copy(tmp_path / "other code")
    run, _ = project.ids("table_1", 2)
    train_and_kill(project, run, 3)
    path = project.results / "runs" / run / "params.json"
    content = json.loads(path.read_text())
    present = content["provenance"]["code"]
    content["provenance"] |= {"code": "0123", "git_commit": "4567"}
    path.write_text(json.dumps(content))
    project.succeed("train", run)
    made = json.loads(path.read_text())["provenance"]
    assert made["code"] == f"0123, continued by {present}"
    assert made["git_commit"].startswith("4567, continued by ")
    assert not (path.parent / "checkpoints").exists()


def test_a_finished_run_is_left_as_it_is(untrained: Project, tmp_path: Path) -> None:
    project = untrained.copy(tmp_path / "finished")
    run, _ = project.ids("table_1", 2)
    project.succeed("train", run)
    folder = project.results / "runs" / run
    path = folder / "params.json"
    path.write_text(path.read_text().replace('"code": "', '"code": "other '))
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    again = project.succeed("train", run)
    assert again.out.strip().endswith("model.safetensors")
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


@pytest.mark.slow
def test_two_trainings_from_scratch_give_the_same_weights_and_another_seed_others(untrained: Project, tmp_path: Path) -> None:
    run, _ = untrained.ids("table_1", 2)
    models = []
    for name in ("first", "second"):
        project = untrained.copy(tmp_path / name)
        project.succeed("train", run)
        models.append((project.results / "runs" / run / "model.safetensors").read_bytes())
    assert models[0] == models[1]
    other = untrained.copy(tmp_path / "other")
    other.edit("params/base.yaml", "seed: 0", "seed: 1")
    other_run, _ = other.ids("table_1", 2)
    assert other_run != run
    other.succeed("train", other_run)
    assert (other.results / "runs" / other_run / "model.safetensors").read_bytes() != models[0]


def test_a_loss_that_is_not_finite_stops_the_run_with_iteration_term_and_images(untrained: Project, tmp_path: Path) -> None:
    project = untrained.copy(tmp_path / "diverged")
    project.edit("params/scale/sample.yaml", "training.lr: 3.0e-3", "training.lr: 1.0e+30")
    run, _ = project.ids("table_1", 2)
    message = project.one_line(project.quick("train", run))
    expected = r"iteration [2-8]: loss_(seg|t2p) is (nan|inf); images: (0000\d{8}\.jpg(, )?){8}; .*lower training.lr"
    assert re.match(expected, message)
    assert not (project.results / "runs" / run / "model.safetensors").exists()
