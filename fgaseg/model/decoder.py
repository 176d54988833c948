"""The decoder: from class maps on the patch grid to one logit per class at four times its resolution (method, section 5)."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from fgaseg.model.fast import Selection, take
from fgaseg.model.supplementation import Fuse, Fusion


def double_conv(inputs: int, outputs: int) -> nn.Sequential:
    """Two 3 x 3 convolutions, each with GroupNorm (16 channels a group) and ReLU."""
    layers: list[nn.Module] = []
    for channels in (inputs, outputs):
        layers += [
            nn.Conv2d(channels, outputs, 3, padding=1, bias=False),
            nn.GroupNorm(max(1, outputs // 16), outputs),
            nn.ReLU(),
        ]
    return nn.Sequential(*layers)


class GuidanceUpsampling(nn.Module):
    """An intermediate CLIP feature (B, width, h, w) -> decoder guidance at `factor` times its resolution."""

    def __init__(self, width: int, hidden: int, channels: int, factor: int) -> None:
        super().__init__()
        self.up = nn.ConvTranspose2d(width, hidden, factor, factor)
        self.conv = nn.Conv2d(hidden, channels, 3, padding=1)

    def forward(self, feature: Tensor) -> Tensor:
        return torch.relu(self.conv(self.up(feature)))


class DecoderStage(nn.Module):
    """Transposed convolution x2, concatenation of guidance, two convolutions."""

    def __init__(self, inputs: int, guidance: int, outputs: int) -> None:
        super().__init__()
        self.up = nn.ConvTranspose2d(inputs, inputs - guidance, 2, 2)
        self.conv = double_conv(inputs, outputs)

    def forward(self, x: Tensor, guidance: Tensor) -> Tensor:
        """x (B K, D, H, W), guidance (B, G, 2H, 2W) -> (B K, D', 2H, 2W)."""
        classes = x.shape[0] // guidance.shape[0]
        return self.conv(torch.cat([self.up(x), guidance.repeat_interleave(classes, 0)], 1))


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

    def forward(self, maps: Tensor, lcs: Tensor | None, clip_features: Sequence[Tensor], select: Selection) -> Tensor:
        """maps and embedded LCS (B, K, D, h, w), CLIP features (B, width, h, w) each -> logits (B, k, 4h, 4w).

        The fast decoder's head before a stage reads the maps before the local ones are fused in again, so that a
        dropped class is spared that fusion too.
        """
        batch = maps.shape[0]
        guidance = [up(feature) for up, feature in zip(self.guidance, clip_features, strict=True)]
        for i, stage in enumerate(self.stages):
            chosen = select(maps)
            maps, lcs = take(maps, chosen), take(lcs, chosen)
            x = maps.flatten(0, 1)
            if self.fuse is not None and lcs is not None:
                local = lcs.flatten(0, 1)
                x = self.fuse[i](x, local if i == 0 else self.lcs_up(local))
            maps = stage(x, guidance[i]).unflatten(0, (batch, -1))
        return self.head(maps.flatten(0, 1)).squeeze(1).unflatten(0, (batch, -1))
