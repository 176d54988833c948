"""Classes in chunks: what a stage holds in memory is bounded by a parameter, not by the number of classes."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

OfChunk = Callable[..., Tensor]
"""Takes an image's number in the batch and, for each map, a chunk of that image's classes (n, ...) -> (n, ...)."""


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

    def by_class(self, function: OfChunk, *maps: Tensor) -> Tensor:
        """Apply `function` to chunks of the classes of each image: maps (B, K, ...) -> (B, K, ...)."""
        batch, count = maps[0].shape[:2]
        if torch.is_grad_enabled():
            images = zip(*(t.unbind(0) for t in maps), strict=True)
            chunks = ((b, zip(*(t.split(self.classes) for t in image), strict=True)) for b, image in enumerate(images))
            results = [self.run(function, b, *chunk) for b, each in chunks for chunk in each]
            return torch.cat(results).unflatten(0, (batch, count))
        out: Tensor | None = None
        for b in range(batch):
            for start in range(0, count, self.classes):
                chosen = slice(start, start + self.classes)
                result = function(b, *(t[b, chosen] for t in maps))
                if out is None:
                    out = result.new_empty(batch, count, *result.shape[1:])
                out[b, chosen] = result
        assert out is not None
        return out

    def by_position(self, function: Callable[[Tensor], Tensor], tokens: Tensor) -> Tensor:
        """Apply `function` to some positions of all classes: (K, T, D) -> (K, T, D), as many tokens as `by_class` takes."""
        classes, positions, _ = tokens.shape
        size = max(1, self.classes * positions // classes)
        return torch.cat([self.run(function, part) for part in tokens.split(size, 1)], 1)
