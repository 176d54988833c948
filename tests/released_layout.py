"""A checkpoint in the released code's layout: its layers, as PyTorch's own modules, with random weights.

Written down from the released code's constructors, apart from the table of names that the tests hold against it.
"""

from typing import Any

import open_clip
import torch
from torch import Tensor, nn

from fgaseg.schema import Params


def _double_conv(inputs: int, outputs: int) -> nn.Module:
    layers: list[nn.Module] = []
    for channels in (inputs, outputs):
        layers += [nn.Conv2d(channels, outputs, 3, bias=False), nn.GroupNorm(max(1, outputs // 16), outputs), nn.ReLU()]
    return nn.ModuleDict({"double_conv": nn.Sequential(*layers)})


def _conv_bn(inputs: int, outputs: int) -> nn.Module:
    return nn.Sequential(nn.Conv2d(inputs, outputs, 3, bias=False), nn.BatchNorm2d(outputs), nn.ReLU())


def _swin(dim: int, guidance: int, ratio: int) -> nn.ModuleDict:
    attention = {name: nn.Linear(dim + guidance, dim) for name in "qk"}
    attention |= {name: nn.Linear(dim, dim) for name in ("v", "proj")}
    mlp = nn.ModuleDict({"fc1": nn.Linear(dim, dim * ratio), "fc2": nn.Linear(dim * ratio, dim)})
    return nn.ModuleDict({"norm1": nn.LayerNorm(dim), "attn": nn.ModuleDict(attention), "norm2": nn.LayerNorm(dim), "mlp": mlp})


def _layer(dim: int, guidance: int, ratio: int) -> nn.ModuleDict:
    shifted = _swin(dim, guidance, ratio)
    shifted.register_buffer("attn_mask", torch.zeros(4, 16, 16))
    blocks = {"block_1": _swin(dim, guidance, ratio), "block_2": shifted, "guidance_norm": nn.LayerNorm(guidance)}
    attention = nn.ModuleDict({name: nn.Linear(dim + guidance, dim) for name in "qk"} | {"v": nn.Linear(dim, dim)})
    mlp = nn.Sequential(nn.Linear(dim, dim * ratio), nn.ReLU(), nn.Linear(dim * ratio, dim))
    across = nn.ModuleDict({"attention": attention, "MLP": mlp, "norm1": nn.LayerNorm(dim), "norm2": nn.LayerNorm(dim)})
    across.register_parameter("padding_tokens", nn.Parameter(torch.zeros(1, 1, dim)))
    across.register_parameter("padding_guidance", nn.Parameter(torch.zeros(1, 1, guidance)))
    return nn.ModuleDict({"swin_block": nn.ModuleDict(blocks), "attention": across})


def _decoder(params: Params, channels: int) -> nn.ModuleDict:
    m, d = params.model, params.model.decoder
    dim, g, k = m.hidden_dim, m.propagation.guidance_dim, m.embedding_kernel
    layers = [_layer(dim, g, m.propagation.mlp_ratio) for _ in range(m.propagation.blocks)]
    parts: dict[str, nn.Module] = {
        "layers": nn.ModuleList(layers),
        "conv1": nn.Conv2d(1, dim, k),
        "conv2": nn.Conv2d(1, dim, k),
        "corr_local_decoder_projection": nn.Sequential(
            nn.ConvTranspose2d(dim, d.lcs_channels, 2, 2), _double_conv(d.lcs_channels, d.channels[0]), nn.ReLU()
        ),
        "guidance_projection": nn.Sequential(nn.Conv2d(channels, g, 3), nn.ReLU()),
        "text_guidance_projection": nn.Sequential(nn.Linear(channels, g), nn.ReLU()),
        "decoder_guidance_projection": nn.ModuleList(
            nn.Sequential(nn.Conv2d(i, o, 3), nn.ReLU()) for i, o in zip(d.guidance_hidden, d.guidance_channels, strict=True)
        ),
        "head": nn.Conv2d(d.channels[1], 1, 3),
        "Local_align": nn.ModuleDict({"txt": nn.Linear(channels, channels * m.lcs.kernel_size**2 + 1)}),
    }
    for i, (inputs, guidance, outputs) in enumerate(zip((dim, d.channels[0]), d.guidance_channels, d.channels, strict=True), 1):
        up = nn.ConvTranspose2d(inputs, inputs - guidance, 2, 2)
        parts[f"decoder{i}"] = nn.ModuleDict({"up": up, "conv": _double_conv(inputs, outputs)})
    if m.fusion == "cat":
        parts["conv_cat"] = nn.Linear(2 * dim, dim)
        parts["conv_cat_decoder_1"] = nn.Linear(2 * dim, dim)
        parts["conv_cat_decoder_2"] = nn.Linear(2 * d.channels[0], d.channels[0])
    if d.fast:
        parts |= {f"head_auxi_{i}": nn.Conv2d(c, 1, 3) for i, c in enumerate((dim, dim, d.channels[0]))}
    return nn.ModuleDict(parts)


def _p2tformer(params: Params, channels: int) -> nn.ModuleDict:
    p = params.model.p2tformer
    layers = [
        nn.ModuleDict(
            {
                "multihead_attn": nn.MultiheadAttention(channels, p.heads),
                "norm": nn.LayerNorm(channels),
                "MLP": nn.Linear(channels, channels),
            }
        )
        for _ in range(p.layers)
    ]
    aligned = nn.ModuleDict({"cross_atten_text": nn.ModuleList(layers)})
    aligned.register_parameter("gamma_text", nn.Parameter(torch.zeros(channels)))
    return aligned


def _clip(clip: open_clip.CLIP) -> dict[str, Tensor]:
    """CLIP's weights, those of attention in three tensors."""
    found: dict[str, Tensor] = {}
    for name, tensor in clip.state_dict().items():
        if name.endswith("attn.in_proj_weight"):
            stem = name.removesuffix("in_proj_weight")
            found |= {f"{stem}{x}_proj_weight": part.clone() for x, part in zip("qkv", tensor.chunk(3), strict=True)}
        else:
            found[name] = tensor.clone()
    return found


def released_modules(params: Params, clip: open_clip.CLIP) -> nn.ModuleDict:
    """The released model's layers beside CLIP, with random weights."""
    channels, width = clip.visual.proj.shape[1], clip.visual.conv1.out_channels
    hidden = params.model.decoder.guidance_hidden
    half = channels // 2
    vis = nn.Sequential(
        nn.Upsample(), _conv_bn(channels, channels), nn.Upsample(), _conv_bn(channels, half), nn.Conv2d(half, half, 1)
    )
    predictor: dict[str, nn.Module] = {
        "proj": nn.ModuleDict({"vis": vis, "txt": nn.Linear(channels, half * 9 + 1)}),
        "transformer": _decoder(params, channels),
        "DCDT": _p2tformer(params, channels),
    }
    whole: dict[str, nn.Module] = {
        "sem_seg_head": nn.ModuleDict({"predictor": nn.ModuleDict(predictor)}),
        "upsample1": nn.ConvTranspose2d(width, hidden[0], 2, 2),
        "upsample2": nn.ConvTranspose2d(width, hidden[1], 4, 4),
    }
    modules = nn.ModuleDict(whole)
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in modules.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    return modules


def released_state(params: Params, clip: open_clip.CLIP, tuned: float = 0.0) -> dict[str, Tensor]:
    """A whole released checkpoint around `clip`, whose query and value weights are moved by `tuned`."""
    state: dict[str, Any] = {name: tensor.clone() for name, tensor in released_modules(params, clip).state_dict().items()}
    for name, tensor in _clip(clip).items():
        moved = tensor + tuned if name.endswith(("q_proj_weight", "v_proj_weight")) else tensor
        state[f"sem_seg_head.predictor.clip_model.{name}"] = moved
    return state
