"""Trainings are tracked while they go on: many at once, and whatever happens to the server, the follower or the training."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from mlflow.entities import Run
from project import Project, assert_says
from stand_in_trainer import begin, write
from tracking_server import free_address, serving

from fgaseg.params import load_launch
from fgaseg.plan import Plan
from fgaseg.tracking import deliver, following
from fgaseg.tracking.live import PATIENCE_SECONDS
from fgaseg.training.metrics import read_metrics

pytestmark = pytest.mark.slow  # servers start

_REAL = Path(__file__).parents[1]
_TRAINER = Path(__file__).with_name("stand_in_trainer.py")

_BUSY = {"MLFLOW_HTTP_REQUEST_TIMEOUT": "100"}
"""Seconds for an answer of a server that shares two cores with all else that is tested at the moment."""

Points = dict[str, list[tuple[int, float]]]


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Where a tracking server is."""
    address = free_address()
    with serving(address, tmp_path_factory.mktemp("server")):
        yield address


@pytest.fixture
def client(address: str) -> MlflowClient:
    return MlflowClient(address)


@pytest.fixture(scope="module")
def runs() -> Iterator[str]:
    """Ids of runs: each test takes its own, since all meet in one server."""
    return iter(Plan(_REAL, "sample").runs)


def project_at(address: str, root: Path) -> Project:
    """A project with parameters alone, whose tracking server is at an address."""
    shutil.copytree(_REAL / "params", root / "params")
    shutil.copy(_REAL / "data.dvc", root)
    project = Project(root)
    project.edit("params/launch.yaml", "tracking_uri: null", f"tracking_uri: {address}")
    return project


@pytest.fixture
def project(address: str, tmp_path: Path) -> Project:
    return project_at(address, tmp_path / "project")


Train = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def train() -> Iterator[Train]:
    """Start a followed training in a project, as the leader of a group of processes; none outlives the test."""
    started: list[subprocess.Popen[str]] = []

    def start(project: Project, *arguments: str) -> "subprocess.Popen[str]":
        process = subprocess.Popen(
            [sys.executable, str(_TRAINER), *arguments], cwd=project.root, start_new_session=True,
            env=os.environ | _BUSY, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        started.append(process)
        return process

    yield start
    for process in started:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def eventually(true: Callable[[], Any], what: str, seconds: float = 60) -> Any:
    """The first result that is true."""
    until = time.monotonic() + seconds
    while True:
        result = true()
        if result:
            return result
        assert time.monotonic() < until, f"not within {seconds} s: {what}"
        time.sleep(0.02)


def finish(process: "subprocess.Popen[str]") -> tuple[dict[str, Any], str]:
    """What a training that ends by itself says, and its warnings."""
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    assert "Traceback" not in err
    return json.loads(out), err


def follower_of(process: "subprocess.Popen[str]") -> int:
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")

    def found() -> int | None:
        for child in children.read_text().split():
            if b"fgaseg.tracking.follower" in Path(f"/proc/{child}/cmdline").read_bytes():
                return int(child)
        return None

    return int(eventually(found, "the follower has started"))


@contextmanager
def heard(deaf: socket.socket) -> Iterator[None]:
    """Within the block a follower waits for an answer of a server that takes its connections and never says a word."""
    with deaf.accept()[0], deaf.accept()[0]:  # it asks whether anybody is there, and then MLflow asks for something
        yield


def alive(process: int) -> bool:
    """Whether a process runs; one that nobody has waited for does not."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def tracked(client: MlflowClient, run: str) -> list[Run]:
    """The MLflow runs of a training: more than one would be wrong."""
    experiment = client.get_experiment_by_name("fgaseg-sample")
    return list(client.search_runs([experiment.experiment_id], f"tags.`fgaseg.id` = '{run}'")) if experiment else []


def points(client: MlflowClient, run: str) -> Points:
    """All points of all curves in MLflow."""
    (found,) = tracked(client, run)
    return {
        key: sorted((p.step, p.value) for p in client.get_metric_history(found.info.run_id, key)) for key in found.data.metrics
    }


def written(project: Project, run: str) -> Points:
    """All points of a run's file, as MLflow keeps them: the greatest number is its infinity."""
    curves: Points = {}
    for line in read_metrics(project.results / "runs" / run / "metrics.jsonl"):
        for key, value in line.items():
            if key not in ("step", "time"):
                curves.setdefault(key, []).append((line["step"], min(value, sys.float_info.max)))
    return curves


def said(project: Project, run: str) -> list[str]:
    """The lines that the follower wrote."""
    file = project.results / "runs" / run / "tracking.log"
    return file.read_text().splitlines() if file.exists() else []


def complete(project: Project, *ids: str) -> None:
    """Let trainings come to their ends, once each has made all of its iterations: one that ends before is not finished."""
    iterations = Plan(project.root, "sample").default.training.iterations
    for run in ids:
        eventually(lambda run=run: written(project, run)["loss"][-1][0] >= iterations, "all iterations are made")
    stop(project)


def stop(project: Project) -> None:
    """Let the trainings end."""
    project.write("stop", "")


def test_eight_trainings_at_once_stand_in_one_experiment_as_they_go_on(
    project: Project, client: MlflowClient, runs: Iterator[str], train: Train
) -> None:
    ids = [next(runs) for _ in range(8)]
    trainings = [train(project, run, "--pause", "0.1") for run in ids]
    for run in ids:
        eventually(lambda run=run: tracked(client, run) and "validation_miou" in points(client, run), "points arrive")
        assert [found.info.status for found in tracked(client, run)] == ["RUNNING"]
    complete(project, *ids)
    assert [finish(training)[1] for training in trainings] == [""] * 8
    for run in ids:
        assert points(client, run) == written(project, run)
        assert [found.info.status for found in tracked(client, run)] == ["FINISHED"]
        assert said(project, run) == []
    assert {experiment.name for experiment in client.search_experiments()} == {"Default", "fgaseg-sample"}


def test_a_server_that_is_away_at_first_gets_what_it_missed_and_costs_one_warning_each_time(
    tmp_path: Path, runs: Iterator[str], train: Train
) -> None:
    address, run = free_address(), next(runs)
    project = project_at(address, tmp_path / "project")
    training = train(project, run, "--pause", "0.2")
    eventually(lambda: said(project, run), "the follower finds no server")
    with serving(address, tmp_path):
        eventually(lambda: len(said(project, run)) == 2, "the follower finds the server")
        assert len(points(MlflowClient(address), run)["loss"]) > 10
        assert training.poll() is None
    eventually(lambda: len(said(project, run)) == 3, "the follower loses the server")
    stop(project)
    _, err = finish(training)
    assert err.count("\n") == 1
    assert_says(err, f"tracking server {address} is away", "delivered later")
    first, back, _ = said(project, run)
    assert_says(first, "WARNING", f"tracking server {address} is away", "delivered later")
    assert_says(back, "WARNING", f"tracking at {address} works again")


def test_a_server_that_never_answers_holds_a_training_for_seconds_only(
    tmp_path: Path, runs: Iterator[str], train: Train
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        address, run = f"http://127.0.0.1:{deaf.getsockname()[1]}", next(runs)
        project = project_at(address, tmp_path / "project")
        training = train(project, run)
        follower = follower_of(training)
        with heard(deaf):
            stop(project)
            end, err = finish(training)
    assert end["seconds"] < PATIENCE_SECONDS + 1
    assert err.count("\n") == 1
    assert_says(err, address, "has not taken all within 5 s", "delivered later")
    assert not alive(follower)


def test_what_a_follower_that_was_killed_in_the_middle_left_undone_is_delivered_without_double_points(
    project: Project, client: MlflowClient, runs: Iterator[str], train: Train
) -> None:
    run = next(runs)
    metrics = begin(Plan(project.root, "sample"), run)
    for step in range(1, 3001):
        write(metrics, step)
    training = train(project, run, "--begin", "3000")
    follower = follower_of(training)
    eventually(lambda: tracked(client, run) and "loss" in points(client, run), "the first of many batches arrives")
    os.kill(follower, signal.SIGKILL)
    stop(project)
    end, err = finish(training)
    assert end["seconds"] < 1
    assert_says(err, "status -9", "delivered later")
    assert 0 < len(points(client, run)["loss"]) < 3000
    for _ in range(2):
        result = project.run("track")
        assert result.status == 0, result.err
        assert points(client, run) == written(project, run)


def test_a_follower_ends_with_a_trainer_that_is_killed_whatever_it_is_doing(
    tmp_path: Path, runs: Iterator[str], train: Train
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        project = project_at(f"http://127.0.0.1:{deaf.getsockname()[1]}", tmp_path / "project")
        training = train(project, next(runs), "--loader")
        follower = follower_of(training)
        with heard(deaf):
            assert alive(follower)
            training.kill()
            eventually(lambda: not alive(follower), "the follower has ended", seconds=4)


def test_a_training_that_was_interrupted_goes_on_in_the_same_mlflow_run(
    project: Project, client: MlflowClient, runs: Iterator[str], train: Train
) -> None:
    run = next(runs)
    training = train(project, run)
    follower = follower_of(training)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR2):  # as when its whole group is signalled
        os.kill(follower, number)
    eventually(lambda: tracked(client, run), "the run is there")
    os.killpg(training.pid, signal.SIGUSR2)
    end, err = finish(training)
    assert (err, points(client, run)) == ("", written(project, run))
    (before,) = tracked(client, run)
    assert before.info.status == "RUNNING"

    client.set_terminated(before.info.run_id, "KILLED")
    training = train(project, run, "--begin", str(end["step"] - 5))
    eventually(lambda: tracked(client, run)[0].info.status == "RUNNING", "the run goes on")
    assert project.run("track").status == 0  # a second delivery of what the follower delivers
    complete(project, run)
    assert finish(training)[1] == ""
    assert points(client, run) == written(project, run)
    assert [(found.info.run_id, found.info.status) for found in tracked(client, run)] == [(before.info.run_id, "FINISHED")]


@pytest.fixture
def mine(project: Project, address: str, monkeypatch: pytest.MonkeyPatch) -> Plan:
    """The project's plan, for deliveries from this process."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", address)  # to be put back: a delivery sets it
    return Plan(project.root, "sample")


def test_a_training_whose_checkpoint_is_older_than_its_first_line_is_still_the_same(
    mine: Plan, client: MlflowClient, runs: Iterator[str]
) -> None:
    run, launch = next(runs), load_launch(mine.root)
    write(begin(mine, run), 10)
    assert deliver(mine, launch, run)
    (before,) = tracked(client, run)
    metrics = begin(mine, run, 8)
    assert deliver(mine, launch, run)
    write(metrics, 10)
    write(metrics, 11)
    assert deliver(mine, launch, run)
    assert [found.info.run_id for found in tracked(client, run)] == [before.info.run_id]
    assert [step for step, _ in points(client, run)["loss"]] == [10, 11]


def test_an_older_training_of_another_checkout_leaves_the_newer_one_alone(
    mine: Plan, client: MlflowClient, runs: Iterator[str], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run, other, launch = next(runs), next(runs), load_launch(mine.root)
    write(begin(mine, run), 1)
    assert deliver(mine, launch, run)
    before = tracked(client, run)[0].info.run_id
    shutil.copytree(mine.root, tmp_path / "other")
    theirs = Plan(tmp_path / "other", "sample")
    begin(theirs, run, at=1000.0)
    write(begin(theirs, other), 1)
    assert not deliver(theirs, launch)
    assert_says(caplog.text, f"run {run}: MLflow holds a training of it that was begun later", "delete that MLflow run")
    assert [found.info.run_id for found in tracked(client, run)] == [before]
    assert tracked(client, other)


def test_without_a_server_nothing_follows_a_training(mine: Plan, runs: Iterator[str], monkeypatch: pytest.MonkeyPatch) -> None:
    run = next(runs)
    begin(mine, run)
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    with following(mine, load_launch(_REAL).model_copy(update={"tracking_uri": None}), run):
        pass
    assert not (mine.paths.run(run) / "tracking.log").exists()


def test_a_follower_that_cannot_start_costs_one_warning(
    mine: Plan, runs: Iterator[str], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    run = next(runs)
    begin(mine, run)
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    with following(mine, load_launch(mine.root), run):
        pass
    assert len(caplog.records) == 1
    assert_says(caplog.text, "tracking cannot begin", "/nowhere/python", "delivered later")


def test_a_follower_loads_neither_torch_nor_mlflow_before_there_is_a_server() -> None:
    script = "import sys, fgaseg.tracking.follower; sys.exit(' '.join({'torch', 'mlflow'} & sys.modules.keys()) or 0)"
    subprocess.run([sys.executable, "-c", script], check=True)
