"""Table I: the published numbers, what was measured here, and the classes by kind.

Published and measured numbers stand in sections of their own; at sample scale they say nothing about each other.
"""

from collections.abc import Sequence

from fgaseg.identity import Method
from fgaseg.plan import Plan
from fgaseg.reporting.cells import INTERVALS, MEASURED, NOTES, PUBLISHED, difference, number, origins, printed, with_mean
from fgaseg.reporting.comparison import GROUPS, METHODS, Comparison
from fgaseg.reporting.formats import terminal
from fgaseg.reporting.layout import DASH, MINUS, Line, Missing, Section, Table, mark_best
from fgaseg.reporting.published import Published, published_groups
from fgaseg.reporting.results import Group
from fgaseg.reporting.scores import MEAN

NAMES: dict[Method, str] = {"dense_clip": "Dense CLIP", "fgaseg": "FGAseg"}
DIFFERENCE = f"FGAseg {MINUS} dense CLIP"
_BEST = "Bold numbers: the best of each backbone size."
_KINDS = {"seen": "seen in training", "unseen": "unseen in training", "stuff": "stuff", "thing": "things"}


def _published_line(row: Published) -> Line:
    source = "(the paper)" if row.reference is None else f"[{row.reference}]"
    texts = (f"{row.method} {source}", row.vlm or DASH, row.backbone or DASH, row.train)
    return Line((*texts, *printed(row.miou)), strong=row.reference is None)


def _published_section(plan: Plan, benchmarks: tuple[str, ...]) -> Section:
    header = ("Method", "VLM", "Backbone", "Training data", *map(str.upper, benchmarks))
    groups = tuple(mark_best([_published_line(row) for row in group], 4) for group in published_groups(plan))
    return Section(PUBLISHED, header, groups, text_columns=4)


def _measured_group(comparison: Comparison) -> tuple[Line, ...]:
    columns = (*comparison.benchmarks, MEAN)
    lines = []
    for method in METHODS:
        cells = [number(comparison.score(method, b), deviation=comparison.deviation(method, b)) for b in columns]
        lines.append(Line((NAMES[method], comparison.backbone, *cells), comparison.notes(method), strong=method == "fgaseg"))
    cells = [difference(comparison.difference(benchmark)) for benchmark in columns]
    return (*mark_best(lines, 2), Line((DIFFERENCE, comparison.backbone, *cells), comparison.notes(*METHODS)))


def table_1(plan: Plan, measured: Sequence[Comparison]) -> Table:
    """The paper's 28 rows, and in a section of their own the rows that were measured at the plan's scale."""
    benchmarks = measured[0].benchmarks
    ours = Section(
        MEASURED[plan.scale],
        ("Method", "CLIP", *map(str.upper, benchmarks), "Mean"),
        tuple(_measured_group(comparison) for comparison in measured),
        text_columns=2,
    )
    table = plan.tables["table_1"]
    sections = (_published_section(plan, benchmarks), ours)
    rows = [row for comparison in measured for row in comparison.rows.values()]
    origin = origins(measured[0].scores, sorted(rows, key=lambda row: row.number))
    return Table(table.key, table.title, f"{table.caption} {INTERVALS} {_BEST}", sections, NOTES, origins=origin)


def _kind_group(comparison: Comparison, group: Group) -> tuple[Line, ...]:
    sizes = [comparison.classes(benchmark, group) for benchmark in comparison.benchmarks]
    lines = [Line((_KINDS[group], "classes shown", *(Missing() if n is None else str(n) for n in sizes), ""))]
    columns = (*comparison.benchmarks, MEAN)
    for method in METHODS:
        cells = [number(comparison.score(method, benchmark, group)) for benchmark in columns]
        lines.append(Line(("", NAMES[method], *cells), comparison.notes(method)))
    cells = [difference(comparison.difference(benchmark, group)) for benchmark in columns]
    return (*lines, Line(("", DIFFERENCE, *cells), comparison.notes(*METHODS), strong=True))


def group_table(plan: Plan, measured: Sequence[Comparison]) -> Table:
    """mIoU of the classes met in training and not met, and of stuff and things, on each backbone that is measured."""
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
    caption = f"mIoU in percent over the classes of each kind; a dash where a benchmark shows none. {INTERVALS}"
    return Table("table_1_groups", "Seen and unseen classes, stuff and things", caption, sections, NOTES)


def terminal_table(plan: Plan, measured: Sequence[Comparison]) -> str:
    """What was measured, beside the FGAseg of the paper, in at most 100 columns."""
    aside = "paper (real data)" if plan.scale == "sample" else "paper"
    sections = []
    for comparison in measured:
        published = with_mean(comparison.rows["fgaseg"].published, len(comparison.benchmarks))
        lines = []
        for benchmark, value in zip((*comparison.benchmarks, MEAN), published, strict=True):
            scores = [number(comparison.score(method, benchmark)) for method in METHODS]
            gain = difference(comparison.difference(benchmark))
            name = benchmark if benchmark == MEAN else benchmark.upper()
            lines.append(Line((name, *scores, gain, *printed([value])), comparison.notes(*METHODS)))
        kinds = []
        for group in GROUPS if comparison.measured else ():
            scores = [number(comparison.score(method, MEAN, group)) for method in METHODS]
            gain = difference(comparison.difference(MEAN, group))
            kinds.append(Line((f"mean, {group}", *scores, gain, ""), comparison.notes(*METHODS)))
        header = (comparison.backbone, "dense CLIP", "FGAseg", "difference", aside)
        sections.append(Section("", header, tuple(filter(None, (tuple(lines), tuple(kinds))))))
    title = f"Table I, mIoU in percent. {MEASURED[plan.scale]}."
    return terminal(Table("terminal", title, INTERVALS, tuple(sections), NOTES))
