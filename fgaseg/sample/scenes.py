"""Draw one scene: bands of stuff, one to three things over them, and the label of every pixel."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from fgaseg.sample.concepts import CONCEPTS, Concept
from fgaseg.sample.textures import paint

Points = NDArray[np.float64]


@dataclass(frozen=True)
class Scene:
    """`image` (H, W, 3) uint8 RGB; `labels` (H, W) uint8, indices into `CONCEPTS`."""

    image: NDArray[np.uint8]
    labels: NDArray[np.uint8]

    def present(self, least: float = 0.03) -> list[int]:
        """Indices of the concepts that cover at least the fraction `least` of the scene, largest first."""
        counts = np.bincount(self.labels.ravel(), minlength=len(CONCEPTS)) / self.labels.size
        return [int(i) for i in np.argsort(-counts, kind="stable") if counts[i] >= least]


def _ellipse(cx: float, cy: float, rx: float, ry: float) -> Points:
    t = np.linspace(0, 2 * np.pi, 28, endpoint=False)
    return np.stack([cx + rx * np.cos(t), cy + ry * np.sin(t)], 1)


def _box(x0: float, y0: float, x1: float, y1: float) -> Points:
    return np.array([(x0, y0), (x1, y0), (x1, y1), (x0, y1)], np.float64)


def _poly(*points: tuple[float, float]) -> Points:
    return np.array(points, np.float64)


_ANIMAL = [
    _ellipse(0, 0, 0.62, 0.34),
    _ellipse(0.62, -0.34, 0.24, 0.22),
    _box(-0.5, 0.1, -0.3, 0.75),
    _box(0.28, 0.1, 0.48, 0.75),
]

SILHOUETTES: dict[str, list[Points]] = {
    "car": [
        _box(-0.95, -0.1, 0.95, 0.4),
        _poly((-0.6, -0.1), (-0.35, -0.5), (0.4, -0.5), (0.65, -0.1)),
        _ellipse(-0.5, 0.4, 0.2, 0.2),
        _ellipse(0.5, 0.4, 0.2, 0.2),
    ],
    "boat": [_poly((-0.95, 0.05), (0.95, 0.05), (0.6, 0.55), (-0.6, 0.55)), _poly((-0.1, 0.1), (-0.1, -0.9), (0.65, 0.1))],
    "chair": [
        _box(-0.55, -0.9, 0.55, -0.1),
        _box(-0.6, -0.15, 0.6, 0.25),
        _box(-0.55, 0.2, -0.25, 0.9),
        _box(0.25, 0.2, 0.55, 0.9),
    ],
    "person": [
        _ellipse(0, -0.7, 0.24, 0.26),
        _box(-0.4, -0.48, 0.4, 0.3),
        _box(-0.34, 0.25, -0.04, 0.98),
        _box(0.04, 0.25, 0.34, 0.98),
    ],
    "tv": [_box(-0.85, -0.65, 0.85, 0.5), _box(-0.3, 0.5, 0.3, 0.72)],
    "dog": [*_ANIMAL, _poly((-0.6, -0.1), (-0.9, -0.6), (-0.45, -0.2))],
    "cow": [*_ANIMAL, _box(-0.66, -0.36, 0.6, 0.28)],
    "bicycle": [
        _ellipse(-0.5, 0.2, 0.46, 0.46),
        _ellipse(0.5, 0.2, 0.46, 0.46),
        _poly((-0.5, 0.2), (0, -0.5), (0.5, 0.2), (0, 0.35)),
    ],
    "airplane": [
        _ellipse(0, 0, 0.98, 0.22),
        _poly((-0.2, 0), (0.25, 0), (-0.2, 0.85), (-0.45, 0.85)),
        _poly((-0.95, 0), (-0.65, 0), (-0.9, -0.6)),
    ],
    "bus": [_box(-0.95, -0.55, 0.95, 0.5), _ellipse(-0.5, 0.5, 0.18, 0.18), _ellipse(0.5, 0.5, 0.18, 0.18)],
    "sofa": [
        _box(-0.9, -0.5, 0.9, 0.2),
        _box(-1.0, -0.15, -0.65, 0.55),
        _box(0.65, -0.15, 1.0, 0.55),
        _box(-0.9, 0.1, 0.9, 0.5),
    ],
    "train": [_box(-1.0, -0.4, 0.75, 0.45), _poly((0.75, -0.4), (1.0, 0.1), (1.0, 0.45), (0.75, 0.45))],
    "horse": [*_ANIMAL, _poly((0.3, -0.1), (0.45, -0.75), (0.72, -0.65), (0.6, 0.05))],
    "sheep": [*_ANIMAL, _ellipse(-0.1, -0.1, 0.6, 0.42)],
}


def _silhouette(key: str, height: int, width: int, rng: np.random.Generator) -> NDArray[np.bool_]:
    """The outline of thing `key` at a random place, size, turn and shear, as a (height, width) mask."""
    half = 0.5 * rng.uniform(0.42, 0.85) * min(height, width)
    angle, shear = rng.uniform(-0.3, 0.3), rng.uniform(-0.2, 0.2)
    flip = -1.0 if rng.random() < 0.5 else 1.0
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    transform = turn @ np.array([[flip, shear], [0.0, rng.uniform(0.85, 1.2)]]) * half
    centre = np.array([rng.uniform(0.22, 0.78) * width, rng.uniform(0.25, 0.78) * height])
    canvas = Image.new("1", (width, height))
    draw = ImageDraw.Draw(canvas)
    for shape in SILHOUETTES[key]:
        draw.polygon([tuple(p) for p in shape @ transform.T + centre], fill=1)
    return np.asarray(canvas)


def _bands(stuff: list[Concept], height: int, width: int, rng: np.random.Generator) -> list[tuple[Concept, NDArray[np.bool_]]]:
    """Split the scene into one to three wavy bands of stuff, each where its concept likes to lie."""
    order = {"top": 0, "middle": 1, "any": 1, "bottom": 2}
    count = min(len(stuff), int(rng.choice([1, 2, 3], p=[0.15, 0.5, 0.35])))
    chosen = [stuff[i] for i in rng.choice(len(stuff), count, replace=False)]
    if rng.random() < 0.8:
        chosen.sort(key=lambda c: order[c.place])
    y, x = np.mgrid[0:height, 0:width].astype(np.float64)
    tilt = rng.uniform(-0.25, 0.25) * (x - width / 2)
    edges = np.sort((np.arange(1, count) + rng.uniform(-0.28, 0.28, count - 1)) / count) * height
    regions = []
    for i, concept in enumerate(chosen):
        mask = np.ones((height, width), bool)
        if i:
            wave = rng.uniform(0, 7) * np.sin(x / rng.uniform(9, 26) + rng.uniform(0, 6))
            mask = y + tilt + wave >= edges[i - 1]
        regions.append((concept, mask))
    return regions


def draw_scene(concepts: list[Concept], height: int, width: int, rng: np.random.Generator) -> Scene:
    """Draw a scene of `height` x `width` pixels that shows some of `concepts`; the same `rng` state gives the same pixels."""
    stuff = [c for c in concepts if c.kind == "stuff"]
    things = [c for c in concepts if c.kind == "thing"]
    image = np.zeros((height, width, 3), np.float32)
    labels = np.zeros((height, width), np.uint8)
    regions = _bands(stuff, height, width, rng)
    count = min(len(things), int(rng.choice([1, 2, 3], p=[0.4, 0.4, 0.2])))
    for i in rng.choice(len(things), count, replace=False):
        regions.append((things[i], _silhouette(things[i].key, height, width, rng)))
    for concept, mask in regions:
        image[mask] = paint(concept.key, height, width, rng)[mask]
        labels[mask] = CONCEPTS.index(concept)
    image += rng.normal(0, 4, image.shape).astype(np.float32)
    return Scene(np.clip(np.rint(image), 0, 255).astype(np.uint8), labels)
