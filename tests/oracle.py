"""The method's equations for the model, each written out as literally as possible: the tests' independent answer.

One image or class at a time, loops in place of tensor algebra, nothing shared with `fgaseg.model` but the names of
parameters. Axes: C embedding size, K classes, D hidden channels, G guidance channels, h x w patch grid.
"""

import math
from collections.abc import Callable, Sequence

import numpy as np
from oracle_layers import (
    Array,
    Weights,
    attend,
    average_pool,
    bilinear,
    conv2d,
    convolve,
    gelu,
    group_norm,
    instance_norm,
    layer_norm,
    layer_norm_rows,
    linear,
    linear_rows,
    normalised,
    part,
    relu,
    softmax,
    transposed_conv2d,
)

from fgaseg.schema import Model

Activation = Callable[[Array], Array]


def _clip_mlp(weights: Weights, rows: Array, activation: Activation) -> Array:
    hidden = activation(linear_rows(part(weights, "mlp.c_fc"), layer_norm_rows(part(weights, "ln_2"), rows)))
    return linear_rows(part(weights, "mlp.c_proj"), hidden)


def _query_key_value(weights: Weights, rows: Array) -> list[Array]:
    """Query, key and value (N, C) each, from open_clip's fused projection."""
    weight, bias = weights["attn.in_proj_weight"], weights["attn.in_proj_bias"]
    width = rows.shape[1]
    cuts = [slice(i * width, (i + 1) * width) for i in range(3)]
    return [linear_rows({"weight": weight[cut], "bias": bias[cut]}, rows) for cut in cuts]


def clip_block(weights: Weights, rows: Array, heads: int, activation: Activation, causal: bool = False) -> Array:
    """A transformer block of CLIP: tokens (N, C) -> (N, C)."""
    q, k, v = _query_key_value(weights, layer_norm_rows(part(weights, "ln_1"), rows))
    attended = attend(q, k, v, heads, lambda i, j: j <= i or not causal)
    rows = rows + linear_rows(part(weights, "attn.out_proj"), attended)
    return rows + _clip_mlp(weights, rows, activation)


def dense_last_block(weights: Weights, rows: Array, residual: str, activation: Activation) -> Array:
    """The last block's value path, for the patches of tokens (1 + N, C), the class token first -> (N, C)."""
    out = []
    for patch in rows[1:]:
        v = _query_key_value(weights, layer_norm(part(weights, "ln_1"), patch)[None])[2][0]
        y = (rows[0] if residual == "class_token" else patch) + linear(part(weights, "attn.out_proj"), v)
        out.append(y + _clip_mlp(weights, y[None], activation)[0])
    return np.array(out)


def image_features(
    weights: Weights,
    image: Array,
    heads: int,
    guidance_layers: Sequence[int],
    residual: str,
    activation: Activation,
    prompts: Sequence[Array] | None = None,
) -> tuple[Array, list[Array]]:
    """An image (3, S, S) -> `F_v` (C, h, w) and the guidance features (width, h, w); weights of open_clip's CLIP.

    `prompts` are learnable tokens (N, width) for each block but the last, put between the class token and the patches
    and taken out again after it.
    """
    visual = part(weights, "visual")
    kernels = visual["conv1.weight"]
    patch = kernels.shape[-1]
    grid = image.shape[-1] // patch
    tokens = [visual["class_embedding"]]
    for row in range(grid):
        for column in range(grid):
            pixels = image[:, row * patch : (row + 1) * patch, column * patch : (column + 1) * patch]
            tokens.append(np.array([sum((kernel * pixels).ravel()) for kernel in kernels]))
    rows = layer_norm_rows(part(visual, "ln_pre"), np.array(tokens) + visual["positional_embedding"])
    layers = 1 + max(int(name.split(".")[2]) for name in visual if name.startswith("transformer.resblocks."))
    guidance = []
    for layer in range(layers - 1):
        if prompts is not None:
            rows = np.concatenate([rows[:1], prompts[layer], rows[1:]])
        rows = clip_block(part(visual, f"transformer.resblocks.{layer}"), rows, heads, activation)
        if prompts is not None:
            rows = np.concatenate([rows[:1], rows[1 + len(prompts[layer]) :]])
        if layer in guidance_layers:
            guidance.append(rows[1:].T.reshape(-1, grid, grid))
    last = dense_last_block(part(visual, f"transformer.resblocks.{layers - 1}"), rows, residual, activation)
    projected = linear_rows({"weight": visual["proj"].T}, layer_norm_rows(part(visual, "ln_post"), last))
    return projected.T.reshape(-1, grid, grid), guidance


def text_features(weights: Weights, tokens: Sequence[int], heads: int, activation: Activation) -> Array:
    """One full-length prompt -> `F_t` (C,), read at the end token, the one with the highest number."""
    rows = np.array([weights["token_embedding.weight"][t] + weights["positional_embedding"][i] for i, t in enumerate(tokens)])
    layers = 1 + max(int(name.split(".")[2]) for name in weights if name.startswith("transformer.resblocks."))
    for layer in range(layers):
        rows = clip_block(part(weights, f"transformer.resblocks.{layer}"), rows, heads, activation, causal=True)
    end = layer_norm(part(weights, "ln_final"), rows[list(tokens).index(max(tokens))])
    return normalised(linear({"weight": weights["text_projection"].T}, end))


def position_encoding(channels: int, height: int, width: int) -> Array:
    """2-D sinusoidal, normalised, temperature 10000 -> (channels, height, width); rows, then columns."""
    half = channels // 2
    out = np.empty((channels, height, width))
    for c in range(channels):
        i = c % half
        wave = math.sin if i % 2 == 0 else math.cos
        for row in range(height):
            for column in range(width):
                share = (row + 1) / height if c < half else (column + 1) / width
                out[c, row, column] = wave(2 * math.pi * share / 10000 ** (2 * (i // 2) / half))
    return out


def p2tformer(weights: Weights, text: Array, image: Array, layers: int, heads: int) -> Array:
    """Equations 5 and 6: `F_t` (N, C) and `F_v` (C, h, w) -> `T^` (N, C)."""
    values = image.reshape(len(image), -1).T
    keys = values + position_encoding(*image.shape).reshape(len(image), -1).T
    t = text
    for i in range(layers):
        layer = part(weights, f"layers.{i}")
        projections = (("q_proj", t), ("k_proj", keys), ("v_proj", values))
        q, k, v = (linear_rows(part(layer, name), rows) for name, rows in projections)
        attended = linear_rows(part(layer, "out_proj"), attend(q, k, v, heads))
        t = layer_norm_rows(part(layer, "norm"), t + linear_rows(part(layer, "linear"), attended))
    return text + weights["gamma"] * t


def t2p_similarity(weights: Weights, images: Array, texts: Array) -> Array:
    """Equation 7: `F_v` (B, C, h, w) and `T^` (B, K, C) -> `S` (B, K, 4h, 4w)."""
    out = []
    for image, classes in zip(images, texts, strict=True):
        x = image
        for conv, norm in ((1, 2), (5, 6)):
            doubled = bilinear(x, 2 * x.shape[1], 2 * x.shape[2])
            convolved = conv2d(part(weights, f"upsample.{conv}"), doubled)
            x = relu(instance_norm(part(weights, f"upsample.{norm}"), convolved))
        projected = conv2d(part(weights, "upsample.8"), x)
        for text in classes:
            *kernel, bias = linear(part(weights, "kernel"), text)
            out.append(convolve(projected, np.array(kernel).reshape(-1, 3, 3), bias))
    return np.array(out).reshape(*texts.shape[:2], *out[0].shape)


def gcs(image: Array, text: Array) -> Array:
    """Equation 9: `F_v` (C, h, w) and `T^` (K, C) -> (K, h, w)."""
    out = np.empty((len(text), *image.shape[1:]))
    for k, row, column in np.ndindex(out.shape):
        pixel = image[:, row, column]
        product = sum(pixel[c] * text[k, c] for c in range(len(pixel)))
        out[k, row, column] = product / math.sqrt(sum(v * v for v in pixel)) / math.sqrt(sum(v * v for v in text[k]))
    return out


def lcs(weights: Weights, image: Array, text: Array, size: int, normalisation: str) -> Array:
    """Equation 10: `F_v` (C, h, w) and `T^` (K, C) -> (K, h, w)."""
    channels, height, width = image.shape
    unit = np.empty_like(image)
    for row in range(height):
        for column in range(width):
            unit[:, row, column] = normalised(image[:, row, column])
    out = []
    for vector in text:
        *values, bias = linear(part(weights, "kernel"), normalised(vector))
        kernel = np.array(values).reshape(channels, size, size)
        if normalisation == "channels":
            for row in range(size):
                for column in range(size):
                    kernel[:, row, column] = softmax(kernel[:, row, column].tolist())
        elif normalisation == "taps":
            for c in range(channels):
                kernel[c] = np.reshape(softmax(kernel[c].ravel().tolist()), (size, size))
        out.append(convolve(unit, kernel, bias))
    return np.array(out)


def fuse(weights: Weights, a: Array, b: Array, fusion: str) -> Array:
    """Two maps (D, H, W) -> (D, H, W)."""
    if fusion == "add":
        return a + b
    return conv2d(part(weights, "linear"), np.concatenate([a, b]))


def shares_window(a: tuple[int, int], b: tuple[int, int], height: int, width: int, window: int, shift: int) -> bool:
    """Whether two positions of the map see each other after a cyclic shift.

    They must land in one window, at the offset that they have on the map: otherwise the shift has brought together
    opposite borders.
    """
    moved = [((row - shift) % height, (column - shift) % width) for row, column in (a, b)]
    (ra, ca), (rb, cb) = moved
    together = (ra // window, ca // window) == (rb // window, cb // window)
    return together and (ra - rb, ca - cb) == (a[0] - b[0], a[1] - b[1])


def swin_block(weights: Weights, x: Array, guidance: Array, heads: int, window: int, shift: int) -> Array:
    """One class's map (D, h, w) and vision guidance (G, h, w) -> (D, h, w)."""
    _, height, width = x.shape
    positions = list(np.ndindex(height, width))
    rows = np.array([x[:, row, column] for row, column in positions])
    normed = layer_norm_rows(part(weights, "norm1"), rows)
    guided = np.array([[*normed[i], *guidance[:, row, column]] for i, (row, column) in enumerate(positions)])
    inputs = (("q", guided), ("k", guided), ("v", normed))
    q, k, v = (linear_rows(part(weights, f"attention.{name}"), rows_in) for name, rows_in in inputs)
    attended = attend(q, k, v, heads, lambda i, j: shares_window(positions[i], positions[j], height, width, window, shift))
    rows = rows + linear_rows(part(weights, "attention.proj"), attended)
    hidden = gelu(linear_rows(part(weights, "mlp.fc1"), layer_norm_rows(part(weights, "norm2"), rows)))
    return (rows + linear_rows(part(weights, "mlp.fc2"), hidden)).T.reshape(x.shape)


def spatial_aggregation(weights: Weights, maps: Array, guidance: Array, heads: int, window: int) -> Array:
    """Maps (K, D, h, w) and vision guidance (G, h, w) -> (K, D, h, w)."""
    normed = np.empty_like(guidance)
    for row, column in np.ndindex(*guidance.shape[1:]):
        normed[:, row, column] = layer_norm(part(weights, "guidance_norm"), guidance[:, row, column])
    out = []
    for x in maps:
        for i, shift in enumerate((0, window // 2)):
            x = swin_block(part(weights, f"blocks.{i}"), x, normed, heads, window, shift)
        out.append(x)
    return np.array(out)


def _feature_map(x: Array) -> Array:
    return np.where(x > 0, x + 1, np.exp(np.minimum(x, 0)))


def class_aggregation(weights: Weights, maps: Array, guidance: Array, heads: int, cap: int, pooling: int) -> Array:
    """Maps (K, D, h, w) and text guidance (K, G) -> (K, D, h, w); `pooling` 1 pools nothing.

    Below the cap every position gets cap - K copies of the padding token beside its K classes.
    """
    classes, dim, height, width = maps.shape
    small = np.array([average_pool(x, pooling) for x in maps])
    change = np.empty_like(small)
    copies = max(cap - classes, 0)
    guides = [*guidance, *[weights["padding_guidance"]] * copies]
    size = dim // heads
    for row, column in np.ndindex(*small.shape[2:]):
        tokens = [*small[:, :, row, column], *[weights["padding_map"]] * copies]
        normed = [layer_norm(part(weights, "norm1"), token) for token in tokens]
        guided = np.array([[*token, *guide] for token, guide in zip(normed, guides, strict=True)])
        q, k = (_feature_map(linear_rows(part(weights, name), guided)) for name in ("q", "k"))
        v = linear_rows(part(weights, "v"), np.array(normed))
        for i in range(classes):
            attended = np.zeros(dim)
            for head in range(heads):
                channels = range(head * size, (head + 1) * size)
                shares = [sum(q[i, c] * k[j, c] for c in channels) for j in range(len(tokens))]
                for c in channels:
                    attended[c] = sum(share * v[j, c] for j, share in enumerate(shares)) / (sum(shares) + 1e-6)
            y = tokens[i] + attended
            hidden = relu(linear(part(weights, "mlp.fc1"), layer_norm(part(weights, "norm2"), y)))
            change[i, :, row, column] = y + linear(part(weights, "mlp.fc2"), hidden) - tokens[i]
    return maps + np.array([bilinear(x, height, width) for x in change])


def guidance_upsampling(weights: Weights, feature: Array) -> Array:
    """A CLIP feature (width, h, w) -> decoder guidance at a multiple of its resolution."""
    return relu(conv2d(part(weights, "conv"), transposed_conv2d(part(weights, "up"), feature)))


def double_conv(weights: Weights, x: Array) -> Array:
    """Two 3 x 3 convolutions with GroupNorm (16 channels a group) and ReLU."""
    for conv, norm in ((0, 1), (3, 4)):
        x = conv2d(part(weights, str(conv)), x)
        x = relu(group_norm(part(weights, str(norm)), x, max(1, len(x) // 16)))
    return x


def decoder_stage(weights: Weights, x: Array, guidance: Array) -> Array:
    """One class's map (D, H, W) and guidance (G, 2H, 2W) -> (D', 2H, 2W)."""
    return double_conv(part(weights, "conv"), np.concatenate([transposed_conv2d(part(weights, "up"), x), guidance]))


def decoder(weights: Weights, maps: Array, local: Array | None, features: Sequence[Array], fusion: str) -> Array:
    """Maps and embedded LCS (K, D, h, w), two CLIP features (width, h, w) -> logits (K, 4h, 4w)."""
    guidance = [guidance_upsampling(part(weights, f"guidance.{i}"), feature) for i, feature in enumerate(features)]
    out = []
    for k, x in enumerate(maps):
        if local is not None:
            x = fuse(part(weights, "fuse.0"), x, local[k], fusion)
        x = decoder_stage(part(weights, "stages.0"), x, guidance[0])
        if local is not None:
            raised = double_conv(part(weights, "lcs_up.1"), transposed_conv2d(part(weights, "lcs_up.0"), local[k]))
            x = fuse(part(weights, "fuse.1"), x, raised, fusion)
        x = decoder_stage(part(weights, "stages.1"), x, guidance[1])
        out.append(conv2d(part(weights, "head"), x)[0])
    return np.array(out)


def kept_classes(similarity: Array, cap: int) -> list[int]:
    """Of GCS (K, h, w) the `cap` classes with the highest maximum, in the vocabulary's order."""
    by_maximum = sorted(range(len(similarity)), key=lambda k: -similarity[k].max())
    return sorted(by_maximum[:cap])


def logits(
    weights: Weights, params: Model, image: Array, features: Sequence[Array], text: Array, *, training: bool
) -> tuple[Array, Array]:
    """Sections 2 to 5 for one image: `F_v`, CLIP's guidance features and `F_t` (K, C) -> logits (K, 4h, 4w) and `T^` (K, C)."""
    p = params.propagation
    aligned = text
    if params.p2tformer.layers:
        aligned = p2tformer(part(weights, "p2tformer"), text, image, params.p2tformer.layers, params.p2tformer.heads)
    similarity = gcs(image, aligned)
    keep = kept_classes(similarity, p.class_cap)
    maps = np.array([conv2d(part(weights, "embed_global.conv"), x[None]) for x in similarity[keep]])
    local = None
    if params.lcs.enabled:
        plain = lcs(part(weights, "local"), image, aligned[keep], params.lcs.kernel_size, params.lcs.normalisation)
        local = np.array([conv2d(part(weights, "embed_local.conv"), x[None]) for x in plain])
        fused = [fuse(part(weights, "fuse"), a, b, params.fusion) for a, b in zip(maps, local, strict=True)]
        maps = np.array(fused)
    vision = relu(conv2d(part(weights, "vision_guidance"), image))
    guidance = relu(linear_rows(part(weights, "text_guidance"), aligned[keep]))
    for i in range(p.blocks):
        maps = spatial_aggregation(part(weights, f"propagation.spatial.{i}"), maps, vision, p.heads, p.window)
        across = part(weights, f"propagation.classes.{i}")
        maps = class_aggregation(across, maps, guidance, p.heads, p.class_cap, p.pooling if training else 1)
    decoded = decoder(part(weights, "decoder"), maps, local, features, params.fusion)
    out = np.full((len(text), *decoded.shape[1:]), -100.0)
    out[keep] = decoded
    return out, aligned
