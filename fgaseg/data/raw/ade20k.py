"""ADE20K: the scene parsing challenge of 2016 with 150 classes, and the full release of 2021 with 847 of 3 688 names."""

import pickle
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from fgaseg.data.classes import class_table
from fgaseg.data.raw.base import Item, RawDataset, RawIds, Survey, load_image, pair_folders, require, survey
from fgaseg.errors import UserError

RELEASE = "ADE20K_2021_17_01"
OBJECT_NAMES = 3688
SHORT_SIDE = 512

_CHALLENGE = "http://data.csail.mit.edu/places/ADEchallenge/ADEChallengeData2016.zip"
_FULL = f"request {RELEASE}.zip at https://ade20k.csail.mit.edu and unpack it in"

# What rebuilds plain containers and numpy arrays from a pickle, and can run no code of the file's own.
_PLAIN = {"list", "tuple", "dict", "set", "frozenset", "str", "bytes", "bytearray", "int", "float", "bool"}
_NUMPY = {
    ("numpy", "ndarray"),
    ("numpy", "dtype"),
    ("numpy._core.multiarray", "_reconstruct"),
    ("numpy._core.multiarray", "scalar"),
    ("numpy._core.numeric", "_frombuffer"),
    ("_codecs", "encode"),
}


class _PlainUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        module = module.replace("numpy.core.", "numpy._core.").replace("__builtin__", "builtins")
        if (module == "builtins" and name in _PLAIN) or (module, name) in _NUMPY:
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"it asks for {module}.{name}, which no index needs")


def load_index(path: Path) -> dict[str, Any]:
    """ADE20K's index of the 2021 release; only plain containers and numpy arrays are unpickled, all else is refused."""
    try:
        with path.open("rb") as file:
            index = _PlainUnpickler(file).load()
        missing = {"filename", "folder", "objectnames"} - set(index)
    except Exception as error:  # a damaged pickle may raise anything
        raise UserError(f"{path} is no ADE20K index ({error}): unpack it from {RELEASE}.zip again") from error
    if missing:
        raise UserError(f"{path} lacks {', '.join(sorted(missing))}: unpack it from {RELEASE}.zip again")
    return dict(index)


def read_coded(path: Path) -> RawIds:
    """Raw ids (H, W) of a `*_seg.png`: (R // 10) * 256 + G, the 1-based index in the index's `objectnames`; 0 is void."""
    image = load_image(path)
    if image.mode != "RGB":
        raise UserError(f"{path} has mode {image.mode}: a *_seg.png of {RELEASE} is RGB; unpack it again")
    colours = np.asarray(image)
    ids: RawIds = (colours[..., 0] // 10).astype(np.int32) * 256 + colours[..., 1]
    return ids


def photograph(path: Path) -> Item:
    """A photograph of the 2021 release with the annotation beside it; UserError if either is missing."""
    annotation = path.with_name(f"{path.stem}_seg.png")
    if not path.exists():
        raise UserError(f"{path} is missing, though {RELEASE}'s index names it: unpack {RELEASE}.zip again")
    if not annotation.exists():
        raise UserError(f"{path} has no label {annotation}: unpack {RELEASE}.zip again")
    return Item(path, annotation, partial(read_coded, annotation))


def photographs(folder: Path) -> list[Item]:
    """Every photograph below `folder`, for pieces of the 2021 release that come without its index."""
    return [photograph(path) for path in sorted(folder.rglob("*.jpg"))]


def full_survey(root: Path, split: str = "validation") -> Survey:
    """The photographs that the 2021 release's index lists for `split` ("training" or "validation")."""
    path = require(root / RELEASE / "index_ade20k.pkl", f"{_FULL} {root}")
    index = load_index(path)
    names = [str(name) for name in index["objectnames"]]
    table = class_table("a-847")
    known = sum(e.raw_id <= len(names) and not set(e.all_names()).isdisjoint(names[e.raw_id - 1].split(", ")) for e in table)
    if 2 * known < len(table):
        raise UserError(f"{path} numbers the classes otherwise than {RELEASE}: use the index of that release")
    files = zip(index["folder"], index["filename"], strict=True)
    listed = [root / str(folder) / str(file) for folder, file in files if split in Path(str(folder)).parts]
    if not listed:
        raise UserError(f"{path} lists no photograph of {split}: unpack {RELEASE}.zip again")
    return survey((partial(photograph, file) for file in listed), listed)


def challenge_survey(root: Path) -> Survey:
    """The validation photographs of ADEChallengeData2016, in the order of their names."""
    folder = root / "ADEChallengeData2016"
    remedy = f"download {_CHALLENGE} and unpack it in {root}"
    images = require(folder / "images" / "validation", remedy)
    annotations = require(folder / "annotations" / "validation", remedy)
    return pair_folders(images, annotations)


A_150 = RawDataset("a-150", "a-150", challenge_survey, highest=150)
A_847 = RawDataset("a-847", "a-847", full_survey, highest=OBJECT_NAMES, short_side=SHORT_SIDE)
