"""An ablation table: what was measured, how it differs from the reference row, and the same of the published numbers."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from fgaseg.reporting import layout
from fgaseg.reporting.cells import (
    INTERVALS,
    MEASURED,
    NOTES,
    PUBLISHED,
    difference,
    excludes_zero,
    number,
    origins,
    printed,
    with_mean,
)
from fgaseg.reporting.layout import DASH, MINUS, Cell, Line, Missing, Number, Section, mark_best
from fgaseg.reporting.scores import MEAN, Scores, estimate
from fgaseg.reporting.statistics import LEVEL, Bootstrapped, holm
from fgaseg.reporting.timing import speed_sections
from fgaseg.rows import Row, Table

_MINUS_PUBLISHED = {
    "sample": f"Measured {MINUS} published: other data, other CLIP; says nothing about the method",
    "paper": f"Measured {MINUS} published",
}


@dataclass(frozen=True)
class Verdict:
    """What the mean over benchmarks says of a row against its reference; `holm` is p for all rows of the table together."""

    difference: Bootstrapped
    p: float
    holm: float

    @property
    def distinct(self) -> bool:
        """Whether the interval of the difference excludes 0."""
        return excludes_zero(self.difference.estimate().interval)

    @property
    def after_holm(self) -> bool:
        """Whether the difference stands when all rows of the table are compared at once."""
        return self.distinct and self.holm < 1 - LEVEL

    def __str__(self) -> str:
        if not self.distinct:
            return "not distinguishable"
        return ("higher" if self.difference.value > 0 else "lower") + ("" if self.after_holm else ", not after Holm")


@dataclass(frozen=True)
class Ablation:
    """The measured and published numbers of one table's rows."""

    scores: Scores
    table: Table

    @property
    def benchmarks(self) -> tuple[str, ...]:
        """The benchmarks in the table's order, then `MEAN`."""
        return (*self.scores.plan.default.data.benchmarks, MEAN)

    def reference(self, row: Row) -> Row:
        """The row that differences of `row` are taken against."""
        return self.scores.plan.reference(row)

    def compared(self, row: Row) -> bool:
        """Whether the row is another evaluation than its reference."""
        return row.replicas != self.reference(row).replicas

    def difference(self, row: Row, benchmark: str) -> Bootstrapped | None:
        """Measured: mIoU of `row` minus that of its reference."""
        return self.scores.difference(row, self.reference(row), benchmark) if self.compared(row) else None

    def published(self, row: Row) -> list[float | None]:
        """The paper's numbers in percent and their mean."""
        return with_mean(row.published, len(self.benchmarks) - 1)

    def published_difference(self, row: Row) -> list[float | None]:
        """The paper's number minus that of the reference."""
        both = zip(self.published(row), self.published(self.reference(row)), strict=True)
        return [None if a is None or b is None else a - b for a, b in both]

    def minus_published(self, row: Row) -> list[float | None]:
        """Measured minus published, in percent."""
        both = zip((self.scores.score(row, benchmark) for benchmark in self.benchmarks), self.published(row), strict=True)
        return [None if ours is None or paper is None else 100 * ours.value - paper for ours, paper in both]

    @cached_property
    def verdicts(self) -> dict[int, Verdict]:
        """By row number, for the rows that are measured together with their references."""
        means = {row.number: self.difference(row, MEAN) for row in self.table.rows}
        found = {number: mean for number, mean in means.items() if mean is not None}
        p_values = [mean.p_value() for mean in found.values()]
        adjusted = holm(p_values)
        return {n: Verdict(d, p, h) for (n, d), p, h in zip(found.items(), p_values, adjusted, strict=True)}


def _labels(table: Table) -> tuple[str, ...]:
    return tuple(dict.fromkeys(key for row in table.rows for key in row.label))


def _head(ablation: Ablation, *further: str) -> tuple[str, ...]:
    labels = (label[:1].upper() + label[1:] for label in _labels(ablation.table))
    names = (benchmark.capitalize() if benchmark == MEAN else benchmark.upper() for benchmark in ablation.benchmarks)
    return ("Row", *labels, *further, *names)


def _line(ablation: Ablation, row: Row, further: Sequence[str], cells: Sequence[Cell], measured: bool = True) -> Line:
    labels = (row.label.get(key, "") for key in _labels(ablation.table))
    notes = ablation.scores.notes(row) if measured else ()
    return Line((str(row.number), *labels, *further, *cells), notes, strong=ablation.scores.plan.is_default(row))


def _section(ablation: Ablation, label: str, lines: Sequence[Line], *further: str) -> Section:
    header = _head(ablation, *further)
    return Section(label, header, (tuple(lines),), text_columns=len(header) - len(ablation.benchmarks))


def _measured(ablation: Ablation) -> Section:
    lines, scores = [], ablation.scores
    for row in ablation.table.rows:
        cells = []
        for benchmark in ablation.benchmarks:
            score = estimate(scores.score(row, benchmark))
            cells.append(number(score, deviation=scores.deviation(row, benchmark)))
        done, planned = len(scores.results(row)), len(row.replicas)
        lines.append(_line(ablation, row, [str(done) if done == planned else f"{done} of {planned}"], cells))
    first = 2 + len(_labels(ablation.table))
    return _section(ablation, MEASURED[scores.plan.scale], mark_best(lines, first), "Seeds")


def _against(ablation: Ablation, row: Row) -> str:
    reference = ablation.reference(row)
    return f"row {reference.number}" if reference.table == row.table else reference.name


def _difference_lines(ablation: Ablation, row: Row) -> list[Line]:
    if not ablation.compared(row):
        same = "reference" if row == ablation.reference(row) else "the same model"
        return [_line(ablation, row, [_against(ablation, row), same], [DASH] * (len(ablation.benchmarks) + 2))]
    verdict = ablation.verdicts.get(row.number)
    conclusion: list[Cell] = [Missing(), Missing()]
    if verdict:
        conclusion = [f"{verdict.p:.3f} ({verdict.holm:.3f})", str(verdict)]
    cells = [difference(ablation.difference(row, benchmark)) for benchmark in ablation.benchmarks]
    notes = ablation.scores.notes(row, ablation.reference(row))
    line = _line(ablation, row, [_against(ablation, row), "measured"], [*cells, *conclusion])
    lines = [Line(line.cells, notes, line.strong)]
    paper = ablation.published_difference(row)
    if any(value is not None for value in paper):
        blank = [""] * (2 + len(_labels(ablation.table)))
        lines.append(Line((*blank, "published", *printed(paper, signed=True), "", "")))
    return lines


def _differences(ablation: Ablation) -> Section:
    header = (*_head(ablation, "Against", ""), "p (Holm)", "Mean is")
    groups = tuple(tuple(_difference_lines(ablation, row)) for row in ablation.table.rows)
    label = f"Difference to the reference row, measured at {ablation.scores.plan.scale} scale"
    if any(row.published for row in ablation.table.rows):
        label += ", and published"
    return Section(label, header, groups, text_columns=3 + len(_labels(ablation.table)))


def _published(ablation: Ablation) -> list[Section]:
    rows = [row for row in ablation.table.rows if row.published]
    if not rows:
        return []
    lines = [_line(ablation, row, [], printed(ablation.published(row)), measured=False) for row in rows]
    first = 1 + len(_labels(ablation.table))
    away = []
    for row in rows:
        values = zip(ablation.minus_published(row), ablation.published(row), strict=True)
        cells: list[Cell] = [
            DASH if paper is None else Missing() if value is None else Number(value, signed=True) for value, paper in values
        ]
        away.append(_line(ablation, row, [], cells))
    return [
        _section(ablation, PUBLISHED, mark_best(lines, first)),
        _section(ablation, _MINUS_PUBLISHED[ablation.scores.plan.scale], away),
    ]


def _remarks(ablation: Ablation) -> tuple[str, ...]:
    verdicts = list(ablation.verdicts.values())
    compared, distinct = len(verdicts), sum(v.distinct for v in verdicts)
    missing = sum(map(ablation.compared, ablation.table.rows)) - compared
    remark = "No row is evaluated together with its reference yet."
    if compared:
        rows = "row differs from its reference" if compared == 1 else "rows differ from their references"
        remark = (
            f"{distinct} of {compared} {rows} in the mean beyond chance (the {LEVEL:.0%} interval excludes 0), "
            f"{sum(v.after_holm for v in verdicts)} of them also after Holm's correction for {compared} "
            f"comparison{'s' * (compared > 1)}; the others are not distinguishable from theirs. "
            f"By chance alone 1 of {round(1 / (1 - LEVEL))} true zeros is marked, "
            "and the marks of single benchmarks are not corrected for their number."
        )
    if missing:
        remark += f" Not compared yet: {missing}."
    several = any(len(row.replicas) > 1 for row in ablation.table.rows)
    seeds = "Rows of one seed are one training each: the intervals do not hold what another seed would change."
    if several:
        seeds = f"After {layout.PLUS_MINUS}: standard deviation over seeds. {seeds}"
    return remark, seeds


def ablation_table(scores: Scores, table: Table) -> layout.Table:
    """Measured scores, differences, published scores, and (Table VI) times: each in a section of its own."""
    ablation = Ablation(scores, table)
    sections = (_measured(ablation), _differences(ablation), *_published(ablation), *speed_sections(scores.plan, table))
    bold = "Bold: highest of its column. Shaded or with a bold label: the default model."
    caption = f"{table.caption} {INTERVALS} {bold}"
    return layout.Table(
        table.key, table.title, caption, sections, NOTES, _remarks(ablation), origins=origins(scores, table.rows)
    )
