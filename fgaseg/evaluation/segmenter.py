"""What an evaluation runs: a model and a vocabulary that give class scores for views of an image."""

from collections.abc import Sequence
from typing import Literal, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from fgaseg.model.clip import DenseCLIP
from fgaseg.model.fgaseg import FGAseg
from fgaseg.model.prompts import tokenise
from fgaseg.model.supplementation import global_similarity


class Segmenter(Protocol):
    """Scores classes in views of one image."""

    def set_vocabulary(self, names: Sequence[str]) -> None:
        """Choose the classes; their text features are computed once."""

    def scores(self, views: Tensor) -> Tensor:
        """Views (V, 3, S, S) of one image -> class probabilities (V, K, 4h, 4w)."""


class DenseCLIPSegmenter:
    """CLIP without any training: softmax of the scaled cosine of every patch with every class."""

    def __init__(self, clip: DenseCLIP, architecture: str, prompts: Sequence[str]) -> None:
        self.clip, self.architecture, self.prompts = clip.eval(), architecture, prompts

    @torch.no_grad()
    def set_vocabulary(self, names: Sequence[str]) -> None:
        self.text = self.clip.encode_text(tokenise(names, self.prompts, self.architecture))

    @torch.no_grad()
    def scores(self, views: Tensor) -> Tensor:
        size = self.clip.image_size
        if views.shape[-1] != size:
            views = F.interpolate(views, size=(size, size), mode="bilinear", align_corners=False)
        image, _ = self.clip.encode_image(views)
        cosine = global_similarity(image, self.text[None]).mean(1)
        cosine = F.interpolate(cosine, scale_factor=4, mode="bilinear", align_corners=False)
        return (cosine * self.clip.logit_scale.exp().clamp(max=100)).softmax(1)


class FGAsegSegmenter:
    """FGAseg: softmax over the classes after training with cross-entropy, sigmoid of each after binary cross-entropy."""

    def __init__(self, model: FGAseg, architecture: str, prompts: Sequence[str], loss: Literal["ce", "bce"]) -> None:
        self.model, self.architecture, self.prompts, self.loss = model.eval(), architecture, prompts, loss

    @torch.no_grad()
    def set_vocabulary(self, names: Sequence[str]) -> None:
        self.text = self.model.clip.encode_text(tokenise(names, self.prompts, self.architecture))

    @torch.no_grad()
    def scores(self, views: Tensor) -> Tensor:
        logits = self.model(views, self.text, shared=True).logits
        return logits.softmax(1) if self.loss == "ce" else logits.sigmoid()
