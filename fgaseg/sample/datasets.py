"""Write miniatures of the six real datasets, in their raw layouts and with their real ids and class names."""

import io
import json
import pickle
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fgaseg.data.classes import class_table
from fgaseg.data.raw.ade20k import OBJECT_NAMES, RELEASE
from fgaseg.sample.concepts import CONCEPTS, Concept, shown_in
from fgaseg.sample.scenes import Scene, draw_scene

SMALLEST, LARGEST = 128, 160
"""Bounds of a drawn photograph's width and height, in pixels."""

Sizes = Literal["small", "published"]
Ids = NDArray[np.int32]


def _context_concepts() -> list[Concept]:
    """Both of Pascal Context's vocabularies label the same photographs; sand is a class of the larger one only."""
    both = [c for c in CONCEPTS if {"pc-59", "pc-459"} <= c.names.keys()]
    return [*both, *(c for c in CONCEPTS if c.key == "sand")]


@dataclass(frozen=True)
class Miniature:
    """One small dataset: how many photographs, what they show, and how the i-th is named.

    `sides` are bounds of width and height, in pixels, that most photographs of the real dataset keep.
    """

    count: int
    concepts: Callable[[], list[Concept]]
    stem: Callable[[int], str]
    sides: tuple[int, int]


MINIATURES = {
    "coco-train": Miniature(240, lambda: shown_in("coco-stuff"), lambda i: f"{9 + 16 * i:012d}", (426, 640)),
    "coco-val": Miniature(16, lambda: shown_in("coco-stuff"), lambda i: f"{139 + 146 * i:012d}", (426, 640)),
    "a-150": Miniature(28, lambda: shown_in("a-150"), lambda i: f"ADE_val_{1 + i:08d}", (512, 768)),
    "a-847": Miniature(28, lambda: shown_in("a-847"), lambda i: f"ADE_val_{1 + i:08d}", (1024, 1600)),
    "context": Miniature(28, _context_concepts, lambda i: f"2008_{2 + 3 * i:06d}", (333, 500)),
    "voc": Miniature(28, lambda: shown_in("pas-20"), lambda i: f"2007_{33 + 9 * i:06d}", (333, 500)),
}


def write_sample(root: Path, seed: int = 0, counts: dict[str, int] | None = None, sizes: Sizes = "small") -> None:
    """Write all six miniatures under the data root `root`; the same `seed` gives the same labels on every machine.

    `counts` replaces the number of photographs of some of `MINIATURES`. With `sizes` "published" photographs are as large as
    those of the real datasets.
    """
    counts = {name: miniature.count for name, miniature in MINIATURES.items()} | (counts or {})
    scenes = {name: _scenes(name, counts[name], seed, sizes) for name in MINIATURES}
    _write_coco(root / "coco", "train2017", scenes["coco-train"])
    _write_coco(root / "coco", "val2017", scenes["coco-val"])
    _write_challenge(root / "ADEChallengeData2016", scenes["a-150"])
    _write_full_ade20k(root, scenes["a-847"])
    _write_context(root / "VOCdevkit" / "VOC2010", scenes["context"])
    _write_voc(root / "VOCdevkit" / "VOC2012", scenes["voc"])


def _scenes(name: str, count: int, seed: int, sizes: Sizes) -> Iterator[tuple[str, Scene]]:
    """The first `count` scenes of a miniature, named.

    Each chooses from the three stuff concepts and three things that earlier scenes showed least, so that even 28
    scenes show every concept several times.
    """
    miniature, number = MINIATURES[name], list(MINIATURES).index(name)
    concepts = miniature.concepts()
    smallest, largest = (SMALLEST, LARGEST) if sizes == "small" else miniature.sides
    shown: Counter[str] = Counter()
    for i in range(count):
        rng = np.random.default_rng((seed, number, i))
        height, width = (int(side) for side in rng.integers(smallest, largest + 1, 2))
        order = sorted((concepts[j] for j in rng.permutation(len(concepts))), key=lambda c: shown[c.key])
        stuff, things = ([c for c in order if c.kind == kind] for kind in ("stuff", "thing"))
        scene = draw_scene([*stuff[:3], *things[:3]], height, width, rng)
        shown.update(CONCEPTS[j].key for j in scene.present())
        yield miniature.stem(i), scene


def _raw_ids(scene: Scene, dataset: str, void: int) -> Ids:
    """The raw ids (H, W) that `dataset` gives the scene's concepts; those that it cannot name become `void`."""
    ids = {entry.name: entry.raw_id for entry in class_table(dataset)}
    lookup = np.array([ids.get(c.names.get(dataset, ""), void) for c in CONCEPTS], np.int32)
    return lookup[scene.labels]


def _contours(scene: Scene) -> NDArray[np.bool_]:
    """The outermost pixels (H, W) of things: annotators leave them void, as their place is uncertain."""
    labels = np.pad(scene.labels, 1, mode="edge")
    inner = labels[1:-1, 1:-1]
    neighbours = (labels[:-2, 1:-1], labels[2:, 1:-1], labels[1:-1, :-2], labels[1:-1, 2:])
    things = np.array([c.kind == "thing" for c in CONCEPTS])[inner]
    edges: NDArray[np.bool_] = things & np.any([inner != other for other in neighbours], axis=0)
    return edges


def _write_photograph(path: Path, scene: Scene) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(scene.image).save(path, quality=92)


def _write_png(path: Path, pixels: NDArray[Any], palette: list[int] | None = None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(pixels.astype(np.uint8))
    if palette:
        image.putpalette(palette)
    image.save(path, optimize=True)


def _write_coco(folder: Path, split: str, scenes: Iterator[tuple[str, Scene]]) -> None:
    for stem, scene in scenes:
        _write_photograph(folder / split / f"{stem}.jpg", scene)
        ids = np.where(_contours(scene), 255, _raw_ids(scene, "coco-stuff", 255))
        _write_png(folder / "stuffthingmaps" / split / f"{stem}.png", ids)


def _write_challenge(folder: Path, scenes: Iterator[tuple[str, Scene]]) -> None:
    for stem, scene in scenes:
        _write_photograph(folder / "images" / "validation" / f"{stem}.jpg", scene)
        ids = np.where(_contours(scene), 0, _raw_ids(scene, "a-150", 0))
        _write_png(folder / "annotations" / "validation" / f"{stem}.png", ids)


def _write_full_ade20k(root: Path, scenes: Iterator[tuple[str, Scene]]) -> None:
    """Class in red and green, number of the region in blue; the index lists the files and the names of all ids."""
    places = ("urban/street", "nature_landscape/coast", "home_or_hotel/living_room")
    index: dict[str, list[str]] = {"filename": [], "folder": [], "objectnames": ["-"] * OBJECT_NAMES}
    for entry in class_table("a-847"):
        index["objectnames"][entry.raw_id - 1] = ", ".join(entry.all_names())
    for i, (stem, scene) in enumerate(scenes):
        folder = f"{RELEASE}/images/ADE/validation/{places[i % len(places)]}"
        index["filename"].append(f"{stem}.jpg")
        index["folder"].append(folder)
        _write_photograph(root / folder / f"{stem}.jpg", scene)
        ids = np.where(_contours(scene), 0, _raw_ids(scene, "a-847", 0))
        instances = np.unique(ids, return_inverse=True)[1].reshape(ids.shape) * (ids > 0)
        _write_png(root / folder / f"{stem}_seg.png", np.stack([ids // 256 * 10, ids % 256, instances], -1))
    path = root / RELEASE / "index_ade20k.pkl"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(pickle.dumps(index, protocol=4))


def _write_context(folder: Path, scenes: Iterator[tuple[str, Scene]]) -> None:
    """One set of photographs with both annotations of Pascal Context, and the list of those photographs."""
    content: dict[str, list[dict[str, Any]]] = {
        "images": [],
        "annos_segmentation": [],
        "categories": [{"category_id": e.raw_id, "name": e.name, "onlysemantic": 1} for e in class_table("pc-59")],
        "parts": [],
        "annos_occlusion": [],
    }
    stems = []
    for stem, scene in scenes:
        stems.append(stem)
        _write_photograph(folder / "JPEGImages" / f"{stem}.jpg", scene)
        _write_label_map(folder / "trainval" / f"{stem}.mat", _raw_ids(scene, "pc-459", 0))
        height, width = scene.labels.shape
        image_id = int(stem.replace("_", ""))
        content["images"].append(
            {"file_name": f"{stem}.jpg", "phase": "val", "height": height, "width": width, "image_id": image_id}
        )
        for segment in _segments(_raw_ids(scene, "pc-59", 0)):
            content["annos_segmentation"].append({"id": len(content["annos_segmentation"]) + 1, "image_id": image_id} | segment)
    listed = folder / "ImageSets" / "SegmentationContext" / "val.txt"
    listed.parent.mkdir(parents=True, exist_ok=True)
    listed.write_text("".join(f"{stem}\n" for stem in stems))
    (folder / "trainval_merged.json").write_text(json.dumps(content))


def _segments(ids: Ids) -> Iterator[dict[str, Any]]:
    """One segment per class in `ids` (H, W) but 0: run-length code, area in pixels, box as x, y, width, height."""
    from pycocotools import mask

    for category in np.unique(ids[ids > 0]):
        code = mask.encode(np.asfortranarray((ids == category).astype(np.uint8)))
        yield {
            "category_id": int(category),
            "area": int(mask.area(code)),
            "bbox": [float(side) for side in mask.toBbox(code)],
            "iscrowd": 0,
            "segmentation": {"size": [int(side) for side in code["size"]], "counts": code["counts"].decode("ascii")},
        }


def _write_label_map(path: Path, ids: Ids) -> None:
    from scipy.io import savemat

    buffer = io.BytesIO()
    savemat(buffer, {"LabelMap": ids.astype(np.uint16)}, do_compression=True)
    # The format begins with 116 characters of free text, in which scipy writes the time.
    text = b"MATLAB 5.0 MAT-file".ljust(116)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text + buffer.getvalue()[116:])


def _voc_palette() -> list[int]:
    """VOC's 256 colours, flat RGB: the bits of an index, taken three at a time, fill the channels from the top bit down."""
    index = np.arange(256)
    colours = np.zeros((256, 3), np.int64)
    for shift in range(8):
        for channel in range(3):
            colours[:, channel] |= (index >> channel & 1) << (7 - shift)
        index = index >> 3
    return [int(value) for value in colours.ravel()]


def _write_voc(folder: Path, scenes: Iterator[tuple[str, Scene]]) -> None:
    stems = []
    for stem, scene in scenes:
        stems.append(stem)
        _write_photograph(folder / "JPEGImages" / f"{stem}.jpg", scene)
        ids = np.where(_contours(scene), 255, _raw_ids(scene, "pas-20", 0))
        _write_png(folder / "SegmentationClassAug" / f"{stem}.png", ids, _voc_palette())
    listed = folder / "ImageSets" / "Segmentation" / "val.txt"
    listed.parent.mkdir(parents=True, exist_ok=True)
    listed.write_text("".join(f"{stem}\n" for stem in stems))
