"""CLIP as a dense encoder (paper, III-A2; released code).

Axes: B images, K classes, P prompts a class, C embedding size, h x w patch grid, L prompt length in tokens.
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, cast

import open_clip
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fgaseg.errors import UserError
from fgaseg.model.lean import lean, linear, residual

DenseResidual = Literal["class_token", "own"]

_ARCHITECTURES = Path(__file__).parent / "architectures"


class SplitAttention(nn.Module):
    """Self-attention with one projection each for query, key and value, so that each can be trained or frozen alone.

    Takes over the weights of an `nn.MultiheadAttention`, whose three projections are one tensor.
    """

    def __init__(self, fused: nn.MultiheadAttention) -> None:
        super().__init__()
        width = fused.embed_dim
        self.heads = fused.num_heads
        self.q_proj, self.k_proj, self.v_proj = (nn.Linear(width, width) for _ in range(3))
        self.out_proj = nn.Linear(width, width)
        with torch.no_grad():
            for proj, weight, bias in zip(
                (self.q_proj, self.k_proj, self.v_proj),
                fused.in_proj_weight.chunk(3),
                fused.in_proj_bias.chunk(3),
                strict=True,
            ):
                proj.weight.copy_(weight)
                proj.bias.copy_(bias)
            self.out_proj.weight.copy_(fused.out_proj.weight)
            self.out_proj.bias.copy_(fused.out_proj.bias)

    def forward(self, x: Tensor, causal: bool = False, seen: int | None = None) -> Tensor:
        """(N, L, width) -> (N, L, width); attention sees the first `seen` of the tokens, or all."""
        n, length, width = x.shape
        projections = (self.q_proj, self.k_proj, self.v_proj)
        q, k, v = (linear(proj, x).view(n, length, self.heads, -1).transpose(1, 2) for proj in projections)
        out = F.scaled_dot_product_attention(q, k[:, :, :seen], v[:, :, :seen], is_causal=causal)
        return linear(self.out_proj, out.transpose(1, 2).reshape(n, length, width))

    def value_path(self, x: Tensor) -> Tensor:
        """What attention would give if each token attended to itself alone: `out_proj(v_proj(x))` (MaskCLIP)."""
        return linear(self.out_proj, linear(self.v_proj, x))


def _feed_forward(block: Any, x: Tensor) -> Tensor:
    hidden = linear(block.mlp.c_fc, block.ln_2(x), block.mlp.gelu)
    return residual(x, block.ls_2(linear(block.mlp.c_proj, hidden)))


def _block(block: Any, x: Tensor, causal: bool = False, seen: int | None = None) -> Tensor:
    return _feed_forward(block, residual(x, block.ls_1(block.attn(block.ln_1(x), causal, seen))))


def _filled(x: Tensor) -> Tensor:
    """In inference on a CPU, the tokens (1, L, width) of one image with zeros after them, up to a multiple of 8 tokens.

    A patch grid and the class token are one row more than oneDNN's products like: with 24 x 24 patches linear maps take up to
    a third less time once that is filled up.
    """
    if torch.is_grad_enabled() or x.device.type != "cpu" or len(x) > 1:
        return x
    return F.pad(x, (0, 0, 0, -x.shape[1] % 8))


def register_architectures() -> None:
    """Make the project's own open_clip model configurations known to open_clip."""
    open_clip.add_model_config(_ARCHITECTURES)


def create_open_clip(architecture: str, pretrained: str | None) -> open_clip.CLIP:
    """An open_clip model; `pretrained` is a tag, a file, or None for random weights.

    Raises `UserError` for an unknown architecture and for weights that do not fit it.
    """
    register_architectures()
    if architecture not in open_clip.list_models():
        raise UserError(f"vlm.architecture: open_clip has no model '{architecture}'; see open_clip.list_models()")
    if pretrained is not None and not Path(pretrained).is_file():
        tags = open_clip.list_pretrained_tags_by_model(architecture)
        if not open_clip.is_pretrained_cfg(architecture, pretrained):
            raise UserError(
                f"vlm.pretrained: '{pretrained}' is neither a file nor weights that open_clip has for {architecture}: "
                f"choose {', '.join([*tags, 'a file'])}"
            )
    try:
        model = open_clip.create_model(architecture, pretrained=pretrained, require_pretrained=pretrained is not None)
    except Exception as error:  # a damaged pickle may raise anything
        reason = (str(error).strip() or repr(error)).splitlines()[0].split(". ")[0].rstrip(":")
        if pretrained is not None and not Path(pretrained).is_file():
            raise UserError(
                f"vlm.pretrained: the weights '{pretrained}' of {architecture} could not be downloaded ({reason}); "
                "run `fgaseg vlm` on a machine with a network, or name a file with them in params/scale"
            ) from error
        raise UserError(
            f"{pretrained}: these weights cannot be loaded into {architecture} ({reason}); "
            "provide them again with `fgaseg vlm`, or change vlm.architecture"
        ) from error
    if not isinstance(model, open_clip.CLIP):
        raise UserError(f"vlm.architecture: {architecture} is not a plain CLIP; choose a ViT one such as ViT-B-16-quickgelu")
    return model


class DenseCLIP(nn.Module):
    """CLIP's two encoders, giving patch features beside guidance features, and text features.

    `guidance_layers` are 0-based blocks of the image encoder whose outputs guide the decoder. `dense_residual` says
    what is added to every patch in the last block: the class token (released code) or the patch's own input.
    """

    def __init__(
        self, clip: open_clip.CLIP, image_size: int, guidance_layers: Sequence[int], dense_residual: DenseResidual
    ) -> None:
        super().__init__()
        self.visual = clip.visual
        self.text = nn.ModuleDict(
            {"token_embedding": clip.token_embedding, "transformer": clip.transformer, "ln_final": clip.ln_final}
        )
        self.text_positional_embedding = clip.positional_embedding
        self.text_projection = clip.text_projection
        self.logit_scale = clip.logit_scale
        self.image_size = image_size
        self.guidance_layers = tuple(guidance_layers)
        self.dense_residual = dense_residual
        self.visual_prompts: nn.Parameter | None = None
        for block in self.blocks():
            block.attn = SplitAttention(cast(nn.MultiheadAttention, block.attn))
            cast(Any, block).mlp.gelu = lean(cast(Any, block).mlp.gelu)
        patch = self.visual.patch_size[0]
        if image_size % patch:
            raise UserError(f"vlm.image_size: {image_size} is no multiple of the patch size {patch}")
        self.grid = image_size // patch
        self._resize_positions()

    def blocks(self) -> list[nn.Module]:
        """The transformer blocks of both encoders, the image encoder's first."""
        transformers = (self.visual.transformer, self.text["transformer"])
        return [block for transformer in transformers for block in cast(nn.ModuleList, transformer.resblocks)]

    @property
    def embed_dim(self) -> int:
        """C, the size of the space that image and text share."""
        return int(self.visual.proj.shape[1])

    @property
    def width(self) -> int:
        """Channels of the image encoder, hence of the guidance features."""
        return int(self.visual.conv1.out_channels)

    @property
    def context_length(self) -> int:
        """The longest prompt in tokens, start and end tokens included."""
        return int(self.text_positional_embedding.shape[0])

    def _resize_positions(self) -> None:
        """Resize the grid of position embeddings bicubically to this input's patch grid (released code)."""
        old = self.visual.positional_embedding.detach()
        side = math.isqrt(old.shape[0] - 1)
        if side == self.grid:
            return
        grid = old[1:].reshape(1, side, side, -1).permute(0, 3, 1, 2)
        grid = F.interpolate(grid, size=(self.grid, self.grid), mode="bicubic", align_corners=False)
        new = torch.cat([old[:1], grid.flatten(2)[0].T])
        self.visual.positional_embedding = nn.Parameter(new)

    def add_visual_prompts(self, tokens: int) -> None:
        """Give every block of the image encoder that attends `tokens` learnable ones beside its own (deep prompt tuning).

        The last block has none: only its value path is used, in which no token sees another. They start as small as the
        token embeddings of an untrained CLIP.
        """
        layers = len(self.visual.transformer.resblocks) - 1
        prompts = torch.randn(layers, tokens, self.width).to(self.visual.positional_embedding)
        self.visual_prompts = nn.Parameter(0.02 * prompts)

    def fit(self, images: Tensor) -> Tensor:
        """Square images (B, 3, S, S) of any side, resized to the input of the image encoder."""
        size = self.image_size
        if images.shape[-1] == size:
            return images
        return F.interpolate(images, size=(size, size), mode="bilinear", align_corners=False)

    def encode_image(self, images: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Images (B, 3, S, S), normalised with CLIP's statistics -> `F_v` (B, C, h, w) and guidance (B, width, h, w) each.

        The last block keeps only its value path; `ln_post` and the projection are applied to every patch.
        """
        visual = self.visual
        x = visual.conv1(images).flatten(2).transpose(1, 2)
        first = visual.class_embedding.expand(x.shape[0], 1, -1)
        x = visual.ln_pre(torch.cat([first, x], 1) + visual.positional_embedding)
        *blocks, last = visual.transformer.resblocks
        count, guidance = x.shape[1], []
        if self.visual_prompts is None:
            x = _filled(x)
        for i, block in enumerate(blocks):
            if self.visual_prompts is None:
                x = _block(block, x, seen=count)
            else:  # attention has no order: their place among the tokens does not matter
                prompts = self.visual_prompts[i].expand(len(x), -1, -1)
                x = _block(block, torch.cat([x, prompts], 1))[:, :count]
            if i in self.guidance_layers:
                guidance.append(self._to_map(x[:, 1:count]))
        patches = x[:, 1:count]
        kept = x[:, :1] if self.dense_residual == "class_token" else patches
        y = kept + last.ls_1(last.attn.value_path(last.ln_1(patches)))
        y = _feed_forward(last, y)
        return self._to_map(visual.ln_post(y) @ visual.proj), tuple(guidance)

    def _to_map(self, tokens: Tensor) -> Tensor:
        return tokens.transpose(1, 2).unflatten(2, (self.grid, self.grid))

    def encode_text(self, tokens: Tensor) -> Tensor:
        """Prompts (K, P, L), which may be cut to their longest length -> L2-normalised `F_t` (K, P, C)."""
        k, p, length = tokens.shape
        flat = tokens.flatten(0, 1)
        x = self.text["token_embedding"](flat) + self.text_positional_embedding[:length]
        for block in cast(nn.ModuleList, self.text["transformer"].resblocks):
            x = _block(block, x, causal=True)
        x = self.text["ln_final"](x)
        end = x[torch.arange(k * p, device=x.device), flat.argmax(-1)]
        return F.normalize(end @ self.text_projection, dim=-1).view(k, p, -1)
