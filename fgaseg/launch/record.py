"""What is known of a run's job, in its folder: `job.json`. It outlives the process that submitted the job."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from fgaseg.errors import UserError
from fgaseg.files import write_json

_FILE = "job.json"


@dataclass(frozen=True)
class JobRecord:
    """The newest job of a run.

    `state` is SLURM's word and `reason` why it waits, both as of `checked`; times are in seconds since 1970. `submissions`
    counts the jobs of this run, `error` tells in one line why the run was given up.
    """

    job: str
    submitted: float
    world: int
    submissions: int
    state: str
    reason: str
    checked: float
    error: str | None = None


def write_record(run: Path, record: JobRecord) -> None:
    """Write `job.json` into the folder of a run."""
    write_json(run / _FILE, asdict(record))


def read_record(run: Path) -> JobRecord | None:
    """The record of a run, None where it never had a job. Raises `UserError` when it is damaged."""
    path = run / _FILE
    try:
        return JobRecord(**json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return None
    except (ValueError, TypeError) as error:
        raise UserError(f"{path}: not the record of a job ({error}); remove it if no job of this run is in the queue") from None
