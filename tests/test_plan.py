"""The plan: which trainings and evaluations the paper's tables need, and what their identities depend on."""

import shutil
from collections import Counter
from pathlib import Path

import pytest
import yaml

from fgaseg.errors import UserError
from fgaseg.identity import eval_id, run_id
from fgaseg.plan import Plan
from fgaseg.provenance import code_fingerprint

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module", params=["sample", "paper"])
def plan(request: pytest.FixtureRequest) -> Plan:
    return Plan(ROOT, request.param)


@pytest.fixture
def params_copy(tmp_path: Path) -> Path:
    shutil.copytree(ROOT / "params", tmp_path / "params")
    shutil.copy(ROOT / "data.dvc", tmp_path)
    return tmp_path


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def test_45_trained_rows_need_37_trainings(plan: Plan) -> None:
    trained = [row for row in plan.rows if row.run_id and row.published and row.table != "table_6"]
    assert len(trained) == 45
    assert len({row.run_id for row in trained}) == 37


def test_target_all_needs_exactly_the_papers_trainings_and_fidelity_its_own(plan: Plan) -> None:
    paper, fidelity = plan.evaluations_of("all").values(), plan.evaluations_of("fidelity").values()
    runs = {row.run_id for row in paper if row.run_id}
    assert (len(runs), len(paper)) == (37, 44)
    assert len({row.run_id for row in fidelity} - runs) == 6
    assert plan.runs.keys() == runs | {row.run_id for row in fidelity}
    assert plan.evaluations_of("main").keys() == {row.eval_id for row in plan.main_rows}


def test_a_scope_shows_the_tables_of_its_target(plan: Plan) -> None:
    assert [table.key for table in plan.tables_of("main")] == ["table_1"]
    assert [table.key for table in plan.tables_of("fidelity")] == ["fidelity"]
    papers = [f"table_{key}" for key in ("1", "2", "3a", "3b", "3c", "3d", "4a", "4b", "5", "6", "7")]
    assert [table.key for table in plan.tables_of("all")] == papers


def test_both_residuals_are_rows_of_fidelity_and_one_is_the_default(plan: Plan) -> None:
    rows = {row.params.vlm.dense_residual: row for row in plan.tables["fidelity"].rows if "residual" in row.description}
    assert rows.keys() == {"class_token", "own"}
    assert [plan.is_default(row) for row in rows.values()].count(True) == 1


def test_the_reference_is_the_default_model_unless_the_table_or_row_names_another(plan: Plan) -> None:
    numbers = {key: [plan.reference(row).number for row in table.rows] for key, table in plan.tables.items()}
    assert numbers["table_2"] == [4, 4, 4, 4]
    assert numbers["table_3a"] == [1, 1]
    assert numbers["table_6"] == [5] * 5
    assert numbers["fidelity"] == [1] * 8 + [8]


def test_a_table_without_the_default_model_refers_to_table_1(params_copy: Path) -> None:
    edit(params_copy / "params" / "tables" / "table_3a.yaml", "reference: 1\n", "")
    plan = Plan(params_copy, "sample")
    assert plan.reference(plan.tables["table_3a"].rows[0]) == plan.default_row


def test_seeds_add_trainings_that_differ_in_the_seed_alone(params_copy: Path) -> None:
    before = Plan(params_copy, "sample")
    edit(params_copy / "params" / "tables" / "table_4b.yaml", "normalisation: none}", "normalisation: none}\n    seeds: 3")
    after = Plan(params_copy, "sample")
    row = after.tables["table_4b"].rows[0]
    assert (row.run_id, row.eval_id) == (before.tables["table_4b"].rows[0].run_id, before.tables["table_4b"].rows[0].eval_id)
    assert (row.replicas[0].run_id, row.replicas[0].eval_id) == (row.run_id, row.eval_id)
    assert [replica.params.training.seed for replica in row.replicas] == [0, 1, 2]
    assert after.runs.keys() - before.runs.keys() == {replica.run_id for replica in row.replicas[1:]}
    for replica in row.replicas:
        assert run_id(replica.params, after.digest) == replica.run_id
        found = after.evaluations[replica.eval_id]
        assert (found.run_id, found.params) == (replica.run_id, replica.params)
    assert "seed: 2" in after.evaluations[row.replicas[2].eval_id].name


@pytest.mark.parametrize(
    ("file", "old", "new", "message"),
    [
        (
            "table_2",
            "rows:",
            "target: sometimes\nrows:",
            "table_2.yaml: target: 'sometimes' is unknown; choose all or fidelity",
        ),
        ("table_4b", "set:", "seeds: 0\n    set:", "table_4b.yaml, row 1: seeds: a whole number from 1 on is expected, got 0"),
        ("table_4b", "set:", "seeds: two\n    set:", "table_4b.yaml, row 1: seeds: .* got 'two'"),
        ("table_1", "method: dense_clip", "method: dense_clip\n    seeds: 2", "table_1.yaml, row 1: seeds: 2, but dense_clip"),
        ("table_4b", "set:", "reference: 3\n    set:", "table_4b.yaml, row 1: reference: a whole number from 1 to 2"),
        ("table_3a", "reference: 1", "reference: null", "table_3a.yaml: reference: .* got None"),
        ("table_4b", "{model.lcs", "{data.benchmarks: [a-150], model.lcs", "table_4b.yaml, row 1: data.benchmarks: all rows"),
    ],
)
def test_mistakes_in_a_table_are_named_with_file_and_row(
    params_copy: Path, file: str, old: str, new: str, message: str
) -> None:
    edit(params_copy / "params" / "tables" / f"{file}.yaml", old, new)
    with pytest.raises(UserError, match=message):
        Plan(params_copy, "sample")


def test_the_fingerprint_of_the_code_changes_with_what_decides_results_alone(tmp_path: Path) -> None:
    package = tmp_path / "fgaseg"
    shutil.copytree(ROOT / "fgaseg", package)
    before = code_fingerprint(package)
    (package / "reporting" / "tables.py").write_text("")
    (package / "model" / "notes.md").write_text("")
    code_fingerprint.cache_clear()
    assert code_fingerprint(package) == before == code_fingerprint()
    for name in ("model/decoder.py", "loading.py", "data/classes/pas-20.csv"):
        assert (package / name).exists()
        (package / name).write_text("")
        code_fingerprint.cache_clear()
        changed = code_fingerprint(package)
        assert changed != before
        before = changed


def test_table_6_is_five_evaluations_of_one_training_of_table_5(plan: Plan) -> None:
    rows = plan.tables["table_6"].rows
    assert [row.params.evaluation.top_n for row in rows] == [1, 4, 8, 16, 32]
    assert len({row.run_id for row in rows}) == 1
    fast_cat = plan.tables["table_5"].rows[0]
    assert fast_cat.label == {"fast": "yes", "fusion": "cat"}
    assert rows[0].run_id == fast_cat.run_id
    assert len({row.eval_id for row in (*rows, fast_cat)}) == 6


def test_evaluations_are_one_a_training_five_of_table_6_and_dense_clip_of_each_backbone(plan: Plan) -> None:
    papers = {row.eval_id: row.method for row in plan.rows if row.published or row.method == "dense_clip"}
    assert Counter(papers.values()) == {"fgaseg": 37 + 5, "dense_clip": 2}


def test_the_default_row_recurs_in_nine_tables(plan: Plan) -> None:
    default = plan.default_row.run_id
    tables = [row.table for row in plan.rows if row.run_id == default and row.published]
    assert tables == [f"table_{t}" for t in ("1", "2", "3b", "3c", "3d", "4a", "4b", "5", "7")]


def test_table_1_has_the_papers_28_rows(plan: Plan) -> None:
    table = plan.tables["table_1"]
    ours = [row for row in table.rows if row.published]
    assert len(table.others) + len(ours) == 28
    assert ours[0].published == (12.0, 19.0, 31.4, 57.5, 95.2)
    assert ours[1].published == (16.3, 23.9, 37.9, 63.4, 97.1)


def test_paper_scale_holds_the_papers_hyperparameters() -> None:
    p = Plan(ROOT, "paper").default
    t, e, m = p.training, p.evaluation, p.model
    assert (t.iterations, t.global_batch, t.lr, t.weight_decay, t.max_norm) == (80_000, 8, 2e-4, 1e-4, 0.01)
    assert (t.clip_lr_multiplier, t.validate_every, t.loss, t.schedule) == (0.01, 5000, "ce", "cosine")
    assert (t.augmentation.short_edges, t.augmentation.crop, t.augmentation.pad_value) == ((384,), 384, 128)
    assert t.augmentation.colour_jitter
    assert t.augmentation.flip
    assert (e.resize, e.window, e.stride, e.whole_image) == (640, 384, 256, True)
    assert (m.t2p.weight, m.t2p.loss, m.hidden_dim, m.propagation.class_cap) == (0.02, "mse", 128, 256)
    assert (m.p2tformer.layers, m.p2tformer.heads, m.p2tformer.gamma, m.p2tformer.gamma_init) == (1, 8, "trainable", 0.1)
    assert (m.lcs.kernel_size, m.lcs.normalisation, m.fusion) == (3, "channels", "cat")
    assert (p.vlm.image_size, p.vlm.guidance_layers, p.vlm.finetune) == (384, (3, 7), "attention")
    large = Plan(ROOT, "paper").tables["table_1"].rows[3].params.vlm
    assert (large.architecture, large.image_size, large.guidance_layers) == ("ViT-L-14-336-quickgelu", 336, (7, 15))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("lr: 2.0e-4", "lr: 3.0e-4"),
        ("seed: 0", "seed: 1"),
        ("weight: 0.02", "weight: 0.03"),
        ("iterations: 80000", "iterations: 80001"),
        ("training: 2 ", "training: 3 "),
    ],
)
def test_a_parameter_that_changes_weights_changes_the_run(params_copy: Path, old: str, new: str) -> None:
    before = Plan(params_copy, "paper").default_row.run_id
    base = params_copy / "params" / "base.yaml"
    base.write_text(base.read_text().replace("  training: 2", "  training: 2 "))
    edit(base, old, new)
    assert Plan(params_copy, "paper").default_row.run_id != before


@pytest.mark.parametrize(("old", "new"), [("threads: 1", "threads: 2"), ("tracking_uri: null", "tracking_uri: http://x")])
def test_launch_settings_change_no_identity(params_copy: Path, old: str, new: str) -> None:
    before = Plan(params_copy, "sample").default_row
    edit(params_copy / "params" / "launch.yaml", old, new)
    after = Plan(params_copy, "sample").default_row
    assert (after.run_id, after.eval_id) == (before.run_id, before.eval_id)


@pytest.mark.parametrize(("old", "new"), [("panels: 1 ", "panels: 3 "), ("validate_every: 5000", "validate_every: 500")])
def test_what_is_only_looked_at_changes_no_identity(params_copy: Path, old: str, new: str) -> None:
    before = Plan(params_copy, "paper").default_row
    edit(params_copy / "params" / "base.yaml", old, new)
    after = Plan(params_copy, "paper").default_row
    assert (after.run_id, after.eval_id) == (before.run_id, before.eval_id)


def test_further_rows_in_table_1_leave_the_main_job_alone(params_copy: Path) -> None:
    path = params_copy / "params" / "tables" / "table_1.yaml"
    path.write_text(path.read_text() + "  - label: {method: FGAseg, backbone: other seed}\n    set: {training.seed: 7}\n")
    rows = Plan(params_copy, "sample").main_rows
    assert [(row.method, row.number) for row in rows] == [("dense_clip", 1), ("fgaseg", 2)]


def test_an_evaluation_parameter_changes_the_evaluation_alone(params_copy: Path) -> None:
    before = Plan(params_copy, "paper").default_row
    edit(params_copy / "params" / "base.yaml", "whole_image: true ", "whole_image: false")
    after = Plan(params_copy, "paper").default_row
    assert after.run_id == before.run_id
    assert after.eval_id != before.eval_id


def test_other_data_change_every_identity() -> None:
    params = Plan(ROOT, "sample").default
    assert run_id(params, "a") != run_id(params, "b")
    assert eval_id(params, "dense_clip", "a") != eval_id(params, "dense_clip", "b")


def test_a_new_row_adds_exactly_one_training(params_copy: Path) -> None:
    before = set(Plan(params_copy, "sample").runs)
    path = params_copy / "params" / "tables" / "table_3d.yaml"
    path.write_text(path.read_text() + "  - label: {weight: '0.1'}\n    set: {model.t2p.weight: 0.123}\n")
    after = set(Plan(params_copy, "sample").runs)
    assert before < after
    assert len(after - before) == 1


def test_published_numbers_change_no_identity(params_copy: Path) -> None:
    before = {row.name: row.run_id for row in Plan(params_copy, "paper").rows}
    for path in (params_copy / "params" / "tables").glob("*.yaml"):
        content = yaml.safe_load(path.read_text())
        for row in content["rows"]:
            row.pop("published", None)
        path.write_text(yaml.safe_dump(content, sort_keys=False))
    assert {row.name: row.run_id for row in Plan(params_copy, "paper").rows} == before


@pytest.mark.parametrize("file", ["data.dvc", "data/paper.dvc"])
def test_the_digest_is_that_of_the_file_of_dvc_that_tracks_the_data(params_copy: Path, file: str) -> None:
    assert Plan(params_copy, "paper").digest == "untracked"
    (params_copy / "data").mkdir()
    path = "data/paper" if file == "data.dvc" else "paper"
    (params_copy / file).write_text(f"outs:\n- md5: abc.dir\n  path: {path}\n")
    assert Plan(params_copy, "paper").digest == "abc.dir"


def test_a_further_backbone_leaves_the_weights_of_the_others_where_they_are(params_copy: Path) -> None:
    before = Plan(params_copy, "sample").paths
    small = "    label: mini/12\n    architecture: fgaseg-mini\n    pretrained: other.safetensors\n"
    edit(
        params_copy / "params" / "scale" / "sample.yaml",
        "backbones:\n",
        f"backbones:\n  huge:\n{small}    image_size: 96\n    guidance_layers: [0, 2]\n",
    )
    after = Plan(params_copy, "sample").paths
    assert after.vlm("base") == before.vlm("base")
    assert after.vlm("huge").name.removeprefix("huge") != before.vlm("base").name.removeprefix("base")


def test_rows_are_timed_where_they_differ_in_top_n_alone(params_copy: Path) -> None:
    path = params_copy / "params" / "tables" / "table_6.yaml"
    assert [table.key for table in Plan(params_copy, "sample").tables_of("all") if table.timed] == ["table_6"]
    text = path.read_text()
    row = "  - label: {N: '8, denser'}\n    set: {model.decoder.fast: true, evaluation.top_n: 8, evaluation.stride: 33}\n"
    path.write_text(text + row)
    assert not Plan(params_copy, "sample").tables["table_6"].timed


@pytest.mark.parametrize("method", ["dense_clip", "fgaseg"])
def test_table_1_must_hold_both_rows_of_the_main_job(params_copy: Path, method: str) -> None:
    path = params_copy / "params" / "tables" / "table_1.yaml"
    content = yaml.safe_load(path.read_text())
    content["rows"] = [row for row in content["rows"] if row.get("method", "fgaseg") != method]
    path.write_text(yaml.safe_dump(content))
    with pytest.raises(UserError, match=f"table_1.yaml: a row with method: {method} .* is missing"):
        Plan(params_copy, "sample")


@pytest.mark.parametrize("others", [None, [{"method": "SAN"}]])
def test_published_rows_of_others_must_be_complete(params_copy: Path, others: object) -> None:
    path = params_copy / "params" / "tables" / "table_1.yaml"
    path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | {"others": others}))
    with pytest.raises(UserError, match=r"table_1.yaml: others: a list of rows is expected, each with backbone, group, method"):
        Plan(params_copy, "sample")
