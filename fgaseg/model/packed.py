"""Linear maps of a CPU in inference, through oneDNN with weights laid out for it beforehand.

PyTorch's own choice, which lays them out in every call, is an eighth slower. The price is a second copy of the weights for
as long as the model is not trained. The operators are some that `torch.compile` emits. They are no public interface:
where they are missing, callers do without.
"""

from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from fgaseg.model.kept import kept

Activation = Literal["none", "gelu", "relu"]

_AVAILABLE = (
    torch.backends.mkldnn.is_available()
    and torch.backends.cpu.get_cpu_capability().startswith("AVX")
    and hasattr(torch.ops.mkldnn, "_reorder_linear_weight")
    and hasattr(torch.ops.mkldnn, "_linear_pointwise")
)


def packed(owner: nn.Module, name: str, weights: Sequence[Tensor], make: Callable[[], Tensor]) -> Tensor | None:
    """What `make` makes of `weights`, (E, D), laid out and kept with its owner; None where plain operators are to be used."""
    first = weights[0]
    if (
        not _AVAILABLE
        or torch.compiler.is_compiling()
        or torch.is_grad_enabled()
        or first.device.type != "cpu"
        or first.dtype != torch.float32
        or not torch.backends.mkldnn.enabled
        or torch.is_autocast_enabled("cpu")
        or any(weight.is_inference() for weight in weights)  # they have no version that could tell a change
    ):
        return None
    return kept(owner, ("packed", name), weights, lambda: torch.ops.mkldnn._reorder_linear_weight(make().detach().contiguous()))


def packed_linear(x: Tensor, laid_out: Tensor, bias: Tensor | None, activation: Activation = "none") -> Tensor:
    """`activation(F.linear(x, weight, bias))` of single-precision tokens (..., D) -> (..., E)."""
    algorithm = "none" if activation == "gelu" else ""  # GELU's exact form
    result: Tensor = torch.ops.mkldnn._linear_pointwise.default(x, laid_out, bias, activation, [], algorithm)
    return result
