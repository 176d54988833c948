"""How trainings went: their losses and validation scores over the iterations, one by one and a table's rows together."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from textwrap import fill
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fgaseg.errors import UserError
from fgaseg.reporting.pictures import INK, save_drawing, save_sentence

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Curves = dict[str, tuple[NDArray[np.float64], NDArray[np.float64]]]
"""Steps and values of each metric; nothing where a training has not begun."""

_POINTS = 150  # a longer curve is drawn as means of this many stretches, over its own pale points
_NAMES = {"loss": "total", "loss_seg": "segmentation", "loss_t2p": "T2P", "loss_aux": "auxiliary heads"}
_COLOURS = ("#1668b8", "#d1570f", "#2e8b57", "#8a3ab9", "#c2255c", "#0f8b8d", "#a07000", "#6d4c41", "#7a8894")


@dataclass(frozen=True)
class Line:
    """A training in the overview; `strong` sets the default model off."""

    label: str
    curves: Curves
    strong: bool


def read_curves(path: Path) -> Curves:
    """The metrics in a jsonl file, none where there is no file; where a resumed training repeats a step, the later line counts.

    `UserError` when a line other than the last, which may be half written, is damaged.
    """
    if not path.exists():
        return {}
    lines = path.read_text(encoding="utf-8").splitlines()
    found: dict[str, dict[int, float]] = {}
    for number, line in enumerate(lines, 1):
        try:
            record: dict[str, Any] = json.loads(line)
            step = int(record.pop("step"))
            for key, value in record.items():
                if isinstance(value, int | float):
                    found.setdefault(key, {})[step] = float(value)
        except (ValueError, KeyError, TypeError, AttributeError):
            if number < len(lines):
                raise UserError(f"{path}: line {number} is damaged: an object with a step is expected") from None
    curves = {key: sorted(values.items()) for key, values in found.items()}
    return {key: (np.array([s for s, _ in c], float), np.array([v for _, v in c])) for key, c in curves.items()}


def _means(values: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.array([stretch.mean() for stretch in np.array_split(values, min(_POINTS, len(values)))])


def _axes(axes: "Axes", title: str) -> None:
    axes.set_title(title, fontsize=9, color=INK)
    axes.tick_params(labelsize=8, colors=INK)
    axes.grid(True, color="#e3e6e9", linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)


def _logarithmic(axes: "Axes", drawn: Iterable[NDArray[np.float64]]) -> None:
    """A logarithmic axis with plain numbers, unless a curve has nothing above zero."""
    from matplotlib.ticker import LogLocator, NullFormatter

    if all((values > 0).any() for values in drawn):
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axes.yaxis.set_minor_formatter(NullFormatter())


def training_figure(curves: Curves, title: str, out: Path) -> None:
    """Left the loss and its terms on a logarithmic axis, right the validation mIoU in percent, both over iterations."""
    from matplotlib.figure import Figure

    losses = sorted((key for key in curves if key == "loss" or key.startswith("loss_")), key=lambda k: (k != "loss", k))
    if not losses:
        save_sentence(f"{title}: the training has not logged a loss yet.", out)
        return
    figure = Figure(figsize=(8.4, 3.1))
    left, right = figure.subplots(1, 2)
    figure.subplots_adjust(left=0.06, right=0.99, bottom=0.15, top=0.81, wspace=0.14)
    figure.text(0.06, 0.93, title, fontsize=10, color=INK, fontweight="bold")
    for key, colour in zip(losses, (INK, *_COLOURS), strict=False):
        steps, values = curves[key]
        if len(values) > _POINTS:
            left.plot(steps, values, color=colour, alpha=0.2, linewidth=0.6)
        name = _NAMES.get(key, key.removeprefix("loss_").replace("_", " "))
        style = {"linewidth": 4.0, "alpha": 0.35} if key == "loss" else {"linewidth": 1.3}
        left.plot(_means(steps), _means(values), color=colour, label=name, **style)
    _logarithmic(left, [curves[key][1] for key in losses])
    left.legend(frameon=False, fontsize=8, labelcolor=INK)
    if "validation_miou" in curves:
        steps, values = curves["validation_miou"]
        right.plot(steps, 100 * values, color=_COLOURS[0], marker="o", markersize=4, linewidth=1.6)
        right.annotate(
            f"{100 * values[-1]:.1f}", (steps[-1], 100 * values[-1]), xytext=(-5, 4), textcoords="offset points",
            ha="right", fontsize=8, color=INK,
        )  # fmt: skip
        right.set_xlim(left.get_xlim())
        right.margins(y=0.2)
    else:
        right.text(0.5, 0.5, "not validated yet", ha="center", va="center", transform=right.transAxes, color=INK, fontsize=9)
    for axes, name in ((left, "loss"), (right, "validation mIoU (%)")):
        _axes(axes, name)
        axes.set_xlabel("iteration", fontsize=9, color=INK)
    save_drawing(figure, out)


def _draw_lines(loss: "Axes", score: "Axes", lines: Sequence[Line]) -> None:
    """The total loss and the validation mIoU of a table's trainings, with the legend at the right."""
    others = iter(_COLOURS * len(lines))
    handles = []
    for line in lines:
        colour = INK if line.strong else next(others)
        style: dict[str, Any] = {"color": colour, "linewidth": 2.6 if line.strong else 1.2, "zorder": 3 if line.strong else 2}
        label = fill(line.label, 46)
        (handle,) = score.plot([], [], label=label if line.curves else f"{label} (not trained yet)", **style)
        handles.append(handle)
        if "loss" in line.curves:
            steps, values = line.curves["loss"]
            loss.plot(_means(steps), _means(values), **style)
        if "validation_miou" in line.curves:
            steps, values = line.curves["validation_miou"]
            score.plot(steps, 100 * values, marker="o", markersize=3, **style)
    _logarithmic(loss, [line.curves["loss"][1] for line in lines if "loss" in line.curves])
    legend = score.legend(
        handles=handles,
        loc="center left",
        bbox_to_anchor=(1.02, 0.5),
        frameon=False,
        fontsize=7.5,
        labelcolor=INK,
        borderaxespad=0,
    )
    for text, line in zip(legend.get_texts(), lines, strict=True):
        text.set_fontweight("bold" if line.strong else "normal")


def overview_figure(tables: Sequence[tuple[str, Sequence[Line]]], out: Path) -> None:
    """A line of axes for each table, given by its title and trainings: total loss, validation mIoU in percent, legend."""
    from matplotlib.figure import Figure

    each, width = 2.4, 9.6
    height = each * len(tables) + 0.25
    figure = Figure(figsize=(width, height))
    for i, (title, lines) in enumerate(tables):
        top = height - i * each
        grid = figure.add_gridspec(
            1, 2, left=0.05, right=0.68, wspace=0.16, top=(top - 0.55) / height, bottom=(top - each + 0.4) / height
        )
        loss, score = figure.add_subplot(grid[0, 0]), figure.add_subplot(grid[0, 1])
        figure.text(0.05, (top - 0.25) / height, title, fontsize=10, color=INK, fontweight="bold")
        _draw_lines(loss, score, lines)
        for axes, name in ((loss, "total loss"), (score, "validation mIoU (%)")):
            _axes(axes, name)
            axes.set_xlabel("iteration", fontsize=8, color=INK, labelpad=1)
    save_drawing(figure, out)
