"""Scoring a benchmark: from views to a label map and counts, with scores that plain loops can follow."""

import copy
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import oracle
import oracle_training
import pytest
import torch
from oracle_layers import bilinear, softmax
from PIL import Image
from torch import Tensor

from fgaseg.data.prepared import Sample
from fgaseg.errors import UserError
from fgaseg.evaluation.ahead import loaded
from fgaseg.evaluation.benchmark import evaluate_samples, segment
from fgaseg.evaluation.segmenter import DenseCLIPSegmenter, FGAsegSegmenter, Scores
from fgaseg.model.clip import DenseCLIP
from fgaseg.model.fgaseg import FGAseg
from fgaseg.schema import Evaluation, Params

pytestmark = pytest.mark.usefixtures("one_thread")

ORIGINS = [(0, 0), (0, 2), (2, 0), (2, 2)]
"""Of the windows, in cells of the merged 6 x 6 scores."""


class BrightnessSegmenter:
    """Three classes for the red, green and blue of each block of 2 x 2 pixels."""

    device = torch.device("cpu")

    def set_vocabulary(self, names: Sequence[str]) -> None:
        pass

    def scores(self, views: Tensor) -> Scores:
        return Scores(torch.nn.functional.avg_pool2d(views.double(), 2).softmax(1), None)


@pytest.fixture
def evaluation(resolve: Callable[[Mapping[str, Any]], Params]) -> Evaluation:
    """Windows of 8 pixels at stride 4 over 12 x 12."""
    return resolve({"evaluation.window": 8, "evaluation.stride": 4, "evaluation.resize": 12}).evaluation


@pytest.fixture
def samples(tmp_path: Path) -> list[Sample]:
    """Two images of different sizes, their files' labels 0 to 3 or void."""
    rng = np.random.default_rng(0)
    found = []
    for i, size in enumerate(((14, 10), (9, 17))):
        image, label = tmp_path / f"{i}.png", tmp_path / f"{i}_label.png"
        Image.fromarray(rng.integers(0, 256, (*size, 3), np.uint8)).save(image)
        Image.fromarray(rng.choice([0, 1, 2, 3, 255], size).astype(np.uint8)).save(label)
        found.append(Sample(image, label))
    return found


def expected_prediction(sample: Sample) -> oracle_training.Labels:
    """Views, scores, merging and label map of an image, step by step."""
    mean, std = np.array([0.48145466, 0.4578275, 0.40821073]), np.array([0.26862954, 0.26130258, 0.27577711])
    image = sample.read_image()
    resized, whole = (np.asarray(image.resize((side, side), Image.Resampling.BILINEAR)) for side in (12, 8))
    scores = []
    for view in [resized[2 * top : 2 * top + 8, 2 * left : 2 * left + 8] for top, left in ORIGINS] + [whole]:
        pixels = ((view / 255 - mean) / std).transpose(2, 0, 1)
        window = np.empty((3, 4, 4))
        for row, column in np.ndindex(4, 4):
            block = pixels[:, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2]
            window[:, row, column] = softmax([float(channel.sum()) / 4 for channel in block])
        scores.append(window)
    return oracle_training.label_map(oracle_training.merged(np.array(scores), ORIGINS, 6, True), image.height, image.width)


def test_predictions_come_from_merged_views_at_the_size_of_the_image(samples: list[Sample], evaluation: Evaluation) -> None:
    predicted: dict[str, oracle_training.Labels] = {}
    keep = np.array([0, 1, 2, -1, -1])
    evaluate_samples(
        BrightnessSegmenter(), samples, 3, evaluation, keep, each=lambda sample, labels: predicted.update({sample.name: labels})
    )
    for sample in samples:
        assert np.array_equal(predicted[sample.name], expected_prediction(sample))


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_counts_use_the_translated_labels(workers: int, samples: list[Sample], evaluation: Evaluation) -> None:
    """Labels 0 to 3 and, last, void: 0 and 3 swap places with 2 and nothing. Reading ahead changes nothing."""
    remap = np.array([2, 1, 0, -1, -1])
    counts, seconds = evaluate_samples(BrightnessSegmenter(), samples, 3, evaluation, remap, workers)
    predicted = [expected_prediction(sample) for sample in samples]
    labels = [remap[sample.read_labels()] for sample in samples]
    matrix = oracle_training.confusion(predicted, labels, 3)
    hit, found, labelled = counts.totals()
    assert (hit.tolist(), found.tolist(), labelled.tolist()) == tuple(
        each.tolist() for each in (matrix.diagonal(), matrix.sum(0), matrix.sum(1))
    )
    assert counts.miou() == pytest.approx(oracle_training.miou_of_sets(predicted, labels, 3), rel=1e-12)
    assert len(seconds) == 2


def test_labels_of_another_size_than_the_image_are_refused(samples: list[Sample], evaluation: Evaluation) -> None:
    Image.fromarray(np.zeros((5, 5), np.uint8)).save(samples[0].label)
    with pytest.raises(UserError, match=f"{samples[0].label}: .* prepare the dataset again"):
        evaluate_samples(BrightnessSegmenter(), samples, 4, evaluation)


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_an_unreadable_file_is_told_when_its_turn_comes(workers: int, samples: list[Sample], evaluation: Evaluation) -> None:
    many = [*samples * 3, Sample(samples[0].image, samples[0].label.with_name("none.png")), *samples]
    seen: list[str] = []
    with pytest.raises(UserError, match=r"none.png is missing"):
        evaluate_samples(
            BrightnessSegmenter(), many, 4, evaluation, workers=workers, each=lambda sample, _: seen.append(sample.name)
        )
    assert seen == [sample.name for sample in samples * 3]


def test_images_are_read_while_the_first_is_at_work(samples: list[Sample]) -> None:
    """At most two ahead for each worker, however many there are."""
    started: list[str] = []

    class Watched(Sample):
        def read_image(self) -> Image.Image:
            started.append(self.name)
            return super().read_image()

    ahead = loaded([Watched(s.image, s.label) for s in samples * 10], 1)
    next(ahead)
    for _ in range(100):
        if len(started) == 3:
            break
        time.sleep(0.02)
    time.sleep(0.2)  # a reader that knew no bound would be further by now
    assert len(started) == 3
    ahead.close()


def test_text_features_are_kept_until_the_weights_change(mini_clip: open_clip.CLIP) -> None:
    clip = DenseCLIP(copy.deepcopy(mini_clip), 96, (0, 2), "own")
    encoded = 0

    def count(*_: object) -> None:
        nonlocal encoded
        encoded += 1

    clip.text["ln_final"].register_forward_hook(count)
    segmenter = DenseCLIPSegmenter(clip, "fgaseg-mini", ["a photo of a {}"])
    for names in (["sky", "tree"], ["car"], ["sky", "tree"]):
        segmenter.set_vocabulary(names)
    before = segmenter.text
    assert encoded == 2
    with torch.no_grad():
        clip.text_projection.mul_(torch.linspace(0.5, 2, clip.embed_dim))
    segmenter.set_vocabulary(["sky", "tree"])
    assert encoded == 3
    assert not torch.allclose(segmenter.text, before)


def test_untrained_clip_scores_the_scaled_cosine(mini_clip: open_clip.CLIP) -> None:
    """Softmax over the classes of the cosine (equation 9 with `F_t` for `T^`), upsampled by 4."""
    clip = DenseCLIP(copy.deepcopy(mini_clip), 96, (0, 2), "own").double()
    images = torch.randn(1, 3, 96, 96, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    segmenter = DenseCLIPSegmenter(clip, "fgaseg-mini", ("a photo of a {}",))
    segmenter.set_vocabulary(["sky", "grass", "car"])
    with torch.no_grad():
        image, _ = clip.encode_image(images)
    cosine = bilinear(oracle.gcs(image[0].numpy(), segmenter.text[:, 0].numpy()), 32, 32)
    expected = np.empty_like(cosine)
    for row, column in np.ndindex(32, 32):
        expected[:, row, column] = softmax((cosine[:, row, column] * float(clip.logit_scale.exp())).tolist())
    np.testing.assert_allclose(segmenter.scores(images).values[0].numpy(), expected, rtol=1e-10)


@pytest.mark.parametrize("kind", ["dense_clip", "fgaseg"])
def test_everything_that_enters_the_model_lies_on_its_device(
    kind: str, build_model: Callable[..., FGAseg], sample_params: Params, samples: list[Sample]
) -> None:
    """The meta device stands in for a GPU: tensors left on the CPU show by their device."""
    model = build_model(sample_params).to("meta")
    vlm, entered = sample_params.vlm, []
    segmenter = (
        DenseCLIPSegmenter(model.clip, vlm.architecture, vlm.prompts)
        if kind == "dense_clip"
        else FGAsegSegmenter(model, vlm.architecture, vlm.prompts, "ce")
    )
    for name in ("encode_text", "encode_image"):
        encode = getattr(model.clip, name)

        def record(tensor: Tensor, encode: Callable[[Tensor], Any] = encode) -> Any:
            entered.append(tensor.device)
            return encode(tensor)

        setattr(model.clip, name, record)
    segmenter.set_vocabulary(["sky", "car"])
    with pytest.raises(NotImplementedError, match="meta tensor"):
        segment(segmenter, samples[0].read_image(), sample_params.evaluation)
    assert entered == [torch.device("meta")] * 2
