"""What each variant of the tables trains, adds and leaves out, and that every row can be built and run."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
from torch import Tensor
from weights import perturb

from fgaseg.loading import load_model, save_model
from fgaseg.model.clip import DenseCLIP
from fgaseg.model.fgaseg import FGAseg, build
from fgaseg.model.prompts import tokenise
from fgaseg.paths import Paths
from fgaseg.plan import Plan
from fgaseg.schema import Params, Scale
from fgaseg.training.losses import Losses
from fgaseg.training.optimisation import initial_state
from fgaseg.training.state import TrainingState, trained_state

pytestmark = pytest.mark.usefixtures("one_thread")

Resolve = Callable[[Mapping[str, Any]], Params]
BuildModel = Callable[..., FGAseg]
NAMES = ["sky", "grass", "dining table", "car"]
STRATEGIES = ["attention", "full", "prompt-16", "frozen"]
LAST = "clip.visual.transformer.resblocks.3.attn."
"""The small CLIP's last vision block, of which dense features use the value path alone."""


@pytest.fixture
def images() -> Tensor:
    return torch.randn(2, 3, 96, 96, generator=torch.Generator().manual_seed(0))


def backward(model: FGAseg, params: Params, images: Tensor) -> None:
    """One backward pass of the whole training loss."""
    labels = torch.randint(-1, len(NAMES), (len(images), 96, 96), generator=torch.Generator().manual_seed(1))
    tokens = tokenise(NAMES, params.vlm.prompts, params.vlm.architecture)
    Losses(model.train(), params)(images, labels, model.clip.encode_text(tokens))["loss"].backward()


def clip_tensors_with_gradient(model: FGAseg) -> set[str]:
    return {name for name, p in model.named_parameters() if name.startswith("clip.") and p.grad is not None}


def expected_clip_tensors(model: FGAseg, strategy: str) -> set[str]:
    """Tensors of CLIP that learn. Dense features use no query and key of the last vision block."""
    blocks = [f"clip.visual.transformer.resblocks.{i}" for i in range(4)]
    blocks += [f"clip.text.transformer.resblocks.{i}" for i in range(2)]
    if strategy == "attention":
        return {f"{b}.attn.{kind}_proj.weight" for b in blocks for kind in "qv"} - {f"{LAST}q_proj.weight"}
    if strategy == "full":
        unused = {f"{LAST}{kind}_proj.{tensor}" for kind in "qk" for tensor in ("weight", "bias")}
        layers = [f"attn.{kind}_proj" for kind in ("q", "k", "v", "out")] + ["ln_1", "ln_2", "mlp.c_fc", "mlp.c_proj"]
        return {f"{b}.{layer}.{tensor}" for b in blocks for layer in layers for tensor in ("weight", "bias")} - unused
    return {"clip.visual_prompts"} if strategy == "prompt-16" else set()


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_exactly_these_tensors_of_clip_learn(strategy: str, build_model: BuildModel, resolve: Resolve, images: Tensor) -> None:
    params = resolve({"vlm.finetune": strategy})
    model = build_model(params)
    backward(model, params, images)
    learning = clip_tensors_with_gradient(model)
    assert learning == expected_clip_tensors(model, strategy)
    named = dict(model.named_parameters())
    for name in learning:
        gradient = named[name].grad
        assert gradient is not None
        # A bias of the keys adds the same to all scores of a query, so that softmax takes it out again.
        assert name.endswith("k_proj.bias") or gradient.abs().max() > 0


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_training_step_changes_what_learns_and_nothing_else(
    strategy: str, build_model: BuildModel, resolve: Resolve, images: Tensor
) -> None:
    params = resolve({"vlm.finetune": strategy})
    model = build_model(params)
    perturb(model, seed=5, scale=0.05)  # a norm's zero bias may meet a zero gradient
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    state = initial_state(model, params.training)
    backward(model, params, images)
    state.optimiser.step()
    changed = {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])}
    outside = {name for name in before if not name.startswith("clip.")}
    assert changed == outside | expected_clip_tensors(model, strategy)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_only_the_unused_projections_of_the_last_vision_block_are_marked_trainable_without_a_gradient(
    strategy: str, build_model: BuildModel, resolve: Resolve
) -> None:
    model = build_model(resolve({"vlm.finetune": strategy}))
    marked = {name for name, p in model.clip.named_parameters(prefix="clip") if p.requires_grad}
    unused = {"attention": {"q_proj.weight"}, "full": {f"{kind}_proj.{t}" for kind in "qk" for t in ("weight", "bias")}}
    assert marked - expected_clip_tensors(model, strategy) == {LAST + name for name in unused.get(strategy, set())}


def test_prompts_start_small_and_differ_with_the_seed(build_model: BuildModel, resolve: Resolve) -> None:
    params = resolve({"vlm.finetune": "prompt-16"})
    first, same, other = (build_model(params, seed).clip.visual_prompts for seed in (1, 1, 2))
    assert first is not None
    assert same is not None
    assert other is not None
    assert first.shape == (3, 16, 128)
    assert first.std().item() == pytest.approx(0.02, rel=0.1)
    assert torch.equal(first, same)
    assert not torch.equal(first, other)


@pytest.mark.parametrize("delta", [{"vlm.finetune": "prompt-16"}, {"model.decoder.fast": True}], ids=["prompts", "fast"])
def test_what_a_variant_adds_leaves_the_initial_weights_of_the_rest(
    delta: Mapping[str, Any], build_model: BuildModel, resolve: Resolve, tiny_model: FGAseg
) -> None:
    weights = build_model(resolve(delta)).state_dict()
    assert all(torch.equal(weights[name], tensor) for name, tensor in tiny_model.state_dict().items())


def shapes(model: FGAseg) -> set[tuple[str, tuple[int, ...]]]:
    return {(name, tuple(p.shape)) for name, p in model.named_parameters()}


LAYER = {
    f"{part}.{tensor}" for part in ("q_proj", "k_proj", "v_proj", "out_proj", "linear", "norm") for tensor in ("weight", "bias")
}
SWITCHES: dict[str, tuple[dict[str, Any], set[str], set[str]]] = {
    "without P2Tformer": ({"model.p2tformer.layers": 0}, {"p2tformer."}, set()),
    "two layers": ({"model.p2tformer.layers": 2}, set(), {f"p2tformer.layers.1.{name}" for name in LAYER}),
    "without T2P": ({"model.t2p.weight": 0}, {"projector."}, set()),
    "without LCS": (
        {"model.lcs.enabled": False},
        {"local.", "embed_local.", "fuse.", "decoder.fuse.", "decoder.lcs_up."},
        set(),
    ),
    "fusion by sum": ({"model.fusion": "add"}, {"fuse.", "decoder.fuse."}, set()),
    "fixed gamma": ({"model.p2tformer.gamma": 0.5}, {"p2tformer.gamma"}, set()),
    "fast decoder": ({"model.decoder.fast": True}, set(), {f"heads.{i}.{t}" for i in range(3) for t in ("weight", "bias")}),
    "prompt tuning": ({"vlm.finetune": "prompt-16"}, set(), {"clip.visual_prompts"}),
    "full tuning": ({"vlm.finetune": "full"}, set(), set()),
    "weight of auxiliary losses": ({"model.decoder.aux_weighting": "first"}, set(), set()),
}


@pytest.mark.parametrize(("delta", "gone", "added"), SWITCHES.values(), ids=SWITCHES)
def test_a_switch_removes_and_adds_exactly_these_parameters(
    delta: Mapping[str, Any], gone: set[str], added: set[str], build_model: BuildModel, resolve: Resolve, tiny_model: FGAseg
) -> None:
    default, variant = shapes(tiny_model), shapes(build_model(resolve(delta)))
    lost = {name for name, _ in default - variant}
    assert lost == {name for name, _ in default if name.startswith(tuple(gone))}
    assert all(any(name.startswith(part) for name in lost) for part in gone)
    assert {name for name, _ in variant - default} == added


def representatives(scale: Scale) -> list[Any]:
    """A row of each kind of model in the tables: two numbers that only make one thing more or larger are one kind."""
    found: dict[str, Any] = {}
    for row in Plan(Path(__file__).parents[1], scale).rows:
        if row.method == "fgaseg":
            params = row.params
            model = params.model.model_dump(mode="json")
            model["t2p"]["weight"] = model["t2p"]["weight"] > 0
            model["p2tformer"]["layers"] = min(model["p2tformer"]["layers"], 2)
            model["p2tformer"]["gamma"] = model["p2tformer"]["gamma"] == "trainable"
            model["lcs"]["kernel_size"] = min(model["lcs"]["kernel_size"], 5)
            key = [model, params.vlm.model_dump(mode="json"), params.training.loss, params.evaluation.top_n is None]
            found.setdefault(json.dumps(key), pytest.param(params, id=row.name))
    return list(found.values())


@pytest.mark.parametrize("params", representatives("sample"))
def test_every_row_trains_and_predicts_at_sample_scale(params: Params, build_model: BuildModel, images: Tensor) -> None:
    model = build_model(params)
    state = initial_state(model, params.training)
    backward(model, params, images[:1])
    state.optimiser.step()
    with torch.no_grad():
        text = model.clip.encode_text(tokenise(NAMES, params.vlm.prompts, params.vlm.architecture))
        logits = model.eval()(images[:1], text, shared=True, top_n=params.evaluation.top_n).logits
    assert logits.shape == (1, len(NAMES), 4 * model.clip.grid, 4 * model.clip.grid)
    assert logits.isfinite().all()


@pytest.mark.parametrize("params", representatives("paper"))
def test_every_row_fits_together_at_paper_scale(params: Params) -> None:
    """On torch's meta device, which has shapes and no numbers."""
    vlm = params.vlm
    with torch.device("meta"):
        clip = open_clip.CLIP(**open_clip.get_model_config(vlm.architecture))
        dense = DenseCLIP(clip, vlm.image_size, vlm.guidance_layers, vlm.dense_residual)
        model = build(dense, params).train()
        text = model.clip.encode_text(torch.ones(171, len(vlm.prompts), 9, dtype=torch.long))
        output = model(torch.empty(1, 3, 384, 384), text)
    assert output.logits.shape == (1, 171, 96, 96)
    assert [tuple(aux.shape[2:]) for aux in output.auxiliary] == [(24, 24), (24, 24), (48, 48)][: len(output.auxiliary)]
    assert len(output.auxiliary) == (3 if params.model.decoder.fast else 0)


VARIANT = {"vlm.finetune": "prompt-16", "model.decoder.fast": True}


def moved(build_model: BuildModel, params: Params) -> FGAseg:
    """A model whose trained tensors, and no others, are away from where they start."""
    model = build_model(params)
    with torch.no_grad():
        for name, tensor in trained_state(model).items():
            if tensor.is_floating_point():
                tensor.add_(0.1 * torch.rand(tensor.shape, generator=torch.Generator().manual_seed(len(name))))
    return model


def test_prompts_and_heads_are_part_of_what_is_saved(build_model: BuildModel, resolve: Resolve) -> None:
    saved = trained_state(build_model(resolve(VARIANT)))
    assert {name for name in saved if name.startswith(("clip.", "heads."))} == {
        "clip.visual_prompts",
        *(f"heads.{i}.{tensor}" for i in range(3) for tensor in ("weight", "bias")),
    }


def test_a_checkpoint_brings_back_prompts_and_heads(
    tmp_path: Path, build_model: BuildModel, resolve: Resolve, images: Tensor
) -> None:
    params = resolve(VARIANT)
    model, fresh = moved(build_model, params), build_model(params, seed=2)
    backward(model, params, images)
    state: TrainingState = initial_state(model, params.training)
    state.optimiser.step()
    path = state.save(tmp_path, "run")
    initial_state(fresh, params.training).load(path, "run")
    for name, tensor in model.state_dict().items():
        assert torch.equal(fresh.state_dict()[name], tensor), name


def test_a_saved_model_brings_back_prompts_and_heads(
    tmp_path: Path, mini_clip: open_clip.CLIP, build_model: BuildModel, resolve: Resolve
) -> None:
    params, paths = resolve(VARIANT), Paths(tmp_path, "sample", "data", {"base": "weights"})
    backbone, path = paths.vlm(params.vlm.backbone), paths.run("0123") / "model.safetensors"
    backbone.parent.mkdir(parents=True)
    torch.save(mini_clip.state_dict(), backbone)
    model = moved(build_model, params)
    save_model(model, "0123", path)
    loaded = load_model(paths, params, path)
    for name, tensor in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor), name
