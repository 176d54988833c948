"""`fgaseg status`: what made-up files in the folders of trainings tell about them, without SLURM and without Snakemake."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import pytest
from fabricated import write_evaluation

from fgaseg.files import exclusive
from fgaseg.launch.record import JobRecord, write_record
from fgaseg.plan import Plan
from fgaseg.progress import Progress, duration, observe
from fgaseg.status import status
from fgaseg.training.starts import Start, add_start

PROJECT = Path(__file__).parents[1]
NOW = 1_800_000_000.0
HERE, THERE = "login1", "node7"
MINUTE, HOUR = 60.0, 3600.0
PENDING = JobRecord("17", NOW - 2 * HOUR, 8, 1, "PENDING", "Priority", NOW - 5)
RUNNING = replace(PENDING, state="RUNNING", reason="")
FAILED = replace(PENDING, state="FAILED", reason="", error="rank 3 on node7 of job 17 failed: CUDA out of memory")


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    """The project's plan without results, 160 iterations a training; the second row of Table IV (b) has two seeds."""
    shutil.copytree(PROJECT / "params", tmp_path / "params")
    table = tmp_path / "params" / "tables" / "table_4b.yaml"
    table.write_text(table.read_text().replace("normalised: 'yes'}", "normalised: 'yes'}\n    seeds: 2"))
    scale = tmp_path / "params" / "scale" / "sample.yaml"
    text = re.sub(r"training.iterations: \d+", "training.iterations: 160", scale.read_text())
    scale.write_text(re.sub(r"training.validate_every: \d+", "training.validate_every: 40", text))
    return Plan(tmp_path, "sample")


@pytest.fixture
def folder(plan: Plan) -> Path:
    """Of the default model's training, with nothing in it."""
    path = run_folder(plan, default(plan))
    path.mkdir(parents=True)
    return path


def default(plan: Plan) -> str:
    assert plan.default_row.run_id is not None
    return plan.default_row.run_id


def run_folder(plan: Plan, run: str) -> Path:
    return plan.paths.run(run)


def start(folder: Path, ago: float, step: int = 0, host: str = THERE, job: str | None = "17") -> None:
    folder.mkdir(parents=True, exist_ok=True)
    add_start(folder, Start(NOW - ago, step, job, host, 8))


def log(folder: Path, *lines: tuple[int, float], seconds: float = 1.5, **more: Any) -> None:
    """Lines of metrics as the training writes them: (step, how long ago)."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "metrics.jsonl").open("a") as file:
        for step, ago in lines:
            values = more or {"loss": 0.7, "lr": 1e-3, "seconds_per_iteration": seconds}
            file.write(json.dumps({"step": step, "time": NOW - ago, **values}) + "\n")


def checkpoint(folder: Path, step: int, ago: float) -> None:
    touch(folder / "checkpoints" / f"step_{step:08d}.pt", ago)


def touch(path: Path, ago: float) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    os.utime(path, (NOW - ago, NOW - ago))


def seen(plan: Plan, run: str | None = None) -> Progress:
    return observe(plan, run or default(plan), NOW, HERE)


def lines_of(plan: Plan, **arguments: Any) -> list[str]:
    return status(plan, arguments.pop("scope", "all"), now=NOW, host=HERE, **arguments).splitlines()


def line_of(plan: Plan, run: str) -> str:
    return next(line for line in lines_of(plan) if line.startswith(run))


def test_nothing_in_the_folder_is_missing(plan: Plan) -> None:
    assert (seen(plan).state, seen(plan).step, seen(plan).restarts) == ("missing", 0, None)


def test_a_model_is_done_whatever_else_is_there(plan: Plan, folder: Path) -> None:
    write_record(folder, FAILED)
    start(folder, 5 * HOUR)
    touch(folder / "model.safetensors", HOUR)
    assert (seen(plan).state, seen(plan).step, seen(plan).notes) == ("done", 160, ())


@pytest.mark.parametrize(
    ("record", "remark"),
    [
        (PENDING, "Priority"),
        (replace(PENDING, checked=NOW - 3 * HOUR), "Priority, as of 3.0 h ago"),
        (replace(PENDING, job="", reason=""), "being submitted"),
    ],
    ids=["launcher asks", "launcher died", "no id yet"],
)
def test_a_job_that_waits_is_queued(record: JobRecord, remark: str, plan: Plan, folder: Path) -> None:
    write_record(folder, record)
    assert (seen(plan).state, seen(plan).remark) == ("queued", remark)


def test_a_requeued_job_is_queued_and_keeps_its_iteration(plan: Plan, folder: Path) -> None:
    start(folder, HOUR)
    log(folder, (50, 20 * MINUTE))
    checkpoint(folder, 50, 19 * MINUTE)
    write_record(folder, PENDING)
    assert (seen(plan).state, seen(plan).step) == ("queued", 50)


def test_a_submission_that_never_ended_is_not_queued(plan: Plan, folder: Path) -> None:
    write_record(folder, replace(PENDING, job="", reason="", checked=NOW - HOUR))
    assert (seen(plan).state, seen(plan).job) == ("stopped", None)


def test_who_holds_the_lock_on_this_machine_is_running(plan: Plan, folder: Path) -> None:
    start(folder, HOUR, host=HERE, job=None)
    log(folder, (10, 30 * MINUTE), (20, 10))
    with exclusive(folder):
        assert (seen(plan).state, seen(plan).step, seen(plan).remark) == ("running", 20, "")
    assert seen(plan).state == "stopped"


def test_looking_at_a_lock_neither_makes_nor_keeps_it(plan: Plan, folder: Path) -> None:
    lock = folder.with_name(f".{folder.name}.lock")
    seen(plan)
    assert not lock.exists()
    lock.touch()
    assert seen(plan).state == "missing"
    with exclusive(folder) as waited:
        assert not waited


def test_a_training_that_loads_its_model_is_starting(plan: Plan, folder: Path) -> None:
    with exclusive(folder):
        touch(folder.with_name(f".{folder.name}.lock"), 20)
        assert (seen(plan).state, seen(plan).remark) == ("running", "starting")


def test_a_job_that_slurm_calls_running_is_running(plan: Plan, folder: Path) -> None:
    write_record(folder, RUNNING)
    assert (seen(plan).state, seen(plan).remark) == ("running", "starting")
    start(folder, HOUR)
    log(folder, (10, 2 * MINUTE), (20, MINUTE))
    assert (seen(plan).state, seen(plan).remark, seen(plan).job) == ("running", "", "17")


@pytest.mark.parametrize("word", ["PENDING", "RUNNING"])
def test_a_job_lives_on_when_its_launcher_is_dead(word: str, plan: Plan, folder: Path) -> None:
    """Also where the launcher has last seen it waiting."""
    write_record(folder, replace(PENDING, state=word, checked=NOW - 90 * MINUTE))
    start(folder, HOUR)
    log(folder, (10, 50 * MINUTE), (20, MINUTE))
    assert (seen(plan).state, seen(plan).remark) == ("running", "no word of its launcher for 1.5 h")
    assert observe(plan, default(plan), NOW + HOUR, HERE).state == "running", "it pauses for long now and then"
    later = observe(plan, default(plan), NOW + 5 * HOUR, HERE)
    assert (later.state, later.remark) == ("stopped", "last sign of life 5.0 h ago")


def test_on_the_machine_that_trained_the_lock_knows_better_than_the_age_of_signs(plan: Plan, folder: Path) -> None:
    start(folder, HOUR, host=HERE, job=None)
    log(folder, (10, 10), (20, 2))
    checkpoint(folder, 10, 8)
    assert (seen(plan).state, seen(plan).step, seen(plan).remark) == ("stopped", 10, "last sign of life 2 s ago")


def test_what_writes_to_the_logs_of_its_job_is_alive(plan: Plan, folder: Path) -> None:
    write_record(folder, RUNNING)
    start(folder, 2 * HOUR)
    log(folder, (10, 119 * MINUTE), (20, 118 * MINUTE))
    assert seen(plan).state == "silent"
    touch(folder / "slurm" / "17_0_log.err", 10)
    assert seen(plan).state == "running"


def test_no_sign_of_life_for_much_longer_than_usual_is_silent(plan: Plan, folder: Path) -> None:
    """The longest pause so far was of 4 minutes; five times as much is usual."""
    write_record(folder, RUNNING)
    start(folder, HOUR)
    log(folder, (10, 59 * MINUTE), (20, 55 * MINUTE))
    usual = 5 * 4 * MINUTE
    assert observe(plan, default(plan), NOW - 55 * MINUTE + usual - 1, HERE).state == "running"
    assert (seen(plan).state, seen(plan).remark, seen(plan).step) == ("silent", "no sign of life for 55 min", 20)


def test_a_process_that_holds_the_lock_can_be_silent_too(plan: Plan, folder: Path) -> None:
    start(folder, 3 * HOUR, host=HERE, job=None)
    log(folder, (10, 179 * MINUTE), (20, 178 * MINUTE))
    with exclusive(folder):
        touch(folder.with_name(f".{folder.name}.lock"), 3 * HOUR)
        assert seen(plan).state == "silent"


@pytest.mark.parametrize("due", [40, 160])
def test_a_validation_may_take_longer(due: int, plan: Plan, folder: Path) -> None:
    """One is due after every 40 iterations, and after the last."""
    write_record(folder, RUNNING)
    start(folder, 36 * MINUTE)
    log(folder, (due - 20, 35.5 * MINUTE), (due - 10, 35 * MINUTE))
    assert seen(plan).state == "silent"
    log(folder, (due, 34 * MINUTE))
    assert seen(plan).state == "running"
    log(folder, (due, 33 * MINUTE), validation_miou=0.5)
    assert seen(plan).state == "silent"


@pytest.mark.parametrize(
    ("record", "remark"),
    [
        (replace(RUNNING, state="CANCELLED", reason="Ctrl-C"), "job cancelled (Ctrl-C)"),
        (replace(RUNNING, state="TIMEOUT"), "job timeout"),
        (replace(RUNNING, state="COMPLETED"), "job completed"),
    ],
)
def test_a_job_that_ended_without_a_model_is_stopped(record: JobRecord, remark: str, plan: Plan, folder: Path) -> None:
    start(folder, HOUR)
    log(folder, (70, MINUTE))
    checkpoint(folder, 60, 2 * MINUTE)
    write_record(folder, record)
    assert (seen(plan).state, seen(plan).remark, seen(plan).step) == ("stopped", remark, 60)


def test_a_stopped_training_without_a_checkpoint_begins_anew(plan: Plan, folder: Path) -> None:
    start(folder, 5 * HOUR)
    log(folder, (70, 4 * HOUR))
    assert (seen(plan).state, seen(plan).step) == ("stopped", 0)


def test_a_training_that_was_given_up_tells_why(plan: Plan, folder: Path) -> None:
    start(folder, HOUR)
    log(folder, (70, MINUTE))
    write_record(folder, FAILED)
    assert (seen(plan).state, seen(plan).notes) == ("failed", (FAILED.error,))
    lines = lines_of(plan, width=70)
    line = next(i for i, line in enumerate(lines) if line.startswith(default(plan)))
    assert lines[line + 1] == "    rank 3 on node7 of job 17 failed: CUDA out of memory"


def test_a_failure_counts_no_more_once_the_training_was_started_again(plan: Plan, folder: Path) -> None:
    write_record(folder, replace(FAILED, checked=NOW - HOUR))
    start(folder, 5 * MINUTE, host=THERE, job=None)
    log(folder, (10, MINUTE))
    assert (seen(plan).state, seen(plan).job) == ("running", None)


def test_restarts_are_counted_from_the_first_start_on(plan: Plan, folder: Path) -> None:
    for step in (0, 40, 80):
        start(folder, HOUR - step, step=step)
    assert seen(plan).restarts == 2
    assert seen(plan).step == 80, "it has reached this, though there is no line of it yet"


def test_speed_and_time_left_come_from_recent_lines(plan: Plan, folder: Path) -> None:
    write_record(folder, RUNNING)
    start(folder, HOUR)
    seconds = [9.0, 9.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.5, 11.0]
    for i, each in enumerate(seconds):
        log(folder, (10 + 10 * i, 130 - 10 * i), seconds=each)
    log(folder, (120, 5), validation_miou=0.5)
    recent = median(seconds[-10:])
    assert seen(plan).seconds == recent == 5.5
    left = (160 - 120) * 5.5
    assert left == 220
    assert re.search(r"running +120/160 +5\.50 +4 min +17 +0$", line_of(plan, default(plan)))


def test_a_line_cut_short_is_passed_over(plan: Plan, folder: Path) -> None:
    write_record(folder, RUNNING)
    start(folder, HOUR)
    log(folder, (10, 20), (20, 10))
    for name, rest in (("metrics.jsonl", '{"step": 30, "ti'), ("starts.jsonl", '{"time": 1')):
        with (folder / name).open("a") as file:
            file.write(rest)
    assert (seen(plan).state, seen(plan).step, seen(plan).restarts, seen(plan).notes) == ("running", 20, 0, ())


def test_of_a_long_file_the_end_is_enough(plan: Plan, folder: Path) -> None:
    write_record(folder, RUNNING)
    start(folder, HOUR)
    (folder / "metrics.jsonl").write_text("not read\n")
    log(folder, *((step % 160, 1000 - step) for step in range(1000)))
    assert (folder / "metrics.jsonl").stat().st_size > 1 << 16
    assert (seen(plan).step, seen(plan).notes) == (999 % 160, ())


DAMAGE = [
    "",
    "{",
    "[1]\n",
    "null\n",
    '{"step": "x", "time": []}\n',
    '{"job": 3, "time": null}\n',
    "\xff\xfe\n",
    "[" * 5000 + "\n",
]


@pytest.mark.parametrize("content", DAMAGE)
@pytest.mark.parametrize("name", ["job.json", "metrics.jsonl", "starts.jsonl"])
def test_a_damaged_file_costs_no_more_than_its_own_details(name: str, content: str, plan: Plan, folder: Path) -> None:
    start(folder, HOUR, job="17")
    log(folder, (10, 20), (20, 10))
    write_record(folder, RUNNING)
    (folder / name).write_bytes(content.encode("latin-1"))
    cut_short = name != "job.json" and not content.endswith("\n")
    expected = [] if cut_short else [f"{name} is damaged and passed over"]
    assert [note.split(" (")[0] for note in seen(plan).notes] == expected
    assert seen(plan).state == "running"
    assert len([line for line in lines_of(plan) if re.match(r"[0-9a-f]{12} ", line)]) == 38


def test_a_folder_with_damaged_files_alone_has_begun(plan: Plan, folder: Path) -> None:
    (folder / "starts.jsonl").write_text("?\n")
    assert seen(plan).state == "stopped"


def test_a_file_that_may_not_be_read_is_noted(plan: Plan, folder: Path) -> None:
    (folder / "job.json").mkdir()
    assert seen(plan).notes == ("job.json is damaged and passed over (Is a directory)",)


def test_every_training_of_the_scope_has_one_line(plan: Plan) -> None:
    ids = {
        scope: {line.split()[0] for line in lines_of(plan, scope=scope) if re.match(r"[0-9a-f]{12} ", line)}
        for scope in ("all", "main", "fidelity")
    }
    for scope, found in ids.items():
        assert found == {row.run_id for row in plan.evaluations_of(scope).values() if row.run_id}  # type: ignore[arg-type]
    assert len(ids["all"]) == 38
    assert ids["main"] == {default(plan)}


def test_a_line_names_the_rows_that_need_the_training(plan: Plan) -> None:
    first, second = plan.tables["table_4b"].rows[1].replicas
    row = plan.tables["table_5"].rows[0]
    assert row.run_id is not None
    assert second.run_id is not None
    assert row.run_id == plan.tables["table_6"].rows[0].run_id
    assert " 5:1 6:1 6:2 6:3 6:4 6:5 " in line_of(plan, row.run_id)
    assert " 4b:2#1 " in line_of(plan, second.run_id)
    assert " 1:2 2:4 " in line_of(plan, first.run_id or "")


@pytest.mark.parametrize("width", [80, 100, 120])
def test_lines_are_as_wide_as_asked_for(width: int, plan: Plan, folder: Path) -> None:
    write_record(folder, FAILED)
    start(run_folder(plan, list(plan.runs)[1]), HOUR)
    lines = lines_of(plan, width=width)
    assert max(map(len, lines)) <= width
    assert " ..." in next(line for line in lines if line.startswith(default(plan)))


def write_grid(plan: Plan) -> Sequence[str]:
    """Four runs of base: done, running, running, stopped; and one of the other backbone that has not begun."""
    runs = [run for run, params in plan.runs.items() if params.vlm.backbone == "base"][:4]
    for run, seconds in zip(runs, (1.0, 2.0, 4.0, 8.0), strict=True):
        start(run_folder(plan, run), HOUR)
        log(run_folder(plan, run), (100, 20), (110, 10), seconds=seconds)
    touch(run_folder(plan, runs[0]) / "model.safetensors", 5)
    write_record(run_folder(plan, runs[1]), RUNNING)
    write_record(run_folder(plan, runs[2]), RUNNING)
    checkpoint(run_folder(plan, runs[3]), 90, 30)
    write_record(run_folder(plan, runs[3]), replace(RUNNING, state="TIMEOUT"))
    return runs


def test_the_summary_counts_states_and_adds_up_the_hours_left(plan: Plan) -> None:
    write_grid(plan)
    seconds = 50 * 2.0 + 50 * 4.0 + 70 * 8.0 + 34 * 160 * 3.0
    assert duration(seconds) == "4.8 h"
    assert duration(seconds / 2) == "2.4 h"
    lines = lines_of(plan)
    summary = lines[lines.index("") + 1 :]
    assert summary[0] == "sample scale, 38 trainings: 1 done, 2 running, 1 stopped, 34 missing"
    assert summary[1] == "37 trainings left: 4.8 h of iterations one after another, 2.4 h with 2 at once"
    assert summary[2] == "evaluations: 0 of 45 done"
    assert summary[3].startswith("stopped: nobody works on it: start the workflow again")


def test_evaluations_are_counted_where_they_are_done(plan: Plan) -> None:
    write_evaluation(plan, plan.default_row, 0.4)
    assert "evaluations: 1 of 45 done" in lines_of(plan)
    assert "evaluations: 1 of 2 done" in lines_of(plan, scope="main")


def test_without_any_measurement_no_time_is_made_up(plan: Plan) -> None:
    assert "38 trainings left: for how long is not known until one has run a while" in lines_of(plan)


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0 s"), (89, "89 s"), (90, "2 min"), (5399, "90 min"), (5400, "1.5 h"), (172800, "2.0 d")]
)
def test_durations_are_in_the_unit_that_suits_them(seconds: float, text: str) -> None:
    assert duration(seconds) == text


@pytest.fixture
def command(plan: Plan) -> Callable[..., subprocess.Popen[str]]:
    """Start the installed command in the plan's folder; it hears Ctrl-C, which a shell's background jobs do not."""
    line = ["env", "--default-signal=INT", str(Path(sys.executable).parent / "fgaseg"), "status"]
    return lambda *arguments: subprocess.Popen(
        [*line, *arguments], cwd=plan.root, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def test_the_command_prints_the_table(plan: Plan, command: Callable[..., subprocess.Popen[str]]) -> None:
    out, errors = command("--scope", "main").communicate(timeout=60)
    assert out.splitlines()[0].split() == ["run", "rows", "state", "iteration", "s/it", "left", "job", "restarts"]
    assert out.splitlines()[1].split() == [default(plan), "1:2", "missing", "0/160", "-", "-", "-", "-"]
    assert errors == ""


def test_an_unknown_scope_gives_one_line(command: Callable[..., subprocess.Popen[str]]) -> None:
    process = command("--scope", "everything")
    _, errors = process.communicate(timeout=60)
    assert errors == "fgaseg: --scope: 'everything' is unknown; choose main, all, fidelity\n"
    assert process.returncode == 2


def test_watching_ends_with_ctrl_c(command: Callable[..., subprocess.Popen[str]]) -> None:
    process = command("--scope", "main", "--watch")
    assert process.stdout is not None
    read = [process.stdout.readline() for _ in range(5)]
    assert read[-1].startswith("1 training left")
    time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert (process.returncode, errors) == (0, "")


def test_nothing_heavy_is_imported(plan: Plan) -> None:
    """No torch, no tracking, no workflow, no cluster: it starts at once, and where they are broken."""
    code = (
        "import sys; sys.argv = ['fgaseg', 'status']\n"
        "from fgaseg.cli import app\n"
        "app(standalone_mode=False)\n"
        "heavy = {'torch', 'open_clip', 'mlflow', 'submitit', 'snakemake', 'pandas', 'matplotlib', 'scipy'}\n"
        "print(sorted(heavy & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=plan.root, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
