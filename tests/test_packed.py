"""Linear maps with weights laid out beforehand: the same results, never of a weight that is no longer the layer's."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fgaseg.model import fgaseg, kept, packed
from fgaseg.model.aggregation import GuidedLinear
from fgaseg.model.fgaseg import FGAseg
from fgaseg.model.lean import GELU, affine, linear
from fgaseg.model.prompts import tokenise
from fgaseg.schema import Params
from fgaseg.training.optimisation import Step, initial_state
from fgaseg.training.ranks import Ranks


def assert_close(actual: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-6)


@pytest.fixture(autouse=True)
def available() -> None:
    if not packed._AVAILABLE:
        pytest.skip("this machine's PyTorch has no oneDNN for a processor with AVX: plain linear maps are used")


@pytest.fixture
def layer() -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(24, 40)


@pytest.mark.parametrize("activation", [None, GELU(), nn.ReLU(), nn.Tanh()], ids=str)
@pytest.mark.parametrize("shape", [(24,), (1, 24), (3, 5, 24), (2, 3, 4, 24)], ids=str)
@torch.no_grad()
def test_the_same_as_a_plain_layer(shape: tuple[int, ...], activation: nn.Module | None, layer: nn.Linear) -> None:
    x = torch.randn(shape)
    expected = layer(x) if activation is None else activation(layer(x))
    ready = affine(layer, activation)
    assert ready.laid_out is not None
    for result in (ready(x), ready(x), linear(layer, x, activation)):
        assert_close(result, expected)


@torch.no_grad()
def test_tokens_need_not_lie_in_order(layer: nn.Linear) -> None:
    x = torch.randn(24, 6, 5).permute(2, 1, 0)
    assert_close(linear(layer, x), layer(x))


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode], ids=["no_grad", "inference_mode"])
def test_a_changed_weight_is_laid_out_anew(layer: nn.Linear, mode: type[torch.no_grad]) -> None:
    x, guided = torch.randn(7, 24), GuidedLinear(24, 3)
    optimiser = torch.optim.SGD([*layer.parameters(), *guided.parameters()], lr=0.5)

    def step() -> None:
        optimiser.zero_grad()
        (layer(x).square().mean() + guided(F.pad(x, (0, 3))).square().mean()).backward()
        optimiser.step()

    def loaded() -> None:
        layer.load_state_dict(nn.Linear(24, 40).state_dict())
        guided.load_state_dict(GuidedLinear(24, 3).state_dict())

    def replaced() -> None:
        layer.weight, guided.weight = nn.Parameter(torch.randn(40, 24)), nn.Parameter(torch.randn(24, 27))

    for change in (lambda: None, step, step, loaded, replaced):
        before = layer.weight.detach().clone()
        change()
        assert change.__name__ == "<lambda>" or not torch.equal(before, layer.weight)
        with mode():
            mapped = guided.of_guidance(torch.ones(3))
            assert_close(linear(layer, x), layer(x))
            assert_close(guided.of_tokens()(x) + mapped, guided(F.pad(x, (0, 3), value=1.0)))


def test_it_leaves_what_it_is_not_made_for(layer: nn.Linear) -> None:
    x = torch.randn(7, 24)
    assert affine(layer).laid_out is None  # a gradient is wanted
    assert linear(layer, x).requires_grad
    with torch.no_grad():
        assert affine(layer).laid_out is not None
        assert linear(layer, x[:0]).shape == (0, 40)
        with pytest.raises(RuntimeError, match="same dtype"):
            linear(layer, x.double())
        with torch.autocast("cpu", torch.bfloat16):
            assert affine(layer).laid_out is None
            assert linear(layer, x).dtype == torch.bfloat16
        with torch.backends.mkldnn.flags(enabled=False):
            assert affine(layer).laid_out is None
        double = copy.deepcopy(layer).double()
        assert affine(double).laid_out is None
        assert_close(linear(double, x.double()).float(), layer(x))
    with torch.inference_mode():
        assert affine(nn.Linear(24, 40)).laid_out is None


@torch.no_grad()
def test_the_whole_model_gives_the_same(tiny_model: FGAseg) -> None:
    side = tiny_model.clip.image_size
    images = torch.randn(2, 3, side, side)
    text = F.normalize(torch.randn(5, 1, tiny_model.clip.embed_dim), dim=-1)
    model = tiny_model.eval()

    def packed_layers() -> int:
        names = [name for module in model.modules() for name in kept._KEPT.get(module, {})]
        return sum(isinstance(name, tuple) and name[0] == "packed" for name in names)

    with torch.backends.mkldnn.flags(enabled=False):
        plain = copy.deepcopy(model)(images, text).logits
        model(images, text)
    assert packed_layers() == 0
    torch.testing.assert_close(model(images, text).logits, plain, rtol=1e-4, atol=1e-5)
    assert packed_layers() > 20


def take_step(model: FGAseg, params: Params, images: Tensor) -> None:
    """One step that trains every weight of the model, with the project's optimiser."""
    model.requires_grad_(True)
    state = initial_state(model, params.training.model_copy(update={"lr": 0.1}))
    tokens = tokenise(["a", "b"], params.vlm.prompts, params.vlm.architecture)
    labels = torch.randint(0, 2, (len(images), 96, 96), generator=torch.Generator().manual_seed(1))
    Step(state, params, tokens, Ranks(0, 1, torch.device("cpu")))([(images, labels, ["one"])])


@pytest.mark.parametrize("told_by", ["train()", "the step"])
def test_no_validation_sees_the_weights_of_an_earlier_one(
    told_by: str, tiny_model: FGAseg, sample_params: Params, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A fused optimiser raises no version: `train()` forgets what was laid out, and the step raises the versions."""
    if told_by == "train()":
        monkeypatch.setattr(torch.autograd.graph, "increment_version", lambda tensors: None)
    else:
        monkeypatch.setattr(fgaseg, "forget", lambda model: None)
    images = torch.randn(2, 3, 96, 96)
    text = F.normalize(torch.randn(5, 1, tiny_model.clip.embed_dim), dim=-1)

    def logits(model: FGAseg) -> Tensor:
        with torch.no_grad():
            return model.eval()(images, text).logits

    for _ in range(2):
        before = logits(tiny_model)
        take_step(tiny_model.train(), sample_params, images)
        actual = logits(tiny_model)
        with torch.backends.mkldnn.flags(enabled=False):  # and a copy, of whose weights nothing is kept
            torch.testing.assert_close(actual, logits(copy.deepcopy(tiny_model)), rtol=1e-4, atol=1e-4)
        assert not torch.allclose(actual, before, rtol=1e-2)
