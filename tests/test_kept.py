"""What inference keeps of weights: made once, never taken for that of other weights, gone with its module."""

import gc
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fgaseg.model import kept as module
from fgaseg.model import raising
from fgaseg.model.embedding import MapEmbedding
from fgaseg.model.fgaseg import FGAseg
from fgaseg.model.kept import forget, kept


class Doubled:
    """Twice a layer's weight, and how often it was made."""

    def __init__(self, layer: nn.Linear) -> None:
        self.layer, self.made = layer, 0

    def __call__(self) -> Tensor:
        def make() -> Tensor:
            self.made += 1
            return 2 * self.layer.weight

        return kept(self.layer, "double", [self.layer.weight], make)


@pytest.fixture
def doubled() -> Doubled:
    return Doubled(nn.Linear(3, 2))


@torch.no_grad()
def test_made_once(doubled: Doubled) -> None:
    first = doubled()
    assert doubled() is first
    assert torch.equal(first, 2 * doubled.layer.weight)
    assert doubled.made == 1


def loaded(layer: nn.Linear) -> None:
    layer.load_state_dict(nn.Linear(3, 2).state_dict())


def replaced(layer: nn.Linear) -> None:
    layer.weight = nn.Parameter(layer.weight.detach() + 1)


def stepped(layer: nn.Linear) -> None:
    layer.weight.grad = torch.ones(2, 3)
    torch.optim.SGD(layer.parameters(), lr=1.0).step()


def moved(layer: nn.Linear) -> None:
    layer.weight.data = layer.weight.data + 1


@pytest.mark.parametrize("change", [loaded, replaced, stepped, moved])
def test_made_anew_when_the_weight_changes(change: Callable[[nn.Linear], None], doubled: Doubled) -> None:
    with torch.no_grad():
        before = doubled()
    change(doubled.layer)
    with torch.no_grad():
        assert not torch.equal(doubled(), before)
        assert torch.equal(doubled(), 2 * doubled.layer.weight)
    assert doubled.made == 2


@torch.no_grad()
def test_each_of_several_weights_counts() -> None:
    layer = nn.Linear(3, 2)

    def total() -> float:
        return kept(layer, "sum", list(layer.parameters()), lambda: float(sum(p.sum() for p in layer.parameters())))

    first, weight = total(), float(layer.weight.sum())
    layer.bias.add_(1)
    assert total() == pytest.approx(first + 2, abs=1e-5)
    layer.bias = None
    assert total() == pytest.approx(weight, abs=1e-5)


@torch.no_grad()
def test_a_model_whose_weights_are_converted_begins_anew(tiny_model: FGAseg) -> None:
    """A conversion there and back may leave other numbers at the same place, of the same version."""
    model, side = tiny_model.eval(), tiny_model.clip.image_size
    model(torch.randn(1, 3, side, side), F.normalize(torch.randn(3, 1, model.clip.embed_dim), dim=-1))
    assert any(each in module._KEPT for each in model.modules())
    model.half().float()
    assert not any(each in module._KEPT for each in model.modules())


def test_nothing_is_kept_where_a_result_belongs_to_its_call(doubled: Doubled) -> None:
    assert doubled() is not doubled()  # a gradient is wanted
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        assert doubled() is not doubled()  # of another precision
    with torch.inference_mode():
        other = Doubled(nn.Linear(3, 2))
        assert other() is not other()  # its weight has no version
    with torch.no_grad():
        empty = Doubled(nn.Linear(3, 2, device="meta"))
        assert empty() is not empty()
    assert not any(each.layer in module._KEPT for each in (doubled, other, empty))


@torch.no_grad()
def test_it_goes_with_its_module_or_when_told(doubled: Doubled) -> None:
    doubled()
    forget(nn.Sequential(doubled.layer))
    doubled()
    assert doubled.made == 2
    gc.collect()
    count = len(module._KEPT)
    del doubled.layer
    gc.collect()
    assert len(module._KEPT) == count - 1


@torch.no_grad()
def test_kernels_of_two_layers_are_made_once_and_follow_either() -> None:
    up, conv, embedding = nn.ConvTranspose2d(6, 4, 2, 2), nn.Conv2d(4, 3, 3, padding=1), MapEmbedding(6, 3)
    maps = torch.randn(1, 2, 5, 5)
    x = torch.randn(1, 6, 5, 5)

    def both() -> tuple[Tensor, raising.RaisedMaps]:
        raised = raising.raise_maps(embedding.convolution(), up, conv, maps.shape[2:])
        torch.testing.assert_close(raised(maps), conv(up(embedding.conv(maps.transpose(0, 1)))), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(raising.raise_image(up, conv, x), conv(up(x)), rtol=1e-4, atol=1e-5)
        return raising._kernel(up, conv), raised

    kernel, raised = both()
    for weight in (up.weight, up.bias, conv.weight, conv.bias, embedding.conv.weight, embedding.conv.bias):
        again = both()
        assert again[0] is kernel
        assert again[1] is raised
        assert weight is not None
        weight.add_(0.5)
        kernel, raised = both()
        assert raised is not again[1]
        assert (kernel is again[0]) == (weight is not up.weight and weight is not conv.weight)
