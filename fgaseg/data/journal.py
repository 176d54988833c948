"""What a preparation has finished: an interrupted one goes on from there.

Every process appends a line to a file of its own the moment that a photograph's files are in place, so that a kill loses at
most the one that each process was at. A line counts for as long as the raw files and the written ones are as it says.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any, TextIO

from fgaseg.data.raw import Item
from fgaseg.files import writing

_FOLDER = ".journal"


@dataclass(frozen=True)
class Row:
    """A line of `index.csv`; `present` holds the labels that occur, without void."""

    image: str
    label: str
    width: int
    height: int
    present: tuple[int, ...]


def _state(path: Path) -> list[int] | None:
    """Size and times of a file: another content has others, even where a copy keeps the time of its last change."""
    try:
        stat = path.stat()
    except OSError:
        return None
    return [stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns]


def _sources(item: Item) -> list[Any]:
    """What tells whether an item's raw content is still the same.

    Where many photographs share one annotation file, each has its own part of it in `decode`, and this counts.
    """
    own = _state(item.annotation)
    return [_state(item.image), own or hashlib.sha256(repr(item.decode).encode()).hexdigest()]


class Journal:
    """The finished items of a preparation to the folder `out`; `recipe` stands for all that decides what is written.

    Lines of another recipe do not count.
    """

    def __init__(self, out: Path, recipe: str) -> None:
        self.out, self.recipe = out, recipe

    def add(self, item: Item, row: Row) -> None:
        """Record an item whose files are in place."""
        written = [_state(Path(path)) for path in dict.fromkeys((row.label, row.image)) if path != str(item.image)]
        line = {"recipe": self.recipe, "item": item.image.name, "raw": _sources(item), "files": written, "row": asdict(row)}
        with writing(self.out):
            file = _own_file(self.out / _FOLDER, os.getpid())
            file.write(json.dumps(line) + "\n")
            file.flush()

    def finished(self, items: Iterable[Item]) -> dict[str, Row]:
        """The rows of those items that need not be done again, by the name of their photographs."""
        lines = {line["item"]: line for path in self._files() for line in _lines(path) if line["recipe"] == self.recipe}
        found = {}
        for item in items:
            line = lines.get(item.image.name)
            if line and line["raw"] == _sources(item):
                row = Row(**line["row"] | {"present": tuple(line["row"]["present"])})
                written = [_state(Path(path)) for path in dict.fromkeys((row.label, row.image)) if path != str(item.image)]
                if written == line["files"]:
                    found[item.image.name] = row
        return found

    def _files(self) -> list[Path]:
        return sorted((self.out / _FOLDER).glob("*.jsonl"), key=lambda path: path.stat().st_mtime_ns)

    def close(self) -> None:
        """Forget everything: the preparation is complete."""
        _own_file.cache_clear()
        shutil.rmtree(self.out / _FOLDER, ignore_errors=True)


@cache
def _own_file(folder: Path, process: int) -> TextIO:
    """This process's file, which no earlier process of the same number wrote; kept open."""
    folder.mkdir(parents=True, exist_ok=True)
    number = 0
    while True:
        try:
            return (folder / f"{process}-{number}.jsonl").open("x", encoding="utf-8")
        except FileExistsError:
            number += 1


def _lines(path: Path) -> list[dict[str, Any]]:
    """The complete lines of a file whose writer may have been killed."""
    content = path.read_text(encoding="utf-8", errors="replace")
    lines = []
    for text in content.split("\n")[:-1]:
        try:
            lines.append(json.loads(text))
        except ValueError:
            continue
    return lines
