"""The plan: every row of every table, the trainings and evaluations that they need, and their identities.

A row that recurs in several tables has the same identity in all of them and is therefore trained once.
"""

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, get_args

from fgaseg.catalogue import Dataset, OwnDataset, datasets
from fgaseg.errors import UserError
from fgaseg.identity import Method, data_digest, data_id, eval_id, own_id, run_id, weights_id
from fgaseg.params import Resolver, read_yaml
from fgaseg.paths import Paths
from fgaseg.rows import Replica, Row, Table, Target
from fgaseg.schema import Params, Scale

Scope = Literal["main", "all", "fidelity"]
State = Literal["done", "begun", "missing"]

_ROW_KEYS = {"label", "method", "set", "seeds", "reference", "published", "published_ms"}
_OTHER_KEYS = {"method", "ref", "vlm", "backbone", "train", "group", "published"}
_TABLE_KEYS = {"title", "caption", "target", "reference", "others", "rows"}


def _numbers(row: Mapping[str, Any], key: str, count: int, added: int, where: str) -> tuple[float | None, ...]:
    """Published numbers of a row, one for each of `count` benchmarks and none for `added` ones, or none at all."""
    numbers = row.get(key, [])
    if not isinstance(numbers, list) or not all(isinstance(n, int | float | None) for n in numbers):
        raise UserError(f"{where}: {key}: a list of {count} numbers is expected, null for none")
    if numbers and len(numbers) != count:
        raise UserError(f"{where}: {key} has {len(numbers)} numbers for {count} benchmarks; write null for none")
    return (*numbers, *[None] * added) if numbers else ()


def _whole(content: Mapping[str, Any], key: str, where: str, most: int | None = None) -> int | None:
    """A whole number of at least 1 (and at most `most`), None where `key` is not there."""
    if key not in content:
        return None
    number = content[key]
    if not isinstance(number, int) or isinstance(number, bool) or number < 1 or (most and number > most):
        raise UserError(f"{where}: {key}: a whole number from 1{f' to {most}' if most else ' on'} is expected, got {number!r}")
    return number


def _find(wanted: str, ids: list[str], what: str) -> str:
    matches = [i for i in ids if wanted and i.startswith(wanted)]
    if len(matches) != 1:
        several = f"it fits {', '.join(matches)}" if matches else f"none of the {len(ids)} planned ones has this id"
        raise UserError(f"{what} '{wanted}': {several}; `fgaseg show TABLE` lists them")
    return matches[0]


class Plan:
    """All tables of one scale. Raises `UserError` for any mistake in params/, before anything runs."""

    def __init__(self, root: Path, scale: Scale) -> None:
        if scale not in get_args(Scale):
            raise UserError(f"scale: '{scale}' is unknown; choose sample or paper")
        self.root, self.scale = root, scale
        self._resolver = Resolver(root, scale)
        self.datasets = datasets(root, scale)
        self.default = self._resolve({}, str(root / "params" / "base.yaml"))
        self.digest = data_digest(root, self.default.data.root)
        self.own = {name: own_id(found, root) for name, found in self.datasets.items() if isinstance(found, OwnDataset)}
        weights = {name: weights_id(backbone, self.digest) for name, backbone in self._resolver.backbones.items()}
        self.paths = Paths(root, scale, data_id(self.default.data.root, self.digest), weights, self.own)
        files = sorted(
            (root / "params" / "tables").glob("*.yaml"), key=lambda path: (not path.stem.startswith("table_"), path.stem)
        )
        self.tables = {path.stem: self._table(path) for path in files}
        self._require_main_rows()

    def _table(self, path: Path) -> Table:
        content = read_yaml(path)
        for key in content.keys() - _TABLE_KEYS:
            raise UserError(f"{path}: unknown key '{key}'; a table has {', '.join(sorted(_TABLE_KEYS))}")
        for key in ("title", "caption"):
            if not isinstance(content.get(key), str):
                raise UserError(f"{path}: {key} is missing: give the table's {key} as text")
        if not isinstance(content.get("rows"), list) or not content["rows"]:
            raise UserError(f"{path}: rows is missing or empty: a table needs a list of at least one row")
        target = content.get("target", "all")
        if target not in get_args(Target):
            raise UserError(f"{path}: target: '{target}' is unknown; choose {' or '.join(get_args(Target))}")
        reference = _whole(content, "reference", str(path), len(content["rows"]))
        rows = tuple(self._row(path, i, row, len(content["rows"]), reference) for i, row in enumerate(content["rows"], 1))
        others = content.get("others", [])
        if not isinstance(others, list) or not all(isinstance(o, dict) and o.keys() == _OTHER_KEYS for o in others):
            raise UserError(f"{path}: others: a list of rows is expected, each with {', '.join(sorted(_OTHER_KEYS))}")
        count = len(self.default.data.benchmarks) - self._added
        for i, other in enumerate(others, 1):
            numbers = _numbers(other, "published", count, self._added, f"{path}, others {i}")
            other["published"] = numbers or (None,) * (count + self._added)
        return Table(path.stem, content["title"], content["caption"], rows, target, tuple(others))

    @property
    def _added(self) -> int:
        """How many of the benchmarks are a user's own, for which nothing is published."""
        return sum(name in self.own for name in self.default.data.benchmarks)

    def _row(self, path: Path, number: int, row: dict[str, Any], rows: int, reference: int | None) -> Row:
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
        seeds = _whole(row, "seeds", where) or 1
        if method == "dense_clip" and seeds > 1:
            raise UserError(
                f"{where}: seeds: {seeds}, but dense_clip is not trained and every seed gives the same; leave it out"
            )
        params = self._resolve(row.get("set", {}), where)
        if params.data.benchmarks != self.default.data.benchmarks:
            raise UserError(f"{where}: data.benchmarks: all rows are scored on the same benchmarks; change them in base.yaml")
        replicas = tuple(self._replica(params, method, i) for i in range(seeds))
        added = self._added
        count = len(params.data.benchmarks) - added
        return Row(
            table=path.stem,
            number=number,
            label={k: str(v) for k, v in label.items()},
            method=method,
            params=params,
            run_id=replicas[0].run_id,
            eval_id=replicas[0].eval_id,
            replicas=replicas,
            reference=_whole(row, "reference", where, rows) or reference,
            published=_numbers(row, "published", count, added, where),
            published_ms=_numbers(row, "published_ms", count, added, where),
        )

    def _replica(self, params: Params, method: Method, i: int) -> Replica:
        if i:
            training = params.training.model_copy(update={"seed": params.training.seed + i})
            params = params.model_copy(update={"training": training})
        run = run_id(params, self.digest, self.own) if method == "fgaseg" else None
        return Replica(params, run, self._eval_id(params, method))

    def _eval_id(self, params: Params, method: Method) -> str:
        return eval_id(params, method, self.digest, self.own)

    def _resolve(self, delta: Mapping[str, Any], where: str) -> Params:
        """The parameters of a row, scored on the user's own benchmarks after those that they name."""
        params = self._resolver.resolve(delta, where)
        data = params.data
        own = [name for name, d in self.datasets.items() if isinstance(d, OwnDataset) and d.role == "benchmark"]
        data = data.model_copy(update={"benchmarks": tuple(dict.fromkeys((*data.benchmarks, *own)))})
        for key, names in (("train", (data.train,)), ("validation", (data.validation,)), ("benchmarks", data.benchmarks)):
            role = "benchmark" if key == "benchmarks" else "training"
            known = [name for name, dataset in self.datasets.items() if dataset.role == role]
            for name in names:
                if name not in known:
                    raise UserError(f"{where}: data.{key}: '{name}' is unknown; known are {', '.join(known)}")
        if self.datasets[data.train].classes != self.datasets[data.validation].classes:
            raise UserError(
                f"{where}: data.validation: '{data.validation}' has other classes than data.train '{data.train}'; "
                f"set data.validation to one of the same classes, such as {data.train}"
            )
        return params.model_copy(update={"data": data})

    def _require_main_rows(self) -> None:
        """Every report compares with these two."""
        ids = {row.eval_id for row in self.tables["table_1"].rows} if "table_1" in self.tables else set()
        methods: tuple[Method, ...] = ("dense_clip", "fgaseg")
        for method in methods:
            if self._eval_id(self.default, method) not in ids:
                path = self.root / "params" / "tables" / "table_1.yaml"
                raise UserError(f"{path}: a row with method: {method} and no other changes is missing; add it")

    @property
    def rows(self) -> list[Row]:
        return [row for table in self.tables.values() for row in table.rows]

    def tables_of(self, scope: Scope) -> list[Table]:
        """The tables that a report of this scope shows."""
        if scope == "main":
            return [self.tables["table_1"]]
        return [table for table in self.tables.values() if table.target == scope]

    def evaluations_of(self, scope: Scope) -> dict[str, Row]:
        """The distinct evaluations that a report of this scope shows or takes differences against, by id."""
        shown = self.main_rows if scope == "main" else [row for table in self.tables_of(scope) for row in table.rows]
        references = [] if scope == "main" else [self.reference(row) for row in shown if row.method == "fgaseg"]
        found: dict[str, Row] = {}
        for row in (*shown, *references):
            for single in row.single:
                found.setdefault(single.eval_id, single)
        return found

    @cached_property
    def runs(self) -> dict[str, Params]:
        """The distinct trainings, by id."""
        return {replica.run_id: replica.params for row in self.rows for replica in row.replicas if replica.run_id}

    @cached_property
    def evaluations(self) -> dict[str, Row]:
        """The distinct evaluations, by id; of rows that share one, the first."""
        found: dict[str, Row] = {}
        for single in (single for row in self.rows for single in row.single):
            found.setdefault(single.eval_id, single)
        return found

    def is_default(self, row: Row) -> bool:
        """Whether the row is the default model, evaluated in the default way."""
        return row.eval_id == self._eval_id(self.default, "fgaseg")

    @property
    def default_row(self) -> Row:
        """The row of Table I that holds the default model."""
        return next(row for row in self.tables["table_1"].rows if self.is_default(row))

    def reference(self, row: Row) -> Row:
        """The row that differences of `row` are taken against: the named one, or else the default model's.

        The default model is looked for in the row's own table first, then in Table I.
        """
        rows = self.tables[row.table].rows
        if row.reference:
            return rows[row.reference - 1]
        return next((other for other in rows if self.is_default(other)), self.default_row)

    @property
    def main_rows(self) -> list[Row]:
        """The two rows of the main job: the untrained CLIP that the default model starts from, and the default model."""
        dense = self._eval_id(self.default, "dense_clip")
        return [next(row for row in self.tables["table_1"].rows if row.eval_id == dense), self.default_row]

    @property
    def backbones(self) -> dict[str, Params]:
        """The backbones that rows use, each with the parameters of a row that uses it."""
        return {row.params.vlm.backbone: row.params for row in reversed(self.rows)}

    def rows_with(self, wanted: str) -> list[Row]:
        """All rows, once for each seed, whose run or evaluation id starts with `wanted`."""
        singles = [single for row in self.rows for single in row.single]
        return [row for row in singles if wanted and any(i and i.startswith(wanted) for i in (row.run_id, row.eval_id))]

    def find_dataset(self, wanted: str) -> Dataset:
        """The dataset of this name."""
        if wanted not in self.datasets:
            raise UserError(f"unknown dataset {wanted!r}: choose one of {', '.join(self.datasets)}")
        return self.datasets[wanted]

    def find_run(self, wanted: str) -> str:
        """The run id that starts with `wanted`."""
        return _find(wanted, list(self.runs), "run")

    def find_evaluation(self, wanted: str) -> Row:
        """The row (of several, the first) whose evaluation id starts with `wanted`."""
        return self.evaluations[_find(wanted, list(self.evaluations), "evaluation")]

    def state(self, row: Row | Replica) -> State:
        """How far a row is: done when all its seeds are evaluated, begun when a training of it is, whatever became of it."""
        replicas = row.replicas if isinstance(row, Row) else (row,)
        if all((self.paths.evaluation(replica.eval_id) / "evaluation.json").exists() for replica in replicas):
            return "done"
        if any(replica.run_id and (self.paths.run(replica.run_id) / "metrics.jsonl").exists() for replica in replicas):
            return "begun"
        return "missing"


def open_project(root: Path, scale: str) -> Plan:
    """The plan of the project in the folder `root`. Raises `UserError` where there is none."""
    if not (root / "params" / "base.yaml").exists():
        raise UserError(
            "params/base.yaml: not found here; run fgaseg from the project's root folder"
            if root == Path()
            else f"{root / 'params' / 'base.yaml'}: not found; name the project's root folder"
        )
    return Plan(root, scale)  # type: ignore[arg-type]
