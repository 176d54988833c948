"""A trained run as a function of a picture and words: `load_segmenter`."""

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from fgaseg.evaluation.segmenter import FGAsegSegmenter
from fgaseg.loading import load_model
from fgaseg.model.fgaseg import FGAseg
from fgaseg.params import load_launch
from fgaseg.plan import Plan, open_project
from fgaseg.runtime import set_up_torch
from fgaseg.schema import Params
from fgaseg.using.best import segment_classes
from fgaseg.using.limits import OWN_FILES, Limits
from fgaseg.using.pictures import Picture, as_image
from fgaseg.using.segmentation import Segmentation
from fgaseg.using.vocabulary import BACKGROUND, Vocabulary, check_background, check_templates, list_classes, parse_classes

DEFAULT = "main"
"""The name of the default model."""


class PhotoSegmenter:
    """Segments photographs into classes that are named in the call; threads that share it wait for each other."""

    def __init__(self, model: FGAseg, params: Params, run_id: str, scale: str) -> None:
        self.params, self.run_id, self.scale = params, run_id, scale
        self._model = model
        self._segmenter = FGAsegSegmenter(model, params.vlm.architecture, params.vlm.prompts, params.training.loss)
        self._lock = threading.Lock()
        self._threads = torch.get_num_threads()

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """One caller at a time. A thread of a server may have begun while torch was set to one thread for another's sake."""
        with self._lock, torch.no_grad():
            torch.set_num_threads(self._threads)
            yield

    @property
    def prompts(self) -> tuple[str, ...]:
        """The templates that the run was trained with."""
        return self.params.vlm.prompts

    def prepare(self, vocabulary: Vocabulary, prompts: Sequence[str] | None = None) -> FGAsegSegmenter:
        """The segmenter, set to a vocabulary; it keeps the text features of the latest ones."""
        self._segmenter.prompts = tuple(prompts or self.prompts)
        self._segmenter.set_vocabulary(vocabulary.prompted)
        return self._segmenter

    @contextmanager
    def model(self, vocabulary: Vocabulary, prompts: Sequence[str] | None = None) -> Iterator[tuple[FGAseg, Tensor]]:
        """The model and the text features (K, P, C) of all names of a vocabulary, for this thread alone."""
        with self._alone():
            yield self._model, self.prepare(vocabulary, prompts).text

    def __call__(
        self,
        picture: Picture,
        classes: Sequence[str] | str | Vocabulary,
        *,
        prompts: Sequence[str] | None = None,
        background: float | None = None,
        limits: Limits = OWN_FILES,
    ) -> Segmentation:
        """Segment a picture: a path, a file's bytes, a Pillow image or an array (H, W), (H, W, 3) or (H, W, 4) of uint8.

        `classes`: a list of names, or one text with commas; "sofa|couch" is one class with two names. `prompts`: templates
        with one {} each, in the place of the run's. `background`: pixels whose score is below it belong to no class.
        Raises `UserError` for anything that cannot be used, before the model runs.
        """
        vocabulary = self.vocabulary(classes, limits)
        check_background(background, vocabulary, "background")
        templates = None if prompts is None else check_templates(prompts, "prompts", limits)
        image = as_image(picture, limits)
        with self._alone():
            segmenter = self.prepare(vocabulary, templates)
            labels, confidence = segment_classes(segmenter, image, self.params.evaluation, vocabulary.owners)
        names = vocabulary.names
        if background is not None:
            labels = np.where(confidence < background, len(names), labels)
            names = [*names, BACKGROUND]
        return Segmentation(labels, confidence, names, self.run_id, image)

    @staticmethod
    def vocabulary(classes: Sequence[str] | str | Vocabulary, limits: Limits = OWN_FILES) -> Vocabulary:
        """Classes in any of the forms that a call takes."""
        if isinstance(classes, Vocabulary):
            return classes
        if isinstance(classes, str):
            return parse_classes(classes, "classes", limits)
        return list_classes(classes, "classes", limits)


def segmenter_of(plan: Plan, run: str = DEFAULT, threads: int | None = None) -> PhotoSegmenter:
    """The trained `run` (its id, the beginning of it, or "main") of a plan that is there already."""
    chosen = plan.default_row.run_id if run == DEFAULT else plan.find_run(run)
    assert chosen is not None
    params = plan.runs[chosen]
    device = set_up_torch(threads or load_launch(plan.root).threads)
    model = load_model(plan.paths, params, plan.paths.run(chosen) / "model.safetensors").to(device)
    return PhotoSegmenter(model, params, chosen, plan.scale)


def load_segmenter(
    run: str = DEFAULT, root: str | Path = ".", scale: str = "sample", threads: int | None = None
) -> PhotoSegmenter:
    """A trained run of the project in the folder `root`: "main" is the default model, else a run id or its beginning.

    `threads` of the CPU, by default as in params/launch.yaml. Raises `UserError` where there is no such run, or no model.
    """
    return segmenter_of(open_project(Path(root), scale), run, threads)
