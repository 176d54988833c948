"""Readers of the datasets in the layouts in which their publishers ship them, one module per family."""

from fgaseg.data.raw.ade20k import A_150, A_847
from fgaseg.data.raw.base import Item, RawDataset
from fgaseg.data.raw.coco import COCO_STUFF_TRAIN, COCO_STUFF_VAL
from fgaseg.data.raw.pascal import PAS_20, PC_59, PC_459

RAW_DATASETS = {dataset.name: dataset for dataset in (COCO_STUFF_TRAIN, COCO_STUFF_VAL, A_150, A_847, PC_59, PC_459, PAS_20)}

__all__ = ["RAW_DATASETS", "Item", "RawDataset"]
