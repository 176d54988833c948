"""A photograph under its segmentation, with a legend of what was found."""

import io
from collections.abc import Sequence
from pathlib import Path

import matplotlib
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter, ImageFont

from fgaseg.reporting.palette import Colour, colours, paint
from fgaseg.using.vocabulary import BACKGROUND

OPACITY = 0.55
SHORTEST, LONGEST = 420, 4096
"""Overlays of smaller photographs are enlarged to this shorter side, so that the legend can be read, up to this longer one."""

_WIDEST_NAME = 60
_BACKGROUND = (225, 225, 225)


def percent(share: float) -> str:
    """A share as people read it."""
    return "< 0.1 %" if 0 < share < 0.0005 else f"{100 * share:.1f} %"


def class_colours(names: Sequence[str]) -> dict[str, Colour]:
    """A colour for each name; what is no class, the background, is a light grey."""
    table = colours(name for name in names if name != BACKGROUND)
    return table | ({BACKGROUND: _BACKGROUND} if BACKGROUND in names else {})


def png(image: Image.Image) -> bytes:
    """The image as the bytes of a PNG file."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def _outlines(labels: NDArray[np.int64], size: tuple[int, int]) -> Image.Image:
    """A mask of `size` (width, height): the borders between classes, wider in larger pictures."""
    picture = Image.fromarray(labels.astype(np.int32)).resize(size, Image.Resampling.NEAREST)
    drawn = np.asarray(picture)
    border = np.zeros(drawn.shape, np.uint8)
    border[1:] = drawn[1:] != drawn[:-1]
    border[:, 1:] |= drawn[:, 1:] != drawn[:, :-1]
    mask = Image.fromarray(border * 255)
    for _ in range(min(size) // 800):
        mask = mask.filter(ImageFilter.MaxFilter(3))
    return mask


def draw_mask(image: Image.Image, labels: NDArray[np.int64], names: Sequence[str]) -> Image.Image:
    """The photograph under the colours of its classes, with white borders between them; small ones are enlarged."""
    mixed = Image.blend(image, Image.fromarray(paint(labels, list(names), class_colours(names))), OPACITY)
    scale = min(max(1.0, SHORTEST / min(mixed.size)), max(1.0, LONGEST / max(mixed.size)))
    mixed = mixed.resize((round(mixed.width * scale), round(mixed.height * scale)), Image.Resampling.BICUBIC)
    mixed.paste("white", mask=_outlines(labels, mixed.size))
    return mixed


def draw_overlay(image: Image.Image, labels: NDArray[np.int64], names: Sequence[str], shares: Sequence[float]) -> Image.Image:
    """The photograph under its segmentation, with a legend of the classes found, largest first."""
    table = class_colours(names)
    mixed = draw_mask(image, labels, names)
    unit = max(18, round(min(mixed.size) / 26))
    font = ImageFont.truetype(Path(matplotlib.get_data_path(), "fonts", "ttf", "DejaVuSans.ttf"), unit * 0.72)
    found = sorted((i for i in range(len(names)) if shares[i] > 0), key=lambda i: -shares[i])
    short = {i: names[i] if len(names[i]) <= _WIDEST_NAME else f"{names[i][: _WIDEST_NAME - 1]}…" for i in found}
    lines = [(names[i], f"{short[i]}  {percent(shares[i])}") for i in found]
    width = round(max(font.getlength(text) for _, text in lines) + 2.8 * unit)
    columns = max(1, mixed.width // width)
    rows = -(-len(lines) // columns)
    sheet = Image.new("RGB", (max(mixed.width, width), mixed.height + round((rows + 0.6) * unit * 1.25)), "white")
    sheet.paste(mixed)
    draw = ImageDraw.Draw(sheet)
    for n, (name, text) in enumerate(lines):
        left = (n % columns) * width + unit // 2
        top = mixed.height + round((n // columns + 0.4) * unit * 1.25)
        draw.rectangle((left, top, left + unit, top + unit), fill=table[name], outline=(90, 90, 90))
        draw.text((left + 1.4 * unit, top + unit / 2), text, fill=(20, 20, 20), font=font, anchor="lm")
    return sheet
