"""Linear maps and activations that spare temporary tensors: on a CPU these cost more than the arithmetic around them."""

from collections.abc import Callable, Sequence
from typing import NamedTuple, cast

import open_clip.transformer
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from fgaseg.model.packed import Activation, packed, packed_linear


class Affine(NamedTuple):
    """`activation(x @ weight.T + bias)` of tokens, made ready once for many calls in the same modes of torch.

    `weight` is (E, D). What is prepared of it, `laid_out`, is there where that is faster.
    """

    weight: Tensor
    bias: Tensor | None
    activation: nn.Module | None
    laid_out: Tensor | None

    def __call__(self, x: Tensor) -> Tensor:
        """(..., D) -> (..., E) in the way that is fastest for x.

        Weights laid out beforehand take bias and activation on their way, a GPU's product and one thread's the bias. For
        several CPU threads PyTorch has one of them write the bias to every row of the result first, which costs up to a
        third of the time: there it is added afterwards.
        """
        if self.laid_out is not None and x.dtype == torch.float32 and x.numel() > 0 and not torch.compiler.is_compiling():
            fused = _FUSED.get(type(self.activation), "none")
            result = packed_linear(x, self.laid_out, self.bias, fused)
            if fused != "none":
                return result
        elif self.bias is None or x.is_cuda or torch.get_num_threads() == 1:
            result = F.linear(x, self.weight, self.bias)
        else:
            result = F.linear(x, self.weight).add_(self.bias)
        return result if self.activation is None else cast(Tensor, self.activation(result))


def affine(layer: nn.Linear, activation: nn.Module | None = None) -> Affine:
    """A layer and what comes after it."""
    return Affine(layer.weight, layer.bias, activation, packed(layer, "weight", [layer.weight], lambda: layer.weight))


def assembled(
    owner: nn.Module, name: str, weights: Sequence[Tensor], make: Callable[[], Tensor], bias: Tensor | None = None
) -> Affine:
    """The linear map whose weight `make` puts together from `weights` alone, the same way whenever it has this name."""
    return Affine(make(), bias, None, packed(owner, name, weights, make))


def linear(layer: nn.Linear, x: Tensor, activation: nn.Module | None = None) -> Tensor:
    """`activation(layer(x))`, once."""
    return affine(layer, activation)(x)


def residual(x: Tensor, change: Tensor) -> Tensor:
    """`x + change`; takes the place of the change where that has the precision of x."""
    return change.add_(x) if change.dtype == x.dtype else x + change


def positive(x: Tensor) -> Tensor:
    """The feature map of linear attention, elu + 1; it may overwrite its input where no gradient is wanted.

    On a CPU the exponential of negative values beside the positive ones takes a tenth of the time of PyTorch's elu.
    """
    if torch.is_grad_enabled():
        return F.elu(x).add_(1)
    negative = x.clamp(max=0).exp_()
    return x.relu_().add_(negative)


class GELU(nn.GELU):
    """The exact GELU; it overwrites its input where no gradient is wanted."""

    def forward(self, input: Tensor) -> Tensor:
        return F.gelu(input) if torch.is_grad_enabled() else torch.ops.aten.gelu_(input)


class QuickGELU(nn.Module):
    """CLIP's approximation of it, `x * sigmoid(1.702 x)`; it may overwrite its input where no gradient is wanted."""

    def forward(self, input: Tensor) -> Tensor:
        if torch.is_grad_enabled() or input.dtype.itemsize < 4:  # scaled, 16 bits would overflow or be rounded once more
            return input * torch.sigmoid(1.702 * input)
        return F.silu(input.mul_(1.702), inplace=True).mul_(1 / 1.702)


_FUSED: dict[type | None, Activation] = {GELU: "gelu", nn.ReLU: "relu"}
"""Activations that a packed linear map applies on its way."""


class FeedForward(nn.Module):
    """Two linear maps with an activation between them."""

    def __init__(self, dim: int, hidden: int, activation: nn.Module) -> None:
        super().__init__()
        self.fc1, self.fc2, self.activation = nn.Linear(dim, hidden), nn.Linear(hidden, dim), activation

    def ready(self) -> tuple[Affine, Affine]:
        """Both maps, for many calls of `forward`."""
        return affine(self.fc1, self.activation), affine(self.fc2)

    def forward(self, x: Tensor, ready: tuple[Affine, Affine]) -> Tensor:
        """(..., D) -> (..., D); of one with a GELU training keeps x alone and computes what is between once more."""
        first, second = ready
        if torch.is_grad_enabled() and isinstance(self.activation, GELU):
            result: Tensor = checkpoint(lambda x: second(first(x)), x, use_reentrant=False, preserve_rng_state=False)
            return result
        return second(first(x))


def lean(activation: nn.Module) -> nn.Module:
    """The counterpart of one of open_clip's activations."""
    if isinstance(activation, open_clip.transformer.QuickGELU):
        return QuickGELU()
    if isinstance(activation, nn.GELU) and activation.approximate == "none":
        return GELU()
    return activation
