"""Pixel counts of each image, from which every metric is made."""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fgaseg.files import write_arrays

Ints = NDArray[np.int64]


def iou(hit: Ints, found: Ints, labelled: Ints) -> NDArray[np.float64]:
    """IoU of each class from its intersection, predicted and labelled pixels, (K,) each; NaN where none is labelled."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(labelled > 0, hit / (found + labelled - hit), np.nan)


def miou(hit: Ints, found: Ints, labelled: Ints) -> float:
    """Mean IoU over the classes that the ground truth shows."""
    return float(np.nanmean(iou(hit, found, labelled)))


def _runs(first: Ints, second: Ints) -> tuple[Ints, Ints, Ints]:
    """Runs of pixels that agree in both arrays (N,): their two values, and how many pixels each has.

    Label maps are flat: there are far fewer runs than pixels. Sums of their lengths in float64 are exact.
    """
    starts = np.ones(len(first), bool)
    np.not_equal(first[1:], first[:-1], out=starts[1:])
    starts[1:] |= second[1:] != second[:-1]
    positions = np.flatnonzero(starts)
    return first[positions], second[positions], np.diff(positions, append=len(first))


@dataclass
class Counts:
    """One entry for each image and each class that its prediction or its ground truth shows.

    Pixels without a label (-1) count in nothing.
    """

    classes: int
    rows: list[tuple[Ints, Ints, Ints, Ints, Ints]] = field(default_factory=list)
    images: int = 0

    def add(self, predicted: Ints, labels: Ints) -> None:
        """Count one image: both (H, W), labels -1 where void."""
        truth, guess, pixels = _runs(labels.ravel(), predicted.ravel())
        pixels *= truth >= 0
        labelled = np.bincount(truth + 1, pixels, self.classes + 1)[1:].astype(np.int64)
        found = np.bincount(guess, pixels, self.classes).astype(np.int64)
        hit = np.bincount(guess, pixels * (truth == guess), self.classes).astype(np.int64)
        some = np.flatnonzero(labelled + found)
        self.rows.append((np.full(len(some), self.images), some, hit[some], found[some], labelled[some]))
        self.images += 1

    def columns(self) -> dict[str, Ints]:
        """The entries as columns: image, class, intersection, predicted, labelled."""
        keys = ("image", "class", "intersection", "predicted", "labelled")
        return {key: np.concatenate([np.zeros(0, np.int64), *(row[i] for row in self.rows)]) for i, key in enumerate(keys)}

    def totals(self) -> tuple[Ints, Ints, Ints]:
        """Intersection, predicted and labelled pixels of each class over all images, (K,) each."""
        c = self.columns()
        sums = [np.zeros(self.classes, np.int64) for _ in range(3)]
        for total, key in zip(sums, ("intersection", "predicted", "labelled"), strict=True):
            np.add.at(total, c["class"], c[key])
        return sums[0], sums[1], sums[2]

    def iou(self) -> NDArray[np.float64]:
        """IoU of each class (K,), NaN for a class that the ground truth never shows."""
        return iou(*self.totals())

    def miou(self) -> float:
        """Mean IoU over the classes that the ground truth shows."""
        return miou(*self.totals())

    def pixel_accuracy(self) -> float:
        hit, _, labelled = self.totals()
        return float(hit.sum() / labelled.sum())


def save_counts(path: Path, counts: dict[str, Counts]) -> None:
    """Write the counts of several benchmarks into one npz: `<benchmark>/<column>`."""
    arrays = {}
    for benchmark, each in counts.items():
        for key, values in each.columns().items():
            arrays[f"{benchmark}/{key}"] = values.astype(np.int32 if key in ("image", "class") else np.int64)
    write_arrays(path, arrays)
