"""What an evaluation found, as its folder holds it, and whether it still belongs to the plan."""

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from fgaseg.errors import UserError
from fgaseg.expected import expected_images
from fgaseg.files import read_json
from fgaseg.identity import Method, eval_id
from fgaseg.plan import Plan
from fgaseg.provenance import code_fingerprint
from fgaseg.reporting.statistics import Counts, load_counts, miou
from fgaseg.rows import Row
from fgaseg.schema import Revision, Scale

Group = Literal["seen", "unseen", "stuff", "thing"]
Share = Annotated[float, Field(ge=0, le=1)]


class Record(BaseModel):
    """A frozen part of a result's file; keys that nobody needs are passed over."""

    model_config = ConfigDict(frozen=True)


class ClassScore(Record):
    """One class of a benchmark; `iou` is None where the ground truth does not show it."""

    name: str
    iou: Share | None
    seen: bool
    kind: Literal["stuff", "thing"] | None


class BenchmarkScore(Record):
    """One benchmark; the position of a class is its label. Times are left out: a report is the same in every run."""

    images: Annotated[int, Field(gt=0)]
    miou: Share
    classes: tuple[ClassScore, ...] = Field(min_length=1)


class Provenance(Record):
    """What produced a result; `code` is the fingerprint of the sources that decide it, or says which code continued which."""

    git_commit: str
    code: str
    data_digest: str
    revision: Revision
    packages: dict[str, str]


class Evaluation(Record):
    """The content of `evaluation.json`; `training` is the provenance of the weights, None for the untrained CLIP."""

    eval_id: str
    run_id: str | None
    method: Method
    scale: Scale
    benchmarks: dict[str, BenchmarkScore]
    provenance: Provenance
    training: Provenance | None = None

    @model_validator(mode="after")
    def _weights_have_an_origin(self) -> "Evaluation":
        if self.method == "fgaseg" and self.training is None:
            raise ValueError("training: the provenance of the weights is missing")
        return self


class Panel(Record):
    """One image with its ground truth and prediction; `classes` is a list of class names, indexed by label."""

    benchmark: str
    image: Path
    label: Path
    prediction: Path
    classes: Path


class PseudoMask(Record):
    """The maps of one class over one image: `gcs`, `lcs` and `fused` are keys of the npz file `arrays`."""

    benchmark: str
    image: Path
    class_name: str = Field(alias="class")
    present: bool
    arrays: Path
    gcs: str
    lcs: str | None
    fused: str


class Panels(Record):
    """The content of `panels.json`, with paths that stand on their own."""

    segmentations: tuple[Panel, ...]
    pseudo_masks: tuple[PseudoMask, ...]


Model = TypeVar("Model", bound=BaseModel)


def _validated(path: Path, kind: type[Model]) -> Model:
    content = read_json(path)
    try:
        return kind.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"]) or "the whole file"
        message = first["msg"].removeprefix("Value error, ")
        raise UserError(f"{path}: {key}: {message}; delete its folder and evaluate the row again") from None


def read_panels(folder: Path) -> Panels:
    """The figures' material that the evaluation in `folder` kept."""
    panels = _validated(folder / "panels.json", Panels)
    segmentations = tuple(
        panel.model_copy(update={k: folder / getattr(panel, k) for k in ("image", "label", "prediction", "classes")})
        for panel in panels.segmentations
    )
    masks = tuple(
        mask.model_copy(update={"image": folder / mask.image, "arrays": folder / mask.arrays}) for mask in panels.pseudo_masks
    )
    return Panels(segmentations=segmentations, pseudo_masks=masks)


@dataclass(frozen=True, eq=False)
class Result:
    """An evaluation of `row`; `stale` when the revision or the data that trained or evaluated it are not those of the plan.

    `partial` when at the paper's scale a benchmark had more or fewer photographs than it is published with.
    Compared by identity, so that what is computed from its counts can be kept.
    """

    row: Row
    folder: Path
    evaluation: Evaluation
    stale: bool
    partial: bool = False

    @cached_property
    def counts(self) -> Mapping[str, Counts]:
        """The counts of each benchmark; `UserError` when they contradict `evaluation.json`."""
        path = self.folder / "counts.npz"
        scores = self.evaluation.benchmarks
        counts = load_counts(path, {name: score.images for name, score in scores.items()})
        for name, score in scores.items():
            if counts[name].classes.size and counts[name].classes.max() >= len(score.classes):
                raise UserError(
                    f"{path}: {name}: counts of class {counts[name].classes.max()}, but it has {len(score.classes)}"
                )
            if not abs(miou(counts[name]) - score.miou) < 1e-6:
                raise UserError(f"{path}: {name}: its mIoU is not that of evaluation.json; evaluate the row again")
        return counts

    @property
    def ids(self) -> tuple[str, ...]:
        """Ids of the evaluation and of the training that it is of, those of a stale one included."""
        return tuple(filter(None, (self.folder.name, self.evaluation.run_id)))

    @property
    def other_code(self) -> bool:
        """Whether other code than the present one trained or evaluated a result that is not stale."""
        made_by = (self.evaluation.training, self.evaluation.provenance)
        return not self.stale and any(origin and origin.code != code_fingerprint() for origin in made_by)

    @property
    def state(self) -> str:
        """How far the number can be taken for one of the plan and the code as they are."""
        return "stale" if self.stale else "other code" if self.other_code else "current"

    def members(self, benchmark: str, group: Group) -> NDArray[np.bool_]:
        """Which labels of `benchmark` belong to `group`: met in training or not, stuff or things."""
        classes = self.evaluation.benchmarks[benchmark].classes
        if group in ("seen", "unseen"):
            return np.array([score.seen == (group == "seen") for score in classes])
        return np.array([score.kind == group for score in classes])


class Evaluations:
    """The evaluations of a plan's rows. The folders are read through once, and only where a row has none of its own."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan

    def find(self, row: Row) -> Result | None:
        """The evaluation of `row`, or else the latest of it under another revision or other data; None without any."""
        if (self.plan.paths.evaluation(row.eval_id) / "evaluation.json").exists():
            return _result(self.plan, row, row.eval_id)
        others = self._others(row)
        return _result(self.plan, row, others[-1]) if others else None

    def stale_with(self, wanted: str) -> list[Result]:
        """Evaluations of planned rows under another revision or other data whose own or training's id starts with `wanted`."""
        results = (_result(self.plan, row, name) for row in self.plan.evaluations.values() for name in self._others(row))
        return [result for result in results if wanted and any(i.startswith(wanted) for i in result.ids)]

    @cached_property
    def _on_disk(self) -> dict[str, tuple[Revision, str]]:
        """Revision and data digest of every evaluation, by id."""
        found = {}
        for path in sorted(self.plan.paths.evaluation("x").parent.glob("*/evaluation.json")):
            with suppress(UserError):  # left by another version of the code, and needed by no row
                origin = _validated(path, Evaluation).provenance
                found[path.parent.name] = origin.revision, origin.data_digest
        return found

    def _others(self, row: Row) -> list[str]:
        """Ids of the evaluations of `row` under another revision or other data, the one to prefer last."""
        found = []
        for revision, digest in set(self._on_disk.values()):
            name = eval_id(row.params.model_copy(update={"revision": revision}), row.method, digest, self.plan.own)
            if name != row.eval_id and self._on_disk.get(name) == (revision, digest):
                found.append((digest == self.plan.digest, revision.evaluation, revision.training, name))
        return [name for *_, name in sorted(found)]


def _result(plan: Plan, row: Row, name: str) -> Result:
    folder = plan.paths.evaluation(name)
    path = folder / "evaluation.json"
    evaluation = _validated(path, Evaluation)
    for key, wanted in (("scale", plan.scale), ("method", row.method)):
        if getattr(evaluation, key) != wanted:
            raise UserError(
                f"{path}: {key}: '{getattr(evaluation, key)}' where {row.name} has '{wanted}'; evaluate the row again"
            )
    for benchmark in row.params.data.benchmarks:
        if benchmark not in evaluation.benchmarks:
            raise UserError(f"{path}: benchmarks: '{benchmark}' is missing; evaluate the row again")
    origin, trained, current = evaluation.provenance, evaluation.training, row.params.revision
    stale = origin.revision.evaluation != current.evaluation or origin.data_digest != plan.digest
    if trained is not None:
        stale = stale or trained.revision.training != current.training or trained.data_digest != plan.digest
    scored = {name: evaluation.benchmarks[name].images for name in row.params.data.benchmarks}
    partial = plan.scale == "paper" and any(
        expected_images(plan, name) not in (None, images) for name, images in scored.items()
    )
    return Result(row, folder, evaluation, stale, partial)
