"""COCO-Stuff: COCO's 2017 photographs with `stuffthingmaps`, 8-bit PNGs with ids 0 to 181 and 255 for void."""

from functools import partial
from pathlib import Path
from typing import Literal

from fgaseg.data.raw.base import RawDataset, Survey, pair_folders, require

_IMAGES = "http://images.cocodataset.org/zips"
_MAPS = "http://calvin.inf.ed.ac.uk/wp-content/uploads/data/cocostuffdataset/stuffthingmaps_trainval2017.zip"


def survey(root: Path, split: Literal["train", "val"]) -> Survey:
    """The photographs of `split` under `root`/coco, in the order of their names."""
    folder = root / "coco"
    images = require(folder / f"{split}2017", f"download {_IMAGES}/{split}2017.zip and unpack it in {folder}")
    maps = folder / "stuffthingmaps"
    annotations = require(maps / f"{split}2017", f"download {_MAPS} and unpack it in {maps}")
    return pair_folders(images, annotations)


COCO_STUFF_TRAIN = RawDataset("coco-stuff-train", "coco-stuff", partial(survey, split="train"), highest=181, void=(255,))
COCO_STUFF_VAL = RawDataset("coco-stuff-val", "coco-stuff", partial(survey, split="val"), highest=181, void=(255,))
