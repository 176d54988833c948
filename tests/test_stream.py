"""The training stream: what crop g is, whatever was read before it, and how crops keep image and labels together."""

import csv
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from open_clip.constants import OPENAI_DATASET_MEAN, OPENAI_DATASET_STD
from PIL import Image
from torch import Tensor

from fgaseg.data.prepared import PreparedDataset
from fgaseg.errors import UserError
from fgaseg.schema import Augmentation, Params
from fgaseg.training.stream import IGNORE, TrainingStream, augment, training_vocabulary

STEP = 20
"""Of the colours: label n is painted in the grey level STEP * n, void in white."""
CLASSES = (("sky", True), ("boat", False), ("sea", True), ("car", True))
SHOWN = [0, 2, 3]
EVERYTHING = np.arange(len(CLASSES))

MakeAugmentation = Callable[..., Augmentation]


@pytest.fixture
def augmentation(resolve: Callable[[Mapping[str, Any]], Params]) -> MakeAugmentation:
    """The sample's augmentation with a crop of 24 from images kept at size, unless told otherwise."""

    def make(**changes: Any) -> Augmentation:
        values = {"crop": 24, "short_edges": [40], "colour_jitter": False, "flip": True} | changes
        return resolve({f"training.augmentation.{key}": value for key, value in values.items()}).training.augmentation

    return make


def write_dataset(folder: Path, images: int, size: tuple[int, int] = (40, 56)) -> PreparedDataset:
    """Images of (height, width) whose colour tells the label; the left third is void."""
    rng = np.random.default_rng(0)
    rows = []
    folder.mkdir(parents=True)
    for i in range(images):
        labels = rng.choice(SHOWN, size).astype(np.uint8)
        grey = labels * STEP
        labels[:, : size[1] // 3], grey[:, : size[1] // 3] = 255, 255
        image, label = folder / f"{i}.png", folder / f"{i}_label.png"
        Image.fromarray(np.repeat(grey[:, :, None], 3, 2)).save(image)
        Image.fromarray(labels).save(label)
        rows.append({"image": str(image), "label": str(label), "width": size[1], "height": size[0]})
    with (folder / "index.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, ["image", "label", "width", "height"])
        writer.writeheader()
        writer.writerows(rows)
    table: list[dict[str, Any]] = [
        {"name": n, "synonyms": [], "raw_id": i, "present": p, "kind": None} for i, (n, p) in enumerate(CLASSES)
    ]
    (folder / "classes.json").write_text(json.dumps(table))
    return PreparedDataset(folder)


@pytest.fixture
def dataset(tmp_path: Path) -> PreparedDataset:
    return write_dataset(tmp_path / "prepared", 5)


def grey_levels(image: Tensor) -> Tensor:
    """The first channel of a normalised image as 0 to 255 again."""
    return ((image[0] * OPENAI_DATASET_STD[0] + OPENAI_DATASET_MEAN[0]) * 255).round().long()


def same(a: tuple[Tensor, Tensor, str], b: tuple[Tensor, Tensor, str]) -> bool:
    return torch.equal(a[0], b[0]) and torch.equal(a[1], b[1]) and a[2] == b[2]


def test_item_is_the_same_whatever_was_read_before(dataset: PreparedDataset, augmentation: MakeAugmentation) -> None:
    params = augmentation(colour_jitter=True, short_edges=[30, 40, 60])
    first, second = (TrainingStream(dataset, EVERYTHING, params, seed=3) for _ in range(2))
    in_order = [first[g] for g in range(12)]
    for g in (11, 0, 7, 7, 3):
        torch.rand(g + 1)
        np.random.default_rng().random()
        assert same(second[g], in_order[g])


def test_reading_leaves_the_global_random_state_alone(dataset: PreparedDataset, augmentation: MakeAugmentation) -> None:
    stream = TrainingStream(dataset, EVERYTHING, augmentation(colour_jitter=True), seed=3)
    before = torch.random.get_rng_state()
    for g in range(4):
        stream[g]
    assert torch.equal(torch.random.get_rng_state(), before)


def test_another_seed_gives_another_stream(dataset: PreparedDataset, augmentation: MakeAugmentation) -> None:
    one, other = (TrainingStream(dataset, EVERYTHING, augmentation(), seed) for seed in (0, 1))
    assert not all(same(one[g], other[g]) for g in range(5))


def test_each_image_comes_once_an_epoch_in_a_new_order(dataset: PreparedDataset, augmentation: MakeAugmentation) -> None:
    stream = TrainingStream(dataset, EVERYTHING, augmentation(), seed=0)
    epochs = [tuple(stream[g][2] for g in range(5 * epoch, 5 * epoch + 5)) for epoch in range(6)]
    assert all(sorted(names) == [f"{i}.png" for i in range(5)] for names in epochs)
    assert len(set(epochs)) > 1


def test_the_crop_of_one_image_changes_with_the_epoch(tmp_path: Path, augmentation: MakeAugmentation) -> None:
    stream = TrainingStream(write_dataset(tmp_path / "one", 1), EVERYTHING, augmentation(flip=False), seed=0)
    assert len({stream[g][1].numpy().tobytes() for g in range(6)}) > 1


@pytest.mark.parametrize("crop", [16, 24, 40])
def test_crops_have_one_shape_and_type(crop: int, dataset: PreparedDataset, augmentation: MakeAugmentation) -> None:
    params = augmentation(crop=crop, short_edges=[16, 24, 33, 64], colour_jitter=True)
    stream = TrainingStream(dataset, EVERYTHING, params, seed=0)
    for g in range(8):
        image, labels, _ = stream[g]
        assert image.shape == (3, crop, crop)
        assert labels.shape == (crop, crop)
        assert (image.dtype, labels.dtype) == (torch.float32, torch.int64)


def test_image_and_labels_stay_aligned(dataset: PreparedDataset, augmentation: MakeAugmentation) -> None:
    stream = TrainingStream(dataset, EVERYTHING, augmentation(), seed=0)
    for g in range(20):
        image, labels, _ = stream[g]
        grey = grey_levels(image)
        assert torch.equal(labels, torch.where(grey == 255, IGNORE, grey // STEP))


def left_void(labels: Tensor) -> bool:
    return bool((labels[:, 0] == IGNORE).all())


def test_half_of_the_crops_are_flipped(tmp_path: Path, augmentation: MakeAugmentation) -> None:
    """The whole image is cropped, so its void side tells the flip."""
    stream = TrainingStream(write_dataset(tmp_path / "square", 4, (40, 40)), EVERYTHING, augmentation(crop=40), seed=0)
    unflipped = sum(left_void(stream[g][1]) for g in range(100))
    assert 30 < unflipped < 70


def test_nothing_is_flipped_when_told_not_to(tmp_path: Path, augmentation: MakeAugmentation) -> None:
    params = augmentation(crop=40, flip=False)
    stream = TrainingStream(write_dataset(tmp_path / "square", 4, (40, 40)), EVERYTHING, params, seed=0)
    assert all(left_void(stream[g][1]) for g in range(20))


def test_shortest_edge_is_resized_and_proportions_are_kept(dataset: PreparedDataset, augmentation: MakeAugmentation) -> None:
    """A crop as large as the resized image shows its 80 x 112 pixels and nothing but padding beyond."""
    params = augmentation(crop=120, short_edges=[80], flip=False)
    pixels, labels = augment(dataset.samples[0], params, np.random.default_rng(0))
    padded = (pixels == 128).all(0)
    assert not padded[:80, :112].any()
    assert padded[80:].all()
    assert padded[:, 112:].all()
    assert (labels[:80, 38:112] != IGNORE).all()


def test_resized_labels_are_never_mixed(dataset: PreparedDataset, augmentation: MakeAugmentation) -> None:
    """Interpolated, sky (0) beside sea (2) would become the boat (1) that no image shows."""
    for edge in (27, 40, 90):
        _, labels = augment(dataset.samples[0], augmentation(short_edges=[edge]), np.random.default_rng(edge))
        assert set(labels.unique().tolist()) <= {IGNORE, *SHOWN}


def test_an_image_smaller_than_the_crop_is_padded_with_grey_and_ignored(
    dataset: PreparedDataset, augmentation: MakeAugmentation
) -> None:
    stream = TrainingStream(dataset, EVERYTHING, augmentation(crop=64, flip=False), seed=0)
    image, labels, _ = stream[0]
    grey = (128 / 255 - torch.tensor(OPENAI_DATASET_MEAN)) / torch.tensor(OPENAI_DATASET_STD)
    for border in (image[:, 40:].flatten(1), image[:, :, 56:].flatten(1)):
        torch.testing.assert_close(border, grey[:, None].expand_as(border))
    assert (labels[40:] == IGNORE).all()
    assert (labels[:, 56:] == IGNORE).all()
    assert (labels[:40, 18:56] != IGNORE).all()


def test_colour_jitter_changes_colours_and_no_label(dataset: PreparedDataset, augmentation: MakeAugmentation) -> None:
    plain, jittered = (TrainingStream(dataset, EVERYTHING, augmentation(colour_jitter=j), seed=0) for j in (False, True))
    pairs = [(plain[g], jittered[g]) for g in range(6)]
    assert all(torch.equal(a[1], b[1]) for a, b in pairs)
    assert not all(torch.equal(a[0], b[0]) for a, b in pairs)


def test_vocabulary_of_all_classes_keeps_the_labels(dataset: PreparedDataset) -> None:
    names, positions = training_vocabulary(dataset, "all")
    assert names == ["sky", "boat", "sea", "car"]
    assert positions.tolist() == [0, 1, 2, 3]


def test_vocabulary_of_present_classes_closes_the_gaps(dataset: PreparedDataset) -> None:
    names, positions = training_vocabulary(dataset, "present")
    assert names == ["sky", "sea", "car"]
    assert positions.tolist() == [0, IGNORE, 1, 2]


def test_stream_gives_positions_in_the_vocabulary(dataset: PreparedDataset, augmentation: MakeAugmentation) -> None:
    _, positions = training_vocabulary(dataset, "present")
    raw, remapped = (TrainingStream(dataset, p, augmentation(), seed=0) for p in (EVERYTHING, positions))
    expected = {IGNORE: IGNORE, 0: 0, 2: 1, 3: 2}
    for g in range(5):
        pairs = zip(raw[g][1].flatten().tolist(), remapped[g][1].flatten().tolist(), strict=True)
        assert all(expected[before] == after for before, after in pairs)


def test_an_empty_training_set_is_refused(tmp_path: Path, augmentation: MakeAugmentation) -> None:
    with pytest.raises(UserError, match="the training set is empty"):
        TrainingStream(write_dataset(tmp_path / "empty", 0), EVERYTHING, augmentation(), seed=0)
