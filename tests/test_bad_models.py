"""Weights, models and checkpoints that are damaged or belong elsewhere are refused, or passed over, in one line."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from project import ITERATIONS, VLM, Project, assert_says
from safetensors import safe_open
from safetensors.torch import load_file, save_file

PHOTO = "data/sample/VOCdevkit/VOC2012/JPEGImages/2007_000042.jpg"
SCALE = "params/scale/sample.yaml"
PREDICT = ("predict", PHOTO, "--classes", "sky, tree", "--out", "out/overlay.png")


def other_shapes(project: Project) -> None:
    """The compact weights of a CLIP with an embedding of 64."""
    path = project.root / VLM
    with safe_open(path, "pt") as file:
        header = file.metadata()
    tensors = load_file(path)
    tensors["text_projection"] = tensors["text_projection"][:, :64].contiguous()
    path.unlink()
    save_file(tensors, path, header)


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda p: p.remove(VLM), ["no such weights", "dvc pull"]),
        (lambda p: p.truncate(VLM), ["not a readable safetensors file", "dvc pull"]),
        (other_shapes, ["do not fit fgaseg-mini", "text_projection", "vlm.architecture"]),
    ],
    ids=["missing", "damaged", "another architecture"],
)
def test_vlm_refuses_weights(damage: Callable[[Project], None], words: list[str], project: Project) -> None:
    damage(project)
    assert_says(project.refusal("vlm", "base"), VLM, *words)


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        (f"architecture: fgaseg-mini\n    pretrained: {VLM}\n    image_size: 96", "architecture: mini", ["no model 'mini'"]),
        (f"pretrained: {VLM}\n    image_size: 96", "pretrained: openai", ["'openai'", "fgaseg-mini", "choose a file"]),
    ],
)
def test_vlm_refuses_an_unknown_architecture_or_tag(old: str, new: str, words: list[str], project: Project) -> None:
    lines = [line for line in old.split("\n") if line.split(":")[0] not in new]
    project.edit(SCALE, old, "\n".join([new, *lines]))
    assert_says(project.refusal("vlm", "base"), "vlm.", *words)


def test_vlm_refuses_weights_of_another_digest(project: Project) -> None:
    project.edit(SCALE, f"{VLM}\n    image_size: 96", f"{VLM}\n    pretrained_sha256: {'f' * 64}\n    image_size: 96")
    assert_says(project.refusal("vlm", "base"), VLM, "vlm.pretrained_sha256", "f" * 64)


def test_a_digest_that_is_none_is_refused(project: Project) -> None:
    project.edit(SCALE, f"{VLM}\n    image_size: 96", f"{VLM}\n    pretrained_sha256: '0x12'\n    image_size: 96")
    assert_says(project.refusal("vlm", "base"), SCALE, "vlm.pretrained_sha256", "0x12")


def other_backbone(project: Project) -> None:
    project.remove(project.backbone())
    torch.save({"visual.proj": torch.zeros(3, 4)}, project.root / project.backbone())


@pytest.mark.parametrize("damage", [lambda p: p.remove(p.backbone()), lambda p: p.truncate(p.backbone()), other_backbone])
def test_a_backbone_that_is_missing_damaged_or_foreign_is_refused(damage: Callable[[Project], None], project: Project) -> None:
    damage(project)
    assert_says(project.refusal(*PREDICT), project.backbone(), "`fgaseg vlm")


def test_a_model_of_another_run_is_refused(project: Project, run: str) -> None:
    other = project.ids("table_2", 1)[0]
    model = f"results/sample/runs/{other}/model.safetensors"
    project.write(model, (project.root / run / "model.safetensors").read_bytes())
    for command in ((*PREDICT, "--run", other), ("evaluate", project.ids("table_2", 1)[1])):
        assert_says(project.refusal(*command), model, f"the model of run {Path(run).name}", "train again")


def drop_a_tensor(tensors: dict[str, torch.Tensor]) -> None:
    del tensors["text_guidance.weight"]


def halve_a_tensor(tensors: dict[str, torch.Tensor]) -> None:
    tensors["text_guidance.weight"] = tensors["text_guidance.weight"][:16].contiguous()


@pytest.mark.parametrize("change", [drop_a_tensor, halve_a_tensor])
def test_a_model_of_other_tensors_is_refused(
    change: Callable[[dict[str, torch.Tensor]], None], project: Project, run: str
) -> None:
    path = project.root / run / "model.safetensors"
    with safe_open(path, "pt") as file:
        header = file.metadata()
    tensors = load_file(path)
    change(tensors)
    path.unlink()
    save_file(tensors, path, header)
    assert_says(project.refusal(*PREDICT), f"{run}/model.safetensors", "another model", "text_guidance.weight")


def test_a_damaged_model_is_refused_and_the_evaluation_stays(project: Project, run: str) -> None:
    project.truncate(f"{run}/model.safetensors")
    for command in (PREDICT, ("evaluate", project.ids("table_1", 2)[1])):
        assert_says(project.refusal(*command), f"{run}/model.safetensors", "damaged", "train again")


def test_retries_of_a_download_are_not_told(tmp_path: Path) -> None:
    """Hugging Face's client, imported after the command has begun, as open_clip does."""
    program = (
        "from fgaseg.logs import set_up_logs; set_up_logs()\n"
        "from huggingface_hub.utils import logging\n"
        "logging.get_logger('huggingface_hub.utils._http').warning('Retrying in 1s [Retry 1/5].')\n"
        "logging.get_logger('huggingface_hub.utils._http').error('told')"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert "told" in done.stderr
    assert "Retrying" not in done.stderr


def test_a_run_that_is_not_trained_is_refused(project: Project) -> None:
    run, evaluation = project.ids("table_2", 1)
    for command in ((*PREDICT, "--run", run), ("evaluate", evaluation)):
        assert_says(project.refusal(*command), f"{run}/model.safetensors", "no trained model", f"fgaseg train {run}")


@pytest.fixture
def interrupted(project: Project, run: str) -> list[Path]:
    """The checkpoints, oldest first, of a run that lacks its model alone."""
    model = project.root / run / "model.safetensors"
    model.unlink()
    model.mkdir()  # the last step, to write the model, fails
    assert "model.safetensors: cannot be written" in project.one_line(project.quick("train", Path(run).name))
    model.rmdir()
    found = sorted((project.root / run / "checkpoints").iterdir())
    assert [path.name for path in found] == [f"step_{step:08d}.pt" for step in range(ITERATIONS - 1, ITERATIONS + 1)]
    return found


def test_a_damaged_newest_checkpoint_is_passed_over(
    project: Project, run: str, interrupted: list[Path], finished: Project
) -> None:
    project.truncate(interrupted[-1])
    result = project.succeed("train", Path(run).name)
    assert f"WARNING: {interrupted[-1].relative_to(project.root)}: this checkpoint is damaged" in result.err
    assert f"continuing from iteration {ITERATIONS - 1}" in result.err
    model = Path(run) / "model.safetensors"
    assert (project.root / model).read_bytes() == (finished.root / model).read_bytes()


def test_a_checkpoint_of_another_run_is_refused(project: Project, interrupted: list[Path]) -> None:
    other = project.ids("table_2", 1)[0]
    foreign = f"results/sample/runs/{other}/checkpoints/{interrupted[-1].name}"
    project.write(foreign, interrupted[-1].read_bytes())
    assert_says(project.refusal("train", other), foreign, "a checkpoint of run", f"not of {other}", "remove it")


@pytest.fixture
def small_disk(project: Project, run: str, interrupted: list[Path]) -> Iterator[Path]:
    """The folder of checkpoints on a disk of its own that holds one checkpoint, not two."""
    if os.geteuid() != 0:
        pytest.skip("only root may mount the small disk that this test fills")
    size = int(1.5 * interrupted[0].stat().st_size)
    folder = interrupted[0].parent
    for path in interrupted:
        path.unlink()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder], capture_output=True, check=False)
    if mounted.returncode:
        pytest.skip(f"no small disk can be mounted here: {mounted.stderr.decode().strip()}")
    yield folder
    subprocess.run(["umount", folder], check=True)


def test_a_full_disk_ends_training_and_keeps_the_earlier_checkpoint(
    project: Project, run: str, small_disk: Path, finished: Project
) -> None:
    message = Project.one_line(project.quick("train", Path(run).name))
    assert_says(message, f"{run}/checkpoints/step_00000002.pt", "no space left", "free some")
    assert [path.name for path in small_disk.iterdir()] == ["step_00000001.pt"]
    assert not (project.root / run / "model.safetensors").exists()
    subprocess.run(["mount", "-o", "remount,size=100m", small_disk], check=True)
    assert "continuing from iteration 1" in project.succeed("train", Path(run).name).err
    model = Path(run) / "model.safetensors"
    assert (project.root / model).read_bytes() == (finished.root / model).read_bytes()


def test_a_damaged_line_of_metrics_is_refused(project: Project, run: str, interrupted: list[Path]) -> None:
    project.write(f"{run}/metrics.jsonl", '{"step": 1}\n{\n')
    assert_says(project.refusal("train", Path(run).name), f"{run}/metrics.jsonl", "remove the line")
