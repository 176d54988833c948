"""The figures of a report: pseudo-masks, predictions beside the ground truth, and how the trainings went."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from fgaseg.plan import Plan, Scope
from fgaseg.reporting.curves import Line, overview_figure, read_curves, training_figure
from fgaseg.reporting.heatmaps import pseudo_mask_figure
from fgaseg.reporting.results import Panels, read_panels
from fgaseg.reporting.segmentations import segmentation_figure
from fgaseg.rows import Row

_SEGMENTATION = (
    "Image, ground truth, and the predictions of the untrained CLIP (dense CLIP) and of the default FGAseg. A legend lists the "
    "classes of its line by area; names in italics are predicted but not in the ground truth. Striped pixels are void: they "
    "are not scored, and predictions there are drawn pale."
)
_PSEUDO_MASKS = (
    "Pseudo-masks of the default FGAseg before propagation, over the grey image: similarity of every patch to a class, global "
    "(GCS, a cosine) and local (LCS, a convolution with the class's kernel), and what their fusion makes of both. The fused "
    "map has many channels; shown is its first principal component over these classes and all patches, the one direction in "
    "which it varies most, its sign chosen to agree with GCS. Each kind of map has one colour scale, so that classes that "
    "are not in the image can be compared with those that are."
)
_OVERVIEW = (
    "Total loss (smoothed, logarithmic) and mIoU on the validation images during training, for the rows of each table; the "
    "default model is black and bold. Losses compare only where the rows have the same loss terms."
)
_CURVES = "The loss and its terms (left, logarithmic) and mIoU on the validation images during training (right)."


@dataclass(frozen=True)
class Figure:
    """A picture of the report; `file` is relative to the report's folder."""

    key: str
    title: str
    caption: str
    file: Path


def short_title(title: str) -> str:
    """How people refer to a table: "Table III (a)"."""
    return title.partition(":")[0]


def scope_rows(plan: Plan, scope: Scope) -> dict[str, list[Row]]:
    """The rows that each table of a scope shows, one for each seed."""
    if scope == "main":
        return {"table_1": plan.main_rows}
    return {table.key: [single for row in table.rows for single in row.single] for table in plan.tables_of(scope)}


def runs_by_table(plan: Plan, scope: Scope) -> dict[str, dict[str, list[Row]]]:
    """For each table of a scope its trainings, each with the rows of the table that it serves."""
    result: dict[str, dict[str, list[Row]]] = {}
    for key, rows in scope_rows(plan, scope).items():
        result[key] = {}
        for row in rows:
            if row.run_id:
                result[key].setdefault(row.run_id, []).append(row)
    return result


def _panels(plan: Plan, row: Row) -> Panels:
    """What the evaluation of a row kept; nothing before it is evaluated."""
    folder = plan.paths.evaluation(row.eval_id)
    return read_panels(folder) if (folder / "evaluation.json").exists() else Panels(segmentations=(), pseudo_masks=())


def _pseudo_masks(plan: Plan, out: Path) -> Iterator[Figure]:
    row = plan.default_row
    masks = _panels(plan, row).pseudo_masks
    for benchmark in row.params.data.benchmarks:
        file = Path("pseudo_masks", f"{benchmark}.png")
        pseudo_mask_figure([mask for mask in masks if mask.benchmark == benchmark], out / file)
        yield Figure(f"pseudo_masks-{benchmark}", f"Fig. 6: pseudo-masks, {benchmark.upper()}", _PSEUDO_MASKS, file)


def _segmentations(plan: Plan, scope: Scope, out: Path) -> Iterator[Figure]:
    dense, ours = (_panels(plan, row).segmentations for row in plan.main_rows)
    benchmarks = plan.default.data.benchmarks
    first = [next((panel for panel in ours if panel.benchmark == benchmark), None) for benchmark in benchmarks]
    segmentation_figure([panel for panel in first if panel], out / "segmentation.png", dense)
    yield Figure("segmentation", "Fig. 7: segmentation", _SEGMENTATION, Path("segmentation.png"))
    for benchmark in benchmarks if scope == "all" else ():
        file = Path("segmentation", f"{benchmark}.png")
        segmentation_figure([panel for panel in ours if panel.benchmark == benchmark], out / file, dense)
        yield Figure(f"segmentation-{benchmark}", f"Fig. 7: segmentation, {benchmark.upper()}", _SEGMENTATION, file)


def _run_title(plan: Plan, uses: dict[str, list[Row]]) -> str:
    """What a training is, from the rows that it serves in each table."""
    names = [short_title(plan.tables[table].title) for table in uses]
    (first, *_), *_ = uses.values()
    if first.run_id == plan.default_row.run_id:
        return "Default model" + (f" (in {len(names)} tables)" if len(names) > 1 else "")
    also = f" (also in {', '.join(names[1:])})" if names[1:] else ""
    return f"{names[0]}, {first.description}{also}"


def _curves(plan: Plan, scope: Scope, out: Path) -> Iterator[Figure]:
    tables = runs_by_table(plan, scope)
    runs = {
        run: {key: found[run] for key, found in tables.items() if run in found} for found in tables.values() for run in found
    }
    curves = {run: read_curves(plan.paths.run(run) / "metrics.jsonl") for run in runs}
    default = plan.default_row.run_id
    lines = {
        plan.tables[key].title: [
            Line(rows[0].description + (f" and {len(rows) - 1} more" if rows[1:] else ""), curves[run], run == default)
            for run, rows in found.items()
        ]
        for key, found in tables.items()
    }
    overview_figure([(title, found) for title, found in lines.items() if found], out / "curves.png")
    yield Figure("curves", "Training curves", _OVERVIEW, Path("curves.png"))
    for run, uses in runs.items():
        file = Path("curves", f"{run}.png")
        title = _run_title(plan, uses)
        training_figure(curves[run], title, out / file)
        yield Figure(f"curves-{run}", title, _CURVES, file)


def write_figures(plan: Plan, scope: Scope, out: Path) -> list[Figure]:
    """Write the figures of a report below the folder `out`, in the order in which they are shown.

    Where something is not evaluated or trained yet, the picture says so. `UserError` names a file that is missing or damaged.
    """
    shown = [] if scope == "fidelity" else [*_pseudo_masks(plan, out), *_segmentations(plan, scope, out)]
    return [*shown, *_curves(plan, scope, out)]
