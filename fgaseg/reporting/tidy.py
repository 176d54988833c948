"""Table I as one line per number, for pandas, R or a spreadsheet."""

import csv
import io
import math

from fgaseg.evaluation.statistics import Estimate
from fgaseg.plan import Plan
from fgaseg.reporting.comparison import GROUPS, MEAN, METHODS, Comparison
from fgaseg.reporting.published import published_groups
from fgaseg.reporting.results import Group, Result

COLUMNS = (
    *("scale", "method", "backbone", "benchmark", "classes", "miou", "low", "high"),
    *("published", "source", "run_id", "eval_id", "stale"),
)
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
    file = io.StringIO()
    writer = csv.DictWriter(file, COLUMNS, restval="", lineterminator="\n")
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
            row, result = comparison.rows[method], comparison.results[method]
            paper = {}
            if plan.scale == "paper" and row.published and benchmark != MEAN and group is None:
                paper = {"published": _printed(row.published[comparison.benchmarks.index(benchmark)])}
            numbers = _numbers(comparison.score(method, benchmark, group))
            lines.append(common | {"method": _METHODS[method]} | numbers | paper | _origin(result, row.run_id, row.eval_id))
        difference = comparison.difference(benchmark, group)
        origin = {"source": "missing"}
        if difference is not None:
            origin = {"source": "paired difference", "stale": "yes" if comparison.stale(*METHODS) else "no"}
        lines.append(common | {"method": "FGAseg - dense CLIP"} | _numbers(difference) | origin)
    return lines


def _numbers(estimate: Estimate | None) -> dict[str, str]:
    if estimate is None:
        return dict.fromkeys(("miou", "low", "high"), "missing")
    values = (estimate.value, *estimate.interval)
    return {
        k: "no such class" if math.isnan(v) else f"{100 * v:.2f}" for k, v in zip(("miou", "low", "high"), values, strict=True)
    }


def _origin(result: Result | None, run_id: str | None, eval_id: str) -> dict[str, str]:
    if result is None:
        return {"source": "missing", "run_id": run_id or "", "eval_id": eval_id}
    found = result.evaluation
    return {
        "source": "measured",
        "run_id": found.run_id or "",
        "eval_id": found.eval_id,
        "stale": "yes" if result.stale else "no",
    }
