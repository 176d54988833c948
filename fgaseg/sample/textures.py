"""Looks of the concepts: a palette and a pattern each.

A pattern maps coordinates in pixels, already turned and scaled for this one region, to a mixing weight in [0, 1]
between the palette's colours. What a small CLIP can learn from a few thousand scenes is local appearance, so
things carry a pattern of their own as well as an outline.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.floating]
Pattern = Callable[[Array, Array, np.random.Generator], Array]
Colour = tuple[int, int, int]


def value_noise(u: Array, v: Array, rng: np.random.Generator, cell: float) -> Array:
    """Smooth random field in [0, 1]: a random lattice with spacing `cell` pixels, interpolated with a cosine ease."""
    lattice = rng.random((64, 64), dtype=np.float32)
    x, y = u / cell, v / cell
    x0, y0 = np.floor(x).astype(np.int64), np.floor(y).astype(np.int64)
    fx, fy = x - x0, y - y0
    fx, fy = fx * fx * (3 - 2 * fx), fy * fy * (3 - 2 * fy)
    a, b = lattice[y0 % 64, x0 % 64], lattice[y0 % 64, (x0 + 1) % 64]
    c, d = lattice[(y0 + 1) % 64, x0 % 64], lattice[(y0 + 1) % 64, (x0 + 1) % 64]
    return ((a * (1 - fx) + b * fx) * (1 - fy) + (c * (1 - fx) + d * fx) * fy).astype(np.float32)


def _wave(x: Array, period: float) -> Array:
    return (0.5 + 0.5 * np.sin(2 * np.pi * x / period)).astype(np.float32)


def _step(x: Array, threshold: float = 0.5) -> Array:
    return (x > threshold).astype(np.float32)


def clouds(u: Array, v: Array, rng: np.random.Generator) -> Array:
    return value_noise(u, v * 1.6, rng, 34.0) ** 2


def waves(u: Array, v: Array, rng: np.random.Generator) -> Array:
    return _wave(v + 3 * _wave(u, 31.0), 9.0) * (0.6 + 0.4 * value_noise(u, v, rng, 14.0))


def blades(u: Array, v: Array, rng: np.random.Generator) -> Array:
    return value_noise(u, v / 4, rng, 2.2)


def speckle(u: Array, v: Array, rng: np.random.Generator) -> Array:
    return _step(value_noise(u, v, rng, 1.7), 0.62) * 0.8


def asphalt(u: Array, v: Array, rng: np.random.Generator) -> Array:
    dash = _step(_wave(u, 40.0), 0.6) * (np.abs((v % 44.0) - 22.0) < 2.2)
    return np.maximum(0.25 * value_noise(u, v, rng, 2.0), dash).astype(np.float32)


def bricks(u: Array, v: Array, rng: np.random.Generator) -> Array:
    row = np.floor(v / 8.0)
    mortar = ((v % 8.0) < 1.6) | (((u + 8.0 * (row % 2)) % 16.0) < 1.6)
    return np.where(mortar, 1.0, 0.25 * value_noise(u, v, rng, 9.0)).astype(np.float32)


def ridges(u: Array, v: Array, rng: np.random.Generator) -> Array:
    return np.abs(2 * value_noise(u + 0.8 * v, v - 0.3 * u, rng, 16.0) - 1) ** 0.7


def foliage(u: Array, v: Array, rng: np.random.Generator) -> Array:
    return _step(value_noise(u, v, rng, 6.5), 0.52) * (0.55 + 0.45 * value_noise(u, v, rng, 2.5))


def long_planks(u: Array, v: Array, rng: np.random.Generator) -> Array:
    gap = (v % 12.0) < 1.4
    return np.where(gap, 1.0, 0.5 * value_noise(u / 9, v * 1.4, rng, 3.0)).astype(np.float32)


def drift(u: Array, v: Array, rng: np.random.Generator) -> Array:
    return 0.5 * value_noise(u, v * 2.2, rng, 20.0)


def cracks(u: Array, v: Array, rng: np.random.Generator) -> Array:
    return _step(np.abs(value_noise(u, v, rng, 11.0) - value_noise(u, v, rng, 13.0)), 0.06) * 0.75


def slats(u: Array, v: Array, rng: np.random.Generator) -> Array:
    rail = (v % 34.0) < 4.0
    return np.where(rail, 0.0, _step(_wave(u, 9.0), 0.55)).astype(np.float32)


def windows(u: Array, v: Array, rng: np.random.Generator) -> Array:
    return (((u % 15.0) < 8.5) & ((v % 15.0) < 8.0)).astype(np.float32)


def planks(u: Array, v: Array, rng: np.random.Generator) -> Array:
    return ((v % 7.0) < 2.6).astype(np.float32)


def lattice(u: Array, v: Array, rng: np.random.Generator) -> Array:
    return ((((u + v) % 11.0) < 3.6) | (((u - v) % 11.0) < 3.6)).astype(np.float32)


def plaid(u: Array, v: Array, rng: np.random.Generator) -> Array:
    return (0.5 * _step(_wave(u, 10.0)) + 0.5 * _step(_wave(v, 10.0))).astype(np.float32)


def scanlines(u: Array, v: Array, rng: np.random.Generator) -> Array:
    return (((v % 4.5) < 2.0) * 0.8 + 0.2 * _wave(u, 29.0)).astype(np.float32)


def blotches(u: Array, v: Array, rng: np.random.Generator) -> Array:
    return _step(value_noise(u, v, rng, 5.5), 0.5)


def large_blotches(u: Array, v: Array, rng: np.random.Generator) -> Array:
    return _step(value_noise(u, v, rng, 10.0), 0.5)


def rings(u: Array, v: Array, rng: np.random.Generator) -> Array:
    radius = np.hypot((u % 22.0) - 11.0, (v % 22.0) - 11.0)
    return _step(_wave(radius, 7.5), 0.55)


def scales(u: Array, v: Array, rng: np.random.Generator) -> Array:
    row = np.floor(v / 9.0)
    radius = np.hypot(((u + 6.0 * (row % 2)) % 12.0) - 6.0, v % 9.0)
    return ((radius > 4.8) & (radius < 7.4)).astype(np.float32)


def stripes(u: Array, v: Array, rng: np.random.Generator) -> Array:
    return _step(_wave(u, 13.0), 0.5)


def quilt(u: Array, v: Array, rng: np.random.Generator) -> Array:
    return np.maximum(np.abs((u % 16.0) - 8.0), np.abs((v % 16.0) - 8.0)).astype(np.float32) / 8.0


def checker(u: Array, v: Array, rng: np.random.Generator) -> Array:
    return ((np.floor(u / 8.0) + np.floor(v / 8.0)) % 2).astype(np.float32)


def hatch(u: Array, v: Array, rng: np.random.Generator) -> Array:
    return _step(_wave(u + 2 * v, 8.0), 0.6)


def curls(u: Array, v: Array, rng: np.random.Generator) -> Array:
    radius = np.hypot((u % 9.0) - 4.5, (v % 9.0) - 4.5)
    return ((radius > 2.0) & (radius < 3.6)).astype(np.float32)


@dataclass(frozen=True)
class Look:
    """Two colours (RGB) and the pattern that mixes them."""

    low: Colour
    high: Colour
    pattern: Pattern


LOOKS: dict[str, Look] = {
    "sky": Look((92, 156, 226), (238, 244, 250), clouds),
    "water": Look((16, 84, 122), (74, 172, 186), waves),
    "grass": Look((54, 112, 30), (134, 186, 62), blades),
    "road": Look((64, 64, 74), (244, 222, 120), asphalt),
    "wall": Look((156, 72, 52), (206, 196, 182), bricks),
    "mountain": Look((76, 68, 108), (168, 158, 182), ridges),
    "tree": Look((16, 58, 34), (58, 116, 44), foliage),
    "floor": Look((150, 98, 52), (84, 50, 24), long_planks),
    "sand": Look((222, 194, 130), (186, 150, 88), speckle),
    "snow": Look((246, 248, 252), (190, 206, 230), drift),
    "rock": Look((160, 124, 98), (62, 44, 38), cracks),
    "fence": Look((232, 226, 210), (98, 76, 54), slats),
    "car": Look((204, 30, 36), (28, 34, 60), windows),
    "boat": Look((246, 240, 228), (142, 70, 26), planks),
    "chair": Look((240, 136, 30), (88, 40, 10), lattice),
    "person": Look((40, 60, 190), (236, 184, 150), plaid),
    "tv": Look((14, 14, 20), (60, 226, 232), scanlines),
    "dog": Look((216, 182, 132), (66, 40, 34), blotches),
    "cow": Look((252, 244, 250), (26, 14, 28), large_blotches),
    "bicycle": Look((18, 150, 130), (10, 20, 24), rings),
    "airplane": Look((216, 222, 230), (206, 44, 90), scales),
    "bus": Look((250, 206, 22), (38, 46, 70), stripes),
    "sofa": Look((116, 26, 116), (220, 122, 206), quilt),
    "train": Look((22, 104, 66), (234, 214, 84), checker),
    "horse": Look((106, 44, 22), (180, 100, 58), hatch),
    "sheep": Look((242, 230, 206), (146, 126, 110), curls),
}


def paint(key: str, height: int, width: int, rng: np.random.Generator) -> Array:
    """Paint a (height, width, 3) field in [0, 255] with the look of concept `key`, varied in pose, hue and light."""
    look = LOOKS[key]
    angle, shear = rng.uniform(-0.35, 0.35), rng.uniform(-0.15, 0.15)
    scale = rng.uniform(0.8, 1.25)
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    x, y = x - np.float32(rng.uniform(0, 200)), y - np.float32(rng.uniform(0, 200))
    if rng.random() < 0.5:
        x = -x
    u = ((np.cos(angle) * x + np.sin(angle) * y) / scale + shear * y).astype(np.float32)
    v = ((-np.sin(angle) * x + np.cos(angle) * y) / scale).astype(np.float32)
    mix = look.pattern(u, v, rng)[..., None]
    colours = np.array([look.low, look.high], np.float32) + rng.normal(0, 9, (2, 3)).astype(np.float32)
    field = colours[0] * (1 - mix) + colours[1] * mix
    light = rng.uniform(0.78, 1.18) + rng.uniform(-0.18, 0.18) * (x / width + y / height)[..., None]
    return (field * light.astype(np.float32)).astype(np.float32)
