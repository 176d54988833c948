"""The metrics of a run as a file of JSON lines: the truth that figures and tracking are made from."""

import json
import time
from pathlib import Path
from typing import Any

from fgaseg.errors import UserError
from fgaseg.files import write_whole, writing


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """All complete lines; a line cut short by a crash is dropped."""
    if not path.exists():
        return []
    try:
        lines = path.read_text(encoding="utf-8").split("\n")[:-1]
        return [json.loads(line) for line in lines]
    except ValueError as error:
        raise UserError(f"{path}: a line is not valid JSON ({error}); remove the line, or the file") from None


VALIDATION = "validation_miou"


class MetricsFile:
    """Appends lines `{"step": n, "time": seconds since 1970, name: value, ...}`.

    Opened at `step`, of which the last validation was at step `validated`, it forgets later lines.
    """

    def __init__(self, path: Path, step: int, validated: int) -> None:
        kept = [line for line in read_metrics(path) if line["step"] <= (validated if VALIDATION in line else step)]
        write_whole(path, "".join(json.dumps(line) + "\n" for line in kept))
        self.path = path

    def append(self, step: int, values: dict[str, float]) -> None:
        with writing(self.path), self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"step": step, "time": round(time.time(), 3), **values}) + "\n")
