"""Cases of the model at the paper's size (ViT-B/16, random weights): encoders, one crop, one image, one training step."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from benchmarks import reference
from benchmarks.harness import Case
from fgaseg.data.classes import class_table
from fgaseg.data.pixels import normalise, to_pixels
from fgaseg.evaluation.benchmark import segment
from fgaseg.evaluation.segmenter import FGAsegSegmenter
from fgaseg.evaluation.sliding import views
from fgaseg.model.chunks import Chunks
from fgaseg.model.clip import DenseCLIP, create_open_clip
from fgaseg.model.fgaseg import FGAseg, build
from fgaseg.model.prompts import tokenise
from fgaseg.model.t2p import t2p_loss
from fgaseg.params import Resolver
from fgaseg.runtime import compile_parts
from fgaseg.sample.concepts import CONCEPTS
from fgaseg.sample.scenes import draw_scene
from fgaseg.schema import Params
from fgaseg.training.losses import Losses, segmentation_loss
from fgaseg.training.stream import IGNORE

VOCABULARIES = {20: "pas-20", 59: "pc-59", 150: "a-150", 256: "pc-459", 459: "pc-459", 847: "a-847", 171: "coco-stuff"}
"""Where names come from, the first of them where there are more."""
TOP_N = (1, 8, 16)

Call = Callable[[], object]


def paper_params(fast: bool = False) -> Params:
    """The paper scale's parameters, the fast decoder's where asked for."""
    return Resolver(Path(__file__).parents[1], "paper").resolve({"model.decoder.fast": fast}, "benchmark")


def paper_model(fast: bool = False) -> FGAseg:
    """FGAseg at the paper's size around ViT-B/16; all weights are random, the same at each call."""
    params = paper_params(fast)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        clip = create_open_clip(params.vlm.architecture, None)
        return build(DenseCLIP(clip, params.vlm.image_size, params.vlm.guidance_layers, params.vlm.dense_residual), params)


def scene(height: int = 512, width: int = 683) -> Image.Image:
    """A drawn photograph of the usual size."""
    return Image.fromarray(draw_scene(list(CONCEPTS), height, width, np.random.default_rng(0)).image)


def crop() -> Tensor:
    """One 384 x 384 crop (1, 3, 384, 384), normalised."""
    return normalise(to_pixels(scene().resize((384, 384))))[None]


def tokens(classes: int) -> Tensor:
    """The prompts (K, 1, L) of so many classes."""
    params = paper_params()
    names = [entry.name for entry in class_table(VOCABULARIES[classes])][:classes]
    return tokenise(names, params.vlm.prompts, params.vlm.architecture)


def whole_prompts(classes: int) -> Tensor:
    """The same prompts (K, 77), padded as CLIP's tokenizer does."""
    short = tokens(classes)[:, 0]
    return F.pad(short, (0, 77 - short.shape[1]))


@torch.no_grad()
def _text(model: FGAseg, classes: int) -> Tensor:
    return model.clip.encode_text(tokens(classes))


def _inference(function: Callable[[], object]) -> Call:
    def call() -> object:
        with torch.no_grad():
            return function()

    return call


def _encode_image(plain: bool) -> Call:
    clip, image = paper_model().eval().clip, crop()
    return _inference(lambda: reference.encode_image(clip, image) if plain else clip.encode_image(image))


def _encode_text(plain: bool, classes: int) -> Call:
    clip = paper_model().eval().clip
    if plain:
        prompts = whole_prompts(classes)
        return _inference(lambda: reference.encode_text(clip, prompts))
    cut = tokens(classes)
    return _inference(lambda: clip.encode_text(cut))


def _plain_crop(classes: int, dropped: bool) -> Call:
    model, image = paper_model().eval(), crop()
    text = _text(model, classes)[:, 0]
    return _inference(lambda: reference.forward(model, image, text, dropped=dropped))


def _fast_crop(classes: int, compiled: bool = False) -> Call:
    model, image = paper_model().eval(), crop()
    if compiled:
        compile_parts(model)
    text = _text(model, classes)
    return _inference(lambda: model(image, text))


def _top_n_crop(classes: int, top_n: int) -> Call:
    model, image = paper_model(fast=True).eval(), crop()
    text = _text(model, classes)

    def call() -> str:
        return "classes kept: " + ", ".join(map(str, model(image, text, top_n=top_n).kept))

    return _inference(call)


def _plain_image(classes: int) -> Call:
    model, photograph, params = paper_model().eval(), scene(), paper_params().evaluation
    text = _text(model, classes)[:, 0]
    return _inference(lambda: reference.segment(model, photograph, text, views(photograph, params), params))


def _fast_image(classes: int) -> Call:
    params = paper_params()
    segmenter = FGAsegSegmenter(paper_model(), params.vlm.architecture, params.vlm.prompts, params.training.loss)
    segmenter.set_vocabulary([entry.name for entry in class_table(VOCABULARIES[classes])])
    photograph = scene()
    return lambda: segment(segmenter, photograph, params.evaluation)


def _labels() -> Tensor:
    return torch.randint(IGNORE, 171, (1, 384, 384), generator=torch.Generator().manual_seed(0))


def _step(model: FGAseg, loss: Callable[[], Tensor]) -> Call:
    trained = [p for p in model.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(trained, lr=1e-6, fused=True)

    def call() -> str:
        optimiser.zero_grad(set_to_none=True)
        value = loss()
        value.backward()
        torch.nn.utils.clip_grad_norm_(trained, 0.01)
        optimiser.step()
        return ""

    return call


def _plain_step() -> Call:
    model, image, labels, prompts = paper_model().train(), crop(), _labels(), whole_prompts(171)

    def loss() -> Tensor:
        answer = reference.forward(model, image, reference.encode_text(model.clip, prompts))
        assert answer.alignment is not None
        aligned = t2p_loss(answer.alignment, labels, IGNORE, "mse")
        return segmentation_loss(answer.logits, labels, "ce") + model.params.t2p.weight * aligned

    return _step(model, loss)


def _fast_step(recompute: bool) -> Call:
    model, image, labels, prompts = paper_model().train(), crop(), _labels(), tokens(171)
    model.chunks = Chunks(recompute=recompute)
    losses = Losses(model, paper_params())
    return _step(model, lambda: losses(image, labels, model.clip.encode_text(prompts))["loss"])


def _crop_cases(k: int) -> list[Case]:
    group = f"one crop, K = {k}"
    calls = {
        "plain": partial(_plain_crop, k, False),
        "plain-dropped": partial(_plain_crop, k, True),
        "fast": partial(_fast_crop, k),
        "compiled": partial(_fast_crop, k, True),
        **{f"top-{n}": partial(_top_n_crop, k, n) for n in TOP_N},
    }
    return [Case(f"crop-{k}-{name}", group, call) for name, call in calls.items()]


def _image_cases(k: int) -> list[Case]:
    calls = {"plain": partial(_plain_image, k), "fast": partial(_fast_image, k)}
    return [Case(f"image-{k}-{name}", f"one image in windows, K = {k}", call, warm_up=False) for name, call in calls.items()]


CASES = [
    Case("image-encoder-plain", "image encoder", partial(_encode_image, True)),
    Case("image-encoder-fast", "image encoder", partial(_encode_image, False)),
    Case("text-encoder-plain", "text encoder, K = 847", partial(_encode_text, True, 847)),
    Case("text-encoder-fast", "text encoder, K = 847", partial(_encode_text, False, 847)),
    *(case for k in (20, 59, 150, 256, 459, 847) for case in _crop_cases(k)),
    *(case for k in (150, 847) for case in _image_cases(k)),
    Case("step-plain", "one training step, K = 171", _plain_step),
    Case("step-fast", "one training step, K = 171", partial(_fast_step, False)),
    Case("step-recomputing", "one training step, K = 171", partial(_fast_step, True)),
]
