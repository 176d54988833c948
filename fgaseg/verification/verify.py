"""Look a dataset through: every file once, then all of them together."""

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from tqdm import tqdm

from fgaseg.data.raw import Item, RawDataset, raw_dataset
from fgaseg.data.raw.base import Defect
from fgaseg.errors import UserError
from fgaseg.expected import expected_images, miscounted
from fgaseg.plan import Plan
from fgaseg.verification.scan import Scan, scan_all
from fgaseg.verification.shift import seen_pixels, shift_remarks

CONTEXT_TWINS = (5104, 5105)
"""Pascal Context's validation photographs: as many as its lists hold, and as many as are often said to be."""


@dataclass(frozen=True)
class ClassShare:
    """How much of a dataset's labelled pixels a class has, and in how many photographs it is."""

    name: str
    raw_id: int
    pixels: int
    images: int


@dataclass(frozen=True)
class Verification:
    """What was found in a dataset; `items` are those that can be read.

    `expected` is how many photographs there should be, None where nobody says. `classes` follow the class table. `void` is
    the share of pixels that belong to no class.
    """

    name: str
    items: tuple[Item, ...]
    expected: int | None
    defects: tuple[Defect, ...]
    classes: tuple[ClassShare, ...] = ()
    void: float = 0.0
    unlabelled: int = 0
    raw: RawDataset | None = field(default=None, repr=False)

    @property
    def unseen(self) -> list[str]:
        """The names of the classes that no photograph shows."""
        return [share.name for share in self.classes if not share.images]


def verify(plan: Plan, name: str, workers: int | None = None, quiet: bool = True) -> Verification:
    """Look through the raw dataset `name` of a scale, with a progress bar unless `quiet`."""
    raw, root = raw_dataset(plan.find_dataset(name), plan.root, plan.default.data.root)
    expected = expected_images(plan, name)
    try:
        survey = raw.survey(root)
    except UserError as error:
        return Verification(name, (), expected, (Defect(root, str(error)),))
    bar = tqdm(
        scan_all(survey.items, raw, workers or os.cpu_count() or 1),
        total=len(survey.items), desc=name, unit="image", ncols=100, disable=quiet,
    )  # fmt: skip
    scans = list(bar)
    defects = [*survey.defects, *(defect for scan in scans for defect in scan.defects)]
    folder = survey.items[0].image.parent if survey.items else root
    defects += [Defect(folder, f"{folder}: {remark}") for remark in shift_remarks(raw, scans)]
    there = len(survey.items)
    if expected is not None and there + len({defect.path.stem for defect in survey.defects}) != expected:
        defects.append(Defect(folder, _miscounted(name, folder, there, expected)))
    sound = tuple(item for item, scan in zip(survey.items, scans, strict=True) if not scan.defects)
    return _totals(Verification(name, sound, expected, tuple(defects), raw=raw), raw, scans)


def _miscounted(name: str, folder: Path, there: int, expected: int) -> str:
    if {there, expected} == set(CONTEXT_TWINS):
        return (
            f"{folder}: {there} photographs with labels, where {expected} are expected: 5105 is often said, the published "
            "list and trainval_merged.json hold 5104; remove ImageSets/SegmentationContext/val.txt for the published list"
        )
    return f"{folder}: {miscounted(name, there, expected)}; unpack images and labels again"


def _totals(found: Verification, raw: RawDataset, scans: Sequence[Scan]) -> Verification:
    pixels = seen_pixels(scans)
    images = Counter(i for scan in scans for i in scan.ids.tolist())
    table = {entry.raw_id for entry in raw.table}
    shares = tuple(ClassShare(e.name, e.raw_id, pixels.get(e.raw_id, 0), images[e.raw_id]) for e in raw.table)
    total = sum(pixels.values())
    void = sum(count for i, count in pixels.items() if i not in table) / total if total else 0.0
    unlabelled = sum(bool(scan.ids.size) and not np.isin(scan.ids, list(table)).any() for scan in scans)
    return Verification(found.name, found.items, found.expected, found.defects, shares, void, unlabelled, raw)
