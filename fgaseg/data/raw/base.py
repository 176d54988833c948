"""What every raw dataset is: items to read, and the rule that turns raw ids into prepared labels."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fgaseg.data.classes import ClassEntry, class_table
from fgaseg.errors import UserError

RawIds = NDArray[np.integer]
Labels = NDArray[np.uint8] | NDArray[np.uint16]


@dataclass(frozen=True)
class Item:
    """One photograph and its annotation; `decode` reads the annotation's raw ids, (H, W), and can be pickled."""

    image: Path
    annotation: Path
    decode: Callable[[], RawIds]


@dataclass(frozen=True)
class RawDataset:
    """A dataset as its publisher ships it.

    `classes` names the class table. Raw ids from 0 to `highest` and those in `void` may occur in the files: those of
    the table become its positions, all others void. Larger photographs are shrunk to `short_side` pixels, where given.
    """

    name: str
    classes: str
    items: Callable[[Path], list[Item]]
    highest: int
    void: tuple[int, ...] = ()
    short_side: int | None = None

    @property
    def table(self) -> tuple[ClassEntry, ...]:
        return class_table(self.classes)

    @property
    def void_label(self) -> int:
        """The prepared label of void: 255, or 65535 where the classes do not fit into 8 bits."""
        return 255 if len(self.table) <= 255 else 65535

    def to_labels(self, raw: RawIds, source: Path) -> Labels:
        """Prepared labels of raw ids, both (H, W); an id that `source` must not hold raises UserError."""
        ids = np.unique(raw)
        wrong = [int(i) for i in ids if not (0 <= i <= self.highest or i in self.void)]
        if wrong:
            also = "".join(f" and {v}" for v in self.void)
            raise UserError(
                f"{source}: label id {wrong[0]} is outside the table of {self.name} (0 to {self.highest}{also} may occur): "
                f"download the annotations again, or correct this file"
            )
        lookup = np.full(max(self.highest, *self.void, 0) + 1, self.void_label)
        lookup[[entry.raw_id for entry in self.table]] = np.arange(len(self.table))
        labels = lookup[raw]
        return labels.astype(np.uint8) if self.void_label == 255 else labels.astype(np.uint16)


def require(path: Path, remedy: str) -> Path:
    """`path` if it exists; otherwise UserError with `remedy`, which names what to download and where to put it."""
    if not path.exists():
        raise UserError(f"{path} is missing: {remedy}")
    return path


def load_image(path: Path, remedy: str = "unpack or download it again") -> Image.Image:
    """The image, fully decoded, so that a truncated file is found; UserError with `remedy` if it cannot be read."""
    try:
        image = Image.open(path)
        image.load()
    except FileNotFoundError as error:
        raise UserError(f"{path} is missing: {remedy}") from error
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise UserError(f"{path} cannot be read as an image ({error}): {remedy}") from error
    return image


def read_ids(path: Path) -> RawIds:
    """Raw ids (H, W) of a grey or palette PNG; a palette's indices are the ids."""
    image = load_image(path)
    if image.mode not in ("L", "P"):
        raise UserError(f"{path} has mode {image.mode}: labels need one grey or palette channel of 8 bits; unpack it again")
    return np.asarray(image)


def pair_folders(images: Path, annotations: Path, decode: Callable[[Path], RawIds] = read_ids) -> list[Item]:
    """Pair `<stem>.jpg` in one folder with `<stem>.png` in the other, sorted; UserError if one lacks its partner or all do."""
    photographs = {path.stem: path for path in images.glob("*.jpg")}
    labels = {path.stem: path for path in annotations.glob("*.png")}
    for stem in sorted(photographs.keys() ^ labels.keys()):
        if stem in photographs:
            raise UserError(f"{photographs[stem]} has no label {annotations / f'{stem}.png'}: unpack the annotations again")
        raise UserError(f"{labels[stem]} has no image {images / f'{stem}.jpg'}: unpack the images again")
    if not photographs:
        raise UserError(f"{images} holds no photograph: unpack the images there again, and the annotations in {annotations}")
    return [Item(photographs[s], labels[s], partial(decode, labels[s])) for s in sorted(photographs)]
