"""All tables of a report, rendered in every format, and what `dvc metrics` and `dvc params` compare."""

import json
from pathlib import Path
from typing import Any

import yaml

from fgaseg.files import write_whole
from fgaseg.identity import changes
from fgaseg.plan import Plan, Scope
from fgaseg.reporting import layout
from fgaseg.reporting.ablation import ablation_table
from fgaseg.reporting.comparison import METHODS, Comparison, comparisons
from fgaseg.reporting.formats import latex, markdown
from fgaseg.reporting.scores import MEAN, Scores
from fgaseg.reporting.statistics import Bootstrapped, Estimate
from fgaseg.reporting.table_1 import group_table, table_1, terminal_table
from fgaseg.reporting.tidy import ablation_csv, table_1_csv
from fgaseg.rows import Row, Table


def _measured(scores: Scores, scope: Scope) -> list[Comparison]:
    return comparisons(scores, scores.plan.default.vlm.backbone if scope == "main" else None)


def _layouts(scores: Scores, scope: Scope) -> dict[str, list[layout.Table]]:
    """The tables of each file: one, but for Table I, whose classes by kind stand in a table below it."""
    found = {}
    for table in scores.plan.tables_of(scope):
        if table.key == "table_1":
            measured = _measured(scores, scope)
            both = table_1(scores.plan, measured), group_table(scores.plan, measured)
            found[table.key] = [part for part in both if part.sections]
        else:
            found[table.key] = [ablation_table(scores, table)]
    return found


def write_tables(plan: Plan, scope: Scope, out: Path) -> list[layout.Table]:
    """Write <table>.md, .csv and .tex, table_1.txt, metrics.json and params.yaml into `out`; returns the tables.

    `UserError` names an evaluation that is damaged; nothing is written then.
    """
    scores = Scores(plan)
    layouts = _layouts(scores, scope)
    contents: dict[str, str] = {}
    for table in plan.tables_of(scope):
        parts = layouts[table.key]
        contents[f"{table.key}.md"] = "\n".join(map(markdown, parts))
        contents[f"{table.key}.tex"] = "\n".join(map(latex, parts))
        if table.key == "table_1":
            measured = _measured(scores, scope)
            contents["table_1.txt"] = terminal_table(plan, measured) + "\n"
            contents["table_1.csv"] = table_1_csv(plan, measured)
        else:
            contents[f"{table.key}.csv"] = ablation_csv(scores, table)
    contents["metrics.json"] = metrics(scores, scope)
    contents["params.yaml"] = parameters(plan, scope)
    for name, content in contents.items():
        write_whole(out / name, content)
    return [table for tables in layouts.values() for table in tables]


def _percent(score: Bootstrapped | Estimate | None) -> float | None:
    return None if score is None else round(100 * score.value, 2)


def _key(row: Row) -> str:
    return f"row {row.number} {row.description.replace(':', '')}"


def _rows(scores: Scores, table: Table) -> dict[str, Any]:
    benchmarks = (*scores.plan.default.data.benchmarks, MEAN)
    return {_key(row): {b: _percent(scores.score(row, b)) for b in benchmarks} for row in table.rows}


def parameters(plan: Plan, scope: Scope) -> str:
    """YAML of what sets each row off from one training of the default model, {table: {row: {key: value}}}."""

    def told(row: Row) -> dict[str, Any] | str:
        method = {} if row.method == "fgaseg" else {"method": row.method}
        seeds = {"seeds": len(row.replicas)} if len(row.replicas) > 1 else {}
        return {**method, **changes(plan.default, row.params), **seeds} or "the default model"

    content = {table.key: {_key(row): told(row) for row in table.rows} for table in plan.tables_of(scope)}
    return yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=120)


def metrics(scores: Scores, scope: Scope) -> str:
    """JSON of mIoU in percent, null where missing: of Table I {benchmark: {dense_clip, fgaseg, difference}}, under "table_1"
    for the default backbone and "table_1 <label>" for another; of every other table {row: {benchmark: mIoU}}."""
    content: dict[str, Any] = {}
    for table in scores.plan.tables_of(scope):
        if table.key == "table_1":
            for comparison in _measured(scores, scope):
                is_default = comparison.rows["fgaseg"].params.vlm.backbone == scores.plan.default.vlm.backbone
                content[table.key if is_default else f"{table.key} {comparison.backbone}"] = {
                    benchmark: {method: _percent(comparison.score(method, benchmark)) for method in METHODS}
                    | {"difference": _percent(comparison.difference(benchmark))}
                    for benchmark in (*comparison.benchmarks, MEAN)
                }
        else:
            content[table.key] = _rows(scores, table)
    return json.dumps(content, indent=2) + "\n"
