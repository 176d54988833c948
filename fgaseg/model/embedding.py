"""Channels from similarity maps (paper, III-C3): a convolution of each class's map, and the linear maps after it as one."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class MapConvolution(NamedTuple):
    """A convolution of each class's similarity maps: `kernel` (D, kinds of maps, k, k) and `bias` (D)."""

    kernel: Tensor
    bias: Tensor

    def __call__(self, *maps: Tensor) -> Tensor:
        """Maps (b, n, h, w), one tensor of each kind -> (b, n, h, w, D)."""
        stacked = maps[0].flatten(0, 1)[:, None] if len(maps) == 1 else torch.stack([each.flatten(0, 1) for each in maps], 1)
        embedded = F.conv2d(stacked, self.kernel, self.bias, padding=self.kernel.shape[-1] // 2)
        return embedded.permute(0, 2, 3, 1).unflatten(0, maps[0].shape[:2])

    def then(self, weight: Tensor, bias: Tensor | None = None) -> "MapConvolution":
        """With a linear map after it: weight (E, D), bias (E)."""
        moved = weight @ self.bias
        kernel = (weight @ self.kernel.flatten(1)).unflatten(1, self.kernel.shape[1:])
        return MapConvolution(_channels_last(kernel), moved if bias is None else moved + bias)

    def plus(self, other: "MapConvolution") -> "MapConvolution":
        """The sum of this one's result and that of another one, of maps of another kind."""
        return MapConvolution(_channels_last(torch.cat([self.kernel, other.kernel], 1)), self.bias + other.bias)


class MapEmbedding(nn.Module):
    """Embeds the similarity map of each class into D channels with a convolution of its own kind."""

    def __init__(self, dim: int, kernel_size: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, dim, kernel_size, padding=kernel_size // 2)

    def convolution(self) -> MapConvolution:
        """What it does to maps (b, n, h, w)."""
        assert self.conv.bias is not None
        return MapConvolution(_channels_last(self.conv.weight), self.conv.bias)


def _channels_last(kernel: Tensor) -> Tensor:
    """With its channels last in memory; then those of the result are, too."""
    return kernel.contiguous(memory_format=torch.channels_last)
