"""Class tables of the datasets, one CSV each: raw id in the publisher's files, name, further names.

Sources: COCO-Stuff's `labels.txt` (171 of 182 ids in use), ADEChallengeData2016's `objectInfo150`, CAT-Seg's list of
847 of ADE20K's names, Pascal Context's `labels.txt` (459) with its 59 frequent classes, and VOC's 20 classes.
"""

import csv
from functools import lru_cache
from pathlib import Path

from fgaseg.catalogue import ClassEntry

__all__ = ["ClassEntry", "class_table"]

_FOLDER = Path(__file__).parent


@lru_cache
def class_table(dataset: str) -> tuple[ClassEntry, ...]:
    """The classes of `dataset`; the position in the tuple is the label in prepared files."""
    with (_FOLDER / f"{dataset}.csv").open(newline="", encoding="utf-8") as file:
        return tuple(
            ClassEntry(int(row["raw_id"]), row["name"].strip(), tuple(s for s in row["synonyms"].split("|") if s))
            for row in csv.DictReader(file)
        )
