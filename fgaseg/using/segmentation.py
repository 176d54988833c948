"""What a prediction gives."""

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fgaseg.using.overlay import draw_mask, draw_overlay


@dataclass(frozen=True)
class Segmentation:
    """One photograph's classes.

    `labels` (H, W) int64 are positions in `names`; `confidence` (H, W) float32 is the score of each pixel's class, from 0
    to 1. With a background threshold "background" is the last of `names`. `image` is the photograph as people see it.
    """

    labels: NDArray[np.int64]
    confidence: NDArray[np.float32]
    names: list[str]
    run_id: str
    image: Image.Image = field(repr=False)

    @cached_property
    def pixels(self) -> list[int]:
        """How many pixels each class has."""
        return [int(n) for n in np.bincount(self.labels.ravel(), minlength=len(self.names))]

    @property
    def shares(self) -> list[float]:
        """The share of the photograph that each class has, from 0 to 1."""
        return [n / self.labels.size for n in self.pixels]

    @cached_property
    def class_confidence(self) -> list[float | None]:
        """The mean confidence over each class's pixels, None where it has none."""
        sums = np.bincount(self.labels.ravel(), self.confidence.ravel(), minlength=len(self.names))
        return [float(s / n) if n else None for s, n in zip(sums, self.pixels, strict=True)]

    def label_image(self) -> Image.Image:
        """The label map as a grey image, of 8 bits for up to 255 classes, else of 16."""
        return Image.fromarray(self.labels.astype(np.uint8 if len(self.names) <= 255 else np.uint16))

    def overlay(self) -> Image.Image:
        """The photograph under its segmentation, with a legend of the classes found, largest first."""
        return draw_overlay(self.image, self.labels, self.names, self.shares)

    def mask(self) -> Image.Image:
        """As `overlay`, without the legend."""
        return draw_mask(self.image, self.labels, self.names)

    def areas(self) -> list[dict[str, Any]]:
        """Label, name, pixels, area (share of the photograph) and confidence of each class, as they are written to JSON."""
        rows = zip(self.names, self.pixels, self.shares, self.class_confidence, strict=True)
        return [
            {"label": i, "name": n, "pixels": p, "area": round(s, 6), "confidence": None if c is None else round(c, 4)}
            for i, (n, p, s, c) in enumerate(rows)
        ]
