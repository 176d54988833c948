"""Times of top-N inference: measured ones from `timings/<table>.json`, and the published ones, where there are any, below."""

from collections.abc import Callable
from dataclasses import dataclass
from statistics import median

import numpy as np
from pydantic import Field, ValidationError

from fgaseg.errors import UserError
from fgaseg.plan import Plan
from fgaseg.provenance import code_fingerprint
from fgaseg.reporting.layout import DASH, Cell, Line, Missing, Number, Section
from fgaseg.reporting.results import Provenance, Record
from fgaseg.reporting.statistics import Interval
from fgaseg.rows import Row, Table

_TIMES, _ARROW = "\N{MULTIPLICATION SIGN}", " \N{RIGHTWARDS ARROW} "


class Timed(Record):
    """One benchmark: milliseconds of each timed image and repeat, mean number of classes kept after each head."""

    classes: int
    images: int
    milliseconds: tuple[float, ...] = Field(min_length=1)
    kept: tuple[float, ...]

    @property
    def median(self) -> float:
        """Milliseconds of an image."""
        return median(self.milliseconds)

    @property
    def quartiles(self) -> Interval:
        """The middle half of the times."""
        low, high = np.quantile(self.milliseconds, (0.25, 0.75))
        return Interval(float(low), float(high))


class TimedRow(Record):
    """One evaluation; `eval_id` is None for the same model with all classes kept, which speed-ups are relative to."""

    eval_id: str | None
    benchmarks: dict[str, Timed]


class Timings(Record):
    """The content of a table's file of times."""

    device: str
    threads: int
    warm_up: int
    repeats: int
    provenance: Provenance
    rows: tuple[TimedRow, ...]


@dataclass(frozen=True)
class Speed:
    """The times of one row on one benchmark, and how often faster it is than with all classes kept (None: unknown)."""

    timed: Timed
    speed_up: float | None


def read_timings(plan: Plan, key: str) -> Timings | None:
    """The times of table `key`; None where they have not been taken, `UserError` where the file is damaged."""
    path = plan.paths.timing(key)
    if not path.exists():
        return None
    try:
        return Timings.model_validate_json(path.read_bytes())
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"]) or "the whole file"
        raise UserError(f"{path}: {key}: {first['msg']}; remove it and take the times again") from None


def speed(timings: Timings | None, row: Row, benchmark: str) -> Speed | None:
    """What was timed of `row`; None where nothing was."""
    by_id = {timed.eval_id: timed.benchmarks.get(benchmark) for timed in timings.rows} if timings else {}
    timed, everything = by_id.get(row.eval_id), by_id.get(None)
    if timed is None:
        return None
    return Speed(timed, everything.median / timed.median if everything else None)


def slowest_published(table: Table) -> Row | None:
    """Of the rows with published times the one that keeps most classes."""
    published = (row for row in table.rows if row.published_ms)
    return max(published, key=lambda row: row.params.evaluation.top_n or 0, default=None)


def published_times(table: Table, row: Row) -> list[float | None]:
    """The paper's milliseconds of each benchmark, None where it has none."""
    return list(row.published_ms) or [None] * len(row.params.data.benchmarks)


def published_speed_up(table: Table, row: Row) -> list[float | None]:
    """The paper's time of the slowest row over that of `row`."""
    slowest = slowest_published(table)
    if slowest is None:
        return [None] * len(row.params.data.benchmarks)
    both = zip(slowest.published_ms, published_times(table, row), strict=True)
    return [None if a is None or not b else a / b for a, b in both]


def _faster(value: float | None) -> Cell:
    return DASH if value is None else f"{value:.2f}{_TIMES}"


def _whole(value: float | None) -> Cell:
    return DASH if value is None else Number(value, decimals=0)


def _time(found: Speed) -> Cell:
    return Number(found.timed.median, found.timed.quartiles, decimals=0)


def _kept(found: Speed) -> Cell:
    counts = _ARROW.join(f"{count:.0f}" for count in found.timed.kept)
    return f"{counts} of {found.timed.classes}"


def speed_sections(plan: Plan, table: Table) -> list[Section]:
    """Times, speed-ups and kept classes, measured and published; none for a table that is not timed."""
    if not table.timed:
        return []
    rows, slowest = table.rows, slowest_published(table)
    timings, benchmarks = read_timings(plan, table.key), plan.default.data.benchmarks
    labels = tuple(dict.fromkeys(key for row in rows for key in row.label))
    header = ("Row", *labels, *map(str.upper, benchmarks))

    def section(label: str, cells: Callable[[Row], list[Cell]]) -> Section:
        lines = (Line((str(row.number), *(row.label.get(key, "") for key in labels), *cells(row))) for row in rows)
        return Section(label, header, (tuple(lines),), text_columns=1 + len(labels))

    def measured(show: Callable[[Speed], Cell]) -> Callable[[Row], list[Cell]]:
        found = {row.number: [speed(timings, row, benchmark) for benchmark in benchmarks] for row in rows}
        return lambda row: [Missing() if s is None else show(s) for s in found[row.number]]

    where = "not taken yet"
    if timings:
        where = f"{timings.device}, threads: {timings.threads}, repeats: {timings.repeats}, after {timings.warm_up} to warm up"
        if timings.provenance.code != code_fingerprint():
            where += "; taken by other code than the present one"
    sections = [
        section(f"Milliseconds per image, measured here: median (middle half); {where}", measured(_time)),
        section("Speed-up against all classes kept, measured here", measured(lambda found: _faster(found.speed_up))),
        section("Classes kept after the three heads, measured here", measured(_kept)),
    ]
    if slowest is None:
        return sections
    return [
        *sections,
        section("Milliseconds per image, published (RTX 4090)", lambda row: [_whole(ms) for ms in published_times(table, row)]),
        section(
            f"Speed-up against row {slowest.number} ({slowest.description}), published",
            lambda row: [_faster(value) for value in published_speed_up(table, row)],
        ),
    ]
