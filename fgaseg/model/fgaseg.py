"""FGAseg: pixel-level alignment, category supplementation, propagation, decoder."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor, nn

from fgaseg.errors import UserError
from fgaseg.model.aggregation import Propagation
from fgaseg.model.chunks import Chunks
from fgaseg.model.clip import DenseCLIP
from fgaseg.model.decoder import Decoder
from fgaseg.model.embedding import MapEmbedding
from fgaseg.model.fast import Selection, auxiliary_heads, spread, take
from fgaseg.model.kept import forget
from fgaseg.model.p2tformer import P2Tformer
from fgaseg.model.supplementation import Fuse, LocalSimilarity, global_similarity
from fgaseg.model.t2p import T2PProjector
from fgaseg.model.tuning import Strategy, apply_tuning
from fgaseg.schema import Model as ModelParams
from fgaseg.schema import Params


@dataclass
class Output:
    """What a forward pass gives.

    `kept_logits` (B, k, 4h, 4w) are those of the classes `classes` (B, k), of all `count` classes where that is None. In
    training `alignment` (B, K, 4h, 4w), the map `S` of the T2P loss. With the fast decoder `auxiliary`, in training the
    logits of its three heads, (B, K, h, w) twice and (B, K, 2h, 2w), and `kept`, the number of classes that go on after
    each head, of several images the largest.
    """

    kept_logits: Tensor
    classes: Tensor | None
    count: int
    alignment: Tensor | None = None
    auxiliary: tuple[Tensor, ...] = ()
    kept: tuple[int, ...] = ()

    @property
    def logits(self) -> Tensor:
        """Logits of all classes (B, K, 4h, 4w); those that were dropped have -100."""
        return spread(self.kept_logits, self.classes, self.count)


@dataclass
class PseudoMasks:
    """What the paper's Fig. 6 shows, on the patch grid: similarity maps (B, K, h, w), their fused embedding (B, K, D, h, w)."""

    gcs: Tensor
    lcs: Tensor | None
    fused: Tensor


class FGAseg(nn.Module):
    """The whole model around a dense CLIP.

    Images are (B, 3, S, S), normalised with CLIP's statistics and of any side: they are resized to CLIP's input.
    `chunks` may be set at any time: how many classes are worked on at once, and what training keeps in memory.
    """

    def __init__(self, clip: DenseCLIP, params: ModelParams, finetune: Strategy) -> None:
        super().__init__()
        self.params = params
        self.clip = clip
        self.chunks = Chunks()
        channels, dim, p = clip.embed_dim, params.hidden_dim, params.propagation
        if params.p2tformer.layers and channels % params.p2tformer.heads:
            raise UserError(
                f"model.p2tformer.heads: {params.p2tformer.heads} does not divide CLIP's {channels} channels; choose a divisor"
            )
        if clip.grid % p.window:
            raise UserError(
                f"model.propagation.window: {p.window} does not divide the patch grid {clip.grid} x {clip.grid}; "
                "choose a divisor"
            )
        self.p2tformer = None
        if params.p2tformer.layers:
            q = params.p2tformer
            self.p2tformer = P2Tformer(channels, q.layers, q.heads, q.gamma, q.gamma_init)
        self.projector = T2PProjector(channels) if params.t2p.weight > 0 else None
        self.embed_global = MapEmbedding(dim, params.embedding_kernel)
        self.local = None
        if params.lcs.enabled:
            self.local = LocalSimilarity(channels, params.lcs.kernel_size, params.lcs.normalisation)
            self.embed_local = MapEmbedding(dim, params.embedding_kernel)
            self.fuse = Fuse(dim, params.fusion)
        self.vision_guidance = nn.Conv2d(channels, p.guidance_dim, 3, padding=1)
        self.text_guidance = nn.Linear(channels, p.guidance_dim)
        self.propagation = Propagation(dim, p.guidance_dim, p.blocks, p.window, p.heads, p.mlp_ratio, p.pooling, p.class_cap)
        d = params.decoder
        self.decoder = Decoder(
            dim,
            clip.width,
            d.channels,
            d.guidance_hidden,
            d.guidance_channels,
            d.lcs_channels,
            params.fusion,
            params.lcs.enabled,
        )
        # The last two draw random numbers after all others: variants of one seed start from the same weights.
        self.heads = auxiliary_heads((dim, dim, d.channels[0])) if d.fast else None
        apply_tuning(clip, finetune)

    def train(self, mode: bool = True) -> Self:
        """As of any module; what inference has made of the weights goes before they change."""
        if mode:
            forget(self)
        return super().train(mode)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """As of any module, which converts and moves weights by it: that raises no version of theirs."""
        forget(self)
        return super()._apply(fn, recurse)

    def align(self, image: Tensor, text: Tensor) -> Tensor:
        """Pixel-level alignment: `F_v` (B, C, h, w), `F_t` (K, P, C) -> `T^` (B, K, P, C)."""
        if self.p2tformer is None:
            return text.expand(image.shape[0], -1, -1, -1)
        return self.p2tformer(text, image)

    def supplement(self, image: Tensor, text: Tensor, gcs: Tensor) -> tuple[Tensor, Tensor | None]:
        """Fused pseudo-masks (B, K, h, w, D) and LCS (B, K, h, w).

        `text` is (B, K, P, C). Several prompts are averaged, in `gcs` (B, P, K, h, w) and for the local kernels; the
        released code embeds each prompt's map with weights of its own, which is the same with its one prompt.
        """
        similarity, embed = gcs.mean(1), self.embed_global.convolution()
        if self.local is None:
            return embed(similarity), None
        lcs = self.local(image, text.mean(2))
        fused = self.fuse.embedded(embed, self.embed_local.convolution())
        return fused(similarity, lcs), lcs

    def _keep(self, gcs: Tensor, shared: bool) -> Tensor | None:
        """Indices (B, cap) of the classes with the highest maximum cosine, in ascending order; None if all are kept.

        `shared`: the batch holds views of one image, and all of them keep the same classes.
        """
        cap = self.params.propagation.class_cap
        if gcs.shape[2] <= cap:
            return None
        best = gcs.mean(1).amax((2, 3))
        if shared:
            best = best.amax(0, keepdim=True).expand(best.shape[0], -1)
        return best.topk(cap, dim=1).indices.sort(dim=1).values

    def forward(self, images: Tensor, text: Tensor, shared: bool = False, top_n: int | None = None) -> Output:
        """images (B, 3, S, S) and `F_t` (K, P, C), as `self.clip.encode_text` gives it -> `Output`.

        More classes than the cap are cut to those with the highest maximum cosine. In inference with the fast decoder,
        only those that are then among some pixel's `top_n` go on after each of its heads. Dropped classes get the logit
        -100. Views of one image (`shared`) keep the same classes; other images are looked at one by one where
        classes can be dropped at the heads. Raises `UserError` for `top_n` without the fast decoder.
        """
        if top_n is not None and self.heads is None:
            raise UserError("evaluation.top_n needs the fast decoder's heads: set model.decoder.fast: true, or top_n: null")
        propagated = min(len(text), self.params.propagation.class_cap)
        if top_n is not None and top_n < propagated and len(images) > 1 and not shared and not self.training:
            each = [self(image[None], text, top_n=top_n) for image in images]
            counts = zip(*(output.kept for output in each), strict=True)
            logits = torch.cat([output.logits for output in each])
            return Output(logits, None, len(text), kept=tuple(max(count) for count in counts))
        image, features = self.clip.encode_image(self.clip.fit(images))
        aligned = self.align(image, text)
        alignment = self.projector(image, aligned.mean(2)) if self.training and self.projector is not None else None
        gcs = global_similarity(image, aligned)
        keep = self._keep(gcs, shared)
        if keep is not None:
            rows = torch.arange(len(keep), device=keep.device)[:, None]
            aligned, gcs = aligned[rows, keep], gcs.transpose(1, 2)[rows, keep].transpose(1, 2)
        maps, lcs = self.supplement(image, aligned, gcs)
        select = Selection(self.heads, self.training, top_n)
        chosen = select(maps)
        maps, lcs, aligned = take(maps, chosen), take(lcs, chosen), take(aligned, chosen)
        vision = torch.relu(self.vision_guidance(image))
        guidance = torch.relu(self.text_guidance(aligned.mean(2)))
        guides = self.decoder.guide(features, None if lcs is None else self.embed_local.convolution())
        with self.chunks.stages(maps):
            maps = self.propagation(maps, vision, guidance, self.chunks)
            logits = self.decoder(maps, lcs, guides, select, self.chunks)
        auxiliary = tuple(spread(aux, keep, len(text)) for aux in select.logits)
        if select.classes is not None:
            keep = select.classes.expand(len(images), -1) if keep is None else keep[:, select.classes]
        return Output(logits, keep, len(text), alignment, auxiliary, tuple(select.kept))

    @torch.no_grad()
    def pseudo_masks(self, images: Tensor, text: Tensor) -> PseudoMasks:
        """The pseudo-masks of images for the figures; arguments as in `forward`, no class is dropped."""
        image, _ = self.clip.encode_image(self.clip.fit(images))
        aligned = self.align(image, text)
        gcs = global_similarity(image, aligned)
        fused, lcs = self.supplement(image, aligned, gcs)
        return PseudoMasks(gcs.mean(1), lcs, fused.permute(0, 1, 4, 2, 3))


def build(clip: DenseCLIP, params: Params) -> FGAseg:
    """FGAseg with the model and tuning of `params` around `clip`."""
    return FGAseg(clip, params.model, params.vlm.finetune)
