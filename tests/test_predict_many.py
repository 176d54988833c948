"""`fgaseg predict` with several photographs, folders and URLs, and classes from files, datasets and with synonyms."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from project import Project, assert_says

from fgaseg.data.classes import class_table
from fgaseg.errors import UserError
from fgaseg.using.inputs import jobs, local_path

SCENE = "data/sample/ADEChallengeData2016/images/validation/ADE_val_00000001.jpg"


def put(project: Project, *places: str) -> None:
    """Copies of the scene, in the format of each name."""
    for place in places:
        path = project.root / place
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.open(project.root / SCENE).save(path)


def written(project: Project) -> set[str]:
    return {str(path.relative_to(project.root / "out")) for path in (project.root / "out").rglob("*") if path.is_file()}


def test_files_folders_and_urls_together_and_a_bad_one_among_them(project: Project) -> None:
    put(project, "in/a.jpg", "in/deep/b.png", "one two.png")
    project.write("in/broken.jpg", "no picture")
    project.write("in/notes.txt", "no picture either")
    url = (project.root / "one two.png").as_uri()
    assert "%20" in url
    result = project.quick("predict", "in", url, "gone.jpg", "--classes", "sky, tree", "--out", "out")
    assert result.status == 1
    assert result.out == "segmented 3 of 5 photographs into out\n"
    lines = [line for line in result.err.splitlines() if "left out" in line]
    assert len(lines) == 2
    assert_says(lines[0], "in/broken.jpg cannot be read as an image")
    assert_says(lines[1], "gone.jpg: no such photograph")
    assert "Traceback" not in result.err
    expected = {f"{stem}{suffix}" for stem in ("a", "deep/b", "one two") for suffix in (".png", ".labels.png", ".json")}
    assert written(project) == expected


def test_one_among_many_gets_what_it_gets_alone(project: Project) -> None:
    put(project, "in/a.jpg", "in/b.jpg")
    project.succeed("predict", "in", "--classes", "sky, tree", "--out", "out")
    project.succeed("predict", "in/a.jpg", "--classes", "sky, tree", "--out", "alone.png")
    for suffix in (".png", ".labels.png", ".json"):
        assert (project.root / f"out/a{suffix}").read_bytes() == (project.root / f"alone{suffix}").read_bytes()


def test_names_that_differ_in_the_suffix_alone_keep_it(tmp_path: Path) -> None:
    for name in ("a.jpg", "a.png", "b.jpg"):
        (tmp_path / name).touch()
    assert [job.overlay.name for job in jobs([tmp_path], tmp_path / "out")] == ["a.jpg.png", "a.png.png", "b.png"]


def test_a_second_call_does_not_take_the_first_ones_results_for_photographs(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    for name in ("a.jpg", "out/a.png", ".hidden.jpg"):
        (tmp_path / name).touch()
    assert [job.photo.name for job in jobs([tmp_path], tmp_path / "out")] == ["a.jpg"]


@pytest.mark.parametrize(
    ("files", "paths", "out", "words"),
    [
        (["a/x.jpg", "b/x.jpg"], ["a", "b"], "out", "would both be written to"),
        (["x.jpg", "x.labels.jpg"], ["."], "out", "would both be written to"),
        (["a/x.png"], ["a", "a/x.png"], "a", "the folder of the photographs"),
        (["a/x.png", "y.png"], ["a/x.png", "y.png"], "a", "is one of the photographs"),
        (["a/notes.txt"], ["a"], "out", "no picture in this folder"),
        (["a/x.jpg", "out"], ["a"], "out", "several photographs need a folder"),
    ],
)
def test_results_are_never_mixed_up(files: list[str], paths: list[str], out: str, words: str, tmp_path: Path) -> None:
    for name in files:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    with pytest.raises(UserError, match=words):
        jobs([tmp_path / path for path in paths], tmp_path / out)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("https://example.org/a.jpg", "nothing is downloaded"),
        ("ftp://example.org/a.jpg", "nothing is downloaded"),
        ("file://example.org/a.jpg", "a file on example.org"),
        ("a\0.jpg", "no zero byte"),
        ("file:///a%00.jpg", "no zero byte"),
    ],
)
def test_what_is_no_file_of_this_machine_is_refused(text: str, words: str) -> None:
    with pytest.raises(UserError, match=words):
        local_path(text)


def test_urls_are_decoded() -> None:
    assert local_path("file:///a%20b/c.jpg") == local_path("file://localhost/a%20b/c.jpg") == Path("/a b/c.jpg")


def predict(project: Project, *options: str) -> tuple[np.ndarray, list[dict[str, object]]]:
    shutil.rmtree(project.root / "out", ignore_errors=True)
    project.succeed("predict", SCENE, *options, "--out", "out/a.png")
    areas = json.loads((project.root / "out/a.json").read_text())["classes"]
    return np.asarray(Image.open(project.root / "out/a.labels.png")), areas


def test_classes_from_a_file_are_those_of_the_command_line(project: Project) -> None:
    project.write("classes.txt", "\ufeff# stuff\nsky\n\n  sofa | couch  \ntree, leafless\n")
    labels, areas = predict(project, "--classes-file", "classes.txt")
    assert [area["name"] for area in areas] == ["sky", "sofa", "tree, leafless"]
    assert labels.max() < 3


def test_classes_of_a_dataset_have_its_labels(project: Project) -> None:
    labels, areas = predict(project, "--vocabulary", "a-150")
    assert [area["name"] for area in areas] == [entry.name for entry in class_table("a-150")]
    assert [area["pixels"] for area in areas] == np.bincount(labels.ravel(), minlength=150).tolist()


def test_confidence_and_background_are_reported(project: Project) -> None:
    """Of three equal classes none can be surer than 1; a threshold of 1 leaves background alone."""
    _, areas = predict(project, "--classes", "sky, tree, dog", "--prompt", "a drawing of a {}")
    for area in areas:
        assert area["confidence"] is None if area["pixels"] == 0 else 1 / 3 <= area["confidence"] <= 1  # type: ignore[operator]
    labels, areas = predict(project, "--classes", "sky, tree, dog", "--background", "1")
    assert areas[-1]["name"] == "background"
    assert areas[-1]["pixels"] == int((labels == 3).sum()) > 0.9 * labels.size


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ((), ["exactly one of --classes"]),
        (("--classes", "sky", "--vocabulary", "a-150"), ["exactly one of --classes"]),
        (("--vocabulary", "a-151"), ["'a-151' is unknown", "a-150"]),
        (("--vocabulary", "../a-150"), ["is unknown"]),
        (("--classes-file", "gone.txt"), ["gone.txt: no such file"]),
        (("--classes-file", "params"), ["params: cannot be read", "text file"]),
        (("--classes-file", SCENE), ["not text in UTF-8"]),
        (("--classes", "sky", "--prompt", "no place"), ["--prompt", "exactly one {}"]),
        (("--classes", "sky", "--background", "1.5"), ["--background: 1.5"]),
        (("--classes", "sky", "--run", "ffffff"), ["run 'ffffff'"]),
    ],
)
def test_a_mistake_is_found_before_a_model_runs(options: tuple[str, ...], words: list[str], project: Project) -> None:
    assert_says(project.refusal("predict", SCENE, *options, "--out", "out/a.png"), *words)
