"""Classes in chunks: what a stage holds in memory is bounded by a parameter, not by the number of classes."""

import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from itertools import pairwise
from threading import Lock
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from fgaseg.model.threads import all_threads, available, one_thread, side_by_side

OfChunk = Callable[..., Tensor]
"""Takes which images of the batch, a slice, and for each map a part of theirs: (b, n, ...) each -> (b, n, ...)."""

_ENOUGH_VALUES = 2**16
"""Of maps: below it, threads wait for Python's lock more than they work."""

_CACHED_VALUES = 2**18
"""Of the maps in a part: what a stage makes of them is several times as large."""


@dataclass(frozen=True)
class Chunks:
    """How many classes a stage takes at a time, and whether training recomputes what a stage holds.

    They are classes of each image of the batch in training. In inference they are classes of all images that go together,
    on all threads (at least one each). Neither setting changes a result beyond the order of float sums. With `recompute`
    the backward pass runs each chunk once more instead of keeping its intermediate values (activation checkpointing).
    """

    classes: int = 4
    recompute: bool = False

    def run(self, function: Callable[..., Tensor], *arguments: object) -> Tensor:
        """`function(*arguments)`, whose intermediate values are kept for the backward pass or not."""
        if self.recompute and torch.is_grad_enabled():
            result: Tensor = checkpoint(function, *arguments, use_reentrant=False, preserve_rng_state=False)
            return result
        return function(*arguments)

    def stages(self, maps: Tensor) -> AbstractContextManager[object]:
        """To surround stages that follow each other: in inference on a CPU, no other operation shares the threads."""
        if torch.is_grad_enabled() or maps.device.type != "cpu":
            return nullcontext()
        return one_thread()

    def by_class(self, function: OfChunk, *maps: Tensor, overwrite: bool = False) -> Tensor:
        """Apply `function` to chunks of the classes: maps (B, K, ...) -> (B, K, ...).

        With `overwrite` the result may take the place of the first of the maps, which then has to have its shape.
        """
        return self._in_parts(function, maps, 1, self.classes, overwrite)

    def by_position(self, function: OfChunk, tokens: Tensor, overwrite: bool = False) -> Tensor:
        """Apply `function` to some positions of all classes: (B, K, T, D) -> (B, K, T, D).

        It gets (b, K, t, D), as many tokens as `by_class` would give it; `overwrite` as there.
        """
        size = max(1, self.classes * tokens.shape[2] // tokens.shape[1])
        return self._in_parts(function, (tokens,), 2, size, overwrite)

    def _in_parts(self, function: OfChunk, maps: Sequence[Tensor], dim: int, size: int, overwrite: bool) -> Tensor:
        """Apply `function` to parts of `size` along dimension `dim`."""
        if torch.is_grad_enabled():
            done = [self.run(function, slice(None), *part) for part in zip(*(t.split(size, dim) for t in maps), strict=True)]
            return done[0] if len(done) == 1 else torch.cat(done, dim)
        batch, length = maps[0].shape[0], maps[0].shape[dim]
        images, parts, threads = _spread(maps[0], dim, size)
        out = maps[0] if overwrite else None
        allocation = Lock()

        def part(place: tuple[int, int, int]) -> None:
            nonlocal out
            first, start, taken = place
            chosen = slice(first, first + images)
            views = [t[chosen].narrow(dim, start, taken) for t in maps]
            result = function(chosen, *views)
            if overwrite:
                views[0].copy_(result)
                return
            with allocation:
                if out is None:  # the first result tells the shape of all
                    shape = list(result.shape)
                    shape[0], shape[dim] = batch, length
                    out = result.new_empty(shape)
            out[chosen].narrow(dim, start, taken).copy_(result)

        cuts = [length * number // parts for number in range(parts + 1)]
        places = [(first, start, end - start) for first in range(0, batch, images) for start, end in pairwise(cuts)]
        places.sort(key=lambda place: place[2], reverse=True)  # so that threads end at the same time
        if threads == 1:
            with all_threads():
                for place in places:
                    part(place)
        else:
            with one_thread():
                for _ in side_by_side(part, places, threads):
                    pass
        assert out is not None
        return out


class _Spread(NamedTuple):
    """How many images go together, into how many parts their maps go, and how many parts are worked on at a time."""

    images: int
    parts: int
    threads: int


def _spread(maps: Tensor, dim: int, size: int) -> _Spread:
    """Parts of at most `size` along an image's dimension `dim`.

    On the CPU several images go together where `size` allows that, and a part's maps stay in the processor's cache. Where
    there is enough to do, each thread has parts of its own, as many as the others if these are divisible.
    """
    batch, length = maps.shape[0], maps.shape[dim]
    if maps.device.type != "cpu":
        return _Spread(1, math.ceil(length / size), 1)
    cached = max(1, _CACHED_VALUES * batch * length // max(1, maps.numel()))
    threads = available()
    if maps.numel() < _ENOUGH_VALUES or batch * length < threads:
        threads = 1
    most = min(max(1, size // threads), cached)
    parts = min(_multiple(math.ceil(length / most), threads // math.gcd(batch, threads)), length)
    if parts > 1:
        return _Spread(1, parts, threads)
    groups = _multiple(math.ceil(batch / (most // length)), threads)
    return _Spread(math.ceil(batch / groups), 1, threads)


def _multiple(count: int, divisor: int) -> int:
    """The smallest multiple of `divisor` that is at least `count`."""
    return math.ceil(count / divisor) * divisor
