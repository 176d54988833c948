"""What the tables have in common: percent, labels of sections, footnotes, and where a row's numbers come from."""

import math
from collections.abc import Sequence

from fgaseg.identity import changes
from fgaseg.reporting.layout import DASH, DISTINCT, Cell, Line, Missing, Number, Section
from fgaseg.reporting.results import Result
from fgaseg.reporting.scores import Scores, estimate
from fgaseg.reporting.statistics import LEVEL, SAMPLES, Bootstrapped, Estimate, Interval
from fgaseg.rows import Row

MEASURED = {
    "sample": "Measured here, sample scale: drawn scenes, small CLIP; not comparable with published numbers",
    "paper": "Measured here, paper scale",
}
PUBLISHED = "Published, paper scale"
LOW_INTERVALS = (
    "Resamples miss classes that few images show: intervals of scores lie somewhat low, so that a score may stand near the "
    "upper end of its own; paired differences are hardly affected."
)
INTERVALS = (
    f"In brackets: {LEVEL:.0%} intervals over images ({SAMPLES} resamples); differences are paired by image, and {DISTINCT} "
    f"marks those whose interval excludes 0. {LOW_INTERVALS}"
)
NOTES = {
    "stale": "Stale: trained or evaluated at another revision or on other data than the plan's. Run the workflow again.",
    "other_code": "Made by other code than the present one, same revision.",
    "partial": "Scored on another number of photographs than the benchmarks are published with: not the paper's benchmarks.",
    "fewer_seeds": "Not all of its seeds are evaluated yet.",
}


def number(found: Estimate | None, signed: bool = False, deviation: float | None = None) -> Cell:
    """An estimate in percent; a dash where the group has no class, and "missing" where nothing is measured."""
    if found is None:
        return Missing()
    if math.isnan(found.value):
        return DASH
    known = not math.isnan(found.interval.low)
    bounds = Interval(*(100 * bound for bound in found.interval)) if known else None
    return Number(100 * found.value, bounds, signed, None if deviation is None else 100 * deviation)


def difference(score: Bootstrapped | None) -> Cell:
    """A difference in percent, marked when its interval excludes 0."""
    cell = number(estimate(score), signed=True)
    if not isinstance(cell, Number) or cell.interval is None:
        return cell
    return Number(cell.value, cell.interval, signed=True, distinct=excludes_zero(cell.interval))


def excludes_zero(interval: Interval) -> bool:
    """Whether both ends lie on one side of 0."""
    return interval.low > 0 or interval.high < 0


def printed(values: Sequence[float | None], signed: bool = False) -> tuple[Cell, ...]:
    """Published numbers, a dash where the paper has none."""
    return tuple(DASH if value is None else Number(value, signed=signed) for value in values)


def with_mean(published: Sequence[float | None], count: int) -> list[float | None]:
    """A row's `count` published numbers and their mean, None where one is missing."""
    values = list(published) or [None] * count
    known = [value for value in values if value is not None]
    return [*values, sum(known) / len(known) if len(known) == len(values) else None]


def _origin(scores: Scores, row: Row, result: Result | None) -> tuple[str, ...]:
    changed = "; ".join(f"{k} = {v}" for k, v in changes(scores.plan.default, row.params).items()) or "none"
    if result is None:
        return (row.run_id or "untrained", row.eval_id, changed, "", "", "", "missing")
    found, training = result.evaluation.provenance, result.evaluation.training
    commit, code = found.git_commit, found.code
    if training is not None and training.git_commit != commit:
        commit = f"{training.git_commit}, evaluated by {commit}"
    if training is not None and training.code != code:
        code = f"{training.code}, evaluated by {code}"
    ids = (result.evaluation.run_id or "untrained", result.folder.name)
    return (*ids, changed, commit, code, found.data_digest[:12], result.state)


def origins(scores: Scores, rows: Sequence[Row]) -> Section:
    """What made each row: a line for each of its seeds."""
    lines = []
    for row in rows:
        for single in row.single:
            origin = _origin(scores, single, scores.result(single))
            lines.append(Line((str(row.number), row.description, str(single.params.training.seed), *origin)))
    header = ("Row", "Label", "Seed", "Run", "Evaluation", "Changed parameters", "Commit", "Code", "Data", "State")
    return Section("Where each row comes from", header, (tuple(lines),), text_columns=len(header))
