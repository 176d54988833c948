"""How a training went: its losses and its validation score over the iterations."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fgaseg.errors import UserError
from fgaseg.reporting.pictures import INK, save, save_sentence

_POINTS = 150  # a longer curve is drawn as means of this many stretches, over its own pale points
_NAMES = {"loss": "total", "loss_seg": "segmentation", "loss_t2p": "T2P", "loss_aux": "auxiliary heads"}
_COLOURS = ("#1c2126", "#1668b8", "#d1570f", "#2e8b57", "#8a3ab9")


def read_metrics(path: Path) -> dict[str, tuple[NDArray[np.float64], NDArray[np.float64]]]:
    """Steps and values of each metric in a jsonl file; where a resumed training repeats a step, the later line counts.

    `UserError` when the file is missing or a line other than the last, which may be half written, is damaged.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; train the row first") from None
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


def training_figure(metrics: Path, out: Path) -> None:
    """Left the loss and its terms on a logarithmic axis, right the validation mIoU in percent, both over iterations."""
    from matplotlib.figure import Figure

    curves = read_metrics(metrics)
    losses = sorted((key for key in curves if key == "loss" or key.startswith("loss_")), key=lambda k: (k != "loss", k))
    if not losses:
        save_sentence("The training has not logged a loss yet.", out)
        return
    figure = Figure(figsize=(8.4, 3.0), layout="constrained")
    left, right = figure.subplots(1, 2)
    for i, key in enumerate(losses):
        steps, values = curves[key]
        colour = _COLOURS[i % len(_COLOURS)]
        if len(values) > _POINTS:
            left.plot(steps, values, color=colour, alpha=0.2, linewidth=0.6)
        name = _NAMES.get(key, key.removeprefix("loss_").replace("_", " "))
        style = {"linewidth": 4.0, "alpha": 0.35} if key == "loss" else {"linewidth": 1.3}
        left.plot(_means(steps), _means(values), color=colour, label=name, **style)
    if all((curves[key][1] > 0).any() for key in losses):
        left.set_yscale("log")
        left.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    left.set_title("loss")
    left.legend(frameon=False, fontsize=8, labelcolor=INK)
    if "validation_miou" in curves:
        steps, values = curves["validation_miou"]
        right.plot(steps, 100 * values, color=_COLOURS[1], marker="o", markersize=4, linewidth=1.6)
        right.annotate(
            f"{100 * values[-1]:.1f}", (steps[-1], 100 * values[-1]), xytext=(-5, 4), textcoords="offset points",
            ha="right", fontsize=8, color=INK,
        )  # fmt: skip
        right.set_xlim(left.get_xlim())
        right.margins(y=0.2)
    else:
        right.text(0.5, 0.5, "not validated yet", ha="center", va="center", transform=right.transAxes, color=INK, fontsize=9)
    right.set_title("validation mIoU (%)")
    for axes in (left, right):
        axes.title.set(fontsize=10, color=INK)
        axes.set_xlabel("iteration", fontsize=9, color=INK)
        axes.tick_params(labelsize=8, colors=INK)
        axes.grid(True, color="#e3e6e9", linewidth=0.6)
        axes.spines[["top", "right"]].set_visible(False)
    save(figure, out)
