"""Write a raw dataset in the common form that training and evaluation read.

`labels/<stem>.png` holds the position in the class table per pixel (255 is void, 65535 in 16-bit files), `images/` only
photographs that had to be shrunk, `classes.json` the class table and what occurs, `index.csv` one row per photograph.
The index is written last: where it exists, the rest is complete.
"""

import csv
import io
import json
import os
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from PIL import Image

from fgaseg.data.raw import RAW_DATASETS, Item, RawDataset
from fgaseg.data.raw.base import Labels, load_image
from fgaseg.data.vocabulary import kind
from fgaseg.errors import UserError
from fgaseg.files import atomic, write_whole

INDEX = "index.csv"
JPEG_QUALITY = 95


@dataclass(frozen=True)
class Row:
    """A line of `index.csv`; `present` holds the labels that occur, without void."""

    image: str
    label: str
    width: int
    height: int
    present: tuple[int, ...]


def prepare(dataset: str, root: Path, out: Path, workers: int = 1) -> None:
    """Write `dataset`, found in its publisher's layout under `root`, to the folder `out`.

    Mistakes in the data raise UserError with the file and the remedy; `out` then holds no index.
    """
    if dataset not in RAW_DATASETS:
        raise UserError(f"unknown dataset {dataset!r}: choose one of {', '.join(RAW_DATASETS)}")
    raw = RAW_DATASETS[dataset]
    (out / INDEX).unlink(missing_ok=True)
    prepare_items(raw, raw.items(root), out, workers)


def prepare_items(raw: RawDataset, items: list[Item], out: Path, workers: int = 1) -> None:
    """Write `items`, read by the rules of `raw`, to `out`; rows keep the order of `items` whatever `workers` is."""
    (out / INDEX).unlink(missing_ok=True)
    stems: dict[str, Path] = {}
    for item in items:
        if stems.setdefault(item.image.stem, item.image) is not item.image:
            raise UserError(f"{item.image} has the same name as {stems[item.image.stem]}: remove one of them")
    for folder in ("labels", "images") if raw.short_side else ("labels",):
        (out / folder).mkdir(parents=True, exist_ok=True)
    work = partial(_prepare_item, raw=raw, out=out)
    if workers > 1:
        try:
            with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
                rows = list(pool.map(work, items, chunksize=max(1, min(64, len(items) // (4 * workers)))))
        except BrokenProcessPool as error:
            raise UserError(f"a worker preparing {raw.name} was killed, perhaps for its memory: use fewer workers") from error
    else:
        rows = [work(item) for item in items]
    _write_classes(raw, rows, out / "classes.json")
    _write_index(rows, out / INDEX)


def _prepare_item(item: Item, raw: RawDataset, out: Path) -> Row:
    image = load_image(item.image)
    labels = raw.to_labels(item.decode(), item.annotation)
    if labels.shape != (image.height, image.width):
        raise UserError(
            f"{item.annotation} is {labels.shape[1]} x {labels.shape[0]} pixels, its image {item.image} "
            f"{image.width} x {image.height}: download both again, they belong to different versions"
        )
    path = item.image
    if raw.short_side and min(image.size) > raw.short_side:
        path = out / "images" / f"{item.image.stem}.jpg"
        image, labels = shrink(image, labels, raw.short_side)
        with atomic(path) as temporary:
            image.save(temporary, format="JPEG", quality=JPEG_QUALITY, subsampling=0)
    label = out / "labels" / f"{item.image.stem}.png"
    with atomic(label) as temporary:
        Image.fromarray(labels).save(temporary, format="PNG", compress_level=4)
    present = tuple(int(i) for i in np.unique(labels) if i != raw.void_label)
    return Row(_portable(path), _portable(label), image.width, image.height, present)


def shrink(image: Image.Image, labels: Labels, short_side: int) -> tuple[Image.Image, Labels]:
    """Scale an image (bicubic) and its labels (H, W) (nearest) so that the shorter side has `short_side` pixels."""
    scale = short_side / min(image.size)
    width, height = (round(side * scale) for side in image.size)
    rows = ((np.arange(height) + 0.5) * (image.height / height)).astype(np.int64)
    columns = ((np.arange(width) + 0.5) * (image.width / width)).astype(np.int64)
    small: Labels = labels[rows[:, None], columns]
    return image.convert("RGB").resize((width, height), Image.Resampling.BICUBIC), small


def _portable(path: Path) -> str:
    """`path` relative to the current directory if it lies below it, else absolute."""
    absolute = Path(os.path.abspath(path))  # noqa: PTH100 - resolve() would follow a linked data folder out of the project
    return absolute.relative_to(Path.cwd()).as_posix() if absolute.is_relative_to(Path.cwd()) else absolute.as_posix()


def _write_classes(raw: RawDataset, rows: Iterable[Row], path: Path) -> None:
    present = {label for row in rows for label in row.present}
    classes = [
        {
            "name": entry.name,
            "synonyms": list(entry.synonyms),
            "raw_id": entry.raw_id,
            "present": label in present,
            "kind": kind(entry),
        }
        for label, entry in enumerate(raw.table)
    ]
    write_whole(path, json.dumps(classes, indent=1, ensure_ascii=False) + "\n")


def _write_index(rows: Iterable[Row], path: Path) -> None:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("image", "label", "width", "height"))
    writer.writerows((row.image, row.label, row.width, row.height) for row in rows)
    write_whole(path, text.getvalue())
