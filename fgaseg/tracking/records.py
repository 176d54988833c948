"""What MLflow has to hold: a record for each training, each untrained CLIP and each report, read from files in `results/`."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from fgaseg.files import read_json
from fgaseg.identity import changes
from fgaseg.plan import Plan
from fgaseg.rows import Row
from fgaseg.schema import Params
from fgaseg.training.metrics import read_metrics
from fgaseg.training.starts import read_starts

_SCALE_NOTE = {
    "sample": "Sample scale: drawn scenes and a small CLIP; not comparable with published numbers.",
    "paper": "Paper scale: the real datasets and OpenAI's CLIP.",
}


@dataclass(frozen=True)
class Record:
    """The content of one MLflow run.

    `identity` finds it again; `lines` are those of metrics.jsonl; `scores` are metrics without a step, mIoU from 0 to 1;
    `artifacts` maps the path among the run's artifacts to the file, of the same name. `started` is when a training was begun
    from nothing, in seconds since 1970: one that goes on from a checkpoint is the same, one begun anew is another.
    """

    identity: str
    name: str
    description: str
    tags: dict[str, str]
    params: dict[str, str]
    lines: list[dict[str, Any]]
    scores: dict[str, float]
    artifacts: dict[str, Path]
    finished: bool
    started: float | None = None


@dataclass(frozen=True)
class Source:
    """Something that has begun, whose record can be read as it is now; `folder` holds its files."""

    identity: str
    folder: Path
    read: Callable[[], Record]

    @property
    def lock(self) -> Path:
        """What one process at a time may hold, with `exclusive`, from reading the record until it is delivered."""
        return self.folder.with_name(f"{self.folder.name}.tracking")


def begun(plan: Plan, only: str | None = None) -> Iterator[Source]:
    """All that has begun: the plan's trainings and untrained CLIPs, in the order of the tables, and the reports.

    With `only`, a run's id or an untrained CLIP's evaluation id, that alone.
    """
    for run_id, params in plan.runs.items():
        folder = plan.paths.run(run_id)
        if only in (None, run_id) and (folder / "params.json").exists():
            yield Source(run_id, folder, partial(_training, plan, run_id, params))
    for row in plan.evaluations.values():
        file = _evaluation_file(plan, row.eval_id)
        if row.run_id is None and only in (None, row.eval_id) and file.exists():
            yield Source(row.eval_id, file.parent, partial(_untrained, plan, row))
    for folder in sorted(plan.paths.report.glob("[!.]*")) if only is None else ():
        yield Source(_report_name(folder), folder, partial(_report, plan, folder))


def _evaluation_file(plan: Plan, eval_id: str) -> Path:
    return plan.paths.evaluation(eval_id) / "evaluation.json"


def _flatten(tree: dict[str, Any], prefix: str = "") -> dict[str, str]:
    flat: dict[str, str] = {}
    for key, value in tree.items():
        flat |= _flatten(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": str(value)[:500]}
    return flat


def _label(rows: list[Row]) -> str:
    """The label of rows of one table that share a run: `N: 1 / 4 / 8`."""
    values: dict[str, list[str]] = {}
    for row in rows:
        for key, value in row.label.items():
            values.setdefault(key, []).append(value)
    return ", ".join(f"{key}: {' / '.join(dict.fromkeys(found))}" for key, found in values.items())


def _row_tags(plan: Plan, rows: list[Row]) -> dict[str, str]:
    """The tables of rows with their labels there."""
    return {key: _label([row for row in rows if row.table == key]) for key in plan.tables if any(r.table == key for r in rows)}


def _origin(plan: Plan, provenance: dict[str, Any]) -> dict[str, str]:
    """Tags that say what made a result."""
    tags = {"scale": plan.scale, "mlflow.source.git.commit": provenance["git_commit"], "data_digest": provenance["data_digest"]}
    return tags | ({"code": provenance["code"]} if "code" in provenance else {})


def _describe(plan: Plan, rows: list[Row], different: dict[str, Any], folder: Path) -> str:
    """Markdown that says what rows a run is, and in what it is not the default model."""
    keys = dict.fromkeys(row.table for row in rows)
    places = [f"* {plan.tables[key].title}, row {_label([r for r in rows if r.table == key])}" for key in keys]
    delta = [f"* `{key}` = {value}" for key, value in different.items()] or ["* nothing"]
    return "\n".join(
        [*places, "", "Differs from the default model in", "", *delta, "", f"Files: `{folder}`", "", _SCALE_NOTE[plan.scale]]
    )


def _suffix(plan: Plan, params: Params) -> str:
    """What tells evaluations of one run apart: `/top-8`, and nothing for the default's way of scoring."""
    default, ours = (p.evaluation.model_dump(exclude={"panels"}) for p in (plan.default, params))
    names = {"top_n": "top"}
    return "".join(f"/{names.get(key, key)}-{value}" for key, value in ours.items() if value != default[key])


def _scores(plan: Plan, row: Row, eval_id: str) -> dict[str, float]:
    """The mIoU of each benchmark and their mean; nothing before the evaluation is done."""
    path = _evaluation_file(plan, eval_id)
    if not path.exists():
        return {}
    miou = {name: result["miou"] for name, result in read_json(path)["benchmarks"].items()}
    miou["mean"] = sum(miou.values()) / len(miou)
    return {f"miou/{name}{_suffix(plan, row.params)}": value for name, value in miou.items()}


def _started(folder: Path, lines: list[dict[str, Any]]) -> float | None:
    """When a training was last begun from nothing; where no start was noted, its first line tells."""
    begins = [start.time for start in read_starts(folder) if start.step == 0]
    if begins:
        return begins[-1]
    return lines[0]["time"] if lines else None


def _training(plan: Plan, run_id: str, params: Params) -> Record:
    folder = plan.paths.run(run_id)
    places = [(row, replica) for row in plan.rows for replica in row.replicas if replica.run_id == run_id]
    rows = [row for row, _ in places]
    tags = _row_tags(plan, rows)
    different = {k: v for k, v in changes(plan.default, params).items() if not k.startswith("evaluation.")}
    of_table = next(iter(tags.items()))
    name = "default model" if rows[0].run_id == plan.default_row.run_id else " ".join(of_table)
    if rows[0].run_id != run_id:
        name += f", seed {params.training.seed}"
    scores: dict[str, float] = {}
    for row, replica in places:
        scores |= _scores(plan, row, replica.eval_id)
    made, lines = read_json(folder / "params.json"), read_metrics(folder / "metrics.jsonl")
    complete = any(line["step"] >= params.training.iterations for line in lines)
    artifacts = {"params.json": folder / "params.json"}
    curves = list(plan.paths.report.glob(f"[!.]*/curves/{run_id}.png"))
    if curves:  # each scope's report drew the training as it was then
        newest = max(curves, key=lambda path: path.stat().st_mtime_ns)
        artifacts[f"curves/{newest.name}"] = newest
    return Record(
        identity=run_id,
        name=name,
        description=_describe(plan, rows, different, folder),
        tags=tags | _origin(plan, made["provenance"]),
        params=_flatten({key: value for key, value in made["params"].items() if key != "evaluation"}),
        lines=lines,
        scores=scores,
        artifacts=artifacts,
        finished=complete and (folder / "model.safetensors").exists(),  # which may be that of an earlier training
        started=_started(folder, lines),
    )


def _untrained(plan: Plan, row: Row) -> Record:
    rows = [other for other in plan.rows if other.eval_id == row.eval_id]
    file = _evaluation_file(plan, row.eval_id)
    resolved = row.params.model_dump(mode="json", include={"vlm", "data", "evaluation"})
    return Record(
        identity=row.eval_id,
        name=f"dense CLIP, {row.params.vlm.label}",
        description="No training: each pixel takes the class whose text is nearest in CLIP's space.\n\n"
        + _describe(plan, rows, changes(plan.default, row.params), file.parent),
        tags=_row_tags(plan, rows) | _origin(plan, read_json(file)["provenance"]),
        params=_flatten(resolved),
        lines=[],
        scores=_scores(plan, row, row.eval_id),
        artifacts={},
        finished=True,
    )


def _report_name(folder: Path) -> str:
    return f"report ({folder.name})"


def _report(plan: Plan, folder: Path) -> Record:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return Record(
        identity=_report_name(folder),
        name=_report_name(folder),
        description=f"Tables and figures as `fgaseg report` rendered them.\n\nFiles: `{folder}`\n\n{_SCALE_NOTE[plan.scale]}",
        tags={"scale": plan.scale},
        params={},
        lines=[],
        scores={},
        artifacts={str(path.relative_to(folder)): path for path in files},
        finished=True,
    )
