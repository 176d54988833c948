"""A checkpoint in the released layout becomes a run's model: every tensor is taken over on its axes, or named with a reason."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, cast

import open_clip
import pytest
import torch
from project import Project, assert_says
from released_layout import released_modules, released_state
from safetensors.torch import load_file
from small import HEADS, SMALL, random, small_clip, small_model
from torch import Tensor

from fgaseg.loading import load_model
from fgaseg.model.clip import create_open_clip
from fgaseg.model.fgaseg import FGAseg
from fgaseg.plan import Plan
from fgaseg.released import LEFT_OUT, TABLE, Conversion, convert
from fgaseg.schema import Params

Resolve = Callable[[Mapping[str, Any]], Params]
PREFIX = "sem_seg_head.predictor."
VARIANTS = {
    "plain": {},
    "fast": {"model.decoder.fast": True},
    "add": {"model.fusion": "add"},
    "two P2T layers": {"model.p2tformer.layers": 2},
}


@pytest.fixture(scope="module")
def clip() -> open_clip.CLIP:
    return small_clip(quick_gelu=True)


def converted(params: Params, clip: open_clip.CLIP) -> tuple[FGAseg, dict[str, Tensor], Conversion]:
    """A model that has taken over a released checkpoint, the checkpoint, and what became of it."""
    model, released = small_model(clip, params), released_state(params, clip)
    found = convert(released, {name: tensor.shape for name, tensor in model.state_dict().items()})
    model.load_state_dict(found.tensors, strict=False)
    return model.eval(), released, found


@pytest.mark.parametrize("delta", VARIANTS.values(), ids=VARIANTS)
def test_every_tensor_of_the_model_is_in_the_released_layout(
    delta: dict[str, Any], resolve: Resolve, clip: open_clip.CLIP
) -> None:
    model, released, found = converted(resolve(SMALL | delta), clip)
    assert found.missing == {}
    assert found.tensors.keys() == model.state_dict().keys()
    assert set(found.left_out.values()) == {reason for _, reason in LEFT_OUT if "statistics are" not in reason}
    assert sum(tensor.numel() for tensor in found.tensors.values()) == sum(
        tensor.numel() for name, tensor in released.items() if name not in found.left_out
    )


def test_every_row_of_the_table_is_used(resolve: Resolve, clip: open_clip.CLIP) -> None:
    released = released_state(resolve(SMALL | {"model.decoder.fast": True}), clip)
    for rule in TABLE:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("fgaseg.released.TABLE", [other for other in TABLE if other is not rule])
            model = small_model(clip, resolve(SMALL | {"model.decoder.fast": True}))
            found = convert(released, {name: tensor.shape for name, tensor in model.state_dict().items()})
            assert found.missing, rule


def test_each_tensor_becomes_one_of_its_own(resolve: Resolve, clip: open_clip.CLIP) -> None:
    _, _, found = converted(resolve(SMALL | {"model.decoder.fast": True}), clip)
    random_ones = [t.flatten()[:4].tolist() for n, t in found.tensors.items() if not n.startswith("clip.")]
    assert len({tuple(values) for values in random_ones}) == len(random_ones)


def test_clip_with_one_weight_each_for_query_key_and_value(resolve: Resolve, clip: open_clip.CLIP) -> None:
    """The model's own way from open_clip's weights is another one."""
    _, _, found = converted(resolve(SMALL), clip)
    own = small_model(clip, resolve(SMALL)).state_dict()
    for name in (n for n in own if n.startswith("clip.")):
        torch.testing.assert_close(found.tensors[name], own[name], rtol=0, atol=0)


def test_cross_attention_gives_what_pytorchs_module_gives(resolve: Resolve, clip: open_clip.CLIP) -> None:
    model, _, _ = converted(resolve(SMALL), clip)
    layer = cast(Any, released_modules(resolve(SMALL), clip))["sem_seg_head"]["predictor"]["DCDT"]["cross_atten_text"][0]
    text, keys, values = random(2, 3, 8), random(2, 5, 8, seed=1), random(2, 5, 8, seed=2)
    attention = layer["multihead_attn"]
    assert attention.num_heads == HEADS
    attended = attention(text.transpose(0, 1), keys.transpose(0, 1), values.transpose(0, 1))[0].transpose(0, 1)
    want = layer["norm"](text + layer["MLP"](attended))
    assert model.p2tformer is not None
    torch.testing.assert_close(cast(Any, model.p2tformer).layers[0](text, keys, values), want, rtol=1e-4, atol=1e-5)


def test_concatenated_inputs_keep_their_order(resolve: Resolve, clip: open_clip.CLIP) -> None:
    """Maps before guidance, and the map that goes on before the local one, as the released layers concatenate them."""
    params = resolve(SMALL)
    model, _, _ = converted(params, clip)
    old = cast(Any, released_modules(params, clip))["sem_seg_head"]["predictor"]["transformer"]
    dim, g = params.model.hidden_dim, params.model.propagation.guidance_dim
    x, guidance, local = random(6, dim), random(6, g, seed=1), random(6, dim, seed=2)
    for layer, ours in (
        (old["layers"][1]["swin_block"]["block_2"]["attn"]["q"], cast(Any, model.propagation).spatial[1].blocks[1].attention.q),
        (old["layers"][0]["attention"]["attention"]["k"], cast(Any, model.propagation).classes[0].k),
    ):
        got = ours.of_tokens()(x) + ours.of_guidance(guidance)
        torch.testing.assert_close(got, layer(torch.cat([x, guidance], -1)), rtol=1e-4, atol=1e-5)
    fuse = cast(Any, model.decoder.fuse)
    for layer, ours in ((old["conv_cat"], model.fuse), (old["conv_cat_decoder_1"], fuse[0])):
        torch.testing.assert_close(ours(x, local), layer(torch.cat([x, local], -1)), rtol=1e-4, atol=1e-5)


def test_what_does_not_fit_is_named_with_its_reason(resolve: Resolve, clip: open_clip.CLIP) -> None:
    params = resolve(SMALL)
    model, released = small_model(clip, params), released_state(params, clip)
    del released[f"{PREFIX}DCDT.gamma_text"]
    released[f"{PREFIX}transformer.head.bias"] = torch.zeros(3)
    released[f"{PREFIX}transformer.conv_cat.weight"] = torch.zeros(3)
    released[f"{PREFIX}transformer.head_auxi_0.bias"] = torch.zeros(1)
    released["something.else"] = torch.zeros(1)
    found = convert(released, {name: tensor.shape for name, tensor in model.state_dict().items()})
    assert found.missing == {
        "p2tformer.gamma": "not in the file",
        "decoder.head.bias": "shapes disagree: (3,) in the file, (1,) here",
        "fuse.linear.weight": "shapes disagree: (3,) in the file, (4, 8, 1, 1) here",
    }
    assert found.left_out[f"{PREFIX}transformer.head_auxi_0.bias"] == "this model has no heads.0.bias"
    assert found.left_out["something.else"] == "no counterpart in the table"
    assert found.tensors.keys() == model.state_dict().keys() - found.missing.keys()


Write = Callable[..., Path]


@pytest.fixture
def untrained(project: Project) -> str:
    """A run of the project that has no model yet: its kernels are normalised as the released model's."""
    return project.ids("fidelity", 7)[0]


@pytest.fixture
def write(project: Project, untrained: str) -> Write:
    """A released checkpoint for that run, around the project's CLIP; a tensor may be left out."""

    def checkpoint(without: str = "", changed: str = "", wrapper: str | None = None) -> Path:
        plan = Plan(project.root, "sample")
        params = plan.runs[untrained]
        backbone = create_open_clip(params.vlm.architecture, str(plan.paths.vlm("base")))
        state = released_state(params, backbone, tuned=0.01)
        state = {name: tensor for name, tensor in state.items() if not without or without not in name}
        for name in (n for n in state if changed and n.endswith(changed)):
            state[name] = state[name] + 1
        path = project.root / "released.pth"
        torch.save({wrapper: state, "iteration": 3} if wrapper else state, path)
        return path

    return checkpoint


def model_of(project: Project, run: str) -> Path:
    return project.root / "results" / "sample" / "runs" / run / "model.safetensors"


CONVERT = ("convert", "released.pth", "--scale", "sample", "--run")


@pytest.mark.parametrize("wrapper", [None, "model"])
def test_the_command_writes_a_model_that_evaluation_loads(
    wrapper: str | None, project: Project, untrained: str, write: Write
) -> None:
    write(wrapper=wrapper)
    out = project.succeed(*CONVERT, untrained).out
    plan = Plan(project.root, "sample")
    model = load_model(plan.paths, plan.runs[untrained], model_of(project, untrained))
    released = torch.load(project.root / "released.pth", weights_only=True)
    released = released[wrapper] if wrapper else released
    want = released[f"{PREFIX}transformer.layers.1.attention.MLP.2.weight"]
    torch.testing.assert_close(cast(Any, model.propagation).classes[1].mlp.fc2.weight, want, rtol=0, atol=0)
    want = released[f"{PREFIX}clip_model.visual.transformer.resblocks.1.attn.v_proj_weight"]
    torch.testing.assert_close(cast(Any, model.clip.visual).transformer.resblocks[1].attn.v_proj.weight, want)
    count = len(load_file(model_of(project, untrained)))
    assert_says(out, f"converted: {count} of {count} tensors", "adds its input once", "the projector keeps no statistics")
    record = json.loads((model_of(project, untrained).parent / "converted.json").read_text())
    assert record["lacking"] == {}


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        ({"without": "Local_align"}, ["LACKING: 2", "local.kernel.weight and 1 more: not in the file"]),
        ({"changed": "resblocks.0.ln_1.weight"}, ["LACKING: 2", "frozen, and other than the backbone's"]),
    ],
)
def test_the_command_writes_nothing_where_tensors_lack_unless_it_may(
    damage: dict[str, str], words: list[str], project: Project, untrained: str, write: Write
) -> None:
    write(**damage)
    result = project.quick(*CONVERT, untrained)
    assert result.status == 1
    assert_says(result.out, *words, "nothing written")
    assert not model_of(project, untrained).exists()
    assert_says(project.succeed(*CONVERT, untrained, "--allow-missing").out, *words)
    assert model_of(project, untrained).exists()


def test_a_converted_run_is_evaluated_and_shown(project: Project, untrained: str, write: Write) -> None:
    write()
    project.succeed(*CONVERT, untrained)
    evaluation = project.ids("fidelity", 7)[1]
    project.succeed("evaluate", evaluation)
    scores = json.loads((project.results / "evaluations" / evaluation / "evaluation.json").read_text())
    assert len(scores["benchmarks"]) == 5
    assert_says(project.succeed("show", untrained).out, "converted from released.pth", "made by other code")
    project.succeed("track")


def test_the_command_refuses_to_replace_a_model(project: Project, run: str, write: Write) -> None:
    write()
    assert_says(project.refusal(*CONVERT, Path(run).name), f"{run}/model.safetensors", "has a model already")


def test_the_command_refuses_what_is_no_checkpoint(project: Project, untrained: str) -> None:
    assert_says(project.refusal(*CONVERT, untrained), "released.pth", "no such checkpoint")
    project.write("released.pth", b"PK cut")
    assert_says(project.refusal(*CONVERT, untrained), "released.pth", "not readable as a state dict")
