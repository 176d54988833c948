"""Seconds that the trainings and evaluations of the plan take, and what comes of them: GPU-hours, time on a number of nodes.

A training takes its iterations, and a validation after every `validate_every` of them and after the last.
"""

import heapq
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import ceil
from statistics import median

from fgaseg.catalogue import OwnDataset
from fgaseg.errors import UserError
from fgaseg.expected import drawn_or_published
from fgaseg.files import read_json
from fgaseg.plan import Plan, Scope
from fgaseg.progress import Line, runs_of
from fgaseg.schema import Training
from fgaseg.training.metrics import read_metrics
from fgaseg.training.starts import read_starts

VALIDATED_LIKE = "a-150"
"""The benchmark with about as many classes as training has: an image of a validation takes as long."""


@dataclass(frozen=True)
class Machines:
    """`nodes` nodes of `gpus` GPUs; a training takes `each` of the nodes, an evaluation one GPU."""

    nodes: int
    gpus: int
    each: int

    @property
    def world(self) -> int:
        """GPUs of a training."""
        return self.each * self.gpus

    @property
    def trainings(self) -> int:
        """How many trainings run at once."""
        return self.nodes // self.each


@dataclass(frozen=True)
class Work:
    """Seconds of each training's iterations and validations, and of each evaluation; None where unknown.

    `counts` are the numbers of iterations, validations and evaluations.
    """

    counts: tuple[int, int, int]
    iterations: Sequence[float]
    validations: Sequence[float] | None
    evaluations: Sequence[float] | None

    def gpu_hours(self, world: int) -> tuple[float, float | None, float | None]:
        """Of iterations, validations and evaluations."""
        validations = None if self.validations is None else sum(self.validations) * world / 3600
        evaluations = None if self.evaluations is None else sum(self.evaluations) / 3600
        return sum(self.iterations) * world / 3600, validations, evaluations

    def seconds(self, machines: Machines) -> float:
        """What is known of the time from the first training to the last evaluation; evaluations follow all trainings."""
        pairs = zip(self.iterations, self.validations or [0.0] * len(self.iterations), strict=True)
        trainings = makespan(map(sum, pairs), machines.trainings)
        return trainings + makespan(self.evaluations or (), machines.nodes * machines.gpus)


def makespan(seconds: Iterable[float], at_once: int) -> float:
    """When the last job ends, if each place that becomes free takes the longest that is left."""
    free = [0.0] * at_once
    for each in sorted(seconds, reverse=True):
        heapq.heapreplace(free, free[0] + each)
    return max(free)


def validations(training: Training, step: int = 0) -> int:
    """How many validations a training has after iteration `step`."""
    return ceil(training.iterations / training.validate_every) - step // training.validate_every


def images(plan: Plan, dataset: str) -> int:
    """How many images a dataset has: as many as its index once it is prepared, before that as it is published with.

    A user's own has as many as there are labels.
    """
    index = plan.paths.dataset(dataset) / "index.csv"
    if index.exists():
        return len(index.read_bytes().splitlines()) - 1
    found = plan.datasets[dataset]
    if isinstance(found, OwnDataset):
        return sum(1 for _ in (plan.root / found.labels).glob("*.png"))
    return drawn_or_published(plan, found)


class Measured:
    """Seconds that were measured: in each run, of iterations and validations in the median; in each evaluation, of an image.

    Runs by another number of processes than `world` are passed over, and so are damaged files; `notes` tell.
    """

    def __init__(self, plan: Plan, world: int) -> None:
        self.notes: list[str] = []
        self.iterations: dict[str, float] = {}
        self.validations: dict[str, float] = {}
        self.images: dict[str, dict[str, float]] = {}
        for run in plan.runs:
            try:
                self._read_run(run, plan, world)
            except (OSError, ValueError, TypeError):
                self.notes.append(f"passes over run {run}: its metrics.jsonl or starts.jsonl is damaged")
        for evaluation in plan.evaluations:
            path = plan.paths.evaluation(evaluation) / "evaluation.json"
            try:
                if path.exists():
                    found, names = read_json(path)["benchmarks"], plan.default.data.benchmarks
                    self.images[evaluation] = {name: float(found[name]["seconds_per_image"]["mean"]) for name in names}
            except (OSError, ValueError, TypeError, LookupError):
                self.notes.append(f"passes over evaluation {evaluation}: its evaluation.json is damaged")

    def _read_run(self, run: str, plan: Plan, world: int) -> None:
        folder = plan.paths.run(run)
        lines = [Line.model_validate(line) for line in read_metrics(folder / "metrics.jsonl")]
        seconds = [line.seconds_per_iteration for line in lines if line.seconds_per_iteration]
        others = {str(start.world) for start in read_starts(folder) if start.world != world}
        if seconds and others:
            self.notes.append(f"passes over run {run}: its training had {', '.join(others)} process(es), not {world}")
        elif seconds:
            self.iterations[run] = median(seconds)
            found = [b.time - a.time for a, b in pairwise(lines) if a.step == b.step and a.seconds_per_iteration]
            self.validations |= {run: median(found)} if found else {}


class Costs:
    """Seconds of an iteration and of a validation of each run of the scope, and of each evaluation; None where unknown.

    What was not measured takes the median of its kind, or else of all; seconds `per_iteration` and `per_image` that are given
    count for all. `notes` tell where numbers are from. Raises `UserError` where nothing tells how long an iteration takes.
    """

    def __init__(
        self, plan: Plan, scope: Scope, world: int, per_iteration: float | None = None, per_image: float | None = None
    ) -> None:
        self.plan, self.world, self.measured = plan, world, Measured(plan, world)
        self.runs, self.rows = list(runs_of(plan, scope)), plan.evaluations_of(scope)
        self.backbones = {run: params.vlm.backbone for run, params in plan.runs.items()}
        self.notes = list(self.measured.notes)
        self.iterations = self._iterations(per_iteration)
        self.evaluations = self._evaluations(per_image)
        self.validations = self._validations(per_image)

    def _filled(
        self, what: str, wanted: Sequence[str], measured: Mapping[str, float], kinds: Mapping[str, str]
    ) -> dict[str, float] | None:
        """A value for each of `wanted`, None where nothing was measured."""
        found: dict[str, float] = {}
        for kind in dict.fromkeys(kinds[i] for i in wanted):
            same = [value for i, value in measured.items() if kinds[i] == kind]
            values = same or list(measured.values())
            if not values:
                return None
            ids = [i for i in wanted if kinds[i] == kind]
            found |= {i: measured.get(i, median(values)) for i in ids}
            remark = "; those keep their own" if measured.keys() & set(ids) else "" if same else ", none of this kind"
            self.notes.append(f"assumes {median(values):.3g} s {what} ({kind}): median of {len(values)} measured{remark}")
        return found

    def _iterations(self, given: float | None) -> dict[str, float]:
        if given:
            self.notes.append(f"assumes {given:g} s an iteration: given")
            return dict.fromkeys(self.runs, given)
        found = self._filled("an iteration", self.runs, self.measured.iterations, self.backbones)
        if found is None:
            raise UserError(
                f"{self.plan.paths.results / 'runs'}: no training by {self.world} process(es) has been measured yet; "
                "give --seconds-per-iteration, or train one run first"
            )
        return found

    def _evaluations(self, given: float | None) -> dict[str, float] | None:
        counts = {str(name): images(self.plan, name) for name in self.plan.default.data.benchmarks}
        what = f"an evaluation of {sum(counts.values())} images"
        if given:
            self.notes.append(f"assumes {given * sum(counts.values()):.4g} s {what}: {given:g} s each, given")
            return dict.fromkeys(self.rows, given * sum(counts.values()))
        kinds = {i: f"{row.method}, {row.params.vlm.backbone}" for i, row in self.plan.evaluations.items()}
        every = {i: sum(counts[name] * each for name, each in found.items()) for i, found in self.measured.images.items()}
        trained = {i: seconds for i, seconds in every.items() if self.plan.evaluations[i].run_id}
        untrained = {i: seconds for i, seconds in every.items() if i not in trained}
        ours = self._filled(what, [i for i, row in self.rows.items() if row.run_id], trained, kinds)
        theirs = self._filled(what, [i for i, row in self.rows.items() if not row.run_id], untrained or every, kinds)
        if ours is None or theirs is None:
            self.notes.append("leaves out evaluations: none of a trained model has been measured yet; give --seconds-per-image")
            return None
        return ours | theirs

    def _validations(self, given: float | None) -> dict[str, float] | None:
        if not given and self.measured.validations:
            return self._filled("a validation", self.runs, self.measured.validations, self.backbones)
        known = [found[VALIDATED_LIKE] for i, found in self.measured.images.items() if self.plan.evaluations[i].run_id]
        if not given and not known:
            self.notes.append("leaves out validations: none has been measured yet; give --seconds-per-image")
            return None
        share = ceil(images(self.plan, self.plan.default.data.validation) / self.world)
        each = given or median(known)
        source = "given" if given else f"as an image of {VALIDATED_LIKE} in the median of {len(known)} measured evaluations"
        self.notes.append(f"assumes {share * each:.4g} s a validation of {share} images a process: {each:.3g} s each, {source}")
        return dict.fromkeys(self.runs, share * each)

    def work(self, steps: Mapping[str, int], evaluations: Iterable[str]) -> Work:
        """Trainings from their iterations `steps` on, and evaluations."""
        left = {run: self.plan.runs[run].training.iterations - step for run, step in steps.items()}
        due = {run: validations(self.plan.runs[run].training, step) for run, step in steps.items()}
        wanted = list(evaluations)
        return Work(
            (sum(left.values()), sum(due.values()), len(wanted)),
            [number * self.iterations[run] for run, number in left.items()],
            None if self.validations is None else [number * self.validations[run] for run, number in due.items()],
            None if self.evaluations is None else [self.evaluations[i] for i in wanted],
        )
