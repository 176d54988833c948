"""The endless stream of training crops; crop g depends on the seed and g alone, so that resumption is exact."""

import functools

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset
from torchvision.transforms.v2 import functional

from fgaseg.data.pixels import normalise, to_pixels
from fgaseg.data.prepared import PreparedDataset, Sample, to_labels
from fgaseg.errors import UserError
from fgaseg.schema import Augmentation

IGNORE = -1


@functools.lru_cache(maxsize=2)
def _order(seed: int, epoch: int, count: int) -> NDArray[np.int64]:
    return np.random.default_rng((seed, 0, epoch)).permutation(count)


def distort_colours(pixels: Tensor, rng: np.random.Generator) -> Tensor:
    """SSD's photometric distortion of uint8 (3, S, S): each change is made half of the time.

    Brightness +-32 levels, contrast and saturation x 0.5 to 1.5, hue +-0.1 turns; contrast comes first or last.
    """

    def contrast(x: Tensor) -> Tensor:
        return x.mul_(float(rng.uniform(0.5, 1.5))) if rng.random() < 0.5 else x

    x = pixels.float()
    if rng.random() < 0.5:
        x.add_(float(rng.uniform(-32, 32)))
    contrast_first = rng.random() < 0.5
    x = (contrast(x) if contrast_first else x).clamp_(0, 255).div_(255)
    if rng.random() < 0.5:
        x = functional.adjust_saturation(x, float(rng.uniform(0.5, 1.5)))
    if rng.random() < 0.5:
        x = functional.adjust_hue(x.contiguous(), float(rng.uniform(-0.1, 0.1)))
    x = x.mul_(255)
    return (x if contrast_first else contrast(x)).clamp_(0, 255).round_().to(torch.uint8)


def augment(sample: Sample, params: Augmentation, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """A random crop of an image, uint8 (3, S, S), and of its labels, int64 (S, S), -1 where void or padded.

    The shortest edge is resized to a length drawn from `short_edges`, the crop is placed at random, flipped half of
    the time, distorted in colour, and padded on the right and below where the image is smaller.
    """
    image, labels = sample.read_image(), sample.read_label_image()
    edge = int(rng.choice(params.short_edges))
    scale = edge / min(image.size)
    size = (max(edge, round(image.width * scale)), max(edge, round(image.height * scale)))
    image, labels = image.resize(size, Image.Resampling.BILINEAR), labels.resize(size, Image.Resampling.NEAREST)
    crop = params.crop
    left, top = (int(rng.integers(max(length - crop, 0) + 1)) for length in size)
    box = (left, top, min(left + crop, size[0]), min(top + crop, size[1]))
    pixels, target = to_pixels(image.crop(box)), torch.from_numpy(to_labels(labels.crop(box)))
    if params.flip and rng.random() < 0.5:
        pixels, target = pixels.flip(2), target.flip(1)
    if params.colour_jitter:
        pixels = distort_colours(pixels, rng)
    missing = (0, crop - target.shape[1], 0, crop - target.shape[0])
    if not any(missing):
        return pixels, target
    return F.pad(pixels, missing, value=params.pad_value), F.pad(target, missing, value=IGNORE)


class TrainingStream(Dataset[tuple[Tensor, Tensor, str]]):
    """Item g of the stream: the crop of one image, normalised (3, S, S), its labels (S, S), and the image's name.

    `vocabulary` maps labels of the class table to positions in training's vocabulary.
    """

    def __init__(self, dataset: PreparedDataset, vocabulary: NDArray[np.int64], params: Augmentation, seed: int) -> None:
        if not dataset.samples:
            raise UserError(f"{dataset.folder}: the training set is empty; prepare it again")
        self.samples, self.params, self.seed = dataset.samples, params, seed
        self.vocabulary = torch.from_numpy(np.append(vocabulary, IGNORE))

    def __getitem__(self, g: int) -> tuple[Tensor, Tensor, str]:
        epoch, position = divmod(g, len(self.samples))
        sample = self.samples[_order(self.seed, epoch, len(self.samples))[position]]
        pixels, labels = augment(sample, self.params, np.random.default_rng((self.seed, 1, g)))
        return normalise(pixels), self.vocabulary[labels], sample.name


def training_vocabulary(dataset: PreparedDataset, which: str) -> tuple[list[str], NDArray[np.int64]]:
    """The class names of training and, for each label of the class table, its position among them (-1: left out).

    `which` is "all" or "present" (only the classes that the training labels show).
    """
    used = [i for i, c in enumerate(dataset.classes) if which == "all" or c.present]
    positions = np.full(len(dataset.classes), IGNORE, np.int64)
    positions[used] = np.arange(len(used))
    return [dataset.classes[i].name for i in used], positions
