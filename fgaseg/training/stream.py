"""The endless stream of training crops; crop g depends on the seed and g alone, so that resumption is exact."""

import functools

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset
from torchvision.transforms import v2

from fgaseg.data.pixels import normalise, to_pixels
from fgaseg.data.prepared import PreparedDataset, Sample
from fgaseg.errors import UserError
from fgaseg.params import Augmentation

IGNORE = -1


@functools.lru_cache(maxsize=2)
def _order(seed: int, epoch: int, count: int) -> NDArray[np.int64]:
    return np.random.default_rng((seed, 0, epoch)).permutation(count)


def augment(sample: Sample, params: Augmentation, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """A random crop of an image, uint8 (3, S, S), and of its labels, int64 (S, S), -1 where void or padded.

    The shortest edge is resized to a length drawn from `short_edges`, the crop is placed at random, flipped half of
    the time and its colours are distorted as in SSD (torchvision's RandomPhotometricDistort).
    """
    image, labels = sample.read_image(), Image.fromarray(sample.read_labels().astype(np.int32))
    edge = int(rng.choice(params.short_edges))
    scale = edge / min(image.size)
    size = (max(edge, round(image.width * scale)), max(edge, round(image.height * scale)))
    image, labels = image.resize(size, Image.Resampling.BILINEAR), labels.resize(size, Image.Resampling.NEAREST)
    crop = params.crop
    left, top = (int(rng.integers(max(length - crop, 0) + 1)) for length in size)
    box = (left, top, left + crop, top + crop)
    pixels, target = to_pixels(image.crop(box)), np.array(labels.crop(box)).astype(np.int64)
    inside_height, inside_width = min(crop, size[1]), min(crop, size[0])
    pixels[:, inside_height:], pixels[:, :, inside_width:] = params.pad_value, params.pad_value
    target[inside_height:], target[:, inside_width:] = IGNORE, IGNORE
    mask = torch.from_numpy(target)
    if params.flip and rng.random() < 0.5:
        pixels, mask = pixels.flip(2), mask.flip(1)
    if params.colour_jitter:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(rng.integers(2**62)))
            pixels = v2.RandomPhotometricDistort()(pixels)
    return pixels, mask


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
