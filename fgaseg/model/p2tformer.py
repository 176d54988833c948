"""P2Tformer: text features attend to the image's pixels (method, section 2, equations 5 and 6)."""

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def sinusoidal_position(channels: int, height: int, width: int, temperature: float = 10000.0) -> Tensor:
    """2-D sinusoidal position embedding (height * width, channels): half of the channels for rows, half for columns.

    Positions are normalised to (0, 2 pi]; sine and cosine alternate.
    """
    half = channels // 2
    frequency = temperature ** (2 * torch.div(torch.arange(half), 2, rounding_mode="floor") / half)

    def encode(length: int) -> Tensor:
        position = torch.arange(1, length + 1) / length * 2 * math.pi
        angle = position[:, None] / frequency
        return torch.stack([angle[:, 0::2].sin(), angle[:, 1::2].cos()], 2).flatten(1)

    rows = encode(height)[:, None].expand(-1, width, -1)
    columns = encode(width)[None].expand(height, -1, -1)
    return torch.cat([rows, columns], 2).flatten(0, 1)


class CrossAttentionLayer(nn.Module):
    """One layer of equation 5: `T_l = LN(T_{l-1} + W_l MHA(T_{l-1}, flat(F_v) + PE, flat(F_v)))`."""

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.q_proj, self.k_proj, self.v_proj, self.out_proj = (nn.Linear(channels, channels) for _ in range(4))
        self.linear = nn.Linear(channels, channels)
        self.norm = nn.LayerNorm(channels)

    def forward(self, text: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """text (B, N, C), keys and values (B, h w, C) -> (B, N, C)."""
        q, k, v = (
            proj(x).unflatten(2, (self.heads, -1)).transpose(1, 2)
            for proj, x in ((self.q_proj, text), (self.k_proj, keys), (self.v_proj, values))
        )
        attended = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        return self.norm(text + self.linear(self.out_proj(attended)))


class P2Tformer(nn.Module):
    """N layers of cross-attention, added to the text features with weight gamma (equation 6).

    gamma is a learnable vector of size C that starts at `gamma_init`, or a fixed number.
    """

    def __init__(self, channels: int, layers: int, heads: int, gamma: Literal["trainable"] | float, gamma_init: float) -> None:
        super().__init__()
        self.layers = nn.ModuleList(CrossAttentionLayer(channels, heads) for _ in range(layers))
        if gamma == "trainable":
            self.gamma = nn.Parameter(torch.full((channels,), gamma_init))
        else:
            self.register_buffer("gamma", torch.tensor(float(gamma)))

    def forward(self, text: Tensor, image: Tensor) -> Tensor:
        """`F_t` (K, P, C) and `F_v` (B, C, h, w) -> `T^` (B, K, P, C)."""
        batch, channels, height, width = image.shape
        pixels = image.flatten(2).transpose(1, 2)
        keys = pixels + sinusoidal_position(channels, height, width).to(pixels)
        x = text.flatten(0, 1).expand(batch, -1, -1)
        for layer in self.layers:
            x = layer(x, keys, pixels)
        return text + self.gamma * x.unflatten(1, text.shape[:2])
