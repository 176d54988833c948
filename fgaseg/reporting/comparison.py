"""FGAseg beside the untrained CLIP that it starts from: scores, differences and their intervals."""

from dataclasses import dataclass
from functools import lru_cache
from typing import get_args

from fgaseg.errors import UserError
from fgaseg.evaluation.statistics import Counts, Estimate, mean_difference, mean_miou
from fgaseg.plan import Method, Plan, Row
from fgaseg.reporting.results import Group, Result, find_result

MEAN = "mean"
GROUPS: tuple[Group, ...] = get_args(Group)
METHODS: tuple[Method, ...] = ("dense_clip", "fgaseg")


@dataclass(frozen=True)
class Comparison:
    """Both methods on one backbone; a result is None where the row is not evaluated yet.

    Scores are shares in 0..1. A benchmark may also be `MEAN`: the mean over the benchmarks that show a class of the group.
    """

    rows: dict[Method, Row]
    results: dict[Method, Result | None]

    @property
    def backbone(self) -> str:
        """The backbone as people call it."""
        return self.rows["fgaseg"].params.vlm.label

    @property
    def benchmarks(self) -> tuple[str, ...]:
        """The benchmarks in the table's order."""
        return self.rows["fgaseg"].params.data.benchmarks

    @property
    def measured(self) -> bool:
        """Whether either method is evaluated."""
        return any(self.results.values())

    def stale(self, *methods: Method) -> bool:
        """Whether a result of one of `methods` is stale."""
        return any(result.stale for result in map(self.results.get, methods) if result is not None)

    def classes(self, benchmark: str, group: Group) -> int | None:
        """How many classes of `group` the ground truth of one benchmark shows; None when nothing is measured."""
        result = self.results["fgaseg"] or self.results["dense_clip"]
        return None if result is None else _counts(result, benchmark, group).labels().size

    def score(self, method: Method, benchmark: str, group: Group | None = None) -> Estimate | None:
        """mIoU of one method, over all classes or those of `group`; NaN where the ground truth shows none of them."""
        result = self.results[method]
        return None if result is None else _score(result, self._members(benchmark), group)

    def difference(self, benchmark: str, group: Group | None = None) -> Estimate | None:
        """mIoU of FGAseg minus that of dense CLIP on the same images; None unless both were measured on the same data."""
        ours, dense = self.results["fgaseg"], self.results["dense_clip"]
        if ours is None or dense is None or ours.evaluation.provenance.data_digest != dense.evaluation.provenance.data_digest:
            return None
        return _difference(ours, dense, self._members(benchmark), group)

    def _members(self, benchmark: str) -> tuple[str, ...]:
        return self.benchmarks if benchmark == MEAN else (benchmark,)


def comparisons(plan: Plan) -> list[Comparison]:
    """One comparison for each backbone of Table I, in the table's order."""
    found: dict[str, dict[Method, Row]] = {}
    for row in plan.tables["table_1"].rows:
        found.setdefault(row.params.vlm.backbone, {}).setdefault(row.method, row)
    for backbone, rows in found.items():
        for method in METHODS:
            if method not in rows:
                raise UserError(f"params/tables/table_1.yaml: backbone {backbone} has no row with method: {method}; add one")
    return [Comparison(rows, {method: find_result(plan, rows[method]) for method in METHODS}) for rows in found.values()]


def _counts(result: Result, benchmark: str, group: Group | None) -> Counts:
    counts = result.counts[benchmark]
    return counts if group is None else counts.restrict(result.members(benchmark, group))


@lru_cache
def _score(result: Result, benchmarks: tuple[str, ...], group: Group | None) -> Estimate:
    return mean_miou([_counts(result, benchmark, group) for benchmark in benchmarks])


@lru_cache
def _difference(ours: Result, dense: Result, benchmarks: tuple[str, ...], group: Group | None) -> Estimate:
    try:
        return mean_difference([(_counts(ours, b, group), _counts(dense, b, group)) for b in benchmarks])
    except ValueError as error:
        raise UserError(f"{ours.folder} and {dense.folder}: {error}") from None
