"""What training minimises: equations 12 and 13 (paper, III-E)."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fgaseg.model.fgaseg import FGAseg
from fgaseg.model.t2p import t2p_loss
from fgaseg.schema import Decoder, Params
from fgaseg.training.stream import IGNORE


def _exact(x: Tensor) -> Tensor:
    """At least float32: half precision is for the forward pass alone."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def segmentation_loss(logits: Tensor, labels: Tensor, loss: str) -> Tensor:
    """Equation 12 on logits (B, K, L, L) resized to the labels (B, S, S): cross-entropy, or the released code's BCE.

    The mean over images of each one's mean over its pixels with a label, as on the paper's 8 GPUs with an image each.
    """
    logits = F.interpolate(logits, size=labels.shape[-2:], mode="bilinear", align_corners=False)
    valid = labels != IGNORE
    if loss == "ce":
        each = F.cross_entropy(logits, labels, ignore_index=IGNORE, reduction="none")
    else:
        target = F.one_hot(labels.clamp(min=0), logits.shape[1]).permute(0, 3, 1, 2).to(logits)
        each = F.binary_cross_entropy_with_logits(logits, target, reduction="none").mean(1) * valid
    return (each.sum((1, 2)) / valid.sum((1, 2)).clamp(min=1)).mean()


def auxiliary_loss(heads: Sequence[Tensor], labels: Tensor, loss: str, decoder: Decoder) -> Tensor:
    """The fast decoder's term of equation 13: the loss of each head's logits, weighted and summed."""
    first, *others = (segmentation_loss(_exact(logits), labels, loss) for logits in heads)
    rest = torch.stack(others).sum()
    return decoder.aux_weight * first + (decoder.aux_weight if decoder.aux_weighting == "all" else 1.0) * rest


class Losses(nn.Module):
    """The model and, behind it, the losses: one module, whose gradients the processes of a training average.

    Losses are float32 where the forward pass is of half precision.
    """

    def __init__(self, model: FGAseg, params: Params) -> None:
        super().__init__()
        self.model, self.params = model, params

    def forward(self, images: Tensor, labels: Tensor, text: Tensor) -> dict[str, Tensor]:
        """Images (B, 3, S, S), labels (B, S, S) and text features `F_t` (K, P, C) -> scalars.

        `loss` (equation 13) is the sum of `loss_seg`, the weighted `loss_t2p`, and `loss_aux` as it stands.
        """
        params = self.params
        output = self.model(images, text)
        terms = {"loss_seg": segmentation_loss(_exact(output.logits), labels, params.training.loss)}
        total = terms["loss_seg"]
        if output.alignment is not None:
            terms["loss_t2p"] = t2p_loss(_exact(output.alignment), labels, IGNORE, params.model.t2p.loss)
            total = total + params.model.t2p.weight * terms["loss_t2p"]
        if output.auxiliary:
            terms["loss_aux"] = auxiliary_loss(output.auxiliary, labels, params.training.loss, params.model.decoder)
            total = total + terms["loss_aux"]
        return {"loss": total, **terms}
