"""Tables and figures from evaluations on disk: every test writes real files and reads what the report made of them."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fabricated import confusion, origin, tidy, write_evaluation, write_main_rows, written

from fgaseg.errors import UserError
from fgaseg.files import read_json, write_whole
from fgaseg.identity import eval_id
from fgaseg.plan import Plan
from fgaseg.reporting import results
from fgaseg.reporting.layout import DASH, MINUS
from fgaseg.reporting.page import write_page
from fgaseg.reporting.table_1 import DIFFERENCE
from fgaseg.reporting.tables import write_tables
from fgaseg.schema import Revision

PROJECT = Path(__file__).parents[1]


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    """The project's own plan at sample scale, with empty results."""
    shutil.copytree(PROJECT / "params", tmp_path / "params")
    return Plan(tmp_path, "sample")


def test_table_1_prints_the_papers_28_rows_in_its_order(plan: Plan, tmp_path: Path) -> None:
    write_tables(plan, "main", tmp_path)
    text = (tmp_path / "table_1.md").read_text()
    published = text.split("**Published, paper scale**")[1].split("**Measured here")[0]
    rows = [line for line in published.splitlines() if line.startswith("|")][2:]
    assert len(rows) == 28
    assert rows[0].replace(DASH, "-") == "| SPNet [1] | - | ResNet-101 | PASCAL VOC | - | - | - | 24.3 | 18.3 |"
    assert [i for i, row in enumerate(rows, 1) if "FGAseg" in row] == [17, 28]
    assert rows[27].replace("*", "").endswith("| 16.3 | 23.9 | 37.9 | 63.4 | 97.1 |")


def test_measured_rows_stand_in_a_section_that_names_the_scale(plan: Plan, tmp_path: Path) -> None:
    write_main_rows(plan)
    tables = write_tables(plan, "main", tmp_path)
    for name, text in written(tmp_path, "table_1", tables).items():
        before, label, after = text.partition(
            "Measured here, sample scale: drawn scenes, small CLIP; not comparable with published numbers"
        )
        assert label, name
        assert "mini/12" not in before, name
        assert "SPNet" in before, name
        assert "SPNet" not in after, name


def test_measured_numbers_are_those_of_the_counts(plan: Plan, tmp_path: Path) -> None:
    write_main_rows(plan)
    write_tables(plan, "main", tmp_path)
    lines = tidy(tmp_path / "table_1.csv")
    for i, benchmark in enumerate(plan.default.data.benchmarks):
        found = {
            line["method"]: line
            for line in lines
            if (line["benchmark"], line["backbone"], line["classes"]) == (benchmark, "mini/12", "all")
        }
        expected = {}
        for method, errors in (("dense CLIP", 0.8), ("FGAseg", 0.4)):
            pixels = confusion(errors, i).sum(0)
            iou = [pixels[k, k] / (pixels[k].sum() + pixels[:, k].sum() - pixels[k, k]) for k in range(4)]
            expected[method] = 100 * sum(iou) / 4
            assert float(found[method]["miou"]) == pytest.approx(expected[method], abs=0.006)
            assert float(found[method]["low"]) < expected[method] < float(found[method]["high"])
        gain = found["FGAseg - dense CLIP"]
        assert float(gain["miou"]) == pytest.approx(expected["FGAseg"] - expected["dense CLIP"], abs=0.006)


def test_groups_average_their_own_classes(plan: Plan, tmp_path: Path) -> None:
    write_main_rows(plan)
    write_tables(plan, "main", tmp_path)
    wanted = {"seen": [0, 1, 2], "unseen": [3], "stuff": [0, 1], "thing": [2, 3]}
    pixels = confusion(0.4, 0).sum(0)
    iou = [pixels[k, k] / (pixels[k].sum() + pixels[:, k].sum() - pixels[k, k]) for k in range(4)]
    for line in tidy(tmp_path / "table_1.csv"):
        if (
            line["benchmark"] == "a-847"
            and line["method"] == "FGAseg"
            and line["classes"] in wanted
            and line["scale"] == "sample"
        ):
            classes = wanted.pop(line["classes"])
            assert float(line["miou"]) == pytest.approx(100 * sum(iou[k] for k in classes) / len(classes), abs=0.006)
    assert not wanted


def test_rows_that_are_not_measured_are_called_missing(plan: Plan, tmp_path: Path) -> None:
    write_evaluation(plan, plan.main_rows[0], 0.8)
    write_tables(plan, "main", tmp_path)
    row = next(
        line for line in (tmp_path / "table_1.md").read_text().splitlines() if line.startswith("| **FGAseg** | **mini/12** |")
    )
    assert row.count("missing") == 6
    line = next(li for li in tidy(tmp_path / "table_1.csv") if li["method"] == "FGAseg" and li["scale"] == "sample")
    assert (line["miou"], line["source"]) == ("missing", "missing")
    metrics = json.loads((tmp_path / "metrics.json").read_text())["table_1"]
    assert metrics["a-847"]["fgaseg"] is None
    assert metrics["a-847"]["difference"] is None
    assert metrics["a-847"]["dense_clip"] > 0


def test_a_result_of_an_older_revision_is_shown_and_marked_stale(plan: Plan, tmp_path: Path) -> None:
    dense, ours = plan.main_rows
    old = Revision(training=0, evaluation=ours.params.revision.evaluation)
    older = ours.params.model_copy(update={"revision": old})
    provenance = origin(plan, revision=old.model_dump())
    write_evaluation(plan, dense, 0.8)
    write_evaluation(plan, ours, 0.4, folder=eval_id(older, "fgaseg", plan.digest), provenance=provenance, training=provenance)
    write_tables(plan, "main", tmp_path)
    text = (tmp_path / "table_1.md").read_text()
    assert "| **FGAseg†** | **mini/12** |" in text
    assert "| Dense CLIP | mini/12 |" in text
    assert "† Stale: trained or evaluated at another revision" in text
    lines = [line for line in tidy(tmp_path / "table_1.csv") if line["backbone"] == "mini/12"]
    assert {line["method"]: line["stale"] for line in lines} == {
        "dense CLIP": "no",
        "FGAseg": "yes",
        "FGAseg - dense CLIP": "yes",
    }


def test_a_stale_result_is_found_beside_a_benchmark_of_the_users_own(plan: Plan, tmp_path: Path) -> None:
    content = "role: benchmark\nimages: harbour/images\nlabels: harbour/labels\nclasses: [sky, sea]\n"
    (plan.root / "params" / "datasets").mkdir(exist_ok=True)
    (plan.root / "params" / "datasets" / "harbour.yaml").write_text(content)
    plan = Plan(plan.root, plan.scale)
    assert plan.own
    ours = plan.default_row
    older = ours.params.model_copy(update={"revision": Revision(training=0, evaluation=1)})
    provenance = origin(plan, revision={"training": 0, "evaluation": 1})
    folder = eval_id(older, "fgaseg", plan.digest, plan.own)
    write_evaluation(plan, ours, 0.4, folder=folder, provenance=provenance, training=provenance)
    write_tables(plan, "main", tmp_path)
    line = next(li for li in tidy(tmp_path / "table_1.csv") if li["method"] == "FGAseg" and li["scale"] == "sample")
    assert (line["eval_id"], line["stale"]) == (folder, "yes")


def test_a_stale_row_names_the_run_that_made_its_number(plan: Plan, tmp_path: Path) -> None:
    ours = plan.default_row
    older = ours.params.model_copy(update={"revision": Revision(training=0, evaluation=1)})
    provenance = origin(plan, revision={"training": 0, "evaluation": 1})
    folder = eval_id(older, "fgaseg", plan.digest)
    write_evaluation(plan, ours, 0.4, folder=folder, run_id="0ldrun", provenance=provenance, training=provenance)
    write_tables(plan, "main", tmp_path)
    line = next(li for li in tidy(tmp_path / "table_1.csv") if li["method"] == "FGAseg" and li["scale"] == "sample")
    assert (line["run_id"], line["eval_id"]) == ("0ldrun", folder)
    details = (tmp_path / "table_1.md").read_text().split("<details>")[1]
    assert f"| 0ldrun | {folder} |" in details
    assert str(ours.run_id) not in details


def test_of_several_stale_results_that_of_the_latest_revision_on_the_present_data_is_shown(plan: Plan, tmp_path: Path) -> None:
    ours = plan.default_row
    folders = []
    for training, digest in ((0, plan.digest), (-1, plan.digest), (1, "other")):
        revision = Revision(training=training, evaluation=0)
        older = ours.params.model_copy(update={"revision": revision})
        provenance = origin(plan, revision=revision.model_dump(), data_digest=digest)
        folders.append(eval_id(older, "fgaseg", digest))
        write_evaluation(plan, ours, 0.4, folder=folders[-1], provenance=provenance, training=provenance)
    write_tables(plan, "main", tmp_path)
    line = next(li for li in tidy(tmp_path / "table_1.csv") if li["method"] == "FGAseg" and li["scale"] == "sample")
    assert line["eval_id"] == folders[0]


def test_folders_are_read_through_once_however_many_rows_are_missing(
    plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Evaluations that no row needs: each is read once to see that."""
    for i in range(3):
        write_evaluation(plan, plan.default_row, 0.4, folder=f"unknown{i}")
    read: list[Path] = []

    def watched(path: Path) -> Any:
        read.append(path)
        return read_json(path)

    monkeypatch.setattr(results, "read_json", watched)
    write_tables(plan, "all", tmp_path)
    assert sorted(path.parent.name for path in read) == ["unknown0", "unknown1", "unknown2"]


def test_differences_of_table_1_are_marked_where_their_interval_excludes_zero(plan: Plan, tmp_path: Path) -> None:
    dense, ours = plan.main_rows
    write_evaluation(plan, dense, 0.4, 6)
    folder = write_evaluation(plan, ours, 0.4)
    write_tables(plan, "main", tmp_path / "chance")
    shutil.rmtree(folder)
    write_evaluation(plan, ours, 0.2)
    write_tables(plan, "main", tmp_path / "clear")
    for name, expected in (("chance", False), ("clear", True)):
        text = (tmp_path / name / "table_1.md").read_text()
        lines = [line for line in text.splitlines() if DIFFERENCE in line]
        cells = [line.replace("**", "").split(" | ")[2:] for line in lines]
        assert len(lines) == 1 + 4
        assert all((r"\*" in cell) == expected for cell in cells[0]), cells[0]
        terminal = (tmp_path / name / "table_1.txt").read_text()
        assert terminal.count("* (+") == (6 + 4 if expected else 0)


def test_scores_of_kinds_of_classes_have_intervals(plan: Plan, tmp_path: Path) -> None:
    write_main_rows(plan)
    write_tables(plan, "main", tmp_path)
    kinds = (tmp_path / "table_1.md").read_text().split("## Seen and unseen")[1]
    lines = [line.split(" | ") for line in kinds.splitlines() if line.startswith(("|  | Dense CLIP |", "|  | FGAseg |"))]
    assert len(lines) == 8
    assert all(re.fullmatch(r"\d+\.\d \(\d+\.\d–\d+\.\d\)", cell.strip("| ")) for cells in lines for cell in cells[2:])


def test_a_label_that_is_written_otherwise_does_not_refuse_a_result(plan: Plan, tmp_path: Path) -> None:
    write_evaluation(plan, plan.main_rows[0], 0.8, backbone="an earlier name")
    write_tables(plan, "main", tmp_path)
    line = next(li for li in tidy(tmp_path / "table_1.csv") if li["method"] == "dense CLIP")
    assert float(line["miou"]) > 0
    assert line["backbone"] == "mini/12"


def test_results_on_other_data_are_stale_and_are_not_subtracted(plan: Plan, tmp_path: Path) -> None:
    dense, ours = plan.main_rows
    provenance = origin(plan, data_digest="other")
    write_evaluation(plan, dense, 0.8)
    write_evaluation(plan, ours, 0.4, folder=eval_id(ours.params, "fgaseg", "other"), provenance=provenance)
    write_tables(plan, "main", tmp_path)
    difference = next(
        line for line in (tmp_path / "table_1.md").read_text().splitlines() if line.startswith(f"| FGAseg {MINUS}")
    )
    assert "missing" in difference


def test_an_evaluation_of_another_row_is_not_taken_for_a_stale_one(plan: Plan, tmp_path: Path) -> None:
    other = plan.tables["table_4a"].rows[0]
    write_evaluation(plan, other, 0.4)
    write_tables(plan, "main", tmp_path)
    assert all(line["miou"] == "missing" for line in tidy(tmp_path / "table_1.csv") if line["scale"] == "sample")


def test_no_footnote_without_a_stale_row(plan: Plan, tmp_path: Path) -> None:
    write_main_rows(plan)
    write_tables(plan, "main", tmp_path)
    assert "Stale" not in (tmp_path / "table_1.md").read_text()


def test_at_paper_scale_scores_of_a_part_of_the_published_photographs_have_a_footnote(plan: Plan, tmp_path: Path) -> None:
    for scale in (Plan(plan.root, "paper"), plan):
        write_main_rows(scale)
        write_tables(scale, "main", tmp_path / scale.scale)
    note = "Scored on another number of photographs than the benchmarks are published with"
    assert note in (tmp_path / "paper" / "table_1.md").read_text()
    assert note not in (tmp_path / "sample" / "table_1.md").read_text()


def test_at_paper_scale_published_and_measured_numbers_meet(plan: Plan, tmp_path: Path) -> None:
    paper = Plan(plan.root, "paper")
    write_main_rows(paper)
    write_tables(paper, "main", tmp_path)
    assert "**Measured here, paper scale**" in (tmp_path / "table_1.md").read_text()
    line = next(li for li in tidy(tmp_path / "table_1.csv") if li["method"] == "FGAseg" and li["run_id"])
    assert (line["backbone"], line["benchmark"], line["published"]) == ("ViT-B/16", "a-847", "12.0")
    assert float(line["miou"]) > 0


def test_metrics_hold_percent_with_two_decimals(plan: Plan, tmp_path: Path) -> None:
    write_main_rows(plan)
    write_tables(plan, "main", tmp_path)
    metrics = json.loads((tmp_path / "metrics.json").read_text())["table_1"]
    assert list(metrics) == [*plan.default.data.benchmarks, "mean"]
    for method in ("dense_clip", "fgaseg", "difference"):
        each = [metrics[benchmark][method] for benchmark in plan.default.data.benchmarks]
        assert metrics["mean"][method] == pytest.approx(sum(each) / 5, abs=0.011)
    for values in metrics.values():
        assert list(values) == ["dense_clip", "fgaseg", "difference"]
        assert values["difference"] == pytest.approx(values["fgaseg"] - values["dense_clip"], abs=0.011)
        assert all(round(value, 2) == value for value in values.values())


def test_metrics_hold_each_backbone_of_table_1_under_a_name_of_its_own(plan: Plan, tmp_path: Path) -> None:
    small, large = (next(r for r in plan.tables["table_1"].rows if r.params.vlm.backbone == b) for b in ("base", "large"))
    write_evaluation(plan, small, 0.8)
    write_evaluation(plan, large, 0.2)
    write_tables(plan, "all", tmp_path)
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    found = {key: values["mean"]["dense_clip"] for key, values in metrics.items() if key.startswith("table_1")}
    assert list(found) == ["table_1", "table_1 mini/12@144px"]
    assert found["table_1 mini/12@144px"] > found["table_1"] + 10


def test_two_runs_write_the_same_bytes(plan: Plan, tmp_path: Path) -> None:
    write_main_rows(plan)
    files = []
    for name in ("first", "second"):
        write_tables(plan, "main", tmp_path / name)
        files.append({path.name: path.read_bytes() for path in (tmp_path / name).iterdir()})
    assert files[0] == files[1]
    formats = {f"table_1.{suffix}" for suffix in ("md", "csv", "tex", "txt")}
    assert set(files[0]) == formats | {"metrics.json", "params.yaml"}


def test_the_page_counts_stale_evaluations_apart(plan: Plan, tmp_path: Path) -> None:
    dense, ours = plan.main_rows
    write_evaluation(plan, dense, 0.8)
    write_page(plan, "main", [], [], tmp_path)
    assert "1 of 2 planned evaluations are there. Every" in (tmp_path / "report.html").read_text()
    write_evaluation(plan, ours, 0.4, training=origin(plan, data_digest="other"))
    write_page(plan, "main", [], [], tmp_path)
    text = (tmp_path / "report.html").read_text()
    assert "1 of 2 planned evaluations are there. 1 more is stale: of another revision or other data. Every" in text
    assert "<td>1 stale evaluation</td>" in text
    assert "<td>1 evaluation</td>" in text


def test_captions_say_that_intervals_of_scores_lie_low(plan: Plan, tmp_path: Path) -> None:
    write_main_rows(plan)
    tables = write_tables(plan, "main", tmp_path)
    write_page(plan, "main", [], [], tmp_path)
    for name, text in {**written(tmp_path, "table_1", tables), "page": (tmp_path / "report.html").read_text()}.items():
        assert "intervals of scores lie somewhat low" in text, name


def test_tables_in_the_page_ask_the_network_for_nothing(plan: Plan, tmp_path: Path) -> None:
    write_main_rows(plan)
    page = written(tmp_path, "table_1", write_tables(plan, "main", tmp_path))["html"]
    assert not any(word in page for word in ("http", "src=", "<link", "<script", "@import", "url("))


def test_latex_has_no_bare_special_character(plan: Plan, tmp_path: Path) -> None:
    write_main_rows(plan)
    write_tables(plan, "main", tmp_path)
    text = (tmp_path / "table_1.tex").read_text()
    assert text.isascii()
    assert r"95\%" in text
    rows = [line for line in text.splitlines() if line.endswith(r"\\")]
    assert len([row for row in rows if row.count(" & ") == 8]) == 1 + 28


def test_the_terminal_table_fits_100_columns_even_with_wide_numbers(plan: Plan, tmp_path: Path) -> None:
    dense, ours = plan.main_rows
    write_evaluation(plan, dense, 0.1)
    write_evaluation(plan, ours, 0.9)
    write_tables(plan, "all", tmp_path)
    text = (tmp_path / "table_1.txt").read_text()
    assert max(map(len, text.splitlines())) <= 100
    assert all(part in text for part in ("mean, unseen", "95.2", MINUS))


def test_published_numbers_stand_beside_measured_ones_only_with_their_label(plan: Plan, tmp_path: Path) -> None:
    write_main_rows(plan)
    write_tables(plan, "main", tmp_path)
    header = next(line for line in (tmp_path / "table_1.txt").read_text().splitlines() if line.startswith("mini/12 "))
    assert header.endswith("paper (real data)")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: (folder / "evaluation.json").write_text('{"eval_id": '), "evaluation.json: not valid JSON"),
        (lambda folder: (folder / "evaluation.json").write_text("{}"), "evaluation.json: eval_id: Field required"),
        (lambda folder: (folder / "counts.npz").unlink(), "counts.npz: no such file"),
        (lambda folder: (folder / "counts.npz").write_bytes(b"PK"), "counts.npz: not readable"),
        (lambda folder: edit(folder, "scale", "paper"), "evaluation.json: scale: 'paper' where"),
        (lambda folder: edit(folder, "method", "dense_clip"), "evaluation.json: method: 'dense_clip' where"),
        (lambda folder: edit(folder, "benchmarks", {}), "evaluation.json: benchmarks: 'a-847' is missing"),
        (lambda folder: edit_miou(folder, 0.123), "counts.npz: pc-59: its mIoU is not that of evaluation.json"),
    ],
)
def test_a_damaged_evaluation_is_named_and_nothing_is_written(
    plan: Plan, tmp_path: Path, damage: Callable[[Path], object], message: str
) -> None:
    _, ours = write_main_rows(plan)
    damage(ours)
    with pytest.raises(UserError) as error:
        write_tables(plan, "main", tmp_path / "out")
    assert f"{ours.name}/{message}" in str(error.value)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "out").exists()


def test_a_file_that_cannot_be_written_leaves_nothing_behind(tmp_path: Path) -> None:
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "inside").touch()
    with pytest.raises(UserError, match=r"taken: cannot be written \(Is a directory\)"):
        write_whole(tmp_path / "taken", "text")
    assert [path.name for path in tmp_path.iterdir()] == ["taken"]


def edit(folder: Path, key: str, value: Any) -> None:
    path = folder / "evaluation.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {key: value}))


def edit_miou(folder: Path, value: float) -> None:
    path = folder / "evaluation.json"
    content = json.loads(path.read_text())
    content["benchmarks"]["pc-59"]["miou"] = value
    path.write_text(json.dumps(content))
