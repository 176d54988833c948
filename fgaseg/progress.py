"""How far a training is, from the files in its folder alone.

Nobody is asked, neither SLURM nor Snakemake, so this works on every machine that sees the disk, whatever has died. Of these
rules the first that fits decides. A sign of life is a start, a line of metrics, a checkpoint, or writing to the job's logs.

done     The model is there.
running  A process of this machine holds the run's lock. (Too old signs of life make it silent, here and below.)
failed   job.json has an error, and there was no start after it.
queued   SLURM's word in job.json is that the job waits, and there was no sign of life since. An old word is shown with its
         age. A job that never got an id counts for ten minutes, as long as its submission is tried.
stopped  SLURM's word is that the job has ended, and there was no sign of life since.
running  SLURM's word is that the job is at work, and not older than a minute: the launcher asks every few seconds.
running  The last sign of life is not too old, nor from a start on this machine, where the lock would be held: a job
         outlives its launcher.
stopped  Anything else that has begun. To start it again is right even if its job is alive: a launcher takes that up.
missing  Nothing of it is there.

Signs are too old after five times the longest pause between lines of metrics since the start; never before ten minutes, nor
before an hour while it starts or validates.
"""

import fcntl
import os
import socket
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Literal, TypeVar

from pydantic import BaseModel, TypeAdapter, ValidationError

from fgaseg.launch.record import JobRecord
from fgaseg.plan import Plan, Scope
from fgaseg.schema import Params, Training
from fgaseg.training.starts import Start

State = Literal["done", "running", "queued", "silent", "stopped", "failed", "missing"]

FRESH_SECONDS, SUBMISSION_SECONDS = 60.0, 600.0
QUIET_SECONDS, PATIENT_SECONDS, PAUSES = 600.0, 3600.0, 5
RECENT = 10
"""Lines of metrics that the present speed is the median of."""

_TAIL = 1 << 16
_WAITING = {"PENDING", "CONFIGURING", "REQUEUED", "REQUEUE_FED", "REQUEUE_HOLD", "RESV_DEL_HOLD", "SUSPENDED"}
_AT_WORK = {"RUNNING", "COMPLETING", "SIGNALING", "STAGE_OUT", "RESIZING"}

T = TypeVar("T")


class Line(BaseModel):
    """A line of metrics, either of iterations or of a validation."""

    step: int
    time: float
    seconds_per_iteration: float | None = None
    validation_miou: float | None = None


@dataclass(frozen=True)
class Progress:
    """How far a training is: the iteration `step`, from which it would also go on; `seconds` an iteration takes at present.

    `remark` is a few words; `notes` are sentences: why it failed, what is damaged.
    """

    state: State
    step: int
    seconds: float | None
    job: str | None
    restarts: int | None
    remark: str
    notes: tuple[str, ...]


def duration(seconds: float) -> str:
    """In the unit that suits it: `40 s`, `12 min`, `3.4 h` or `5.1 d`."""
    if seconds < 5400:
        return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h" if seconds < 172800 else f"{seconds / 86400:.1f} d"


def is_locked(path: Path) -> bool:
    """Whether a process makes `path` (see `files.exclusive`), as far as this machine knows.

    The lock is tried as one that readers share, and given back at once.
    """
    with suppress(OSError), path.with_name(f".{path.name}.lock").open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def _written(paths: Iterable[Path]) -> float:
    """When the newest of the files was written, 0 where there is none."""
    times = [0.0]
    for path in paths:
        with suppress(OSError):
            times.append(path.stat().st_mtime)
    return max(times)


class _Signs:
    """What the files of a training say. A damaged one is passed over with a note."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.notes = folder, list[str]()
        self.locked = is_locked(folder)
        self.record = next(iter(self._read("job.json", JobRecord, lines=False)), None)
        self.starts = self._read("starts.jsonl", Start)
        self.lines = self._read("metrics.jsonl", Line)
        self.start = self.starts[-1] if self.starts else None
        checkpoints = {path.stem.removeprefix("step_"): path for path in folder.glob("checkpoints/step_*.pt")}
        self.checkpoint = max((int(step) for step in checkpoints if step.isdecimal()), default=0)
        logs = folder.glob(f"slurm/{self.record.job}_*_log.*") if self.record and self.record.job.isalnum() else ()
        lock = [folder.with_name(f".{folder.name}.lock")] if self.locked else []
        noted = [*(start.time for start in self.starts[-1:]), *(line.time for line in self.lines[-1:])]
        self.life = max([_written([*checkpoints.values(), *logs, *lock]), *noted])

    def _read(self, name: str, kind: type[T], lines: bool = True) -> list[T]:
        """The records in a file: the complete lines at its end, however long it is, or the file as one."""
        try:
            with (self.folder / name).open("rb") as file:
                skipped = max(0, file.seek(0, os.SEEK_END) - _TAIL)
                file.seek(skipped)
                content = file.read()
            parts = content.split(b"\n")[1 if skipped else 0 : -1] if lines else [content]
            adapter = TypeAdapter(kind)
            return [adapter.validate_json(part) for part in parts]
        except FileNotFoundError:
            return []
        except OSError as error:
            why = error.strerror or str(error)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            why = ": ".join([*(str(part) for part in first["loc"]), first["msg"]])
        self.notes.append(f"{name} is damaged and passed over ({why})")
        return []

    @property
    def _new_lines(self) -> list[Line]:
        """The lines of metrics since the last start."""
        return [line for line in self.lines if self.start is None or line.time >= self.start.time]

    def _patience(self, training: Training) -> float:
        """After how many seconds signs of life are too old."""
        lines = self._new_lines
        longest = max((later.time - sooner.time for sooner, later in pairwise(lines)), default=0.0)
        busy = len(lines) < 2 or (
            lines[-1].validation_miou is None
            and (lines[-1].step % training.validate_every == 0 or lines[-1].step == training.iterations)
        )
        return max(PATIENT_SECONDS if busy else QUIET_SECONDS, PAUSES * longest)

    def judge(self, training: Training, now: float, host: str) -> tuple[State, str]:
        """The state by the rules above, and a remark."""
        ago = duration(max(0.0, now - self.life))
        if (self.folder / "model.safetensors").exists():
            return "done", ""
        lives: tuple[State, str] = ("running", "" if self._new_lines else "starting")
        if now - self.life > self._patience(training):
            lives = ("silent", f"no sign of life for {ago}")
        found = lives if self.locked else self._by_record(lives, now)
        if found is not None:
            return found
        elsewhere = self.start is None or self.start.host != host
        if elsewhere and self.life and lives[0] == "running":
            lonely = self.record is not None and f"no word of its launcher for {duration(now - self.record.checked)}"
            return "running", lonely or lives[1]
        if self.life:
            return "stopped", f"last sign of life {ago} ago"
        return "stopped" if self.record or self.notes else "missing", ""

    def _by_record(self, lives: tuple[State, str], now: float) -> tuple[State, str] | None:
        """What job.json tells, None where it is not there or overtaken."""
        record = self.record
        if record is None:
            return None
        age = now - record.checked
        if record.error and not (self.start and self.start.time > record.checked):
            return "failed", ""
        if record.state in _WAITING and self.life <= record.checked and (record.job or age < SUBMISSION_SECONDS):
            parts = [record.reason if record.job else "being submitted", f"as of {duration(age)} ago" * (age > FRESH_SECONDS)]
            return "queued", ", ".join(part for part in parts if part)
        if record.state not in _WAITING | _AT_WORK and self.life <= record.checked:
            return "stopped", f"job {record.state.lower()}" + (f" ({record.reason})" if record.reason else "")
        if record.state in _AT_WORK and age <= FRESH_SECONDS:
            return lives if self.life >= record.submitted else ("running", "starting")
        return None


def observe(plan: Plan, run_id: str, now: float | None = None, host: str | None = None) -> Progress:
    """How far a training is, seen at the time `now` from the machine `host`: by default at present, from this one."""
    training, signs = plan.runs[run_id].training, _Signs(plan.paths.run(run_id))
    state, remark = signs.judge(training, now or time.time(), host or socket.gethostname())
    step = training.iterations if state == "done" else signs.checkpoint
    if state in ("running", "silent"):
        step = max([step, *(start.step for start in signs.starts[-1:]), *(line.step for line in signs.lines[-1:])])
    speeds = [line.seconds_per_iteration for line in signs.lines if line.seconds_per_iteration is not None]
    job, error = (signs.record.job, signs.record.error) if signs.record else (None, None)
    if signs.start and not (signs.record and signs.start.time < signs.record.submitted):
        job = signs.start.job
    return Progress(
        state=state,
        step=step,
        seconds=median(speeds[-RECENT:]) if speeds else None,
        job=job or None,
        restarts=len(signs.starts) - 1 if signs.starts else None,
        remark=remark,
        notes=tuple(filter(None, (error if state == "failed" else None, *signs.notes))),
    )


def runs_of(plan: Plan, scope: Scope) -> dict[str, Params]:
    """The trainings that a report of this scope needs, by id."""
    return {row.run_id: row.params for row in plan.evaluations_of(scope).values() if row.run_id}


def like(run_id: str, seconds: Mapping[str, float], runs: Mapping[str, Params]) -> list[float]:
    """The measurements that stand for a run: its own; or those of runs with the same backbone; or all."""
    if run_id in seconds:
        return [seconds[run_id]]
    same = [value for run, value in seconds.items() if runs[run].vlm.backbone == runs[run_id].vlm.backbone]
    return same or list(seconds.values())
