"""The fast model against the method as it is written down: the same answers and gradients, however classes are chunked.

The method itself (`benchmarks.reference`) is held against plain loops over numbers.
"""

import copy
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import oracle
import oracle_layers
import pytest
import torch
from small import HEADS, SMALL, small_clip, small_model
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode
from weights import arrays, perturb

from benchmarks import reference
from benchmarks.model import crop, paper_model, paper_params, scene, tokens, whole_prompts
from fgaseg.evaluation.benchmark import segment
from fgaseg.evaluation.segmenter import FGAsegSegmenter
from fgaseg.evaluation.sliding import views
from fgaseg.model import decoder
from fgaseg.model.chunks import Chunks
from fgaseg.model.fast import one_channel
from fgaseg.model.fgaseg import FGAseg
from fgaseg.schema import Params
from fgaseg.training.losses import segmentation_loss

Resolve = Callable[[Mapping[str, Any]], Params]

VARIANTS: dict[str, dict[str, Any]] = {
    "default": {},
    "fewer than the cap": {"model.propagation.class_cap": 9},
    "more than the cap": {"model.propagation.class_cap": 3},
    "without P2Tformer": {"model.p2tformer.layers": 0},
    "without LCS": {"model.lcs.enabled": False},
    "sum and taps": {"model.fusion": "add", "model.lcs.normalisation": "taps"},
}


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def small_text(classes: int, channels: int = 8) -> Tensor:
    """Features (K, C) of one prompt a class, L2-normalised."""
    return torch.nn.functional.normalize(random(classes, channels, seed=4), dim=-1)


@pytest.fixture
def two_threads() -> Iterator[None]:
    """How sums of float32 are rounded depends on how many threads share them."""
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def double() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.mark.usefixtures("double", "one_thread")
@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("delta", VARIANTS.values(), ids=VARIANTS)
def test_the_reference_is_the_method(delta: Mapping[str, Any], training: bool, resolve: Resolve) -> None:
    clip, params = small_clip(), resolve(SMALL | dict(delta))
    model = small_model(clip, params).train(training)
    images, text = random(2, 3, 16, 16), small_text(5)
    with torch.no_grad():
        answer = reference.forward(model, images, text)
    for i, pixels in enumerate(images.numpy()):
        image, features = oracle.image_features(arrays(clip), pixels, HEADS, (0, 1), "class_token", oracle_layers.gelu)
        expected, _ = oracle.logits(arrays(model), params.model, image, features, text.numpy(), training=training)
        np.testing.assert_allclose(answer.logits[i].numpy(), expected, rtol=1e-9, atol=1e-10)


def weighted(logits: Tensor, alignment: Tensor) -> Tensor:
    """A scalar that every value of both moves differently; the logit of dropped classes has no say."""
    kept = logits.where(logits > reference.DROPPED, 0)
    return sum((t * random(*t.shape, seed=9)).sum() for t in (kept, alignment))  # type: ignore[return-value]


def gradients(model: FGAseg, scalar: Tensor) -> dict[str, Tensor]:
    model.zero_grad()
    scalar.backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.usefixtures("double", "one_thread")
@pytest.mark.parametrize("chunks", [Chunks(2), Chunks(2, recompute=True), Chunks(100)], ids=str)
@pytest.mark.parametrize("delta", VARIANTS.values(), ids=VARIANTS)
def test_gradients_are_the_reference_s(delta: Mapping[str, Any], chunks: Chunks, resolve: Resolve) -> None:
    model = small_model(small_clip(), resolve(SMALL | dict(delta))).train()
    model.chunks = chunks
    images, text = random(2, 3, 16, 16), small_text(5)
    output, answer = model(images, text[:, None]), reference.forward(model, images, text)
    assert output.alignment is not None
    assert answer.alignment is not None
    actual = gradients(model, weighted(output.logits, output.alignment))
    expected = gradients(model, weighted(answer.logits, answer.alignment))
    assert actual.keys() == expected.keys()
    largest = max(g.abs().max() for g in expected.values())
    for name, gradient in expected.items():
        torch.testing.assert_close(actual[name], gradient, rtol=1e-8, atol=float(1e-12 * largest), msg=name)


@pytest.fixture(scope="module")
def paper() -> FGAseg:
    """The paper's sizes, all weights moved away from where they start."""
    model = paper_model().eval()
    for name, module in model.named_children():
        if name != "clip":
            perturb(module, seed=3, scale=0.05)
    return model


def paper_text(model: FGAseg, classes: int) -> Tensor:
    """Unit vectors (K, C): a random CLIP would give all classes nearly the same."""
    return small_text(classes, model.clip.embed_dim)


def assert_close(actual: Tensor, expected: Tensor) -> None:
    """Equal to 1e-4, as a whole and at every place."""
    assert (actual - expected).norm() <= 1e-4 * expected.norm()
    assert (actual - expected).abs().max() <= 1e-4 * expected.abs().max()


@torch.no_grad()
@pytest.mark.parametrize("classes", [3, 20])
def test_logits_at_the_paper_s_size(classes: int, paper: FGAseg) -> None:
    text = paper_text(paper, classes)
    expected = reference.forward(paper, crop(), text).logits
    assert_close(paper(crop(), text[:, None]).logits, expected)
    assert expected.std(1).mean() > 1e-3 * expected.abs().mean(), "classes must differ, or nothing is compared"


@torch.no_grad()
def test_more_classes_than_the_cap_at_the_paper_s_size(paper: FGAseg) -> None:
    text = paper_text(paper, 259)
    expected = reference.forward(paper, crop(), text).logits
    actual = paper(crop(), text[:, None]).logits
    dropped = expected == reference.DROPPED
    assert torch.equal(actual == reference.DROPPED, dropped)
    assert dropped.any(2).any(2).sum() == 3
    assert_close(actual[~dropped], expected[~dropped])


@pytest.mark.usefixtures("two_threads")
def test_gradients_at_the_paper_s_size(paper: FGAseg) -> None:
    """Through both encoders: in float64 the reference's; in float32 within 1e-4 and what rounding does to the reference."""
    classes = 4
    labels = torch.randint(-1, classes, (1, 384, 384), generator=torch.Generator().manual_seed(0))
    cut, whole = tokens(20)[:classes], whole_prompts(20)[:classes]

    def of_fast(model: FGAseg) -> Tensor:
        return model(crop().to(dtype(model)), model.clip.encode_text(cut)).logits

    def of_reference(model: FGAseg) -> Tensor:
        return reference.forward(model, crop().to(dtype(model)), reference.encode_text(model.clip, whole)).logits

    def dtype(model: FGAseg) -> torch.dtype:
        return model.clip.logit_scale.dtype

    def found(logits: Callable[[FGAseg], Tensor], model: FGAseg) -> dict[str, Tensor]:
        return gradients(model.train(), segmentation_loss(logits(model), labels, "ce"))

    single, double = copy.deepcopy(paper), copy.deepcopy(paper).double()
    exact, plain, fast = found(of_reference, double), found(of_reference, single), found(of_fast, single)
    in_double = found(of_fast, double)
    assert fast.keys() == in_double.keys() == plain.keys() == exact.keys()
    largest = max(float(gradient.norm()) for gradient in exact.values())
    for name, gradient in exact.items():
        size, by_rounding = float(gradient.norm()), float((plain[name] - gradient).norm())
        assert float((in_double[name] - gradient).norm()) <= 1e-9 * size + 1e-14 * largest, name
        assert float((fast[name] - gradient).norm()) <= 1e-4 * size + 10 * by_rounding, name


@torch.no_grad()
def test_prompts_cut_to_the_longest_give_the_features_of_whole_ones(paper: FGAseg) -> None:
    assert_close(paper.clip.encode_text(tokens(20))[:, 0], reference.encode_text(paper.clip, whole_prompts(20)))


@torch.no_grad()
def test_a_whole_image_gets_the_reference_s_labels(paper: FGAseg) -> None:
    """Where the two best classes are not nearly equal: merging at the scores' own resolution spares one interpolation."""
    params = paper_params().evaluation
    segmenter = FGAsegSegmenter(paper, "ViT-B-16-quickgelu", ["a photo of a {}"], "ce")
    text = paper_text(paper, 4)
    segmenter.text = text[:, None]
    photograph = scene()
    scores = reference.scores_of_image(paper, photograph, text, views(photograph, params), params)
    best, second = scores.topk(2, 0).values
    clear = ((best - second) > 0.02 * (scores.max() - scores.min())).numpy()
    expected = scores.argmax(0).numpy()
    assert len(np.unique(expected[clear])) > 1
    assert clear.mean() > 0.5
    agreed = segment(segmenter, photograph, params) == expected
    assert agreed[clear].mean() > 0.98
    assert agreed.mean() > 0.9


@torch.no_grad()
def test_operations_fall_by_what_is_shared(paper: FGAseg) -> None:
    """The reference takes 269.6 + 2.928 K GFLOP with what the released code drops, as that does; the fast model less."""

    def cost(call: Callable[[], object]) -> float:
        # the counter does not know the operators of packed weights
        with torch.backends.mkldnn.flags(enabled=False), FlopCounterMode(display=False) as counter:
            call()
        return counter.get_total_flops() / 1e9

    for classes in (20, 59):
        text = paper_text(paper, classes)
        released = cost(lambda text=text: reference.forward(paper, crop(), text, dropped=True))
        assert released == pytest.approx(269.6 + 2.928 * classes, abs=0.1)  # 0.05 for the constant, and 59 times 0.0005
        assert cost(lambda text=text: paper(crop(), text[:, None])) < 0.6 * released


@torch.no_grad()
def test_what_the_released_code_drops_changes_no_logits(paper: FGAseg) -> None:
    text = paper_text(paper, 3)
    plain, released = (reference.forward(paper, crop(), text, dropped=dropped) for dropped in (False, True))
    assert plain.alignment is None
    assert released.alignment is not None
    assert_close(released.logits, plain.logits)


@torch.no_grad()
@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize(("images", "classes", "expected"), [(1, 7, [2, 3]), (2, 1, [2]), (2, 2, [2])])
def test_no_stage_holds_more_classes_than_are_allowed_at_once(
    images: int, classes: int, expected: list[int], paper: FGAseg, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []
    blocks = tuple(paper.propagation.spatial[0].blocks)
    stages = (*blocks, paper.decoder.stages[0].conv[3], paper.decoder.lcs_up[1][3])

    def count(module: torch.nn.Module, args: tuple[torch.Tensor]) -> None:
        images, classes = args[0].shape[:2] if module in blocks else (1, len(args[0]))
        seen.append(images * classes)

    def head(layer: torch.nn.Conv2d, maps: Tensor) -> Tensor:
        seen.append(maps.shape[0] * maps.shape[1])
        return one_channel(layer, maps)

    monkeypatch.setattr(decoder, "one_channel", head)
    hooks = [m.register_forward_pre_hook(count) for m in stages]
    before, paper.chunks = paper.chunks, Chunks(3)
    try:
        paper(crop().expand(images, -1, -1, -1), paper_text(paper, classes)[:, None])
    finally:
        paper.chunks = before
        for hook in hooks:
            hook.remove()
    assert sorted(set(seen)) == expected
    assert sum(seen) == images * classes * (len(stages) + 1)
