"""What datasets there are: the paper's seven, and a user's own, each described by a file `params/datasets/NAME.yaml`.

Nothing here looks at the data themselves: a plan needs none.
"""

import csv
import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from fgaseg.errors import UserError
from fgaseg.params import read_yaml
from fgaseg.schema import Positive, Scale

Role = Literal["benchmark", "training"]

_NAME = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")


@dataclass(frozen=True)
class ClassEntry:
    """One class: its id in the raw labels, the name that prompts use, and its further names."""

    raw_id: int
    name: str
    synonyms: tuple[str, ...]

    def all_names(self) -> tuple[str, ...]:
        return (self.name, *self.synonyms)


@dataclass(frozen=True)
class KnownDataset:
    """A dataset of the paper: its class table, how many images it is published with, and which drawn one stands for it."""

    name: str
    role: Role
    classes: str
    images: int
    miniature: str


KNOWN = {
    known.name: known
    for known in (
        KnownDataset("coco-stuff-train", "training", "coco-stuff", 118287, "coco-train"),
        KnownDataset("coco-stuff-val", "training", "coco-stuff", 5000, "coco-val"),
        KnownDataset("a-150", "benchmark", "a-150", 2000, "a-150"),
        KnownDataset("a-847", "benchmark", "a-847", 2000, "a-847"),
        KnownDataset("pc-59", "benchmark", "pc-59", 5104, "context"),
        KnownDataset("pc-459", "benchmark", "pc-459", 5104, "context"),
        KnownDataset("pas-20", "benchmark", "pas-20", 1449, "voc"),
    )
}
TABLES = tuple(dict.fromkeys(known.classes for known in KNOWN.values()))


@dataclass(frozen=True)
class OwnDataset:
    """A user's dataset, by its file `described_in`.

    `images` and `labels` are folders, from the project's root where they are not absolute; `classes` is a class table, or the
    name of a known one; raw ids in `void` are not scored; larger photographs are shrunk to `short_side` pixels.
    """

    name: str
    described_in: Path
    role: Role
    images: str
    labels: str
    classes: str | tuple[ClassEntry, ...]
    void: tuple[int, ...]
    short_side: int | None

    def content(self) -> dict[str, Any]:
        """All that decides what preparation makes of it, fit for JSON."""
        table = self.classes
        classes = table if isinstance(table, str) else [[c.raw_id, c.name, *c.synonyms] for c in table]
        folders = {"images": self.images, "labels": self.labels}
        return folders | {"classes": classes, "void": sorted(self.void), "short_side": self.short_side}


Dataset = KnownDataset | OwnDataset


class _File(BaseModel):
    """The keys of a user's file."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=False)

    role: Role
    images: str = Field(min_length=1)
    labels: str = Field(min_length=1)
    classes: str | list[Any] | dict[Any, Any]
    void: int | tuple[int, ...] = ()
    short_side: Positive | None = None
    scales: tuple[Scale, ...] = ("sample", "paper")


def datasets(root: Path, scale: Scale) -> dict[str, Dataset]:
    """The datasets of a scale by name: the known ones, then a user's own in the order of their names.

    A mistake in a user's file raises UserError with the file and the key.
    """
    found: dict[str, Dataset] = dict(KNOWN)
    for path in sorted((root / "params" / "datasets").glob("*.yaml")):
        own, scales = _own_dataset(path, root)
        if scale in scales:
            found[own.name] = own
    return found


def _own_dataset(path: Path, root: Path) -> tuple[OwnDataset, tuple[Scale, ...]]:
    name = path.stem
    if name in KNOWN:
        raise UserError(f"{path}: '{name}' is the name of a known dataset; rename the file")
    if not _NAME.fullmatch(name):
        raise UserError(f"{path}: a dataset's name has small letters, digits and single hyphens alone; rename the file")
    content = read_yaml(path)
    for key in content:
        if key not in _File.model_fields:
            close = difflib.get_close_matches(str(key), _File.model_fields, n=1)
            hint = f"did you mean '{close[0]}'?" if close else f"known are {', '.join(_File.model_fields)}"
            raise UserError(f"{path}: unknown key '{key}'; {hint}")
    try:
        file = _File.model_validate(content)
    except ValidationError as error:
        raise UserError(f"{path}: {_first_mistake(error, content)}") from None
    classes = _classes(file.classes, path, root)
    void = (file.void,) if isinstance(file.void, int) else file.void
    _check_void(void, classes, path)
    own = OwnDataset(name, path, file.role, file.images, file.labels, classes, void, file.short_side)
    return own, file.scales


def _first_mistake(error: ValidationError, content: Mapping[str, Any]) -> str:
    first = error.errors()[0]
    key = str(first["loc"][0])
    if key not in content:
        return f"{key}: is missing; write it with a value"
    if key == "role":
        return f"role: '{content[key]}' is unknown; choose benchmark or training"
    if key == "scales":
        return f"scales: {content[key]!r}: a list of sample and paper is expected"
    expected = {
        "classes": "a list of names, a mapping of ids to names, or a file is expected",
        "void": "an id, or a list of ids, is expected",
        "short_side": "a whole number of pixels from 1 on is expected",
    }
    return f"{key}: {expected.get(key, 'a folder is expected')}, got {content[key]!r}"


def _check_void(void: tuple[int, ...], classes: str | tuple[ClassEntry, ...], path: Path) -> None:
    for value in void:
        if not 0 <= value < 1 << 16:
            raise UserError(f"{path}: void: {value} is no id; ids lie between 0 and 65535")
        for entry in classes if not isinstance(classes, str) else ():
            if entry.raw_id == value:
                raise UserError(f"{path}: void: {value} is the id of the class '{entry.name}' too; take one of them out")


def _classes(given: str | list[Any] | dict[Any, Any], path: Path, root: Path) -> str | tuple[ClassEntry, ...]:
    """The class table that the key `classes` gives: names with ids from 0 on, ids with names, a file, or a known table."""
    if isinstance(given, str):
        return given if given in TABLES else _from_file(root / given, given, path)
    pairs = list(enumerate(given)) if isinstance(given, list) else list(given.items())
    entries = []
    for raw_id, names in pairs:
        where = f"{path}: classes: {raw_id}"
        if not isinstance(raw_id, int) or isinstance(raw_id, bool):
            raise UserError(f"{where}: is no id; write `id: name`, with a whole number from 0 to 65535")
        listed = names if isinstance(names, list) else [names]
        if not listed or not all(isinstance(name, str) and name.strip() for name in listed):
            raise UserError(f"{where}: {names!r} is no name; write a name, or a list of a name and its synonyms, as text")
        entries.append(ClassEntry(raw_id, listed[0].strip(), tuple(name.strip() for name in listed[1:])))
    return _checked(entries, f"{path}: classes")


def _from_file(file: Path, given: str, path: Path) -> tuple[ClassEntry, ...]:
    where = f"{path}: classes: {given}"
    remedy = "a CSV file with the columns raw_id, name and synonyms (separated by |) is expected"
    entries = []
    try:
        with file.open(newline="", encoding="utf-8") as lines:
            for row in csv.DictReader(lines):
                synonyms = tuple(s.strip() for s in (row.get("synonyms") or "").split("|") if s.strip())
                entries.append(ClassEntry(int(row["raw_id"]), row["name"].strip(), synonyms))
    except OSError as error:
        raise UserError(f"{where}: cannot be read ({error.strerror}); known tables are {', '.join(TABLES)}") from None
    except (KeyError, ValueError, TypeError, AttributeError, csv.Error) as error:
        raise UserError(f"{where}: line {len(entries) + 2} does not fit ({error}); {remedy}") from None
    return _checked(entries, where)


def _checked(entries: list[ClassEntry], where: str) -> tuple[ClassEntry, ...]:
    """The entries as a table; UserError where there is none, or where an id or a name is there twice."""
    if not entries:
        raise UserError(f"{where}: no class is there; a dataset needs at least one")
    ids: dict[int, str] = {}
    names: dict[str, int] = {}
    for entry in entries:
        if not 0 <= entry.raw_id < 1 << 16:
            raise UserError(f"{where}: {entry.raw_id} is no id; ids lie between 0 and 65535")
        if entry.raw_id in ids:
            raise UserError(f"{where}: the id {entry.raw_id} is there twice: '{ids[entry.raw_id]}' and '{entry.name}'")
        if not entry.name:
            raise UserError(f"{where}: the id {entry.raw_id} has no name")
        if entry.name in names:
            raise UserError(f"{where}: '{entry.name}' is there twice, with the ids {names[entry.name]} and {entry.raw_id}")
        ids[entry.raw_id] = entry.name
        names[entry.name] = entry.raw_id
    return tuple(entries)
