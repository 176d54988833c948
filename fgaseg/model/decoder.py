"""The decoder: from class maps on the patch grid to one logit per class at four times its resolution (method, section 5)."""

from collections.abc import Sequence
from typing import NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fgaseg.model.chunks import Chunks
from fgaseg.model.fast import Selection, one_channel, take
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
        return torch.relu(self.conv(self.up(feature)))


class Raised(NamedTuple):
    """`ConvTranspose2d` x2, concatenation of guidance and a 3 x 3 convolution, as one step.

    The two convolutions have nothing between them, so they are one transposed convolution: `kernel` (D, D', 4, 4). What the
    guidance and the first one's bias add is the same for all classes of an image: `constant` (B, D', 2H, 2W).
    """

    kernel: Tensor
    constant: Tensor

    def __call__(self, images: slice, x: Tensor) -> Tensor:
        """Maps (b, n, H, W, D) of these images -> (b n, D', 2H, 2W)."""
        raised = F.conv_transpose2d(x.flatten(0, 1).permute(0, 3, 1, 2), self.kernel, stride=2, padding=1)
        constant = self.constant[images]
        if len(constant) == 1:
            return raised.add_(constant)
        return (raised.unflatten(0, x.shape[:2]) + constant[:, None]).flatten(0, 1)


def raise_resolution(up: nn.ConvTranspose2d, conv: nn.Conv2d, guidance: Tensor) -> Raised:
    """Prepare `conv(cat([up(x), guidance]))` for guidance (B, G, 2H, 2W); G may be 0."""
    assert up.bias is not None
    inner = up.out_channels
    kernel = F.conv2d(up.weight, conv.weight[:, :inner], padding=2).contiguous(memory_format=torch.channels_last)
    bias = up.bias[None, :, None, None].expand(len(guidance), -1, *guidance.shape[2:]).to(guidance.dtype)
    constant = F.conv2d(torch.cat([bias, guidance], 1), conv.weight, padding=1)
    return Raised(kernel, constant.contiguous(memory_format=torch.channels_last))


class DecoderStage(nn.Module):
    """Transposed convolution x2, concatenation of guidance, two convolutions."""

    def __init__(self, inputs: int, guidance: int, outputs: int) -> None:
        super().__init__()
        self.up = nn.ConvTranspose2d(inputs, inputs - guidance, 2, 2)
        self.conv = double_conv(inputs, outputs)

    def guide(self, guidance: Tensor) -> Raised:
        """Guidance (B, G, 2H, 2W)."""
        return raise_resolution(self.up, cast(nn.Conv2d, self.conv[0]), guidance)

    def forward(self, images: slice, x: Tensor, raised: Raised) -> Tensor:
        """x (b, n, H, W, D) of these images -> (b, n, 2H, 2W, D')."""
        return self.conv[1:](raised(images, x)).permute(0, 2, 3, 1).unflatten(0, x.shape[:2])


class _LocalFusion:
    """Fuses the embedded local maps in again, in one forward pass; `feature` (..., h, w) is as large as they are."""

    def __init__(self, fuse: nn.ModuleList, up: nn.Sequential, feature: Tensor) -> None:
        self.coarse, self.second = fuse
        transposed, convs = cast(nn.ConvTranspose2d, up[0]), cast(nn.Sequential, up[1])
        height, width = feature.shape[-2:]
        no_guidance = feature.new_zeros(1, 0, 2 * height, 2 * width)
        self.raised = raise_resolution(transposed, cast(nn.Conv2d, convs[0]), no_guidance)
        self.convs = convs[1:]

    def fine(self, x: Tensor, local: Tensor) -> Tensor:
        """x (b, n, 2h, 2w, D'), local maps (b, n, h, w, D) -> (b, n, 2h, 2w, D')."""
        raised = self.convs(self.raised(slice(0, 1), local)).permute(0, 2, 3, 1)
        fused: Tensor = self.second(x, raised.view(x.shape))
        return fused


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

    def forward(
        self, maps: Tensor, lcs: Tensor | None, clip_features: Sequence[Tensor], select: Selection, chunks: Chunks
    ) -> Tensor:
        """maps and embedded LCS (B, K, h, w, D), CLIP features (B, width, h, w) each -> logits (B, k, 4h, 4w).

        The fast decoder's head before a stage reads the maps before the local ones are fused in again, so that a
        dropped class is spared that fusion too.
        """
        stages = cast("list[DecoderStage]", list(self.stages))
        raised = [stage.guide(up(feature)) for stage, up, feature in zip(stages, self.guidance, clip_features, strict=True)]
        fuse = None if self.fuse is None else _LocalFusion(self.fuse, self.lcs_up, clip_features[0])

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
