"""The label map without all classes at full size: the same labels as with them, whatever the scores look like."""

import math
from collections.abc import Callable
from itertools import chain
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from fgaseg.evaluation import labelling
from fgaseg.evaluation.labelling import label_map

pytestmark = pytest.mark.usefixtures("one_thread")


def noise(*shape: int) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(0))


def smooth(classes: int, rows: int, columns: int) -> Tensor:
    """Probabilities of a model that is mostly sure, and sometimes between two classes."""
    coarse = 4 * torch.randn(1, classes, 5, 5, generator=torch.Generator().manual_seed(1))
    return F.interpolate(coarse, size=(rows, columns), mode="bicubic")[0].softmax(0)


def saturated(*shape: int) -> Tensor:
    """Sigmoids, of which many are exactly 0 or 1."""
    return (200 * noise(*shape) - 100).sigmoid()


def signed(*shape: int) -> Tensor:
    """Logits far below 0."""
    return 50 * noise(*shape) - 1000


def nearly_equal(*shape: int) -> Tensor:
    """Classes that differ in the last bits alone: only exact values tell them apart."""
    return 1 + torch.finfo(torch.float32).eps * (4 * noise(*shape)).round()


def twins(*shape: int) -> Tensor:
    """Every class comes twice, as two synonyms of the same features."""
    scores = smooth(*shape)
    scores[1::2] = scores[::2][: len(scores[1::2])]
    return scores


def constant(*shape: int) -> Tensor:
    return torch.full(shape, 0.25)


def plain(scores: Tensor, height: int, width: int) -> Tensor:
    """All classes at full size."""
    return F.interpolate(scores[None], size=(height, width), mode="bilinear", align_corners=False)[0].argmax(0)


@pytest.fixture(autouse=True)
def tiles_always(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small maps are cut into tiles as large ones are."""
    monkeypatch.setattr(labelling, "_FEW_VALUES", 0)


@pytest.mark.parametrize(
    "size",
    [
        (40, 24, 24, 77, 102),
        (21, 17, 30, 40, 61),
        (20, 54, 54, 31, 20),
        (67, 9, 9, 100, 100),
        (35, 16, 16, 16, 16),
        (5, 1, 3, 8, 9),
    ],
    ids=str,
)
@pytest.mark.parametrize("kind", [noise, smooth, saturated, signed, nearly_equal, twins, constant])
def test_labels_are_those_of_all_classes_at_full_size(kind: Callable[..., Tensor], size: tuple[int, ...]) -> None:
    scores, (height, width) = kind(*size[:3]), size[3:]
    assert torch.equal(label_map(scores, height, width), plain(scores, height, width))


@pytest.mark.parametrize("pixels", [1, 64, 10**6])
def test_labels_do_not_depend_on_the_size_of_a_tile(pixels: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(labelling, "_TILE_PIXELS", pixels)
    for scores in (smooth(30, 20, 25), noise(30, 20, 25)):
        assert torch.equal(label_map(scores, 60, 70), plain(scores, 60, 70))


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("kind", [noise, smooth, twins])
def test_every_precision_has_its_own_labels(kind: Callable[..., Tensor], dtype: torch.dtype) -> None:
    """Half precision makes many classes equal at a pixel: the first wins."""
    scores = kind(40, 24, 24).to(dtype)
    assert torch.equal(label_map(scores, 77, 102), plain(scores, 77, 102))


@pytest.mark.parametrize("chunk", [1, 3, 32])
@pytest.mark.parametrize("classes", [1, 2, 3, 35])
def test_chunks_change_nothing(classes: int, chunk: int) -> None:
    """torch interpolates three channels with a kernel of its own: a class's values must not depend on its company."""
    scores = nearly_equal(classes, 24, 24)
    expected = plain(torch.cat([scores, scores[-1:].expand(4, -1, -1)]), 77, 102)
    assert torch.equal(label_map(scores, 77, 102, chunk), expected)


@pytest.mark.parametrize("kind", [noise, smooth])
def test_few_pixels_of_few_classes_need_exact_values(kind: Callable[..., Tensor], monkeypatch: pytest.MonkeyPatch) -> None:
    """What is not certain is rare; no more than a chunk of classes is ever at full size."""
    sizes = []
    interpolate = F.interpolate

    def spy(*args: Any, **kwargs: Any) -> Tensor:
        result = interpolate(*args, **kwargs)
        sizes.append(result.numel() / (77 * 102))
        return result

    scores = kind(200, 24, 24)
    monkeypatch.setattr(F, "interpolate", spy)
    label_map(scores, 77, 102)
    assert max(sizes) <= 8
    assert sum(sizes) < 100


@pytest.mark.parametrize("size", [(4, 300), (2, 3)], ids=str)
def test_cells_may_outnumber_pixels(size: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    """Some tiles then have no pixel."""
    monkeypatch.setattr(labelling, "_TILE_PIXELS", 64)
    scores = noise(40, 300, 4)
    assert not all(len(span.weights) for span in labelling._spans(300, size[0], 8, torch.float32))
    assert torch.equal(label_map(scores, *size), plain(scores, *size))


@pytest.mark.parametrize("tiles", [True, False])
@pytest.mark.parametrize("kind", [noise, smooth, nearly_equal])
def test_autocast_and_the_order_in_memory_change_nothing(
    kind: Callable[..., Tensor], tiles: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(labelling, "_FEW_VALUES", 0 if tiles else 2**60)
    scores = kind(40, 24, 24)
    expected = plain(scores, 77, 102)
    channels_last = scores[None].to(memory_format=torch.channels_last)[0]
    assert torch.equal(label_map(channels_last, 77, 102, chunk=64), expected)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(label_map(scores, 77, 102), expected)


@pytest.mark.parametrize(("scale", "dtype"), [(2e-6, torch.float16), (1e-43, torch.float32), (1e37, torch.float32)])
def test_values_may_be_as_small_or_large_as_their_precision_allows(scale: float, dtype: torch.dtype) -> None:
    scores = (noise(40, 24, 24) * scale).to(dtype)
    assert torch.equal(label_map(scores, 77, 102), plain(scores, 77, 102))


def test_few_candidates_remain_where_a_model_is_sure() -> None:
    tiles = list(chain(*labelling._tiles(smooth(200, 96, 96), 300, 320, threads=1)))
    counts = [len(tile.candidates) for tile in tiles]
    assert sum(counts) / len(counts) < 20
    covered = torch.zeros(300, 320)
    for tile in tiles:
        covered[tile.down.pixels, tile.across.pixels] += 1
    assert (covered == 1).all()


def test_candidates_contain_every_winner() -> None:
    scores = noise(50, 16, 16)
    labels = plain(scores, 60, 60)
    for tile in chain(*labelling._tiles(scores, 60, 60, threads=1)):
        winners = labels[tile.down.pixels, tile.across.pixels].unique().tolist()
        assert set(winners) <= set(tile.candidates.tolist())


def test_large_values_of_either_sign_are_compared_exactly() -> None:
    scores = (noise(30, 12, 12) - 0.5) * math.pi * 1e6
    assert torch.equal(label_map(scores, 50, 50), plain(scores, 50, 50))


@pytest.mark.parametrize("classes", [60, 200])
@pytest.mark.parametrize("kind", [noise, nearly_equal])
def test_several_threads_give_the_same_labels_and_are_left_as_they_were(kind: Callable[..., Tensor], classes: int) -> None:
    scores = kind(classes, 24, 24)
    torch.set_num_threads(2)
    assert torch.equal(label_map(scores, 77, 102), plain(scores, 77, 102))
    assert torch.get_num_threads() == 2
