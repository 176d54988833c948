"""Text for `fgaseg plan`: what is still to be done and what all would cost from nothing, with every assumption.

All can be done again by hand: GPU-hours are iterations x seconds x GPUs / 3600, and the numbers of all three are printed.
"""

from collections.abc import Collection, Sequence
from functools import cache
from heapq import nlargest
from pathlib import Path
from statistics import mean

from fgaseg.costs import Costs, Machines, Work, images
from fgaseg.data.raw import raw_dataset
from fgaseg.errors import UserError
from fgaseg.params import load_launch
from fgaseg.plan import Plan, Scope
from fgaseg.progress import duration, observe, runs_of
from fgaseg.schema import VLM, Model

LABEL_BYTES = {"paper": 8_000, "sample": 1_000}
"""Estimate of a prepared label map."""
PHOTO_BYTES = {"paper": 200_000, "sample": 0}
"""Estimate of a photograph that preparation shrinks and keeps; the sample's are small already."""
EVALUATION_BYTES = {"paper": 10_000_000, "sample": 300_000}
"""Estimate of the files of an evaluation, until one is done."""

Sizes = dict[str, tuple[Sequence[float], Sequence[float]]]
"""For each kind of file the bytes of those that are still to be written, and of all."""


Cells = tuple[str, str, str, str, str]


@cache
def sizes(vlm: VLM, model: Model) -> tuple[int, int, int]:
    """Bytes of the trained tensors, of AdamW's two moments of each, and of the whole backbone.

    Counted in the model itself, on torch's meta device, which has shapes and no numbers.
    """
    import open_clip
    import torch

    from fgaseg.model.clip import DenseCLIP, register_architectures
    from fgaseg.model.fgaseg import FGAseg
    from fgaseg.training.state import trained_state

    register_architectures()
    config = open_clip.get_model_config(vlm.architecture)
    if config is None:
        raise UserError(f"vlm.architecture: open_clip has no model '{vlm.architecture}'; see open_clip.list_models()")
    with torch.device("meta"):
        clip = open_clip.CLIP(**config)
        backbone = sum(tensor.nbytes for tensor in clip.state_dict().values())
        whole = FGAseg(DenseCLIP(clip, vlm.image_size, vlm.guidance_layers, vlm.dense_residual), model, vlm.finetune)
    moments = 2 * sum(parameter.nbytes for parameter in whole.parameters() if parameter.requires_grad)
    return sum(tensor.nbytes for tensor in trained_state(whole).values()), moments, backbone


def _folder_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def disk(plan: Plan, scope: Scope, left: Collection[str], at_once: int) -> tuple[Sizes, list[str]]:
    """What the scope writes, and on what assumptions.

    `left` are the trainings that are not done, `at_once` is how many of them run at the same time.
    """
    from fgaseg.training.state import KEPT

    runs, rows, data = runs_of(plan, scope), plan.evaluations_of(scope), plan.default.data
    models = {run: sizes(params.vlm, params.model)[0] for run, params in runs.items()}
    checkpoints = {run: (KEPT + 1) * sum(sizes(params.vlm, params.model)[:2]) for run, params in runs.items()}
    backbones = {row.params.vlm.backbone: sizes(row.params.vlm, row.params.model)[2] for row in rows.values()}
    raws = [raw_dataset(dataset, plan.root, data.root)[0] for dataset in plan.datasets.values()]
    shrunk = [raw.name for raw in raws if raw.short_side]
    label, photo = LABEL_BYTES[plan.scale], PHOTO_BYTES[plan.scale]
    labels = {
        name: images(plan, name) * (label + photo * (name in shrunk))
        for name in (data.train, data.validation, *data.benchmarks)
    }
    folders = {i: plan.paths.evaluation(i) for i in rows}
    done = {i: _folder_bytes(folder) for i, folder in folders.items() if (folder / "evaluation.json").exists()}
    evaluation = mean(done.values()) if done else EVALUATION_BYTES[plan.scale]
    found: Sizes = {
        "models": ([models[run] for run in left], [*models.values()]),
        "checkpoints": (nlargest(at_once, (checkpoints[run] for run in left)), nlargest(at_once, checkpoints.values())),
        "backbones": ([n for name, n in backbones.items() if not plan.paths.vlm(name).exists()], [*backbones.values()]),
        "prepared data": (
            [n for name, n in labels.items() if not (plan.paths.dataset(name) / "index.csv").exists()],
            [*labels.values()],
        ),
        "evaluations": ([evaluation] * (len(rows) - len(done)), [done.get(i, evaluation) for i in rows]),
    }
    photos = f", {size(photo)} a photograph that is shrunk ({', '.join(shrunk)})" if photo else ""
    return found, [
        f"assumes {KEPT + 1} checkpoints of a training at work, one in the making: weights and AdamW's two moments",
        f"assumes {size(label)} a prepared label map{photos}: an estimate",
        f"assumes {size(evaluation)} an evaluation's files: "
        + (f"mean of {len(done)} that are done" if done else "an estimate"),
    ]


def size(count: float) -> str:
    """Bytes in the unit that suits them."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 999.5:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} TB"


def _aligned(rows: Sequence[Cells]) -> list[str]:
    """Lines of a table, numbers to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            f"{cell:{'>' if i else '<'}{width}}" for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


def _hours(work: Work, world: int, digits: int) -> list[str]:
    """Hours of iterations, validations and evaluations, and what is known of their sum."""
    parts = work.gpu_hours(world)
    known = [*parts, sum(part for part in parts if part is not None)]
    return ["unknown" if part is None else f"{part:,.{digits}f}" for part in known]


def _time_rows(todo: Work, whole: Work, machines: Machines, unit: str, price: float | None) -> list[Cells]:
    digits = 3 if whole.gpu_hours(machines.world)[0] < 100 else 1
    hours = [_hours(work, machines.world, digits) for work in (todo, whole)]
    rows: list[Cells] = [(f"{unit}-hours", "", "", "", "")]
    for i, name in enumerate(("iterations", "validations", "evaluations")):
        rows.append((f"  {name}", f"{todo.counts[i]:,}", hours[0][i], f"{whole.counts[i]:,}", hours[1][i]))
    rows.append(("  together", "", hours[0][3], "", hours[1][3]))
    if price:
        prices = [f"{price * sum(part or 0 for part in work.gpu_hours(machines.world)):,.2f}" for work in (todo, whole)]
        rows.append((f"price at {price:g} an hour", "", prices[0], "", prices[1]))
    times = [duration(work.seconds(machines)) for work in (todo, whole)]
    return [*rows, (f"time on {machines.nodes} node{'s' * (machines.nodes > 1)}", "", times[0], "", times[1])]


def _disk_rows(found: Sizes) -> list[Cells]:
    rows: list[Cells] = [("disk", "", "", "", "")]
    for name, (missing, every) in found.items():
        rows.append((f"  {name}", str(len(missing)), size(sum(missing)), str(len(every)), size(sum(every))))
    todo, whole = (size(sum(sum(parts[i]) for parts in found.values())) for i in (0, 1))
    return [*rows, ("  together", "", todo, "", whole)]


def estimate(
    plan: Plan,
    scope: Scope,
    nodes: int | None = None,
    seconds_per_iteration: float | None = None,
    seconds_per_image: float | None = None,
    price: float | None = None,
) -> str:
    """The costs of the scope, in GPUs, and at the sample scale in processes of one training or evaluation each.

    Raises `UserError` for too few nodes, and where nothing tells how long an iteration takes.
    """
    cluster, paper = load_launch(plan.root).cluster, plan.scale == "paper"
    share, gpus, unit = (cluster.nodes, cluster.gpus_per_node, "GPU") if paper else (1, 1, "process")
    if nodes is not None and nodes < share:
        raise UserError(
            f"--nodes: {nodes}: a training takes {share} (params/launch.yaml: cluster.nodes); give at least {share}"
        )
    machines = Machines(nodes or share, gpus, share)
    costs = Costs(plan, scope, machines.world, seconds_per_iteration, seconds_per_image)
    found = {run: observe(plan, run) for run in costs.runs}
    steps = {run: progress.step for run, progress in found.items() if progress.state != "done"}
    missing = [i for i in costs.rows if not (plan.paths.evaluation(i) / "evaluation.json").exists()]
    todo, whole = costs.work(steps, missing), costs.work(dict.fromkeys(costs.runs, 0), costs.rows)
    files, assumptions = disk(plan, scope, steps, machines.trainings)
    times = _time_rows(todo, whole, machines, unit, price)
    each = f"{machines.world} {unit}{'s' * (machines.world > 1)} a training, {machines.trainings} at once"
    lines = [
        f"{plan.scale} scale, to do: {len(steps)} of {len(found)} trainings, {len(missing)} of {len(costs.rows)} evaluations",
        "",
        *_aligned([("", "", "to do", "", "from nothing"), *times, *_disk_rows(files)]),
        "",
        *costs.notes,
        f"assumes {each}; then 1 {unit} an evaluation, {machines.nodes * gpus} at once; the longest first",
        *assumptions,
        "leaves out waiting in the queue, starting up, preparing the data, measuring Table VI's times",
    ]
    return "\n".join(lines)
