"""Shared by the figures: reading the pixels and saving a picture that is the same bytes in every run."""

import io
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from fgaseg.errors import UserError
from fgaseg.files import read_json, write_whole

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.legend import Legend

DPI = 150
_DRAWING_DPI = 110
_MARGIN = 0.05  # inches beside a legend that makes its picture wider
INK = "#1c2126"


def read_pixels(path: Path, mode: str | None = None) -> NDArray[Any]:
    """The pixels of a picture, converted to Pillow's `mode` if one is given; `UserError` when it cannot be read."""
    try:
        with Image.open(path) as picture:
            return np.asarray(picture.convert(mode) if mode else picture)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; evaluate the row again") from None
    except (UnidentifiedImageError, OSError, SyntaxError):
        raise UserError(f"{path}: not a readable picture; evaluate the row again") from None


def read_arrays(path: Path, keys: list[str]) -> list[NDArray[np.float32]]:
    """The 2-D maps under `keys` of an npz file; `UserError` when the file or a key is missing."""
    try:
        with np.load(path) as file:
            maps = [file[key] for key in keys]
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; evaluate the row again") from None
    except KeyError as error:
        raise UserError(f"{path}: {error.args[0]}; evaluate the row again") from None
    except (BadZipFile, zlib.error, OSError, EOFError, ValueError):
        raise UserError(f"{path}: not readable; evaluate the row again") from None
    if any(array.ndim != 2 for array in maps):
        raise UserError(f"{path}: maps of two dimensions are expected; evaluate the row again")
    return maps


def read_names(path: Path) -> list[str]:
    """Class names in the order of their labels."""
    content = read_json(path)
    try:
        return [str(entry["name"]) for entry in content]
    except (TypeError, KeyError):
        raise UserError(f"{path}: a list of classes, each with a name, is expected; prepare the dataset again") from None


def save(figure: "Figure", out: Path, dpi: int = DPI, legends: Sequence["Legend"] = ()) -> None:
    """Write a PNG without date or version in it; it becomes wider where one of `legends` would stand out on the right."""
    from matplotlib.transforms import Bbox

    buffer = io.BytesIO()
    width, height = figure.get_size_inches()
    wider = _right_end(figure, legends, dpi) + _MARGIN if legends else 0.0
    box = Bbox([[0, 0], [wider, height]]) if wider > width else None
    figure.savefig(buffer, format="png", dpi=dpi, facecolor="white", metadata={"Software": None}, bbox_inches=box)
    write_whole(out, buffer.getvalue())


def _right_end(figure: "Figure", legends: Sequence["Legend"], dpi: int) -> float:
    """Where the longest of the legends ends, in inches."""
    figure.set_dpi(dpi)
    figure.draw_without_rendering()
    return max(legend.get_window_extent().x1 for legend in legends) / dpi


def save_drawing(figure: "Figure", out: Path) -> None:
    """Write a drawing of lines and few colours as a small PNG: 64 colours, without date or version in it."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    figure.set_dpi(_DRAWING_DPI)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    buffer = io.BytesIO()
    Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB").quantize(64, dither=Image.Dither.NONE).save(buffer, "png")
    write_whole(out, buffer.getvalue())


def bare(axes: "Axes") -> "Axes":
    """The axes without ticks, in a thin frame."""
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set(linewidth=0.5, color="#9aa3ab")
    return axes


def save_sentence(sentence: str, out: Path) -> None:
    """A picture that says why there is nothing to see."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 1.2))
    figure.text(0.5, 0.5, sentence, ha="center", va="center", color=INK, fontsize=10)
    save(figure, out)
