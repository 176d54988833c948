"""Readers of the datasets in the layouts in which their publishers ship them, one module per family, and of users' own."""

from pathlib import Path

from fgaseg.catalogue import Dataset, OwnDataset
from fgaseg.data.raw.ade20k import A_150, A_847
from fgaseg.data.raw.base import Item, RawDataset
from fgaseg.data.raw.coco import COCO_STUFF_TRAIN, COCO_STUFF_VAL
from fgaseg.data.raw.own import own_raw_dataset
from fgaseg.data.raw.pascal import PAS_20, PC_59, PC_459

RAW_DATASETS = {dataset.name: dataset for dataset in (COCO_STUFF_TRAIN, COCO_STUFF_VAL, A_150, A_847, PC_59, PC_459, PAS_20)}

__all__ = ["RAW_DATASETS", "Item", "RawDataset", "raw_dataset"]


def raw_dataset(dataset: Dataset, project: Path, data_root: str) -> tuple[RawDataset, Path]:
    """How a dataset is read, and the folder that it is read from: a known one's is the data root, a user's the project's."""
    if isinstance(dataset, OwnDataset):
        return own_raw_dataset(dataset), project
    return RAW_DATASETS[dataset.name], project / data_root
