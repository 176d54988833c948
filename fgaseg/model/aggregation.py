"""Propagation of the class maps: spatial, then class aggregation (method, section 4; form of the released code).

Axes: B images, b of them at a time, K classes, n of them at a time, D hidden channels, G guidance channels, h x w patch grid,
M heads. Channels come last: each position of a class's map is a token.
"""

from typing import NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fgaseg.model.chunks import Chunks
from fgaseg.model.lean import GELU, FeedForward, linear, positive
from fgaseg.model.packed import fits, packed_linear
from fgaseg.model.windows import Windows


class GuidedLinear(nn.Linear):
    """A linear map of tokens beside guidance, which is a sum: guidance that many tokens share is mapped once for all."""

    def __init__(self, dim: int, guidance_dim: int) -> None:
        super().__init__(dim + guidance_dim, dim)

    def of_guidance(self, guidance: Tensor) -> Tensor:
        """(..., G) -> (..., D), the bias included."""
        return F.linear(guidance, self.weight[:, self.out_features :], self.bias)

    def beside(self, tokens: Tensor, mapped: Tensor) -> Tensor:
        """Tokens (..., D) beside guidance that `of_guidance` has mapped and that may be broadcast -> (..., D)."""
        weight = self.weight[:, : self.out_features]
        product = packed_linear(self, weight, None, tokens) if fits(self, tokens) else F.linear(tokens, weight)
        return product.add_(mapped)


class WindowGuidance(NamedTuple):
    """What a Swin block needs of images, the same for all of their classes: mapped guidance (B, 1, h w, D), and windows."""

    queries: Tensor
    keys: Tensor
    windows: Windows

    def of(self, images: slice) -> "WindowGuidance":
        """Some images' share."""
        return WindowGuidance(self.queries[images], self.keys[images], self.windows)


class GuidedWindowAttention(nn.Module):
    """Attention inside windows; queries and keys see the map beside the vision guidance, values the map alone."""

    def __init__(self, dim: int, guidance_dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.q, self.k = GuidedLinear(dim, guidance_dim), GuidedLinear(dim, guidance_dim)
        self.v = nn.Linear(dim, dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor, guidance: WindowGuidance) -> Tensor:
        """x (b, n, h w, D), window by window -> the same."""
        mapped = self.q.beside(x, guidance.queries), self.k.beside(x, guidance.keys), linear(self.v, x)
        q, k, v = (t.flatten(0, 1).unflatten(2, (self.heads, -1)) for t in mapped)
        return linear(self.proj, guidance.windows.attend(q, k, v)).view(x.shape)


class GuidedSwinBlock(nn.Module):
    """A Swin block over each class's map, guided by the image."""

    def __init__(self, dim: int, guidance_dim: int, heads: int, window: int, shift: int, mlp_ratio: int) -> None:
        super().__init__()
        self.window, self.shift = window, shift
        self.norm1 = nn.LayerNorm(dim)
        self.attention = GuidedWindowAttention(dim, guidance_dim, heads)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = FeedForward(dim, dim * mlp_ratio, GELU())

    def guide(self, guidance: Tensor) -> WindowGuidance:
        """Vision guidance (B, h, w, G), normalised."""
        _, height, width, _ = guidance.shape
        windows = Windows.of(height, width, self.window, self.shift, guidance.device)
        g = guidance.flatten(1, 2)[:, None, windows.order]
        return WindowGuidance(self.attention.q.of_guidance(g), self.attention.k.of_guidance(g), windows)

    def forward(self, x: Tensor, guidance: WindowGuidance) -> Tensor:
        """x (b, n, h, w, D) -> (b, n, h, w, D)."""
        flat = x.flatten(2, 3)
        ordered = self.norm1(flat).index_select(2, guidance.windows.order)
        flat = self.attention(ordered, guidance).index_select(2, guidance.windows.back).add_(flat)
        return self.mlp(self.norm2(flat)).add_(flat).view(x.shape)


class SpatialAggregation(nn.Module):
    """A pair of Swin blocks, the second with windows shifted by half; windows must divide the patch grid."""

    def __init__(self, dim: int, guidance_dim: int, heads: int, window: int, mlp_ratio: int) -> None:
        super().__init__()
        self.guidance_norm = nn.LayerNorm(guidance_dim)
        self.blocks = nn.ModuleList(
            GuidedSwinBlock(dim, guidance_dim, heads, window, shift, mlp_ratio) for shift in (0, window // 2)
        )

    def forward(self, maps: Tensor, guidance: Tensor, chunks: Chunks) -> Tensor:
        """maps (B, K, h, w, D), which inference overwrites, vision guidance (B, G, h, w) -> (B, K, h, w, D)."""
        normed = self.guidance_norm(guidance.permute(0, 2, 3, 1))
        blocks = cast("list[GuidedSwinBlock]", list(self.blocks))
        guides = [block.guide(normed) for block in blocks]

        def both(images: slice, x: Tensor) -> Tensor:
            for block, guide in zip(blocks, guides, strict=True):
                x = block(x, guide.of(images))
            return x

        return chunks.by_class(both, maps, overwrite=True)


class ClassAggregation(nn.Module):
    """Linear attention (feature map elu + 1) across the classes at each position, guided by the text.

    Fewer classes than `class_cap` are padded up to it with a learned token. Padding tokens are the same everywhere and
    their own outputs are dropped, so their share of the sums is added once, in closed form.
    """

    def __init__(self, dim: int, guidance_dim: int, heads: int, mlp_ratio: int, pooling: int, class_cap: int) -> None:
        super().__init__()
        self.heads, self.pooling, self.class_cap = heads, pooling, class_cap
        self.norm1 = nn.LayerNorm(dim)
        self.q, self.k = GuidedLinear(dim, guidance_dim), GuidedLinear(dim, guidance_dim)
        self.v = nn.Linear(dim, dim)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = FeedForward(dim, dim * mlp_ratio, nn.ReLU(inplace=True))
        self.padding_map = nn.Parameter(torch.zeros(dim))
        self.padding_guidance = nn.Parameter(torch.zeros(guidance_dim))

    def _padding(self, classes: int) -> tuple[Tensor, Tensor]:
        """What the padding tokens of one position add to the sums of attention: (M, D / M, D / M) and (M, D / M)."""
        count = max(self.class_cap - classes, 0)
        pad = self.norm1(self.padding_map)
        k = positive(self.k.beside(pad, self.k.of_guidance(self.padding_guidance)))
        k, v = (t.unflatten(0, (self.heads, -1)) for t in (k, self.v(pad)))
        return count * k[:, :, None] * v[:, None], count * k

    def _attend(self, x: Tensor, guidance: tuple[Tensor, Tensor], padding: tuple[Tensor, Tensor]) -> Tensor:
        """x (b, K, S, D), S positions; mapped guidance of queries and keys (b, K, 1, D) -> (b, K, S, D)."""
        images, classes, positions, _ = x.shape

        def split(t: Tensor) -> Tensor:
            """(b, K, S, D) -> (b S M, K, D / M), of one image without a copy."""
            return t.view(images, classes, positions * self.heads, -1).transpose(1, 2).flatten(0, 1)

        q, k = (positive(each.beside(x, g)) for each, g in zip((self.q, self.k), guidance, strict=True))
        q, k, v = split(q), split(k), split(linear(self.v, x))
        memory = (padding[0] + (k.transpose(1, 2) @ v).unflatten(0, (-1, self.heads))).flatten(0, 1)
        total = (padding[1] + k.sum(1).unflatten(0, (-1, self.heads))).flatten(0, 1)
        out = (q @ memory) / (q @ total[:, :, None] + 1e-6)
        return out.unflatten(0, (images, -1)).transpose(1, 2).reshape(x.shape)

    def _change(self, x: Tensor, guidance: tuple[Tensor, Tensor], padding: tuple[Tensor, Tensor]) -> Tensor:
        """What the block adds to x (b, K, S, D)."""
        attended = self._attend(self.norm1(x), guidance, padding)
        return self.mlp(self.norm2(x + attended)).add_(attended)

    def forward(self, maps: Tensor, guidance: Tensor, chunks: Chunks) -> Tensor:
        """maps (B, K, h, w, D), which inference overwrites, text guidance (B, K, G) -> (B, K, h, w, D).

        Training pools the maps before and interpolates the change back; evaluation works at full size. The released
        code interpolates the block's whole output and so adds its input twice: only the change is added here.
        """
        padding = self._padding(maps.shape[1])
        g = guidance[:, :, None]
        mapped = self.q.of_guidance(g), self.k.of_guidance(g)

        def change(images: slice, x: Tensor) -> Tensor:
            return self._change(x, (mapped[0][images], mapped[1][images]), padding)

        if self.training and self.pooling > 1:
            small = self._pool(maps)
            changes = chunks.by_position(change, small.flatten(2, 3)).view(small.shape)
            return maps + self._resize(changes, maps)
        changed = chunks.by_position(lambda images, x: change(images, x).add_(x), maps.flatten(2, 3), overwrite=True)
        return changed.view(maps.shape)

    def _pool(self, x: Tensor) -> Tensor:
        """(B, K, h, w, D) -> smaller maps."""
        pooled = F.avg_pool2d(x.flatten(0, 1).permute(0, 3, 1, 2), self.pooling).permute(0, 2, 3, 1)
        return pooled.unflatten(0, x.shape[:2])

    @staticmethod
    def _resize(change: Tensor, x: Tensor) -> Tensor:
        """(B, K, h', w', D) -> as large as x (B, K, h, w, D)."""
        change = change.flatten(0, 1).permute(0, 3, 1, 2)
        change = F.interpolate(change, size=x.shape[2:4], mode="bilinear", align_corners=False)
        return change.permute(0, 2, 3, 1).unflatten(0, x.shape[:2])


class Propagation(nn.Module):
    """Blocks of spatial and class aggregation."""

    def __init__(
        self, dim: int, guidance_dim: int, blocks: int, window: int, heads: int, mlp_ratio: int, pooling: int, class_cap: int
    ) -> None:
        super().__init__()
        self.spatial = nn.ModuleList(SpatialAggregation(dim, guidance_dim, heads, window, mlp_ratio) for _ in range(blocks))
        self.classes = nn.ModuleList(
            ClassAggregation(dim, guidance_dim, heads, mlp_ratio, pooling, class_cap) for _ in range(blocks)
        )

    def forward(self, maps: Tensor, vision_guidance: Tensor, text_guidance: Tensor, chunks: Chunks) -> Tensor:
        """maps (B, K, h, w, D), which inference overwrites, guidance (B, G, h, w) and (B, K, G) -> (B, K, h, w, D)."""
        for spatial, across in zip(self.spatial, self.classes, strict=True):
            maps = across(spatial(maps, vision_guidance, chunks), text_guidance, chunks)
        return maps
