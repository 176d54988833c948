"""The figures of an evaluation: predictions beside the ground truth, pseudo-masks, and how the training went."""

from pathlib import Path

from fgaseg.errors import UserError
from fgaseg.plan import Plan, Row
from fgaseg.reporting.curves import training_figure
from fgaseg.reporting.heatmaps import pseudo_mask_figure
from fgaseg.reporting.results import read_panels
from fgaseg.reporting.segmentations import segmentation_figure

__all__ = ["pseudo_mask_figure", "segmentation_figure", "training_figure", "write_figures"]


def write_figures(plan: Plan, row: Row, dense_row: Row, out: Path) -> None:
    """Write segmentation.png, pseudo_masks.png and training.png of `row` into the folder `out`.

    `dense_row` is the untrained CLIP whose predictions stand beside. `UserError` names a file that is missing or damaged.
    """
    if row.run_id is None:
        raise UserError(f"{row.name}: has no training to show; figures need a row with method: fgaseg")
    ours, dense = (read_panels(plan.paths.evaluation(r.eval_id)) for r in (row, dense_row))
    segmentation_figure(ours.segmentations, out / "segmentation.png", dense.segmentations)
    pseudo_mask_figure(ours.pseudo_masks, out / "pseudo_masks.png")
    training_figure(plan.paths.run(row.run_id) / "metrics.jsonl", out / "training.png")
