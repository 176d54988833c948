"""The scores of a plan's rows, with what resampling the images and training with other seeds say about their chance."""

import statistics
from typing import Literal

from fgaseg.errors import UserError
from fgaseg.plan import Plan
from fgaseg.reporting.results import Evaluations, Group, Result
from fgaseg.reporting.statistics import Bootstrapped, Estimate, bootstrap, mean_of, require_same_truth
from fgaseg.rows import Row

MEAN = "mean"
Note = Literal["stale", "other_code", "partial", "fewer_seeds"]


def estimate(score: Bootstrapped | None) -> Estimate | None:
    """The estimate of a score that may be missing."""
    return None if score is None else score.estimate()


class Scores:
    """Scores of rows, as shares in 0..1. Each evaluation is read once and each benchmark of it is resampled once.

    A `benchmark` may also be `MEAN`: the mean over the benchmarks that show a class of the group. The score of a row with
    several seeds is the mean over those that are evaluated, on the same resamples; it is None where none is.
    """

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self._evaluations = Evaluations(plan)
        self._results: dict[str, Result | None] = {}
        self._bootstrapped: dict[tuple[str, str, Group | None], Bootstrapped] = {}

    def result(self, row: Row) -> Result | None:
        """The evaluation of the row's first seed."""
        if row.eval_id not in self._results:
            self._results[row.eval_id] = self._evaluations.find(row)
        return self._results[row.eval_id]

    def results(self, row: Row) -> list[Result]:
        """The evaluations of all seeds that are evaluated."""
        return [result for result in map(self.result, row.single) if result is not None]

    def score(self, row: Row, benchmark: str, group: Group | None = None) -> Bootstrapped | None:
        """mIoU over all classes or those of `group`; NaN where the ground truth shows none of them."""
        found = [self._score(result, benchmark, group) for result in self.results(row)]
        return mean_of(found) if found else None

    def deviation(self, row: Row, benchmark: str) -> float | None:
        """Standard deviation of mIoU over the seeds (n - 1); None for fewer than two."""
        found = [self._score(result, benchmark, None).value for result in self.results(row)]
        return statistics.stdev(found) if len(found) > 1 else None

    def difference(self, row: Row, other: Row, benchmark: str, group: Group | None = None) -> Bootstrapped | None:
        """mIoU of `row` minus that of `other` on the same images; None unless both were measured on the same data."""
        both = self.results(row), self.results(other)
        digests = {result.evaluation.provenance.data_digest for results in both for result in results}
        ours, theirs = (self.score(r, benchmark, group) for r in (row, other))
        if ours is None or theirs is None or len(digests) > 1:
            return None
        for name in self._members(benchmark):
            for result in (*both[0], *both[1][1:]):
                try:
                    require_same_truth(result.counts[name], both[1][0].counts[name])
                except ValueError as error:
                    raise UserError(f"{result.folder} and {both[1][0].folder}: {error}") from None
        return ours - theirs

    def notes(self, *rows: Row) -> tuple[Note, ...]:
        """What to know about the numbers of `rows`.

        Stale ones, ones made by other code than the present, ones of a part of the published photographs, too few seeds.
        """
        results = [result for row in rows for result in self.results(row)]
        found: list[Note] = ["stale"] if any(result.stale for result in results) else []
        if any(result.other_code for result in results):
            found.append("other_code")
        if any(result.partial for result in results):
            found.append("partial")
        if any(0 < len(self.results(row)) < len(row.replicas) for row in rows):
            found.append("fewer_seeds")
        return tuple(found)

    def _members(self, benchmark: str) -> tuple[str, ...]:
        return self.plan.default.data.benchmarks if benchmark == MEAN else (benchmark,)

    def _score(self, result: Result, benchmark: str, group: Group | None) -> Bootstrapped:
        if benchmark == MEAN:
            return mean_of([self._score(result, name, group) for name in self._members(MEAN)])
        key = result.folder.name, benchmark, group
        if key not in self._bootstrapped:
            counts = result.counts[benchmark]
            if group is not None:
                counts = counts.restrict(result.members(benchmark, group))
            stream = self.plan.default.data.benchmarks.index(benchmark)
            self._bootstrapped[key] = bootstrap(counts, stream=stream)
        return self._bootstrapped[key]
