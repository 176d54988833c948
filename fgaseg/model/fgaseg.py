"""FGAseg: pixel-level alignment, category supplementation, propagation, decoder."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from fgaseg.errors import UserError
from fgaseg.model.aggregation import Propagation
from fgaseg.model.clip import DenseCLIP
from fgaseg.model.decoder import Decoder
from fgaseg.model.p2tformer import P2Tformer
from fgaseg.model.supplementation import Fuse, LocalSimilarity, MapEmbedding, global_similarity
from fgaseg.model.t2p import T2PProjector
from fgaseg.model.tuning import apply_tuning
from fgaseg.schema import Model as ModelParams
from fgaseg.schema import Params

DROPPED_LOGIT = -100.0


@dataclass
class Output:
    """What a forward pass gives.

    `logits` (B, K, 4h, 4w); `alignment` (B, K, 4h, 4w), the map `S` of the T2P loss, None in inference.
    """

    logits: Tensor
    alignment: Tensor | None = None


@dataclass
class PseudoMasks:
    """The maps of the paper's Fig. 6, on the patch grid: each (B, K, h, w).

    `fused` is the mean over channels of the fused embedding's magnitude.
    """

    gcs: Tensor
    lcs: Tensor | None
    fused: Tensor


class FGAseg(nn.Module):
    """The whole model around a dense CLIP.

    Images are (B, 3, S, S), normalised with CLIP's statistics and of any side: they are resized to CLIP's input.
    """

    def __init__(
        self, clip: DenseCLIP, params: ModelParams, finetune: Literal["attention", "full", "prompt-16", "frozen"]
    ) -> None:
        super().__init__()
        if params.decoder.fast:
            raise UserError("model.decoder.fast: the fast decoder is planned but cannot be trained yet; set it to false")
        self.params = params
        self.clip = clip
        apply_tuning(clip, finetune)
        channels, dim, p = clip.embed_dim, params.hidden_dim, params.propagation
        self.p2tformer = None
        if params.p2tformer.layers:
            q = params.p2tformer
            self.p2tformer = P2Tformer(channels, q.layers, q.heads, q.gamma, q.gamma_init)
        self.projector = T2PProjector(channels) if params.t2p.weight > 0 else None
        self.embed_global = MapEmbedding(1, dim, params.embedding_kernel)
        self.local = None
        if params.lcs.enabled:
            self.local = LocalSimilarity(channels, params.lcs.kernel_size, params.lcs.normalisation)
            self.embed_local = MapEmbedding(1, dim, params.embedding_kernel)
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

    def align(self, image: Tensor, text: Tensor) -> Tensor:
        """Pixel-level alignment: `F_v` (B, C, h, w), `F_t` (K, P, C) -> `T^` (B, K, P, C)."""
        if self.p2tformer is None:
            return text.expand(image.shape[0], -1, -1, -1)
        return self.p2tformer(text, image)

    def supplement(self, image: Tensor, text: Tensor, gcs: Tensor) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """Fused pseudo-masks (B, K, D, h, w), the embedded LCS of that shape and the plain LCS (B, K, h, w).

        `text` is (B, K, P, C). Several prompts are averaged, in `gcs` (B, P, K, h, w) and for the local kernels; the
        released code embeds each prompt's map with weights of its own, which is the same with its one prompt.
        """
        fused = self.embed_global(gcs.mean(1, keepdim=True))
        if self.local is None:
            return fused, None, None
        lcs = self.local(image, text.mean(2))
        embedded = self.embed_local(lcs[:, None])
        both = self.fuse(fused.flatten(0, 1), embedded.flatten(0, 1)).unflatten(0, fused.shape[:2])
        return both, embedded, lcs

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

    def forward(self, images: Tensor, text: Tensor, shared: bool = False) -> Output:
        """images (B, 3, S, S) and `F_t` (K, P, C), as `self.clip.encode_text` gives it -> `Output`.

        More classes than the cap are cut to those with the highest maximum cosine; the others get the logit -100.
        """
        image, features = self.clip.encode_image(self.clip.fit(images))
        aligned = self.align(image, text)
        alignment = self.projector(image, aligned.mean(2)) if self.training and self.projector is not None else None
        gcs = global_similarity(image, aligned)
        keep = self._keep(gcs, shared)
        if keep is not None:
            rows = torch.arange(len(keep), device=keep.device)[:, None]
            aligned, gcs = aligned[rows, keep], gcs.transpose(1, 2)[rows, keep].transpose(1, 2)
        maps, embedded, _ = self.supplement(image, aligned, gcs)
        vision = torch.relu(self.vision_guidance(image))
        guidance = torch.relu(self.text_guidance(aligned.mean(2)))
        logits = self.decoder(self.propagation(maps, vision, guidance), embedded, features)
        if keep is not None:
            full = logits.new_full((len(logits), text.shape[0], *logits.shape[2:]), DROPPED_LOGIT)
            logits = full.scatter(1, keep[:, :, None, None].expand_as(logits), logits)
        return Output(logits, alignment)

    @torch.no_grad()
    def pseudo_masks(self, images: Tensor, text: Tensor) -> PseudoMasks:
        """The pseudo-masks of images for the figures; arguments as in `forward`, no class is dropped."""
        image, _ = self.clip.encode_image(self.clip.fit(images))
        aligned = self.align(image, text)
        gcs = global_similarity(image, aligned)
        fused, _, lcs = self.supplement(image, aligned, gcs)
        return PseudoMasks(gcs.mean(1), lcs, fused.abs().mean(2))


def build(clip: DenseCLIP, params: Params) -> FGAseg:
    """FGAseg with the model and tuning of `params` around `clip`."""
    return FGAseg(clip, params.model, params.vlm.finetune)
