"""The plan: every row of every table, the trainings and evaluations that they need, and their identities.

A training is identified by a hash of all that decides its weights, an evaluation by a hash of that and of its own
parameters. A row that recurs in several tables is therefore trained once.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, get_args

from fgaseg.errors import UserError
from fgaseg.params import Resolver, read_yaml
from fgaseg.paths import Paths
from fgaseg.schema import Params, Scale

Method = Literal["fgaseg", "dense_clip"]
State = Literal["done", "running", "missing"]

_ROW_KEYS = {"label", "method", "set", "published", "published_ms"}
_TABLE_KEYS = {"title", "caption", "others", "rows"}


def _short_hash(content: Mapping[str, Any]) -> str:
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()[:12]


def data_digest(root: Path, data_root: str) -> str:
    """The digest that DVC recorded for the raw data at `data_root`, or "untracked".

    Read from `data.dvc` at the project's root: known before the data are there, so that a plan needs no data.
    """
    path = root / "data.dvc"
    if path.exists():
        try:
            digests = {Path(out["path"]): str(out["md5"]) for out in read_yaml(path)["outs"]}
        except (KeyError, TypeError):
            raise UserError(f"{path}: not a file of DVC: outs with path and md5 are expected; restore it from git") from None
        return digests.get(Path(data_root), "untracked")
    return "untracked"


def run_id(params: Params, digest: str) -> str:
    """Identity of a training: all that decides its weights, and nothing else."""
    p = params.model_dump(mode="json")
    vlm = {k: v for k, v in p["vlm"].items() if k not in ("backbone", "label")}
    data = {k: p["data"][k] for k in ("train", "train_classes")}
    training = {k: v for k, v in p["training"].items() if k != "validate_every"}
    parts = {"vlm": vlm, "model": p["model"], "training": training, "data": data}
    return _short_hash(parts | {"digest": digest, "revision": params.revision.training})


def eval_id(params: Params, method: Method, digest: str) -> str:
    """Identity of an evaluation: the training (or the untrained CLIP) and how it is scored."""
    p = params.model_dump(mode="json")
    if method == "fgaseg":
        subject: Any = run_id(params, digest)
    else:
        subject = {k: p["vlm"][k] for k in ("architecture", "pretrained", "image_size", "dense_residual", "prompts")}
    scoring = {k: v for k, v in p["evaluation"].items() if k != "panels"}
    parts = {"subject": subject, "method": method, "evaluation": scoring, "benchmarks": p["data"]["benchmarks"]}
    return _short_hash(parts | {"digest": digest, "revision": params.revision.evaluation})


def _numbers(row: Mapping[str, Any], key: str, count: int, where: str) -> tuple[float | None, ...]:
    """Published numbers of a row, one for each of `count` benchmarks, or none at all."""
    numbers = row.get(key, [])
    if not isinstance(numbers, list) or not all(isinstance(n, int | float | None) for n in numbers):
        raise UserError(f"{where}: {key}: a list of {count} numbers is expected, null for none")
    if numbers and len(numbers) != count:
        raise UserError(f"{where}: {key} has {len(numbers)} numbers for {count} benchmarks; write null for none")
    return tuple(numbers)


def _find(wanted: str, ids: list[str], what: str) -> str:
    matches = [i for i in ids if wanted and i.startswith(wanted)]
    if len(matches) != 1:
        several = f"it fits {', '.join(matches)}" if matches else f"none of the {len(ids)} planned ones has this id"
        raise UserError(f"{what} '{wanted}': {several}; `fgaseg show TABLE` lists them")
    return matches[0]


@dataclass(frozen=True)
class Row:
    """One measured row of a table. `published` follows the benchmarks' order, None where the paper has no number."""

    table: str
    number: int
    label: dict[str, str]
    method: Method
    params: Params
    run_id: str | None
    eval_id: str
    published: tuple[float | None, ...] = ()
    published_ms: tuple[float | None, ...] = ()

    @property
    def name(self) -> str:
        """How people refer to the row."""
        return f"{self.table}, row {self.number} ({', '.join(f'{k}: {v}' for k, v in self.label.items())})"


@dataclass(frozen=True)
class Table:
    """A table: its measured rows, and for Table I the other methods' published ones."""

    key: str
    title: str
    caption: str
    rows: tuple[Row, ...]
    others: tuple[dict[str, Any], ...] = field(default=())


class Plan:
    """All tables of one scale. Raises `UserError` for any mistake in params/, before anything runs."""

    def __init__(self, root: Path, scale: Scale) -> None:
        if scale not in get_args(Scale):
            raise UserError(f"scale: '{scale}' is unknown; choose sample or paper")
        self.root, self.scale = root, scale
        self.paths = Paths(root, scale)
        self._resolver = Resolver(root, scale)
        self.default = self._resolver.default
        self.digest = data_digest(root, self.default.data.root)
        files = sorted((root / "params" / "tables").glob("*.yaml"))
        self.tables = {path.stem: self._table(path) for path in files}

    def _table(self, path: Path) -> Table:
        content = read_yaml(path)
        for key in content.keys() - _TABLE_KEYS:
            raise UserError(f"{path}: unknown key '{key}'; a table has {', '.join(sorted(_TABLE_KEYS))}")
        for key in ("title", "caption"):
            if not isinstance(content.get(key), str):
                raise UserError(f"{path}: {key} is missing: give the table's {key} as text")
        if not isinstance(content.get("rows"), list) or not content["rows"]:
            raise UserError(f"{path}: rows is missing or empty: a table needs a list of at least one row")
        rows = tuple(self._row(path, i, row) for i, row in enumerate(content["rows"], 1))
        others = tuple(content.get("others", ()))
        return Table(path.stem, content["title"], content["caption"], rows, others)

    def _row(self, path: Path, number: int, row: dict[str, Any]) -> Row:
        where = f"{path}, row {number}"
        if not isinstance(row, dict):
            raise UserError(f"{where}: a mapping is expected, such as {{label: {{layers: '2'}}, set: {{...}}}}")
        for key in row.keys() - _ROW_KEYS:
            raise UserError(f"{where}: unknown key '{key}'; a row has {', '.join(sorted(_ROW_KEYS))}")
        label = row.get("label")
        if not isinstance(label, dict) or not label:
            raise UserError(f"{where}: label is missing: give the columns that name this row, such as {{layers: '2'}}")
        method = row.get("method", "fgaseg")
        if method not in get_args(Method):
            raise UserError(f"{where}: method: '{method}' is unknown; choose fgaseg or dense_clip")
        params = self._resolver.resolve(row.get("set", {}), where)
        count = len(params.data.benchmarks)
        return Row(
            table=path.stem,
            number=number,
            label={k: str(v) for k, v in label.items()},
            method=method,
            params=params,
            run_id=run_id(params, self.digest) if method == "fgaseg" else None,
            eval_id=eval_id(params, method, self.digest),
            published=_numbers(row, "published", count, where),
            published_ms=_numbers(row, "published_ms", count, where),
        )

    @property
    def rows(self) -> list[Row]:
        return [row for table in self.tables.values() for row in table.rows]

    @cached_property
    def runs(self) -> dict[str, Params]:
        """The distinct trainings, by id."""
        return {row.run_id: row.params for row in self.rows if row.run_id}

    @cached_property
    def evaluations(self) -> dict[str, Row]:
        """The distinct evaluations, by id; of rows that share one, the first."""
        found: dict[str, Row] = {}
        for row in self.rows:
            found.setdefault(row.eval_id, row)
        return found

    @property
    def default_row(self) -> Row:
        """The row of Table I that holds the default model."""
        return next(row for row in self.rows if row.run_id == run_id(self.default, self.digest))

    @property
    def main_rows(self) -> list[Row]:
        """The two rows of the main job: the untrained CLIP that the default model starts from, and the default model."""
        dense = eval_id(self.default, "dense_clip", self.digest)
        return [next(row for row in self.tables["table_1"].rows if row.eval_id == dense), self.default_row]

    @property
    def backbones(self) -> dict[str, Params]:
        """The backbones that rows use, each with the parameters of a row that uses it."""
        return {row.params.vlm.backbone: row.params for row in reversed(self.rows)}

    def find_run(self, wanted: str) -> str:
        """The run id that starts with `wanted`."""
        return _find(wanted, list(self.runs), "run")

    def find_evaluation(self, wanted: str) -> Row:
        """The row (of several, the first) whose evaluation id starts with `wanted`."""
        return self.evaluations[_find(wanted, list(self.evaluations), "evaluation")]

    def state(self, row: Row) -> State:
        """How far a row is: done when it is evaluated, running when its training has begun."""
        if (self.paths.evaluation(row.eval_id) / "evaluation.json").exists():
            return "done"
        if row.run_id and (self.paths.run(row.run_id) / "metrics.jsonl").exists():
            return "running"
        return "missing"
