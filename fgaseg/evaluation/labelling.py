"""From low-resolution scores to the best class of every pixel, at a cost that hardly grows with the number of classes.

Letters: K classes, R x C cells of scores, H x W pixels. An interpolated value lies between the least and the largest of
its four cells. So over a tile of cells only those classes can win whose largest cell reaches the least cell of some other
class: the candidates, one to three of hundreds where a model is sure. Only they are interpolated, as two small matrix
products. These round otherwise than `F.interpolate`, whose values are the definition: where candidates are so close that
the rounding might decide, `F.interpolate` decides.
"""

from collections.abc import Iterable, Sequence
from functools import partial
from itertools import chain, pairwise
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

_GROUPS = 32
"""Of candidates: first the best of each group, in whole vectors; then the best within the best group."""

_MANY_CANDIDATES = 100
"""Of a tile on average: from there on, threads gain more than they lose by waiting for Python's lock."""

_Best = tuple[Tensor, Tensor, Tensor | None]


def label_map(scores: Tensor, height: int, width: int, chunk: int = 32) -> Tensor:
    """Scores (K, R, C), finite -> the best class of each of height x width pixels, int64; of equal ones the first wins.

    The values that are compared are those of `F.interpolate`, bilinear, for contiguous scores of any number of classes but
    three, for which it rounds otherwise. No more than `chunk` classes are at full size at a time; on the CPU few ever are.
    """
    scores = scores.contiguous()
    everything = len(scores) * height * width
    if scores.device.type != "cpu" or everything < _FEW_VALUES or torch.get_float32_matmul_precision() != "highest":
        return _interpolated_best(scores, height, width, chunk).view(height, width)
    labels = torch.zeros(height, width, dtype=torch.long)
    contested = torch.zeros(height, width, dtype=torch.bool)
    close = torch.zeros(len(scores), dtype=torch.bool)
    # a tile's work is too small to be shared; products in half precision are less exact than `_ROUNDING` says
    with one_thread() as threads, torch.autocast("cpu", enabled=False):
        rows = _tiles(scores, height, width, threads)
        for tile, (winners, open_pixels, open_classes) in zip(chain(*rows), _best(scores, rows, threads), strict=True):
            at = tile.down.pixels, tile.across.pixels
            labels[at] = winners
            if open_classes is not None:
                contested[at] = open_pixels
                close[open_classes] = True
    if contested.any():
        classes, pixels = close.nonzero().squeeze(1), contested.flatten().nonzero().squeeze(1)
        labels.view(-1)[pixels] = classes[_interpolated_best(scores[classes], height, width, min(chunk, 8), pixels)]
    return labels


def _best(scores: Tensor, rows: Sequence[Sequence["_Tile"]], threads: int) -> Iterable[_Best]:
    """`_tile_best` of each tile, in order; where tiles have many candidates, several rows at a time."""
    work, counts = partial(_row_best, scores), [len(tile.candidates) for tile in chain(*rows)]
    alone = sum(counts) < _MANY_CANDIDATES * len(counts)
    return chain.from_iterable(map(work, rows) if alone else side_by_side(work, rows, threads))


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


class _Span(NamedTuple):
    """Pixels along one axis, the cells that they lie between, and the weight of each cell in each pixel."""

    pixels: slice
    cells: slice
    weights: Tensor


class _Tile(NamedTuple):
    """Its two axes, the classes that can win there, in order, how uncertain a value is, and what the best one reaches."""

    down: _Span
    across: _Span
    candidates: Tensor
    slack: float
    bound: float


def _spans(cells: int, pixels: int, step: int, dtype: torch.dtype) -> list[_Span]:
    """The pixels from every `step`-th cell on, with the weights of `F.interpolate`; some may have none."""
    impulses = torch.eye(cells, dtype=dtype)[None, None]
    weights = F.interpolate(impulses, size=(pixels, cells), mode="bilinear", align_corners=False)[0, 0]
    weights = weights.to(torch.promote_types(dtype, torch.float32))
    first_cell = (weights != 0).int().argmax(1)
    starts = torch.searchsorted(first_cell, torch.arange(0, cells, step)).tolist()
    spans = []
    for n, (start, stop) in enumerate(pairwise([*starts, pixels])):
        between = slice(step * n, step * (n + 1) + 1)
        spans.append(_Span(slice(start, stop), between, weights[start:stop, between]))
    return spans


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


def _extremes(step: int, scores: Tensor) -> tuple[Tensor, Tensor]:
    """The largest and the least cell of each class in each tile (K, tiles down, tiles across)."""
    largest, least = (_pooled(_pooled(scores, 1, step, side), 2, step, side) for side in (True, False))
    return largest, least


def _tiles(scores: Tensor, height: int, width: int, threads: int) -> list[list[_Tile]]:
    """Rows of tiles that cover all pixels, each with its candidates."""
    _, rows, columns = scores.shape
    step = max(1, round((_TILE_PIXELS * rows * columns / (height * width)) ** 0.5))
    extremes = side_by_side(partial(_extremes, step), scores.chunk(threads), threads)
    largest, least = (torch.cat(parts) for parts in zip(*extremes, strict=True))
    bounds = least.amax(0)
    limits = torch.finfo(scores.dtype)
    magnitude = torch.maximum(largest.amax(0).abs(), least.amin(0).abs()).clamp(min=limits.smallest_normal)
    slack = _ROUNDING * limits.eps * magnitude
    possible = (largest >= bounds - slack).flatten(1).T.contiguous()
    candidates = possible.nonzero()[:, 1].split(possible.sum(1).tolist())
    down, across = _spans(rows, height, step, scores.dtype), _spans(columns, width, step, scores.dtype)

    def tile(i: int, j: int) -> _Tile:
        here = candidates[i * len(across) + j]
        return _Tile(down[i], across[j], here, float(slack[i, j]), float(bounds[i, j]))

    return [[tile(i, j) for j in range(len(across))] for i in range(len(down))]


def _row_best(scores: Tensor, row: Sequence[_Tile]) -> list[_Best]:
    """`_tile_best` of each of the tiles in a row."""
    cells = scores[:, row[0].down.cells]
    if 4 * sum(len(tile.candidates) for tile in row) > len(row) * len(scores):
        cells = cells.contiguous()  # as they lie, whole pages apart, all classes may fall into the same few sets of a cache
    return [_tile_best(cells, tile) for tile in row]


def _tile_best(scores: Tensor, tile: _Tile) -> _Best:
    """The best class of each of the tile's pixels (h, w), which of them (h, w) are contested, and between which classes.

    The last is None where none is contested. The scores are those of the row of tiles: (K, r, C).
    """
    size = len(tile.down.weights), len(tile.across.weights)
    classes = tile.candidates
    if len(classes) == 1:
        return classes.expand(size), torch.zeros(size, dtype=torch.bool), None
    values = _interpolate(scores[:, :, tile.across.cells], tile)
    groups = values.unflatten(1, (-1, min(_GROUPS, values.shape[1])))
    tops = groups.amax(1)
    best, group = tops.max(1, keepdim=True)
    members = groups.gather(2, group[:, None].expand(-1, groups.shape[1], -1)).squeeze(2)
    member = members.argmax(1, keepdim=True)
    labels = classes[member * groups.shape[2] + group].view(size)
    seconds = tops.scatter(1, group, -torch.inf).amax(1), members.scatter(1, member, -torch.inf).amax(1)
    floor = best.squeeze(1) - tile.slack
    contested = torch.maximum(*seconds) >= floor
    if not contested.any():
        return labels, contested.view(size), None
    near = (values[contested] >= floor[contested, None]).any(0)[: len(classes)]
    return labels, contested.view(size), classes[near]


def _interpolate(cells: Tensor, tile: _Tile) -> Tensor:
    """Cells (K, r, c) -> the candidates' values (h * w, m), filled up to whole groups with values that never win."""
    count, down, across = len(tile.candidates), tile.down.weights, tile.across.weights
    if count < len(cells):
        cells = cells.index_select(0, tile.candidates)
    cells = cells.permute(1, 2, 0).to(down.dtype)
    if count > _GROUPS and count % _GROUPS:
        cells = F.pad(cells, (0, _GROUPS - count % _GROUPS), value=tile.bound - 3 * tile.slack)
    return (down @ (across @ cells).flatten(1)).view(-1, cells.shape[2])
