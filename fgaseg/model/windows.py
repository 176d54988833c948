"""Windows of Swin blocks: which tokens of a map attend to each other (paper, III-C3)."""

from itertools import pairwise
from typing import NamedTuple, Self

import torch
import torch.nn.functional as F
from torch import Tensor


class Windows(NamedTuple):
    """The tokens of a map, window by window: `order` (h w,) holds their places in the map, `back` what undoes it.

    Windows of as many tokens stand together: `groups` has how many windows, and how many tokens each. A cyclic shift brings
    parts from opposite borders into one window and then has to keep them apart with a mask. Here each part is a smaller
    window of its own: the same result without the scores that the mask would void.
    """

    order: Tensor
    back: Tensor
    groups: tuple[tuple[int, int], ...]

    @classmethod
    def of(cls, height: int, width: int, window: int, shift: int, device: torch.device) -> Self:
        """Windows of `window` x `window` tokens, moved by `shift` rows and columns; they divide the map."""
        places = torch.arange(height * width, device=device).view(height, width)
        rows, columns = _cuts(height, window, shift), _cuts(width, window, shift)
        windows = [places[top:end, left:right].flatten() for top, end in pairwise(rows) for left, right in pairwise(columns)]
        windows.sort(key=len, reverse=True)
        sizes = [len(each) for each in windows]
        order = torch.cat(windows)
        return cls(order, order.argsort(), tuple((sizes.count(size), size) for size in dict.fromkeys(sizes)))

    def attend(self, qkv: Tensor, heads: int) -> Tensor:
        """Attention inside each window: queries, keys and values (N, h w, 3 D) in `order` -> (N, h w, D)."""
        done = []
        for (_, size), part in zip(self.groups, qkv.split([count * size for count, size in self.groups], 1), strict=True):
            q, k, v = part.reshape(-1, size, 3, heads, qkv.shape[2] // (3 * heads)).permute(2, 0, 3, 1, 4).unbind(0)
            attended = F.scaled_dot_product_attention(q, k, v).transpose(1, 2)
            done.append(attended.reshape(len(qkv), -1, qkv.shape[2] // 3))
        return done[0] if len(done) == 1 else torch.cat(done, 1)


def _cuts(length: int, window: int, shift: int) -> list[int]:
    """Where one window ends and the next begins."""
    return sorted({0, *range(shift, length, window), length})
