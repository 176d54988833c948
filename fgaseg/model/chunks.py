"""Classes in chunks: what a stage holds in memory is bounded by a parameter, not by the number of classes."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

OfChunk = Callable[..., Tensor]
"""Takes an image's number in the batch and, for each map, a part of that image's: (n, ...) each -> (n, ...)."""


@dataclass(frozen=True)
class Chunks:
    """How many classes of one image a stage takes at a time, and whether training recomputes what a stage holds.

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
            images = list(zip(*(t.unbind(0) for t in maps), strict=True))
            parts = [zip(*(t.split(size, dim) for t in image), strict=True) for image in images]
            return torch.stack(
                [torch.cat([self.run(function, b, *part) for part in each], dim) for b, each in enumerate(parts)]
            )
        batch, length = maps[0].shape[0], maps[0].shape[1 + dim]
        out = maps[0] if overwrite else None
        for b in range(batch):
            for start in range(0, length, size):
                taken = min(size, length - start)
                result = function(b, *(t[b].narrow(dim, start, taken) for t in maps))
                if out is None:
                    shape = list(result.shape)
                    shape[dim] = length
                    out = result.new_empty(batch, *shape)
                out[b].narrow(dim, start, taken).copy_(result)
        assert out is not None
        return out
