"""A mistake in params/ or on the command line gives one line that says where it is and what to write."""

from collections import Counter
from pathlib import Path

import pytest
from project import Project, assert_says

from fgaseg.plan import Plan

PHOTO = "data/sample/VOCdevkit/VOC2012/JPEGImages/2007_000042.jpg"
SCALE = "params/scale/sample.yaml"
ROW = ("params/tables/table_7.yaml", "set: {vlm.finetune: full}")
PREDICT = ("predict", PHOTO, "--classes", "sky, tree", "--out", "out/overlay.png")


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
        (SCALE, "training.lr: 3.0e-3", "training.lr: fast", [SCALE, "training.lr", "number", "'fast'"]),
        (SCALE, "vlm.dense_residual: own", "vlm.dense_residual: none", [SCALE, "vlm.dense_residual", "'class_token' or 'own'"]),
        (SCALE, "label: mini/12\n", "name: mini/12\n", [SCALE, "backbones.base", "unknown parameter 'name'", "label"]),
        (SCALE, "[0, 2]\n  large:", "[2, 2]\n  large:", [SCALE, "guidance_layers", "2, 2", "two different"]),
        (SCALE, "[0, 2]\n  large:", "[-1, 2]\n  large:", [SCALE, "guidance_layers", "-1, 2", "from 0"]),
        (*ROW, "set: {vlm.prompts: ['a {kind} of a {}']}", ["table_7.yaml, row 3", "vlm.prompts", "{kind}", "no other braces"]),
        (
            *ROW,
            "set: {model.decoder.guidance_channels: [32, 8]}",
            ["table_7.yaml, row 3", "guidance_channels[0]: 32", "model.hidden_dim (32)", "fewer"],
        ),
        (
            "params/tables/table_1.yaml",
            "[null, null, null, 24.3, 18.3]",
            "[1, null, null, null, 24.3, 18.3]",
            ["table_1.yaml, others 1", "6 numbers for 5"],
        ),
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


def test_a_launch_setting_has_a_value_for_each_scale(project: Project, run: str) -> None:
    project.edit("params/launch.yaml", "recompute: {sample: false, paper: false}", "recompute: {paper: true}")
    assert_says(project.refusal("train", Path(run).name), "params/launch.yaml", "'recompute.sample' is missing")


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
