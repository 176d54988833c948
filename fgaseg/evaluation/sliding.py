"""Sliding windows plus the whole image (released code)."""

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from fgaseg.data.pixels import normalise, to_pixels
from fgaseg.errors import UserError
from fgaseg.schema import Evaluation


def window_origins(params: Evaluation) -> list[tuple[int, int]]:
    """Top-left corners (row, column) of the windows in the resized image."""
    steps = range(0, params.resize - params.window + 1, params.stride)
    return [(top, left) for top in steps for left in steps]


def views(image: Image.Image, params: Evaluation) -> Tensor:
    """An RGB image -> its windows and, last, the whole image: (V, 3, window, window), normalised."""
    resized = to_pixels(image.resize((params.resize, params.resize), Image.Resampling.BILINEAR))
    size = params.window
    crops = [resized[:, top : top + size, left : left + size] for top, left in window_origins(params)]
    if params.whole_image:
        crops.append(to_pixels(image.resize((size, size), Image.Resampling.BILINEAR)))
    return normalise(torch.stack(crops))


def check_cells(params: Evaluation, length: int) -> None:
    """`UserError` when windows do not begin and end on whole cells of a window's `length` x `length` scores."""
    if params.stride * length % params.window or params.resize * length % params.window:
        raise UserError(
            f"evaluation: stride {params.stride} and resize {params.resize} do not fall on whole cells of a window's "
            f"{length} x {length} scores; choose multiples of {params.window // length}"
        )


def merge(scores: Tensor, params: Evaluation) -> Tensor:
    """Scores of the views (V, K, L, L) -> scores of the whole image (K, R, R), R = resize * L / window.

    Windows are averaged where they overlap; the result and the whole image count one half each. Merging happens at the
    scores' own resolution, which is linear and so agrees with merging at `resize` up to the borders of windows.
    """
    length = scores.shape[-1]
    check_cells(params, length)
    scale = length / params.window
    side = round(params.resize * scale)
    total = scores.new_zeros(scores.shape[1], side, side)
    count = scores.new_zeros(side, side)
    origins = window_origins(params)
    for window, (top, left) in zip(scores, origins, strict=False):
        rows = slice(round(top * scale), round(top * scale) + length)
        columns = slice(round(left * scale), round(left * scale) + length)
        total[:, rows, columns] += window
        count[rows, columns] += 1
    total /= count
    if not params.whole_image:
        return total
    whole = F.interpolate(scores[-1:], size=(side, side), mode="bilinear", align_corners=False)[0]
    return (total + whole) / 2
