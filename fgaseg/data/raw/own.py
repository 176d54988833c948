"""A user's own dataset: a folder of photographs, and one of label files with the same stems."""

from functools import partial
from pathlib import Path

import numpy as np

from fgaseg.catalogue import OwnDataset
from fgaseg.data.raw.base import RawDataset, RawIds, Survey, load_image, pair_folders
from fgaseg.errors import UserError

PHOTOGRAPHS = (".jpg", ".jpeg", ".png")


def read_wide_ids(path: Path) -> RawIds:
    """Raw ids (H, W) of a grey or palette PNG of 8 or 16 bits."""
    image = load_image(path, "replace it")
    if image.mode not in ("L", "P", "I", "I;16"):
        raise UserError(f"{path} has mode {image.mode}: labels need one grey or palette channel of 8 or 16 bits; replace it")
    return np.asarray(image)


def survey(root: Path, own: OwnDataset) -> Survey:
    """The photographs of a user's dataset in the order of their names; `root` is the project's."""
    for key, folder in (("images", own.images), ("labels", own.labels)):
        if not (root / folder).is_dir():
            raise UserError(f"{own.described_in}: {key}: {folder} is no folder; put the files there, or name another folder")
    return pair_folders(root / own.images, root / own.labels, read_wide_ids, PHOTOGRAPHS)


def own_raw_dataset(own: OwnDataset) -> RawDataset:
    """How a user's dataset is read: ids of its classes and of void may occur, no others."""
    return RawDataset(own.name, own.classes, partial(survey, own=own), highest=-1, void=own.void, short_side=own.short_side)
