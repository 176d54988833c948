"""The tables as one line per number, for pandas, R or a spreadsheet."""

import csv
import io
import math
from collections.abc import Callable, Sequence

from fgaseg.plan import Plan
from fgaseg.reporting.ablation import Ablation
from fgaseg.reporting.comparison import GROUPS, METHODS, Comparison
from fgaseg.reporting.published import published_groups
from fgaseg.reporting.results import Group, Provenance, Result
from fgaseg.reporting.scores import MEAN, Scores, estimate
from fgaseg.reporting.statistics import Estimate
from fgaseg.reporting.timing import published_speed_up, published_times, read_timings, speed
from fgaseg.rows import Row, Table

_ORIGIN = (
    *("run_id", "eval_id", "git_commit", "code", "training_git_commit", "training_code", "data_digest"),
    *("stale", "other_code"),
)
TABLE_1_COLUMNS = (
    *("scale", "method", "backbone", "benchmark", "classes", "miou", "low", "high", "seeds", "sd"),
    *("published", "source", *_ORIGIN),
)
ABLATION_COLUMNS = (
    *("table", "row", "label", "scale", "benchmark", "miou", "low", "high", "seeds", "sd"),
    *("published", "measured_minus_published", "reference_row"),
    *("difference", "difference_low", "difference_high", "p", "p_holm", "published_difference"),
    *("ms", "ms_q1", "ms_q3", "speed_up", "classes", "kept", "published_ms", "published_speed_up", *_ORIGIN),
)
MISSING = "missing"
_METHODS = {"dense_clip": "dense CLIP", "fgaseg": "FGAseg"}


def table_1_csv(plan: Plan, measured: list[Comparison]) -> str:
    """Published and measured numbers in percent, told apart by `scale` and `source`.

    `published` holds the paper's number ("not reported" where it has none); `miou`, `low` and `high` what was measured,
    "missing" where that is still to be done. At sample scale the two never stand in one line.
    """
    lines = [*_published(plan, measured[0].benchmarks)]
    for comparison in measured:
        for group in (None, *GROUPS) if comparison.measured else (None,):
            lines += _measured(plan, comparison, group)
    return _csv(TABLE_1_COLUMNS, lines)


def _csv(columns: Sequence[str], lines: Sequence[dict[str, str]]) -> str:
    file = io.StringIO()
    writer = csv.DictWriter(file, columns, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return file.getvalue()


def _printed(value: float | None) -> str:
    return "not reported" if value is None else f"{value:.1f}"


def _published(plan: Plan, benchmarks: tuple[str, ...]) -> list[dict[str, str]]:
    return [
        {
            "scale": "paper",
            "method": row.method,
            "backbone": " + ".join(filter(None, (row.vlm, row.backbone))),
            "benchmark": benchmark,
            "classes": "all",
            "published": _printed(value),
            "source": "paper" if row.reference is None else f"paper, reference {row.reference}",
        }
        for group in published_groups(plan)
        for row in group
        for benchmark, value in zip(benchmarks, row.miou, strict=True)
    ]


def _measured(plan: Plan, comparison: Comparison, group: Group | None) -> list[dict[str, str]]:
    lines = []
    for benchmark in (*comparison.benchmarks, MEAN):
        common = {"scale": plan.scale, "backbone": comparison.backbone, "benchmark": benchmark, "classes": group or "all"}
        for method in METHODS:
            row = comparison.rows[method]
            paper = {}
            if plan.scale == "paper" and row.published and benchmark != MEAN and group is None:
                paper = {"published": _printed(row.published[comparison.benchmarks.index(benchmark)])}
            numbers = _numbers(comparison.score(method, benchmark, group))
            spread = _seeds(comparison.scores, row, benchmark if group is None else None)
            source = "measured" if comparison.scores.results(row) else MISSING
            origin = {"source": source, **_origin(comparison.scores, row)}
            lines.append(common | {"method": _METHODS[method]} | numbers | spread | paper | origin)
        difference = comparison.difference(benchmark, group)
        origin = {"source": MISSING}
        if difference is not None:
            origin = {"source": "paired difference", **_marks(comparison.scores, *comparison.rows.values())}
        lines.append(common | {"method": "FGAseg - dense CLIP"} | _numbers(estimate(difference)) | origin)
    return lines


def _numbers(estimate: Estimate | None, names: tuple[str, str, str] = ("miou", "low", "high")) -> dict[str, str]:
    if estimate is None:
        return dict.fromkeys(names, MISSING)
    absent = "no such class" if math.isnan(estimate.value) else "one image"
    values = (estimate.value, *estimate.interval)
    return {k: absent if math.isnan(v) else f"{100 * v:.2f}" for k, v in zip(names, values, strict=True)}


def _seeds(scores: Scores, row: Row, benchmark: str | None) -> dict[str, str]:
    """How many seeds are evaluated, and the standard deviation over them where it is known."""
    deviation = scores.deviation(row, benchmark) if benchmark else None
    return {"seeds": str(len(scores.results(row))), "sd": "" if deviation is None else f"{100 * deviation:.2f}"}


def _marks(scores: Scores, *rows: Row) -> dict[str, str]:
    notes = scores.notes(*rows)
    return {"stale": "yes" if "stale" in notes else "no", "other_code": "yes" if "other_code" in notes else "no"}


def _origin(scores: Scores, row: Row) -> dict[str, str]:
    """Ids of all seeds and what made those that are evaluated; several values are separated by semicolons."""
    singles = [(single, scores.result(single)) for single in row.single]
    found = [result for _, result in singles if result is not None]
    runs = [result.evaluation.run_id if result else single.run_id for single, result in singles]
    ids = {
        "run_id": ";".join(filter(None, runs)),
        "eval_id": ";".join(result.folder.name if result else single.eval_id for single, result in singles),
    }
    if not found:
        return ids

    def of(origin: Callable[[Result], Provenance | None], key: str) -> str:
        records = [record for record in map(origin, found) if record is not None]
        return ";".join(dict.fromkeys(str(getattr(record, key)) for record in records))

    evaluated = {key: of(lambda r: r.evaluation.provenance, key) for key in ("git_commit", "code", "data_digest")}
    trained = {f"training_{key}": of(lambda r: r.evaluation.training, key) for key in ("git_commit", "code")}
    return ids | evaluated | trained | _marks(scores, row)


def ablation_csv(scores: Scores, table: Table) -> str:
    """Measured and published numbers in percent, times in milliseconds; "missing" where something is still to be measured.

    p is of one benchmark alone, p_holm of the mean for all rows of the table together.
    """
    ablation = Ablation(scores, table)
    timings = read_timings(scores.plan, table.key)
    lines = []
    for row in table.rows:
        reference, columns = ablation.reference(row), ablation.benchmarks
        paper, changed, away = ablation.published(row), ablation.published_difference(row), ablation.minus_published(row)
        times, speed_ups = published_times(table, row), published_speed_up(table, row)
        for i, benchmark in enumerate(columns):
            score = scores.score(row, benchmark)
            line = {"table": table.key, "row": str(row.number), "label": row.description, "scale": scores.plan.scale}
            line |= {"benchmark": benchmark, **_numbers(estimate(score)), **_seeds(scores, row, benchmark)}
            line |= {"published": _decimal(paper[i]), "published_difference": _decimal(changed[i])}
            line["measured_minus_published"] = MISSING if score is None and paper[i] is not None else _decimal(away[i], 2)
            line["reference_row"] = reference.name if reference.table != table.key else str(reference.number)
            line |= _difference(ablation, row, benchmark)
            if table.timed and benchmark != MEAN:
                found = speed(timings, row, benchmark)
                line |= (
                    dict.fromkeys(("ms", "ms_q1", "ms_q3", "speed_up", "kept"), MISSING)
                    if found is None
                    else {
                        "ms": f"{found.timed.median:.1f}",
                        "ms_q1": f"{found.timed.quartiles.low:.1f}",
                        "ms_q3": f"{found.timed.quartiles.high:.1f}",
                        "speed_up": _decimal(found.speed_up, 3),
                        "classes": str(found.timed.classes),
                        "kept": ";".join(f"{kept:.1f}" for kept in found.timed.kept),
                    }
                )
                line |= {"published_ms": _decimal(times[i], 0), "published_speed_up": _decimal(speed_ups[i], 3)}
            lines.append(line | _origin(scores, row))
    return _csv(ABLATION_COLUMNS, lines)


def _decimal(value: float | None, decimals: int = 1) -> str:
    return "" if value is None else f"{round(value, decimals) + 0.0:.{decimals}f}"


def _difference(ablation: Ablation, row: Row, benchmark: str) -> dict[str, str]:
    """Difference to the reference row; empty for the reference itself."""
    if not ablation.compared(row):
        return {}
    difference = ablation.difference(row, benchmark)
    numbers = _numbers(estimate(difference), ("difference", "difference_low", "difference_high"))
    if difference is None:
        return numbers | {"p": MISSING}
    holm = {"p_holm": f"{ablation.verdicts[row.number].holm:.4f}"} if benchmark == MEAN else {}
    return numbers | {"p": f"{difference.p_value():.4f}"} | holm
