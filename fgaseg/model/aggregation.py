"""Propagation of the class maps: spatial, then class aggregation (paper, III-C3; form of the released code).

Axes: B images, b of them at a time, K classes, n of them at a time, D hidden channels, G guidance channels, h x w patch grid,
M heads. Channels come last: each position of a class's map is a token.
"""

import math
from typing import NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fgaseg.model.chunks import Chunks
from fgaseg.model.lean import GELU, Affine, FeedForward, affine, assembled, positive
from fgaseg.model.windows import Windows


class GuidedLinear(nn.Linear):
    """A linear map of tokens beside guidance, which is a sum: guidance that many tokens share is mapped once for all."""

    def __init__(self, dim: int, guidance_dim: int) -> None:
        super().__init__(dim + guidance_dim, dim)

    def of_guidance(self, guidance: Tensor) -> Tensor:
        """(..., G) -> (..., D), the bias included."""
        return F.linear(guidance, self.weight[:, self.out_features :], self.bias)

    def token_weight(self) -> Tensor:
        """(D, D), of the tokens."""
        return self.weight[:, : self.out_features]

    def of_tokens(self) -> Affine:
        """What the tokens (..., D) add to that."""
        return assembled(self, "tokens", [self.weight], self.token_weight)


class SwinGuide(NamedTuple):
    """A Swin block made ready for images: linear maps, windows and what all classes of an image share.

    `shared` (B, 1, h w, 3 D), in the windows' order, is what guidance adds to queries and keys, and the bias of all three.
    """

    qkv: Affine
    proj: Affine
    mlp: tuple[Affine, Affine]
    windows: Windows
    shared: Tensor

    def of(self, images: slice) -> "SwinGuide":
        """For some of the images."""
        return self if len(self.shared) == 1 else self._replace(shared=self.shared[images])


class GuidedWindowAttention(nn.Module):
    """Attention inside windows; queries and keys see the map beside the vision guidance, values the map alone."""

    def __init__(self, dim: int, guidance_dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.q, self.k = GuidedLinear(dim, guidance_dim), GuidedLinear(dim, guidance_dim)
        self.v = nn.Linear(dim, dim)
        self.proj = nn.Linear(dim, dim)

    def qkv(self) -> Affine:
        """Tokens (..., D) -> what they add to queries, keys and values (..., 3 D)."""

        def make() -> Tensor:
            return torch.cat([self.q.token_weight(), self.k.token_weight(), self.v.weight])

        return assembled(self, "qkv", [self.q.weight, self.k.weight, self.v.weight], make)

    def shared(self, guidance: Tensor) -> Tensor:
        """What all classes share: guidance (..., G) -> (..., 3 D)."""
        values = self.v.bias.expand(*guidance.shape[:-1], -1)
        return torch.cat([self.q.of_guidance(guidance), self.k.of_guidance(guidance), values], -1)

    def forward(self, x: Tensor, guide: SwinGuide) -> Tensor:
        """x (b n, h w, D), window by window -> the same."""
        qkv = guide.qkv(x)
        qkv.view(len(guide.shared), -1, *qkv.shape[1:]).add_(guide.shared)
        return guide.proj(guide.windows.attend(qkv, self.heads))


class GuidedSwinBlock(nn.Module):
    """A Swin block over each class's map, guided by the image."""

    def __init__(self, dim: int, guidance_dim: int, heads: int, window: int, shift: int, mlp_ratio: int) -> None:
        super().__init__()
        self.window, self.shift = window, shift
        self.norm1 = nn.LayerNorm(dim)
        self.attention = GuidedWindowAttention(dim, guidance_dim, heads)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = FeedForward(dim, dim * mlp_ratio, GELU())

    def guide(self, guidance: Tensor) -> SwinGuide:
        """Vision guidance (B, h, w, G), normalised."""
        _, height, width, _ = guidance.shape
        windows = Windows.of(height, width, self.window, self.shift, guidance.device)
        shared = self.attention.shared(guidance.flatten(1, 2)[:, None, windows.order])
        return SwinGuide(self.attention.qkv(), affine(self.attention.proj), self.mlp.ready(), windows, shared)

    def forward(self, x: Tensor, guide: SwinGuide) -> Tensor:
        """x (b, n, h, w, D) -> the same."""
        _, _, height, width, dim = x.shape
        flat = x.reshape(-1, height * width, dim)
        ordered = self.norm1(flat).index_select(1, guide.windows.order)
        flat = self.attention(ordered, guide).index_select(1, guide.windows.back).add_(flat)
        return self.mlp(self.norm2(flat), guide.mlp).add_(flat).view(x.shape)


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


class ClassGuide(NamedTuple):
    """Class aggregation made ready for images: linear maps, and what all positions of an image share.

    `values` gives a 1 after the D / M channels of each head: sums over the classes then count their weights too. All of it is
    scaled by a power of two, which quotients do not show: sums over many classes then stay in the range of float16.
    `queries` and `keys` (B, K, 1, D) are those of guidance, `padding` (M, D / M, D / M + 1) is what padding adds to the sums,
    None without any.
    """

    q: Affine
    k: Affine
    values: Affine
    mlp: tuple[Affine, Affine]
    queries: Tensor
    keys: Tensor
    padding: Tensor | None

    def of(self, images: slice) -> "ClassGuide":
        """For some of the images."""
        return self if len(self.keys) == 1 else self._replace(queries=self.queries[images], keys=self.keys[images])


class ClassAggregation(nn.Module):
    """Linear attention (feature map elu + 1) across the classes at each position, guided by the text.

    Fewer classes than `class_cap` are padded up to it with a learned token. Padding tokens are the same everywhere and
    their own outputs are dropped, so their share of the sums is added once, in closed form.
    """

    def __init__(self, dim: int, guidance_dim: int, heads: int, mlp_ratio: int, pooling: int, class_cap: int) -> None:
        super().__init__()
        self.heads, self.pooling, self.class_cap = heads, pooling, class_cap
        self.unit = 2.0 ** -math.ceil(math.log2(class_cap))
        self.norm1 = nn.LayerNorm(dim)
        self.q, self.k = GuidedLinear(dim, guidance_dim), GuidedLinear(dim, guidance_dim)
        self.v = nn.Linear(dim, dim)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = FeedForward(dim, dim * mlp_ratio, nn.ReLU(inplace=True))
        self.padding_map = nn.Parameter(torch.zeros(dim))
        self.padding_guidance = nn.Parameter(torch.zeros(guidance_dim))

    def guide(self, guidance: Tensor) -> ClassGuide:
        """Text guidance (B, K, G)."""

        def make() -> Tensor:
            return self.unit * F.pad(self.v.weight.unflatten(0, (self.heads, -1)), (0, 0, 0, 1)).flatten(0, 1)

        ones = self.unit * F.pad(self.v.bias.unflatten(0, (self.heads, -1)), (0, 1), value=1.0).flatten()
        q, k, values = self.q.of_tokens(), self.k.of_tokens(), assembled(self, "values", [self.v.weight], make, ones)
        g = guidance[:, :, None]
        missing, padding = max(self.class_cap - guidance.shape[1], 0), None
        if missing or torch.is_grad_enabled():  # training wants a gradient of the padding token from every pass, if only zeros
            pad = self.norm1(self.padding_map)
            key = positive(k(pad).add_(self.k.of_guidance(self.padding_guidance))).unflatten(0, (self.heads, -1))
            value = values(pad).unflatten(0, (self.heads, -1))
            padding = missing * key[:, :, None] * value[:, None]
        return ClassGuide(q, k, values, self.mlp.ready(), self.q.of_guidance(g), self.k.of_guidance(g), padding)

    def _attend(self, x: Tensor, guide: ClassGuide) -> Tensor:
        """x (b, K, S, D), S positions -> the same."""
        images, classes, positions, _ = x.shape

        def split(t: Tensor) -> Tensor:
            """(b, K, S, M E) -> (b, S M, K, E)."""
            return t.view(images, classes, positions * self.heads, -1).transpose(1, 2)

        q = split(positive(guide.q(x).add_(guide.queries)))
        k = split(positive(guide.k(x).add_(guide.keys)))
        sums = k.transpose(2, 3) @ split(guide.values(x))
        if guide.padding is not None:
            sums = sums.unflatten(1, (positions, self.heads)).add_(guide.padding).flatten(1, 2)
        out = q @ sums
        return (out[..., :-1] / (out[..., -1:] + 1e-6 * self.unit)).transpose(1, 2).reshape(x.shape)

    def _change(self, x: Tensor, guide: ClassGuide) -> Tensor:
        """What the block adds to x (b, K, S, D)."""
        attended = self._attend(self.norm1(x), guide)
        return self.mlp(self.norm2(x + attended), guide.mlp).add_(attended)

    def forward(self, maps: Tensor, guidance: Tensor, chunks: Chunks) -> Tensor:
        """maps (B, K, h, w, D), which inference overwrites, text guidance (B, K, G) -> (B, K, h, w, D).

        Training pools the maps before and interpolates the change back; evaluation works at full size. The released
        code interpolates the block's whole output and so adds its input twice: only the change is added here.
        """
        guide = self.guide(guidance)

        def change(images: slice, x: Tensor) -> Tensor:
            return self._change(x, guide.of(images))

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
