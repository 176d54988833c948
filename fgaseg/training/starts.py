"""Every start of a training, as lines of `starts.jsonl` in its folder: who went on with it, where, and from which iteration."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from fgaseg.files import writing

_FILE = "starts.jsonl"


@dataclass(frozen=True)
class Start:
    """`time` is in seconds since 1970, `step` the iterations done before, `job` SLURM's id, `world` the number of processes."""

    time: float
    step: int
    job: str | None
    host: str
    world: int


def add_start(folder: Path, start: Start) -> None:
    """Note a start in a run's folder."""
    path = folder / _FILE
    with writing(path), path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(asdict(start)) + "\n")


def read_starts(folder: Path) -> list[Start]:
    """All starts, oldest first; a line cut short by a crash is dropped."""
    path = folder / _FILE
    if not path.exists():
        return []
    lines = path.read_text(encoding="utf-8").split("\n")[:-1]
    return [Start(**json.loads(line)) for line in lines]
