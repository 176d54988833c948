"""The fast decoder: what its heads learn from, which classes they drop, and that dropped classes cost nothing more."""

import copy
import itertools
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import oracle
import oracle_fast
import oracle_layers
import oracle_training
import pytest
import torch
from small import HEADS, SMALL, random, small_clip, small_model
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode
from weights import arrays, perturb

from fgaseg.errors import UserError
from fgaseg.evaluation.run import make_segmenter
from fgaseg.evaluation.segmenter import FGAsegSegmenter
from fgaseg.loading import save_model
from fgaseg.model import decoder as decoder_module
from fgaseg.model.fast import DROPPED_LOGIT, one_channel
from fgaseg.model.fgaseg import FGAseg
from fgaseg.model.supplementation import Fused
from fgaseg.params import load_launch
from fgaseg.paths import Paths
from fgaseg.plan import Plan
from fgaseg.schema import Params
from fgaseg.training.losses import Losses, auxiliary_loss

pytestmark = pytest.mark.usefixtures("one_thread")

Resolve = Callable[[Mapping[str, Any]], Params]
BuildModel = Callable[..., FGAseg]
FAST = {"model.decoder.fast": True}
CAP = 24
CLASSES = 12


def unit_text(classes: int, channels: int) -> Tensor:
    """Text features (K, 1, C) in random directions."""
    return torch.nn.functional.normalize(random(classes, 1, channels, seed=1), dim=-1)


def make_heads_drop(model: FGAseg, images: Tensor, text: Tensor) -> None:
    """Draw the heads' weights until each of them drops some of the classes that are left with `top_n` 1, and leaves some.

    The last head averages over pixels, as otherwise the stages of a random model leave it nothing to drop.
    """
    generator = torch.Generator().manual_seed(0)

    def kept_after(drawn: Sequence[int]) -> tuple[int, ...]:
        assert model.heads is not None
        for i in drawn:
            weight = cast(nn.Conv2d, model.heads[i]).weight
            size = 1 if i == 2 else 3
            draw = torch.randn((1, weight.shape[1], size, size), generator=generator, dtype=torch.float64)
            weight.data.copy_(draw.expand_as(weight))
        with torch.no_grad():
            return model(images, text, shared=True, top_n=1).kept

    for _ in range(100):
        first, second, _ = kept_after((0, 1))
        if len(text) > first > second > 2:
            for _ in range(20):
                if 1 < kept_after((2,))[2] < second:
                    return
    raise AssertionError("no weights found with which each head drops classes")


@pytest.fixture(scope="module")
def images() -> Tensor:
    return random(3, 3, 96, 96)


@pytest.fixture(scope="module")
def fast_model_of_module(build_model: BuildModel, resolve: Resolve, images: Tensor) -> FGAseg:
    model = build_model(resolve(FAST | {"model.propagation.class_cap": CAP})).eval()
    for name, module in model.named_children():
        if name != "clip":
            perturb(module, seed=3, scale=0.1)
    make_heads_drop(model, images, unit_text(CLASSES, 128))
    return model


@pytest.fixture
def fast_model(fast_model_of_module: FGAseg) -> FGAseg:
    """The sample scale's fast model, its weights outside CLIP moved away from where they start; each head drops classes."""
    return copy.deepcopy(fast_model_of_module)


SmallFastModel = Callable[[Mapping[str, Any]], FGAseg]


@pytest.fixture(scope="module")
def small_fast_model(resolve: Resolve) -> SmallFastModel:
    """Small models with given parameters, and with heads that all drop classes in the default one."""
    torch.set_default_dtype(torch.float64)
    default = small_model(small_clip(), resolve(SMALL | FAST)).eval()
    make_heads_drop(default, random(2, 3, 16, 16), unit_text(CLASSES, 8))
    torch.set_default_dtype(torch.float32)
    assert default.heads is not None
    weights = default.heads.state_dict()

    def make(delta: Mapping[str, Any]) -> FGAseg:
        model = small_model(small_clip(), resolve(SMALL | FAST | dict(delta))).eval()
        assert model.heads is not None
        model.heads.load_state_dict(weights)
        return model

    return make


def oracle_views(images: Tensor) -> list[oracle_fast.View]:
    """The image features that the oracle goes on from, from the small CLIP that every small model holds."""
    clip = arrays(small_clip())
    return [oracle.image_features(clip, i, HEADS, (0, 1), "class_token", oracle_layers.gelu) for i in images.numpy()]


def assert_answers(actual: Tensor, expected: list[oracle_layers.Array]) -> None:
    np.testing.assert_allclose(actual.detach().numpy(), np.array(expected), rtol=1e-9, atol=1e-10)


VARIANTS: dict[str, dict[str, Any]] = {
    "default": {},
    "fusion by sum": {"model.fusion": "add"},
    "without LCS": {"model.lcs.enabled": False},
    "above the cap": {"model.propagation.class_cap": 9},
}


@pytest.mark.usefixtures("float64_default")
@pytest.mark.parametrize("top_n", [1, 2])
@pytest.mark.parametrize("delta", VARIANTS.values(), ids=VARIANTS)
def test_views_of_one_image_go_on_with_the_union_of_their_best_classes(
    delta: Mapping[str, Any], top_n: int, small_fast_model: SmallFastModel
) -> None:
    images, text = random(2, 3, 16, 16), unit_text(CLASSES, 8)
    model = small_fast_model(delta)
    views = oracle_views(images)
    expected = oracle_fast.fast_logits(arrays(model), model.params, views, text[:, 0].numpy(), top_n)
    output = model(images, text, shared=True, top_n=top_n)
    assert output.kept == tuple(expected.kept)
    assert_answers(output.logits, expected.logits)


@pytest.mark.usefixtures("float64_default")
@pytest.mark.parametrize("cap", [CLASSES, 9])
def test_images_that_are_no_views_of_one_drop_their_own_classes(cap: int, small_fast_model: SmallFastModel) -> None:
    images, text = random(3, 3, 16, 16), unit_text(CLASSES, 8)
    model = small_fast_model({"model.propagation.class_cap": cap})
    each = [
        oracle_fast.fast_logits(arrays(model), model.params, [view], text[:, 0].numpy(), 1) for view in oracle_views(images)
    ]
    output = model(images, text, top_n=1)
    assert_answers(output.logits, [answer.logits[0] for answer in each])
    assert output.kept == tuple(max(answer.kept[i] for answer in each) for i in range(3))
    dropped = {tuple((view == DROPPED_LOGIT).all((1, 2)).tolist()) for view in output.logits}
    assert len(dropped) > 1


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize(("classes", "top_n"), [(5, 5), (5, 32), (CAP + 13, CAP), (CAP + 13, CAP + 13)])
@torch.no_grad()
def test_a_top_n_that_covers_all_classes_changes_no_bit(
    classes: int, top_n: int, shared: bool, fast_model: FGAseg, images: Tensor
) -> None:
    text = unit_text(classes, 128)
    every = fast_model(images, text, shared=shared)
    limited = fast_model(images, text, shared=shared, top_n=top_n)
    assert torch.equal(limited.logits, every.logits)
    assert limited.kept == every.kept == (min(classes, CAP),) * 3


@torch.no_grad()
def test_without_top_n_inference_is_that_of_the_plain_decoder(
    fast_model: FGAseg, build_model: BuildModel, resolve: Resolve, images: Tensor
) -> None:
    plain = build_model(resolve({"model.propagation.class_cap": CAP})).eval()
    shared = {name: t for name, t in fast_model.state_dict().items() if not name.startswith("heads.")}
    plain.load_state_dict(shared)
    text = unit_text(CAP + 5, 128)
    assert torch.equal(fast_model(images, text).logits, plain(images, text).logits)
    assert plain(images, text).kept == ()


@torch.no_grad()
def test_only_classes_that_are_left_enter_the_later_parts(
    fast_model: FGAseg, images: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    entered: Counter[str] = Counter()

    def count(name: str, argument: int, axes: int) -> Callable[..., None]:
        return lambda module, args: entered.update({name: math.prod(args[argument].shape[:axes])})

    decoder, propagation = fast_model.decoder, fast_model.propagation
    assert decoder.fuse is not None
    for name, module, argument, axes in (
        ("propagation", propagation, 0, 2),
        ("spatial", propagation.spatial[0], 0, 2),
        ("across classes", propagation.classes[1], 0, 2),
        ("text guidance", fast_model.text_guidance, 0, 2),
        ("stage 1", decoder.stages[0], 1, 2),
        ("local maps, upsampled", decoder.lcs_up[1][3], 0, 1),
        ("stage 2", decoder.stages[1], 1, 2),
    ):
        module.register_forward_pre_hook(count(name, argument, axes))

    def counted(name: str, function: Callable[..., Tensor], argument: int) -> Callable[..., Tensor]:
        def call(*args: Any) -> Tensor:
            entered.update({name: math.prod(args[argument].shape[:2])})
            return function(*args)

        return call

    monkeypatch.setattr(Fused, "first", counted("fusion 1", Fused.first, 1))
    monkeypatch.setattr(Fused, "__call__", counted("fusion 2", Fused.__call__, 1))
    monkeypatch.setattr(decoder_module, "one_channel", counted("output", one_channel, 1))
    first, second, third = fast_model(images, unit_text(CLASSES, 128), shared=True, top_n=1).kept
    assert CLASSES > first > second > third
    views = len(images)
    assert entered == {
        **dict.fromkeys(("propagation", "spatial", "across classes", "text guidance"), first * views),
        **dict.fromkeys(("fusion 1", "stage 1"), second * views),
        **dict.fromkeys(("local maps, upsampled", "fusion 2", "stage 2", "output"), third * views),
    }


@torch.no_grad()
def test_fewer_classes_for_a_pixel_cost_fewer_operations(fast_model: FGAseg, images: Tensor) -> None:
    text = unit_text(CAP, 128)

    def cost(top_n: int | None) -> tuple[int, tuple[int, ...]]:
        # the counter does not know the operators of packed weights
        with torch.backends.mkldnn.flags(enabled=False), FlopCounterMode(display=False) as counter:
            kept = fast_model(images, text, shared=True, top_n=top_n).kept
        return counter.get_total_flops(), kept

    fast_model(images, text, shared=True)  # what it makes of the weights alone is made
    costs = [cost(top_n) for top_n in (1, 2, 4)]
    for (less, fewer), (more, larger) in itertools.pairwise(costs):
        assert less < more
        assert all(a <= b for a, b in zip(fewer, larger, strict=True))
    assert costs[0][0] < 0.9 * cost(None)[0]


def test_dropped_classes_get_the_logit_of_dropped_ones(fast_model: FGAseg, images: Tensor) -> None:
    output = fast_model(images, unit_text(CAP + 13, 128), shared=True, top_n=1)
    left = (output.logits != DROPPED_LOGIT).all((2, 3))
    assert left.sum(1).tolist() == [output.kept[2]] * 3
    assert (output.logits[~left] == -100).all()
    assert (left == left[0]).all()


def test_top_n_without_the_heads_is_refused(tiny_model: FGAseg, images: Tensor) -> None:
    with pytest.raises(UserError, match=r"evaluation.top_n needs the fast decoder's heads: set model.decoder.fast: true"):
        tiny_model.eval()(images, unit_text(3, 128), top_n=2)


@pytest.mark.parametrize("loss", ["ce", "bce"])
@pytest.mark.parametrize(("weighting", "weights"), [("all", (0.3, 0.3, 0.3)), ("first", (0.3, 1.0, 1.0))])
def test_auxiliary_loss(weighting: Literal["all", "first"], weights: tuple[float, ...], loss: str, resolve: Resolve) -> None:
    """The heads' losses, each as the output's own, with one weight for all or for the first alone."""
    decoder = resolve({"model.decoder.aux_weight": 0.3, "model.decoder.aux_weighting": weighting}).model.decoder
    heads = [random(2, 3, side, side, seed=side).double() for side in (2, 4, 8)]
    labels = torch.randint(-1, 3, (2, 8, 8), generator=torch.Generator().manual_seed(2))
    terms = [oracle_training.segmentation_loss(logits.numpy(), labels.numpy(), loss) for logits in heads]
    expected = sum(weight * term for weight, term in zip(weights, terms, strict=True))
    assert auxiliary_loss(heads, labels, loss, decoder).item() == pytest.approx(expected, rel=1e-10)


@pytest.mark.usefixtures("float64_default")
@pytest.mark.parametrize("cap", [5, 3])
def test_total_loss_of_the_fast_decoder(cap: int, resolve: Resolve) -> None:
    """Heads after fusion, before stage 1, before stage 2; classes above the cap have the dropped logit there."""
    params = resolve(SMALL | FAST | {"model.propagation.class_cap": cap, "model.t2p.weight": 0, "vlm.finetune": "frozen"})
    model = small_model(small_clip(), params).train()
    weights = arrays(model)
    images = random(2, 3, 16, 16)
    labels = torch.randint(-1, 4, (2, 16, 16), generator=torch.Generator().manual_seed(5))
    tokens = torch.tensor([[18, 3, 19], [18, 5, 19], [18, 9, 19], [18, 8, 19]])[:, None]
    actual = Losses(model, params)(images, labels, model.clip.encode_text(tokens))
    text = model.clip.encode_text(tokens)[:, 0].numpy()
    answers = [
        oracle_fast.fast_logits(weights, params.model, [view], text, None, training=True) for view in oracle_views(images)
    ]
    heads = zip(*(answer.auxiliary[0] for answer in answers), strict=True)
    aux = sum(oracle_training.segmentation_loss(np.array(head), labels.numpy(), "ce") for head in heads)
    seg = oracle_training.segmentation_loss(np.array([answer.logits[0] for answer in answers]), labels.numpy(), "ce")
    assert actual.keys() == {"loss", "loss_seg", "loss_aux"}
    assert actual["loss_aux"].item() == pytest.approx(0.2 * aux, rel=1e-9)
    assert actual["loss"].item() == pytest.approx(seg + 0.2 * aux, rel=1e-9)


def test_the_plain_decoder_has_no_auxiliary_loss(tiny_model: FGAseg, images: Tensor) -> None:
    output = tiny_model(images, unit_text(3, 128))
    assert (output.auxiliary, output.kept) == ((), ())


def test_a_row_is_evaluated_with_its_own_top_n(
    tmp_path: Path, project_root: Path, mini_clip: Any, fast_model: FGAseg, images: Tensor
) -> None:
    plan = Plan(project_root, "sample")
    plan.paths = Paths(tmp_path, "sample", "data", {"base": "weights"})
    row = plan.tables["table_6"].rows[0]
    assert row.run_id is not None
    weights = plan.paths.vlm(row.params.vlm.backbone)
    weights.parent.mkdir(parents=True)
    torch.save(mini_clip.state_dict(), weights)
    save_model(fast_model, row.run_id, plan.paths.run(row.run_id) / "model.safetensors")
    segmenter = make_segmenter(plan, row, torch.device("cpu"), load_launch(project_root))
    assert isinstance(segmenter, FGAsegSegmenter)
    segmenter.text = unit_text(CLASSES, 128)
    scores = segmenter.scores(images)
    with torch.no_grad():
        output = segmenter.model(images, segmenter.text, shared=True, top_n=1)
    assert segmenter.kept == output.kept
    assert max(output.kept) < CLASSES
    assert scores.classes is not None
    assert len(scores.classes) == output.kept[-1]
    assert torch.equal(scores.values, output.logits.softmax(1)[:, scores.classes])
