"""The decoder: from class maps on the patch grid to one logit per class at four times its resolution (paper, III-D)."""

from collections.abc import Sequence
from itertools import islice
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn

from fgaseg.model.chunks import Chunks
from fgaseg.model.embedding import MapConvolution
from fgaseg.model.fast import Selection, one_channel, take
from fgaseg.model.raising import Raised, raise_beside, raise_image, raise_maps
from fgaseg.model.supplementation import Fuse, Fusion


def double_conv(inputs: int, outputs: int) -> nn.Sequential:
    """Two 3 x 3 convolutions, each with GroupNorm (16 channels a group) and ReLU."""
    layers: list[nn.Module] = []
    for channels in (inputs, outputs):
        layers += [
            nn.Conv2d(channels, outputs, 3, padding=1, bias=False),
            nn.GroupNorm(max(1, outputs // 16), outputs),
            nn.ReLU(inplace=True),
        ]
    return nn.Sequential(*layers)


class GuidanceUpsampling(nn.Module):
    """An intermediate CLIP feature (B, width, h, w) -> decoder guidance at `factor` times its resolution."""

    def __init__(self, width: int, hidden: int, channels: int, factor: int) -> None:
        super().__init__()
        self.up = nn.ConvTranspose2d(width, hidden, factor, factor)
        self.conv = nn.Conv2d(hidden, channels, 3, padding=1)

    def forward(self, feature: Tensor) -> Tensor:
        if torch.is_grad_enabled():  # there a backward pass through the kernel of both costs more than it saves
            return torch.relu(self.conv(self.up(feature)))
        return torch.relu(raise_image(self.up, self.conv, feature))


class DecoderStage(nn.Module):
    """Transposed convolution x2, concatenation of guidance, two convolutions."""

    def __init__(self, inputs: int, guidance: int, outputs: int) -> None:
        super().__init__()
        self.up = nn.ConvTranspose2d(inputs, inputs - guidance, 2, 2)
        self.conv = double_conv(inputs, outputs)

    def guide(self, guidance: Tensor) -> Raised:
        """Guidance (B, G, 2H, 2W)."""
        return raise_beside(guidance, self.up, cast(nn.Conv2d, self.conv[0]))

    def forward(self, images: slice, x: Tensor, raised: Raised) -> Tensor:
        """x (b, n, H, W, D) of these images -> (b, n, 2H, 2W, D')."""
        maps = raised(images, x)
        for layer in islice(self.conv, 1, None):
            maps = layer(maps)
        return maps.permute(0, 2, 3, 1).unflatten(0, x.shape[:2])


class _LocalFusion:
    """Fuses the local maps, embedded, in again, in one forward pass; `grid` (h, w) is theirs."""

    def __init__(self, fuse: nn.ModuleList, up: nn.Sequential, embedding: MapConvolution, grid: torch.Size) -> None:
        first, second = cast("list[Fuse]", list(fuse))
        transposed, convs = cast(nn.ConvTranspose2d, up[0]), cast(nn.Sequential, up[1])
        self.beside, self.first, self.second = first.second(embedding), first.ready(), second.ready()
        self.raised = raise_maps(embedding, transposed, cast(nn.Conv2d, convs[0]), grid)
        self.convs = convs[1:]

    def coarse(self, x: Tensor, local: Tensor) -> Tensor:
        """x (b, n, h, w, D), local maps (b, n, h, w) -> (b, n, h, w, D)."""
        return self.beside(local).add_(self.first.first(x))

    def fine(self, x: Tensor, local: Tensor) -> Tensor:
        """x (b, n, 2h, 2w, D'), local maps (b, n, h, w) -> (b, n, 2h, 2w, D')."""
        raised = self.convs(self.raised(local)).permute(0, 2, 3, 1)
        return self.second(x, raised.view(x.shape))


class Guides(NamedTuple):
    """What both stages need beside the maps: that of the image, and how the local maps are fused in again."""

    raised: list[Raised]
    fuse: _LocalFusion | None


class Decoder(nn.Module):
    """Two stages of upsampling; before each the embedded local map (LCS) is fused in again."""

    def __init__(
        self,
        dim: int,
        clip_width: int,
        channels: Sequence[int],
        guidance_hidden: Sequence[int],
        guidance_channels: Sequence[int],
        lcs_channels: int,
        fusion: Fusion,
        use_lcs: bool,
    ) -> None:
        super().__init__()
        self.guidance = nn.ModuleList(
            GuidanceUpsampling(clip_width, hidden, out, factor)
            for hidden, out, factor in zip(guidance_hidden, guidance_channels, (2, 4), strict=True)
        )
        inputs = (dim, channels[0])
        self.stages = nn.ModuleList(DecoderStage(i, g, o) for i, g, o in zip(inputs, guidance_channels, channels, strict=True))
        self.head = nn.Conv2d(channels[1], 1, 3, padding=1)
        self.fuse: nn.ModuleList | None = None
        if use_lcs:
            self.fuse = nn.ModuleList([Fuse(dim, fusion), Fuse(channels[0], fusion)])
            self.lcs_up = nn.Sequential(nn.ConvTranspose2d(dim, lcs_channels, 2, 2), double_conv(lcs_channels, channels[0]))

    def guide(self, clip_features: Sequence[Tensor], embedding: MapConvolution | None) -> Guides:
        """What is the same for all classes: CLIP features (B, width, h, w) and the embedding of LCS."""
        stages = cast("list[DecoderStage]", list(self.stages))
        raised = [stage.guide(up(feature)) for stage, up, feature in zip(stages, self.guidance, clip_features, strict=True)]
        fuse = None
        if self.fuse is not None:
            assert embedding is not None
            fuse = _LocalFusion(self.fuse, self.lcs_up, embedding, clip_features[0].shape[2:])
        return Guides(raised, fuse)

    def forward(self, maps: Tensor, lcs: Tensor | None, guides: Guides, select: Selection, chunks: Chunks) -> Tensor:
        """maps (B, K, h, w, D), LCS (B, K, h, w) -> logits (B, k, 4h, 4w).

        The fast decoder's head before a stage reads the maps before the local ones are fused in again, so that a
        dropped class is spared that fusion too.
        """
        stages, (raised, fuse) = cast("list[DecoderStage]", list(self.stages)), guides
        assert (lcs is None) == (fuse is None)

        def first(images: slice, x: Tensor, *local: Tensor) -> Tensor:
            x = x if fuse is None else fuse.coarse(x, *local)
            return stages[0](images, x, raised[0])

        def second(images: slice, x: Tensor, *local: Tensor) -> Tensor:
            x = x if fuse is None else fuse.fine(x, *local)
            return one_channel(self.head, stages[1](images, x, raised[1]))

        def both(images: slice, x: Tensor, *local: Tensor) -> Tensor:
            return second(images, first(images, x, *local), *local)

        if not select.active:
            return chunks.by_class(both, maps, *_given(lcs))
        for stage in (first, second):
            chosen = select(maps)
            maps, lcs = take(maps, chosen), take(lcs, chosen)
            maps = chunks.by_class(stage, maps, *_given(lcs))
        return maps


def _given(maps: Tensor | None) -> list[Tensor]:
    return [] if maps is None else [maps]
