"""Pseudo-masks: where GCS, LCS and their fusion see a class that is in the image, and one that is not."""

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
_IMAGES, _CLASSES = 3, 6  # shown at most
_SIDE = 1.35  # inches of a map
_COLOURS = "inferno"


def _blocks(masks: Sequence[PseudoMask]) -> list[list[PseudoMask]]:
    """The masks of each image, present classes first; the first images and classes where there are too many."""
    images: dict[Path, list[PseudoMask]] = {}
    for mask in masks:
        images.setdefault(mask.image, []).append(mask)
    blocks = []
    for found in list(images.values())[:_IMAGES]:
        absent = [mask for mask in found if not mask.present]
        present = [mask for mask in found if mask.present][: max(_CLASSES // 2, _CLASSES - len(absent))]
        blocks.append([*present, *absent[: _CLASSES - len(present)]])
    return blocks


def _ranges(maps: dict[tuple[int, int, int], NDArray[np.float32]]) -> list[tuple[float, float]]:
    """One range of values for each kind of map, from nearly all of its values in the whole figure."""
    result = []
    for kind in range(len(_KINDS)):
        found = [m[np.isfinite(m)].ravel() for (_, _, k), m in maps.items() if k == kind]
        values = np.concatenate(found) if found else np.empty(0)
        low, high = np.quantile(values, [0.005, 0.995]) if values.size else (0.0, 1.0)
        result.append((float(low), float(high) if high > low else float(low) + 1e-6))
    return result


def _column_title(mask: PseudoMask) -> str:
    name = mask.class_name if len(mask.class_name) <= 20 else f"{mask.class_name[:18]}..."
    return f"{name}\n{'in the image' if mask.present else 'not in the image'}"


def pseudo_mask_figure(masks: Sequence[PseudoMask], out: Path) -> None:
    """For each image: a line of GCS, of LCS and of fused maps over the grey image, a column for each class.

    A kind of map has one colour scale in the whole figure, so that classes that are absent can be compared with those that
    are present. `UserError` names a file that is missing or damaged.
    """
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize
    from matplotlib.figure import Figure

    blocks = _blocks(masks)
    if not blocks:
        save_sentence("The evaluation kept no pseudo-masks: raise evaluation.panels and evaluate again.", out)
        return
    maps: dict[tuple[int, int, int], NDArray[np.float32]] = {}
    for b, block in enumerate(blocks):
        for c, mask in enumerate(block):
            for k, key in enumerate((mask.gcs, mask.lcs, mask.fused)):
                if key is not None:
                    (maps[b, c, k],) = read_arrays(mask.arrays, [key])
    ranges = _ranges(maps)
    columns = max(len(block) for block in blocks)
    width, head = _SIDE * (columns + 2.2), 0.45
    height = sum(3 * _SIDE + head for _ in blocks)
    figure = Figure(figsize=(width, height))
    for b, block in enumerate(blocks):
        top = height - b * (3 * _SIDE + head)
        bottom = top - head - 3 * _SIDE + 0.08
        grid = figure.add_gridspec(
            3, columns + 3, width_ratios=[1.6, 0.14, *[1] * columns, 0.07], wspace=0.06, hspace=0.05,
            left=0.05 / width, right=1 - 0.5 / width, top=(top - head) / height, bottom=bottom / height,
        )  # fmt: skip
        image = read_pixels(block[0].image, "RGB")
        axes = bare(figure.add_subplot(grid[:, 0]))
        axes.imshow(image, interpolation="nearest")
        axes.set_anchor("N")
        axes.set_title(block[0].benchmark.upper(), fontsize=9, color=INK, pad=4)
        for k, kind in enumerate(_KINDS):
            for c, mask in enumerate(block):
                axes = bare(figure.add_subplot(grid[k, c + 2]))
                if (b, c, k) in maps:
                    _overlay(axes, image, maps[b, c, k], ranges[k])
                if k == 0:
                    axes.set_title(_column_title(mask), fontsize=8, color=INK, pad=4)
                if c == 0:
                    axes.set_ylabel(kind, fontsize=9, color=INK, labelpad=3)
            scale = ScalarMappable(Normalize(*ranges[k]), _COLOURS)
            bar = figure.colorbar(scale, cax=figure.add_subplot(grid[k, columns + 2]))
            bar.ax.tick_params(labelsize=7, labelcolor=INK, length=2)
            bar.outline.set_visible(False)
    save(figure, out)


def _overlay(axes: "Axes", image: NDArray[np.uint8], values: NDArray[np.float32], limits: tuple[float, float]) -> None:
    """Draw a patch-grid map, which spans the whole image, over the grey image."""
    height, width = image.shape[:2]
    axes.imshow(image.mean(2), cmap="gray", vmin=0, vmax=255, interpolation="nearest")
    extent = (-0.5, width - 0.5, height - 0.5, -0.5)
    low, high = limits
    axes.imshow(values, cmap=_COLOURS, vmin=low, vmax=high, alpha=0.72, interpolation="bilinear", extent=extent)
