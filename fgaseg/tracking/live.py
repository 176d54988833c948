"""Track a training while it goes on, from a process beside it, so that whatever ails MLflow neither stops nor slows it."""

import logging
import os
import pickle
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from fgaseg.plan import Plan
from fgaseg.schema import Launch
from fgaseg.tracking.store import later_from

log = logging.getLogger(__name__)

INTERVAL_SECONDS = 15.0
"""Between two deliveries."""
PATIENCE_SECONDS = 5.0
"""How long a training that has ended waits for its last delivery."""
UNHEARD = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR2)
"""Signals by which a training is asked to end; its follower may get them as well, and ends with it."""


@dataclass(frozen=True)
class Task:
    """What a follower is told: the plan as the training has it, whatever has become of params/, and the training's process."""

    plan: Plan
    launch: Launch
    run_id: str
    interval: float
    trainer: int

    @property
    def log(self) -> Path:
        """What the follower has to say."""
        return self.plan.paths.run(self.run_id) / "tracking.log"


@contextmanager
def following(plan: Plan, launch: Launch, run_id: str, interval: float = INTERVAL_SECONDS) -> Iterator[None]:
    """Where a tracking server is configured, its run is brought up to the files every `interval` seconds within the block.

    Leaving the block takes at most `PATIENCE_SECONDS`, for the last delivery. Nothing is raised: trouble costs one warning,
    and `fgaseg track` brings what was missed. What happened in between is in `tracking.log` in the run's folder.
    """
    task = Task(plan, launch, run_id, interval, os.getpid())
    follower = _start(task) if launch.tracking_uri else None
    try:
        yield
    finally:
        trouble = _end(follower, task) if follower is not None else None
        if trouble is not None:
            log.warning("%s", trouble)


def _start(task: Task) -> subprocess.Popen[str] | None:
    """A follower at work; None where there can be none, which costs one warning."""
    try:
        return _spawn(task)
    except Exception as error:
        log.warning("tracking cannot begin (%s); %s", error, later_from(task.plan))
        return None


def _spawn(task: Task) -> subprocess.Popen[str]:
    """A plan is larger than a pipe takes at once, so the follower gets it as an open file."""
    with tempfile.TemporaryFile() as file, task.log.open("ab") as errors:
        pickle.dump(task, file)
        file.seek(0)
        command = [sys.executable, "-m", "fgaseg.tracking.follower", str(file.fileno())]
        # A child inherits what its parent holds back, and so cannot be ended before it has learnt not to listen.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, UNHEARD)
        try:
            return subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, pass_fds=[file.fileno()], text=True
            )
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _end(follower: subprocess.Popen[str], task: Task) -> str | None:
    """Let the follower make its last delivery; returns what a person is to know of what did not arrive."""
    later = later_from(task.plan)
    try:
        said, _ = follower.communicate("end", timeout=PATIENCE_SECONDS)
    except subprocess.TimeoutExpired:
        return f"tracking server {task.launch.tracking_uri} has not taken all within {PATIENCE_SECONDS:.0f} s; {later}"
    except Exception as error:
        return f"tracking did not end well ({error}); {later}"
    finally:
        follower.kill()
        with suppress(subprocess.TimeoutExpired):
            follower.wait(1)
    if follower.returncode:
        return f"tracking ended with status {follower.returncode} (see {task.log}); {later}"
    return said.strip() or None
