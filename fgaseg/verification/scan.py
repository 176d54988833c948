"""One photograph and its annotation, each read once and whole: is it sound, which ids does it show, in which colours?"""

from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fgaseg.data.raw import Item, RawDataset
from fgaseg.data.raw.base import Defect, RawIds, distinct, load_image
from fgaseg.errors import UserError

_THUMBNAIL = 64
"""The shorter side, in pixels, that a photograph is decoded to at least: enough for the mean colour of its regions."""


@dataclass(frozen=True)
class Scan:
    """What a photograph's annotation shows: raw ids, the pixels (N,) and mean colour (N, 3) of each; and what is wrong.

    A file that cannot be read shows nothing; colours are NaN for ids that a thumbnail does not show.
    """

    ids: NDArray[np.int64]
    pixels: NDArray[np.int64]
    colours: NDArray[np.float32]
    defects: tuple[Defect, ...] = ()


def _damaged(path: Path, error: UserError) -> Scan:
    return Scan(np.empty(0, np.int64), np.empty(0, np.int64), np.empty((0, 3), np.float32), (Defect(path, str(error)),))


def scan(item: Item, raw: RawDataset) -> Scan:
    """Look through an item of `raw`."""
    try:
        size, thumbnail = _read_small(item.image)
    except UserError as error:
        return _damaged(item.image, error)
    try:
        labels = item.decode()
    except UserError as error:
        return _damaged(item.annotation, error)
    defects = []
    height, width = labels.shape
    if size != (width, height):
        text = f"{item.annotation} is {width} x {height} pixels, its image {item.image} {size[0]} x {size[1]}: replace one"
        defects.append(Defect(item.annotation, text))
    ids = distinct(labels)
    wrong = [int(i) for i in ids if int(i) not in raw.allowed]
    if wrong:
        listed = ", ".join(map(str, wrong[:8])) + ", ..." * (len(wrong) > 8)
        text = f"{item.annotation}: id {listed} outside the table of {raw.name} ({raw.allowed_in_words} may occur)"
        defects.append(Defect(item.annotation, text + _likely(wrong, raw)))
    pixels = np.array([np.count_nonzero(labels == i) for i in ids], np.int64) if len(ids) < 8 else _counted(labels, ids)
    return Scan(ids, pixels, _mean_colours(labels, ids, thumbnail), tuple(defects))


def _likely(wrong: list[int], raw: RawDataset) -> str:
    """What ids outside a table often mean."""
    table = [entry.raw_id for entry in raw.table]
    if 255 in wrong and 255 not in raw.void:
        return ": 255 is often void; here void is " + (" and ".join(map(str, raw.void)) or ("0" if 0 not in table else "no id"))
    if wrong == [max(table) + 1] or wrong == [min(table) - 1]:
        return ": one beyond the table's end, as in labels that are shifted by one"
    return ""


def _counted(labels: RawIds, ids: NDArray[np.int64]) -> NDArray[np.int64]:
    """The pixels of each of `ids`, in one pass."""
    if ids.size and ids[0] >= 0:
        return np.bincount(labels.ravel(), minlength=int(ids[-1]) + 1)[ids]
    return np.unique(labels, return_counts=True)[1]


def _read_small(path: Path) -> tuple[tuple[int, int], NDArray[np.uint8]]:
    """A photograph's size (width, height), and its pixels (h, w, 3) at the smallest size that a JPEG is cheaply decoded to."""
    try:
        with Image.open(path) as image:
            size = image.size
            image.draft(image.mode, (_THUMBNAIL, _THUMBNAIL))
            image.load()
            return size, np.asarray(image.convert("RGB"))
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        load_image(path)
        raise UserError(f"{path} cannot be read as an image: unpack or download it again") from None


def _mean_colours(labels: RawIds, ids: NDArray[np.int64], pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """The mean colour (N, 3) of each of `ids`, by the label nearest to each pixel of the thumbnail."""
    rows, columns = (
        ((np.arange(small) + 0.5) * (whole / small)).astype(np.int64)
        for small, whole in zip(pixels.shape[:2], labels.shape, strict=True)
    )
    places = np.searchsorted(ids, labels[rows[:, None], columns]).ravel()
    count = np.bincount(places, minlength=len(ids)).astype(np.float64)
    sums = [np.bincount(places, pixels[..., c].ravel(), minlength=len(ids)) for c in range(3)]
    with np.errstate(invalid="ignore", divide="ignore"):
        return (np.stack(sums, -1) / count[:, None]).astype(np.float32)


def scan_all(items: list[Item], raw: RawDataset, workers: int) -> Iterator[Scan]:
    """The scans of all items, in their order, as they are ready."""
    work = partial(scan, raw=raw)
    if workers == 1 or len(items) < 200:
        yield from map(work, items)
        return
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        yield from _ordered(pool, work, items)


def _ordered(pool: ProcessPoolExecutor, work: "partial[Scan]", items: Iterable[Item]) -> Iterator[Scan]:
    yield from pool.map(work, items, chunksize=32)
