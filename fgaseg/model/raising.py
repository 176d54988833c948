"""Maps at twice the resolution: a transposed convolution, guidance beside it and a convolution, as one step.

The two convolutions have nothing between them, so they are one transposed convolution with a larger kernel. What the guidance
and the first one's bias add is the same for all classes of an image.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fgaseg.model.embedding import MapConvolution


class Raised(NamedTuple):
    """The step: `kernel` (D, D', 4, 4) and what does not depend on the class, `constant` (B, D', 2H, 2W)."""

    kernel: Tensor
    constant: Tensor

    def __call__(self, images: slice, x: Tensor) -> Tensor:
        """Maps (b, n, H, W, D) of these images -> (b n, D', 2H, 2W)."""
        raised = _transposed(x.flatten(0, 1).permute(0, 3, 1, 2), self.kernel)
        constant = self.constant[images]
        if len(constant) == 1:
            return raised.add_(constant)
        return (raised.unflatten(0, x.shape[:2]) + constant[:, None]).flatten(0, 1)


def raise_resolution(up: nn.ConvTranspose2d, conv: nn.Conv2d, guidance: Tensor) -> Raised:
    """Prepare `conv(cat([up(x), guidance]))` for guidance (B, G, 2H, 2W); G may be 0."""
    assert up.bias is not None
    inner = up.out_channels
    kernel = F.conv2d(up.weight, conv.weight[:, :inner], padding=2).contiguous(memory_format=torch.channels_last)
    bias = up.bias[None, :, None, None].expand(len(guidance), -1, *guidance.shape[2:]).to(guidance.dtype)
    constant = F.conv2d(torch.cat([bias, guidance], 1), conv.weight, padding=1)
    return Raised(kernel, constant.contiguous(memory_format=torch.channels_last))


class RaisedMaps(NamedTuple):
    """The same of embedded similarity maps, from the maps: `kernel` (k k, D', 4, 4), `constant` (1, D', 2H, 2W).

    An embedded pixel is a linear map of its k x k neighbourhood, which has fewer values than the embedding has channels.
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
    height, width = grid
    plain = raise_resolution(up, conv, conv.weight.new_zeros(1, 0, 2 * height, 2 * width))
    kernel = torch.einsum("dxy,doij->xyoij", embedding.kernel[:, 0], plain.kernel).flatten(0, 1)
    bias = embedding.bias[None, :, None, None].expand(1, -1, height, width)
    constant = plain.constant + _transposed(bias, plain.kernel)
    return RaisedMaps(kernel.contiguous(memory_format=torch.channels_last), constant)


def _transposed(x: Tensor, kernel: Tensor) -> Tensor:
    """(N, D, H, W) -> (N, D', 2H, 2W)."""
    return F.conv_transpose2d(x, kernel, stride=2, padding=1)
