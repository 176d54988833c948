"""The assembled model: sizes, which classes it keeps, what inference runs, and that its variants run."""

import copy
import gc
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
from torch import Tensor

from fgaseg.errors import UserError
from fgaseg.evaluation.segmenter import FGAsegSegmenter
from fgaseg.model.clip import DenseCLIP, create_open_clip
from fgaseg.model.fast import DROPPED_LOGIT
from fgaseg.model.fgaseg import FGAseg, build
from fgaseg.model.prompts import tokenise, tokenizer
from fgaseg.model.supplementation import global_similarity
from fgaseg.params import Resolver
from fgaseg.schema import Params

pytestmark = pytest.mark.usefixtures("one_thread")

Resolve = Callable[[Mapping[str, Any]], Params]
BuildModel = Callable[..., FGAseg]
NAMES = ["sky", "grass", "dining table", "car", "person", "traffic light"]
CAP = 32


@pytest.fixture
def images() -> Tensor:
    return torch.randn(2, 3, 96, 96, generator=torch.Generator().manual_seed(0))


def random_text(classes: int, channels: int = 128) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.nn.functional.normalize(torch.randn(classes, 1, channels, generator=generator), dim=-1)


def similarity(model: FGAseg, images: Tensor, text: Tensor) -> Tensor:
    """GCS (B, K, h, w) of the classes before any is dropped."""
    image, _ = model.clip.encode_image(images)
    return global_similarity(image, model.align(image, text))[:, 0]


def kept(logits: Tensor) -> list[set[int]]:
    """The classes of each image whose logits are not those of dropped ones."""
    return [set((view != DROPPED_LOGIT).flatten(1).any(1).nonzero().flatten().tolist()) for view in logits]


def parameter_counts(params: Params) -> tuple[int, int, int]:
    """All, trained, and outside CLIP, of a model with random weights."""
    clip = create_open_clip(params.vlm.architecture, None)
    model = build(DenseCLIP(clip, params.vlm.image_size, params.vlm.guidance_layers, params.vlm.dense_residual), params)
    total = sum(p.numel() for p in model.parameters())
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    return total, trained, total - sum(p.numel() for p in model.clip.parameters())


def test_parameter_counts_of_the_paper_model_on_vit_b16(project_root: Path) -> None:
    # 163 M parameters: 0.6 GB while they are built. The released model trains as many and counts 162 944 612 in all: it
    # holds the 14 x 14 position embedding, which here is resized once (380 rows of 768 more).
    params = Resolver(project_root, "paper").default
    assert parameter_counts(params) == (163_236_452, 33_771_107, 13_323_875)


def test_parameter_counts_of_the_paper_model_on_vit_l14(project_root: Path) -> None:
    # 453 M parameters: 1.7 GB while they are built, freed at once.
    params = Resolver(project_root, "paper").resolve({"vlm.backbone": "large"}, "test")
    counts = parameter_counts(params)
    gc.collect()
    assert counts == (452_956_772, 89_500_003, 25_012_579)


@pytest.mark.parametrize("classes", [1, 7, CAP, CAP + 13])
@pytest.mark.parametrize("training", [True, False])
def test_every_class_gets_logits_at_four_times_the_patch_grid(
    classes: int, training: bool, tiny_model: FGAseg, images: Tensor
) -> None:
    output = tiny_model.train(training)(images, random_text(classes))
    assert output.logits.shape == (2, classes, 32, 32)
    assert (output.alignment is not None) == training
    if output.alignment is not None:
        assert output.alignment.shape == (2, classes, 32, 32)


@pytest.mark.parametrize("classes", [CAP - 1, CAP])
def test_no_class_is_dropped_up_to_the_cap(classes: int, tiny_model: FGAseg, images: Tensor) -> None:
    assert kept(tiny_model.eval()(images, random_text(classes)).logits) == [set(range(classes))] * 2


def test_above_the_cap_the_classes_with_the_highest_cosine_are_kept(tiny_model: FGAseg, images: Tensor) -> None:
    text = random_text(CAP + 13)
    model = tiny_model.eval()
    logits = model(images, text).logits
    best = similarity(model, images, text).amax((2, 3))
    expected = [set(row.argsort(descending=True)[:CAP].tolist()) for row in best]
    assert kept(logits) == expected
    assert expected[0] != expected[1]
    for view, classes in zip(logits, expected, strict=True):
        dropped = sorted(set(range(CAP + 13)) - classes)
        assert (view[dropped] == -100).all()


def test_views_of_one_image_keep_the_same_classes(tiny_model: FGAseg, images: Tensor) -> None:
    text = random_text(CAP + 13)
    model = tiny_model.eval()
    best = similarity(model, images, text).amax((0, 2, 3))
    expected = set(best.argsort(descending=True)[:CAP].tolist())
    assert kept(model(images, text, shared=True).logits) == [expected, expected]


def test_dropping_classes_leaves_the_logits_of_the_others_as_without_them(tiny_model: FGAseg, images: Tensor) -> None:
    text = random_text(CAP + 13)
    model = tiny_model.eval()
    logits = model(images[:1], text).logits[0]
    classes = sorted(kept(logits[None])[0])
    alone = model(images[:1], text[classes]).logits[0]
    torch.testing.assert_close(logits[classes], alone, rtol=1e-4, atol=1e-5)


@pytest.mark.usefixtures("float64_default")
@pytest.mark.parametrize("classes", [5, CAP + 13])
def test_logits_do_not_depend_on_the_other_images_of_the_batch(classes: int, tiny_model: FGAseg, images: Tensor) -> None:
    model, text = tiny_model.double().eval(), random_text(classes)
    batch = torch.cat([images, images.flip(3)])
    together = model(batch, text).logits
    for image, logits in zip(batch, together, strict=True):
        torch.testing.assert_close(model(image[None], text).logits[0], logits, rtol=1e-9, atol=1e-10)


def test_images_are_resized_to_the_input_of_clip(tiny_model: FGAseg, images: Tensor) -> None:
    model, text = tiny_model.eval(), random_text(3)
    larger = torch.nn.functional.interpolate(images, size=(150, 150), mode="bilinear", align_corners=False)
    resized = torch.nn.functional.interpolate(larger, size=(96, 96), mode="bilinear", align_corners=False)
    assert torch.equal(model(larger, text).logits, model(resized, text).logits)


def test_inference_does_not_run_the_projector(tiny_model: FGAseg, sample_params: Params, images: Tensor) -> None:
    calls: list[str] = []
    assert tiny_model.projector is not None
    tiny_model.projector.register_forward_pre_hook(lambda *_: calls.append("projector"))
    segmenter = FGAsegSegmenter(tiny_model, sample_params.vlm.architecture, sample_params.vlm.prompts, "ce")
    segmenter.set_vocabulary(NAMES)
    segmenter.scores(images)
    assert calls == []
    tiny_model.train()(images, random_text(3))
    assert calls == ["projector"]


@pytest.mark.parametrize("loss", ["ce", "bce"])
def test_scores_are_probabilities_of_the_classes_that_are_kept(
    loss: str, tiny_model: FGAseg, sample_params: Params, images: Tensor
) -> None:
    segmenter = FGAsegSegmenter(tiny_model, sample_params.vlm.architecture, sample_params.vlm.prompts, loss)  # type: ignore[arg-type]
    segmenter.set_vocabulary([f"thing number {i}" for i in range(CAP + 5)])
    scores, classes = segmenter.scores(images)
    assert scores.min() >= 0
    assert scores.max() <= 1
    if loss == "ce":
        torch.testing.assert_close(scores.sum(1), torch.ones(2, 32, 32))
    with torch.no_grad():
        logits = tiny_model(images, segmenter.text, shared=True).logits
    assert classes is not None
    assert set(classes.tolist()) == kept(logits)[0]
    of_all = logits.softmax(1) if loss == "ce" else logits.sigmoid()
    assert torch.equal(scores, of_all[:, classes])


def test_text_features_of_cut_prompts_are_those_of_full_ones(mini_clip: open_clip.CLIP, sample_params: Params) -> None:
    vlm = sample_params.vlm
    cut = tokenise(NAMES, vlm.prompts, vlm.architecture)
    full = tokenizer(vlm.architecture)([vlm.prompts[0].format(name) for name in NAMES])
    assert cut.shape[2] < full.shape[1]
    with torch.no_grad():
        expected = mini_clip.encode_text(full, normalize=True)
        actual = DenseCLIP(copy.deepcopy(mini_clip), 96, (0, 2), "own").encode_text(cut)
    torch.testing.assert_close(actual[:, 0], expected, rtol=1e-4, atol=1e-6)


def test_a_prompt_is_not_cut_short_by_the_token_that_has_the_number_of_what_fills_up() -> None:
    """CLIP's tokens begin with that of an exclamation mark, whose number 0 also stands after a prompt's end."""
    prompts = tokenise(["a", "b ! ! !"], ("{}",), "fgaseg-mini")
    end = tokenizer("fgaseg-mini").eot_token_id
    assert (prompts == 0).any()
    assert ((prompts == end).sum(2) == 1).all()
    assert prompts[1, 0, -1] == end


def test_each_prompt_template_has_its_own_features(mini_clip: open_clip.CLIP) -> None:
    templates = ("a photo of a {}", "{}", "a painting of the {} at night")
    clip = DenseCLIP(copy.deepcopy(mini_clip), 96, (0, 2), "own")
    with torch.no_grad():
        together = clip.encode_text(tokenise(NAMES, templates, "fgaseg-mini"))
        alone = [clip.encode_text(tokenise(NAMES, (template,), "fgaseg-mini")) for template in templates]
    assert together.shape == (6, 3, 128)
    torch.testing.assert_close(together, torch.cat(alone, 1), rtol=1e-4, atol=1e-6)


def test_guidance_features_are_the_outputs_of_open_clips_own_blocks(mini_clip: open_clip.CLIP, images: Tensor) -> None:
    outputs: list[Tensor] = []
    reference = copy.deepcopy(mini_clip)
    for block in reference.visual.transformer.resblocks:
        block.register_forward_hook(lambda module, args, output: outputs.append(output))
    with torch.no_grad():
        reference.encode_image(images)
        image, guidance = DenseCLIP(copy.deepcopy(mini_clip), 96, (0, 2), "own").encode_image(images)
    assert image.shape == (2, 128, 8, 8)
    for layer, feature in zip((0, 2), guidance, strict=True):
        expected = outputs[layer][:, 1:].transpose(1, 2).reshape(2, 128, 8, 8)
        torch.testing.assert_close(feature, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("prompts", "length"), [(0, 72), (16, 81)])
def test_zeros_that_fill_up_the_tokens_of_one_image_change_none_of_its_features(
    prompts: int, length: int, mini_clip: open_clip.CLIP, images: Tensor
) -> None:
    clip = DenseCLIP(copy.deepcopy(mini_clip), 96, (0, 2), "class_token")
    if prompts:
        clip.add_visual_prompts(prompts)
    lengths: list[int] = []
    clip.visual.transformer.resblocks[0].attn.register_forward_pre_hook(lambda _, inputs: lengths.append(inputs[0].shape[1]))
    with torch.no_grad():
        image, guidance = clip.encode_image(images[:1])
        beside, _ = clip.encode_image(images)
    expected, others = clip.encode_image(images[:1])  # a gradient is wanted
    assert lengths == [length, 65 + prompts, 65 + prompts]
    torch.testing.assert_close(image, beside[:1], rtol=1e-4, atol=1e-5)
    for actual, wanted in zip((image, *guidance), (expected, *others), strict=True):
        torch.testing.assert_close(actual, wanted, rtol=1e-4, atol=1e-5)


VARIANTS = {
    "without P2Tformer": {"model.p2tformer.layers": 0},
    "fixed gamma": {"model.p2tformer.gamma": 0.5},
    "without T2P": {"model.t2p.weight": 0},
    "without LCS": {"model.lcs.enabled": False},
    "fusion by sum": {"model.fusion": "add"},
    "kernel of 1": {"model.lcs.kernel_size": 1},
    "kernel of 5": {"model.lcs.kernel_size": 5},
    "kernel over taps": {"model.lcs.normalisation": "taps"},
    "two prompts": {"vlm.prompts": ["a photo of a {}", "{}"]},
    "larger backbone": {"vlm.backbone": "large"},
    "fast decoder": {"model.decoder.fast": True},
    "prompt tuning": {"vlm.finetune": "prompt-16"},
}


@pytest.mark.parametrize("delta", VARIANTS.values(), ids=VARIANTS)
def test_variants_train_and_predict(
    delta: Mapping[str, Any], build_model: BuildModel, resolve: Resolve, images: Tensor
) -> None:
    params = resolve(delta)
    model = build_model(params)
    text = model.clip.encode_text(tokenise(NAMES, params.vlm.prompts, params.vlm.architecture))
    side = 4 * model.clip.grid
    training = model.train()(images, text)
    training.logits.sum().backward()
    assert training.logits.shape == (2, 6, side, side)
    assert (training.alignment is None) == ("model.t2p.weight" in delta)
    with torch.no_grad():
        assert model.eval()(images, text.detach()).logits.isfinite().all()


def test_pseudo_masks_show_all_classes_on_the_patch_grid(tiny_model: FGAseg, images: Tensor) -> None:
    text = random_text(CAP + 2)
    masks = tiny_model.eval().pseudo_masks(images, text)
    assert masks.lcs is not None
    assert masks.gcs.shape == masks.lcs.shape == (2, CAP + 2, 8, 8)
    assert masks.fused.shape == (2, CAP + 2, tiny_model.params.hidden_dim, 8, 8)
    with torch.no_grad():
        assert torch.equal(masks.gcs, similarity(tiny_model, images, text))


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("model.propagation.window", 6, "6 does not divide the patch grid 8 x 8"),
        ("model.p2tformer.heads", 3, "3 does not divide CLIP's 128 channels"),
    ],
)
def test_sizes_that_do_not_fit_clip_are_refused_before_any_image(
    key: str, value: int, message: str, build_model: BuildModel, resolve: Resolve
) -> None:
    with pytest.raises(UserError, match=f"{key}: {message}"):
        build_model(resolve({key: value}))


def test_an_unknown_architecture_is_refused() -> None:
    with pytest.raises(UserError, match=r"vlm.architecture: open_clip has no model 'ViT-Z'"):
        create_open_clip("ViT-Z", None)


def test_an_image_size_that_the_patches_do_not_fill_is_refused(mini_clip: open_clip.CLIP) -> None:
    with pytest.raises(UserError, match=r"vlm.image_size: 100 is no multiple of the patch size 12"):
        DenseCLIP(copy.deepcopy(mini_clip), 100, (0, 2), "own")


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ([], "the list of classes is empty"),
        (["sky", " "], "a class name is empty"),
        (["far " * 40], "tokens; fgaseg-mini reads 32"),
    ],
)
def test_names_that_cannot_be_prompts_are_refused(names: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        tokenise(names, ("a photo of a {}",), "fgaseg-mini")
