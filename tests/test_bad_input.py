"""A mistake in data, pictures or results gives one line that names it and the remedy, and leaves no file half-written."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from project import Project, assert_says

PHOTO = "data/sample/VOCdevkit/VOC2012/JPEGImages/2007_000042.jpg"
LABEL = "data/sample/VOCdevkit/VOC2012/SegmentationClassAug/2007_000042.png"
PREDICT = ("predict", PHOTO, "--classes", "sky, tree", "--out", "out/overlay.png")


def test_the_installed_command_says_what_its_entry_point_says(project: Project) -> None:
    arguments = ("predict", "nowhere.jpg", "--classes", "sky", "--out", "overlay.png")
    installed = project.run(*arguments)
    assert installed == project.quick(*arguments)
    assert Project.one_line(installed) == "nowhere.jpg: no such photograph; check the path"
    assert installed.status == 2


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
        (lambda p: p.remove("data"), ["data/sample: no data is there", "`dvc pull`", "`fgaseg data import`"]),
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
    finished = {path for path in written if not path.startswith(f"{out}/.journal/")}
    assert all(path.startswith(f"{out}/labels/") and path.endswith(".png") for path in finished)
    for path in finished:
        Image.open(project.root / path).load()


def test_prepare_goes_on_once_the_data_are_mended(project: Project) -> None:
    whole = (project.root / PHOTO).read_bytes()
    before = project.files()
    project.truncate(PHOTO)
    Project.one_line(project.quick("prepare", "pas-20"))
    project.write(PHOTO, whole)
    project.succeed("prepare", "pas-20")
    assert project.files() == before


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


def test_damaged_tracking_costs_a_warning_alone(project: Project) -> None:
    project.write("results/sample/mlflow.db", "no database " * 100)
    result = project.quick("track")
    assert result.status == 1
    assert "WARNING: tracking at sqlite" in result.err
    assert "Traceback" not in result.err


def test_a_damaged_evaluation_is_refused_by_the_report(project: Project) -> None:
    file = f"results/sample/evaluations/{project.ids('table_1', 2)[1]}/evaluation.json"
    project.write(file, json.dumps({"benchmarks": {}})[:-3])
    assert_says(project.refusal("report"), file, "evaluate the row again")


def test_a_report_whose_figures_fail_writes_nothing(project: Project) -> None:
    """The tables could be rendered before the figures fail."""
    run, _ = project.ids("table_1", 2)
    project.write(f"results/sample/runs/{run}/metrics.jsonl", '{"step": 1}\n{\n{"step": 2}\n')
    message = project.refusal("report")
    assert "metrics.jsonl" in message
