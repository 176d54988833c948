"""Colours of class names: a name looks the same wherever it is shown, and names that are shown together differ.

Frequent names have a colour that people expect, under every name that a dataset gives them. Any other name draws its colour
from a sequence that starts at a hash of the name; it moves on along it only where a similar colour is taken already.
"""

import colorsys
import hashlib
from collections.abc import Iterable, Iterator

import numpy as np
from numpy.typing import NDArray

Colour = tuple[int, int, int]

VOID = (205, 205, 205)
VOID_STRIPE = (165, 165, 165)
OTHER = (25, 25, 25)  # classes that no legend names
_DISTANCE = 60.0  # between colours that are shown together, see `_distance`
_TRIES = 400
_USUAL: dict[str, Colour] = {
    "sky": (135, 190, 240),
    "sea": (28, 92, 160),
    "water": (58, 134, 214),
    "grass": (116, 196, 70),
    "tree": (24, 110, 52),
    "road": (92, 92, 104),
    "wall": (190, 122, 96),
    "mountain": (126, 96, 66),
    "floor": (222, 184, 135),
    "sand": (240, 218, 140),
    "snow": (214, 228, 238),
    "rock": (120, 128, 112),
    "fence": (160, 82, 180),
    "building": (170, 60, 60),
    "car": (220, 30, 50),
    "boat": (20, 190, 190),
    "chair": (250, 140, 20),
    "person": (250, 90, 160),
    "tv": (60, 40, 130),
    "dog": (160, 50, 10),
    "cow": (70, 30, 30),
    "bicycle": (190, 255, 40),
    "airplane": (90, 90, 230),
    "bus": (240, 200, 0),
    "sofa": (130, 0, 90),
    "train": (0, 140, 120),
    "horse": (200, 150, 60),
    "sheep": (240, 170, 200),
}
_ALIASES = {
    "sky-other": "sky",
    "wall-brick": "wall",
    "floor-wood": "floor",
    "television receiver": "tv",
    "tvmonitor": "tv",
    "aeroplane": "airplane",
    "couch": "sofa",
}


def _distance(a: Colour, b: Colour) -> float:
    """How different two colours look: the "redmean" approximation of CIELUV; black and white are 765 apart."""
    red = (a[0] + b[0]) / 2
    r, g, bl = (x - y for x, y in zip(a, b, strict=True))
    return float(((2 + red / 256) * r * r + 4 * g * g + (2 + (255 - red) / 256) * bl * bl) ** 0.5)


def _candidates(name: str) -> Iterator[Colour]:
    usual = _USUAL.get(_ALIASES.get(name, name))
    if usual:
        yield usual
    start = int.from_bytes(hashlib.sha256(name.encode()).digest()[:4]) / 2**32
    for i in range(_TRIES):
        hue = (start + i * 0.618034) % 1
        lightness, saturation = (0.45, 0.62, 0.33)[i % 3], (0.65, 0.9, 0.45)[(i // 3) % 3]
        r, g, b = colorsys.hls_to_rgb(hue, lightness, saturation)
        yield round(255 * r), round(255 * g), round(255 * b)


def colours(names: Iterable[str]) -> dict[str, Colour]:
    """A colour for each name, as RGB in 0..255; independent of the order of `names`."""
    result: dict[str, Colour] = {}
    for name in sorted(set(names), key=lambda name: (_ALIASES.get(name, name) not in _USUAL, name)):
        taken = [VOID, OTHER, (255, 255, 255), *result.values()]
        best, colour = -1.0, VOID
        for candidate in _candidates(name):
            gap = min(_distance(candidate, other) for other in taken)
            if gap > best:
                best, colour = gap, candidate
            if best >= _DISTANCE:
                break
        result[name] = colour
    return result


def paint(labels: NDArray[np.integer], names: list[str], table: dict[str, Colour]) -> NDArray[np.uint8]:
    """(H, W) labels as (H, W, 3) RGB: dark where `table` lacks the name, striped where a label has none (void)."""
    lut = np.array([table.get(name, OTHER) for name in names], np.uint8)
    height, width = labels.shape
    width_of_stripe = max(2, min(height, width) // 36)
    y, x = np.mgrid[:height, :width]
    stripes = ((x + y) // width_of_stripe % 2 == 0)[..., None]
    void = np.where(stripes, np.array(VOID_STRIPE, np.uint8), np.array(VOID, np.uint8))
    known = (labels >= 0) & (labels < len(names))
    return np.where(known[..., None], lut[np.where(known, labels, 0)], void)
