"""Text for `fgaseg show`: the plan, the rows of a table, and all about one row."""

from statistics import mean
from typing import Any

import yaml

from fgaseg.errors import UserError
from fgaseg.identity import changes
from fgaseg.plan import Plan
from fgaseg.reporting.results import Evaluations, Provenance, Result
from fgaseg.reporting.scores import MEAN
from fgaseg.rows import Row
from fgaseg.schema import Params


def show(plan: Plan, what: str | None = None, number: int | None = None) -> str:
    """All tables; the rows of the table `what`, or its row `number`; or the row that a run's or evaluation's id belongs to.

    An id that is not planned may be that of a stale evaluation, or of its training.
    """
    if what is None:
        return show_plan(plan)
    if what in plan.tables:
        return show_table(plan, what) if number is None else show_row(plan, _row(plan, what, number).single)
    rows = [] if number is not None else plan.rows_with(what)
    if rows:
        _require_one(what, [(row.run_id, row.eval_id) for row in rows])
        found = {row.eval_id: row for row in reversed(rows)}
        return "\n\n".join(show_row(plan, [row]) for row in reversed(found.values()))
    stale = [] if number is not None else Evaluations(plan).stale_with(what)
    if not stale:
        known = f"params/tables has {', '.join(plan.tables)}"
        raise UserError(f"'{what}' is no table, and no planned run or evaluation, nor a stale one, has this id; {known}")
    _require_one(what, [(result.evaluation.run_id, result.folder.name) for result in stale])
    return "\n\n".join(show_row(plan, [result.row], result) for result in stale)


def _require_one(wanted: str, pairs: list[tuple[str | None, str]]) -> None:
    """`UserError` unless the (run, evaluation) `pairs` share one of the two."""
    runs, evaluations = map(set, zip(*pairs, strict=True))
    if len(runs) > 1 and len(evaluations) > 1:
        ids = sorted({i for pair in pairs for i in pair if i and i.startswith(wanted)})
        raise UserError(f"'{wanted}' fits several ids: {', '.join(ids)}; give more of it")


def _row(plan: Plan, table: str, number: int) -> Row:
    rows = plan.tables[table].rows
    if not 1 <= number <= len(rows):
        raise UserError(f"{table}: row {number} is not there; it has rows 1 to {len(rows)}")
    return rows[number - 1]


def show_plan(plan: Plan) -> str:
    """All tables, a line each, and what they need together."""
    done = sum((plan.paths.run(run) / "model.safetensors").exists() for run in plan.runs)
    lines = [f"{'table':10} {'rows':>4} {'done':>4}  title"]
    for table in plan.tables.values():
        states = [plan.state(row) for row in table.rows]
        lines.append(f"{table.key:10} {len(states):>4} {states.count('done'):>4}  {table.title}")
    needed = plan.evaluations_of("all").values()
    papers = f"{len({row.run_id for row in needed if row.run_id})} trainings, {len(needed)} evaluations"
    lines.append("")
    lines.append(f"{plan.scale} scale: {len(plan.runs)} trainings ({done} done), {len(plan.evaluations)} evaluations")
    lines.append(f"target `all` alone: {papers}")
    lines.append(f"data: {plan.digest}")
    return "\n".join(lines)


def _row_lines(plan: Plan, row: Row) -> list[str]:
    lines = [f"{row.number:>3}  {row.run_id or '-':12}  {row.eval_id:12}  {plan.state(row.replicas[0]):7}  {row.description}"]
    for replica in row.replicas[1:]:
        seed = f"seed {replica.params.training.seed}"
        lines.append(f"{'':3}  {replica.run_id or '-':12}  {replica.eval_id:12}  {plan.state(replica):7}  {seed}")
    return [*lines, *(f"{'':43}{key} = {value}" for key, value in changes(plan.default, row.params).items())]


def show_table(plan: Plan, key: str) -> str:
    """The rows of a table: number, run id, evaluation id, state, label, and each parameter that is not the default."""
    table = plan.tables[key]
    lines = [table.title, f"{'row':>3}  {'run':12}  {'evaluation':12}  {'state':7}  label"]
    for row in table.rows:
        lines += _row_lines(plan, row)
    return "\n".join(lines)


def _origin(name: str, origin: Provenance) -> list[str]:
    packages = ", ".join(f"{package} {version}" for package, version in origin.packages.items())
    revision = f"training {origin.revision.training}, evaluation {origin.revision.evaluation}"
    facts = {"commit": origin.git_commit, "code": origin.code, "data": origin.data_digest}
    facts |= {"revision": revision, "packages": packages}
    return [f"  {name + ' by' if key == 'commit' else '':18}{key:9} {value}" for key, value in facts.items()]


def _result_lines(row: Row, result: Result) -> list[str]:
    evaluation = result.evaluation
    lines = _origin("trained", evaluation.training) if evaluation.training else []
    lines += _origin("evaluated", evaluation.provenance)
    found = {str(name): evaluation.benchmarks[name].miou for name in row.params.data.benchmarks}
    values = ", ".join(f"{name} {100 * score:.1f}" for name, score in (found | {MEAN: mean(found.values())}).items())
    return [*lines, f"  {'mIoU':18}{values}"]


def _id_lines(plan: Plan, run: str | None, evaluation: str, kind: str = "") -> list[str]:
    paths = [("run", run, plan.paths.run(run))] if run else []
    paths.append(("evaluation", evaluation, plan.paths.evaluation(evaluation)))
    return [f"  {kind + name:18}{i:14}{path.relative_to(plan.root)}" for name, i, path in paths]


def _single_lines(plan: Plan, row: Row, result: Result | None) -> list[str]:
    lines = [f"seed {row.params.training.seed}: {plan.state(row)}", *_id_lines(plan, row.run_id, row.eval_id)]
    if result is None:
        return lines
    if result.stale:
        lines[0] += "; what follows is stale, of another revision or other data"
        lines += _id_lines(plan, result.evaluation.run_id, result.folder.name, "stale ")
    elif result.other_code:
        lines[0] += "; made by other code than the present one, same revision"
    return lines + _result_lines(row, result)


def _parameters(params: Params, changed: dict[str, Any]) -> str:
    """All parameters as YAML; a comment marks those that `changed` has, with the default's value."""

    def walk(tree: dict[str, Any], prefix: str, indent: str) -> list[str]:
        lines = []
        for key, value in tree.items():
            if isinstance(value, dict):
                lines += [f"{indent}{key}:", *walk(value, f"{prefix}{key}.", f"{indent}  ")]
                continue
            line = f"{indent}{key}: {_inline(value)}"
            default = changed.get(f"{prefix}{key}", params)
            lines.append(line if default is params else f"{line}  # changed, default: {_inline(default)}")
        return lines

    return "\n".join(walk(params.model_dump(mode="json"), "", "  "))


def _inline(value: Any) -> str:
    return yaml.safe_dump([value], default_flow_style=True, width=1_000_000).strip()[1:-1]


def show_row(plan: Plan, singles: list[Row], result: Result | None = None) -> str:
    """All about the seeds of one row: what shares it, ids, paths, state, origin, scores and parameters.

    `result` is shown in the place of what the report would take.
    """
    row, evaluations = singles[0], Evaluations(plan)
    lines = [f"{plan.tables[row.table].title}, row {row.number}: {row.description}"]
    for name, key, ids in (("training", "run_id", row.run_id), ("evaluation", "eval_id", row.eval_id)):
        others = [other for other in plan.rows if ids in {getattr(replica, key) for replica in other.replicas}]
        if ids:
            lines.append(f"rows of this {name}: " + "; ".join(other.name for other in others))
    if row.method == "fgaseg":
        lines.append(f"differences are taken against: {plan.reference(row).name}")
    for single in singles:
        lines += ["", *_single_lines(plan, single, result or evaluations.find(single))]
    defaults = changes(row.params, plan.default)
    return "\n".join([*lines, "", "parameters:", _parameters(row.params, defaults)])
