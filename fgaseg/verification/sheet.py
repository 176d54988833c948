"""A contact sheet: photographs beside their labels in colour, with the names of the classes."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from fgaseg.data.prepare import shrink
from fgaseg.data.raw import Item, RawDataset
from fgaseg.data.raw.base import load_image
from fgaseg.reporting.palette import OTHER, VOID, VOID_STRIPE, Colour, colours, paint
from fgaseg.reporting.pictures import INK, bare, save, save_sentence
from fgaseg.verification.verify import Verification

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_ACROSS, _DOWN = 2, 2
_SIDE = 360
"""Pixels that the shorter side of a picture has at most."""
_CELL = (5.6, 1.75)
"""Inches of a photograph, its labels and their names."""
_TITLE = 0.34
_WIDEST = 2.0
"""Inches that a picture is wide at most."""
_MOST = 9
"""Names beside a picture."""

Picture = tuple[str, NDArray[np.uint8], NDArray[np.int64]]


def chosen(items: Sequence[Item], count: int) -> list[Item]:
    """`count` of the items, spread evenly."""
    if len(items) <= count:
        return list(items)
    return [items[round(i * (len(items) - 1) / (count - 1))] for i in range(count)]


def _read(item: Item, raw: RawDataset) -> Picture:
    """A photograph's name, its pixels and its labels, -1 where void; small enough for a sheet."""
    image, labels = load_image(item.image).convert("RGB"), raw.to_labels(item.decode(), item.annotation)
    if min(image.size) > _SIDE:
        image, labels = shrink(image, labels, _SIDE)
    return item.image.name, np.asarray(image), np.where(labels == raw.void_label, -1, labels.astype(np.int64))


def _share(colour: Colour) -> tuple[float, float, float]:
    red, green, blue = colour
    return red / 255, green / 255, blue / 255


def _legend(axes: "Axes", labels: NDArray[np.int64], names: list[str], table: dict[str, Colour]) -> None:
    from matplotlib.patches import Patch

    areas = np.bincount(labels[labels >= 0], minlength=len(names))
    order = [int(i) for i in np.argsort(-areas, kind="stable") if areas[i]]
    handles = [Patch(facecolor=_share(table[names[i]])) for i in order[:_MOST]]
    texts = [names[i] if len(names[i]) <= 24 else f"{names[i][:22]}..." for i in order[:_MOST]]
    if (labels < 0).any():
        handles.append(Patch(facecolor=_share(VOID), edgecolor=_share(VOID_STRIPE), hatch="//////", linewidth=0))
        texts.append("void")
    if len(order) > _MOST:
        handles.append(Patch(facecolor=_share(OTHER)))
        texts.append(f"{len(order) - _MOST} smaller")
    axes.axis("off")
    axes.legend(
        handles, texts, loc="center left", frameon=False, fontsize=7, labelcolor=INK, handlelength=1.1, handleheight=1.0,
        labelspacing=0.3, borderaxespad=0,
    )  # fmt: skip


def _shown(labels: NDArray[np.int64], names: list[str]) -> list[str]:
    """The names that the legend of a picture has."""
    areas = np.bincount(labels[labels >= 0], minlength=len(names))
    return [names[i] for i in np.argsort(-areas, kind="stable")[:_MOST] if areas[i]]


def contact_sheet(found: Sequence[Verification], out: Path) -> None:
    """Write a PNG with some photographs of each dataset; what cannot be read is left out."""
    from matplotlib.figure import Figure

    blocks = [(one, one.raw, chosen(one.items, _ACROSS * _DOWN)) for one in found if one.raw is not None and one.items]
    if not blocks:
        save_sentence("No photograph of these datasets can be read together with its labels.", out)
        return
    rows = [-(-len(items) // _ACROSS) for _, _, items in blocks]
    width, height = _ACROSS * _CELL[0], sum(_TITLE + count * _CELL[1] for count in rows)
    figure = Figure(figsize=(width, height))
    top = height
    for (one, raw, items), count in zip(blocks, rows, strict=True):
        _block(figure, one, [_read(item, raw) for item in items], [entry.name for entry in raw.table], top)
        top -= _TITLE + count * _CELL[1]
    save(figure, out)


def _block(figure: "Figure", one: Verification, pictures: list[Picture], names: list[str], top: float) -> None:
    """The pictures of one dataset below its title; `top` is in inches from the figure's foot."""
    width, height = (float(side) for side in figure.get_size_inches())
    title = f"{one.name.upper()}  {len(one.items)} images, {len(names) - len(one.unseen)} of {len(names)} classes seen"
    figure.text(0.012, (top - 0.22) / height, title, fontsize=10, color=INK, weight="bold", va="center")
    table = colours(name for _, _, labels in pictures for name in _shown(labels, names))
    for i, (file, image, labels) in enumerate(pictures):
        left, foot = (i % _ACROSS) * _CELL[0] + 0.12, top - _TITLE - (i // _ACROSS + 1) * _CELL[1] + 0.2
        tall, aspect = _CELL[1] - 0.24, labels.shape[1] / labels.shape[0]
        tall = min(tall, _WIDEST / aspect)
        own = {name: table[name] for name in _shown(labels, names)}
        for j, pixels in enumerate((image, paint(labels, names, own))):
            box = (left / width, foot / height, tall * aspect / width, tall / height)
            axes = bare(figure.add_axes(box))
            axes.imshow(pixels, interpolation="nearest" if j else "antialiased", aspect="auto")
            if j == 0:
                axes.set_xlabel(file, fontsize=6, color=INK, labelpad=2, loc="left")
            left += tall * aspect + 0.06
        end = (i % _ACROSS + 1) * _CELL[0]
        box = ((left + 0.04) / width, foot / height, (end - left - 0.1) / width, (_CELL[1] - 0.24) / height)
        _legend(figure.add_axes(box), labels, names, own)
