"""`fgaseg show`: the plan, a table, and all about one row, from real parameters and made-up evaluations."""

import re
import shutil
from pathlib import Path

import pytest
import yaml
from fabricated import origin, write_evaluation

from fgaseg.errors import UserError
from fgaseg.identity import eval_id, run_id
from fgaseg.plan import Plan
from fgaseg.provenance import code_fingerprint
from fgaseg.reporting.results import Evaluations
from fgaseg.schema import Revision
from fgaseg.show import show

PROJECT = Path(__file__).parents[1]


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    """The project's plan without results; the second row of Table IV (b) has two seeds."""
    shutil.copytree(PROJECT / "params", tmp_path / "params")
    path = tmp_path / "params" / "tables" / "table_4b.yaml"
    path.write_text(path.read_text().replace("normalised: 'yes'}", "normalised: 'yes'}\n    seeds: 2"))
    return Plan(tmp_path, "sample")


def test_without_arguments_every_table_has_a_line(plan: Plan) -> None:
    text = show(plan)
    for key, table in plan.tables.items():
        assert re.search(rf"^{key} +{len(table.rows)} +0  ", text, re.MULTILINE)
    assert f"{len(plan.runs)} trainings (0 done), {len(plan.evaluations)} evaluations" in text
    assert "target `all` alone: 38 trainings, 45 evaluations" in text


def test_a_table_lists_the_ids_and_state_of_every_seed(plan: Plan) -> None:
    rows = plan.tables["table_4b"].rows
    write_evaluation(plan, rows[1].replicas[1], 0.4)
    lines = [line.split() for line in show(plan, "table_4b").splitlines()]
    first, second = rows[1].replicas
    assert ["1", rows[0].run_id, rows[0].eval_id, "missing", "normalised:", "no"] in lines
    assert ["2", first.run_id, first.eval_id, "missing", "normalised:", "yes"] in lines
    assert [second.run_id, second.eval_id, "done", "seed", "1"] in lines


def test_a_row_is_begun_once_a_training_of_it_is_and_done_with_the_evaluations_of_all_its_seeds(plan: Plan) -> None:
    row = plan.tables["table_4b"].rows[1]
    first, second = row.replicas
    assert plan.state(row) == "missing"
    write_evaluation(plan, first, 0.4)
    assert (plan.state(first), plan.state(second), plan.state(row)) == ("done", "missing", "missing")
    assert second.run_id is not None
    folder = plan.paths.run(second.run_id)
    folder.mkdir(parents=True)
    assert plan.state(second) == "missing"  # a folder alone is no training
    (folder / "metrics.jsonl").touch()
    assert (plan.state(second), plan.state(row)) == ("begun", "begun")
    write_evaluation(plan, second, 0.4)
    assert (plan.state(second), plan.state(row)) == ("done", "done")


def test_a_row_shows_all_parameters_and_marks_the_changed_ones(plan: Plan) -> None:
    row = plan.tables["table_2"].rows[0]
    text = show(plan, "table_2", 1)
    parameters = text.split("parameters:\n")[1]
    assert yaml.safe_load(parameters) == row.params.model_dump(mode="json")
    marked = [" ".join(line.split()) for line in parameters.splitlines() if "# changed" in line]
    assert marked == [
        "layers: 0 # changed, default: 1",
        "weight: 0.0 # changed, default: 0.02",
        "enabled: false # changed, default: true",
    ]


def test_a_row_names_all_rows_that_share_its_training_and_its_evaluation(plan: Plan) -> None:
    row = plan.tables["table_6"].rows[2]
    training, evaluation, against = show(plan, "table_6", 3).splitlines()[1:4]
    assert all(
        name in training for name in ("table_5, row 1 (fast: yes, fusion: cat)", "table_6, row 1 (N: 1)", "fidelity, row 8")
    )
    assert evaluation == "rows of this evaluation: table_6, row 3 (N: 8)"
    assert against == "differences are taken against: table_6, row 5 (N: 32)"
    assert f"results/sample/runs/{row.run_id}" in show(plan, "table_6", 3)


def test_an_evaluated_row_shows_scores_and_what_made_it(plan: Plan) -> None:
    row = plan.tables["table_7"].rows[2]
    write_evaluation(plan, row, 0.4, training=origin(plan, git_commit="abc", code="0ld", packages={"torch": "9.9"}))
    text = show(plan, "table_7", 3)
    assert re.search(r"trained by +commit +abc\n +code +0ld\n.*\n.*\n +packages +torch 9\.9\n", text)
    made_by = rf"{'0' * 40}\n +code +{code_fingerprint()}\n +data +untracked\n +revision +training 2, evaluation 1"
    assert re.search(rf"evaluated by +commit +{made_by}", text)
    assert re.search(r"mIoU +a-847 \d\d\.\d, .*mean \d\d\.\d\n", text)
    assert "seed 0: done; made by other code than the present one, same revision\n" in text


def test_a_row_of_the_present_code_has_no_remark(plan: Plan) -> None:
    write_evaluation(plan, plan.default_row, 0.4)
    assert "seed 0: done\n" in show(plan, "table_1", 2)


def test_a_stale_result_is_named(plan: Plan) -> None:
    row = plan.tables["table_7"].rows[2]
    write_evaluation(plan, row, 0.4, training=origin(plan, data_digest="other"))
    text = show(plan, "table_7", 3)
    assert "seed 0: done; what follows is stale, of another revision or other data\n" in text
    assert re.search(rf"stale evaluation +{row.eval_id} +results/sample/evaluations/{row.eval_id}\n", text)


@pytest.mark.parametrize("again", [False, True])
@pytest.mark.parametrize("kind", ["run", "evaluation"])
def test_a_stale_evaluation_is_found_by_ids_of_its_own(plan: Plan, kind: str, again: bool) -> None:
    """Also when the row has been evaluated again since."""
    row = plan.tables["table_7"].rows[2]
    older = row.params.model_copy(update={"revision": Revision(training=0, evaluation=1)})
    ids = {"run": run_id(older, plan.digest), "evaluation": eval_id(older, "fgaseg", plan.digest)}
    made = origin(plan, revision={"training": 0, "evaluation": 1}, git_commit="01d")
    write_evaluation(plan, row, 0.7, folder=ids["evaluation"], run_id=ids["run"], provenance=made, training=made)
    if again:
        write_evaluation(plan, row, 0.4)
    assert Evaluations(plan).stale_with(row.eval_id) == []
    text = show(plan, ids[kind][:9])
    assert text.startswith("Table VII: ")
    assert f"seed 0: {'done' if again else 'missing'}; what follows is stale" in text
    assert re.search(
        rf"stale run +{ids['run']} .*\n +stale evaluation +{ids['evaluation']} .*\n +trained by +commit +01d", text
    )
    assert re.search(rf"  evaluation +{row.eval_id} ", text)


@pytest.mark.parametrize("kind", ["run_id", "eval_id"])
def test_an_id_finds_its_row_and_so_does_its_beginning(plan: Plan, kind: str) -> None:
    single = plan.tables["table_4b"].rows[1].single[1]
    wanted = getattr(single, kind)
    assert show(plan, wanted) == show(plan, wanted[:9])
    assert show(plan, wanted).startswith("Table IV (b): kernel normalisation of LCS, row 2: normalised: yes, seed: 1\n")
    assert "seed 1: missing" in show(plan, wanted)


def test_a_run_with_several_evaluations_shows_each(plan: Plan) -> None:
    row = plan.tables["table_6"].rows[0]
    text = show(plan, row.run_id)
    assert text.count("\nparameters:\n") == 6
    assert all(other.eval_id in text for other in plan.tables["table_6"].rows)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ("table_9",),
            "'table_9' is no table, and no planned run or evaluation, nor a stale one, has this id; .*table_1, table_2",
        ),
        (("table_2", 5), "table_2: row 5 is not there; it has rows 1 to 4"),
        (("table_2", 0), "table_2: row 0 is not there"),
        (("",), "'' is no table"),
    ],
)
def test_what_is_not_planned_is_answered_with_what_is(plan: Plan, arguments: tuple[str | int, ...], message: str) -> None:
    with pytest.raises(UserError, match=message):
        show(plan, *arguments)  # type: ignore[arg-type]


def test_the_beginning_of_several_ids_is_refused(plan: Plan) -> None:
    digits = [i[0] for i in plan.runs]
    common = max(digits, key=digits.count)
    with pytest.raises(UserError, match=f"'{common}' fits several ids: .*give more of it"):
        show(plan, common)
