"""What inference makes of weights alone: kept with their module until they change."""

from collections.abc import Callable, Hashable, Sequence
from typing import NamedTuple, TypeVar, cast
from weakref import WeakKeyDictionary, ref

import torch
from torch import Tensor, nn

Made = TypeVar("Made")


class _Version(NamedTuple):
    """A weight as it was when something was made of it."""

    tensor: "ref[Tensor]"
    place: int
    version: int

    @classmethod
    def of(cls, weight: Tensor) -> "_Version":
        return cls(ref(weight), weight.data_ptr(), weight._version)

    def is_of(self, weight: Tensor) -> bool:
        return self.tensor() is weight and self.place == weight.data_ptr() and self.version == weight._version


_KEPT: WeakKeyDictionary[nn.Module, dict[Hashable, tuple[list[_Version], object]]] = WeakKeyDictionary()


def kept(owner: nn.Module, name: Hashable, weights: Sequence[Tensor], make: Callable[[], Made]) -> Made:
    """`make()`, which depends on `weights` alone, or what it gave to this owner under this name while they were the same.

    Nothing is kept where a gradient is wanted, under autocast, while compiling, or of weights that have no numbers or no
    version. Changes that raise no version, such as those of fused optimisers or through `.data`, are not seen before `forget`.
    """
    if (
        torch.is_grad_enabled()
        or torch.compiler.is_compiling()
        or weights[0].is_meta
        or torch.is_autocast_enabled(weights[0].device.type)
        or any(weight.is_inference() for weight in weights)
    ):
        return make()
    results = _KEPT.setdefault(owner, {})
    versions, result = results.get(name, ([], None))
    if len(versions) != len(weights) or not all(map(_Version.is_of, versions, weights)):
        versions = [_Version.of(weight) for weight in weights]
        result = make()
        results[name] = versions, result
    return cast(Made, result)


def forget(model: nn.Module) -> None:
    """Drop what was made of the weights of a model that are about to change."""
    for module in model.modules():
        _KEPT.pop(module, None)
