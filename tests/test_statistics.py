"""mIoU and its intervals, against plain loops over the same resamples."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fgaseg.errors import UserError
from fgaseg.evaluation.statistics import (
    Counts,
    bootstrap,
    load_counts,
    mean_difference,
    mean_miou,
    miou,
    paired_difference,
    resamples,
)

CLASSES = 6  # the last is never in the ground truth


def make_counts(images: int, errors: float, truth: int = 0, seed: int = 0) -> Counts:
    """Counts of made-up label maps: `truth` decides the labels, `seed` and `errors` which pixels are predicted wrongly."""
    labels = np.random.default_rng(truth)
    mistakes = np.random.default_rng([seed, 1])
    rows = []
    for image in range(images):
        shown = labels.choice(CLASSES - 1, 3, replace=False)
        label = labels.choice(shown, 400, p=[0.6, 0.3, 0.1])
        wrong = mistakes.random(400) < errors * mistakes.uniform(0.3, 1.7)
        prediction = np.where(wrong, mistakes.integers(0, CLASSES, 400), label)
        for k in np.union1d(label, prediction):
            hit = np.count_nonzero((label == k) & (prediction == k))
            rows.append((image, k, hit, np.count_nonzero(prediction == k), np.count_nonzero(label == k)))
    return Counts(images, *np.array(rows, np.int64).T)


def plain_miou(counts: Counts, drawn: list[int], wanted: set[int] | None = None) -> float:
    """mIoU of the images `drawn`, repeats included, with loops alone."""
    values = []
    for k in range(CLASSES):
        intersection = union = labelled = 0
        for image in drawn:
            for i, c, hit, predicted, truth in zip(
                counts.image, counts.classes, counts.intersection, counts.predicted, counts.labelled, strict=True
            ):
                if i == image and c == k:
                    intersection, union, labelled = intersection + hit, union + predicted + truth - hit, labelled + truth
        if labelled and (wanted is None or k in wanted):
            values.append(intersection / union)
    return sum(values) / len(values) if values else float("nan")


def drawn_images(images: int, samples: int, seed: int, stream: int = 0) -> list[list[int]]:
    blocks = np.concatenate(list(resamples(images, samples, seed, stream)))
    return [[image for image in range(images) for _ in range(int(row[image]))] for row in blocks]


def quantiles(values: list[float], level: float) -> tuple[float, float]:
    low, high = np.quantile([v for v in values if not np.isnan(v)], [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def test_miou_agrees_with_plain_loops() -> None:
    counts = make_counts(9, 0.3)
    assert miou(counts) == pytest.approx(plain_miou(counts, list(range(9))), abs=1e-12)


def test_a_class_that_the_ground_truth_lacks_does_not_count() -> None:
    column = np.array([10, 10])
    counts = Counts(1, np.array([0, 0]), np.array([0, 3]), np.array([10, 0]), column, np.array([10, 0]))
    assert miou(counts) == 1.0


def test_every_resample_draws_as_many_images_as_there_are() -> None:
    blocks = list(resamples(7, 600, seed=3))
    assert sum(len(block) for block in blocks) == 600
    assert all((block.sum(1) == 7).all() for block in blocks)
    assert np.concatenate(blocks).mean(0) == pytest.approx(np.ones(7), abs=0.15)


@pytest.mark.parametrize("level", [0.95, 0.5])
def test_bootstrap_agrees_with_plain_loops(level: float) -> None:
    counts = make_counts(5, 0.4)
    expected = quantiles([plain_miou(counts, drawn) for drawn in drawn_images(5, 60, seed=7)], level)
    assert bootstrap(counts, samples=60, seed=7, level=level) == pytest.approx(expected, abs=1e-12)


def test_paired_difference_scores_both_methods_on_the_same_resamples() -> None:
    a, b = make_counts(5, 0.2), make_counts(5, 0.5, seed=1)
    draws = drawn_images(5, 60, seed=2)
    expected = quantiles([plain_miou(a, drawn) - plain_miou(b, drawn) for drawn in draws], 0.95)
    difference, interval = paired_difference(a, b, samples=60, seed=2)
    assert difference == pytest.approx(miou(a) - miou(b), abs=1e-12)
    assert interval == pytest.approx(expected, abs=1e-12)


def test_a_group_of_classes_is_resampled_with_all_images() -> None:
    counts = make_counts(5, 0.4)
    mask = np.isin(np.arange(CLASSES), [1, 4])
    expected = quantiles([plain_miou(counts, drawn, {1, 4}) for drawn in drawn_images(5, 60, seed=0)], 0.95)
    group = counts.restrict(mask)
    assert miou(group) == pytest.approx(plain_miou(counts, list(range(5)), {1, 4}), abs=1e-12)
    assert bootstrap(group, samples=60) == pytest.approx(expected, abs=1e-12)


def test_a_mean_resamples_each_benchmark_on_its_own() -> None:
    pairs = [(make_counts(n, 0.2, truth=n), make_counts(n, 0.5, truth=n, seed=1)) for n in (4, 6)]
    gains = []
    for stream, (a, b) in enumerate(pairs):
        draws = drawn_images(a.images, 40, 5, stream)
        gains.append([plain_miou(a, drawn) - plain_miou(b, drawn) for drawn in draws])
    expected = quantiles([(x + y) / 2 for x, y in zip(*gains, strict=True)], 0.95)
    value, interval = mean_difference(pairs, samples=40, seed=5)
    assert value == pytest.approx(sum(miou(a) - miou(b) for a, b in pairs) / 2, abs=1e-12)
    assert interval == pytest.approx(expected, abs=1e-12)


def test_the_interval_holds_the_estimate_and_narrows_with_more_images() -> None:
    few, many = make_counts(12, 0.3), make_counts(120, 0.3)
    for counts in (few, many):
        low, high = bootstrap(counts)
        assert low < miou(counts) < high
    assert np.diff(bootstrap(many))[0] < 0.6 * np.diff(bootstrap(few))[0]


def test_pairing_narrows_the_interval_of_a_difference() -> None:
    a, b = make_counts(30, 0.30), make_counts(30, 0.32)
    _, paired = paired_difference(a, b)
    low, high = bootstrap(a)
    assert paired.high - paired.low < high - low


def test_equal_counts_differ_by_nothing() -> None:
    counts = make_counts(8, 0.3)
    assert paired_difference(counts, counts) == (0.0, (0.0, 0.0))


def test_the_same_seed_gives_the_same_interval_and_another_does_not() -> None:
    counts = make_counts(10, 0.4)
    assert bootstrap(counts, seed=1) == bootstrap(counts, seed=1)
    assert bootstrap(counts, seed=1) != bootstrap(counts, seed=2)


def test_a_group_without_classes_is_not_a_number_and_leaves_the_mean_alone() -> None:
    counts = make_counts(6, 0.3)
    empty = counts.restrict(np.zeros(CLASSES, bool))
    assert np.isnan(miou(empty))
    assert np.isnan([*bootstrap(empty), mean_miou([empty]).value]).all()
    assert mean_miou([empty, counts]) == mean_miou([counts])


def test_methods_that_were_scored_on_other_images_are_refused() -> None:
    with pytest.raises(ValueError, match="6 and 7 images"):
        paired_difference(make_counts(6, 0.3), make_counts(7, 0.3))
    with pytest.raises(ValueError, match="different labels"):
        paired_difference(make_counts(6, 0.3, truth=0), make_counts(6, 0.3, truth=1))


def save_counts(path: Path, counts: Counts) -> dict[str, Any]:
    columns: dict[str, Any] = {"image": counts.image.astype(np.int32), "class": counts.classes.astype(np.int32)}
    columns |= {"intersection": counts.intersection, "predicted": counts.predicted, "labelled": counts.labelled}
    arrays: dict[str, Any] = {f"pas-20/{name}": column for name, column in columns.items()}
    np.savez(path, **arrays)
    return arrays


def test_counts_come_back_from_their_file(tmp_path: Path) -> None:
    counts = make_counts(6, 0.3)
    save_counts(tmp_path / "counts.npz", counts)
    loaded = load_counts(tmp_path / "counts.npz", {"pas-20": 6})["pas-20"]
    assert miou(loaded) == miou(counts)
    assert bootstrap(loaded) == bootstrap(counts)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda a: a.pop("pas-20/labelled"), "'pas-20/labelled' is missing"),
        (lambda a: a.update({"pas-20/image": a["pas-20/image"][1:]}), "differ in length"),
        (lambda a: a.update({"pas-20/image": a["pas-20/image"] + 1}), "counts of image 6, but evaluation.json has 6 images"),
        (lambda a: a.update({"pas-20/intersection": a["pas-20/predicted"] + 1}), "exceeds"),
    ],
)
def test_counts_that_cannot_be_are_refused(tmp_path: Path, change: Callable[[dict[str, Any]], object], message: str) -> None:
    path = tmp_path / "counts.npz"
    arrays = save_counts(path, make_counts(6, 0.3))
    change(arrays)
    np.savez(path, **arrays)
    with pytest.raises(UserError, match=message) as error:
        load_counts(path, {"pas-20": 6})
    assert str(path) in str(error.value)


def test_a_missing_or_truncated_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "counts.npz"
    with pytest.raises(UserError, match="no such file"):
        load_counts(path, {"pas-20": 6})
    save_counts(path, make_counts(6, 0.3))
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(UserError, match=r"counts\.npz: not readable"):
        load_counts(path, {"pas-20": 6})
