"""Pseudo-masks: where GCS, LCS and their fusion see the classes that are in an image, and others that are not."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from fgaseg.reporting.pictures import INK, bare, read_arrays, read_pixels, save, save_sentence
from fgaseg.reporting.results import PseudoMask

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_KINDS = ("GCS", "LCS", "fused")
_SIDE = 1.35  # inches of a map
_COLOURS = "inferno"
_DPI = 110  # the maps are smooth: more only makes the file larger


def _range(maps: Sequence[NDArray[np.float32]]) -> tuple[float, float]:
    """The range of nearly all values of one kind of map."""
    values = np.concatenate([m[np.isfinite(m)].ravel() for m in maps]) if maps else np.empty(0)
    low, high = np.quantile(values, [0.005, 0.995]) if values.size else (0.0, 1.0)
    return float(low), float(high) if high > low else float(low) + 1e-6


def _column_title(mask: PseudoMask) -> str:
    name = mask.class_name if len(mask.class_name) <= 20 else f"{mask.class_name[:18]}..."
    return f"{name}\n{'in the image' if mask.present else 'not in the image'}"


def pseudo_mask_figure(masks: Sequence[PseudoMask], out: Path) -> None:
    """A line of GCS, of LCS and of fused maps over the grey image, a column for each class; all masks are of one image.

    A kind of map has one colour scale, so that classes that are absent can be compared with those that are present; a kind
    that the model lacks is left out. `UserError` names a file that is missing or damaged.
    """
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize
    from matplotlib.figure import Figure

    if not masks:
        save_sentence("There are no pseudo-masks yet: evaluate the default model, with evaluation.panels above 0.", out)
        return
    masks = sorted(masks, key=lambda mask: not mask.present)
    keys = [(mask.gcs, mask.lcs, mask.fused) for mask in masks]
    maps = {
        kind: [read_arrays(mask.arrays, [key])[0] for mask, key in zip(masks, column, strict=True) if key]
        for kind, column in zip(_KINDS, zip(*keys, strict=True), strict=True)
    }
    kinds = [kind for kind in _KINDS if len(maps[kind]) == len(masks)]
    image = read_pixels(masks[0].image, "RGB")
    tall = min(1.5, image.shape[0] / image.shape[1])
    width, height = _SIDE * (len(masks) + 2.3), _SIDE * tall * len(kinds) + 0.5
    figure = Figure(figsize=(width, height))
    grid = figure.add_gridspec(
        len(kinds), len(masks) + 3, width_ratios=[1.6, 0.2, *[1] * len(masks), 0.07], wspace=0.06, hspace=0.05,
        left=0.05 / width, right=1 - 0.5 / width, top=1 - 0.43 / height, bottom=0.05 / height,
    )  # fmt: skip
    axes = bare(figure.add_subplot(grid[:, 0]))
    axes.imshow(image, interpolation="nearest")
    axes.set_anchor("N")
    axes.set_title(masks[0].benchmark.upper(), fontsize=9, color=INK, pad=4)
    for i, kind in enumerate(kinds):
        limits = _range(maps[kind])
        for j, mask in enumerate(masks):
            axes = bare(figure.add_subplot(grid[i, j + 2]))
            _overlay(axes, image, maps[kind][j], limits)
            if i == 0:
                axes.set_title(_column_title(mask), fontsize=8, color=INK, pad=4)
            if j == 0:
                axes.set_ylabel(kind, fontsize=9, color=INK, labelpad=3)
        bar = figure.colorbar(ScalarMappable(Normalize(*limits), _COLOURS), cax=figure.add_subplot(grid[i, -1]))
        bar.ax.tick_params(labelsize=7, labelcolor=INK, length=2)
        bar.outline.set_visible(False)
    save(figure, out, _DPI)


def _overlay(axes: "Axes", image: NDArray[np.uint8], values: NDArray[np.float32], limits: tuple[float, float]) -> None:
    """Draw a patch-grid map, which spans the whole image, over the grey image."""
    height, width = image.shape[:2]
    axes.imshow(image.mean(2), cmap="gray", vmin=0, vmax=255, interpolation="nearest")
    extent = (-0.5, width - 0.5, height - 0.5, -0.5)
    low, high = limits
    axes.imshow(values, cmap=_COLOURS, vmin=low, vmax=high, alpha=0.72, interpolation="bilinear", extent=extent)
