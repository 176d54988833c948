"""Linear maps of a CPU in inference, through oneDNN with weights laid out for it beforehand.

PyTorch's own choice, which lays them out in every call, is an eighth slower. The price is a second copy of the weights for
as long as the model is not trained. The operators are some that `torch.compile` emits. They are no public interface:
where they are missing, callers do without.
"""

from typing import Literal, NamedTuple
from weakref import WeakKeyDictionary, ref

import torch
from torch import Tensor, nn

Activation = Literal["none", "gelu", "relu"]

_AVAILABLE = (
    torch.backends.mkldnn.is_available()
    and torch.backends.cpu.get_cpu_capability().startswith("AVX")
    and hasattr(torch.ops.mkldnn, "_reorder_linear_weight")
    and hasattr(torch.ops.mkldnn, "_linear_pointwise")
)


class _Packed(NamedTuple):
    """A weight, laid out, and what tells whether it is still the one of the layer."""

    owner: "ref[Tensor]"
    place: int
    version: int
    weight: Tensor

    def of(self, layer: nn.Linear) -> bool:
        weight = layer.weight
        return self.owner() is weight and self.place == weight.data_ptr() and self.version == weight._version


_PACKED: WeakKeyDictionary[nn.Module, _Packed] = WeakKeyDictionary()


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
    """`activation(F.linear(x, weight, bias))`; `weight` is the layer's, or always the same part of it.

    The weight is laid out anew when the layer's has changed. Changes that raise no version, such as those of fused
    optimisers, are not seen before `forget`.
    """
    packed = _PACKED.get(layer)
    if packed is None or not packed.of(layer):
        owner, place, version = ref(layer.weight), layer.weight.data_ptr(), layer.weight._version
        packed = _Packed(owner, place, version, torch.ops.mkldnn._reorder_linear_weight(weight.detach().contiguous()))
        _PACKED[layer] = packed
    algorithm = "none" if activation == "gelu" else ""  # GELU's exact form
    result: Tensor = torch.ops.mkldnn._linear_pointwise(x, packed.weight, bias, activation, [], algorithm)
    return result


def forget(model: nn.Module) -> None:
    """Drop what was laid out of the layers of a model whose weights are about to change."""
    for module in model.modules():
        _PACKED.pop(module, None)
