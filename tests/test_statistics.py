"""mIoU and its intervals, against plain loops over the same resamples."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.stats

from fgaseg.errors import UserError
from fgaseg.reporting.statistics import (
    SAMPLES,
    Bootstrapped,
    Counts,
    bootstrap,
    holm,
    load_counts,
    mean_of,
    miou,
    require_same_truth,
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


def test_streams_of_one_seed_draw_differently() -> None:
    assert drawn_images(20, 5, seed=0, stream=0) != drawn_images(20, 5, seed=0, stream=1)


@pytest.mark.parametrize("level", [0.95, 0.5])
def test_bootstrap_agrees_with_plain_loops(level: float) -> None:
    counts = make_counts(5, 0.4)
    expected = quantiles([plain_miou(counts, drawn) for drawn in drawn_images(5, 60, seed=7)], level)
    assert bootstrap(counts, samples=60, seed=7).estimate(level).interval == pytest.approx(expected, abs=1e-12)


def test_paired_difference_scores_both_methods_on_the_same_resamples() -> None:
    a, b = make_counts(5, 0.2), make_counts(5, 0.5, seed=1)
    draws = drawn_images(5, 60, seed=2)
    expected = quantiles([plain_miou(a, drawn) - plain_miou(b, drawn) for drawn in draws], 0.95)
    difference, interval = (bootstrap(a, 60, seed=2) - bootstrap(b, 60, seed=2)).estimate()
    assert difference == pytest.approx(miou(a) - miou(b), abs=1e-12)
    assert interval == pytest.approx(expected, abs=1e-12)


def test_a_group_of_classes_is_resampled_with_all_images() -> None:
    counts = make_counts(5, 0.4)
    mask = np.isin(np.arange(CLASSES), [1, 4])
    expected = quantiles([plain_miou(counts, drawn, {1, 4}) for drawn in drawn_images(5, 60, seed=0)], 0.95)
    group = counts.restrict(mask)
    assert miou(group) == pytest.approx(plain_miou(counts, list(range(5)), {1, 4}), abs=1e-12)
    assert bootstrap(group, samples=60).estimate().interval == pytest.approx(expected, abs=1e-12)


def test_a_mean_resamples_each_benchmark_on_its_own() -> None:
    pairs = [(make_counts(n, 0.2, truth=n), make_counts(n, 0.5, truth=n, seed=1)) for n in (4, 6)]
    gains = []
    for stream, (a, b) in enumerate(pairs):
        draws = drawn_images(a.images, 40, 5, stream)
        gains.append([plain_miou(a, drawn) - plain_miou(b, drawn) for drawn in draws])
    expected = quantiles([(x + y) / 2 for x, y in zip(*gains, strict=True)], 0.95)
    gaps = [bootstrap(a, 40, 5, stream) - bootstrap(b, 40, 5, stream) for stream, (a, b) in enumerate(pairs)]
    value, interval = mean_of(gaps).estimate()
    assert value == pytest.approx(sum(miou(a) - miou(b) for a, b in pairs) / 2, abs=1e-12)
    assert interval == pytest.approx(expected, abs=1e-12)


def test_the_interval_holds_the_estimate_and_narrows_with_more_images() -> None:
    few, many = make_counts(12, 0.3), make_counts(120, 0.3)
    for counts in (few, many):
        value, (low, high) = bootstrap(counts).estimate()
        assert low < value == miou(counts) < high
    assert np.diff(bootstrap(many).estimate().interval)[0] < 0.6 * np.diff(bootstrap(few).estimate().interval)[0]


def test_pairing_narrows_the_interval_of_a_difference() -> None:
    a, b = make_counts(30, 0.30), make_counts(30, 0.32)
    _, paired = (bootstrap(a) - bootstrap(b)).estimate()
    _, (low, high) = bootstrap(a).estimate()
    assert paired.high - paired.low < high - low


def test_equal_counts_differ_by_nothing() -> None:
    counts = make_counts(8, 0.3)
    nothing = bootstrap(counts) - bootstrap(counts)
    assert nothing.estimate() == (0.0, (0.0, 0.0))
    assert nothing.p_value() == 1.0


def test_the_same_seed_gives_the_same_interval_and_another_does_not() -> None:
    counts = make_counts(10, 0.4)
    assert bootstrap(counts, seed=1).estimate() == bootstrap(counts, seed=1).estimate()
    assert bootstrap(counts, seed=1).estimate() != bootstrap(counts, seed=2).estimate()


def test_a_group_without_classes_is_not_a_number_and_leaves_the_mean_alone() -> None:
    counts = make_counts(6, 0.3)
    empty = counts.restrict(np.zeros(CLASSES, bool))
    assert np.isnan(miou(empty))
    assert np.isnan([*bootstrap(empty).estimate().interval, mean_of([bootstrap(empty)]).value]).all()
    assert mean_of([bootstrap(empty), bootstrap(counts)]).estimate() == bootstrap(counts).estimate()


def test_a_single_image_has_a_score_but_no_interval_and_no_significance() -> None:
    difference = bootstrap(make_counts(1, 0.1)) - bootstrap(make_counts(1, 0.6, seed=1))
    value, interval = difference.estimate()
    assert value > 0
    assert np.isnan(interval).all()
    assert difference.p_value() == 1
    assert not np.isnan(mean_of([difference, bootstrap(make_counts(6, 0.3))]).value)


def test_methods_that_were_scored_on_other_images_are_refused() -> None:
    with pytest.raises(ValueError, match="6 and 7 images"):
        require_same_truth(make_counts(6, 0.3), make_counts(7, 0.3))
    with pytest.raises(ValueError, match="different labels"):
        require_same_truth(make_counts(6, 0.3, truth=0), make_counts(6, 0.3, truth=1))


def test_the_interval_agrees_with_scipys_bootstrap_over_images() -> None:
    counts = make_counts(40, 0.4)
    intersection, union, labelled = counts.dense(counts.labels())

    def statistic(images: np.ndarray) -> float:
        shown = labelled[images].sum(0) > 0
        return float((intersection[images].sum(0)[shown] / union[images].sum(0)[shown]).mean())

    theirs = scipy.stats.bootstrap(
        (np.arange(40),), statistic, n_resamples=4000, vectorized=False, method="percentile", random_state=1
    ).confidence_interval
    interval = bootstrap(counts, samples=4000).estimate().interval
    assert interval == pytest.approx((theirs.low, theirs.high), abs=0.1 * (theirs.high - theirs.low))


def test_the_score_of_several_seeds_is_their_mean_on_the_same_images() -> None:
    seeds = [make_counts(5, 0.4, seed=seed) for seed in range(3)]
    draws = drawn_images(5, 60, seed=0)
    expected = quantiles([sum(plain_miou(counts, drawn) for counts in seeds) / 3 for drawn in draws], 0.95)
    value, interval = mean_of([bootstrap(counts, 60) for counts in seeds]).estimate()
    assert value == pytest.approx(sum(map(miou, seeds)) / 3, abs=1e-12)
    assert interval == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("sign", [1, -1])
def test_p_counts_the_resamples_on_the_other_side_of_zero(sign: int) -> None:
    difference = Bootstrapped(sign * 0.5, sign * np.array([0.4, 0.6, -0.1, 0.7, 0.0, 0.5, 0.3, 0.2, 0.9, 0.8]))
    assert difference.p_value() == pytest.approx(2 * (1 + 2) / (1 + 10))


def test_p_is_never_zero_and_agrees_with_the_interval() -> None:
    a, b = make_counts(30, 0.1), make_counts(30, 0.5, seed=1)
    clear = bootstrap(a) - bootstrap(b)
    assert clear.estimate().interval.low > 0
    assert clear.p_value() == 2 / (SAMPLES + 1)
    unclear = bootstrap(make_counts(30, 0.3)) - bootstrap(make_counts(30, 0.3, seed=5))
    assert unclear.estimate().interval.low < 0 < unclear.estimate().interval.high
    assert unclear.p_value() > 0.05


def test_p_is_close_to_that_of_a_permutation_of_methods_within_images() -> None:
    a, b = make_counts(40, 0.30), make_counts(40, 0.32, seed=3)
    labels = np.union1d(a.labels(), b.labels())
    (hit_a, union_a, _), (hit_b, union_b, _) = a.dense(labels), b.dense(labels)
    generator, observed, beyond = np.random.default_rng(0), miou(a) - miou(b), 0
    for _ in range(2000):
        swap = generator.random(40)[:, None] < 0.5
        x = np.where(swap, hit_b, hit_a).sum(0) / np.where(swap, union_b, union_a).sum(0)
        y = np.where(swap, hit_a, hit_b).sum(0) / np.where(swap, union_a, union_b).sum(0)
        beyond += abs((x - y).mean()) >= abs(observed)
    assert 0.02 < beyond / 2000 < 0.98
    assert (bootstrap(a) - bootstrap(b)).p_value() == pytest.approx(beyond / 2000, abs=0.08)


def test_holm_rejects_step_by_step_as_its_definition_says() -> None:
    p_values = [0.011, 0.9, 0.004, 0.03, 0.02, 0.004]
    adjusted = holm(p_values)
    for level in np.linspace(0.001, 0.999, 500):
        rejected: set[int] = set()
        for step, i in enumerate(sorted(range(6), key=p_values.__getitem__)):
            if p_values[i] * (6 - step) > level:
                break
            rejected.add(i)
        assert {i for i, p in enumerate(adjusted) if p <= level} == rejected
    assert holm([]) == []


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
    assert bootstrap(loaded).estimate() == bootstrap(counts).estimate()


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
