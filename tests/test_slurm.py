"""Trainings on a real SLURM, as `fgaseg train --on slurm` and `snakemake --profile slurm` launch them.

`tests/slurm/cluster.sh start` brings one up on this machine, with two nodes of eight pretend GPUs each.
"""

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
from cluster import needs_slurm, queue, sacct, wait_until
from faults import Training, disturb, prepared, rank_process
from project import DATASETS, Project, assert_says, write_project

from fgaseg.launch.record import read_record
from fgaseg.plan import Plan
from fgaseg.training.metrics import read_metrics
from fgaseg.training.starts import read_starts

pytestmark = [pytest.mark.slurm, needs_slurm]

FGASEG = str(Path(sys.executable).parent / "fgaseg")
LAUNCH = "params/launch.yaml"
PATH = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"


@pytest.fixture(scope="module")
def untrained(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A small project of three iterations, ready for its training. To be copied, not changed."""
    project = write_project(tmp_path_factory.mktemp("cluster"))
    for name in DATASETS[:2]:
        project.run("prepare", name)
    project.run("vlm", "base")
    return project


@pytest.fixture
def project(untrained: Project, tmp_path: Path) -> Iterator[Project]:
    """A copy of the project, to be changed; no job of it is left afterwards."""
    yield untrained.copy(tmp_path / "project")
    wait_until(lambda: not queue(), 90, "the queue is empty after the test")


def launch(project: Project, run: str) -> "subprocess.CompletedProcess[str]":
    command = [FGASEG, "train", run, "--on", "slurm"]
    return subprocess.run(command, cwd=project.root, capture_output=True, text=True, check=False, timeout=500)


def refusal(project: Project, run: str) -> str:
    """The last line on standard error of a launch that fails: one for a person, without a stack trace."""
    done = launch(project, run)
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    return done.stderr.splitlines()[-1]


def default_run(project: Project) -> str:
    return project.ids("table_1", 2)[0]


def losses(project: Project, run: str) -> list[float]:
    return [line["loss"] for line in read_metrics(project.results / "runs" / run / "metrics.jsonl") if "loss" in line]


def test_layouts_share_the_batch_and_learn_the_same(untrained: Project, tmp_path: Path) -> None:
    """Eight processes on one node, two nodes of four, and a single one, as accounting knows them."""
    curves = []
    for partition, nodes, gpus in (("gpu", 1, 8), ("pair", 2, 4), ("gpu", 1, 1)):
        project = untrained.copy(tmp_path / f"{nodes}x{gpus}")
        project.edit(LAUNCH, "partition: null", f"partition: {partition}")
        project.edit(LAUNCH, "  nodes: 1 ", f"  nodes: {nodes} ")
        project.edit(LAUNCH, "gpus_per_node: 8", f"gpus_per_node: {gpus}")
        run = default_run(project)
        done = launch(project, run)
        assert done.returncode == 0, done.stderr
        record = read_record(project.results / "runs" / run)
        assert record is not None
        wait_until(partial(rows_of, record.job), 60, "the job has ended, and accounting knows of its step")
        job, step = rows_of(record.job) or ({}, {})
        assert (job["State"], job["NNodes"], step["NTasks"]) == ("COMPLETED", str(nodes), str(nodes * gpus))
        assert f"gres/gpu={nodes * gpus}" in job["AllocTRES"].split(",")
        assert [start.world for start in read_starts(project.results / "runs" / run)] == [nodes * gpus]
        curves.append(losses(project, run))
    for other in curves[1:]:
        assert other == pytest.approx(curves[0], rel=5e-3)
        assert other[0] == pytest.approx(curves[0][0], rel=1e-6)


def rows_of(job: str) -> tuple[dict[str, str], dict[str, str]] | None:
    """A job and the step of its training."""
    rows = sacct(job, "JobID", "State", "NNodes", "NTasks", "AllocTRES")
    steps = [row for row in rows if row["JobID"].endswith(".0")]
    return (rows[0], steps[0]) if steps and rows[0]["State"] == "COMPLETED" else None


def test_ordinary_jobs_and_trainings_go_to_the_cluster_and_end_in_table_1(untrained: Project, tmp_path: Path) -> None:
    """`snakemake --profile slurm main`, from raw data; a second call finds nothing to do."""
    project = untrained.copy(tmp_path / "main")
    shutil.rmtree(project.root / "results")
    began = time.strftime("%Y-%m-%dT%H:%M:%S")
    command = [sys.executable, "-m", "snakemake", "--profile", "slurm", "main"]
    done = subprocess.run(
        command, cwd=project.root, env=os.environ | {"PATH": PATH}, capture_output=True, text=True, check=False, timeout=550
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "FGAseg" in (project.results / "report" / "main" / "table_1.txt").read_text()
    listed = subprocess.run(
        ["sacct", "-X", "-n", "-P", "-S", began, "-o", "Submit,JobName,ReqTRES"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.splitlines()
    # sacct also lists what was submitted earlier and had not left the cluster by then.
    jobs = [job for submitted, _, job in (line.partition("|") for line in listed) if submitted >= began]
    trainings = [line for line in jobs if line.startswith("fgaseg-")]
    assert len(trainings) == 1
    assert "gres/gpu=8" in trainings[0]
    ordinary = [line for line in jobs if not line.startswith("fgaseg-")]
    assert len(ordinary) == 11  # seven datasets, two evaluations, the report, tracking
    assert not any("gres/gpu" in line for line in ordinary)
    again = subprocess.run(
        command, cwd=project.root, env=os.environ | {"PATH": PATH}, capture_output=True, text=True, check=False, timeout=120
    )
    assert "Nothing to be done" in again.stdout + again.stderr


@pytest.mark.slow  # every restart costs the start of eight processes
@pytest.mark.timeout(1800)
def test_a_disturbed_training_ends_in_the_same_weights_bit_for_bit(tmp_path: Path) -> None:
    disturbed = prepared(tmp_path / "disturbed", iterations=60)
    undisturbed = disturbed.copy(tmp_path / "undisturbed")
    faults = [
        "death of the submitting host",
        "damaged checkpoint and kill -9 of a rank",
        "scancel",
        "USR2",
        "Ctrl-C",
        "scontrol requeue",
    ]
    tally = disturb(undisturbed, disturbed, [default_run(disturbed)], faults, random.Random(0))  # raises for other weights
    assert tally.injected.total() >= 5, tally.table()


def test_a_killed_rank_is_named_and_the_training_goes_on_in_a_new_job(project: Project) -> None:
    project.edit("params/scale/sample.yaml", "training.iterations: 3", "training.iterations: 12")
    run = default_run(project)
    training = Training(project, run)
    command = [FGASEG, "train", run, "--on", "slurm"]
    with subprocess.Popen(command, cwd=project.root, stderr=subprocess.PIPE, text=True) as launcher:
        wait_until(lambda: training.reached() >= 2, 200, "two iterations are done")
        job = training.job
        assert job is not None
        process = rank_process(job, 5)
        assert process is not None
        os.kill(process, signal.SIGKILL)
        _, said = launcher.communicate(timeout=300)
    assert launcher.returncode == 0, said
    assert f"job {job} ended as FAILED (rank 5 on gpu1: Killed); going on from iteration" in said
    assert training.model.exists()
    record = read_record(training.folder)
    assert record is not None
    assert record.submissions == 2


def test_a_training_that_always_dies_is_given_up_with_the_reason(project: Project) -> None:
    """The end comes before any checkpoint, again and again."""
    project.edit(LAUNCH, "setup: []", "setup: ['ulimit -v 1000']")
    project.edit(LAUNCH, "retries: 3", "retries: 1")
    message = refusal(project, default_run(project))
    assert_says(message, "ended as FAILED", "2 times in a row without a new checkpoint")
    record = read_record(project.results / "runs" / default_run(project))
    assert record is not None
    assert record.submissions == 2
    assert record.error is not None
    assert message == f"fgaseg: {record.error}"


def test_the_traceback_of_the_failing_rank_is_shown_and_nothing_is_tried_again(project: Project, tmp_path: Path) -> None:
    planted = tmp_path / "planted" / "sitecustomize.py"
    planted.parent.mkdir()
    planted.write_text(
        "import os\n"
        "if os.environ.get('SLURM_PROCID') == '3':\n"
        "    import torch\n"
        "    def clip(*_): raise ZeroDivisionError('planted on one rank')\n"
        "    torch.nn.utils.clip_grad_norm_ = clip\n"
    )
    project.edit(LAUNCH, "setup: []", f"setup: ['export PYTHONPATH={planted.parent}']")
    run = default_run(project)
    done = launch(project, run)
    assert done.returncode == 2
    assert "rank 3 on" in done.stderr
    assert "ZeroDivisionError: planted on one rank" in done.stderr
    assert 'File "' in done.stderr
    assert "gloo" not in done.stderr
    record = read_record(project.results / "runs" / run)
    assert record is not None
    assert record.submissions == 1


def test_a_mistake_in_the_data_that_one_rank_meets_is_one_line(project: Project) -> None:
    run = default_run(project)
    plan = Plan(project.root, "sample")
    label = sorted(plan.paths.dataset("coco-stuff-train").glob("labels/*"))[0]
    project.write(label.relative_to(project.root), b"no picture")
    assert_says(refusal(project, run), str(label.name), "rank", "job")


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("partition: null", "partition: nosuch", ["cluster.partition: nosuch", "invalid partition", "sinfo"]),
        ("account: null", "account: nobody", ["cluster.account: nobody", "Invalid account", "administrator"]),
        ("account: null", "account: expired", ["cluster.account: expired", "limits"]),
        ("qos: null", "qos: nosuch", ["cluster.qos: nosuch", "Invalid qos"]),
        ("constraint: null ", "constraint: h100 ", ["cluster.constraint: h100", "Invalid feature"]),
        ("gpus_per_node: 8", "gpus_per_node: 9", ["cluster.nodes x gpus_per_node: 9 processes", "choose a divisor"]),
        ("  nodes: 1 ", "  nodes: 4 ", ["cluster.nodes x gpus_per_node: 32 processes", "choose a divisor"]),
        ("hours: 24", "hours: many", ["cluster.hours", "number"]),
        ("retries: 3", "retry: 3", ["cluster.retry", "did you mean 'cluster.retries'"]),
    ],
)
def test_what_the_cluster_or_the_launcher_refuses_is_one_line_that_names_the_key(
    project: Project, old: str, new: str, words: list[str]
) -> None:
    project.edit(LAUNCH, old, new)
    run = default_run(project)
    message = refusal(project, run)
    assert_says(message, LAUNCH, *words)
    assert not list(project.results.glob("runs/*/checkpoints"))
    record = read_record(project.results / "runs" / run)  # where SLURM was asked
    assert record is None or message == f"fgaseg: {record.error}"


def test_more_gpus_than_a_node_has_are_refused(project: Project) -> None:
    project.edit("params/scale/sample.yaml", "training.global_batch: 8", "training.global_batch: 16")
    project.edit(LAUNCH, "gpus_per_node: 8", "gpus_per_node: 16")
    assert_says(refusal(project, default_run(project)), LAUNCH, "cluster.gpus_per_node: 16", "sinfo")


def test_without_slurms_commands_the_launcher_says_where_to_go(project: Project, tmp_path: Path) -> None:
    command = [FGASEG, "train", default_run(project), "--on", "slurm"]
    environment = os.environ | {"PATH": str(tmp_path)}
    done = subprocess.run(command, cwd=project.root, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.splitlines() == [
        "fgaseg: sbatch: not found: this is no machine from which SLURM jobs are submitted; go to one (a login node), "
        "or run without --profile slurm"
    ]


def test_two_launchers_of_one_run_submit_one_job(project: Project) -> None:
    run = default_run(project)
    command = [FGASEG, "train", run, "--on", "slurm"]
    both = [subprocess.Popen(command, cwd=project.root, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    said = [launcher.communicate(timeout=300)[1] for launcher in both]
    assert [launcher.returncode for launcher in both] == [0, 0], said
    assert sum("submitted as job" in text for text in said) == 1
    record = read_record(project.results / "runs" / run)
    assert record is not None
    assert record.submissions == 1


def test_a_tracking_server_that_refuses_connections_stops_nothing(project: Project) -> None:
    project.edit(LAUNCH, "tracking_uri: null", "tracking_uri: http://127.0.0.1:9")
    run = default_run(project)
    done = launch(project, run)
    assert done.returncode == 0, done.stderr
    assert "server http://127.0.0.1:9 is away" in (project.results / "runs" / run / "tracking.log").read_text()


def test_a_full_disk_is_named_and_with_more_space_the_training_ends(project: Project) -> None:
    run = default_run(project)
    folder = project.results / "runs"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(mount, check=False).returncode:
        pytest.skip("no small disk can be mounted here")
    try:
        message = refusal(project, run)
        assert_says(message, "no space left on the disk", "free some")
        subprocess.run(["mount", "-o", "remount,size=100m", str(folder)], check=True)
        assert launch(project, run).returncode == 0
        assert (folder / run / "model.safetensors").exists()
    finally:
        wait_until(lambda: not queue(), 90, "the queue is empty")
        subprocess.run(["umount", "-l", str(folder)], check=True)
