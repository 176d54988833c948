"""The method as it is written down: the yardstick of speed, and the answer that the fast model is tested against.

Each step stands here as the method (and the released code, where the method leaves it open) states it, one operation after
the other for every class, on maps that lie in memory as the released code's do: guidance is concatenated to every class's map,
classes are padded up to the cap, attention is a product, a softmax and a product; in CLIP alone it is PyTorch's fused kernel,
which the released code's `nn.MultiheadAttention` runs too. Nothing is shared with `fgaseg.model` but the names of its
parameters and which GELU its CLIP has. What the released code does by mistake is left out: loops over classes in Python, two
sigmoids in a row.

Axes: B images, K classes, C embedding size, D hidden channels, G guidance channels, h x w patch grid, M heads. There is one
prompt for each class.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from fgaseg.model.clip import DenseCLIP
from fgaseg.model.fgaseg import FGAseg
from fgaseg.model.lean import QuickGELU
from fgaseg.schema import Evaluation, Model

Weights = Mapping[str, Tensor]
DROPPED = -100.0


@dataclass(frozen=True)
class Answer:
    """Logits (B, K, 4h, 4w) and, in training, the map `S` of equation 7 of that shape."""

    logits: Tensor
    alignment: Tensor | None


def weights_of(model: torch.nn.Module) -> dict[str, Tensor]:
    """The model's own parameters and buffers: gradients reach them."""
    return dict(model.named_parameters()) | dict(model.named_buffers())


def part(weights: Weights, name: str) -> dict[str, Tensor]:
    """The weights below `name`."""
    return {key.removeprefix(f"{name}."): tensor for key, tensor in weights.items() if key.startswith(f"{name}.")}


def linear(weights: Weights, x: Tensor) -> Tensor:
    return F.linear(x, weights["weight"], weights.get("bias"))


def layer_norm(weights: Weights, x: Tensor) -> Tensor:
    return F.layer_norm(x, x.shape[-1:], weights["weight"], weights["bias"])


def conv(weights: Weights, x: Tensor) -> Tensor:
    return F.conv2d(x, weights["weight"], weights.get("bias"), padding=weights["weight"].shape[-1] // 2)


def transposed_conv(weights: Weights, x: Tensor) -> Tensor:
    return F.conv_transpose2d(x, weights["weight"], weights["bias"], stride=weights["weight"].shape[-1])


def split_heads(x: Tensor, heads: int) -> Tensor:
    """(N, T, D) -> (N, M, T, D / M)."""
    return x.view(*x.shape[:2], heads, -1).transpose(1, 2)


def quick_gelu(x: Tensor) -> Tensor:
    return x * torch.sigmoid(1.702 * x)


def attend(q: Tensor, k: Tensor, v: Tensor, heads: int, visible: Tensor | None = None) -> Tensor:
    """Softmax attention over (N, T, D); `visible` (W, 1, T, T), N a multiple of W, is False where a query must not look."""
    q, k, v = (split_heads(x, heads) for x in (q, k, v))
    scores = (q / math.sqrt(q.shape[-1])) @ k.transpose(-2, -1)
    if visible is not None:
        hidden = torch.zeros(visible.shape, dtype=scores.dtype, device=scores.device).masked_fill(~visible, -math.inf)
        scores = (scores.unflatten(0, (-1, len(visible))) + hidden).flatten(0, 1)
    return (scores.softmax(-1) @ v).transpose(1, 2).flatten(2)


def clip_feed_forward(block: Any, x: Tensor) -> Tensor:
    """The second half of a transformer block of CLIP: tokens (N, T, width)."""
    weights = weights_of(block)
    gelu = quick_gelu if isinstance(block.mlp.gelu, QuickGELU) else F.gelu
    hidden = gelu(linear(part(weights, "mlp.c_fc"), layer_norm(part(weights, "ln_2"), x)))
    return x + linear(part(weights, "mlp.c_proj"), hidden)


def clip_block(block: Any, x: Tensor, heads: int, mask: Tensor | None = None) -> Tensor:
    """A transformer block of CLIP: tokens (N, T, width); `mask` (T, T) is added to the scores."""
    weights = weights_of(block)
    y = layer_norm(part(weights, "ln_1"), x)
    q, k, v = (split_heads(linear(part(weights, f"attn.{name}_proj"), y), heads) for name in "qkv")
    y = F.scaled_dot_product_attention(q, k, v, mask).transpose(1, 2).flatten(2)
    return clip_feed_forward(block, x + linear(part(weights, "attn.out_proj"), y))


def encode_text(clip: DenseCLIP, tokens: Tensor) -> Tensor:
    """Prompts of full length (K, L) -> L2-normalised `F_t` (K, C), read at the end token."""
    length = tokens.shape[1]
    x = clip.text["token_embedding"](tokens) + clip.text_positional_embedding[:length]
    causal = x.new_full((length, length), -math.inf).triu(1)
    transformer: Any = clip.text["transformer"]
    for block in transformer.resblocks:
        x = clip_block(block, x, block.attn.heads, causal)
    x = clip.text["ln_final"](x)[torch.arange(len(x)), tokens.argmax(1)] @ clip.text_projection
    return F.normalize(x, dim=-1)


def encode_image(clip: DenseCLIP, images: Tensor, dropped: bool = False) -> tuple[Tensor, list[Tensor]]:
    """Images (B, 3, S, S) -> `F_v` (B, C, h, w) and guidance features (B, width, h, w); `dropped` as `forward` has it."""
    visual = clip.visual
    x = visual.conv1(images).flatten(2).transpose(1, 2)
    x = torch.cat([visual.class_embedding.expand(len(x), 1, -1), x], 1) + visual.positional_embedding
    x = visual.ln_pre(x)
    guidance = []
    *blocks, last = visual.transformer.resblocks
    side = math.isqrt(x.shape[1])
    for i, block in enumerate(blocks):
        x = clip_block(block, x, block.attn.heads)
        if i in clip.guidance_layers:
            guidance.append(x[:, 1:].transpose(1, 2).unflatten(2, (side, side)))
    weights, used = weights_of(last), x if dropped else x[:, 1:]
    y = layer_norm(part(weights, "ln_1"), used)
    for name in "qkv" if dropped else "v":  # only the value, which comes last, is used
        path = linear(part(weights, "attn.out_proj"), linear(part(weights, f"attn.{name}_proj"), y))
    y = clip_feed_forward(last, path + (x[:, :1] if clip.dense_residual == "class_token" else used))
    y = visual.ln_post(y) @ visual.proj
    return y[:, -side * side :].transpose(1, 2).unflatten(2, (side, side)), guidance


def position_encoding(channels: int, height: int, width: int) -> Tensor:
    """2-D sinusoids (h w, channels), normalised, temperature 10000."""
    half = channels // 2
    frequency = 10000 ** (2 * (torch.arange(half) // 2) / half)
    row, column = torch.meshgrid(torch.arange(1, height + 1) / height, torch.arange(1, width + 1) / width, indexing="ij")
    angles = [2 * math.pi * share.flatten()[:, None] / frequency for share in (row, column)]
    even = torch.arange(half) % 2 == 0
    return torch.cat([torch.where(even, angle.sin(), angle.cos()) for angle in angles], 1)


def p2tformer(weights: Weights, text: Tensor, image: Tensor, layers: int, heads: int) -> Tensor:
    """Equations 5 and 6: `F_t` (K, C) and `F_v` (B, C, h, w) -> `T^` (B, K, C)."""
    values = image.flatten(2).transpose(1, 2)
    keys = values + position_encoding(*image.shape[1:]).to(image)
    first = text.repeat(len(image), 1, 1)
    t = first
    for i in range(layers):
        layer = part(weights, f"layers.{i}")
        q, k, v = (linear(part(layer, f"{name}_proj"), x) for name, x in (("q", t), ("k", keys), ("v", values)))
        attended = linear(part(layer, "out_proj"), attend(q, k, v, heads))
        t = layer_norm(part(layer, "norm"), t + linear(part(layer, "linear"), attended))
    return first + weights["gamma"] * t


def convolve_classes(image: Tensor, kernels: Tensor, bias: Tensor) -> Tensor:
    """One image (C, h, w) with a kernel (K, C, k, k) and a bias (K,) for each class -> (K, h, w)."""
    return F.conv2d(image[None], kernels, bias, padding=kernels.shape[-1] // 2)[0]


def t2p_similarity(weights: Weights, image: Tensor, text: Tensor) -> Tensor:
    """Equation 7: `F_v` (B, C, h, w) and `T^` (B, K, C) -> `S` (B, K, 4h, 4w)."""
    x = image
    for i in (1, 5):
        x = F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)
        x = conv(part(weights, f"upsample.{i}"), x)
        x = F.instance_norm(x, weight=weights[f"upsample.{i + 1}.weight"], bias=weights[f"upsample.{i + 1}.bias"]).relu_()
    x = conv(part(weights, "upsample.8"), x)
    made = linear(part(weights, "kernel"), text)
    kernels = made[..., :-1].unflatten(2, (x.shape[1], 3, 3))
    return torch.stack([convolve_classes(*each) for each in zip(x, kernels, made[..., -1], strict=True)])


def local_similarity(weights: Weights, image: Tensor, text: Tensor, params: Model) -> Tensor:
    """Equation 10: `F_v` (B, C, h, w) and `T^` (B, K, C) -> LCS (B, K, h, w)."""
    size = params.lcs.kernel_size
    made = linear(part(weights, "kernel"), F.normalize(text, dim=-1))
    kernels = made[..., :-1].unflatten(2, (image.shape[1], size, size))
    if params.lcs.normalisation == "channels":
        kernels = kernels.softmax(2)
    elif params.lcs.normalisation == "taps":
        kernels = kernels.flatten(3).softmax(3).view_as(kernels)
    unit = F.normalize(image, dim=1)
    return torch.stack([convolve_classes(*each) for each in zip(unit, kernels, made[..., -1], strict=True)])


def of_classes(maps: Tensor) -> Tensor:
    """(B, D, K, h, w) -> (B K, D, h, w)."""
    return maps.transpose(1, 2).flatten(0, 1)


def with_classes(maps: Tensor, batch: int) -> Tensor:
    """(B K, D, h, w) -> (B, D, K, h, w)."""
    return maps.unflatten(0, (batch, -1)).transpose(1, 2)


def repeated(each: Tensor, count: int) -> Tensor:
    """What all classes, or all positions, of an image share: (B, ...) -> (B count, ...), a view for one image."""
    return each[:, None].expand(-1, count, *each.shape[1:]).flatten(0, 1)


def fuse(weights: Weights, a: Tensor, b: Tensor, params: Model) -> Tensor:
    """Two maps (N, D, ...) -> (N, D, ...)."""
    if params.fusion == "add":
        return a + b
    both = torch.cat([a, b], 1).movedim(1, -1)
    return F.linear(both, weights["linear.weight"].flatten(1), weights["linear.bias"]).movedim(-1, 1)


def windows(x: Tensor, size: int) -> Tensor:
    """(N, h, w, D) -> (N windows, size x size, D)."""
    n, height, width, dim = x.shape
    x = x.view(n, height // size, size, width // size, size, dim)
    return x.permute(0, 1, 3, 2, 4, 5).reshape(-1, size * size, dim)


def joined(x: Tensor, size: int, height: int, width: int) -> Tensor:
    """What undoes `windows`."""
    x = x.view(-1, height // size, width // size, size, size, x.shape[-1])
    return x.permute(0, 1, 3, 2, 4, 5).reshape(-1, height, width, x.shape[-1])


def visible_in_windows(height: int, width: int, size: int, shift: int) -> Tensor:
    """After a cyclic shift only what was together on the map sees each other: (windows, 1, T, T)."""
    region = torch.zeros(1, height, width, 1)
    cuts = (slice(0, -size), slice(-size, -shift), slice(-shift, None))
    for number, (rows, columns) in enumerate((r, c) for r in cuts for c in cuts):
        region[:, rows, columns] = number
    region = windows(region, size)[..., 0]
    return (region[:, :, None] == region[:, None])[:, None]


def swin_block(weights: Weights, x: Tensor, guidance: Tensor, heads: int, size: int, shift: int) -> Tensor:
    """Maps (N, h, w, D) with vision guidance (N, h, w, G) -> (N, h, w, D)."""
    _, height, width, dim = x.shape
    y, visible = torch.cat([layer_norm(part(weights, "norm1"), x), guidance], -1), None
    if shift:
        y = torch.roll(y, (-shift, -shift), (1, 2))
        visible = visible_in_windows(height, width, size, shift).to(x.device)
    y = windows(y, size)
    q, k, v = (linear(part(weights, f"attention.{name}"), t) for name, t in (("q", y), ("k", y), ("v", y[..., :dim])))
    y = linear(part(weights, "attention.proj"), attend(q, k, v, heads, visible))
    y = joined(y, size, height, width)
    if shift:
        y = torch.roll(y, (shift, shift), (1, 2))
    x = x + y
    hidden = F.gelu(linear(part(weights, "mlp.fc1"), layer_norm(part(weights, "norm2"), x)))
    return x + linear(part(weights, "mlp.fc2"), hidden)


def spatial_aggregation(weights: Weights, maps: Tensor, guidance: Tensor, params: Model) -> Tensor:
    """Maps (B, D, K, h, w) and vision guidance (B, G, h, w) -> (B, D, K, h, w)."""
    batch, _, classes, height, width = maps.shape
    p = params.propagation
    x = maps.permute(0, 2, 3, 4, 1).reshape(batch * classes, height, width, -1)
    g = layer_norm(part(weights, "guidance_norm"), repeated(guidance.permute(0, 2, 3, 1), classes))
    for i, shift in enumerate((0, p.window // 2)):
        x = swin_block(part(weights, f"blocks.{i}"), x, g, p.heads, p.window, shift)
    return x.unflatten(0, (batch, classes)).permute(0, 4, 1, 2, 3)


def linear_attention(q: Tensor, k: Tensor, v: Tensor, heads: int) -> Tensor:
    """Attention over (N, T, D) whose weights are products of feature maps, elu + 1, of queries and keys.

    Sums are made of values that are divided by their number, so that 16 bits can hold them (released code).
    """
    count = v.shape[1]
    q, k, v = (x.unflatten(2, (heads, -1)) for x in (q, k, v))
    q, k = F.elu(q) + 1, F.elu(k) + 1
    memory = torch.einsum("nkmc,nkme->nmce", k, v / count)
    weight = 1 / (torch.einsum("nkmc,nmc->nkm", q, k.sum(1)) + 1e-6)
    return (torch.einsum("nkmc,nmce,nkm->nkme", q, memory, weight) * count).flatten(2)


def class_aggregation(weights: Weights, maps: Tensor, guidance: Tensor, params: Model, training: bool) -> Tensor:
    """Maps (B, D, K, h, w) and text guidance (B, K, G) -> (B, D, K, h, w)."""
    batch, _, classes, height, width = maps.shape
    p = params.propagation
    pooling = p.pooling if training else 1
    x = F.avg_pool2d(of_classes(maps), pooling).unflatten(0, (batch, classes)).transpose(1, 2)
    rows, columns = x.shape[-2:]
    missing = max(p.class_cap - classes, 0)
    padding = weights["padding_map"][None, :, None, None, None].expand(batch, -1, missing, rows, columns)
    x = torch.cat([x, padding], 2).permute(0, 3, 4, 2, 1).reshape(batch * rows * columns, classes + missing, -1)
    g = repeated(torch.cat([guidance, weights["padding_guidance"].expand(batch, missing, -1)], 1), rows * columns)
    y = layer_norm(part(weights, "norm1"), x)
    q, k = (linear(part(weights, name), torch.cat([y, g], -1)) for name in ("q", "k"))
    attended = linear_attention(q, k, linear(part(weights, "v"), y), p.heads)
    y = layer_norm(part(weights, "norm2"), x + attended)
    change = attended + linear(part(weights, "mlp.fc2"), linear(part(weights, "mlp.fc1"), y).relu())
    change = change.unflatten(0, (batch, rows, columns)).permute(0, 3, 4, 1, 2).flatten(0, 1)
    change = F.interpolate(change, size=(height, width), mode="bilinear", align_corners=False)
    return maps + change.unflatten(0, (batch, -1)).transpose(1, 2)[:, :, :classes]


def double_conv(weights: Weights, x: Tensor) -> Tensor:
    """Two 3 x 3 convolutions with GroupNorm (16 channels a group) and ReLU."""
    for i in (0, 3):
        x = conv(part(weights, str(i)), x)
        norm = part(weights, str(i + 1))
        x = F.group_norm(x, max(1, x.shape[1] // 16), norm["weight"], norm["bias"]).relu_()
    return x


def decoder_stage(weights: Weights, x: Tensor, guidance: Tensor) -> Tensor:
    """Maps (B K, D, H, W) and guidance (B, G, 2H, 2W) -> (B K, D', 2H, 2W)."""
    raised = transposed_conv(part(weights, "up"), x)
    return double_conv(part(weights, "conv"), torch.cat([raised, repeated(guidance, len(x) // len(guidance))], 1))


def decoder(weights: Weights, maps: Tensor, local: Tensor | None, features: Sequence[Tensor], params: Model) -> Tensor:
    """Maps and embedded LCS (B, D, K, h, w), CLIP's guidance features (B, width, h, w) -> logits (B, K, 4h, 4w)."""
    batch = len(maps)
    guidance = [
        conv(part(weights, f"guidance.{i}.conv"), transposed_conv(part(weights, f"guidance.{i}.up"), feature)).relu()
        for i, feature in enumerate(features)
    ]
    x = of_classes(maps)
    if local is not None:
        local = of_classes(local)
        x = fuse(part(weights, "fuse.0"), x, local, params)
    x = decoder_stage(part(weights, "stages.0"), x, guidance[0])
    if local is not None:
        raised = double_conv(part(weights, "lcs_up.1"), transposed_conv(part(weights, "lcs_up.0"), local))
        x = fuse(part(weights, "fuse.1"), x, raised, params)
    x = decoder_stage(part(weights, "stages.1"), x, guidance[1])
    return conv(part(weights, "head"), x).squeeze(1).unflatten(0, (batch, -1))


def embed(weights: Weights, maps: Tensor) -> Tensor:
    """Similarity maps (B, K, h, w) -> (B, D, K, h, w)."""
    return with_classes(conv(weights, maps.flatten(0, 1)[:, None]), len(maps))


def forward(model: FGAseg, images: Tensor, text: Tensor, shared: bool = False, dropped: bool = False) -> Answer:
    """The whole method for images (B, 3, S, S) and `F_t` (K, C), with the weights of `model` and its mode.

    `shared`: the images are views of one, and all keep the same classes where there are more than the cap. `dropped`: compute
    in inference too what the released code computes there and drops: the T2P projector, and what the last block of CLIP's
    image encoder makes of queries, keys and the class token.
    """
    params, weights = model.params, weights_of(model)
    image, features = encode_image(model.clip, images, dropped)
    aligned = text.expand(len(images), -1, -1)
    if params.p2tformer.layers:
        aligned = p2tformer(part(weights, "p2tformer"), text, image, params.p2tformer.layers, params.p2tformer.heads)
    alignment = None
    if (model.training or dropped) and params.t2p.weight > 0:
        alignment = t2p_similarity(part(weights, "projector"), image, aligned)
    gcs = torch.einsum("bchw,bkc->bkhw", F.normalize(image, dim=1), F.normalize(aligned, dim=-1))
    lcs = local_similarity(part(weights, "local"), image, aligned, params) if params.lcs.enabled else None

    keep, cap = None, params.propagation.class_cap
    if len(text) > cap:
        best = gcs.amax((2, 3))
        best = best.amax(0, keepdim=True).expand_as(best) if shared else best
        keep = best.topk(cap, 1).indices.sort(1).values
        chosen = torch.arange(len(images), device=keep.device)[:, None], keep
        aligned, gcs, lcs = aligned[chosen], gcs[chosen], None if lcs is None else lcs[chosen]

    maps, local = embed(part(weights, "embed_global.conv"), gcs), None
    if lcs is not None:
        local = embed(part(weights, "embed_local.conv"), lcs)
        maps = fuse(part(weights, "fuse"), maps, local, params)
    vision = conv(part(weights, "vision_guidance"), image).relu()
    guidance = linear(part(weights, "text_guidance"), aligned).relu()
    for i in range(params.propagation.blocks):
        maps = spatial_aggregation(part(weights, f"propagation.spatial.{i}"), maps, vision, params)
        maps = class_aggregation(part(weights, f"propagation.classes.{i}"), maps, guidance, params, model.training)
    logits = decoder(part(weights, "decoder"), maps, local, features, params)
    if keep is not None:
        every = logits.new_full((len(images), len(text), *logits.shape[2:]), DROPPED)
        logits = every.scatter(1, keep[:, :, None, None].expand_as(logits), logits)
    return Answer(logits, alignment)


def scores_of_image(model: FGAseg, image: Image.Image, text: Tensor, views: Tensor, params: Evaluation) -> Tensor:
    """Class probabilities (K, H, W) of an image from its `views` (V, 3, S, S): the windows and, last, the whole image.

    All are resized to the windows' size, put together at `params.resize`, and resized to the image's own size.
    """
    scores = forward(model, views, text, shared=True).logits.softmax(1)
    scores = F.interpolate(scores, size=views.shape[-2:], mode="bilinear", align_corners=False)
    side, window = params.resize, params.window
    total, count = scores.new_zeros(scores.shape[1], side, side), scores.new_zeros(side, side)
    starts = range(0, side - window + 1, params.stride)
    for score, (top, left) in zip(scores, ((t, u) for t in starts for u in starts), strict=False):
        total[:, top : top + window, left : left + window] += score
        count[top : top + window, left : left + window] += 1
    whole = F.interpolate(scores[-1:], size=(side, side), mode="bilinear", align_corners=False)
    merged = (total / count + whole) / 2
    return F.interpolate(merged, size=(image.height, image.width), mode="bilinear", align_corners=False)[0]


def segment(model: FGAseg, image: Image.Image, text: Tensor, views: Tensor, params: Evaluation) -> Tensor:
    """The best class of each pixel (H, W); arguments as those of `scores_of_image`."""
    return scores_of_image(model, image, text, views, params).argmax(0)
