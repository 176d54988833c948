"""What the plan is made of: tables, their measured rows, and each row once for every seed."""

from dataclasses import dataclass, field, replace
from typing import Any, Literal

from fgaseg.identity import Method
from fgaseg.schema import Evaluation, Params

Target = Literal["all", "fidelity"]


def without_top_n(params: Params) -> Evaluation:
    """How a run is evaluated, apart from top-N."""
    return params.evaluation.model_copy(update={"top_n": None})


@dataclass(frozen=True)
class Replica:
    """A row with one of its seeds: a training (none for the untrained CLIP) and its evaluation."""

    params: Params
    run_id: str | None
    eval_id: str


@dataclass(frozen=True)
class Row:
    """One measured row of a table. `published` follows the benchmarks' order, None where the paper has no number.

    `params`, `run_id` and `eval_id` are those of the first of `replicas`; the i-th has training.seed + i. `reference` is
    the number of the row in the same table that differences are taken against; `Plan.reference` knows the default.
    """

    table: str
    number: int
    label: dict[str, str]
    method: Method
    params: Params
    run_id: str | None
    eval_id: str
    replicas: tuple[Replica, ...]
    reference: int | None = None
    published: tuple[float | None, ...] = ()
    published_ms: tuple[float | None, ...] = ()

    @property
    def description(self) -> str:
        """The label in one line."""
        return ", ".join(f"{k}: {v}" for k, v in self.label.items())

    @property
    def name(self) -> str:
        """How people refer to the row."""
        return f"{self.table}, row {self.number} ({self.description})"

    @property
    def single(self) -> "list[Row]":
        """The row once for each of its seeds, those after the first with the seed in their labels."""
        rows = [replace(self, params=r.params, run_id=r.run_id, eval_id=r.eval_id, replicas=(r,)) for r in self.replicas]
        others = (replace(row, label=row.label | {"seed": str(row.params.training.seed)}) for row in rows[1:])
        return [rows[0], *others]


@dataclass(frozen=True)
class Table:
    """A table: its measured rows, and for Table I the other methods' published ones."""

    key: str
    title: str
    caption: str
    rows: tuple[Row, ...]
    target: Target = "all"
    others: tuple[dict[str, Any], ...] = field(default=())

    @property
    def timed(self) -> bool:
        """Whether its rows are one trained model that is evaluated with several N of top-N alone: times tell them apart."""
        alike = {row.params.model_copy(update={"evaluation": without_top_n(row.params)}) for row in self.rows}
        return len(alike) == 1 and all(row.method == "fgaseg" and row.params.evaluation.top_n for row in self.rows)
