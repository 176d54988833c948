"""FGAseg beside the untrained CLIP that it starts from: scores, differences and their intervals."""

from dataclasses import dataclass
from typing import get_args

from fgaseg.errors import UserError
from fgaseg.identity import Method
from fgaseg.reporting.results import Group
from fgaseg.reporting.scores import Note, Scores, estimate
from fgaseg.reporting.statistics import Bootstrapped, Estimate
from fgaseg.rows import Row

GROUPS: tuple[Group, ...] = get_args(Group)
METHODS: tuple[Method, ...] = ("dense_clip", "fgaseg")


@dataclass(frozen=True)
class Comparison:
    """Both methods on one backbone. A score is None where the row is not evaluated yet; see `Scores`."""

    rows: dict[Method, Row]
    scores: Scores

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
        return any(self.scores.results(row) for row in self.rows.values())

    def notes(self, *methods: Method) -> tuple[Note, ...]:
        """Footnotes of what `methods` measured."""
        return self.scores.notes(*(self.rows[method] for method in methods))

    def classes(self, benchmark: str, group: Group) -> int | None:
        """How many classes of `group` the ground truth of one benchmark shows; None when nothing is measured."""
        for row in self.rows.values():
            for result in self.scores.results(row):
                return result.counts[benchmark].restrict(result.members(benchmark, group)).labels().size
        return None

    def score(self, method: Method, benchmark: str, group: Group | None = None) -> Estimate | None:
        """mIoU of one method, over all classes or those of `group`; NaN where the ground truth shows none of them."""
        return estimate(self.scores.score(self.rows[method], benchmark, group))

    def deviation(self, method: Method, benchmark: str) -> float | None:
        """Standard deviation of mIoU over the row's seeds; None for a single one."""
        return self.scores.deviation(self.rows[method], benchmark)

    def difference(self, benchmark: str, group: Group | None = None) -> Bootstrapped | None:
        """mIoU of FGAseg minus that of dense CLIP on the same images; None unless both were measured on the same data."""
        return self.scores.difference(self.rows["fgaseg"], self.rows["dense_clip"], benchmark, group)


def comparisons(scores: Scores, backbone: str | None = None) -> list[Comparison]:
    """One comparison for each backbone of Table I, in the table's order, or for `backbone` alone."""
    found: dict[str, dict[Method, Row]] = {}
    for row in scores.plan.tables["table_1"].rows:
        if backbone in (None, row.params.vlm.backbone):
            found.setdefault(row.params.vlm.backbone, {}).setdefault(row.method, row)
    for name, rows in found.items():
        for method in METHODS:
            if method not in rows:
                raise UserError(f"params/tables/table_1.yaml: backbone {name} has no row with method: {method}; add one")
    return [Comparison(rows, scores) for rows in found.values()]
