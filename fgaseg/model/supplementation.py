"""Category supplementation: global and local similarity maps and their fusion (paper, III-C1 and III-C2)."""

from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fgaseg.model.embedding import MapConvolution
from fgaseg.model.lean import Affine, assembled
from fgaseg.model.t2p import convolve_per_image

Fusion = Literal["cat", "add"]
Normalisation = Literal["channels", "taps", "none"]


def global_similarity(image: Tensor, text: Tensor) -> Tensor:
    """GCS, equation 9: cosine of `F_v` (B, C, h, w) and `T^` (B, K, P, C) -> (B, P, K, h, w)."""
    return torch.einsum("bchw,bkpc->bpkhw", F.normalize(image, dim=1), F.normalize(text, dim=-1))


class LocalSimilarity(nn.Module):
    """LCS, equation 10: each class's text feature becomes a convolution kernel over the image features.

    The kernel is normalised by a softmax over the channels at each tap (paper), over the taps of each channel (released
    code), or not at all.
    """

    def __init__(self, channels: int, kernel_size: int, normalisation: Normalisation) -> None:
        super().__init__()
        self.kernel_size = kernel_size
        self.normalisation = normalisation
        self.kernel = nn.Linear(channels, channels * kernel_size**2 + 1)

    def forward(self, image: Tensor, text: Tensor) -> Tensor:
        """`F_v` (B, C, h, w) and `T^` (B, K, C) -> (B, K, h, w)."""
        parameters = self.kernel(F.normalize(text, dim=-1))
        kernels = parameters[..., :-1].unflatten(2, (image.shape[1], -1))
        if self.normalisation != "none":
            kernels = kernels.softmax(2 if self.normalisation == "channels" else 3)
        kernels = kernels.unflatten(3, (self.kernel_size, self.kernel_size))
        return convolve_per_image(F.normalize(image, dim=1), kernels, parameters[..., -1])


class Fused(NamedTuple):
    """The linear maps of a fusion, made ready for many calls: of both places, the second with the bias; None where it adds."""

    places: tuple[Affine, Affine] | None

    def first(self, a: Tensor) -> Tensor:
        """What maps (..., D) in the first place add to the result."""
        return a if self.places is None else self.places[0](a)

    def __call__(self, a: Tensor, b: Tensor) -> Tensor:
        """Two maps (..., D) -> (..., D)."""
        return a + b if self.places is None else self.places[1](b).add_(self.places[0](a))


class Fuse(nn.Module):
    """Fuse two maps (..., D) of one shape: `cat` and a linear map back to D channels, or `add`.

    The linear map of a concatenation is the sum of two linear maps: nothing is concatenated.
    """

    def __init__(self, dim: int, fusion: Fusion) -> None:
        super().__init__()
        self.dim = dim
        self.linear = nn.Conv2d(2 * dim, dim, 1) if fusion == "cat" else None

    def ready(self) -> Fused:
        """For many calls."""
        if self.linear is None:
            return Fused(None)
        weight = self.linear.weight
        first = assembled(self, "first", [weight], lambda: self._half(weight, 0))
        return Fused((first, assembled(self, "second", [weight], lambda: self._half(weight, 1), self.linear.bias)))

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return self.ready()(a, b)

    def second(self, b: MapConvolution) -> MapConvolution:
        """What embedded maps in the second place add to the result, the bias included."""
        return b if self.linear is None else b.then(self._half(self.linear.weight, 1), self.linear.bias)

    def embedded(self, a: MapConvolution, b: MapConvolution) -> MapConvolution:
        """Two kinds of maps, embedded and fused."""
        return (a if self.linear is None else a.then(self._half(self.linear.weight, 0))).plus(self.second(b))

    def _half(self, weight: Tensor, place: int) -> Tensor:
        """(D, D), of the maps in one place."""
        return weight[:, place * self.dim : (place + 1) * self.dim, 0, 0]
