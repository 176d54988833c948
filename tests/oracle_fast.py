"""The fast decoder (paper, III-D) over explicit lists of classes: the tests' independent answer.

Everything else of the model comes from `oracle`, one view and one class at a time.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import oracle
from oracle_layers import Array, Weights, conv2d, linear_rows, part, relu, transposed_conv2d

from fgaseg.schema import Model

View = tuple[Array, Sequence[Array]]
Maps = Mapping[int, Array]
"""A map for each class that is left, by its position in the vocabulary."""


@dataclass
class Answer:
    """For each view the logits (K, 4h, 4w) and those of the heads; how many classes are left after each head."""

    logits: list[Array]
    auxiliary: list[list[Array]]
    kept: list[int] = field(default_factory=list)


def survivors(views: Sequence[Maps], top_n: int) -> list[int]:
    """The classes whose logit is among the `top_n` highest at some pixel of some view."""
    found: set[int] = set()
    for logits in views:
        for position in np.ndindex(next(iter(logits.values())).shape):
            best = sorted(logits, key=lambda k: -logits[k][position])
            found.update(best[:top_n])
    return sorted(found)


def _filled(logits: Maps, count: int) -> Array:
    """Logits of all classes: -100 for those that are not left."""
    shape = next(iter(logits.values())).shape
    return np.array([logits.get(k, np.full(shape, -100.0)) for k in range(count)])


def fast_logits(
    weights: Weights, params: Model, views: Sequence[View], text: Array, top_n: int | None, *, training: bool = False
) -> Answer:
    """Views of one image as `F_v` and CLIP's guidance features, and `F_t` (K, C); `top_n` None drops nothing at the heads."""
    p, answer = params.propagation, Answer([], [[] for _ in views])
    aligned = [
        oracle.p2tformer(part(weights, "p2tformer"), text, image, params.p2tformer.layers, params.p2tformer.heads)
        for image, _ in views
    ]
    similarity = [oracle.gcs(image, pulled) for (image, _), pulled in zip(views, aligned, strict=True)]
    classes = oracle.kept_classes(np.concatenate(similarity, 1), p.class_cap)

    maps: list[Maps] = []
    local: list[Maps] = []
    for (image, _), pulled, cosine in zip(views, aligned, similarity, strict=True):
        embedded = {k: conv2d(part(weights, "embed_global.conv"), cosine[k][None]) for k in classes}
        if params.lcs.enabled:
            plain = oracle.lcs(part(weights, "local"), image, pulled, params.lcs.kernel_size, params.lcs.normalisation)
            local.append({k: conv2d(part(weights, "embed_local.conv"), plain[k][None]) for k in classes})
            embedded = {k: oracle.fuse(part(weights, "fuse"), embedded[k], local[-1][k], params.fusion) for k in classes}
        maps.append(embedded)

    def pass_head(number: int) -> list[int]:
        head = part(weights, f"heads.{number}")
        logits = [{k: conv2d(head, seen[k])[0] for k in classes} for seen in maps]
        for kept, each in zip(answer.auxiliary, logits, strict=True):
            kept.append(_filled(each, len(text)))
        left = classes if top_n is None else survivors(logits, top_n)
        answer.kept.append(len(left))
        return left

    def stage(number: int, x: Array, k: int, view: int) -> Array:
        decoder = part(weights, "decoder")
        if params.lcs.enabled:
            other = local[view][k]
            if number == 1:
                other = oracle.double_conv(part(decoder, "lcs_up.1"), transposed_conv2d(part(decoder, "lcs_up.0"), other))
            x = oracle.fuse(part(decoder, f"fuse.{number}"), x, other, params.fusion)
        guidance = oracle.guidance_upsampling(part(decoder, f"guidance.{number}"), views[view][1][number])
        return oracle.decoder_stage(part(decoder, f"stages.{number}"), x, guidance)

    classes = pass_head(0)
    for view, (image, _) in enumerate(views):
        vision = relu(conv2d(part(weights, "vision_guidance"), image))
        guidance = relu(linear_rows(part(weights, "text_guidance"), aligned[view][classes]))
        x = np.array([maps[view][k] for k in classes])
        for i in range(p.blocks):
            x = oracle.spatial_aggregation(part(weights, f"propagation.spatial.{i}"), x, vision, p.heads, p.window)
            across = part(weights, f"propagation.classes.{i}")
            x = oracle.class_aggregation(across, x, guidance, p.heads, p.class_cap, p.pooling if training else 1)
        maps[view] = dict(zip(classes, x, strict=True))
    for number in range(2):
        classes = pass_head(number + 1)
        maps = [{k: stage(number, seen[k], k, view) for k in classes} for view, seen in enumerate(maps)]
    head = part(weights, "decoder.head")
    answer.logits = [_filled({k: conv2d(head, seen[k])[0] for k in classes}, len(text)) for seen in maps]
    return answer
