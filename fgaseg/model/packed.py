"""Linear maps of a CPU in inference, through oneDNN with weights laid out for it beforehand.

PyTorch's own choice, which lays them out in every call, is an eighth slower. The price is a second copy of the weights for
as long as the model is not trained. The operators are some that `torch.compile` emits. They are no public interface:
where they are missing, callers do without.
"""

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


def fits(layer: nn.Linear, x: Tensor) -> bool:
    """Whether `packed_linear` may take these tokens."""
    return (
        _AVAILABLE
        and not torch.compiler.is_compiling()
        and not torch.is_grad_enabled()
        and x.device.type == "cpu"
        and x.dtype == layer.weight.dtype == torch.float32
        and x.numel() > 0
        and bool(torch.backends.mkldnn.enabled)
        and not torch.is_autocast_enabled("cpu")
        and not layer.weight.is_inference()  # has no version that could tell a change
    )


def packed_linear(layer: nn.Linear, weight: Tensor, bias: Tensor | None, x: Tensor, activation: Activation = "none") -> Tensor:
    """`activation(F.linear(x, weight, bias))`; `weight` is the layer's, or always the same part of it."""
    laid_out = kept(
        layer, "packed", [layer.weight], lambda: torch.ops.mkldnn._reorder_linear_weight(weight.detach().contiguous())
    )
    algorithm = "none" if activation == "gelu" else ""  # GELU's exact form
    result: Tensor = torch.ops.mkldnn._linear_pointwise(x, laid_out, bias, activation, [], algorithm)
    return result
