"""CLIP's weights from a local file: every form gives open_clip's own outputs, and what does not belong together is refused."""

import json
import re
import warnings
from collections.abc import Callable, Iterator, Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
from open_clip.model import convert_weights_to_lp
from safetensors.torch import save_file
from torch import Tensor

from fgaseg.errors import UserError
from fgaseg.identity import run_id, weights_id
from fgaseg.model.clip import create_open_clip
from fgaseg.model.clip_files import published_files
from fgaseg.model.clip_guard import check_tag
from fgaseg.model.weights import provide
from fgaseg.schema import Params

QUICK, PLAIN = "tiny-test-quickgelu", "tiny-test"
SIZE, CONTEXT, VOCABULARY = 32, 12, 50
CONFIG: dict[str, Any] = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": SIZE, "layers": 2, "width": 64, "patch_size": 8},
    "text_cfg": {"context_length": CONTEXT, "vocab_size": VOCABULARY, "width": 64, "heads": 1, "layers": 2},
}
OTHERS: dict[str, tuple[dict[str, Any], str]] = {
    "patch size": ({"vision_cfg": {"patch_size": 4, "image_size": 16}}, "visual.conv1.weight has patch size 8, not 4"),
    "patch grid": ({"vision_cfg": {"image_size": 64}}, "visual.positional_embedding has patch grid 4, not 8"),
    "width": ({"vision_cfg": {"width": 128}}, "visual.conv1.weight has image encoder's width 64, not 128"),
    "layers": ({"vision_cfg": {"layers": 3}}, "visual.transformer.resblocks has image encoder's layers 2, not 3"),
    "embedding": ({"embed_dim": 32}, "visual.proj has embedding size 16, not 32"),
    "text width": ({"text_cfg": {"width": 128}}, "ln_final.weight has text encoder's width 64, not 128"),
    "text layers": ({"text_cfg": {"layers": 1}}, "transformer.resblocks has text encoder's layers 2, not 1"),
    "context": ({"text_cfg": {"context_length": 77}}, "positional_embedding has context length 12, not 77"),
    "vocabulary": ({"text_cfg": {"vocab_size": 60}}, "token_embedding.weight has vocabulary 50, not 60"),
}


def other(what: str) -> str:
    """The name of the architecture that differs in this."""
    return f"other-{what.replace(' ', '-')}-quickgelu"


def changed(delta: Mapping[str, Any]) -> dict[str, Any]:
    return {k: v | delta.get(k, {}) if isinstance(v, dict) else delta.get(k, v) for k, v in CONFIG.items()}


@pytest.fixture(scope="module", autouse=True)
def architectures(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Small architectures that open_clip knows in these tests."""
    folder = tmp_path_factory.mktemp("architectures")
    configs = {QUICK: CONFIG | {"quick_gelu": True}, PLAIN: CONFIG}
    configs |= {other(name): changed(delta) | {"quick_gelu": True} for name, (delta, _) in OTHERS.items()}
    for name, config in configs.items():
        (folder / f"{name}.json").write_text(json.dumps(config))
    known = list(open_clip.factory._MODEL_CONFIG_PATHS)
    open_clip.add_model_config(folder)
    yield
    open_clip.factory._MODEL_CONFIG_PATHS[:] = known
    open_clip.factory._rescan_model_configs()


def random_clip(architecture: str) -> open_clip.CLIP:
    """Random weights, none of them where it starts, that half precision holds exactly: OpenAI's archives are in it."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(2)
        clip = create_open_clip(architecture, None).eval()
        with torch.no_grad():
            for parameter in clip.parameters():
                parameter.copy_((parameter + 0.05 * torch.randn_like(parameter)).half())
    return clip


def archive(clip: open_clip.CLIP, path: Path, openai: bool = True) -> None:
    """A TorchScript archive, laid out as OpenAI's: half precision, and three sizes among the weights."""
    if openai:
        mask = clip.attn_mask
        del clip._buffers["attn_mask"]
        clip.attn_mask = mask
        for name, size in (("input_resolution", SIZE), ("context_length", CONTEXT), ("vocab_size", VOCABULARY)):
            if hasattr(clip, name):
                delattr(clip, name)
            clip.register_buffer(name, torch.tensor(size))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        traced = torch.jit.trace_module(clip, {"forward": (images(), tokens())}, check_trace=False)
    if openai:
        convert_weights_to_lp(clip)
    traced.save(str(path))


def images() -> Tensor:
    return torch.randn(2, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0))


def tokens() -> Tensor:
    return torch.randint(1, VOCABULARY, (2, CONTEXT), generator=torch.Generator().manual_seed(1))


def outputs(clip: open_clip.CLIP) -> tuple[Tensor, Tensor]:
    with torch.no_grad():
        return clip.encode_image(images()), clip.encode_text(tokens())


def state_of(clip: open_clip.CLIP) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in clip.state_dict().items()}


WRITERS: dict[str, Callable[[open_clip.CLIP, Path], None]] = {
    "openai.pt": archive,
    "scripted.pt": lambda clip, path: archive(clip, path, openai=False),
    "plain.pt": lambda clip, path: torch.save(state_of(clip), path),
    "plain.bin": lambda clip, path: torch.save({k: v.half() for k, v in state_of(clip).items()}, path),
    "wrapped.pth": lambda clip, path: torch.save(
        {"epoch": 3, "state_dict": {f"module.{k}": v for k, v in state_of(clip).items()}}, path
    ),
    "named.safetensors": lambda clip, path: save_file(state_of(clip), path),
}


@pytest.fixture
def written(tmp_path: Path) -> Callable[[str, str], Path]:
    """A file in one of the forms, with random weights of an architecture."""

    def write(form: str, architecture: str) -> Path:
        WRITERS[form](random_clip(architecture), tmp_path / form)
        return tmp_path / form

    return write


def provided(architecture: str, file: Path, digest: str | None = None) -> open_clip.CLIP:
    out = file.parent / "out" / "weights.pt"
    provide(architecture, file.name, file.parent, out, digest)
    return create_open_clip(architecture, str(out)).eval()


def refused(architecture: str, file: Path, digest: str | None = None) -> str:
    """The one line with which `provide` refuses a file; it writes nothing."""
    with pytest.raises(UserError) as caught:
        provided(architecture, file, digest)
    message = str(caught.value)
    assert message.count("\n") == 0
    assert message.startswith(f"{file}: ")
    assert not (file.parent / "out").exists()
    return message


@pytest.mark.parametrize("form", WRITERS)
def test_every_form_gives_the_outputs_of_the_model_that_wrote_it(form: str, written: Callable[[str, str], Path]) -> None:
    got, want = outputs(provided(QUICK, written(form, QUICK))), outputs(random_clip(QUICK))
    for a, b in zip(got, want, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0)


def test_an_archive_gives_the_outputs_of_open_clips_own_loader(written: Callable[[str, str], Path]) -> None:
    file = written("openai.pt", QUICK)
    assert torch.jit.load(file).visual.conv1.weight.dtype == torch.float16
    own = open_clip.load_openai_model(str(file), precision="fp32", device="cpu")
    for a, b in zip(outputs(provided(QUICK, file)), outputs(own), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0)


def test_the_activation_matters(written: Callable[[str, str], Path]) -> None:
    file = written("plain.pt", QUICK)
    difference = outputs(provided(QUICK, file))[0] - outputs(provided(PLAIN, file))[0]
    assert difference.abs().max() > 1e-3


@pytest.mark.parametrize("form", ["openai.pt", "scripted.pt"])
def test_an_archive_with_quickgelu_needs_an_architecture_with_it(form: str, written: Callable[[str, str], Path]) -> None:
    message = refused(PLAIN, written(form, QUICK))
    assert "trained with QuickGELU" in message
    assert f"set vlm.architecture: {QUICK}" in message


def test_an_archive_with_gelu_needs_an_architecture_with_it(written: Callable[[str, str], Path]) -> None:
    message = refused(QUICK, written("scripted.pt", PLAIN))
    assert "trained with GELU" in message
    assert f"set vlm.architecture: {PLAIN}" in message


@pytest.mark.parametrize("name", ["ViT-B-16.pt", "vit_base_patch16_clip_224.openai.pt", "tiny-quickgelu.pt"])
def test_a_state_dict_whose_name_says_openai_needs_quickgelu(name: str, written: Callable[[str, str], Path]) -> None:
    file = written("plain.pt", QUICK)
    file = file.rename(file.with_name(name))
    assert "trained with QuickGELU by its name" in refused(PLAIN, file)
    provided(QUICK, file)


def test_the_configuration_beside_a_state_dict_tells_its_activation(written: Callable[[str, str], Path]) -> None:
    file = written("named.safetensors", PLAIN)
    (file.parent / "open_clip_config.json").write_text(json.dumps({"model_cfg": {"quick_gelu": True}}))
    assert "open_clip_config.json" in refused(PLAIN, file)
    provided(QUICK, file)


def test_a_state_dict_that_tells_nothing_is_taken_with_a_warning(
    written: Callable[[str, str], Path], caplog: pytest.LogCaptureFixture
) -> None:
    provided(PLAIN, written("plain.pt", QUICK))
    assert "nothing tells its activation" in caplog.text


@pytest.mark.parametrize("what", OTHERS)
@pytest.mark.parametrize("form", ["openai.pt", "named.safetensors"])
def test_other_sizes_are_refused_and_the_fitting_architecture_is_named(
    form: str, what: str, written: Callable[[str, str], Path]
) -> None:
    message = refused(other(what), written(form, QUICK))
    assert OTHERS[what][1] in message
    assert re.search(rf"set vlm.architecture: .*{QUICK}$", message)


def without(file: Path, key: str) -> None:
    state = torch.load(file, weights_only=True)
    del state[key]
    torch.save(state, file)


def reshaped(file: Path, key: str) -> None:
    state = torch.load(file, weights_only=True)
    torch.save(state | {key: state[key][:-1]}, file)


@pytest.mark.parametrize("key", ["visual.conv1.weight", "visual.ln_post.weight", "transformer.resblocks.1.mlp.c_fc.bias"])
@pytest.mark.parametrize("damage", [without, reshaped])
def test_a_tensor_that_is_missing_or_has_another_shape_is_named(
    damage: Callable[[Path, str], None], key: str, written: Callable[[str, str], Path]
) -> None:
    file = written("plain.pt", QUICK)
    damage(file, key)
    assert key in refused(QUICK, file)


def test_a_digest_that_is_not_the_files_is_refused(written: Callable[[str, str], Path]) -> None:
    file = written("openai.pt", QUICK)
    digest = sha256(file.read_bytes()).hexdigest()
    for given in (digest, digest[:8].upper()):
        provided(QUICK, file, given)
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    (file.parent / "out" / "weights.pt").unlink()
    (file.parent / "out").rmdir()
    message = refused(QUICK, file, digest)
    assert digest in message
    assert "vlm.pretrained_sha256" in message


@pytest.mark.parametrize(("form", "name"), [("openai.pt", "ViT-B-16.pt"), ("plain.pt", "vit_b_16-laion400m_e31-00efa78f.pt")])
def test_a_published_name_goes_with_the_published_digest(form: str, name: str, written: Callable[[str, str], Path]) -> None:
    architecture = QUICK if form == "openai.pt" else PLAIN
    file = written(form, architecture)
    file = file.rename(file.with_name(name))
    assert f"the published file of this name has {published_files()[name].digest}" in refused(architecture, file)
    provided(architecture, file, sha256(file.read_bytes()).hexdigest())


def test_the_published_files_are_those_of_the_paper() -> None:
    files = published_files()
    for name in ("ViT-B-16.pt", "ViT-L-14-336px.pt"):
        assert files[name].openai
        assert files[name].quick_gelu
        assert re.fullmatch("[0-9a-f]{64}", files[name].digest)
    assert not files["vit_b_16-laion400m_e31-00efa78f.pt"].quick_gelu


def test_pickled_code_is_not_run(tmp_path: Path) -> None:
    file, trace = tmp_path / "evil.pt", tmp_path / "was-run"

    class Evil:
        def __reduce__(self) -> tuple[Any, ...]:
            return (Path.touch, (trace,))

    torch.save({"state_dict": Evil()}, file)
    assert "not readable as CLIP weights" in refused(QUICK, file)
    assert not trace.exists()


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 cut short", b"no weights at all"])
@pytest.mark.parametrize("name", ["weights.pt", "weights.safetensors"])
def test_what_is_no_weights_is_refused(name: str, content: bytes, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    assert "not " in refused(QUICK, tmp_path / name)


def test_a_tag_of_another_activation_is_refused() -> None:
    with pytest.raises(UserError, match=r"set vlm\.architecture: ViT-B-16-quickgelu$"):
        check_tag("ViT-B-16", "openai")
    check_tag("ViT-B-16-quickgelu", "openai")
    check_tag("ViT-B-16", "laion2b_s34b_b88k")


def test_a_digest_beside_a_tag_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"vlm\.pretrained_sha256: 'openai' is no file"):
        provide("ViT-B-16-quickgelu", "openai", tmp_path, tmp_path / "out.pt", "0" * 64)


def test_a_digest_is_part_of_the_identity_where_it_is_given(sample_params: Params) -> None:
    def ids(digest: str | None) -> tuple[str, str]:
        vlm = sample_params.vlm.model_copy(update={"pretrained_sha256": digest})
        return run_id(sample_params.model_copy(update={"vlm": vlm}), ""), weights_id(vlm.model_dump(), "")

    assert len({ids(None), ids("a" * 64), ids("b" * 64)}) == 3
    assert ids("A" * 64) == ids("a" * 64)
