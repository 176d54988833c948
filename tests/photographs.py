"""Real photographs of ADE20K and PASCAL VOC, where the environment variable FGASEG_SAMPLES says they are."""

import os
from pathlib import Path

import pytest

SAMPLES = Path(os.environ.get("FGASEG_SAMPLES", "/nonexistent"))
ADE = SAMPLES / "ADE20K_2021_17_01"
VOC = SAMPLES / "VOCdevkit" / "VOC2011"
CLASSES = "person, car, bus, tree, building, road, chair, bottle"

needs_photographs = pytest.mark.skipif(
    not (ADE.exists() and VOC.exists()), reason="FGASEG_SAMPLES names no folder with ADE20K_2021_17_01 and VOCdevkit/VOC2011"
)


def ade_photographs() -> list[Path]:
    return sorted(ADE.rglob("*.jpg"))


def voc_photographs() -> list[Path]:
    return sorted((VOC / "JPEGImages").glob("*.jpg"))


each_photograph = pytest.mark.parametrize("photo", [*ade_photographs(), *voc_photographs()], ids=lambda path: path.stem)
