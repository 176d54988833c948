"""Ask a real SLURM about its jobs. One for tests on a single machine is brought up by `tests/slurm/cluster.sh start`."""

import os
import shutil
import subprocess
import time
from collections.abc import Callable
from functools import cache
from typing import Any, cast

import pytest

_START = "start one by `tests/slurm/cluster.sh start`"
_SEPARATOR = "\x1f"  # unlike "|", sacct's own, it is in no job's name


@cache
def _absence() -> str | None:
    """Why there is no SLURM to test on, or None when one answers."""
    missing = [name for name in ("sbatch", "squeue", "scontrol") if shutil.which(name) is None]
    if missing:
        return f"{', '.join(missing)} not installed"
    try:
        ping = subprocess.run(["scontrol", "ping"], capture_output=True, text=True, timeout=10, check=False)
    except subprocess.TimeoutExpired:
        return "the controller has not answered in 10 s"
    if ping.returncode:
        return "the controller does not answer: " + (ping.stdout + ping.stderr).strip().partition("\n")[0]
    return None


class _NoSlurm:
    """Whether a test is to be skipped: asked as it is about to run, so that merely collecting tests asks nothing."""

    def __bool__(self) -> bool:
        absence = _absence()
        if absence and os.environ.get("FGASEG_REQUIRE_SLURM") == "1":
            pytest.fail(f"FGASEG_REQUIRE_SLURM is set, but there is no SLURM: {absence}; {_START}", pytrace=False)
        return absence is not None


# With FGASEG_REQUIRE_SLURM=1 the tests fail instead of being skipped, so that where they must run they cannot be overlooked.
needs_slurm = pytest.mark.skipif(cast("bool", _NoSlurm()), reason=f"no SLURM answers; {_START}")


def _run(*command: str) -> str:
    """What a SLURM command prints; that it has failed is told with its own words."""
    result = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    if result.returncode:
        raise RuntimeError(f"{' '.join(command)}: {result.stderr.strip()}")
    return result.stdout


def sacct(job_id: str, *fields: str, every_run: bool = False) -> list[dict[str, str]]:
    """The accounting's rows of a job, itself first and then its steps; with `every_run` also those before it was requeued.

    Without fields: JobID, State and ExitCode. A row is late by a moment, and a brief job's JobName is "allocation" for its
    first seconds: see `wait_until`.
    """
    fields = fields or ("JobID", "State", "ExitCode")
    runs = ["--duplicates"] if every_run else []
    form = ["--noheader", "--parsable2", f"--delimiter={_SEPARATOR}", f"--format={','.join(fields)}"]
    text = _run("sacct", f"--jobs={job_id}", *form, *runs)
    return [dict(zip(fields, line.split(_SEPARATOR), strict=True)) for line in text.split("\n") if line]


def queue() -> list[str]:
    """The ids of the user's jobs that have not yet ended, those that wait and those that are completing among them."""
    return sorted(set(_run("squeue", "--me", "--noheader", "--format=%A").split()))


def wait_until(condition: Callable[[], Any], seconds: float, what: str) -> Any:
    """The condition's value as soon as it is true; `what` is to become so, and the failure if it does not."""
    until = time.monotonic() + seconds
    while not (value := condition()):
        if time.monotonic() > until:
            raise TimeoutError(f"not within {seconds:g} s: {what}")
        time.sleep(0.25)
    return value
