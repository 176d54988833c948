"""Image, ground truth and prediction side by side, with the names of the colours."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from fgaseg.errors import UserError
from fgaseg.reporting.palette import OTHER, VOID, VOID_STRIPE, Colour, colours, paint
from fgaseg.reporting.pictures import INK, bare, read_names, read_pixels, save, save_sentence
from fgaseg.reporting.results import Panel

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.legend import Legend

_LEAST = 0.004  # share of the image that a class must cover to stand in the legend
_MOST = 12  # classes in one legend
_SIDE = 1.5  # inches of a picture


def _labels(path: Path, panel: Panel) -> NDArray[np.int64]:
    """Labels of a picture, with void as -1."""
    pixels = read_pixels(path)
    if pixels.ndim != 2:
        raise UserError(f"{path}: one channel of labels is expected; {panel.benchmark} must be evaluated again")
    labels = pixels.astype(np.int64)
    return np.where(labels == (255 if pixels.dtype == np.uint8 else 65535), -1, labels)


def _key(panel: Panel) -> tuple[str, Path]:
    return panel.benchmark, panel.image.resolve()


class _Row:
    """The pixels of one line of the figure: the ground truth, and a prediction for each method, None if missing."""

    def __init__(self, panel: Panel, others: Sequence[dict[tuple[str, Path], Panel]]) -> None:
        self.benchmark = panel.benchmark
        self.image = read_pixels(panel.image, "RGB")
        self.names = read_names(panel.classes)
        self.truth = _labels(panel.label, panel)
        found = [other.get(_key(panel)) for other in others]
        self.predictions = [_labels(p.prediction, p) if p else None for p in found]
        for labels in self.predictions:
            if labels is not None and labels.shape != self.truth.shape:
                raise UserError(f"{panel.prediction}: is of another size than {panel.label}; evaluate the row again")

    @property
    def void(self) -> NDArray[np.bool_]:
        """Pixels that are not scored."""
        return np.equal(self.truth, -1)

    def legend(self) -> tuple[list[str], set[str], int]:
        """Names by scored area, first of those in the ground truth; the names that it does not hold; how many are left out."""
        truth = _shares(self.truth, len(self.names))
        predicted = truth * 0
        for labels in self.predictions:
            if labels is not None:
                predicted = np.maximum(predicted, _shares(np.where(self.void, -1, labels), len(self.names)))
        right = [k for k in np.argsort(-truth, kind="stable") if truth[k] > 0]
        wrong = [k for k in np.argsort(-predicted, kind="stable") if truth[k] == 0 and predicted[k] >= _LEAST]
        kept = [*right, *wrong][:_MOST]
        shown = np.count_nonzero((truth > 0) | (predicted > 0))
        return [self.names[k] for k in kept], {self.names[k] for k in wrong}, int(shown) - len(kept)

    def pictures(self, table: dict[str, Colour]) -> list[NDArray[np.uint8] | None]:
        """Image, ground truth and predictions as RGB; a prediction is pale where the ground truth is void."""
        colour = {name: table[name] for name in self.legend()[0]}
        result: list[NDArray[np.uint8] | None] = [self.image, paint(self.truth, self.names, colour)]
        for labels in self.predictions:
            picture = None if labels is None else paint(labels, self.names, colour)
            if picture is not None:
                picture[self.void] = 255 - (255 - picture[self.void]) // 4
            result.append(picture)
        return result


def _share(colour: Colour) -> tuple[float, float, float]:
    red, green, blue = colour
    return red / 255, green / 255, blue / 255


def _shares(labels: NDArray[np.int64], classes: int) -> NDArray[np.float64]:
    known = labels[(labels >= 0) & (labels < classes)]
    return np.bincount(known, minlength=classes) / labels.size


def _draw_legend(axes: "Axes", row: _Row, table: dict[str, Colour]) -> "Legend":
    from matplotlib.patches import Patch

    names, wrong, left_out = row.legend()
    handles = [Patch(facecolor=_share(table[name]), edgecolor="none") for name in names]
    texts = [name if len(name) <= 22 else f"{name[:20]}..." for name in names]
    if row.void.any():
        handles.append(Patch(facecolor=_share(VOID), edgecolor=_share(VOID_STRIPE), hatch="//////", linewidth=0))
        texts.append("void (not scored)")
    if left_out:
        handles.append(Patch(facecolor=_share(OTHER), edgecolor="none"))
        texts.append(f"{left_out} smaller class" + "es" * (left_out > 1))
    axes.axis("off")
    legend = axes.legend(
        handles, texts, loc="center left", ncols=1 + (len(texts) > 7), frameon=False, fontsize=7, labelcolor=INK,
        handlelength=1.1, handleheight=1.0, labelspacing=0.35, columnspacing=1.0, borderaxespad=0,
    )  # fmt: skip
    for text, name in zip(legend.get_texts(), names, strict=False):
        text.set_fontstyle("italic" if name in wrong else "normal")
    return legend


def segmentation_figure(panels: Sequence[Panel], out: Path, compare: Sequence[Panel] | None = None) -> None:
    """One line for each of `panels`: image, ground truth, dense CLIP if `compare` holds its panels, FGAseg, and a legend.

    Names in italics were predicted, but are not in the ground truth. `UserError` names a file that is missing or damaged.
    """
    from matplotlib.figure import Figure

    if not panels:
        save_sentence("There are no images yet: evaluate the default model, with evaluation.panels above 0.", out)
        return
    sources = [{_key(p): p for p in source} for source in ([panels] if compare is None else [compare, panels])]
    titles = ["image", "ground truth", *(["FGAseg"] if compare is None else ["dense CLIP", "FGAseg"])]
    rows = [_Row(panel, sources) for panel in panels]
    tables = {b: colours(n for row in rows if row.benchmark == b for n in row.legend()[0]) for b in {r.benchmark for r in rows}}
    shapes = [min(1.5, row.image.shape[0] / row.image.shape[1]) for row in rows]
    width, height = _SIDE * (len(titles) + 1.45) + 0.3, _SIDE * 1.05 * sum(shapes) + 0.3
    figure = Figure(figsize=(width, height))
    grid = figure.add_gridspec(
        len(rows), len(titles) + 1, width_ratios=[1] * len(titles) + [1.45], height_ratios=shapes, wspace=0.05, hspace=0.06,
        left=0.3 / width, right=1, top=1 - 0.26 / height, bottom=0.03 / height,
    )  # fmt: skip
    legends = []
    for i, row in enumerate(rows):
        table = tables[row.benchmark]
        for j, (title, picture) in enumerate(zip(titles, row.pictures(table), strict=True)):
            axes = bare(figure.add_subplot(grid[i, j]))
            axes.imshow(np.full_like(row.image, 255) if picture is None else picture, interpolation="nearest")
            if picture is None:
                axes.text(0.5, 0.5, "missing", ha="center", va="center", color=INK, fontsize=8, transform=axes.transAxes)
            if i == 0:
                axes.set_title(title, fontsize=9, color=INK, pad=4)
            if j == 0:
                axes.set_ylabel(row.benchmark.upper(), fontsize=9, color=INK, labelpad=4)
        legends.append(_draw_legend(figure.add_subplot(grid[i, -1]), row, table))
    save(figure, out, legends=legends)
