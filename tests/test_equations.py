"""Every module of `fgaseg.model` in double precision, with random weights, against the oracle's plain loops."""

from collections.abc import Callable, Mapping
from typing import Any, Literal

import numpy as np
import oracle
import oracle_layers
import oracle_training
import pytest
import torch
from small import HEADS, SMALL, Residual, dense, random, small_clip, small_model
from torch import Tensor
from weights import arrays, perturb

from fgaseg.model.aggregation import ClassAggregation, GuidedSwinBlock, Propagation, SpatialAggregation
from fgaseg.model.chunks import Chunks
from fgaseg.model.clip import DenseCLIP
from fgaseg.model.decoder import Decoder, DecoderStage, GuidanceUpsampling
from fgaseg.model.embedding import MapEmbedding
from fgaseg.model.fast import Selection
from fgaseg.model.p2tformer import P2Tformer, sinusoidal_position
from fgaseg.model.supplementation import Fuse, Fusion, LocalSimilarity, Normalisation, global_similarity
from fgaseg.model.t2p import T2PProjector
from fgaseg.model.tuning import apply_tuning
from fgaseg.model.windows import Windows
from fgaseg.schema import Params
from fgaseg.training.losses import Losses

pytestmark = pytest.mark.usefixtures("float64_default", "one_thread")

ACTIVATIONS = {False: oracle_layers.gelu, True: oracle_layers.quick_gelu}
PROMPTS = [[18, 3, 7, 19, 0, 0, 0], [18, 5, 19, 0, 0, 0, 0], [18, 2, 9, 11, 4, 1, 19], [18, 8, 8, 19, 0, 0, 0]]
"""Four full-length prompts, padded with 0; the end token has the highest number."""


CHUNKS = Chunks(classes=2)
"""Fewer than the classes of any test below, and no divisor of their number."""


def channels_last(maps: Tensor) -> Tensor:
    """(B, K, D, h, w) -> (B, K, h, w, D)."""
    return maps.permute(0, 1, 3, 4, 2)


def channels_first(maps: Tensor) -> Tensor:
    """(B, K, h, w, D) -> (B, K, D, h, w)."""
    return maps.permute(0, 1, 4, 2, 3)


def assert_equal(actual: Tensor, expected: oracle_layers.Array) -> None:
    torch.testing.assert_close(actual.detach(), torch.from_numpy(np.asarray(expected)), rtol=1e-10, atol=1e-11)


@pytest.fixture(params=[False, True], ids=["gelu", "quick_gelu"])
def activation(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


@pytest.mark.parametrize("residual", ["class_token", "own"])
def test_dense_image_features(residual: Residual, activation: bool) -> None:
    """The value path of the last block with the class token's or the patch's own residual."""
    clip, images = small_clip(activation), random(2, 3, 16, 16)
    actual, _ = dense(clip, residual).encode_image(images)
    for i, image in enumerate(images.numpy()):
        expected, _ = oracle.image_features(arrays(clip), image, HEADS, (0, 1), residual, ACTIVATIONS[activation])
        assert_equal(actual[i], expected)


def test_guidance_features() -> None:
    """The outputs of the chosen blocks, without the class token, as maps."""
    clip, images = small_clip(), random(1, 3, 16, 16)
    _, actual = dense(clip).encode_image(images)
    _, expected = oracle.image_features(arrays(clip), images[0].numpy(), HEADS, (0, 1), "own", oracle_layers.gelu)
    assert len(actual) == 2
    for ours, theirs in zip(actual, expected, strict=True):
        assert_equal(ours[0], theirs)


@pytest.mark.parametrize("residual", ["class_token", "own"])
def test_visual_prompts(residual: Residual) -> None:
    """Tokens of its own beside those of each block but the last, replaced after it."""
    clip, images = small_clip(), random(2, 3, 16, 16)
    model = dense(clip, residual)
    apply_tuning(model, "prompt-16")
    assert model.visual_prompts is not None
    assert model.visual_prompts.shape == (2, 16, 8)
    model.visual_prompts.data = random(2, 16, 8, seed=3)
    features, guidance = model.encode_image(images)
    for i, image in enumerate(images.numpy()):
        prompts = list(model.visual_prompts.detach().numpy())
        expected = oracle.image_features(arrays(clip), image, HEADS, (0, 1), residual, oracle_layers.gelu, prompts)
        for ours, theirs in zip((features, *guidance), (expected[0], *expected[1]), strict=True):
            assert_equal(ours[i], theirs)


def test_text_features(activation: bool) -> None:
    """Causal attention, the end token's output, projected and normalised."""
    clip = small_clip(activation)
    actual = dense(clip).encode_text(torch.tensor(PROMPTS)[:, None])
    for k, prompt in enumerate(PROMPTS):
        assert_equal(actual[k, 0], oracle.text_features(arrays(clip), prompt, HEADS, ACTIVATIONS[activation]))


def test_position_embedding_is_resized_bicubically() -> None:
    """The grid's positions are resized, the class token's stays."""
    clip = small_clip()
    before = clip.visual.positional_embedding.detach().clone()
    after = DenseCLIP(clip, 24, (0, 1), "own").visual.positional_embedding.detach()
    grid = before[1:].T.reshape(1, 8, 4, 4)
    expected = torch.nn.functional.interpolate(grid, size=(6, 6), mode="bicubic", align_corners=False)[0]
    assert torch.equal(after[0], before[0])
    for row in range(6):
        for column in range(6):
            assert_equal(after[1 + 6 * row + column], expected[:, row, column].numpy())


def test_position_encoding() -> None:
    """2-D sinusoids, normalised, temperature 10000."""
    expected = oracle.position_encoding(8, 3, 5).reshape(8, 15).T
    assert_equal(sinusoidal_position(8, 3, 5), expected)


@pytest.mark.parametrize("layers", [1, 3])
@pytest.mark.parametrize("gamma", ["trainable", 0.5])
def test_p2tformer(layers: int, gamma: Literal["trainable"] | float) -> None:
    """Equations 5 and 6, two prompts a class."""
    module = P2Tformer(8, layers, HEADS, gamma, 0.1)
    perturb(module, seed=2)
    text, images = random(3, 2, 8), random(2, 8, 3, 4, seed=1)
    actual = module(text, images)
    for i, image in enumerate(images.numpy()):
        expected = oracle.p2tformer(arrays(module), text.flatten(0, 1).numpy(), image, layers, HEADS)
        assert_equal(actual[i].flatten(0, 1), expected)


def test_t2p_similarity() -> None:
    """Equation 7."""
    module = T2PProjector(4)
    perturb(module, seed=3)
    weights = arrays(module)
    images, text = random(2, 4, 3, 2), random(2, 3, 4, seed=1)
    actual = module(images, text)
    assert actual.shape == (2, 3, 12, 8)
    assert_equal(actual, oracle.t2p_similarity(weights, images.numpy(), text.numpy()))


def test_global_similarity() -> None:
    """Equation 9, two prompts a class."""
    images, text = random(2, 8, 3, 4), random(2, 5, 2, 8, seed=1)
    actual = global_similarity(images, text)
    assert actual.shape == (2, 2, 5, 3, 4)
    for i in range(2):
        for prompt in range(2):
            assert_equal(actual[i, prompt], oracle.gcs(images[i].numpy(), text[i, :, prompt].numpy()))


@pytest.mark.parametrize("normalisation", ["channels", "taps", "none"])
@pytest.mark.parametrize("size", [1, 3, 5])
def test_local_similarity(size: int, normalisation: Normalisation) -> None:
    """Equation 10 for each normalisation of the kernel."""
    module = LocalSimilarity(6, size, normalisation)
    perturb(module, seed=4)
    images, text = random(2, 6, 4, 3), random(2, 3, 6, seed=1)
    actual = module(images, text)
    for i in range(2):
        expected = oracle.lcs(arrays(module), images[i].numpy(), text[i].numpy(), size, normalisation)
        assert_equal(actual[i], expected)


def test_map_embedding() -> None:
    """A 7 x 7 convolution of each class's map alone."""
    module = MapEmbedding(4, 7)
    perturb(module, seed=5)
    maps = random(2, 3, 4, 5)
    actual = channels_first(module.convolution()(maps))
    for i, k in np.ndindex(2, 3):
        expected = oracle_layers.conv2d(oracle_layers.part(arrays(module), "conv"), maps[i, k][None].numpy())
        assert_equal(actual[i, k], expected)


@pytest.mark.parametrize("fusion", ["cat", "add"])
def test_fusion(fusion: Fusion) -> None:
    """Concatenation and a linear map, or the sum."""
    module = Fuse(4, fusion)
    perturb(module, seed=6)
    a, b = random(2, 4, 3, 3), random(2, 4, 3, 3, seed=1)
    actual = module(a.permute(0, 2, 3, 1), b.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
    for i in range(2):
        assert_equal(actual[i], oracle.fuse(arrays(module), a[i].numpy(), b[i].numpy(), fusion))


@pytest.mark.parametrize("fusion", ["cat", "add"])
def test_embedding_and_fusion_are_one_convolution(fusion: Fusion) -> None:
    """The maps of both kinds, embedded and fused; and the second kind beside maps of other origin."""
    module, embed = Fuse(4, fusion), [MapEmbedding(4, 3), MapEmbedding(4, 3)]
    for seed, each in enumerate((module, *embed)):
        perturb(each, seed)
    first, second, other = random(2, 3, 4, 5), random(2, 3, 4, 5, seed=1), random(2, 3, 4, 4, 5, seed=2)
    both = channels_first(module.embedded(embed[0].convolution(), embed[1].convolution())(first, second))
    beside = channels_first(module.ready().first(channels_last(other)) + module.second(embed[1].convolution())(second))
    for i, k in np.ndindex(2, 3):
        a, b = (
            oracle_layers.conv2d(oracle_layers.part(arrays(each), "conv"), maps[i, k][None].numpy())
            for each, maps in zip(embed, (first, second), strict=True)
        )
        assert_equal(both[i, k], oracle.fuse(arrays(module), a, b, fusion))
        assert_equal(beside[i, k], oracle.fuse(arrays(module), other[i, k].numpy(), b, fusion))


@pytest.mark.parametrize(
    ("height", "width", "window", "shift"), [(4, 4, 2, 1), (6, 4, 2, 1), (8, 8, 4, 2), (4, 4, 4, 2), (4, 6, 2, 0)]
)
def test_tokens_see_neighbours_of_their_window_only(height: int, width: int, window: int, shift: int) -> None:
    """Which original positions see each other, for every pair of the map."""
    windows = Windows.of(height, width, window, shift, torch.device("cpu"))
    assert torch.equal(windows.order[windows.back], torch.arange(height * width))
    owner = np.empty(height * width, int)
    sizes = [size for count, size in windows.groups for _ in range(count)]
    for number, places in enumerate(windows.order.split(sizes)):
        owner[places.numpy()] = number
    owner = owner.reshape(height, width)
    for here in np.ndindex(height, width):
        for there in np.ndindex(height, width):
            expected = oracle.shares_window(here, there, height, width, window, shift)
            assert (owner[here] == owner[there]) == expected, (here, there)


@pytest.mark.parametrize("shift", [0, 1])
def test_window_attention(shift: int) -> None:
    """One Swin block, windows of 2 in place and shifted by 1, on a map that is not square."""
    module = GuidedSwinBlock(4, 2, HEADS, 2, shift, 4)
    perturb(module, seed=7)
    maps, guidance = random(2, 3, 4, 4, 6), random(2, 2, 4, 6, seed=1)
    actual = channels_first(module(channels_last(maps), module.guide(guidance.permute(0, 2, 3, 1))))
    for i, j in np.ndindex(2, 3):
        expected = oracle.swin_block(arrays(module), maps[i, j].numpy(), guidance[i].numpy(), HEADS, 2, shift)
        assert_equal(actual[i, j], expected)


def test_spatial_aggregation() -> None:
    """A pair of Swin blocks a class, the guidance of each image for all of its classes."""
    module = SpatialAggregation(4, 2, HEADS, 2, 2)
    perturb(module, seed=8)
    maps, guidance = random(2, 3, 4, 4, 4), random(2, 2, 4, 4, seed=1)
    actual = channels_first(module(channels_last(maps), guidance, CHUNKS))
    for i in range(2):
        assert_equal(actual[i], oracle.spatial_aggregation(arrays(module), maps[i].numpy(), guidance[i].numpy(), HEADS, 2))


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("cap", [9, 3, 2])
def test_class_aggregation(cap: int, training: bool) -> None:
    """Linear attention over 3 classes and cap - 3 copies of the padding token, pooled in training only."""
    module = ClassAggregation(4, 2, HEADS, 2, 2, cap).train(training)
    perturb(module, seed=9)
    maps, guidance = random(2, 3, 4, 4, 6), random(2, 3, 2, seed=1)
    actual = channels_first(module(channels_last(maps), guidance, CHUNKS))
    for i in range(2):
        pooling = 2 if training else 1
        expected = oracle.class_aggregation(arrays(module), maps[i].numpy(), guidance[i].numpy(), HEADS, cap, pooling)
        assert_equal(actual[i], expected)


def test_propagation_alternates_spatial_and_class_aggregation() -> None:
    """Spatial, then class aggregation in each of two blocks."""
    module = Propagation(4, 2, 2, 2, HEADS, 2, 2, 5).eval()
    perturb(module, seed=10)
    weights = arrays(module)
    maps, vision, text = random(1, 3, 4, 4, 4), random(1, 2, 4, 4, seed=1), random(1, 3, 2, seed=2)
    expected = maps[0].numpy()
    for i in range(2):
        spatial, across = (oracle_layers.part(weights, f"{kind}.{i}") for kind in ("spatial", "classes"))
        expected = oracle.spatial_aggregation(spatial, expected, vision[0].numpy(), HEADS, 2)
        expected = oracle.class_aggregation(across, expected, text[0].numpy(), HEADS, 5, 1)
    assert_equal(channels_first(module(channels_last(maps), vision, text, CHUNKS))[0], expected)


@pytest.mark.parametrize("gradient", [True, False])
@pytest.mark.parametrize("factor", [2, 4])
def test_guidance_upsampling(factor: int, gradient: bool) -> None:
    """Transposed convolution by the factor, 3 x 3 convolution, ReLU."""
    module = GuidanceUpsampling(3, 4, 2, factor)
    perturb(module, seed=11)
    features = random(2, 3, 2, 3)
    with torch.set_grad_enabled(gradient):
        actual = module(features)
    for i in range(2):
        assert_equal(actual[i], oracle.guidance_upsampling(arrays(module), features[i].numpy()))


@pytest.mark.parametrize("outputs", [4, 32], ids=["one group", "two groups"])
def test_decoder_stage(outputs: int) -> None:
    """Transposed convolution, concatenation, two convolutions with GroupNorm and ReLU."""
    module = DecoderStage(5, 2, outputs)
    perturb(module, seed=12)
    maps, guidance = random(2, 3, 5, 2, 3), random(2, 2, 4, 6, seed=1)
    raised = module.guide(guidance)
    together = channels_first(module(slice(None), channels_last(maps), raised))
    for i in range(2):
        alone = channels_first(module(slice(i, i + 1), channels_last(maps[i : i + 1]), raised))
        for j in range(3):
            expected = oracle.decoder_stage(arrays(module), maps[i, j].numpy(), guidance[i].numpy())
            assert_equal(together[i, j], expected)
            assert_equal(alone[0, j], expected)


@pytest.mark.parametrize("fusion", ["cat", "add", None], ids=["cat", "add", "without LCS"])
def test_decoder(fusion: Fusion | None) -> None:
    """Both stages, the local maps fused in before each, and the head."""
    module, embed = Decoder(5, 3, (4, 3), (3, 4), (2, 1), 6, fusion or "cat", fusion is not None), MapEmbedding(5, 3)
    perturb(module, seed=13)
    perturb(embed, seed=14)
    maps, lcs = random(1, 2, 5, 3, 2), random(1, 2, 3, 2, seed=1)
    features = [random(1, 3, 3, 2, seed=2), random(1, 3, 3, 2, seed=3)]
    guides = module.guide(features, None if fusion is None else embed.convolution())
    given = None if fusion is None else lcs
    actual = module(channels_last(maps), given, guides, Selection(None, False, None), CHUNKS)
    assert actual.shape == (1, 2, 12, 8)
    convolution = oracle_layers.part(arrays(embed), "conv")
    local = None if fusion is None else np.array([oracle_layers.conv2d(convolution, each[None].numpy()) for each in lcs[0]])
    expected = oracle.decoder(arrays(module), maps[0].numpy(), local, [f[0].numpy() for f in features], fusion or "cat")
    assert_equal(actual[0], expected)


@pytest.fixture
def small_params(resolve: Callable[[Mapping[str, Any]], Params]) -> Callable[[Mapping[str, Any]], Params]:
    return lambda delta: resolve(SMALL | dict(delta))


VARIANTS = {
    "default": {},
    "without P2Tformer": {"model.p2tformer.layers": 0},
    "without LCS": {"model.lcs.enabled": False},
    "sum and taps": {"model.fusion": "add", "model.lcs.normalisation": "taps", "model.lcs.kernel_size": 1},
    "fewer than the cap": {"model.propagation.class_cap": 7},
    "more than the cap": {"model.propagation.class_cap": 2},
}


@pytest.mark.parametrize("delta", VARIANTS.values(), ids=VARIANTS)
def test_whole_model_in_evaluation(delta: Mapping[str, Any], small_params: Callable[[Mapping[str, Any]], Params]) -> None:
    """Sections 1 to 5 together: from pixels and tokens to logits."""
    clip, params = small_clip(), small_params(delta)
    model = small_model(clip, params).eval()
    images = random(2, 3, 16, 16)
    actual = model(images, model.clip.encode_text(torch.tensor(PROMPTS)[:, None]))
    text = np.array([oracle.text_features(arrays(clip), prompt, HEADS, oracle_layers.gelu) for prompt in PROMPTS])
    assert actual.alignment is None
    for i, pixels in enumerate(images.numpy()):
        image, features = oracle.image_features(arrays(clip), pixels, HEADS, (0, 1), "class_token", oracle_layers.gelu)
        expected, _ = oracle.logits(arrays(model), params.model, image, features, text, training=False)
        assert_equal(actual.logits[i], expected)


@pytest.mark.parametrize("forms", [("ce", "mse"), ("bce", "bce")], ids="-".join)
def test_total_loss(forms: tuple[str, str], small_params: Callable[[Mapping[str, Any]], Params]) -> None:
    """Equation 13: `L_seg + weight L_t2p` of the whole model in training, over a batch with ignored pixels."""
    delta = {"training.loss": forms[0], "model.t2p.loss": forms[1], "model.t2p.weight": 0.7, "model.propagation.class_cap": 6}
    clip, params = small_clip(), small_params(delta)
    model = small_model(clip, params).train()
    weights = arrays(model)
    images = random(2, 3, 16, 16)
    labels = torch.randint(-1, len(PROMPTS), (2, 16, 16), generator=torch.Generator().manual_seed(5))
    actual = Losses(model, params)(images, labels, model.clip.encode_text(torch.tensor(PROMPTS)[:, None]))
    text = np.array([oracle.text_features(arrays(clip), prompt, HEADS, oracle_layers.gelu) for prompt in PROMPTS])
    logits, aligned, dense_images = [], [], []
    for pixels in images.numpy():
        image, features = oracle.image_features(arrays(clip), pixels, HEADS, (0, 1), "class_token", oracle_layers.gelu)
        scores, pulled = oracle.logits(weights, params.model, image, features, text, training=True)
        logits.append(scores)
        aligned.append(pulled)
        dense_images.append(image)
    projector = oracle_layers.part(weights, "projector")
    similarity = oracle.t2p_similarity(projector, np.array(dense_images), np.array(aligned))
    seg = oracle_training.segmentation_loss(np.array(logits), labels.numpy(), forms[0])
    t2p = oracle_training.t2p_loss(similarity, labels.numpy(), forms[1])
    assert actual["loss_seg"].item() == pytest.approx(seg, rel=1e-10)
    assert actual["loss_t2p"].item() == pytest.approx(t2p, rel=1e-10)
    assert actual["loss"].item() == pytest.approx(seg + 0.7 * t2p, rel=1e-10)
