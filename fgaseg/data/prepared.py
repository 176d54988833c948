"""Read a prepared dataset: the common form that every raw layout is brought to."""

import csv
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import overload

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fgaseg.catalogue import ClassEntry
from fgaseg.data.raw.base import load_image
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
        return load_image(self.image).convert("RGB")

    def read_label_image(self) -> Image.Image:
        """Labels as a picture of mode L or I, to be resized or cropped before `to_labels` makes an array of it.

        Not of mode I;16, for which Pillow resizes with another rounding.
        """
        image = load_image(self.label, "prepare the dataset again")
        if image.mode not in VOID:
            raise UserError(f"{self.label}: mode {image.mode} is not that of a prepared label; prepare the dataset again")
        return image if image.mode == "L" else image.convert("I")

    def read_labels(self) -> NDArray[np.int64]:
        """Labels (H, W): positions in the class table, -1 where void."""
        return to_labels(self.read_label_image())


def to_labels(image: Image.Image) -> NDArray[np.int64]:
    """A picture of labels -> positions in the class table (H, W), -1 where void."""
    labels = np.asarray(image).astype(np.int64)
    labels[labels == (VOID["L"] if image.mode == "L" else VOID["I;16"])] = -1
    return labels


class Samples(Sequence[Sample]):
    """The samples of an index. Each is made when it is asked for: a hundred thousand at once would take seconds."""

    def __init__(self, files: Sequence[tuple[str, str]]) -> None:
        self._files = files

    def __len__(self) -> int:
        return len(self._files)

    @overload
    def __getitem__(self, index: int) -> Sample: ...
    @overload
    def __getitem__(self, index: slice) -> "Samples": ...
    def __getitem__(self, index: int | slice) -> "Sample | Samples":
        if isinstance(index, slice):
            return Samples(self._files[index])
        image, label = self._files[index]
        return Sample(Path(image), Path(label))


@dataclass(frozen=True)
class PreparedClass:
    """One class of a prepared dataset; `present` tells whether any of its labels shows it."""

    name: str
    synonyms: tuple[str, ...]
    raw_id: int
    present: bool
    kind: str | None

    @property
    def entry(self) -> ClassEntry:
        """The class as its table has it."""
        return ClassEntry(self.raw_id, self.name, self.synonyms)


class PreparedDataset:
    """The images, labels and classes in a folder that `fgaseg prepare` wrote."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        if not (folder / "index.csv").exists():
            raise UserError(f"{folder}: not a prepared dataset; make it with `fgaseg prepare {folder.name}`")

    @cached_property
    def samples(self) -> Samples:
        path = self.folder / "index.csv"
        try:
            with path.open(newline="", encoding="utf-8") as file:
                reader = csv.reader(file)
                columns = next(reader, [])
                image, label = columns.index("image"), columns.index("label")
                return Samples([(row[image], row[label]) for row in reader])
        except (OSError, ValueError, IndexError, csv.Error) as error:
            raise self._damaged(path, error) from None

    @cached_property
    def classes(self) -> tuple[PreparedClass, ...]:
        path = self.folder / "classes.json"
        try:
            entries = json.loads(path.read_text(encoding="utf-8"))
            return tuple(PreparedClass(e["name"], tuple(e["synonyms"]), e["raw_id"], e["present"], e["kind"]) for e in entries)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise self._damaged(path, error) from None

    def _damaged(self, path: Path, error: Exception) -> UserError:
        return UserError(f"{path}: damaged ({error!r}); make it again with `fgaseg prepare {self.folder.name}`")
