"""A mistake gives one line that names what is wrong and the remedy, exit status 2, and leaves no file half-written."""

import json
import os
import subprocess
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from project import ITERATIONS, VLM, Project
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from fgaseg.plan import Plan

PHOTO = "data/sample/VOCdevkit/VOC2012/JPEGImages/2007_000042.jpg"
LABEL = "data/sample/VOCdevkit/VOC2012/SegmentationClassAug/2007_000042.png"
SCALE = "params/scale/sample.yaml"
ROW = ("params/tables/table_7.yaml", "set: {vlm.finetune: full}")
PREDICT = ("predict", PHOTO, "--classes", "sky, tree", "--out", "out/overlay.png")


def assert_says(message: str, *words: str) -> None:
    assert [word for word in words if word not in message] == [], message


@pytest.fixture
def run(project: Project) -> str:
    """The folder of the trained run, from the project's root."""
    return f"results/sample/runs/{project.ids('table_1', 2)[0]}"


def test_the_installed_command_says_what_its_entry_point_says(project: Project) -> None:
    arguments = ("predict", "nowhere.jpg", "--classes", "sky", "--out", "overlay.png")
    installed = project.run(*arguments)
    assert installed == project.quick(*arguments)
    assert Project.one_line(installed) == "nowhere.jpg: no such photograph; check the path"
    assert installed.status == 2


# Raw data


def resize(project: Project) -> None:
    image = Image.open(project.root / LABEL)
    project.remove(LABEL)
    image.resize((image.width + 1, image.height)).save(project.root / LABEL)


def paint(project: Project) -> None:
    pixels = np.array(Image.open(project.root / LABEL))
    pixels[0, 0] = 21
    project.remove(LABEL)
    Image.fromarray(pixels).save(project.root / LABEL)


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda p: p.truncate(PHOTO), [PHOTO, "truncated", "download it again"]),
        (lambda p: p.truncate(LABEL), [LABEL, "cannot be read", "download it again"]),
        (resize, [PHOTO, LABEL, "pixels", "download both again"]),
        (paint, [LABEL, "label id 21", "0 to 20 and 255", "correct this file"]),
        (
            lambda p: p.remove("data/sample/VOCdevkit/VOC2012"),
            ["VOC2012/JPEGImages is missing", "download http", "unpack it in data"],
        ),
        (lambda p: p.remove("data"), ["VOC2012/JPEGImages is missing", "download http", "unpack it in data/sample"]),
    ],
    ids=["truncated image", "truncated label", "label of another size", "label outside the table", "no dataset", "no data"],
)
def test_prepare_refuses_raw_data(damage: Callable[[Project], None], words: list[str], project: Project) -> None:
    damage(project)
    out = project.dataset("pas-20")
    project.remove(out)
    before = project.files()
    assert_says(Project.one_line(project.quick("prepare", "pas-20")), *words)
    written = {path for path in project.files() if path not in before}
    assert all(path.startswith(f"{out}/labels/") and path.endswith(".png") for path in written)
    for path in written:
        Image.open(project.root / path).load()


def test_prepare_goes_on_once_the_data_are_mended(project: Project) -> None:
    whole = (project.root / PHOTO).read_bytes()
    before = project.files()
    project.truncate(PHOTO)
    Project.one_line(project.quick("prepare", "pas-20"))
    project.write(PHOTO, whole)
    project.succeed("prepare", "pas-20")
    assert project.files() == before


# Parameters


@pytest.mark.parametrize(
    ("file", "old", "new", "words"),
    [
        (*ROW, "set: {vlm.finetun: full}", ["table_7.yaml, row 3", "'vlm.finetun'", "did you mean 'vlm.finetune'"]),
        (*ROW, "set: {model.lcs: 3}", ["table_7.yaml, row 3", "'model.lcs'", "section", "model.lcs.kernel_size"]),
        (*ROW, "set: {vlm.finetune: ful}", ["table_7.yaml, row 3", "vlm.finetune", "'attention', 'full'", "'ful'"]),
        (*ROW, "set: {training.iterations: many}", ["table_7.yaml, row 3", "training.iterations", "integer", "'many'"]),
        (*ROW, "set: {evaluation.top_n: 2}", ["table_7.yaml, row 3", "evaluation.top_n", "set model.decoder.fast: true"]),
        (*ROW, "set: {model.lcs.kernel_size: 4}", ["table_7.yaml, row 3", "model.lcs.kernel_size", "odd"]),
        (*ROW, "set: {evaluation.stride: 50}", ["table_7.yaml, row 3", "evaluation.resize", "multiple of stride"]),
        (*ROW, "set: {vlm.backbone: huge}", ["table_7.yaml, row 3", "vlm.backbone", "'huge'", "base, large"]),
        (*ROW, "set: [vlm.finetune]", ["table_7.yaml, row 3", "mapping of parameters"]),
        (*ROW, "set: {vlm.finetune: full, vlm.finetune: frozen}", ["table_7.yaml, line", "'vlm.finetune' is there twice"]),
        (*ROW, "sett: {vlm.finetune: full}", ["table_7.yaml, row 3", "unknown key 'sett'", "reference, seeds, set"]),
        (*ROW, "method: clip", ["table_7.yaml, row 3", "method", "choose fgaseg or dense_clip"]),
        (ROW[0], "label: {strategy: full}", "label: full", ["table_7.yaml, row 3", "label"]),
        (ROW[0], "57.8, 95.4]", "57.8]", ["table_7.yaml, row 3", "published has 4 numbers for 5 benchmarks", "null"]),
        (ROW[0], "57.8, 95.4]", "57.8, much]", ["table_7.yaml, row 3", "published", "5 numbers"]),
        (ROW[0], "rows:", "rows: hello\nothers:", ["table_7.yaml", "rows", "list"]),
        (ROW[0], "title:", "titel:", ["table_7.yaml", "unknown key 'titel'", "title"]),
        (ROW[0], 'title: "Table VII', "title: [Table VII", ["table_7.yaml, line", "not valid YAML", "correct this line"]),
        (SCALE, "model.hidden_dim:", "model.hiden_dim:", [SCALE, "'model.hiden_dim'", "did you mean 'model.hidden_dim'"]),
        (SCALE, "training.lr: 2.0e-3", "training.lr: fast", [SCALE, "training.lr", "number", "'fast'"]),
        (SCALE, "vlm.dense_residual: own", "vlm.dense_residual: none", [SCALE, "vlm.dense_residual", "'class_token' or 'own'"]),
        (SCALE, "label: mini/12\n", "name: mini/12\n", [SCALE, "backbones.base", "unknown parameter 'name'", "label"]),
        ("params/base.yaml", "  hidden_dim: 128", "  hidden_dims: 128", ["base.yaml", "did you mean 'model.hidden_dim'"]),
        ("params/base.yaml", "  schedule: cosine", "  # schedule:", ["base.yaml", "'training.schedule' is missing"]),
        ("data.dvc", "outs:", "outputs:", ["data.dvc", "restore it"]),
    ],
)
def test_a_plan_with_a_mistake_is_refused(file: str, old: str, new: str, words: list[str], project: Project) -> None:
    project.edit(file, old, new)
    assert_says(project.refusal("show"), *words)


def test_parameters_that_are_no_text_are_refused(project: Project) -> None:
    project.write("params/base.yaml", b"revision: \xff\n")
    assert_says(project.refusal("show"), "params/base.yaml", "UTF-8")


def test_a_mistake_in_the_launch_settings_is_refused_before_training(project: Project, run: str) -> None:
    project.edit("params/launch.yaml", "log_every", "log_evry")
    assert_says(project.refusal("train", Path(run).name), "params/launch.yaml", "did you mean 'log_every'")


# Names on the command line


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("train", "zzz"), ["run 'zzz'", "43 planned", "fgaseg show TABLE"]),
        (("train", ""), ["run ''", "fgaseg show TABLE"]),
        (("evaluate", "zzz"), ["evaluation 'zzz'", "fgaseg show TABLE"]),
        ((*PREDICT, "--run", "zzz"), ["run 'zzz'", "fgaseg show TABLE"]),
        (("prepare", "a-151"), ["'a-151'", "a-150, a-847"]),
        (("vlm", "huge"), ["'huge'", "base, large"]),
        (("show", "table_9"), ["'table_9'", "table_1, table_2"]),
        (("show", "--scale", "huge"), ["'huge'", "sample or paper"]),
    ],
)
def test_an_unknown_name_is_answered_with_where_to_find_the_known_ones(
    arguments: tuple[str, ...], words: list[str], project: Project
) -> None:
    assert_says(project.refusal(*arguments), *words)


def test_an_id_that_fits_several_runs_is_answered_with_them(project: Project) -> None:
    runs = list(Plan(project.root, "sample").runs)
    [(digit, count)] = Counter(run[0] for run in runs).most_common(1)
    assert count > 1
    assert_says(project.refusal("train", digit), *(run for run in runs if run[0] == digit))


def test_outside_a_project_the_user_is_sent_to_its_root(tmp_path: Path) -> None:
    assert_says(Project(tmp_path).refusal("show"), "params/base.yaml", "project's root folder")


# Weights


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


def other_backbone(project: Project) -> None:
    project.remove(project.backbone())
    torch.save({"visual.proj": torch.zeros(3, 4)}, project.root / project.backbone())


@pytest.mark.parametrize("damage", [lambda p: p.remove(p.backbone()), lambda p: p.truncate(p.backbone()), other_backbone])
def test_a_backbone_that_is_missing_damaged_or_foreign_is_refused(damage: Callable[[Project], None], project: Project) -> None:
    damage(project)
    assert_says(project.refusal(*PREDICT), project.backbone(), "`fgaseg vlm")


# Trained models


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


def test_a_run_that_is_not_trained_is_refused(project: Project) -> None:
    run, evaluation = project.ids("table_2", 1)
    for command in ((*PREDICT, "--run", run), ("evaluate", evaluation)):
        assert_says(project.refusal(*command), f"{run}/model.safetensors", "no trained model", f"fgaseg train {run}")


# Prepared data


@pytest.mark.parametrize("file", ["index.csv", "classes.json"])
@pytest.mark.parametrize("damage", [Project.remove, lambda p, path: p.write(path, "image\n[\n")], ids=["missing", "damaged"])
def test_evaluate_refuses_a_prepared_dataset_and_keeps_the_evaluation(
    damage: Callable[[Project, str], None], file: str, project: Project
) -> None:
    damage(project, f"{project.dataset('a-847')}/{file}")
    assert_says(project.refusal("evaluate", project.ids("table_1", 1)[1]), project.dataset("a-847"), "`fgaseg prepare a-847`")


def test_a_photograph_that_is_gone_ends_evaluate_and_keeps_the_evaluation(project: Project) -> None:
    project.remove(PHOTO)
    assert_says(project.refusal("evaluate", project.ids("table_1", 1)[1]), PHOTO, "is missing", "unpack")


@pytest.mark.parametrize("workers", [0, 1])
def test_a_damaged_photograph_ends_training(workers: int, project: Project) -> None:
    project.edit("params/launch.yaml", "workers: 0", f"workers: {workers}")
    photographs = sorted((project.root / "data/sample/coco/train2017").glob("*.jpg"))
    for path in photographs:
        project.truncate(path)
    message = Project.one_line(project.quick("train", project.ids("table_2", 1)[0]))
    assert_says(message, "data/sample/coco/train2017/", "truncated", "download it again")


# Checkpoints


@pytest.fixture
def interrupted(project: Project, run: str) -> list[Path]:
    """The checkpoints, oldest first, of a run that lacks its last iteration."""
    project.remove(f"{run}/model.safetensors")
    found = sorted((project.root / run / "checkpoints").iterdir())
    assert [path.name for path in found] == [f"step_{step:08d}.pt" for step in range(1, ITERATIONS)]
    return found


def test_a_damaged_newest_checkpoint_is_passed_over(
    project: Project, run: str, interrupted: list[Path], finished: Project
) -> None:
    project.truncate(interrupted[-1])
    result = project.succeed("train", Path(run).name)
    assert f"WARNING: {interrupted[-1].relative_to(project.root)}: this checkpoint is damaged" in result.err
    assert f"continuing from iteration {ITERATIONS - 2}" in result.err
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


# Predict


def predict(photo: str | Path = PHOTO, classes: str = "sky, tree", out: str = "out/overlay.png") -> tuple[str, ...]:
    return ("predict", str(photo), "--classes", classes, "--out", out)


@pytest.mark.parametrize(
    ("command", "words"),
    [
        (predict(classes=""), ["--classes", "empty", "name classes"]),
        (predict(classes=" , ,"), ["--classes", "empty", "name classes"]),
        (predict(classes="sky, " + "word " * 300), ["class name 'word word", "306 tokens", "reads 32", "shorten it"]),
        (predict(classes="sky, tree, sky"), ["'sky' is named twice", "once"]),
        (predict("nowhere.jpg"), ["nowhere.jpg", "no such photograph"]),
        (predict("params"), ["params", "cannot be read as an image", "choose"]),
        (predict("Snakefile"), ["Snakefile", "cannot be read as an image", "choose"]),
        (predict(out="overlay.jpg"), ["--out overlay.jpg", "end its name in .png"]),
        (predict(out="Snakefile/overlay.png"), ["Snakefile/overlay", "cannot be written", "write elsewhere"]),
    ],
)
def test_predict_refuses(command: tuple[str, ...], words: list[str], project: Project) -> None:
    assert_says(project.refusal(*command), *words)


def test_predict_refuses_a_truncated_photograph(project: Project) -> None:
    project.truncate(PHOTO)
    assert_says(project.refusal(*PREDICT), PHOTO, "truncated", "choose a photograph")


def test_predict_does_not_write_over_the_photograph(project: Project) -> None:
    Image.open(project.root / PHOTO).save(project.root / "photo.png")
    assert_says(project.refusal(*predict("photo.png", out="photo.png")), "photo.png is the photograph itself")


@pytest.mark.parametrize("name", ["overlay.png", "overlay.labels.png", "overlay.json"])
def test_predict_writes_nothing_where_a_folder_is_in_the_way(name: str, project: Project) -> None:
    (project.root / "out" / name).mkdir(parents=True)
    assert_says(project.refusal(*PREDICT), f"out/{name} is a folder", "choose another name")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write into any folder")
def test_predict_refuses_a_folder_that_may_not_be_written(project: Project) -> None:
    (project.root / "out").mkdir(mode=0o555)
    assert_says(project.refusal(*PREDICT), "out/overlay", "cannot be written", "writable folder")


# Results


def test_a_damaged_line_of_metrics_is_refused(project: Project, run: str, interrupted: list[Path]) -> None:
    project.write(f"{run}/metrics.jsonl", '{"step": 1}\n{\n')
    assert_says(project.refusal("train", Path(run).name), f"{run}/metrics.jsonl", "remove the line")


def test_damaged_tracking_costs_a_warning_alone(project: Project) -> None:
    project.write("results/sample/mlflow.db", "no database " * 100)
    result = project.succeed("track")
    assert "WARNING: tracking at sqlite" in result.err
    assert "Traceback" not in result.err


def test_a_damaged_evaluation_is_refused_by_the_report(project: Project) -> None:
    file = f"results/sample/evaluations/{project.ids('table_1', 2)[1]}/evaluation.json"
    project.write(file, json.dumps({"benchmarks": {}})[:-3])
    assert_says(project.refusal("report"), file, "evaluate the row again")


def test_a_report_without_any_figures_source_writes_nothing(project: Project) -> None:
    """The tables could be rendered before the figures fail."""
    run, _ = project.ids("table_1", 2)
    project.remove(f"results/sample/runs/{run}/metrics.jsonl")
    message = project.refusal("report")
    assert "metrics.jsonl" in message
