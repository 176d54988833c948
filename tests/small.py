"""A whole model that is small enough for plain loops to follow."""

import copy
from typing import Literal

import open_clip
import torch
from open_clip.model import CLIPTextCfg, CLIPVisionCfg
from torch import Tensor
from weights import perturb

from fgaseg.model.clip import DenseCLIP
from fgaseg.model.fgaseg import FGAseg, build
from fgaseg.schema import Params

Residual = Literal["class_token", "own"]
HEADS = 2
SMALL = {
    "vlm.dense_residual": "class_token",
    "model.hidden_dim": 4,
    "model.embedding_kernel": 3,
    "model.p2tformer.heads": 2,
    "model.propagation.window": 2,
    "model.propagation.heads": 2,
    "model.propagation.mlp_ratio": 2,
    "model.propagation.guidance_dim": 3,
    "model.decoder.channels": [4, 3],
    "model.decoder.guidance_hidden": [3, 2],
    "model.decoder.guidance_channels": [2, 1],
    "model.decoder.lcs_channels": 3,
}


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def random_labels(*shape: int, classes: int, seed: int = 1) -> Tensor:
    """Labels from -1 (void) to classes - 1."""
    return torch.randint(-1, classes, shape, generator=torch.Generator().manual_seed(seed))


def small_clip(quick_gelu: bool = False) -> open_clip.CLIP:
    """Three vision layers on a 4 x 4 grid and two text layers, 8 channels, random weights that are always the same."""
    vision = CLIPVisionCfg(layers=3, width=8, head_width=4, patch_size=4, image_size=16)
    text = CLIPTextCfg(context_length=7, vocab_size=20, width=8, heads=2, layers=2)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        clip = open_clip.CLIP(8, vision, text, quick_gelu=quick_gelu)
    perturb(clip, seed=1)
    return clip


def dense(clip: open_clip.CLIP, residual: Residual = "class_token") -> DenseCLIP:
    return DenseCLIP(copy.deepcopy(clip), 16, (0, 1), residual)


def small_model(clip: open_clip.CLIP, params: Params) -> FGAseg:
    """FGAseg around a copy of `clip`; what it trains beside CLIP is moved away from where it starts."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = build(dense(clip, params.vlm.dense_residual), params)
    for name, module in model.named_children():
        if name != "clip":
            perturb(module, seed=14)
    return model
