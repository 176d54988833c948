"""Read a prepared dataset: the common form that every raw layout is brought to."""

import csv
import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fgaseg.errors import UserError

VOID = {"L": 255, "I;16": 65535}


@dataclass(frozen=True)
class Sample:
    """One image and its label file."""

    image: Path
    label: Path

    @property
    def name(self) -> str:
        return self.image.name

    def read_image(self) -> Image.Image:
        """The image as RGB."""
        with Image.open(self.image) as image:
            return image.convert("RGB")

    def read_labels(self) -> NDArray[np.int64]:
        """Labels (H, W): positions in the class table, -1 where void."""
        with Image.open(self.label) as image:
            void = VOID[image.mode]
            labels = np.asarray(image).astype(np.int64)
        labels[labels == void] = -1
        return labels


@dataclass(frozen=True)
class PreparedClass:
    """One class of a prepared dataset; `present` tells whether any of its labels shows it."""

    name: str
    synonyms: tuple[str, ...]
    raw_id: int
    present: bool
    kind: str | None


class PreparedDataset:
    """The images, labels and classes in a folder that `fgaseg prepare` wrote."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        if not (folder / "index.csv").exists():
            raise UserError(f"{folder}: not a prepared dataset; make it with `fgaseg prepare {folder.name}`")

    @cached_property
    def samples(self) -> tuple[Sample, ...]:
        with (self.folder / "index.csv").open(newline="", encoding="utf-8") as file:
            return tuple(Sample(Path(row["image"]), Path(row["label"])) for row in csv.DictReader(file))

    @cached_property
    def classes(self) -> tuple[PreparedClass, ...]:
        entries = json.loads((self.folder / "classes.json").read_text(encoding="utf-8"))
        return tuple(PreparedClass(e["name"], tuple(e["synonyms"]), e["raw_id"], e["present"], e["kind"]) for e in entries)
