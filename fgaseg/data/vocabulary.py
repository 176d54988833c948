"""Which classes of the benchmarks mean the same as a class of COCO-Stuff, by name.

From this follow two facts about a benchmark's class: whether training has shown it, and whether it is stuff or a thing.
"""

import csv
import re
from collections.abc import Collection
from functools import lru_cache
from pathlib import Path
from typing import Literal

from fgaseg.data.classes import ClassEntry, class_table

FIRST_STUFF_ID = 91
"""COCO's things have raw ids below this one, its stuff this one and above."""

_ALIASES = Path(__file__).parent / "classes" / "aliases.csv"


def _normalise(name: str) -> str:
    return re.sub(r"[\s\-_()]", "", name.lower())


@lru_cache
def _coco_names() -> dict[str, tuple[str, ...]]:
    """COCO-Stuff's class names by normalised name, and by the part before a hyphen: wall-brick is a wall."""
    names: dict[str, list[str]] = {}
    for entry in class_table("coco-stuff"):
        for key in dict.fromkeys((_normalise(entry.name), _normalise(entry.name.split("-")[0]))):
            names.setdefault(key, []).append(entry.name)
    return {key: tuple(values) for key, values in names.items()}


@lru_cache
def _aliases() -> dict[str, tuple[str, ...]]:
    with _ALIASES.open(newline="", encoding="utf-8") as file:
        return {_normalise(row["name"]): tuple(filter(None, row["coco"].split("|"))) for row in csv.DictReader(file)}


@lru_cache(maxsize=4096)
def coco_matches(entry: ClassEntry) -> tuple[str, ...]:
    """COCO-Stuff's classes that mean the same as `entry`, in the order of the table; empty if there is none.

    Where `aliases.csv` has the first name of `entry`, it decides: names that differ though the meaning is one, and the
    reverse. Otherwise all names of `entry` are compared with COCO's.
    """
    found = _aliases().get(_normalise(entry.name))
    if found is None:
        found = tuple(match for name in entry.all_names() for match in _coco_names().get(_normalise(name), ()))
    return tuple(coco.name for coco in class_table("coco-stuff") if coco.name in found)


def seen(entry: ClassEntry, training_classes: Collection[ClassEntry]) -> bool:
    """Whether one of `training_classes` means the same as `entry`: as a class of COCO-Stuff, or by name where COCO has none."""
    trained, others = _meanings(tuple(training_classes))
    matches = coco_matches(entry)
    return any(match in trained for match in matches) or any(_normalise(name) in others for name in entry.all_names())


@lru_cache(maxsize=8)
def _meanings(classes: tuple[ClassEntry, ...]) -> tuple[frozenset[str], frozenset[str]]:
    """The COCO-Stuff classes that `classes` mean, and the normalised names of those that mean none."""
    matches = {entry: coco_matches(entry) for entry in classes}
    trained = frozenset(match for found in matches.values() for match in found)
    others = frozenset(_normalise(name) for entry, found in matches.items() if not found for name in entry.all_names())
    return trained, others


def kind(entry: ClassEntry) -> Literal["stuff", "thing"] | None:
    """Whether `entry` is stuff or a thing, as COCO has it; None where COCO has no such class or one of either kind."""
    raw_ids = {coco.name: coco.raw_id for coco in class_table("coco-stuff")}
    kinds = {"stuff" if raw_ids[match] >= FIRST_STUFF_ID else "thing" for match in coco_matches(entry)}
    if kinds == {"stuff"}:
        return "stuff"
    return "thing" if kinds == {"thing"} else None
