"""Pre-train the sample scale's small CLIP on captions of sample scenes.

The captions name every concept with all of its names, as OpenAI's CLIP has met most words before. Other classes of the
datasets' tables appear as captions of no image at all: negatives, so that they do not attract pixels.
"""

from collections.abc import Iterator
from multiprocessing import get_context

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from fgaseg.data.classes import class_table
from fgaseg.data.pixels import normalise
from fgaseg.model.clip import create_open_clip
from fgaseg.model.prompts import tokenizer
from fgaseg.sample.concepts import CONCEPTS, DATASETS
from fgaseg.sample.scenes import Scene, draw_scene

ARCHITECTURE = "fgaseg-mini"
TEMPLATES = ("a photo of a {}", "{}", "a picture of {}")
SCENE_SIZE = 144
STEPS = 1500


def _draw(seed: tuple[int, ...]) -> Scene:
    return draw_scene(list(CONCEPTS), SCENE_SIZE, SCENE_SIZE, np.random.default_rng(seed))


def draw_scenes(count: int, seed: int, processes: int = 1) -> list[Scene]:
    """`count` scenes that show all concepts; scene i depends on `seed` and i alone."""
    seeds = [(seed, i) for i in range(count)]
    if processes == 1:
        return [_draw(s) for s in seeds]
    with get_context("fork").Pool(processes) as pool:
        return pool.map(_draw, seeds, chunksize=50)


def distractors() -> list[str]:
    """Class names of the datasets' tables that name none of the concepts."""
    known = {name for concept in CONCEPTS for name in concept.all_names()}
    return sorted({entry.name for dataset in DATASETS for entry in class_table(dataset)} - known)


def caption(present: list[int], rng: np.random.Generator) -> str:
    """A caption that names the concepts `present`, each by one of its names."""
    names = [str(rng.choice(CONCEPTS[i].all_names())) for i in present]
    text = names[0] if len(names) == 1 else ", ".join(names[:-1]) + " and " + names[-1]
    return str(rng.choice(TEMPLATES)).format(text)


class CaptionedCrops(Dataset[tuple[Tensor, list[str]]]):
    """Batch i of pre-training: one crop dominated by each concept, then random crops of whole scenes."""

    def __init__(self, scenes: list[Scene], steps: int, batch: int, size: int, seed: int) -> None:
        self.scenes, self.steps, self.batch, self.size, self.seed = scenes, steps, batch, size, seed
        shares = [np.bincount(s.labels.ravel(), minlength=len(CONCEPTS)) / s.labels.size for s in scenes]
        self.showing = [np.flatnonzero([share[c] > 0.05 for share in shares]) for c in range(len(CONCEPTS))]

    def __len__(self) -> int:
        return self.steps

    def __getitem__(self, step: int) -> tuple[Tensor, list[str]]:
        rng = np.random.default_rng((self.seed, 1, step))
        crops = [self._single(c, rng) for c in range(len(CONCEPTS))]
        crops += [self._scene(rng) for _ in range(self.batch - len(CONCEPTS))]
        images = np.stack([image for image, _ in crops])
        return torch.from_numpy(images), [text for _, text in crops]

    def _resize(self, image: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
        resized = np.asarray(Image.fromarray(image).resize((self.size, self.size), Image.Resampling.BILINEAR))
        return np.ascontiguousarray(resized[:, ::-1]) if rng.random() < 0.5 else resized

    def _single(self, concept: int, rng: np.random.Generator) -> tuple[NDArray[np.uint8], str]:
        scene = self.scenes[int(rng.choice(self.showing[concept]))]
        rows, columns = np.nonzero(scene.labels == concept)
        best, best_share = (slice(None), slice(None)), 0.0
        for _ in range(5):
            side = int(rng.integers(26, 84))
            pick = int(rng.integers(len(rows)))
            top, left = (int(np.clip(x[pick] - side // 2, 0, SCENE_SIZE - side)) for x in (rows, columns))
            window = slice(top, top + side), slice(left, left + side)
            share = float((scene.labels[window] == concept).mean())
            if share > best_share:
                best, best_share = window, share
        return self._resize(scene.image[best], rng), caption([concept], rng)

    def _scene(self, rng: np.random.Generator) -> tuple[NDArray[np.uint8], str]:
        scene = self.scenes[int(rng.integers(len(self.scenes)))]
        side = SCENE_SIZE if rng.random() < 0.4 else int(rng.integers(64, SCENE_SIZE))
        top, left = (int(rng.integers(SCENE_SIZE - side + 1)) for _ in range(2))
        crop = Scene(scene.image[top : top + side, left : left + side], scene.labels[top : top + side, left : left + side])
        return self._resize(crop.image, rng), caption(crop.present(), rng)


def contrastive_loss(image: Tensor, text: Tensor, scale: Tensor, texts: list[str]) -> Tensor:
    """CLIP's loss with the target mass shared between identical captions.

    `text` may hold more rows than `image`: captions of no image, negatives for the image side.
    """
    count = len(image)
    names = np.array(texts[:count])
    same = torch.from_numpy(names[:, None] == names[None, :]).float()
    target = same / same.sum(1, keepdim=True)
    logits = scale * image @ text.T
    padded = F.pad(target, (0, text.shape[0] - count))
    return (F.cross_entropy(logits, padded) + F.cross_entropy(logits[:, :count].T, target)) / 2


def pretrain(
    scenes: int = 5000, steps: int = STEPS, batch: int = 64, negatives: int = 48, lr: float = 1e-3, seed: int = 0
) -> Iterator[tuple[int, float, torch.nn.Module]]:
    """Train the small CLIP; yields (step, loss, model) after every step."""
    torch.manual_seed(seed)
    model = create_open_clip(ARCHITECTURE, None)
    encode = tokenizer(ARCHITECTURE)
    others = distractors()
    data = CaptionedCrops(draw_scenes(scenes, seed, processes=2), steps, batch, model.visual.image_size[0], seed)
    loader = DataLoader(data, batch_size=None, num_workers=1, prefetch_factor=4)
    decay = [p for p in model.parameters() if p.ndim >= 2]
    rest = [p for p in model.parameters() if p.ndim < 2]
    optimiser = torch.optim.AdamW(
        [{"params": decay, "weight_decay": 0.05}, {"params": rest, "weight_decay": 0.0}], lr=lr, betas=(0.9, 0.98)
    )
    warmup = max(1, steps // 20)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimiser, lambda i: min(1.0, (i + 1) / warmup) * 0.5 * (1 + np.cos(np.pi * i / steps))
    )
    model.train()
    for step, (images, texts) in enumerate(loader):
        rng = np.random.default_rng((seed, 2, step))
        extra = [str(rng.choice(TEMPLATES)).format(others[i]) for i in rng.choice(len(others), negatives, replace=False)]
        image = model.encode_image(normalise(images.permute(0, 3, 1, 2)), normalize=True)
        text = model.encode_text(encode([*texts, *extra]), normalize=True)
        loss = contrastive_loss(image, text, model.logit_scale.exp().clamp(max=100), texts)
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        yield step, float(loss.detach()), model
