"""Linear maps and activations that spare temporary tensors: on a CPU these cost more than the arithmetic around them."""

from typing import cast

import open_clip.transformer
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from fgaseg.model.packed import Activation, fits, packed_linear


def linear(layer: nn.Linear, x: Tensor, activation: nn.Module | None = None) -> Tensor:
    """`activation(layer(x))` in the way that is fastest for x.

    Weights laid out beforehand take bias and activation on their way, a GPU's product and one thread's the bias. For several
    CPU threads PyTorch has one of them write the bias to every row of the result first, which costs up to a third of the
    time: there it is added afterwards.
    """
    if fits(layer, x):
        fused = _FUSED.get(type(activation), "none")
        result = packed_linear(layer, layer.weight, layer.bias, x, fused)
        if fused != "none":
            return result
    elif layer.bias is None or x.is_cuda or torch.get_num_threads() == 1:
        result = cast(Tensor, layer(x))
    else:
        result = F.linear(x, layer.weight).add_(layer.bias)
    return result if activation is None else cast(Tensor, activation(result))


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

    def forward(self, x: Tensor) -> Tensor:
        """(..., D) -> (..., D); training keeps what enters a GELU, not what leaves it."""
        if torch.is_grad_enabled() and isinstance(self.activation, GELU):
            hidden = linear(self.fc1, x)
            return checkpoint(self._rest, hidden, use_reentrant=False, preserve_rng_state=False)
        return linear(self.fc2, linear(self.fc1, x, self.activation))

    def _rest(self, hidden: Tensor) -> Tensor:
        return linear(self.fc2, self.activation(hidden))


def lean(activation: nn.Module) -> nn.Module:
    """The counterpart of one of open_clip's activations."""
    if isinstance(activation, open_clip.transformer.QuickGELU):
        return QuickGELU()
    if isinstance(activation, nn.GELU) and activation.approximate == "none":
        return GELU()
    return activation
