"""Propagation of the class maps: spatial, then class aggregation (method, section 4; form of the released code).

Axes: N = B K maps, D hidden channels, G guidance channels, h x w patch grid, M heads.
"""

import torch
import torch.nn.functional as F
from timm.layers.mlp import Mlp
from timm.models.swin_transformer import window_partition, window_reverse
from torch import Tensor, nn


class GuidedWindowAttention(nn.Module):
    """Attention inside windows; queries and keys see the map beside the vision guidance, values the map alone."""

    def __init__(self, dim: int, guidance_dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.q = nn.Linear(dim + guidance_dim, dim)
        self.k = nn.Linear(dim + guidance_dim, dim)
        self.v = nn.Linear(dim, dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor, guidance: Tensor, mask: Tensor | None) -> Tensor:
        """x (W, T, D) and guidance (W, T, G) of W windows of T tokens, mask (W, T, T) bool, True where visible."""
        guided = torch.cat([x, guidance], -1)
        q, k, v = (t.unflatten(2, (self.heads, -1)).transpose(1, 2) for t in (self.q(guided), self.k(guided), self.v(x)))
        out = F.scaled_dot_product_attention(q, k, v, None if mask is None else mask[:, None])
        return self.proj(out.transpose(1, 2).flatten(2))


def shifted_window_mask(height: int, width: int, window: int, shift: int) -> Tensor:
    """Which tokens of a cyclically shifted window see each other: (windows, T, T) bool.

    A window that holds parts from opposite borders of the map keeps them apart.
    """

    def parts(length: int) -> Tensor:
        position = torch.arange(length)
        return (position >= length - window).int() + (position >= length - shift).int()

    region = parts(height)[:, None] * 3 + parts(width)[None, :]
    windows = window_partition(region[None, :, :, None].float(), (window, window)).flatten(1)
    return windows[:, :, None] == windows[:, None, :]


class GuidedSwinBlock(nn.Module):
    """A Swin block over each class's map, guided by the image."""

    def __init__(self, dim: int, guidance_dim: int, heads: int, window: int, shift: int, mlp_ratio: int) -> None:
        super().__init__()
        self.window, self.shift = window, shift
        self.norm1 = nn.LayerNorm(dim)
        self.attention = GuidedWindowAttention(dim, guidance_dim, heads)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = Mlp(dim, dim * mlp_ratio)

    def forward(self, x: Tensor, guidance: Tensor) -> Tensor:
        """x (N, h, w, D), guidance (N, h, w, G) -> (N, h, w, D)."""
        n, height, width, _ = x.shape
        size = (self.window, self.window)
        a, g, mask = self.norm1(x), guidance, None
        if self.shift:
            a, g = (torch.roll(t, (-self.shift, -self.shift), (1, 2)) for t in (a, g))
            mask = shifted_window_mask(height, width, self.window, self.shift).to(x.device).repeat(n, 1, 1)
        a, g = (window_partition(t, size).flatten(1, 2) for t in (a, g))
        a = window_reverse(self.attention(a, g, mask).unflatten(1, size), size, height, width)
        if self.shift:
            a = torch.roll(a, (self.shift, self.shift), (1, 2))
        x = x + a
        return x + self.mlp(self.norm2(x))


class SpatialAggregation(nn.Module):
    """A pair of Swin blocks, the second with windows shifted by half; windows must divide the patch grid."""

    def __init__(self, dim: int, guidance_dim: int, heads: int, window: int, mlp_ratio: int) -> None:
        super().__init__()
        self.guidance_norm = nn.LayerNorm(guidance_dim)
        self.blocks = nn.ModuleList(
            GuidedSwinBlock(dim, guidance_dim, heads, window, shift, mlp_ratio) for shift in (0, window // 2)
        )

    def forward(self, maps: Tensor, guidance: Tensor) -> Tensor:
        """maps (B, K, D, h, w), vision guidance (B, G, h, w) -> (B, K, D, h, w)."""
        batch, classes = maps.shape[:2]
        x = maps.flatten(0, 1).permute(0, 2, 3, 1)
        g = self.guidance_norm(guidance.permute(0, 2, 3, 1)).repeat_interleave(classes, 0)
        for block in self.blocks:
            x = block(x, g)
        return x.permute(0, 3, 1, 2).unflatten(0, (batch, classes))


class ClassAggregation(nn.Module):
    """Linear attention (feature map elu + 1) across the classes at each position, guided by the text.

    Fewer classes than `class_cap` are padded up to it with a learned token. Padding tokens are the same everywhere and
    their own outputs are dropped, so their share of the sums is added once, in closed form.
    """

    def __init__(self, dim: int, guidance_dim: int, heads: int, mlp_ratio: int, pooling: int, class_cap: int) -> None:
        super().__init__()
        self.heads, self.pooling, self.class_cap = heads, pooling, class_cap
        self.norm1 = nn.LayerNorm(dim)
        self.q = nn.Linear(dim + guidance_dim, dim)
        self.k = nn.Linear(dim + guidance_dim, dim)
        self.v = nn.Linear(dim, dim)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = Mlp(dim, dim * mlp_ratio, act_layer=nn.ReLU)
        self.padding_map = nn.Parameter(torch.zeros(dim))
        self.padding_guidance = nn.Parameter(torch.zeros(guidance_dim))

    def _attend(self, x: Tensor, guidance: Tensor) -> Tensor:
        """x (S, K, D), guidance (S, K, G), S positions -> (S, K, D)."""
        guided = torch.cat([x, guidance], -1)
        pad = self.norm1(self.padding_map)
        pad_guided = torch.cat([pad, self.padding_guidance])
        count = max(self.class_cap - x.shape[1], 0)

        def split(t: Tensor) -> Tensor:
            return t.unflatten(-1, (self.heads, -1))

        q, k, v = F.elu(split(self.q(guided))) + 1, F.elu(split(self.k(guided))) + 1, split(self.v(x))
        pad_k, pad_v = F.elu(split(self.k(pad_guided))) + 1, split(self.v(pad))
        memory = torch.einsum("skmc,skme->smce", k, v) + count * torch.einsum("mc,me->mce", pad_k, pad_v)
        total = k.sum(1) + count * pad_k
        weight = 1 / (torch.einsum("skmc,smc->skm", q, total) + 1e-6)
        return torch.einsum("skmc,smce,skm->skme", q, memory, weight).flatten(2)

    def forward(self, maps: Tensor, guidance: Tensor) -> Tensor:
        """maps (B, K, D, h, w), text guidance (B, K, G) -> (B, K, D, h, w).

        Training pools the maps before and interpolates the change back; evaluation works at full size. The released
        code interpolates the block's whole output and so adds its input twice: only the change is added here.
        """
        batch, classes, _, height, width = maps.shape
        flat = maps.flatten(0, 1)
        pooled = F.avg_pool2d(flat, self.pooling) if self.training and self.pooling > 1 else flat
        small = pooled.shape[-2:]
        x = pooled.unflatten(0, (batch, classes)).permute(0, 3, 4, 1, 2).flatten(0, 2)
        g = guidance[:, None].expand(-1, small[0] * small[1], -1, -1).flatten(0, 1)
        y = x + self._attend(self.norm1(x), g)
        y = y + self.mlp(self.norm2(y))
        change = (y - x).unflatten(0, (batch, *small)).permute(0, 3, 4, 1, 2).flatten(0, 1)
        if small != (height, width):
            change = F.interpolate(change, size=(height, width), mode="bilinear", align_corners=False)
        return (flat + change).unflatten(0, (batch, classes))


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

    def forward(self, maps: Tensor, vision_guidance: Tensor, text_guidance: Tensor) -> Tensor:
        """maps (B, K, D, h, w), guidance (B, G, h, w) and (B, K, G) -> (B, K, D, h, w)."""
        for spatial, across in zip(self.spatial, self.classes, strict=True):
            maps = across(spatial(maps, vision_guidance), text_guidance)
        return maps
