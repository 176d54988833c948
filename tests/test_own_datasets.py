"""A user's own dataset: one file makes it a benchmark or a training set; a mistake in it is one line with file and key."""

import json
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image
from project import Project

from fgaseg.costs import images
from fgaseg.data.prepare import prepare
from fgaseg.data.raw import raw_dataset
from fgaseg.errors import UserError
from fgaseg.plan import Plan

ROOT = Path(__file__).parents[1]
FOLDERS = {"images": "harbour/images", "labels": "harbour/labels"}
HARBOUR: dict[str, Any] = {"role": "benchmark", **FOLDERS, "classes": {1: "sky", 2: ["sea", "ocean"], 7: "boat"}, "void": 0}
YARD: dict[str, Any] = {"role": "training", **FOLDERS, "classes": ["sky", "sea", "boat"], "void": [255]}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    shutil.copytree(ROOT / "params", tmp_path / "params")
    shutil.copy(ROOT / "data.dvc", tmp_path)
    return tmp_path


def describe(root: Path, name: str, content: Mapping[str, Any] | str) -> None:
    path = root / "params" / "datasets" / f"{name}.yaml"
    path.parent.mkdir(exist_ok=True)
    path.write_text(content if isinstance(content, str) else yaml.safe_dump(dict(content), sort_keys=False))


def draw(root: Path, ids: list[int], dtype: type = np.uint8) -> None:
    """Two photographs and their labels, which show all of `ids`."""
    pixels = np.resize(np.array(ids, dtype), (40, 60))
    for i in range(2):
        for key, suffix in (("images", "jpg"), ("labels", "png")):
            path = root / FOLDERS[key] / f"{i}.{suffix}"
            path.parent.mkdir(parents=True, exist_ok=True)
            image = Image.fromarray(pixels) if key == "labels" else Image.new("RGB", (60, 40), (80, 120, 200))
            image.save(path)


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert text.count(old) == 1
    path.write_text(text.replace(old, new))


def test_it_joins_the_benchmarks_of_every_row_and_no_training_changes(root: Path) -> None:
    before = Plan(root, "sample")
    describe(root, "harbour", HARBOUR)
    after = Plan(root, "sample")
    assert after.runs.keys() == before.runs.keys()
    assert after.default.data.benchmarks == (*before.default.data.benchmarks, "harbour")
    assert all(row.params.data.benchmarks[-1] == "harbour" for row in after.rows)
    assert not after.evaluations.keys() & before.evaluations.keys()
    for row in after.tables["table_1"].rows:
        assert not row.published or row.published == (*row.published[:5], None)
    assert all(len(other["published"]) == 6 for other in after.tables["table_1"].others)


def test_a_training_set_changes_no_identity_until_a_row_names_it(root: Path) -> None:
    before = Plan(root, "sample")
    describe(root, "yard", YARD)
    after = Plan(root, "sample")
    assert (after.runs.keys(), after.evaluations.keys()) == (before.runs.keys(), before.evaluations.keys())
    table = root / "params" / "tables" / "table_3d.yaml"
    row = "  - label: {weight: yard}\n    set: {data.train: yard, data.validation: yard}\n"
    table.write_text(table.read_text() + row)
    added = Plan(root, "sample")
    assert len(added.runs.keys() - before.runs.keys()) == 1
    assert before.runs.keys() < added.runs.keys()


@pytest.mark.parametrize("change", [{"void": [255, 3]}, {"classes": ["sky", "sea", "ship"]}, {"images": "harbour/others"}])
def test_its_identity_follows_its_description(root: Path, change: dict[str, Any]) -> None:
    describe(root, "yard", YARD)
    before = Plan(root, "sample").paths.dataset("yard")
    describe(root, "yard", YARD | change)
    assert Plan(root, "sample").paths.dataset("yard") != before


def test_its_identity_follows_the_digest_of_its_folder(root: Path) -> None:
    describe(root, "yard", YARD)
    before = Plan(root, "sample").paths.dataset("yard")
    (root / "harbour.dvc").write_text("outs:\n- md5: 0123.dir\n  path: harbour\n")
    assert Plan(root, "sample").paths.dataset("yard") != before


def test_it_may_be_of_one_scale_alone(root: Path) -> None:
    describe(root, "harbour", HARBOUR | {"scales": ["paper"]})
    assert "harbour" in Plan(root, "paper").default.data.benchmarks
    assert "harbour" not in Plan(root, "sample").datasets


@pytest.mark.parametrize(("ids", "dtype"), [([0, 1, 2, 7], np.uint8), ([0, 1, 2, 7], np.uint16)])
def test_its_ids_become_positions_in_its_table(root: Path, ids: list[int], dtype: type) -> None:
    describe(root, "harbour", HARBOUR)
    draw(root, ids, dtype)
    plan = Plan(root, "sample")
    assert images(plan, "harbour") == 2
    raw, where = raw_dataset(plan.find_dataset("harbour"), root, "data/sample")
    prepare(raw, where, root / "out")
    labels = np.asarray(Image.open(root / "out" / "labels" / "0.png"))
    assert labels[0, :4].tolist() == [255, 0, 1, 2]
    classes = json.loads((root / "out" / "classes.json").read_text())
    assert [(c["name"], c["synonyms"], c["raw_id"]) for c in classes] == [
        ("sky", [], 1),
        ("sea", ["ocean"], 2),
        ("boat", [], 7),
    ]


def test_its_table_may_be_a_file_or_a_known_one(root: Path) -> None:
    (root / "classes.csv").write_text("raw_id,name,synonyms\n4,sky,\n9,sea,ocean|water\n")
    describe(root, "harbour", HARBOUR | {"classes": "classes.csv"})
    describe(root, "quay", HARBOUR | {"classes": "a-150"})
    plan = Plan(root, "sample")
    table, known = (raw_dataset(plan.find_dataset(name), root, "")[0].table for name in ("harbour", "quay"))
    assert [(e.raw_id, *e.all_names()) for e in table] == [(4, "sky"), (9, "sea", "ocean", "water")]
    assert len(known) == 150


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (HARBOUR | {"role": "test"}, "harbour.yaml: role: 'test' is unknown; choose benchmark or training"),
        (HARBOUR | {"label": "x"}, "harbour.yaml: unknown key 'label'; did you mean 'labels'?"),
        ({k: v for k, v in HARBOUR.items() if k != "images"}, "harbour.yaml: images: is missing; write it with a value"),
        (HARBOUR | {"images": 3}, "harbour.yaml: images: a folder is expected, got 3"),
        (HARBOUR | {"classes": {"sky": 1}}, "harbour.yaml: classes: sky: is no id; write `id: name`"),
        (HARBOUR | {"classes": {1: "sky", 2: "sky"}}, "classes: 'sky' is there twice, with the ids 1 and 2"),
        (HARBOUR | {"classes": {1: 5}}, "harbour.yaml: classes: 1: 5 is no name"),
        (HARBOUR | {"classes": []}, "harbour.yaml: classes: no class is there"),
        (HARBOUR | {"classes": "none.csv"}, "harbour.yaml: classes: none.csv: cannot be read"),
        (HARBOUR | {"void": [2]}, "harbour.yaml: void: 2 is the id of the class 'sea' too"),
        (HARBOUR | {"void": "none"}, "harbour.yaml: void: an id, or a list of ids, is expected, got 'none'"),
        (HARBOUR | {"short_side": 0}, "harbour.yaml: short_side: a whole number of pixels from 1 on is expected, got 0"),
        (HARBOUR | {"scales": ["large"]}, "harbour.yaml: scales: ['large']: a list of sample and paper is expected"),
        ("role: [", "harbour.yaml, line 1: not valid YAML"),
        ("role: training\nrole: benchmark\n", "the key 'role' is there twice"),
    ],
)
def test_a_mistake_is_one_line_with_file_and_key(root: Path, content: dict[str, Any] | str, message: str) -> None:
    describe(root, "harbour", content)
    with pytest.raises(UserError) as caught:
        Plan(root, "sample")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("name", "message"), [("a-150", "name of a known dataset"), ("My Set", "rename the file")])
def test_its_name_is_its_own(root: Path, name: str, message: str) -> None:
    describe(root, name, HARBOUR)
    with pytest.raises(UserError, match=message):
        Plan(root, "sample")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("train: coco-stuff-train ", "train: yard ", "data.validation: 'coco-stuff-val' has other classes than data.train"),
        ("train: coco-stuff-train ", "train: meadow ", "data.train: 'meadow' is unknown; known are .*yard"),
        ("[a-847, ", "[a-846, ", "data.benchmarks: 'a-846' is unknown; known are a-150"),
    ],
)
def test_parameters_name_datasets_that_exist(root: Path, old: str, new: str, message: str) -> None:
    describe(root, "yard", YARD)
    edit(root / "params" / "base.yaml", old, new)
    with pytest.raises(UserError, match=message):
        Plan(root, "sample")


@pytest.mark.parametrize(
    ("ids", "message"), [([1, 3], "label id 3 is outside the table of harbour (those of its classes and 0 may occur)")]
)
def test_an_id_that_is_neither_a_class_nor_void_is_named(root: Path, ids: list[int], message: str) -> None:
    describe(root, "harbour", HARBOUR)
    draw(root, ids)
    raw, where = raw_dataset(Plan(root, "sample").find_dataset("harbour"), root, "data/sample")
    with pytest.raises(UserError) as caught:
        prepare(raw, where, root / "out")
    assert message in str(caught.value)


def test_a_folder_that_is_missing_is_named_with_file_and_key(root: Path) -> None:
    describe(root, "harbour", HARBOUR)
    raw, where = raw_dataset(Plan(root, "sample").find_dataset("harbour"), root, "data/sample")
    with pytest.raises(UserError, match=r"harbour\.yaml: images: harbour/images is no folder"):
        prepare(raw, where, root / "out")


@pytest.mark.slow
def test_all_tables_and_figures_show_it(project: Project) -> None:
    """From its file to the report, by the commands that a person types."""
    describe(project.root, "harbour", HARBOUR)
    draw(project.root, [0, 1, 2, 7])
    project.succeed("prepare", "harbour")
    for row in (1, 2):
        project.succeed("evaluate", project.ids("table_1", row)[1])
    project.succeed("report", "--scope", "main", "--quiet")
    report = project.results / "report" / "main"
    assert "HARBOUR" in (report / "table_1.txt").read_text()
    assert '"harbour"' in (report / "metrics.json").read_text()
    assert "harbour" in (report / "report.html").read_text().lower()


@pytest.mark.slow
def test_a_row_trains_on_it(project: Project) -> None:
    """A row that names it is trained and evaluated like any other, and what it has shown counts as seen."""
    describe(project.root, "yard", YARD)
    draw(project.root, [0, 1, 2, 255])
    row = "  - label: {weight: yard}\n    set: {data.train: yard, data.validation: yard}\n"
    table = "params/tables/table_3d.yaml"
    project.write(table, (project.root / table).read_text() + row)
    number = len(Plan(project.root, "sample").tables["table_3d"].rows)
    run, evaluation = project.ids("table_3d", number)
    project.succeed("prepare", "yard")
    project.succeed("train", run)
    project.succeed("evaluate", evaluation)
    result = json.loads((project.results / "evaluations" / evaluation / "evaluation.json").read_text())
    seen = {c["name"] for c in result["benchmarks"]["a-150"]["classes"] if c["seen"]}
    assert {"sky", "boat", "sea"} <= seen
    assert "tree" not in seen


def test_the_workflow_prepares_it(project: Project) -> None:
    describe(project.root, "harbour", HARBOUR)
    planned = subprocess.run(
        [Path(sys.executable).parent / "snakemake", "-n", "--quiet", "host", "--", "main"],
        cwd=project.root, capture_output=True, text=True, check=True,
    )  # fmt: skip
    text = planned.stdout + planned.stderr
    assert "preparing harbour" in text
    assert "training " not in text
