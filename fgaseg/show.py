"""Text for `fgaseg show`: the plan, and the rows of a table."""

from typing import Any

from fgaseg.errors import UserError
from fgaseg.plan import Plan, Row
from fgaseg.schema import Params


def changes(default: Params, params: Params) -> dict[str, Any]:
    """The dotted keys in which `params` differs from `default`, with their values."""

    def walk(a: dict[str, Any], b: dict[str, Any], prefix: str) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for key, value in b.items():
            if isinstance(value, dict):
                found |= walk(a[key], value, f"{prefix}{key}.")
            elif a[key] != value:
                found[f"{prefix}{key}"] = value
        return found

    return walk(default.model_dump(mode="json"), params.model_dump(mode="json"), "")


def show_plan(plan: Plan) -> str:
    """All tables, a line each, and what they need together."""
    done = sum((plan.paths.run(run) / "model.safetensors").exists() for run in plan.runs)
    lines = [f"{'table':10} {'rows':>4} {'done':>4}  title"]
    for table in plan.tables.values():
        states = [plan.state(row) for row in table.rows]
        lines.append(f"{table.key:10} {len(states):>4} {states.count('done'):>4}  {table.title}")
    lines.append("")
    lines.append(f"{plan.scale} scale: {len(plan.runs)} trainings ({done} done), {len(plan.evaluations)} evaluations")
    lines.append(f"data: {plan.digest}")
    return "\n".join(lines)


def _row_lines(plan: Plan, row: Row) -> list[str]:
    label = ", ".join(f"{k}: {v}" for k, v in row.label.items())
    head = f"{row.number:>3}  {row.run_id or '-':12}  {row.eval_id:12}  {plan.state(row):7}  {label}"
    return [head, *(f"{'':43}{key} = {value}" for key, value in changes(plan.default, row.params).items())]


def show_table(plan: Plan, key: str) -> str:
    """The rows of a table: number, run id, evaluation id, state, label, and each parameter that is not the default."""
    if key not in plan.tables:
        raise UserError(f"table '{key}' is unknown; params/tables has {', '.join(plan.tables)}")
    table = plan.tables[key]
    lines = [table.title, f"{'row':>3}  {'run':12}  {'evaluation':12}  {'state':7}  label"]
    for row in table.rows:
        lines += _row_lines(plan, row)
    return "\n".join(lines)
