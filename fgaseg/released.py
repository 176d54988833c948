"""Names of the released FGAseg's checkpoint and what they are called here.

The layout was read off the released code (github.com/LiBingyu01/FGA-seg; its CLIP is CAT-Seg's); no released checkpoint was at
hand. Tensors keep their axes: concatenated inputs are in the same order (maps before guidance, global before local), heads are
split alike, kernels made from text have the channel before the taps. Three things are laid out otherwise, see `Take`.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

Take = Callable[[Tensor], Tensor]


def _same(tensor: Tensor) -> Tensor:
    return tensor


def _third(i: int) -> Take:
    """Query, key or value of PyTorch's fused projection (3 D, ...)."""
    return lambda tensor: tensor.chunk(3)[i]


def _as_convolution(tensor: Tensor) -> Tensor:
    """The weight of a linear map (D', D) as that of a 1 x 1 convolution (D', D, 1, 1)."""
    return tensor[:, :, None, None]


def _flat(tensor: Tensor) -> Tensor:
    """A padding token (1, 1, D) -> (D,)."""
    return tensor.flatten()


Rule = tuple[str, str, Take]
_WB = r"(weight|bias)"


def _encoder(released: str, ours: str) -> list[Rule]:
    """A transformer of CLIP, whose attention has a weight each for query, key and value but one bias for all."""
    block = rf"clip_model\.{released}transformer\.resblocks\.(\d+)"
    here = rf"clip.{ours}.transformer.resblocks.\1"
    return [
        (rf"{block}\.(ln_1|ln_2|mlp\.c_fc|mlp\.c_proj|attn\.out_proj)\.{_WB}", rf"{here}.\2.\3", _same),
        (rf"{block}\.attn\.([qkv])_proj_weight", rf"{here}.attn.\2_proj.weight", _same),
        *[(rf"{block}\.attn\.in_proj_bias", rf"{here}.attn.{x}_proj.bias", _third(i)) for i, x in enumerate("qkv")],
    ]


_LAYER = r"transformer\.layers\.(\d+)"
_CROSS = r"DCDT\.cross_atten_text\.(\d+)"

TABLE: list[Rule] = [
    # CLIP
    (r"clip_model\.visual\.(class_embedding|positional_embedding|proj|conv1\.weight)", r"clip.visual.\1", _same),
    (rf"clip_model\.visual\.(ln_pre|ln_post)\.{_WB}", r"clip.visual.\1.\2", _same),
    *_encoder(r"visual\.", "visual"),
    *_encoder("", "text"),
    (r"clip_model\.token_embedding\.weight", "clip.text.token_embedding.weight", _same),
    (rf"clip_model\.ln_final\.{_WB}", r"clip.text.ln_final.\1", _same),
    (r"clip_model\.positional_embedding", "clip.text_positional_embedding", _same),
    (r"clip_model\.(text_projection|logit_scale)", r"clip.\1", _same),
    # pixel-level alignment
    (r"DCDT\.gamma_text", "p2tformer.gamma", _same),
    *[
        (rf"{_CROSS}\.multihead_attn\.in_proj_{_WB}", rf"p2tformer.layers.\1.{x}_proj.\2", _third(i))
        for i, x in enumerate("qkv")
    ],
    (rf"{_CROSS}\.multihead_attn\.out_proj\.{_WB}", r"p2tformer.layers.\1.out_proj.\2", _same),
    (rf"{_CROSS}\.MLP\.{_WB}", r"p2tformer.layers.\1.linear.\2", _same),
    (rf"{_CROSS}\.norm\.{_WB}", r"p2tformer.layers.\1.norm.\2", _same),
    (r"proj\.vis\.1\.0\.weight", "projector.upsample.1.weight", _same),
    (rf"proj\.vis\.1\.1\.{_WB}", r"projector.upsample.2.\1", _same),
    (r"proj\.vis\.3\.0\.weight", "projector.upsample.5.weight", _same),
    (rf"proj\.vis\.3\.1\.{_WB}", r"projector.upsample.6.\1", _same),
    (rf"proj\.vis\.4\.{_WB}", r"projector.upsample.8.\1", _same),
    (rf"proj\.txt\.{_WB}", r"projector.kernel.\1", _same),
    # category supplementation
    (rf"transformer\.conv1\.{_WB}", r"embed_global.conv.\1", _same),
    (rf"transformer\.conv2\.{_WB}", r"embed_local.conv.\1", _same),
    (rf"transformer\.Local_align\.txt\.{_WB}", r"local.kernel.\1", _same),
    (r"transformer\.conv_cat\.weight", "fuse.linear.weight", _as_convolution),
    (r"transformer\.conv_cat\.bias", "fuse.linear.bias", _same),
    # guidance and propagation
    (rf"transformer\.guidance_projection\.0\.{_WB}", r"vision_guidance.\1", _same),
    (rf"transformer\.text_guidance_projection\.0\.{_WB}", r"text_guidance.\1", _same),
    (rf"{_LAYER}\.swin_block\.guidance_norm\.{_WB}", r"propagation.spatial.\1.guidance_norm.\2", _same),
    *[
        rule
        for i in (0, 1)
        for rule in (
            (
                rf"{_LAYER}\.swin_block\.block_{i + 1}\.(norm1|norm2|mlp\.fc1|mlp\.fc2)\.{_WB}",
                rf"propagation.spatial.\1.blocks.{i}.\2.\3",
                _same,
            ),
            (
                rf"{_LAYER}\.swin_block\.block_{i + 1}\.attn\.(q|k|v|proj)\.{_WB}",
                rf"propagation.spatial.\1.blocks.{i}.attention.\2.\3",
                _same,
            ),
        )
    ],
    (rf"{_LAYER}\.attention\.attention\.([qkv])\.{_WB}", r"propagation.classes.\1.\2.\3", _same),
    (rf"{_LAYER}\.attention\.(norm1|norm2)\.{_WB}", r"propagation.classes.\1.\2.\3", _same),
    (rf"{_LAYER}\.attention\.MLP\.0\.{_WB}", r"propagation.classes.\1.mlp.fc1.\2", _same),
    (rf"{_LAYER}\.attention\.MLP\.2\.{_WB}", r"propagation.classes.\1.mlp.fc2.\2", _same),
    (rf"{_LAYER}\.attention\.padding_tokens", r"propagation.classes.\1.padding_map", _flat),
    (rf"{_LAYER}\.attention\.padding_guidance", r"propagation.classes.\1.padding_guidance", _flat),
    # decoder
    *[
        rule
        for i in (0, 1)
        for rule in (
            (rf"@upsample{i + 1}\.{_WB}", rf"decoder.guidance.{i}.up.\1", _same),
            (rf"transformer\.decoder_guidance_projection\.{i}\.0\.{_WB}", rf"decoder.guidance.{i}.conv.\1", _same),
            (rf"transformer\.decoder{i + 1}\.up\.{_WB}", rf"decoder.stages.{i}.up.\1", _same),
            (rf"transformer\.decoder{i + 1}\.conv\.double_conv\.(\d)\.{_WB}", rf"decoder.stages.{i}.conv.\1.\2", _same),
            (rf"transformer\.conv_cat_decoder_{i + 1}\.weight", f"decoder.fuse.{i}.linear.weight", _as_convolution),
            (rf"transformer\.conv_cat_decoder_{i + 1}\.bias", f"decoder.fuse.{i}.linear.bias", _same),
        )
    ],
    (rf"transformer\.corr_local_decoder_projection\.0\.{_WB}", r"decoder.lcs_up.0.\1", _same),
    (rf"transformer\.corr_local_decoder_projection\.1\.double_conv\.(\d)\.{_WB}", r"decoder.lcs_up.1.\1.\2", _same),
    (rf"transformer\.head\.{_WB}", r"decoder.head.\1", _same),
    (rf"transformer\.head_auxi_(\d)\.{_WB}", r"heads.\1.\2", _same),
]
"""Patterns of released names, what they are here, how the tensor is taken over; one released tensor may become several.

Names lack their prefix `sem_seg_head.predictor.`; those outside of it begin with `@`.
"""

LEFT_OUT: list[tuple[str, str]] = [
    (r".*\.attn_mask", "computed here"),
    (r"proj\.vis\.[13]\.1\.(running_mean|running_var|num_batches_tracked)", "the projector keeps no statistics here"),
    (r"@(clip_)?pixel_(mean|std)", "CLIP's statistics are constants here"),
]
"""Patterns of released names that have no counterpart on purpose, and why."""


@dataclass
class Conversion:
    """What became of a checkpoint: tensors under the names used here, and by name what was left out and why."""

    tensors: dict[str, Tensor] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)


def _short(name: str) -> str:
    prefix = "sem_seg_head.predictor."
    return name.removeprefix(prefix) if name.startswith(prefix) else f"@{name}"


def _named_here(name: str) -> Iterator[tuple[str, Take]]:
    for pattern, ours, take in TABLE:
        match = re.fullmatch(pattern, _short(name))
        if match:
            yield match.expand(ours), take


def convert(released: Mapping[str, Tensor], shapes: Mapping[str, torch.Size]) -> Conversion:
    """Rename a released checkpoint's tensors to those of a model with these names and shapes.

    Each released name is converted or in `left_out`; each name of the model is converted or in `missing`.
    """
    result = Conversion()
    reasons: dict[str, str] = {}
    for name, tensor in released.items():
        targets = list(_named_here(name))
        why = [reason for pattern, reason in LEFT_OUT if re.fullmatch(pattern, _short(name))]
        if not targets:
            result.left_out[name] = why[0] if why else "no counterpart in the table"
        for ours, take in targets:
            if ours not in shapes:
                result.left_out[name] = f"this model has no {ours}"
                continue
            try:
                taken = take(tensor)
            except (RuntimeError, IndexError):  # an axis is not there
                taken = tensor
            if taken.shape == shapes[ours]:
                result.tensors[ours] = taken.float() if taken.is_floating_point() else taken
            else:
                reasons[ours] = f"shapes disagree: {tuple(taken.shape)} in the file, {tuple(shapes[ours])} here"
                result.left_out[name] = reasons[ours]
    result.missing = {name: reasons.get(name, "not in the file") for name in shapes if name not in result.tensors}
    return result
