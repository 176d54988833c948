"""mIoU and its uncertainty, from the counts that an evaluation keeps for every image.

Letters for axes: S resamples, N images, K classes that occur in the ground truth or the prediction.

The unit of uncertainty is the image: a resample draws as many images as the benchmark has, with replacement, and is scored
as a benchmark of its own. Two methods are compared on the same resamples, so that what makes an image hard for both
cancels. Intervals are percentiles of the resampled values. Sums of whole numbers are exact in float64, so the same counts
give the same digits however many threads compute them.
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
    """A value and its interval; NaN throughout where no class occurs in the ground truth."""

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


def _resampled(counts: Counts, samples: int, seed: int, stream: int) -> Floats:
    """mIoU of each resample, (S,): over the classes that its own ground truth shows, NaN where it shows none."""
    intersection, union, labelled = counts.dense(counts.labels())
    values = []
    for weights in resamples(counts.images, samples, seed, stream):
        shown = weights @ labelled > 0
        iou = np.divide(weights @ intersection, weights @ union, out=np.zeros(shown.shape), where=shown)
        number = shown.sum(1)
        values.append(np.divide(iou.sum(1), number, out=np.full(len(number), np.nan), where=number > 0))
    return np.concatenate(values)


def _interval(values: Floats, level: float) -> Interval:
    values = values[~np.isnan(values)]
    if not values.size:
        return Interval(float("nan"), float("nan"))
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(low), float(high))


def bootstrap(counts: Counts, samples: int = SAMPLES, seed: int = 0, level: float = LEVEL) -> Interval:
    """Percentile interval of mIoU over resampled images."""
    return _interval(_resampled(counts, samples, seed, 0), level)


def paired_difference(
    a: Counts, b: Counts, samples: int = SAMPLES, seed: int = 0, level: float = LEVEL
) -> tuple[float, Interval]:
    """mIoU of `a` minus that of `b`, with the interval over images that both are scored on.

    `ValueError` when the two were not counted on the same images and labels.
    """
    return mean_difference([(a, b)], samples, seed, level)


def mean_miou(benchmarks: Sequence[Counts], samples: int = SAMPLES, seed: int = 0, level: float = LEVEL) -> Estimate:
    """Mean of mIoU over benchmarks that show any class, each resampled on its own."""
    shown = [counts for counts in benchmarks if counts.labels().size]
    if not shown:
        return Estimate(float("nan"), Interval(float("nan"), float("nan")))
    values = [_resampled(counts, samples, seed, stream) for stream, counts in enumerate(shown)]
    return Estimate(float(np.mean([miou(counts) for counts in shown])), _interval(np.mean(values, axis=0), level))


def mean_difference(
    pairs: Sequence[tuple[Counts, Counts]], samples: int = SAMPLES, seed: int = 0, level: float = LEVEL
) -> Estimate:
    """Mean over benchmarks of the first's mIoU minus the second's; see `paired_difference` and `mean_miou`."""
    for a, b in pairs:
        _require_same_truth(a, b)
    shown = [(a, b) for a, b in pairs if a.labels().size]
    if not shown:
        return Estimate(float("nan"), Interval(float("nan"), float("nan")))
    values = [_resampled(a, samples, seed, s) - _resampled(b, samples, seed, s) for s, (a, b) in enumerate(shown)]
    return Estimate(float(np.mean([miou(a) - miou(b) for a, b in shown])), _interval(np.mean(values, axis=0), level))


def _require_same_truth(a: Counts, b: Counts) -> None:
    if a.images != b.images:
        raise ValueError(f"the methods were scored on {a.images} and {b.images} images; evaluate both on the same data")
    labels = np.union1d(a.labels(), b.labels())
    if not np.array_equal(a.dense(labels)[2], b.dense(labels)[2]):
        raise ValueError("the methods were scored against different labels; evaluate both on the same data")
