"""Losses, schedule, clipping, window merging and scores (paper, III-E; released code) against the oracle's plain loops."""

import itertools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import oracle_training
import pytest
import torch
from PIL import Image
from small import random_labels
from torch import Tensor

from fgaseg.evaluation.counts import Counts
from fgaseg.evaluation.labelling import label_map
from fgaseg.evaluation.sliding import merge, views, window_origins
from fgaseg.model.fgaseg import FGAseg
from fgaseg.model.prompts import tokenise
from fgaseg.model.t2p import t2p_loss
from fgaseg.params import Resolver
from fgaseg.schema import Params
from fgaseg.training.losses import Losses, segmentation_loss
from fgaseg.training.optimisation import Step, initial_state, parameter_groups
from fgaseg.training.ranks import Ranks
from fgaseg.training.state import TrainingState

pytestmark = pytest.mark.usefixtures("one_thread")

Resolve = Callable[[Mapping[str, Any]], Params]
Labelled = tuple[list[oracle_training.Labels], list[oracle_training.Labels]]
NAMES = ["sky", "grass", "car"]


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("side", [16, 18], ids=["whole factor", "broken factor"])
@pytest.mark.parametrize("loss", ["mse", "bce"])
def test_t2p_loss(loss: Literal["mse", "bce"], side: int) -> None:
    """Equation 8, with ignored pixels in neither form."""
    similarity, labels = random(2, 3, 8, 8), random_labels(2, side, side, classes=3)
    expected = oracle_training.t2p_loss(similarity.numpy(), labels.numpy(), loss)
    assert t2p_loss(similarity, labels, -1, loss).item() == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize("loss", ["ce", "bce"])
def test_segmentation_loss(loss: str) -> None:
    """Equation 12, logits resized to the labels, with ignored pixels in neither form."""
    logits, labels = random(2, 3, 4, 4), random_labels(2, 12, 12, classes=3)
    expected = oracle_training.segmentation_loss(logits.numpy(), labels.numpy(), loss)
    assert segmentation_loss(logits, labels, loss).item() == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize("loss", ["ce", "bce"])
def test_scores_of_ignored_pixels_change_no_segmentation_loss(loss: str) -> None:
    logits, labels = random(1, 3, 4, 4), torch.zeros(1, 4, 4, dtype=torch.long)
    labels[0, 1] = -1
    before = segmentation_loss(logits, labels, loss)
    logits[0, :, 1] += 5
    assert segmentation_loss(logits, labels, loss) == before


def test_losses_of_a_batch_without_labels_are_zero() -> None:
    labels = torch.full((1, 8, 8), -1)
    assert [segmentation_loss(random(1, 3, 4, 4), labels, loss).item() for loss in ("ce", "bce")] == [0.0, 0.0]
    assert [t2p_loss(random(1, 3, 4, 4), labels, -1, form).item() for form in ("mse", "bce")] == [0.0, 0.0]


def test_total_loss_without_t2p_is_the_segmentation_loss(build_model: Callable[..., FGAseg], resolve: Resolve) -> None:
    """Equation 13 with weight 0: no projector, no second term."""
    params = resolve({"model.t2p.weight": 0})
    model = build_model(params)
    tokens = tokenise(NAMES, params.vlm.prompts, params.vlm.architecture)
    text = model.clip.encode_text(tokens)
    terms = Losses(model, params)(random(1, 3, 96, 96).float(), random_labels(1, 96, 96, classes=3), text)
    assert terms.keys() == {"loss", "loss_seg"}
    assert terms["loss"] == terms["loss_seg"]


def test_learning_rates_follow_a_cosine_to_zero(tiny_model: FGAseg, resolve: Resolve) -> None:
    """CLIP at its own multiple of the base rate, no warm-up."""
    training = resolve({"training.iterations": 7}).training
    state = initial_state(tiny_model, training)
    bases = {training.lr, training.lr * training.clip_lr_multiplier}
    assert {group["initial_lr"] for group in state.optimiser.param_groups} == bases
    for step in range(8):
        for group in state.optimiser.param_groups:
            expected = oracle_training.learning_rate(group["initial_lr"], step, 7)
            assert group["lr"] == pytest.approx(expected, rel=1e-10, abs=1e-18)
        state.optimiser.step()
        state.schedule.step()


def test_parameter_groups(tiny_model: FGAseg, sample_params: Params) -> None:
    """CLIP learns at 0.01 x the base (here 0.1 x), norms do not decay, each trained tensor is in one group."""
    training = sample_params.training
    names = {id(p): name for name, p in tiny_model.named_parameters()}
    found = {}
    for group in parameter_groups(tiny_model, training):
        for p in cast("list[Tensor]", group["params"]):
            assert names[id(p)] not in found
            found[names[id(p)]] = (group["lr"], group["weight_decay"])
    assert found.keys() == {name for name, p in tiny_model.named_parameters() if p.requires_grad}
    norms = (torch.nn.LayerNorm, torch.nn.GroupNorm, torch.nn.InstanceNorm2d)
    for name, (lr, decay) in found.items():
        owner = tiny_model.get_submodule(name.rpartition(".")[0])
        assert lr == training.lr * (training.clip_lr_multiplier if name.startswith("clip.") else 1)
        assert decay == (0 if isinstance(owner, norms) else training.weight_decay)


class _Recorder(torch.optim.SGD):
    """Keeps the gradients that it is asked to apply."""

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        self.seen = [p.grad.clone() for group in self.param_groups for p in group["params"] if p.grad is not None]


@pytest.mark.parametrize("share", [0.5, 2.0], ids=["above the limit", "below the limit"])
def test_a_step_averages_over_images_and_clips_over_the_whole_model(
    share: float, build_model: Callable[..., FGAseg], resolve: Resolve
) -> None:
    """One norm over CLIP and the rest together; the step tells the norm before clipping, and mean losses."""
    params = resolve({})
    sizes = (1, 2)
    images = [random(size, 3, 96, 96, seed=size).float() for size in sizes]
    batches = [(image, random_labels(len(image), 96, 96, classes=len(NAMES)), "") for image in images]
    tokens = tokenise(NAMES, params.vlm.prompts, params.vlm.architecture)
    model = build_model(params).train()
    total = 0.0
    for images, labels, _ in batches:
        loss = Losses(model, params)(images, labels, model.clip.encode_text(tokens))["loss"] * len(images) / sum(sizes)
        loss.backward()
        total += loss.item()
    gradients = [p.grad.double().numpy() for p in model.parameters() if p.grad is not None]
    _, norm = oracle_training.clipped([np.array([np.linalg.norm(g) for g in gradients])], 1.0)

    params = resolve({"training.max_norm": share * norm})
    model = build_model(params).train()
    recorder = _Recorder([p for p in model.parameters() if p.requires_grad], lr=1.0)
    schedule = torch.optim.lr_scheduler.LambdaLR(recorder, lambda _: 1.0)
    state = TrainingState(model, recorder, schedule, torch.amp.GradScaler("cpu", enabled=False))
    terms, actual = Step(state, params, tokens, Ranks(0, 1, torch.device("cpu")))(batches)
    assert len(recorder.seen) == len(gradients)
    for seen, gradient in zip(recorder.seen, gradients, strict=True):
        np.testing.assert_allclose(seen.numpy(), gradient * min(1.0, share), rtol=1e-4, atol=1e-6 * norm)
    assert actual.item() == pytest.approx(norm, rel=1e-5)
    assert terms["loss"].item() == pytest.approx(total, rel=1e-5)
    assert state.step == 1


def test_clipping_rule() -> None:
    """The factor that torch applies is the oracle's: one for all tensors, 1 below the limit."""
    for limit in (0.01, 100.0):
        tensors = [torch.zeros(3, 2, dtype=torch.float64, requires_grad=True) for _ in range(3)]
        for i, tensor in enumerate(tensors):
            tensor.grad = random(3, 2, seed=i)
        expected, norm = oracle_training.clipped([t.grad.numpy().copy() for t in tensors if t.grad is not None], limit)
        assert torch.nn.utils.clip_grad_norm_(tensors, limit).item() == pytest.approx(norm, rel=1e-10)
        for tensor, gradient in zip(tensors, expected, strict=True):
            assert tensor.grad is not None
            np.testing.assert_allclose(tensor.grad.numpy(), gradient, rtol=1e-6)


def test_windows_and_whole_image_are_the_views(sample_params: Params) -> None:
    """Windows of the resized image, row by row, then the whole image resized to one window."""
    e = sample_params.evaluation
    rng = np.random.default_rng(0)
    image = Image.fromarray(rng.integers(0, 256, (50, 70, 3), np.uint8))
    actual = views(image, e)
    assert window_origins(e) == list(itertools.product((0, 66), repeat=2))
    assert actual.shape == (5, 3, 96, 96)
    resized = np.asarray(image.resize((162, 162), Image.Resampling.BILINEAR))
    whole = np.asarray(image.resize((96, 96), Image.Resampling.BILINEAR))
    expected = [resized[top : top + 96, left : left + 96] for top in (0, 66) for left in (0, 66)] + [whole]
    mean, std = np.array([0.48145466, 0.4578275, 0.40821073]), np.array([0.26862954, 0.26130258, 0.27577711])
    for view, pixels in zip(actual, expected, strict=True):
        np.testing.assert_allclose(view.permute(1, 2, 0).numpy(), (pixels / 255 - mean) / std, atol=1e-5)


def test_paper_takes_four_windows_and_the_whole_image(project_root: Path) -> None:
    """640 x 640, windows of 384 at stride 256."""
    e = Resolver(project_root, "paper").default.evaluation
    assert window_origins(e) == [(0, 0), (0, 256), (256, 0), (256, 256)]
    assert e.whole_image


@pytest.mark.parametrize("whole_image", [True, False])
@pytest.mark.parametrize(("window", "stride", "resize", "length"), [(8, 4, 16, 4), (8, 6, 14, 4), (6, 6, 12, 6)])
def test_merging(window: int, stride: int, resize: int, length: int, whole_image: bool, resolve: Resolve) -> None:
    """The mean of overlapping windows, then the mean with the whole image."""
    e = resolve(
        {
            "evaluation.window": window,
            "evaluation.stride": stride,
            "evaluation.resize": resize,
            "evaluation.whole_image": whole_image,
        }
    ).evaluation
    steps = [start * length // window for start in range(0, resize - window + 1, stride)]
    origins = [(top, left) for top in steps for left in steps]
    scores = random(len(origins) + whole_image, 3, length, length)
    expected = oracle_training.merged(scores.numpy(), origins, resize * length // window, whole_image)
    np.testing.assert_allclose(merge(scores, e).numpy(), expected, rtol=1e-10)


@pytest.mark.parametrize("chunk", [1, 2, 32])
def test_label_map(chunk: int) -> None:
    """The best class of every pixel of the original size, however the classes are chunked."""
    scores = random(5, 6, 6)
    expected = oracle_training.label_map(scores.numpy(), 9, 13)
    assert np.array_equal(label_map(scores, 9, 13, chunk).numpy(), expected)


@pytest.mark.parametrize("chunk", [1, 2, 32])
def test_of_equal_scores_the_first_class_wins(chunk: int) -> None:
    scores = torch.zeros(5, 2, 2)
    scores[[1, 2, 4]] = 1.0
    assert (label_map(scores, 4, 4, chunk) == 1).all()


@pytest.fixture
def predictions() -> Labelled:
    """Predictions and labels of three images: void pixels, one class never predicted, one never labelled."""
    rng = np.random.default_rng(3)
    predicted = [rng.choice([0, 1, 3, 4], (6, 8)) for _ in range(3)]
    labels = [rng.choice([-1, 0, 1, 2, 3], (6, 8)) for _ in range(3)]
    return predicted, labels


def counted(predicted: list[oracle_training.Labels], labels: list[oracle_training.Labels]) -> Counts:
    counts = Counts(5)
    for guess, truth in zip(predicted, labels, strict=True):
        counts.add(guess, truth)
    return counts


def test_counts_are_the_margins_of_the_confusion_matrix(predictions: Labelled) -> None:
    matrix = oracle_training.confusion(*predictions, 5)
    hit, found, labelled = counted(*predictions).totals()
    assert hit.tolist() == matrix.diagonal().tolist()
    assert found.tolist() == matrix.sum(0).tolist()
    assert labelled.tolist() == matrix.sum(1).tolist()


@pytest.mark.parametrize("second", ["confusion", "sets"])
def test_mean_iou(second: str, predictions: Labelled) -> None:
    """Over the classes that the ground truth shows, void excluded, by two other computations."""
    if second == "confusion":
        expected = oracle_training.miou_of_confusion(oracle_training.confusion(*predictions, 5))
    else:
        expected = oracle_training.miou_of_sets(*predictions, 5)
    assert counted(*predictions).miou() == pytest.approx(expected, rel=1e-12)


def test_a_class_without_ground_truth_has_no_iou(predictions: Labelled) -> None:
    iou = counted(*predictions).iou()
    assert np.isnan(iou).tolist() == [False, False, False, False, True]
    assert iou[2] == 0


def test_pixel_accuracy(predictions: Labelled) -> None:
    matrix = oracle_training.confusion(*predictions, 5)
    assert counted(*predictions).pixel_accuracy() == pytest.approx(matrix.trace() / matrix.sum(), rel=1e-12)


def test_entries_of_one_image_are_its_own(predictions: Labelled) -> None:
    columns = counted(*predictions).columns()
    for image, (guess, truth) in enumerate(zip(*predictions, strict=True)):
        matrix = oracle_training.confusion([guess], [truth], 5)
        rows = columns["image"] == image
        classes = columns["class"][rows]
        assert classes.tolist() == np.flatnonzero(matrix.sum(0) + matrix.sum(1)).tolist()
        assert columns["intersection"][rows].tolist() == matrix.diagonal()[classes].tolist()
