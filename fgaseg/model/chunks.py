"""Classes in chunks: what a stage holds in memory is bounded by a parameter, not by the number of classes."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from threading import Lock

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from fgaseg.model.threads import one_thread, side_by_side

OfChunk = Callable[..., Tensor]
"""Takes an image's number in the batch and, for each map, a part of that image's: (n, ...) each -> (n, ...)."""

_ENOUGH_VALUES = 2**16
"""Of maps: below it, threads wait for Python's lock more than they work."""

_CACHED_VALUES = 2**18
"""Of the maps in a part: what a stage makes of them is several times as large."""


@dataclass(frozen=True)
class Chunks:
    """How many classes of one image a stage takes at a time, on all threads together (at least one each), and whether
    training recomputes what a stage holds.

    Neither changes a result beyond the order of float sums. With `recompute` the backward pass runs each chunk once more
    instead of keeping its intermediate values (activation checkpointing).
    """

    classes: int = 4
    recompute: bool = False

    def run(self, function: Callable[..., Tensor], *arguments: object) -> Tensor:
        """`function(*arguments)`, whose intermediate values are kept for the backward pass or not."""
        if self.recompute and torch.is_grad_enabled():
            result: Tensor = checkpoint(function, *arguments, use_reentrant=False, preserve_rng_state=False)
            return result
        return function(*arguments)

    def by_class(self, function: OfChunk, *maps: Tensor, overwrite: bool = False) -> Tensor:
        """Apply `function` to chunks of the classes of each image: maps (B, K, ...) -> (B, K, ...).

        With `overwrite` the result may take the place of the first of the maps, which then has to have its shape.
        """
        return self._in_parts(function, maps, 0, self.classes, overwrite)

    def by_position(self, function: OfChunk, tokens: Tensor, overwrite: bool = False) -> Tensor:
        """Apply `function` to some positions of all classes of each image: (B, K, T, D) -> (B, K, T, D).

        It gets (K, t, D), as many tokens as `by_class` would give it; `overwrite` as there.
        """
        size = max(1, self.classes * tokens.shape[2] // tokens.shape[1])
        return self._in_parts(function, (tokens,), 1, size, overwrite)

    def _in_parts(self, function: OfChunk, maps: Sequence[Tensor], dim: int, size: int, overwrite: bool) -> Tensor:
        """Apply `function` to parts of `size` along an image's dimension `dim`."""
        if torch.is_grad_enabled():
            images = zip(*(t.unbind(0) for t in maps), strict=True)
            parts = [zip(*(t.split(size, dim) for t in image), strict=True) for image in images]
            done = [[self.run(function, b, *part) for part in each] for b, each in enumerate(parts)]
            return torch.stack([each[0] if len(each) == 1 else torch.cat(each, dim) for each in done])
        batch, length = maps[0].shape[0], maps[0].shape[1 + dim]
        size, threads = _spread(maps[0], dim, size)
        out = maps[0] if overwrite else None
        allocation = Lock()

        def part(place: tuple[int, int]) -> None:
            nonlocal out
            b, start = place
            taken = min(size, length - start)
            result = function(b, *(t[b].narrow(dim, start, taken) for t in maps))
            with allocation:
                if out is None:  # the first result tells the shape of all
                    shape = list(result.shape)
                    shape[dim] = length
                    out = result.new_empty(batch, *shape)
            out[b].narrow(dim, start, taken).copy_(result)

        places = [(b, start) for b in range(batch) for start in range(0, length, size)]
        if threads == 1:
            for place in places:
                part(place)
        else:
            with one_thread():
                for _ in side_by_side(part, places, threads):
                    pass
        assert out is not None
        return out


def _spread(maps: Tensor, dim: int, size: int) -> tuple[int, int]:
    """How large a part is, and how many are worked on at a time: on the CPU one a thread, where there is enough to do.

    There, a part is no larger than stays in the processor's cache, whatever `size` allows.
    """
    if maps.device.type != "cpu":
        return size, 1
    batch, length = maps.shape[0], maps.shape[1 + dim]
    cached = max(1, _CACHED_VALUES * batch * length // max(1, maps.numel()))
    threads = torch.get_num_threads()
    if maps.numel() < _ENOUGH_VALUES or batch * length < threads:
        return min(size, cached), 1
    return min(max(1, size // threads), cached, batch * length // threads), threads
