"""mIoU and its uncertainty, from the counts that an evaluation keeps for every image.

Letters for axes: S resamples, N images, K classes that occur in the ground truth or the prediction.

The unit of uncertainty is the image: a resample draws as many images as the benchmark has, with replacement, and is scored
as a benchmark of its own. Two methods are compared on the same resamples, so that what makes an image hard for both
cancels. Intervals are percentiles of the resampled values, p-values the share of them beyond 0. What another seed of the
training would change is in neither. A class that few images show is missing from many resamples: intervals of scores lie
somewhat low, while in paired differences this cancels too. A single image tells nothing about others: it has no interval, and
its p-value is 1.

Sums of whole numbers are exact in float64, so the same counts give the same digits however many threads compute them.
"""

import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from fgaseg.errors import UserError

SAMPLES = 2000
LEVEL = 0.95
_COLUMNS = ("image", "class", "intersection", "predicted", "labelled")
_BLOCK = 250  # resamples scored at once: bounds the memory that a benchmark of thousands of images needs

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]


class Interval(NamedTuple):
    """Lower and upper end, in the unit of the value that it belongs to."""

    low: float
    high: float


class Estimate(NamedTuple):
    """A value and its interval, which is NaN for a single image; NaN throughout where no class occurs in the ground truth."""

    value: float
    interval: Interval


@dataclass(frozen=True)
class Counts:
    """Pixels of one benchmark, one entry for each image and class that occurs in it; ignored pixels are in none.

    `image` is in 0..images-1, `classes` holds labels, `intersection` the pixels that are predicted and labelled as the class.
    """

    images: int
    image: Integers
    classes: Integers
    intersection: Integers
    predicted: Integers
    labelled: Integers

    def restrict(self, mask: NDArray[np.bool_]) -> "Counts":
        """Only the classes that `mask` (indexed by label) holds; the images, and so the resamples, stay the same."""
        keep = mask[self.classes]
        columns = (self.image, self.classes, self.intersection, self.predicted, self.labelled)
        return Counts(self.images, *(column[keep] for column in columns))

    def dense(self, labels: Integers) -> tuple[Floats, Floats, Floats]:
        """Intersection, union and labelled pixels as (N, K) for the classes `labels`, which are sorted."""
        wanted = np.isin(self.classes, labels)
        where = self.image[wanted], np.searchsorted(labels, self.classes[wanted])
        result = []
        for column in (self.intersection, self.predicted + self.labelled - self.intersection, self.labelled):
            table = np.zeros((self.images, len(labels)))
            np.add.at(table, where, column[wanted])
            result.append(table)
        return result[0], result[1], result[2]

    def labels(self) -> Integers:
        """The classes that the ground truth shows, sorted: those that mIoU averages over."""
        return np.unique(self.classes[self.labelled > 0])


def load_counts(path: Path, images: Mapping[str, int]) -> dict[str, Counts]:
    """The counts in `path` of the benchmarks in `images`, which gives each one's number of images.

    `UserError` when the file is missing or damaged, lacks a benchmark, or counts what cannot be.
    """
    try:
        with np.load(path) as file:
            return {benchmark: _read(path, benchmark, number, file) for benchmark, number in images.items()}
    except UserError:
        raise
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; evaluate the row again") from None
    except (BadZipFile, zlib.error, OSError, EOFError, ValueError):
        raise UserError(f"{path}: not readable; delete its folder and evaluate the row again") from None


def _read(path: Path, benchmark: str, images: int, file: Mapping[str, NDArray[Any]]) -> Counts:
    where = f"{path}: {benchmark}"
    for name in _COLUMNS:
        if f"{benchmark}/{name}" not in file:
            raise UserError(f"{where}: the array '{benchmark}/{name}' is missing; evaluate the row again")
    columns = [file[f"{benchmark}/{name}"].astype(np.int64) for name in _COLUMNS]
    if len({column.shape for column in columns}) > 1 or columns[0].ndim != 1:
        raise UserError(f"{where}: the arrays differ in length; evaluate the row again")
    image, _, intersection, predicted, labelled = columns
    if image.size and not 0 <= image.min() <= image.max() < images:
        raise UserError(f"{where}: counts of image {image.max()}, but evaluation.json has {images} images")
    if (intersection < 0).any() or (intersection > np.minimum(predicted, labelled)).any():
        raise UserError(f"{where}: an intersection exceeds what is predicted or labelled; evaluate the row again")
    return Counts(images, *columns)


def miou(counts: Counts) -> float:
    """Mean over the classes of the ground truth of intersection over union, in 0..1; NaN without any such class."""
    intersection, union, _ = counts.dense(counts.labels())
    return float(np.mean(intersection.sum(0) / union.sum(0))) if intersection.shape[1] else float("nan")


def resamples(images: int, samples: int, seed: int, stream: int = 0) -> Iterator[Floats]:
    """How often each image is drawn, in blocks of (at most 250, N) that add up to S rows.

    Streams of one seed are independent; the same arguments give the same draws.
    """
    generator = np.random.default_rng([seed, stream])
    for start in range(0, samples, _BLOCK):
        rows = min(_BLOCK, samples - start)
        draws = generator.integers(0, images, (rows, images)) + images * np.arange(rows)[:, None]
        yield np.bincount(draws.ravel(), minlength=rows * images).reshape(rows, images).astype(np.float64)


def _resampled_miou(counts: Counts, samples: int, seed: int, stream: int) -> Floats:
    """mIoU of each resample, (S,): over the classes that its own ground truth shows, NaN where it shows none.

    NaN throughout where there is a single image, of which every resample is the same.
    """
    if counts.images < 2:
        return np.full(samples, np.nan)
    intersection, union, labelled = counts.dense(counts.labels())
    values = []
    for weights in resamples(counts.images, samples, seed, stream):
        shown = weights @ labelled > 0
        iou = np.divide(weights @ intersection, weights @ union, out=np.zeros(shown.shape), where=shown)
        number = shown.sum(1)
        values.append(np.divide(iou.sum(1), number, out=np.full(len(number), np.nan), where=number > 0))
    return np.concatenate(values)


@dataclass(frozen=True, eq=False)
class Bootstrapped:
    """A score and the same score of every resample, (S,). Scores of one stream are paired: they saw the same resamples."""

    value: float
    resampled: Floats

    def __sub__(self, other: "Bootstrapped") -> "Bootstrapped":
        """The paired difference."""
        return Bootstrapped(self.value - other.value, self.resampled - other.resampled)

    def estimate(self, level: float = LEVEL) -> Estimate:
        """The score with its percentile interval over resampled images."""
        values = self.resampled[~np.isnan(self.resampled)]
        if not values.size:
            return Estimate(self.value, Interval(float("nan"), float("nan")))
        low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
        return Estimate(self.value, Interval(float(low), float(high)))

    def p_value(self) -> float:
        """Two-sided: how rarely resamples lie on the other side of 0, never less than 2 / (S + 1)."""
        values = self.resampled[~np.isnan(self.resampled)]
        beyond = min(np.count_nonzero(values <= 0), np.count_nonzero(values >= 0))
        return min(1.0, 2 * (1 + beyond) / (1 + values.size))


def bootstrap(counts: Counts, samples: int = SAMPLES, seed: int = 0, stream: int = 0) -> Bootstrapped:
    """mIoU of `counts` and of its resamples; benchmarks that are averaged need streams of their own."""
    return Bootstrapped(miou(counts), _resampled_miou(counts, samples, seed, stream))


def mean_of(scores: Sequence[Bootstrapped]) -> Bootstrapped:
    """The mean over benchmarks, or over seeds, leaving out scores that are NaN for want of any class."""
    shown = [score for score in scores if not np.isnan(score.value)] or scores[:1]
    return Bootstrapped(float(np.mean([s.value for s in shown])), np.mean([s.resampled for s in shown], axis=0))


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's adjusted p-values, in the given order: each holds for all comparisons together."""
    order = np.argsort(p_values, kind="stable")
    adjusted = np.empty(len(p_values))
    scaled = np.asarray(p_values, float)[order] * np.arange(len(p_values), 0, -1)
    adjusted[order] = np.minimum(np.maximum.accumulate(scaled), 1.0)
    return [float(p) for p in adjusted]


def require_same_truth(a: Counts, b: Counts) -> None:
    """`ValueError` when the two were not counted on the same images and labels, so that a difference would mean nothing."""
    if a.images != b.images:
        raise ValueError(f"the methods were scored on {a.images} and {b.images} images; evaluate both on the same data")
    labels = np.union1d(a.labels(), b.labels())
    if not np.array_equal(a.dense(labels)[2], b.dense(labels)[2]):
        raise ValueError("the methods were scored against different labels; evaluate both on the same data")
