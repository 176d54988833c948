"""The fast decoder's auxiliary heads, and the classes that they let pass (paper, III-D, Tables V and VI).

Axes: B images, K classes, k those of them that are left, D channels.
"""

from collections.abc import Sequence
from typing import TypeVar, cast

import torch.nn.functional as F
from torch import Tensor, nn

DROPPED_LOGIT = -100.0

OfClasses = TypeVar("OfClasses", Tensor, Tensor | None)


def auxiliary_heads(channels: Sequence[int]) -> nn.ModuleList:
    """One convolution to one logit per class for each place where classes can be dropped."""
    return nn.ModuleList(nn.Conv2d(c, 1, 3, padding=1) for c in channels)


def one_channel(head: nn.Conv2d, maps: Tensor) -> Tensor:
    """A head's 3 x 3 convolution of maps (B, K, h, w, D) -> (B, K, h, w).

    With one channel to compute, convolutions wait for the memory; here each tap is a product, and a sum puts them together.
    """
    assert head.bias is not None
    taps = head.weight[0].flip(1, 2).flatten(1)
    products = taps.t() @ maps.flatten(0, 1).flatten(1, 2).transpose(1, 2)
    return F.fold(products, maps.shape[2:4], 3, padding=1).add_(head.bias).squeeze(1).unflatten(0, maps.shape[:2])


def best_classes(logits: Tensor, top_n: int) -> Tensor:
    """The classes that are among the `top_n` highest of some pixel of some image: logits (B, K, h, w) -> indices (k,).

    Ascending. k is at least `top_n` and usually more: it is a union over pixels.
    """
    return logits.topk(top_n, dim=1).indices.unique()


def take(tensor: OfClasses, classes: Tensor | None) -> OfClasses:
    """The chosen classes of a tensor (B, K, ...), all where `classes` is None."""
    return tensor if tensor is None or classes is None else tensor[:, classes]


def spread(logits: Tensor, classes: Tensor | None, count: int) -> Tensor:
    """Logits (B, k, h, w) of the classes (B, k) -> (B, count, h, w), `DROPPED_LOGIT` for those that are not among them."""
    if classes is None:
        return logits
    full = logits.new_full((len(logits), count, *logits.shape[2:]), DROPPED_LOGIT)
    return full.scatter(1, classes[:, :, None, None].expand_as(logits), logits)


class Selection:
    """What the heads do in one forward pass; the maps meet them in order.

    In training each head's logits are kept in `logits`, (B, K, h, w), and all classes go on. In inference with `top_n`
    only the best classes of each head go on, the same for all images of the batch; `classes` (k,) are those that are
    still left, None as long as none was dropped. `kept` counts them after each head. Without heads nothing happens.
    """

    def __init__(self, heads: nn.ModuleList | None, training: bool, top_n: int | None) -> None:
        self._heads, self._training, self._top_n = heads, training, top_n
        self.logits: list[Tensor] = []
        self.kept: list[int] = []
        self.classes: Tensor | None = None

    @property
    def active(self) -> bool:
        """Whether the heads look at the maps at all."""
        return self._heads is not None

    def __call__(self, maps: Tensor) -> Tensor | None:
        """Maps (B, K, h, w, D) at the next head -> the indices (k,) among their classes that go on, None for all."""
        if self._heads is None:
            return None
        count = maps.shape[1]
        head = cast(nn.Conv2d, self._heads[len(self.kept)])
        chosen = None
        if self._training:
            self.logits.append(one_channel(head, maps))
        elif self._top_n is not None and self._top_n < count:
            chosen = best_classes(one_channel(head, maps), self._top_n)
            self.classes = chosen if self.classes is None else self.classes[chosen]
        self.kept.append(count if chosen is None else len(chosen))
        return chosen
