"""What an evaluation runs: a model and a vocabulary that give class scores for views of an image."""

from collections.abc import Sequence
from typing import Literal, NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from fgaseg.model.clip import DenseCLIP
from fgaseg.model.fgaseg import FGAseg
from fgaseg.model.prompts import tokenise
from fgaseg.model.supplementation import global_similarity


class Scores(NamedTuple):
    """Class probabilities (V, k, L, L) of the V views of one image.

    `classes` (k,) are the classes that they belong to, in ascending order; None where they are all of the vocabulary.
    Classes that the model has dropped have no scores: the cost of what follows does not grow with the vocabulary.
    """

    values: Tensor
    classes: Tensor | None


class Segmenter(Protocol):
    """Scores classes in views of one image; views must lie on its device."""

    @property
    def device(self) -> torch.device: ...

    def set_vocabulary(self, names: Sequence[str]) -> None:
        """Choose the classes; their text features are computed once."""

    def scores(self, views: Tensor) -> Scores:
        """Score views (V, 3, S, S) of one image."""


_VOCABULARIES = 8


class _CLIPVocabulary:
    """What both segmenters share: a CLIP that turns class names into text features, on its own device.

    The features of the latest vocabularies are kept for as long as the weights stay as they are. `prompts` may be set
    before a vocabulary is.
    """

    def __init__(self, clip: DenseCLIP, architecture: str, prompts: Sequence[str]) -> None:
        self.clip, self.architecture, self.prompts = clip, architecture, prompts
        self._known: dict[tuple[tuple[str, ...], tuple[str, ...]], Tensor] = {}
        self._weights = -1

    @property
    def device(self) -> torch.device:
        return self.clip.logit_scale.device

    @torch.no_grad()
    def set_vocabulary(self, names: Sequence[str]) -> None:
        weights = sum(parameter._version for parameter in self.clip.parameters())  # grows with every change in place
        if weights != self._weights:
            self._known, self._weights = {}, weights
        key = tuple(names), tuple(self.prompts)
        if key not in self._known:
            if len(self._known) == _VOCABULARIES:
                del self._known[next(iter(self._known))]
            self._known[key] = self.clip.encode_text(tokenise(names, self.prompts, self.architecture).to(self.device))
        self.text = self._known[key]


class DenseCLIPSegmenter(_CLIPVocabulary):
    """CLIP without any training: softmax of the scaled cosine of every patch with every class."""

    def __init__(self, clip: DenseCLIP, architecture: str, prompts: Sequence[str]) -> None:
        super().__init__(clip.eval(), architecture, prompts)

    @torch.no_grad()
    def scores(self, views: Tensor) -> Scores:
        image, _ = self.clip.encode_image(self.clip.fit(views))
        cosine = global_similarity(image, self.text[None]).mean(1)
        cosine = F.interpolate(cosine, scale_factor=4, mode="bilinear", align_corners=False)
        return Scores((cosine * self.clip.logit_scale.exp().clamp(max=100)).softmax(1), None)


class FGAsegSegmenter(_CLIPVocabulary):
    """FGAseg: softmax over the classes after training with cross-entropy, sigmoid of each after binary cross-entropy.

    `top_n`: how many classes a pixel keeps at each head of the fast decoder, None for all. `kept` are the numbers of
    classes that went on after each head in the last call of `scores`, empty without these heads.
    """

    def __init__(
        self,
        model: FGAseg,
        architecture: str,
        prompts: Sequence[str],
        loss: Literal["ce", "bce"],
        top_n: int | None = None,
    ) -> None:
        super().__init__(model.clip, architecture, prompts)
        self.model, self.loss, self.top_n = model.eval(), loss, top_n
        self.kept: tuple[int, ...] = ()

    @torch.no_grad()
    def scores(self, views: Tensor) -> Scores:
        output = self.model(views, self.text, shared=True, top_n=self.top_n)
        self.kept = output.kept
        logits, classes = output.kept_logits, output.classes
        return Scores(logits.softmax(1) if self.loss == "ce" else logits.sigmoid(), None if classes is None else classes[0])
