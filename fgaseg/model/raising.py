"""A transposed convolution and a 3 x 3 convolution as one step.

They have nothing between them, so they are one transposed convolution with a larger kernel. What guidance beside the first
one's result and its bias add is the same for all classes of an image.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fgaseg.model.embedding import MapConvolution
from fgaseg.model.kept import kept


def raise_image(up: nn.ConvTranspose2d, conv: nn.Conv2d, x: Tensor) -> Tensor:
    """`conv(up(x))`: (B, D, H, W) -> (B, D', fH, fW), f the kernel's size and stride of `up`."""
    raised = _transposed(x, _kernel(up, conv))
    return raised + _of_bias(up, conv, *raised.shape[2:])


class Raised(NamedTuple):
    """`conv(cat([up(x), guidance]))` of class maps x, f = 2: `kernel` (D, D', 4, 4), `constant` (B, D', 2H, 2W)."""

    kernel: Tensor
    constant: Tensor

    def __call__(self, images: slice, x: Tensor) -> Tensor:
        """Maps (b, n, H, W, D) of these images -> (b n, D', 2H, 2W)."""
        raised = _transposed(x.flatten(0, 1).permute(0, 3, 1, 2), self.kernel)
        constant = self.constant[images]
        if len(constant) == 1:
            return raised.add_(constant)
        return (raised.unflatten(0, x.shape[:2]) + constant[:, None]).flatten(0, 1)


def raise_beside(guidance: Tensor, up: nn.ConvTranspose2d, conv: nn.Conv2d) -> Raised:
    """Prepare `conv(cat([up(x), guidance]))` for guidance (B, G, 2H, 2W)."""
    constant = F.conv2d(guidance, conv.weight[:, up.out_channels :], padding=1) + _of_bias(up, conv, *guidance.shape[2:])
    return Raised(_kernel(up, conv), constant.contiguous(memory_format=torch.channels_last))


class RaisedMaps(NamedTuple):
    """`conv(up(embedding(maps)))` of similarity maps, f = 2: `kernel` (k k, D', 4, 4), `constant` (1, D', 2H, 2W).

    An embedded pixel is a linear map of its k x k neighbourhood. That has 49 values by default, the embedding 128 channels.
    """

    kernel: Tensor
    constant: Tensor

    def __call__(self, maps: Tensor) -> Tensor:
        """Similarity maps (b, n, H, W) -> (b n, D', 2H, 2W)."""
        size = round(len(self.kernel) ** 0.5)
        neighbourhoods = F.unfold(maps.flatten(0, 1)[:, None], size, padding=size // 2)
        return _transposed(neighbourhoods.unflatten(2, maps.shape[2:]), self.kernel).add_(self.constant)


def raise_maps(embedding: MapConvolution, up: nn.ConvTranspose2d, conv: nn.Conv2d, grid: torch.Size) -> RaisedMaps:
    """Prepare `conv(up(embedding(maps)))` for similarity maps of one kind on the grid (H, W)."""

    def make() -> RaisedMaps:
        plain = _kernel(up, conv)
        kernel = torch.einsum("dxy,doij->xyoij", embedding.kernel[:, 0], plain).flatten(0, 1)
        bias = _transposed(embedding.bias[None, :, None, None].expand(1, -1, *grid), plain)
        constant = bias + _of_bias(up, conv, *bias.shape[2:])
        return RaisedMaps(kernel.contiguous(memory_format=torch.channels_last), constant)

    return kept(up, ("maps", grid), [*embedding, *_weights(up, conv)], make)


def _weights(up: nn.ConvTranspose2d, conv: nn.Conv2d) -> list[Tensor]:
    return [weight for layer in (up, conv) for weight in (layer.weight, layer.bias) if weight is not None]


def _kernel(up: nn.ConvTranspose2d, conv: nn.Conv2d) -> Tensor:
    """Of both as one: (D, D', f + 2, f + 2), for the channels of `conv` that come from `up`."""

    def make() -> Tensor:
        kernel = F.conv2d(up.weight, conv.weight[:, : up.out_channels], padding=2)
        return kernel.contiguous(memory_format=torch.channels_last)

    return kept(up, "kernel", [up.weight, conv.weight], make)


def _transposed(x: Tensor, kernel: Tensor) -> Tensor:
    """(N, D, H, W) -> (N, D', fH, fW)."""
    return F.conv_transpose2d(x, kernel, stride=kernel.shape[-1] - 2, padding=1)


def _of_bias(up: nn.ConvTranspose2d, conv: nn.Conv2d, height: int, width: int) -> Tensor:
    """What `conv` makes of the bias of `up`, with its own: (1, D', height, width), the same inside, other at the borders."""

    def make() -> Tensor:
        assert up.bias is not None
        bias = up.bias[None, :, None, None].expand(1, -1, 3, 3)
        small = F.conv2d(bias, conv.weight[:, : up.out_channels], conv.bias, padding=1)
        for dim, length in ((2, height), (3, width)):
            first, inner, last = small.split(1, dim)
            small = torch.cat([first, inner.repeat_interleave(length - 2, dim), last], dim)
        return small

    return kept(up, ("bias", height, width), _weights(up, conv), make)
