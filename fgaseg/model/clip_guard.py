"""Whether weights and architecture belong together: activation, patch grid, sizes; a mismatch is refused, never adapted."""

import logging
import math
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import open_clip
from open_clip.model import CLIPTextCfg, CLIPVisionCfg
from torch import Tensor

from fgaseg.errors import UserError
from fgaseg.model.clip_files import WeightFile

log = logging.getLogger(__name__)

_PLAIN, _NOT_PLAIN = {"vision_cfg", "text_cfg", "embed_dim"}, {"custom_text", "multimodal_cfg"}
"""Keys of open_clip's configurations that a plain CLIP has, and that it has not."""


def _layers(state: Mapping[str, Tensor], prefix: str) -> int:
    start = f"{prefix}transformer.resblocks."
    return len({name.removeprefix(start).split(".")[0] for name in state if name.startswith(start)})


def _sizes_of_weights(state: Mapping[str, Tensor]) -> dict[str, tuple[int | float, str]]:
    """What decides the shape of a CLIP, and the tensor that says so. Raises `KeyError` for a tensor that is not there."""
    conv, positions = state["visual.conv1.weight"], state["visual.positional_embedding"]
    side = math.sqrt(len(positions) - 1)
    return {
        "patch size": (conv.shape[-1], "visual.conv1.weight"),
        "patch grid": (int(side) if side.is_integer() else side, "visual.positional_embedding"),
        "image encoder's width": (len(conv), "visual.conv1.weight"),
        "image encoder's layers": (_layers(state, "visual."), "visual.transformer.resblocks"),
        "embedding size": (state["visual.proj"].shape[-1], "visual.proj"),
        "embedding size of text": (state["text_projection"].shape[-1], "text_projection"),
        "text encoder's width": (len(state["ln_final.weight"]), "ln_final.weight"),
        "text encoder's layers": (_layers(state, ""), "transformer.resblocks"),
        "context length": (len(state["positional_embedding"]), "positional_embedding"),
        "vocabulary": (len(state["token_embedding.weight"]), "token_embedding.weight"),
    }


def _sizes_of_architecture(config: Mapping[str, Any]) -> dict[str, Any]:
    """The same of an open_clip configuration, with open_clip's defaults."""
    vision, text = asdict(CLIPVisionCfg()) | config["vision_cfg"], asdict(CLIPTextCfg()) | config["text_cfg"]
    grid = None if isinstance(vision["image_size"], list) else vision["image_size"] // (vision["patch_size"] or 1)
    return {
        "patch size": vision["patch_size"],
        "patch grid": grid,
        "image encoder's width": vision["width"],
        "image encoder's layers": vision["layers"],
        "embedding size": config["embed_dim"],
        "embedding size of text": config["embed_dim"],
        "text encoder's width": text["width"],
        "text encoder's layers": text["layers"],
        "context length": text["context_length"],
        "vocabulary": text["vocab_size"],
    }


def computes_quick_gelu(architecture: str) -> bool:
    """Whether an architecture of open_clip has QuickGELU in the place of GELU."""
    return bool((open_clip.get_model_config(architecture) or {}).get("quick_gelu", False))


def _fitting(sizes: Mapping[str, tuple[int | float, str]], quick_gelu: bool | None) -> str:
    """What to do: the architectures of open_clip that these sizes are those of."""
    wanted = {what: size for what, (size, _) in sizes.items()}
    names = []
    for name in open_clip.list_models():
        config = open_clip.get_model_config(name) or {}
        plain = config.keys() >= _PLAIN and not _NOT_PLAIN & config.keys()
        if plain and _sizes_of_architecture(config) == wanted and quick_gelu in (None, bool(config.get("quick_gelu", False))):
            names.append(name)
    return f"set vlm.architecture: {' or '.join(names)}" if names else "set vlm.pretrained and vlm.architecture to a pair"


def check_tag(architecture: str, tag: str) -> None:
    """Raise `UserError` where open_clip's weights `tag` were trained with another activation than `architecture` computes.

    open_clip itself warns and goes on. A tag that it does not know is left to `create_open_clip`.
    """
    if not open_clip.is_pretrained_cfg(architecture, tag):
        return
    trained = bool(open_clip.get_pretrained_cfg(architecture, tag).get("quick_gelu", False))
    if trained != computes_quick_gelu(architecture):
        other = f"{architecture}-quickgelu" if trained else architecture.removesuffix("-quickgelu")
        raise UserError(
            f"vlm.pretrained: '{tag}' was trained with {_name(trained)}, {architecture} computes {_name(not trained)}; "
            f"set vlm.architecture: {other}"
        )


def _name(quick_gelu: bool) -> str:
    return "QuickGELU" if quick_gelu else "GELU"


def check_fit(weights: WeightFile, architecture: str, own: Mapping[str, Tensor]) -> None:
    """Raise `UserError` where a file's weights are not those of `architecture`, whose state dict is `own`.

    A state dict does not hold its activation: where nothing else tells it, a warning says which one is computed.
    """
    path, config = weights.path, open_clip.get_model_config(architecture)
    assert config is not None
    try:
        sizes = _sizes_of_weights(weights.state)
    except LookupError as error:
        key = error.args[0] if isinstance(error, KeyError) else "a tensor's axis"
        raise UserError(
            f"{path}: {key} is not in it: no ViT CLIP under open_clip's names; give weights of {architecture}"
        ) from None
    for what, expected in _sizes_of_architecture(config).items():
        size, told_by = sizes[what]
        if size != expected:
            raise UserError(
                f"{path}: these weights do not fit {architecture}: {told_by} has {what} {size:g}, not {expected}; "
                f"{_fitting(sizes, weights.quick_gelu)}"
            )
    for name in sorted(own.keys() ^ weights.state.keys()):
        where = "is missing" if name in own else f"is not a tensor of {architecture}"
        raise UserError(f"{path}: these weights do not fit {architecture}: {name} {where}; set vlm.architecture to theirs")
    for name, tensor in weights.state.items():
        if tensor.shape != own[name].shape and not tensor.numel() == own[name].numel() == 1:
            raise UserError(
                f"{path}: these weights do not fit {architecture}: {name} is {tuple(tensor.shape)}, not "
                f"{tuple(own[name].shape)}; set vlm.architecture to theirs"
            )
    computed = computes_quick_gelu(architecture)
    if weights.quick_gelu is None:
        log.warning("%s: nothing tells its activation, QuickGELU or GELU; %s computes %s", path, architecture, _name(computed))
    elif weights.quick_gelu != computed:
        raise UserError(
            f"{path}: trained with {_name(not computed)} by {weights.evidence}, {architecture} computes {_name(computed)}; "
            f"{_fitting(sizes, weights.quick_gelu)}"
        )
