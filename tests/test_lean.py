"""What spares memory where no gradient is wanted gives what training gives."""

import open_clip.transformer
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fgaseg.model.aggregation import ClassAggregation
from fgaseg.model.chunks import Chunks
from fgaseg.model.lean import GELU, FeedForward, lean, positive, residual

VALUES = torch.tensor([-200.0, -20, -3, -1, -1e-4, 0, 1e-4, 0.5, 1, 3, 20, 200])


@pytest.mark.parametrize("gradient", [True, False])
@pytest.mark.parametrize("activation", [nn.GELU(), open_clip.transformer.QuickGELU(), nn.ReLU(), nn.GELU("tanh")], ids=str)
def test_activations_in_place(activation: nn.Module, gradient: bool) -> None:
    with torch.set_grad_enabled(gradient):
        actual = lean(activation)(VALUES.clone())
    torch.testing.assert_close(actual, activation(VALUES.clone()), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("gradient", [True, False])
def test_the_feature_map_of_linear_attention(gradient: bool) -> None:
    with torch.set_grad_enabled(gradient):
        actual = positive(VALUES.clone())
    torch.testing.assert_close(actual.double(), F.elu(VALUES.double()) + 1, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_a_residual_keeps_the_precision_of_what_is_added_to(precision: torch.dtype) -> None:
    x, change = torch.randn(5), torch.randn(5).to(precision)
    expected = x + change
    actual = residual(x, change)
    assert actual.dtype == torch.float32
    assert torch.equal(actual, expected)
    assert (actual.data_ptr() == change.data_ptr()) == (precision == torch.float32)


@pytest.mark.parametrize("precision", [torch.float16, torch.bfloat16])
def test_half_precision_does_not_overflow(precision: torch.dtype) -> None:
    values = torch.tensor([-60000.0, -40000, -1, 1, 40000]).to(precision)
    with torch.no_grad():
        actual = lean(open_clip.transformer.QuickGELU())(values.clone())
    assert torch.equal(actual, open_clip.transformer.QuickGELU()(values))


@pytest.mark.parametrize(("activation", "kept"), [(GELU(), False), (nn.ReLU(), True)], ids=["GELU", "ReLU"])
def test_training_keeps_nothing_inside_an_mlp_with_a_gelu(activation: nn.Module, kept: bool) -> None:
    torch.manual_seed(0)
    mlp = FeedForward(4, 16, activation)
    x = torch.randn(3, 4, requires_grad=True)
    shapes = []

    def pack(tensor: Tensor) -> Tensor:
        shapes.append(tuple(tensor.shape))
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        result = mlp(x, mlp.ready())
    assert ((3, 16) in shapes) is kept
    inputs = [x, *mlp.parameters()]
    actual = torch.autograd.grad(result.square().sum(), inputs)
    plain = mlp.fc2(activation(mlp.fc1(x)))
    expected = torch.autograd.grad(plain.square().sum(), inputs)
    torch.testing.assert_close(result, plain)
    torch.testing.assert_close(actual, expected)


def test_class_aggregation_of_many_classes_stays_in_the_range_of_half_precision() -> None:
    """Sums of 256 classes' keys, with queries as large as training may make them."""
    torch.manual_seed(0)
    module = ClassAggregation(128, 128, 4, 4, 1, 256).eval()
    with torch.no_grad():
        for layer in (module.q, module.k):
            layer.weight.mul_(16)
    maps, guidance = torch.randn(1, 256, 2, 2, 128), torch.randn(1, 256, 128)
    with torch.no_grad():
        exact = module(maps.clone(), guidance, Chunks())
        with torch.autocast("cpu", torch.float16):
            rounded = module(maps.clone(), guidance, Chunks())
    torch.testing.assert_close(rounded.float(), exact, rtol=0.02, atol=0.02)
