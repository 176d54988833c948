"""Windows of Swin blocks: which tokens of a map attend to each other (method, section 4)."""

from itertools import pairwise
from typing import NamedTuple, Self

import torch
import torch.nn.functional as F
from torch import Tensor


class Windows(NamedTuple):
    """The tokens of a map, window by window: `order` (h w,) holds their places in the map, `back` what undoes it.

    A cyclic shift brings parts from opposite borders into one window and then has to keep them apart with a mask. Here each
    part is a smaller window of its own: the same result without the scores that the mask would void.
    """

    order: Tensor
    back: Tensor
    sizes: tuple[int, ...]

    @classmethod
    def of(cls, height: int, width: int, window: int, shift: int, device: torch.device) -> Self:
        """Windows of `window` x `window` tokens, moved by `shift` rows and columns; they divide the map."""
        places = torch.arange(height * width, device=device).view(height, width)
        rows, columns = _cuts(height, window, shift), _cuts(width, window, shift)
        windows = [places[top:end, left:right].flatten() for top, end in pairwise(rows) for left, right in pairwise(columns)]
        order = torch.cat(windows)
        return cls(order, order.argsort(), tuple(map(len, windows)))

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Attention inside each window: (N, h w, M, D / M) each, in `order` -> (N, h w, D)."""
        if len(set(self.sizes)) == 1:
            alike = (t.reshape(-1, self.sizes[0], *t.shape[2:]) for t in (q, k, v))
            return _attention(*alike).reshape(*q.shape[:2], -1)
        parts = zip(*(t.split(self.sizes, 1) for t in (q, k, v)), strict=True)
        return torch.cat([_attention(*part) for part in parts], 1).flatten(2)


def _cuts(length: int, window: int, shift: int) -> list[int]:
    """Where one window ends and the next begins."""
    return sorted({0, *range(shift, length, window), length})


def _attention(*tokens: Tensor) -> Tensor:
    """Queries, keys and values (N, T, M, D / M) -> (N, T, M, D / M)."""
    q, k, v = (t.transpose(1, 2) for t in tokens)
    return F.scaled_dot_product_attention(q, k, v).transpose(1, 2)
