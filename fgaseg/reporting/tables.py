"""Table I: the published numbers, what was measured here, and the same numbers as CSV and metrics.

Published and measured numbers stand in sections of their own; at sample scale they say nothing about each other.
"""

import json
import math
from collections.abc import Sequence
from pathlib import Path

from fgaseg.evaluation.statistics import LEVEL, SAMPLES, Estimate, Interval
from fgaseg.files import write_whole
from fgaseg.plan import Method, Plan
from fgaseg.reporting.comparison import GROUPS, MEAN, METHODS, Comparison, comparisons
from fgaseg.reporting.formats import latex, markdown, page, terminal
from fgaseg.reporting.layout import DASH, MINUS, Cell, Line, Missing, Number, Section, Table
from fgaseg.reporting.published import Published, published_groups
from fgaseg.reporting.results import Group
from fgaseg.reporting.tidy import table_1_csv

MEASURED = {
    "sample": "Measured here, sample scale: drawn scenes, small CLIP; not comparable with published numbers",
    "paper": "Measured here, paper scale",
}
PUBLISHED = "Published, paper scale"
NOTES = {"stale": "Stale: evaluated at another revision or on other data than the plan's. Run the workflow again."}
NAMES: dict[Method, str] = {"dense_clip": "Dense CLIP", "fgaseg": "FGAseg"}
DIFFERENCE = f"FGAseg {MINUS} dense CLIP"
_INTERVALS = f"In brackets: {LEVEL:.0%} intervals over images ({SAMPLES} resamples); differences are paired by image."
_KINDS = {"seen": "seen in training", "unseen": "unseen in training", "stuff": "stuff", "thing": "things"}


def number(estimate: Estimate | None, signed: bool = False, interval: bool = True) -> Cell:
    """An estimate in percent; a dash where the group has no class, and "missing" where nothing is measured."""
    if estimate is None:
        return Missing()
    if math.isnan(estimate.value):
        return DASH
    low, high = estimate.interval
    return Number(100 * estimate.value, Interval(100 * low, 100 * high) if interval else None, signed)


def _published(values: Sequence[float | None]) -> tuple[Cell, ...]:
    return tuple(DASH if value is None else Number(value) for value in values)


def _published_line(row: Published) -> Line:
    source = "(the paper)" if row.reference is None else f"[{row.reference}]"
    texts = (f"{row.method} {source}", row.vlm or DASH, row.backbone or DASH, row.train)
    return Line((*texts, *_published(row.miou)), strong=row.reference is None)


def _published_section(plan: Plan, benchmarks: tuple[str, ...]) -> Section:
    header = ("Method", "VLM", "Backbone", "Training data", *map(str.upper, benchmarks))
    groups = tuple(tuple(map(_published_line, group)) for group in published_groups(plan))
    return Section(PUBLISHED, header, groups, text_columns=4)


def _notes(comparison: Comparison, *methods: Method) -> tuple[str, ...]:
    return ("stale",) if comparison.stale(*methods) else ()


def _measured_group(comparison: Comparison) -> tuple[Line, ...]:
    columns = (*comparison.benchmarks, MEAN)
    lines = []
    for method in METHODS:
        cells = [number(comparison.score(method, benchmark)) for benchmark in columns]
        lines.append(Line((NAMES[method], comparison.backbone, *cells), _notes(comparison, method), strong=method == "fgaseg"))
    cells = [number(comparison.difference(benchmark), signed=True) for benchmark in columns]
    return (*lines, Line((DIFFERENCE, comparison.backbone, *cells), _notes(comparison, *METHODS)))


def table_1(plan: Plan, measured: list[Comparison] | None = None) -> Table:
    """The paper's 28 rows, and in a section of their own the rows that were measured at the plan's scale."""
    measured = comparisons(plan) if measured is None else measured
    benchmarks = measured[0].benchmarks
    ours = Section(
        MEASURED[plan.scale],
        ("Method", "CLIP", *map(str.upper, benchmarks), "Mean"),
        tuple(_measured_group(comparison) for comparison in measured),
        text_columns=2,
    )
    table = plan.tables["table_1"]
    sections = (_published_section(plan, benchmarks), ours)
    return Table(table.key, table.title, f"{table.caption} {_INTERVALS}", sections, NOTES)


def _kind_group(comparison: Comparison, group: Group) -> tuple[Line, ...]:
    sizes = [comparison.classes(benchmark, group) for benchmark in comparison.benchmarks]
    lines = [Line((_KINDS[group], "classes shown", *(Missing() if n is None else str(n) for n in sizes), ""))]
    columns = (*comparison.benchmarks, MEAN)
    for method in METHODS:
        cells = [number(comparison.score(method, benchmark, group), interval=False) for benchmark in columns]
        lines.append(Line(("", NAMES[method], *cells), _notes(comparison, method)))
    cells = [number(comparison.difference(benchmark, group), signed=True) for benchmark in columns]
    return (*lines, Line(("", DIFFERENCE, *cells), _notes(comparison, *METHODS), strong=True))


def group_table(plan: Plan, measured: list[Comparison] | None = None) -> Table:
    """mIoU of the classes met in training and not met, and of stuff and things, on each backbone that is measured."""
    measured = comparisons(plan) if measured is None else measured
    sections = tuple(
        Section(
            f"{MEASURED[plan.scale]}; {comparison.backbone}",
            ("Classes", "", *map(str.upper, comparison.benchmarks), "Mean"),
            tuple(_kind_group(comparison, group) for group in GROUPS),
            text_columns=2,
        )
        for comparison in measured
        if comparison.measured
    )
    caption = f"mIoU in percent over the classes of each kind; a dash where a benchmark shows none. {_INTERVALS}"
    return Table("table_1_groups", "Seen and unseen classes, stuff and things", caption, sections, NOTES)


def terminal_table(plan: Plan) -> str:
    """What was measured, beside the FGAseg of the paper, in at most 100 columns."""
    aside = "paper (real data)" if plan.scale == "sample" else "paper"
    sections = []
    for comparison in comparisons(plan):
        published = comparison.rows["fgaseg"].published or (None,) * len(comparison.benchmarks)
        known = [value for value in published if value is not None]
        mean = sum(known) / len(known) if len(known) == len(published) else None
        lines = []
        for benchmark, value in zip((*comparison.benchmarks, MEAN), (*published, mean), strict=True):
            scores = [number(comparison.score(method, benchmark)) for method in METHODS]
            gain = number(comparison.difference(benchmark), signed=True)
            name = benchmark if benchmark == MEAN else benchmark.upper()
            lines.append(Line((name, *scores, gain, *_published([value])), _notes(comparison, *METHODS)))
        kinds = []
        for group in GROUPS if comparison.measured else ():
            scores = [number(comparison.score(method, MEAN, group)) for method in METHODS]
            gain = number(comparison.difference(MEAN, group), signed=True)
            kinds.append(Line((f"mean, {group}", *scores, gain, ""), _notes(comparison, *METHODS)))
        header = (comparison.backbone, "dense CLIP", "FGAseg", "difference", aside)
        sections.append(Section("", header, tuple(filter(None, (tuple(lines), tuple(kinds))))))
    title = f"Table I, mIoU in percent. {MEASURED[plan.scale]}."
    return terminal(Table("terminal", title, _INTERVALS, tuple(sections), NOTES))


def metrics(plan: Plan, measured: list[Comparison]) -> str:
    """JSON of the default backbone's mIoU in percent, {benchmark: {dense_clip, fgaseg, difference}}; null where missing."""
    comparison = next(c for c in measured if c.rows["fgaseg"].params.vlm.backbone == plan.default.vlm.backbone)

    def percent(estimate: Estimate | None) -> float | None:
        return None if estimate is None else round(100 * estimate.value, 2)

    content = {
        benchmark: {method: percent(comparison.score(method, benchmark)) for method in METHODS}
        | {"difference": percent(comparison.difference(benchmark))}
        for benchmark in (*comparison.benchmarks, MEAN)
    }
    return json.dumps(content, indent=2) + "\n"


def write_table_1(plan: Plan, out: Path) -> None:
    """Write table_1.md, .csv, .tex, .html and metrics.json into the folder `out`, or nothing when an evaluation is damaged."""
    measured = comparisons(plan)
    tables = [table for table in (table_1(plan, measured), group_table(plan, measured)) if table.sections]
    contents = {
        "table_1.md": "\n".join(map(markdown, tables)),
        "table_1.csv": table_1_csv(plan, measured),
        "table_1.tex": "\n".join(map(latex, tables)),
        "table_1.html": page(*tables),
        "metrics.json": metrics(plan, measured),
    }
    for name, content in contents.items():
        write_whole(out / name, content)
