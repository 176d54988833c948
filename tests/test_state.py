"""Checkpoints: they restore what training changed bit for bit, and refuse what is damaged, foreign or hostile."""

import io
import pickle
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from weights import perturb

from fgaseg.errors import UserError
from fgaseg.model.fgaseg import FGAseg
from fgaseg.schema import Params
from fgaseg.training.optimisation import initial_state
from fgaseg.training.state import TrainingState, checkpoints, read_checkpoint, trained_state

pytestmark = pytest.mark.usefixtures("one_thread")

RUN = "0123456789ab"
BuildModel = Callable[..., FGAseg]


def steps(state: TrainingState, count: int, seed: int) -> None:
    """Train with random gradients."""
    generator = torch.Generator().manual_seed(seed)
    for _ in range(count):
        for p in state.model.parameters():
            if p.requires_grad:
                p.grad = torch.randn(p.shape, generator=generator)
        state.optimiser.step()
        state.schedule.step()
        state.step += 1


@pytest.fixture
def trained(build_model: BuildModel, sample_params: Params) -> TrainingState:
    """A state in which everything differs from where it started: weights, statistics, moments, schedule, step."""
    model = build_model(sample_params)
    for module in (m for name, m in model.named_children() if name != "clip"):
        perturb(module, seed=0)
    state = initial_state(model, sample_params.training)
    steps(state, 3, seed=1)
    return state


@pytest.fixture
def fresh(build_model: BuildModel, sample_params: Params) -> TrainingState:
    return initial_state(build_model(sample_params, seed=2), sample_params.training)


def assert_same(a: Any, b: Any) -> None:
    """Equal, tensors bit for bit, through mappings and lists."""
    if isinstance(a, torch.Tensor):
        assert a.dtype == b.dtype
        assert torch.equal(a, b)
    elif isinstance(a, dict):
        assert a.keys() == b.keys()
        for key in a:
            assert_same(a[key], b[key])
    elif isinstance(a, list | tuple):
        assert len(a) == len(b)
        for x, y in zip(a, b, strict=True):
            assert_same(x, y)
    else:
        assert a == b


def sealed(content: bytes) -> bytes:
    """With the checksum that a checkpoint ends with."""
    return content + zlib.crc32(content).to_bytes(4, "big")


def test_load_restores_everything_that_training_changed(trained: TrainingState, fresh: TrainingState, tmp_path: Path) -> None:
    before = trained_state(fresh.model)
    assert any(not torch.equal(before[name], tensor) for name, tensor in trained_state(trained.model).items())
    fresh.load(trained.save(tmp_path, RUN), RUN)
    assert fresh.step == 3
    assert_same(trained_state(fresh.model), trained_state(trained.model))
    assert_same(fresh.optimiser.state_dict(), trained.optimiser.state_dict())
    assert_same(fresh.schedule.state_dict(), trained.schedule.state_dict())


def test_a_restored_training_goes_on_as_the_first(trained: TrainingState, fresh: TrainingState, tmp_path: Path) -> None:
    fresh.load(trained.save(tmp_path, RUN), RUN)
    for state in (trained, fresh):
        steps(state, 2, seed=3)
    assert fresh.schedule.get_last_lr() == trained.schedule.get_last_lr()
    assert_same(trained_state(fresh.model), trained_state(trained.model))


def test_a_checkpoint_holds_trained_tensors_alone(trained: TrainingState, tmp_path: Path) -> None:
    held = read_checkpoint(trained.save(tmp_path, RUN))["model"].keys()
    assert "projector.upsample.2.weight" in held
    assert "clip.visual.transformer.resblocks.0.attn.q_proj.weight" in held
    assert not any("k_proj" in name or "token_embedding" in name for name in held if name.startswith("clip."))


def test_saving_changes_nothing(trained: TrainingState, tmp_path: Path) -> None:
    before = {name: tensor.clone() for name, tensor in trained_state(trained.model).items()}
    trained.save(tmp_path, RUN)
    assert_same(trained_state(trained.model), before)
    assert trained.step == 3


def test_the_last_two_checkpoints_are_kept(trained: TrainingState, tmp_path: Path) -> None:
    for step in (9, 100, 1000, 2000):
        trained.step = step
        trained.save(tmp_path, RUN)
    assert [path.name for path in checkpoints(tmp_path)] == ["step_00001000.pt", "step_00002000.pt"]
    assert sorted(tmp_path.iterdir()) == checkpoints(tmp_path)


@pytest.mark.parametrize("damage", ["cut", "flipped bit", "empty", "longer"])
def test_a_damaged_checkpoint_is_named_and_refused(damage: str, trained: TrainingState, tmp_path: Path) -> None:
    path = trained.save(tmp_path, RUN)
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 2] ^= 4 if damage == "flipped bit" else 0
    found: dict[str, bytes | bytearray] = {
        "cut": raw[: len(raw) // 2],
        "flipped bit": raw,
        "empty": b"",
        "longer": raw + b"more",
    }
    path.write_bytes(found[damage])
    with pytest.raises(UserError, match=f"{path}: the checkpoint is damaged"):
        trained.load(path, RUN)


def test_a_refused_checkpoint_leaves_the_state_as_it_was(trained: TrainingState, fresh: TrainingState, tmp_path: Path) -> None:
    before = {name: tensor.clone() for name, tensor in trained_state(fresh.model).items()}
    path = trained.save(tmp_path, "another run")
    with pytest.raises(UserError):
        fresh.load(path, RUN)
    assert fresh.step == 0
    assert_same(trained_state(fresh.model), before)


def test_the_checkpoint_of_another_run_is_refused(trained: TrainingState, tmp_path: Path) -> None:
    path = trained.save(tmp_path, "ba9876543210")
    with pytest.raises(UserError, match=f"{path}: a checkpoint of run ba9876543210, not of {RUN}"):
        trained.load(path, RUN)


@pytest.mark.parametrize(
    ("delta", "tensor"),
    [
        ({"model.p2tformer.layers": 2}, "p2tformer.layers.1"),
        ({"model.lcs.kernel_size": 5}, r"local.kernel.weight is \(3201, 128\)"),
    ],
    ids=["more tensors", "other shapes"],
)
def test_the_tensors_of_another_model_are_refused(
    delta: dict[str, Any],
    tensor: str,
    trained: TrainingState,
    build_model: BuildModel,
    resolve: Callable[[dict[str, Any]], Params],
    tmp_path: Path,
) -> None:
    params = resolve(delta)
    other = initial_state(build_model(params), params.training)
    path = other.save(tmp_path, RUN)
    with pytest.raises(UserError, match=f"{path}: a checkpoint of another model: .*{tensor}"):
        trained.load(path, RUN)


class _Hostile:
    """Unpickled, it creates a file."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, tuple[Path]]:
        return Path.touch, (self.mark,)


@pytest.mark.parametrize("form", ["pickle", "torch"])
@pytest.mark.parametrize("checksum", [True, False], ids=["right checksum", "no checksum"])
def test_pickled_code_is_not_run(form: str, checksum: bool, tmp_path: Path) -> None:
    mark, path = tmp_path / "executed", tmp_path / "step_00000001.pt"
    content = {"owner": RUN, "step": _Hostile(mark)}
    buffer = io.BytesIO()
    if form == "torch":
        torch.save(content, buffer)
    else:
        pickle.dump(content, buffer)
    raw = buffer.getvalue()
    path.write_bytes(sealed(raw) if checksum else raw)
    with pytest.raises((UserError, pickle.UnpicklingError)):
        read_checkpoint(path)
    assert not mark.exists()
    pickle.loads(pickle.dumps(_Hostile(mark)))
    assert mark.exists()


def test_a_checkpoint_of_a_gpu_is_read_into_main_memory(
    trained: TrainingState, fresh: TrainingState, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every process reads what the first one wrote; its own GPU is another one, or there is none."""
    with monkeypatch.context() as patch:
        patch.setattr(torch.serialization, "location_tag", lambda storage: "cuda:0")
        path = trained.save(tmp_path, RUN)
    with pytest.raises(RuntimeError, match="CUDA"):
        torch.load(io.BytesIO(path.read_bytes()[:-4]), weights_only=True)
    fresh.load(path, RUN)
    assert_same(trained_state(fresh.model), trained_state(trained.model))


def test_what_is_no_archive_is_no_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "step_00000001.pt"
    path.write_bytes(sealed(b"something else"))
    with pytest.raises(UserError, match=f"{path}: not a checkpoint of fgaseg; remove it"):
        read_checkpoint(path)
