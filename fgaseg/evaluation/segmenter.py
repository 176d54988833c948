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
    """Scores classes in views of one image; views must lie on its device."""

    @property
    def device(self) -> torch.device: ...

    def set_vocabulary(self, names: Sequence[str]) -> None:
        """Choose the classes; their text features are computed once."""

    def scores(self, views: Tensor) -> Tensor:
        """Views (V, 3, S, S) of one image -> class probabilities (V, K, 4h, 4w)."""


class _CLIPVocabulary:
    """What both segmenters share: a CLIP that turns class names into text features, on its own device."""

    def __init__(self, clip: DenseCLIP, architecture: str, prompts: Sequence[str]) -> None:
        self.clip, self.architecture, self.prompts = clip, architecture, prompts

    @property
    def device(self) -> torch.device:
        return self.clip.logit_scale.device

    @torch.no_grad()
    def set_vocabulary(self, names: Sequence[str]) -> None:
        self.text = self.clip.encode_text(tokenise(names, self.prompts, self.architecture).to(self.device))


class DenseCLIPSegmenter(_CLIPVocabulary):
    """CLIP without any training: softmax of the scaled cosine of every patch with every class."""

    def __init__(self, clip: DenseCLIP, architecture: str, prompts: Sequence[str]) -> None:
        super().__init__(clip.eval(), architecture, prompts)

    @torch.no_grad()
    def scores(self, views: Tensor) -> Tensor:
        image, _ = self.clip.encode_image(self.clip.fit(views))
        cosine = global_similarity(image, self.text[None]).mean(1)
        cosine = F.interpolate(cosine, scale_factor=4, mode="bilinear", align_corners=False)
        return (cosine * self.clip.logit_scale.exp().clamp(max=100)).softmax(1)


class FGAsegSegmenter(_CLIPVocabulary):
    """FGAseg: softmax over the classes after training with cross-entropy, sigmoid of each after binary cross-entropy."""

    def __init__(self, model: FGAseg, architecture: str, prompts: Sequence[str], loss: Literal["ce", "bce"]) -> None:
        super().__init__(model.clip, architecture, prompts)
        self.model, self.loss = model.eval(), loss

    @torch.no_grad()
    def scores(self, views: Tensor) -> Tensor:
        logits = self.model(views, self.text, shared=True).logits
        return logits.softmax(1) if self.loss == "ce" else logits.sigmoid()
