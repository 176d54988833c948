"""From the scores of views to the best class of each pixel, and how sure it is.

Axes: V views, K names, R the scores' own side, H x W the photograph's.
"""

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from fgaseg.evaluation.segmenter import Segmenter
from fgaseg.evaluation.sliding import merge, views
from fgaseg.schema import Evaluation

AT_ONCE = 1 << 25
"""How many scores at the photograph's own size are held at once: large photographs take fewer names at a time."""


def best_names(scores: Tensor, height: int, width: int, at_once: int = AT_ONCE) -> tuple[Tensor, Tensor]:
    """Scores (K, R, R) -> the best name of each pixel, int64, and its score, both (H, W); of equal ones the first wins."""
    chunk = max(1, min(32, at_once // (height * width)))
    best = torch.full((height, width), -torch.inf, device=scores.device)
    names = torch.zeros((height, width), dtype=torch.long, device=scores.device)
    for start in range(0, len(scores), chunk):
        part = scores[None, start : start + chunk]
        values, indices = F.interpolate(part, size=(height, width), mode="bilinear", align_corners=False)[0].max(0)
        better = values > best
        best = torch.where(better, values, best)
        names = torch.where(better, indices + start, names)
    return names, best


def segment_classes(
    segmenter: Segmenter, image: Image.Image, params: Evaluation, owners: Sequence[int]
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """The class of each pixel of an RGB image and its confidence, both (H, W).

    `owners` has for each name of the segmenter's vocabulary the class it is a synonym of: a class scores as its best
    synonym does, so the best name decides. Confidence is that score, averaged over the windows: from 0 to 1.
    """
    scores, kept = segmenter.scores(views(image, params).to(segmenter.device))
    names, confidence = best_names(merge(scores, params), image.height, image.width)
    if kept is not None:
        names = kept[names]
    return np.asarray(owners, np.int64)[names.cpu().numpy()], confidence.float().clamp(0, 1).cpu().numpy()
