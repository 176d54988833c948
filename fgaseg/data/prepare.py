"""Write a raw dataset in the common form that training and evaluation read.

`labels/<stem>.png` holds the position in the class table per pixel (255 is void, 65535 in 16-bit files), `images/` only
photographs that had to be shrunk, `classes.json` the class table and what occurs, `index.csv` one row per photograph.
The index is written last: where it exists, the rest is complete. Until then `.journal/` knows what is finished.
"""

import csv
import hashlib
import io
import json
import os
from collections.abc import Iterable
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import PIL
from PIL import Image

from fgaseg.data.journal import Journal, Row
from fgaseg.data.raw import RAW_DATASETS, Item, RawDataset
from fgaseg.data.raw.base import Labels, distinct, load_image, read_size
from fgaseg.data.vocabulary import kind
from fgaseg.errors import UserError
from fgaseg.files import atomic, exclusive, write_whole

INDEX = "index.csv"
JPEG_QUALITY = 95
COMPRESSION = 4
CHUNK = 32
"""Photographs that a worker process takes at a time, at most."""


def prepare(dataset: str | RawDataset, root: Path, out: Path, workers: int = 1) -> None:
    """Write `dataset`, found in its publisher's layout under `root`, to the folder `out`.

    A preparation that was interrupted goes on: what it has finished is kept where the raw files have not changed since.
    Mistakes in the data raise UserError with the file and the remedy; `out` then holds no index.
    """
    if isinstance(dataset, str):
        if dataset not in RAW_DATASETS:
            raise UserError(f"unknown dataset {dataset!r}: choose one of {', '.join(RAW_DATASETS)}")
        dataset = RAW_DATASETS[dataset]
    with exclusive(out):
        (out / INDEX).unlink(missing_ok=True)
        prepare_items(dataset, dataset.items(root), out, workers)


def prepare_items(raw: RawDataset, items: list[Item], out: Path, workers: int = 1) -> None:
    """Write `items`, read by the rules of `raw`, to `out`; rows keep the order of `items` whatever `workers` is."""
    (out / INDEX).unlink(missing_ok=True)
    stems: dict[str, Path] = {}
    for item in items:
        if stems.setdefault(item.image.stem, item.image) is not item.image:
            raise UserError(f"{item.image} has the same name as {stems[item.image.stem]}: remove one of them")
    for folder in ("labels", "images") if raw.short_side else ("labels",):
        (out / folder).mkdir(parents=True, exist_ok=True)
    journal = Journal(out, recipe(raw))
    rows = journal.finished(items)
    _sweep(out, rows)
    left = [item for item in items if item.image.name not in rows]
    work = partial(_prepare_items, raw=raw, out=out, journal=journal)
    done = _in_parallel(work, left, workers, raw.name) if workers > 1 and left else work(left)
    rows |= {item.image.name: row for item, row in zip(left, done, strict=True)}
    ordered = [rows[item.image.name] for item in items]
    _write_classes(raw, ordered, out / "classes.json")
    _write_index(ordered, out / INDEX)
    journal.close()


def recipe(raw: RawDataset) -> str:
    """A hash of what decides the written files beside the raw ones: the rules of `raw`, this code and the encoders."""
    rules = (raw.name, raw.table, sorted(raw.allowed), raw.short_side, str(Path.cwd()), PIL.__version__)
    digest = hashlib.sha256(repr(rules).encode())
    for source in sorted(Path(__file__).parent.rglob("*.py")):
        digest.update(source.read_bytes())
    return digest.hexdigest()[:12]


def _sweep(out: Path, finished: dict[str, Row]) -> None:
    """Remove what no finished item owns: halves that a killed process left, photographs that are there no more."""
    owned = {Path(path).name for row in finished.values() for path in (row.image, row.label)}
    for folder in ("labels", "images"):
        for entry in os.scandir(out / folder) if (out / folder).is_dir() else ():
            if entry.name not in owned:
                Path(entry.path).unlink()


def _in_parallel(work: "partial[list[Row]]", items: list[Item], workers: int, name: str) -> list[Row]:
    """`work` on `items` in several processes; at the first mistake no further ones are begun."""
    futures: list[Future[list[Row]]] = []
    try:
        with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
            try:
                size = max(1, min(CHUNK, len(items) // (4 * workers)))
                futures = [pool.submit(work, items[i : i + size]) for i in range(0, len(items), size)]
                return [row for future in futures for row in future.result()]
            finally:
                pool.shutdown(wait=True, cancel_futures=True)
    except BrokenProcessPool as error:
        raise UserError(f"a worker preparing {name} was killed, perhaps for its memory: use fewer workers") from error


def _prepare_items(items: Iterable[Item], raw: RawDataset, out: Path, journal: Journal) -> list[Row]:
    rows = []
    for item in items:
        rows.append(_prepare_item(item, raw, out))
        journal.add(item, rows[-1])
    return rows


def _prepare_item(item: Item, raw: RawDataset, out: Path) -> Row:
    labels, present = raw.to_present(item.decode(), item.annotation)
    height, width = labels.shape
    shrunk = raw.short_side is not None and min(width, height) > raw.short_side
    image = load_image(item.image) if shrunk else None
    size = image.size if image else read_size(item.image)
    if size != (width, height):
        raise UserError(
            f"{item.annotation} is {width} x {height} pixels, its image {item.image} "
            f"{size[0]} x {size[1]}: download both again, they belong to different versions"
        )
    path = item.image
    if image and raw.short_side:
        path = out / "images" / f"{item.image.stem}.jpg"
        image, labels = shrink(image, labels, raw.short_side)
        with atomic(path) as temporary:
            image.save(temporary, format="JPEG", quality=JPEG_QUALITY, subsampling=0)
        present = tuple(int(i) for i in distinct(labels) if i != raw.void_label)
        size = image.size
    label = out / "labels" / f"{item.image.stem}.png"
    with atomic(label) as temporary:
        Image.fromarray(labels).save(temporary, format="PNG", compress_level=COMPRESSION)
    return Row(_portable(path), _portable(label), *size, present)


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
