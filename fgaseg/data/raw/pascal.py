"""PASCAL VOC 2012 with 20 classes, and Pascal Context: 59 and 459 classes on the photographs of VOC 2010."""

import json
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from fgaseg.data.raw.base import Item, RawDataset, RawIds, Survey, read_ids, require, survey
from fgaseg.errors import UserError

PUBLISHED_VAL = Path(__file__).parents[1] / "pascal_context_val.txt"

_HOST = "http://host.robots.ox.ac.uk/pascal/VOC"
_VOC2010 = f"{_HOST}/voc2010/VOCtrainval_03-May-2010.tar"
_VOC2012 = f"{_HOST}/voc2012/VOCtrainval_11-May-2012.tar"
_DETAIL = "https://codalabuser.blob.core.windows.net/public/trainval_merged.json"
_CONTEXT = "https://www.cs.stanford.edu/~roozbeh/pascal-context/trainval.tar.gz"


@dataclass(frozen=True)
class Segments:
    """One photograph's part of `trainval_merged.json`: (category id, COCO run-length code) pairs, later ones on top."""

    source: str
    height: int
    width: int
    segments: tuple[tuple[int, dict[str, Any]], ...]

    def __call__(self) -> RawIds:
        """Raw ids (H, W); pixels in no segment are 0."""
        from pycocotools import mask

        ids = np.zeros((self.height, self.width), np.int32)
        for category, code in self.segments:
            if list(code["size"]) != [self.height, self.width]:
                raise UserError(
                    f"{self.source}: a segment of {code['size'][1]} x {code['size'][0]} pixels in a photograph of "
                    f"{self.width} x {self.height}: download {_DETAIL} again"
                )
            ids[mask.decode(code).astype(bool)] = category
        return ids


def read_label_map(path: Path) -> RawIds:
    """Raw ids (H, W) of Pascal Context's array `LabelMap`: 1 to 459, 0 for void."""
    from scipy.io import loadmat

    try:
        ids: RawIds = loadmat(str(path))["LabelMap"]
    except Exception as error:  # scipy raises zlib's, struct's and its own errors for damaged files
        raise UserError(f"{path} holds no readable LabelMap ({error}): unpack it from {_CONTEXT} again") from error
    return ids


def read_list(path: Path, remedy: str) -> list[str]:
    """The stems that a list of photographs holds; UserError with `remedy` if it holds none."""
    stems = path.read_text().split()
    if not stems:
        raise UserError(f"{path} lists no photograph: {remedy}")
    return stems


def labelled(image: Path, annotation: Path, listed_in: Path, read: Callable[[Path], RawIds] = read_ids) -> Item:
    """A photograph of a list with its annotation file; UserError if either is missing."""
    for path, other in ((image, annotation), (annotation, image)):
        if not path.exists():
            raise UserError(f"{path} is missing, though {listed_in} lists it (beside {other}): unpack its archive again")
    return Item(image, annotation, partial(read, annotation))


def _listed_survey(
    images: Path, labels: Path, suffix: str, listed: Path, stems: list[str], read: Callable[[Path], RawIds]
) -> Survey:
    """The photographs of a list with the labels `<stem><suffix>`."""
    pairs = [(images / f"{stem}.jpg", labels / f"{stem}{suffix}") for stem in stems]
    return survey((partial(labelled, image, label, listed, read) for image, label in pairs), (image for image, _ in pairs))


def voc_survey(root: Path) -> Survey:
    """VOC 2012's validation photographs, by its own list, with the labels of `SegmentationClassAug`."""
    folder = root / "VOCdevkit" / "VOC2012"
    remedy = f"download {_VOC2012} and unpack it in {root}"
    images = require(folder / "JPEGImages", remedy)
    listed = require(folder / "ImageSets" / "Segmentation" / "val.txt", remedy)
    labels = require(
        folder / "SegmentationClassAug",
        f"download SegmentationClassAug.zip (VOC's labels with SBD's) and unpack it in {folder}",
    )
    return _listed_survey(images, labels, ".png", listed, read_list(listed, remedy), read_ids)


def context_459_survey(root: Path) -> Survey:
    """Pascal Context's validation photographs with their `.mat` label maps.

    The data root's own `ImageSets/SegmentationContext/val.txt` says which, as mmsegmentation writes it; without that
    file it is the published list of 5 104.
    """
    folder = root / "VOCdevkit" / "VOC2010"
    images = require(folder / "JPEGImages", f"download {_VOC2010} and unpack it in {root}")
    labels = require(folder / "trainval", f"download {_CONTEXT} and unpack it in {folder}")
    own = folder / "ImageSets" / "SegmentationContext" / "val.txt"
    listed = own if own.exists() else PUBLISHED_VAL
    stems = read_list(listed, f"unpack it again, or remove it for the published list of {PUBLISHED_VAL.name}")
    return _listed_survey(images, labels, ".mat", listed, stems, read_label_map)


def context_59_survey(root: Path) -> Survey:
    """The photographs of phase "val" in `trainval_merged.json`, in the file's order."""
    folder = root / "VOCdevkit" / "VOC2010"
    images = require(folder / "JPEGImages", f"download {_VOC2010} and unpack it in {root}")
    path = require(folder / "trainval_merged.json", f"download {_DETAIL} and put it in {folder}")
    found = _validation_segments(path)
    if not found:
        raise UserError(f"{path} lists no photograph of phase val: download {_DETAIL} again")
    makers = (partial(_segmented, images / name, path, segments) for name, segments in found.items())
    return survey(makers, (images / name for name in found))


def _segmented(image: Path, listed_in: Path, segments: Segments) -> Item:
    """A photograph with its segments; UserError if either is missing."""
    if not image.exists():
        raise UserError(f"{image} is missing, though {listed_in} lists it: unpack {_VOC2010} again")
    if not segments.segments:
        raise UserError(f"{image} has no label: {listed_in} holds no segment of it; download {_DETAIL} again")
    return Item(image, Path(segments.source), segments)


def _validation_segments(path: Path) -> dict[str, Segments]:
    try:
        content = json.loads(path.read_text())
        codes = defaultdict(list)
        for segment in content["annos_segmentation"]:
            codes[segment["image_id"]].append((int(segment["category_id"]), segment["segmentation"]))
        return {
            image["file_name"]: Segments(
                source=f"{path}, {image['file_name']}",
                height=int(image["height"]),
                width=int(image["width"]),
                segments=tuple(codes[image["image_id"]]),
            )
            for image in content["images"]
            if image["phase"] == "val"
        }
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} is no trainval_merged.json ({error!r}): download {_DETAIL} again") from error


PAS_20 = RawDataset("pas-20", "pas-20", voc_survey, highest=20, void=(255,))
PC_59 = RawDataset("pc-59", "pc-59", context_59_survey, highest=459)
PC_459 = RawDataset("pc-459", "pc-459", context_459_survey, highest=459)
