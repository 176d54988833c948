"""From low-resolution scores to the best class of every pixel, at a cost that hardly grows with the number of classes.

Letters: K classes, R x C cells of scores, H x W pixels. An interpolated value lies between the least and the largest of
its four cells. So over a tile of cells only those classes can win whose largest cell reaches the least cell of some other
class: the candidates, one to three of hundreds where a model is sure. Only they are interpolated, as two small matrix
products. These round otherwise than `F.interpolate`, whose values are the definition: where candidates are so close that
the rounding might decide, `F.interpolate` decides.
"""

from collections.abc import Iterator, Sequence
from functools import partial
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from fgaseg.model.threads import one_thread, side_by_side

_TILE_PIXELS = 1024
"""Aimed at: all candidates of a tile stay in the processor's cache."""

_FEW_VALUES = 2**21
"""Of K * H * W: below it, tiles cost more than they save."""

_ROUNDING = 10
"""Relative, in units of eps. Each of two ways to interpolate errs by at most 2 eps, so two classes by 8 in all; weights
that are rounded to half precision and no longer add up to 1 are covered, too."""

_GROUP = 16

_MANY_CANDIDATES = 100
"""Of a tile on average: from there on, threads gain more than they lose by waiting for Python's lock."""

_Best = tuple[Tensor, Tensor, Tensor | None]


def label_map(scores: Tensor, height: int, width: int, chunk: int = 32) -> Tensor:
    """Scores (K, R, C), finite -> the best class of each of height x width pixels, int64; of equal ones the first wins.

    The values that are compared are those of `F.interpolate`, bilinear. No more than `chunk` classes are at full size at
    a time, and on the CPU few ever are.
    """
    everything = len(scores) * height * width
    if scores.device.type != "cpu" or everything < _FEW_VALUES or torch.get_float32_matmul_precision() != "highest":
        return _interpolated_best(scores, height, width, chunk).view(height, width)
    labels = torch.zeros(height, width, dtype=torch.long)
    contested = torch.zeros(height, width, dtype=torch.bool)
    close = torch.zeros(len(scores), dtype=torch.bool)
    with one_thread() as threads:  # a tile's work is too small to be shared
        tiles = list(_tiles(scores, height, width))
        found = _best_of_tiles(scores, tiles, threads)
        for tile, (winners, open_pixels, open_classes) in zip(tiles, found, strict=True):
            labels[tile.rows, tile.columns] = winners
            if open_classes is not None:
                contested[tile.rows, tile.columns] = open_pixels
                close[open_classes] = True
    if contested.any():
        classes, pixels = close.nonzero().squeeze(1), contested.flatten().nonzero().squeeze(1)
        labels.view(-1)[pixels] = classes[_interpolated_best(scores[classes], height, width, min(chunk, 8), pixels)]
    return labels


def _best_of_tiles(scores: Tensor, tiles: Sequence["_Tile"], threads: int) -> Iterator[_Best]:
    """`_tile_best` of each tile, in order; where tiles have many candidates, several tiles at a time."""
    work = partial(_tile_best, scores)
    if threads == 1 or sum(len(tile.candidates) for tile in tiles) < _MANY_CANDIDATES * len(tiles):
        return map(work, tiles)
    return side_by_side(work, tiles, threads)


def _interpolated_best(scores: Tensor, height: int, width: int, chunk: int, pixels: Tensor | None = None) -> Tensor:
    """The best class of all pixels, or of those at the flat positions `pixels`: (P,), by interpolating every class."""
    best, labels = None, None
    for start in range(0, len(scores), chunk):
        part = scores[start : start + chunk]
        if len(part) == 3:  # torch has a kernel of its own for three channels, with another rounding
            part = torch.cat([part, part[-1:]])
        values = F.interpolate(part[None], size=(height, width), mode="bilinear", align_corners=False)[0].flatten(1)
        values, indices = (values if pixels is None else values[:, pixels]).max(0)
        if best is None or labels is None:
            best, labels = values, indices
            continue
        better = values > best
        best = torch.where(better, values, best)
        labels = torch.where(better, indices + start, labels)
    assert labels is not None
    return labels


class _Tile(NamedTuple):
    """Pixels, the cells that they lie between, the classes that can win there, in order, and the values' uncertainty."""

    rows: slice
    columns: slice
    cells: tuple[slice, slice]
    weights: tuple[Tensor, Tensor]
    candidates: Tensor
    slack: float
    bound: float


def _weights(cells: int, pixels: int, dtype: torch.dtype) -> Tensor:
    """The weight of each cell in each pixel along one axis (pixels, cells), as `F.interpolate` has it."""
    impulses = torch.eye(cells, dtype=dtype)[None, None]
    weights = F.interpolate(impulses, size=(pixels, cells), mode="bilinear", align_corners=False)[0, 0]
    return weights.to(torch.promote_types(dtype, torch.float32))


def _pooled(values: Tensor, axis: int, step: int, largest: bool) -> Tensor:
    """The extreme over each `step` + 1 cells from every `step`-th on, along one axis of (K, R, C)."""
    full = values.shape[axis] // step * step
    parts = [values.narrow(axis, 0, full).unflatten(axis, (-1, step))] if full else []
    rest = values.narrow(axis, full, values.shape[axis] - full).unsqueeze(axis)
    parts += [rest] if rest.shape[axis + 1] else []
    pooled = torch.cat([part.amax(axis + 1) if largest else part.amin(axis + 1) for part in parts], axis)
    following = values[(slice(None),) * axis + (slice(step, None, step),)]
    inner = pooled.narrow(axis, 0, following.shape[axis])
    torch.maximum(inner, following, out=inner) if largest else torch.minimum(inner, following, out=inner)
    return pooled


def _tiles(scores: Tensor, height: int, width: int) -> Iterator[_Tile]:
    """Tiles that cover all pixels, each with its candidates."""
    _, rows, columns = scores.shape
    step = max(1, round((_TILE_PIXELS * rows * columns / (height * width)) ** 0.5))
    largest = _pooled(_pooled(scores, 1, step, True), 2, step, True)
    least = _pooled(_pooled(scores, 1, step, False), 2, step, False)
    bounds = least.amax(0)
    slack = _ROUNDING * torch.finfo(scores.dtype).eps * torch.maximum(largest.amax(0).abs(), least.amin(0).abs())
    possible = (largest >= bounds - slack).flatten(1).T.contiguous()
    candidates = possible.nonzero()[:, 1].split(possible.sum(1).tolist())
    vertical, horizontal = (_weights(*sizes, scores.dtype) for sizes in ((rows, height), (columns, width)))
    starts = [_starts(weights, step) for weights in (vertical, horizontal)]
    across = len(starts[1]) - 1
    for i in range(len(starts[0]) - 1):
        for j in range(across):
            y, x = slice(*starts[0][i : i + 2]), slice(*starts[1][j : j + 2])
            if y.start == y.stop or x.start == x.stop:
                continue
            cells = tuple(slice(step * n, step * (n + 1) + 1) for n in (i, j))
            weights = vertical[y, cells[0]], horizontal[x, cells[1]]
            here = candidates[i * across + j]
            yield _Tile(y, x, (cells[0], cells[1]), weights, here, float(slack[i, j]), float(bounds[i, j]))


def _starts(weights: Tensor, step: int) -> list[int]:
    """The first pixel of each tile along one axis, and the number of pixels."""
    first_cell = (weights != 0).int().argmax(1)
    edges = torch.arange(0, weights.shape[1], step)
    return [*torch.searchsorted(first_cell, edges).tolist(), len(weights)]


def _tile_best(scores: Tensor, tile: _Tile) -> _Best:
    """The best class of each of the tile's pixels (h, w), which of them (h, w) are contested, and between which classes.

    The last is None where none is contested.
    """
    size = tile.weights[0].shape[0], tile.weights[1].shape[0]
    classes = tile.candidates
    if len(classes) == 1:
        return classes.expand(size), torch.zeros(size, dtype=torch.bool), None
    values = _interpolate(scores, tile)
    groups = values.unflatten(0, (-1, min(_GROUP, len(values))))
    tops = groups.amax(1)
    best, group = tops.max(0)
    members = groups.gather(0, group.expand(1, groups.shape[1], -1))[0]
    labels = classes[group * groups.shape[1] + members.max(0).indices].view(size)
    floor = best - tile.slack
    contested = (tops >= floor).sum(0) + (members >= floor).sum(0) > 2
    if not contested.any():
        return labels, contested.view(size), None
    near = (values[: len(classes), contested] >= floor[contested]).any(1)
    return labels, contested.view(size), classes[near]


def _interpolate(scores: Tensor, tile: _Tile) -> Tensor:
    """Values of the candidates in the tile's pixels (m, h * w), filled up to whole groups with values that never win."""
    count = len(tile.candidates)
    size = count if count <= _GROUP else -(-count // _GROUP) * _GROUP
    vertical, horizontal = tile.weights
    cells = scores[:, tile.cells[0], tile.cells[1]].index_select(0, tile.candidates).to(vertical.dtype)
    if size > count:
        never = min(0.0, 2 * tile.bound) - 1 - tile.slack
        cells = torch.cat([cells, cells.new_full((size - count, *cells.shape[1:]), never)])
    return (vertical @ (cells.flatten(0, 1) @ horizontal.T).view(size, cells.shape[1], -1)).flatten(1)
