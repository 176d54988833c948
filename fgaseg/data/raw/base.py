"""What every raw dataset is: items to read, and the rule that turns raw ids into prepared labels."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property, partial
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
class Defect:
    """What is wrong with a raw dataset: the file or folder, and one line that says what and what to do."""

    path: Path
    text: str


@dataclass(frozen=True)
class Survey:
    """What is there of a raw dataset: its complete items, in order, and what is wrong with the others."""

    items: list[Item]
    defects: list[Defect]

    def sound(self) -> list[Item]:
        """The items of a dataset without defects; UserError with the first defect of any other."""
        if self.defects:
            raise UserError(self.defects[0].text)
        return self.items


@dataclass(frozen=True)
class RawDataset:
    """A dataset as its publisher ships it.

    `classes` is the class table, or the name of a known one. Raw ids of the table, those from 0 to `highest` and those in
    `void` may occur in the files: those of the table become its positions, all others void. Larger photographs are shrunk
    to `short_side` pixels, where given. `survey` lists what is there under a data root.
    """

    name: str
    classes: str | tuple[ClassEntry, ...]
    survey: Callable[[Path], Survey]
    highest: int
    void: tuple[int, ...] = ()
    short_side: int | None = None

    def items(self, root: Path) -> list[Item]:
        """The photographs under `root` with their annotations; UserError at the first defect."""
        return self.survey(root).sound()

    @property
    def table(self) -> tuple[ClassEntry, ...]:
        return class_table(self.classes) if isinstance(self.classes, str) else self.classes

    @property
    def void_label(self) -> int:
        """The prepared label of void: 255, or 65535 where the classes do not fit into 8 bits."""
        return 255 if len(self.table) <= 255 else 65535

    @cached_property
    def _lookup(self) -> Labels:
        """The prepared label of each raw id from 0 to the highest that may occur."""
        ids = [entry.raw_id for entry in self.table]
        lookup = np.full(max(self.highest, *self.void, *ids) + 1, self.void_label)
        lookup[ids] = np.arange(len(ids))
        return lookup.astype(np.uint8) if self.void_label == 255 else lookup.astype(np.uint16)

    @cached_property
    def allowed(self) -> frozenset[int]:
        """The raw ids that may occur in the files."""
        return frozenset([*range(self.highest + 1), *self.void, *(entry.raw_id for entry in self.table)])

    @property
    def allowed_in_words(self) -> str:
        """Such as "0 to 181 and 255"."""
        parts = [f"0 to {self.highest}"] if self.highest >= 0 else ["those of its classes"]
        return " and ".join([*parts, *map(str, self.void)])

    def to_labels(self, raw: RawIds, source: Path) -> Labels:
        """Prepared labels of raw ids, both (H, W); an id that `source` must not hold raises UserError."""
        return self.to_present(raw, source)[0]

    def to_present(self, raw: RawIds, source: Path) -> tuple[Labels, tuple[int, ...]]:
        """Prepared labels of raw ids, both (H, W), and which of them occur, without void, ascending."""
        ids = distinct(raw)
        wrong = [int(i) for i in ids if int(i) not in self.allowed]
        if wrong:
            raise UserError(
                f"{source}: label id {wrong[0]} is outside the table of {self.name} ({self.allowed_in_words} may occur): "
                f"download the annotations again, or correct this file"
            )
        present = sorted({int(label) for label in self._lookup[ids]} - {self.void_label})
        labels: Labels = self._lookup[raw]
        return labels, tuple(present)


def distinct(ids: RawIds) -> NDArray[np.int64]:
    """The different values in `ids`, ascending: `np.unique` for small numbers, by counting instead of sorting."""
    if ids.size and ids.min() >= 0 and ids.max() < 1 << 16:
        return np.flatnonzero(np.bincount(ids.ravel()))
    return np.unique(ids).astype(np.int64)


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


def read_size(path: Path, remedy: str = "unpack or download it again") -> tuple[int, int]:
    """Width and height of a photograph, all of whose bytes are read, so that a truncated file is found.

    A JPEG is decoded to an eighth of its size, which leaves out most of the work. UserError with `remedy` otherwise.
    """
    try:
        with Image.open(path) as image:
            size = image.size
            image.draft(image.mode, (1, 1))
            image.load()
    except FileNotFoundError as error:
        raise UserError(f"{path} is missing: {remedy}") from error
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise UserError(f"{path} cannot be read as an image ({error}): {remedy}") from error
    return size


def read_ids(path: Path) -> RawIds:
    """Raw ids (H, W) of a grey or palette PNG; a palette's indices are the ids."""
    image = load_image(path)
    if image.mode not in ("L", "P"):
        raise UserError(f"{path} has mode {image.mode}: labels need one grey or palette channel of 8 bits; unpack it again")
    return np.asarray(image)


def pair_folders(
    images: Path,
    annotations: Path,
    decode: Callable[[Path], RawIds] = read_ids,
    suffixes: tuple[str, ...] = (".jpg",),
) -> Survey:
    """Pair the photographs in one folder with `<stem>.png` in the other, sorted; one that lacks its partner is a defect.

    Photographs end in one of `suffixes`. UserError if there is none.
    """
    photographs: dict[str, Path] = {}
    labels = {path.stem: path for path in annotations.glob("*.png")}
    defects = []
    for path in sorted(path for suffix in suffixes for path in images.glob(f"*{suffix}")):
        other = photographs.setdefault(path.stem, path)
        if other is not path:
            defects.append(Defect(path, f"{path} has the same name as {other}: remove one of them"))
    if not photographs:
        raise UserError(f"{images} holds no photograph: unpack the images there again, and the annotations in {annotations}")
    for stem in sorted(photographs.keys() ^ labels.keys()):
        if stem in photographs:
            path, text = photographs[stem], f"has no label {annotations / f'{stem}.png'}: unpack the annotations again"
        else:
            path, text = labels[stem], f"has no image {images / f'{stem}{suffixes[0]}'}: unpack the images again"
        defects.append(Defect(path, f"{path} {text}"))
    both = sorted(photographs.keys() & labels.keys())
    return Survey([Item(photographs[stem], labels[stem], partial(decode, labels[stem])) for stem in both], defects)


def survey(parts: Iterable[Callable[[], Item]], paths: Iterable[Path]) -> Survey:
    """The items that `parts` make; where one raises UserError, its message is a defect of the path in its place."""
    items, defects = [], []
    for make, path in zip(parts, paths, strict=True):
        try:
            items.append(make())
        except UserError as error:
            defects.append(Defect(path, str(error)))
    return Survey(items, defects)
