"""Text-pixel alignment loss (paper, III-B2, equations 7 and 8)."""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def convolve_per_image(features: Tensor, kernels: Tensor, bias: Tensor) -> Tensor:
    """Convolve each image with kernels of its own: (B, C, H, W), (B, K, C, k, k), (B, K) -> (B, K, H, W), same size."""
    batch, classes, channels, size, _ = kernels.shape
    out = F.conv2d(
        features.reshape(1, batch * channels, *features.shape[2:]),
        kernels.reshape(batch * classes, channels, size, size),
        bias.reshape(-1),
        padding=size // 2,
        groups=batch,
    )
    return out.view(batch, classes, *features.shape[2:])


class T2PProjector(nn.Module):
    """Upsamples `F_v` by 4 and convolves it with a 3 x 3 kernel made from each class's `T^` (equation 7).

    Needed in training only. It is normalised image by image, as BatchNorm does with the paper's one image on each of 8 GPUs:
    so nothing depends on how many images share a pass, or a process.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        half = channels // 2
        self.upsample = nn.Sequential(
            *self._double(channels, channels), *self._double(channels, half), nn.Conv2d(half, half, 1)
        )
        self.kernel = nn.Linear(channels, half * 9 + 1)

    @staticmethod
    def _double(inputs: int, outputs: int) -> tuple[nn.Module, ...]:
        return (
            nn.Upsample(scale_factor=2, mode="bilinear", align_corners=False),
            nn.Conv2d(inputs, outputs, 3, padding=1, bias=False),
            nn.InstanceNorm2d(outputs, affine=True),
            nn.ReLU(),
        )

    def forward(self, image: Tensor, text: Tensor) -> Tensor:
        """`F_v` (B, C, h, w) and `T^` (B, K, C) -> `S` (B, K, 4h, 4w)."""
        features = self.upsample(image)
        parameters = self.kernel(text)
        kernels = parameters[..., :-1].unflatten(2, (features.shape[1], 3, 3))
        return convolve_per_image(features, kernels, parameters[..., -1])


def t2p_loss(similarity: Tensor, labels: Tensor, void: int, loss: Literal["mse", "bce"]) -> Tensor:
    """Equation 8: distance of `S` (B, K, 4h, 4w) to one binary mask per class, made from labels (B, H, W).

    Labels are downsampled with nearest neighbours; ignored pixels count in neither term. Images count alike, whatever they have
    of such. `mse` is the paper's form, `bce` (with logits) the released code's.
    """
    small = F.interpolate(labels[:, None].float(), size=similarity.shape[-2:], mode="nearest")[:, 0].long()
    valid = (small != void)[:, None]
    target = torch.arange(similarity.shape[1], device=labels.device)[None, :, None, None] == small[:, None]
    function = F.mse_loss if loss == "mse" else F.binary_cross_entropy_with_logits
    each = function(similarity, target.to(similarity), reduction="none")
    return ((each.mean(1, keepdim=True) * valid).sum((1, 2, 3)) / valid.sum((1, 2, 3)).clamp(min=1)).mean()
