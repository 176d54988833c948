"""Ablation tables in every format: every test writes evaluations of made-up pixels and reads what the report made of them."""

import csv
import json
import re
import shutil
import statistics
import time
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import fabricated
import numpy as np
import pytest
import yaml
from fabricated import confusion, origin, tidy, write_evaluation, written

from fgaseg.errors import UserError
from fgaseg.identity import eval_id
from fgaseg.plan import Plan
from fgaseg.provenance import code_fingerprint
from fgaseg.reporting.layout import MINUS
from fgaseg.reporting.tables import write_tables
from fgaseg.rows import Row
from fgaseg.schema import Revision

PROJECT = Path(__file__).parents[1]
BENCHMARKS = ["a-847", "pc-459", "a-150", "pc-59", "pas-20"]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """The parameters of the project and no results; Table II and the fidelity table are all that `all` and `fidelity` show."""
    folder = tmp_path / "project"
    shutil.copytree(PROJECT / "params", folder / "params")
    for path in (folder / "params" / "tables").glob("table_[3-7]*.yaml"):
        path.unlink()
    return folder


@pytest.fixture
def plan(root: Path) -> Plan:
    return Plan(root, "sample")


def with_seeds(root: Path, row: str, seeds: int) -> Plan:
    """The plan with more seeds of one row of Table II."""
    path = root / "params" / "tables" / "table_2.yaml"
    text = path.read_text()
    assert text.count(row) == 1
    path.write_text(text.replace(row, f"{row}\n    seeds: {seeds}"))
    return Plan(root, "sample")


def percent(errors: float, benchmark: int, noise: int = 0) -> float:
    """mIoU of a made-up evaluation, from its pixels."""
    pixels = confusion(errors, benchmark, noise).sum(0)
    return float(100 * np.mean([pixels[k, k] / (pixels[k].sum() + pixels[:, k].sum() - pixels[k, k]) for k in range(4)]))


def write_table_2(plan: Plan) -> list[Row]:
    """Row 1 is much worse than the default, row 2 as good but for chance, row 3 is missing, row 4 is the default."""
    rows = list(plan.tables["table_2"].rows)
    for row, errors, noise in ((rows[0], 0.7, 1), (rows[1], 0.4, 6), (rows[3], 0.4, 0)):
        write_evaluation(plan, row, errors, noise)
    return rows


def line(out: Path, table: str, row: int, benchmark: str) -> dict[str, str]:
    found = [li for li in tidy(out / f"{table}.csv") if (li["row"], li["benchmark"]) == (str(row), benchmark)]
    assert len(found) == 1
    return found[0]


def section(out: Path, table: str, label: str) -> list[list[str]]:
    """The cells of the lines of one Markdown section, without its header."""
    text = (out / f"{table}.md").read_text()
    body = re.split(r"\n\*\*[^|\n]+\*\*\n|<details>", text.split(f"**{label}")[1].split("\n", 1)[1])[0]
    rows = [[cell.strip() for cell in li.strip("|").split(" | ")] for li in body.splitlines() if li.startswith("|")]
    return rows[2:]


def test_measured_numbers_and_their_mean_are_those_of_the_pixels(plan: Plan, tmp_path: Path) -> None:
    write_table_2(plan)
    write_tables(plan, "all", tmp_path)
    values = [percent(0.7, i, 1) for i in range(5)]
    for benchmark, value in zip([*BENCHMARKS, "mean"], [*values, sum(values) / 5], strict=True):
        found = line(tmp_path, "table_2", 1, benchmark)
        assert float(found["miou"]) == pytest.approx(value, abs=0.006)
        assert float(found["low"]) < value < float(found["high"])
        assert (found["seeds"], found["sd"]) == ("1", "")


def test_differences_are_against_the_default_row_with_the_published_ones_beside(plan: Plan, tmp_path: Path) -> None:
    write_table_2(plan)
    write_tables(plan, "all", tmp_path)
    for i, (benchmark, published) in enumerate(zip(BENCHMARKS, (-0.9, -0.9, -1.5, -1.6, -1.4), strict=True)):
        found = line(tmp_path, "table_2", 1, benchmark)
        gap = percent(0.7, i, 1) - percent(0.4, i)
        assert found["reference_row"] == "4"
        assert float(found["difference"]) == pytest.approx(gap, abs=0.006)
        assert float(found["difference_low"]) < gap < float(found["difference_high"]) < 0
        assert float(found["published_difference"]) == pytest.approx(published)
    assert line(tmp_path, "table_2", 4, "mean")["difference"] == ""
    first, published_line = section(tmp_path, "table_2", "Difference to the reference row")[:2]
    assert first[4:6] == ["row 4", "measured"]
    assert published_line[5:12] == ["published", *(f"{MINUS}{n}" for n in ("0.9", "0.9", "1.5", "1.6", "1.4", "1.3"))]


def test_a_difference_is_marked_only_when_its_interval_excludes_zero(plan: Plan, tmp_path: Path) -> None:
    write_table_2(plan)
    tables = write_tables(plan, "all", tmp_path)
    clear, _, chance, *_ = section(tmp_path, "table_2", "Difference to the reference row")
    assert all(r"\*" in cell for cell in clear[6:12])
    assert clear[-1] == "lower"
    assert not any(r"\*" in cell for cell in chance[6:12])
    assert chance[-1] == "not distinguishable"
    page = written(tmp_path, "table_2", tables)["html"]
    assert page.count('class="distinct"') == page.count("*</span>") == 6
    assert page.count('class="indistinct"') == 6


def test_a_last_sentence_counts_the_rows_that_differ_and_warns_of_several_comparisons(plan: Plan, tmp_path: Path) -> None:
    write_table_2(plan)
    tables = write_tables(plan, "all", tmp_path)
    for name, text in written(tmp_path, "table_2", tables).items():
        assert "1 of 2 rows differ from their references in the mean beyond chance" in text, name
        assert "1 of them also after Holm" in text, name
        assert "Not compared yet: 1." in text, name
        assert "one training each" in text, name


def test_holm_can_take_a_mark_back(plan: Plan, tmp_path: Path) -> None:
    rows = plan.tables["table_2"].rows
    write_evaluation(plan, rows[3], 0.4)
    write_evaluation(plan, rows[0], 0.4, 14)  # differs barely
    write_tables(plan, "all", tmp_path)
    assert section(tmp_path, "table_2", "Difference")[0][-1] == "lower"
    write_evaluation(plan, rows[1], 0.4, 6)
    write_evaluation(plan, rows[2], 0.4, 17)
    write_tables(plan, "all", tmp_path)
    assert section(tmp_path, "table_2", "Difference")[0][-1] == "lower, not after Holm"
    p_values = [float(line(tmp_path, "table_2", row, "mean")["p"]) for row in (1, 2, 3)]
    assert p_values[0] == min(p_values)
    assert float(line(tmp_path, "table_2", 1, "mean")["p_holm"]) == pytest.approx(3 * p_values[0], abs=3e-4)


def test_the_best_of_a_column_is_bold_and_so_are_its_equals(plan: Plan, tmp_path: Path) -> None:
    for row, errors in zip(plan.tables["table_2"].rows, (0.7, 0.4, 0.6, 0.4), strict=True):
        write_evaluation(plan, row, errors)
    write_tables(plan, "all", tmp_path)
    measured = section(tmp_path, "table_2", "Measured here")
    assert [[cell.startswith("**") for cell in cells[5:]] for cells in measured] == [[False] * 6, [True] * 6] * 2
    published = section(tmp_path, "table_2", "Published, paper scale")
    bold = [[cell.strip("*") for cell in cells[4:9] if cell.startswith("**")] for cells in published]
    assert bold == [[], [], ["12.1", "31.4"], ["19.0", "31.4", "57.5", "95.2"]]


def test_a_row_that_is_not_evaluated_is_called_missing_everywhere(plan: Plan, tmp_path: Path) -> None:
    write_table_2(plan)
    tables = write_tables(plan, "all", tmp_path)
    found = line(tmp_path, "table_2", 3, "pc-59")
    assert {found[key] for key in ("miou", "low", "high", "difference", "p", "measured_minus_published")} == {"missing"}
    assert found["published"] == "56.3"
    assert found["eval_id"] == plan.tables["table_2"].rows[2].eval_id
    for label, count in (("Measured here", 6), (f"Measured {MINUS} published", 6)):
        assert section(tmp_path, "table_2", label)[2].count("missing") == count
    assert section(tmp_path, "table_2", "Difference")[4].count("missing") == 8
    for kind in ("html", "tex"):
        assert written(tmp_path, "table_2", tables)[kind].count("missing") >= 20
    metrics = json.loads((tmp_path / "metrics.json").read_text())["table_2"]
    assert set(metrics["row 3 P2Tformer yes, T2P loss yes, LCS no"].values()) == {None}
    assert metrics["row 1 P2Tformer no, T2P loss no, LCS no"]["a-847"] == pytest.approx(percent(0.7, 0, 1), abs=0.006)


def test_measured_minus_published_is_labelled_as_meaningless_at_sample_scale_only(root: Path, tmp_path: Path) -> None:
    for scale in ("sample", "paper"):
        plan = Plan(root, scale)  # type: ignore[arg-type]
        write_table_2(plan)
        write_tables(plan, "all", tmp_path / scale)
        found = line(tmp_path / scale, "table_2", 1, "a-150")
        assert found["scale"] == scale
        assert float(found["measured_minus_published"]) == pytest.approx(percent(0.7, 2, 1) - 29.9, abs=0.006)
    label = "other data, other CLIP; says nothing about the method"
    assert label in (tmp_path / "sample" / "table_2.md").read_text()
    assert label not in (tmp_path / "paper" / "table_2.md").read_text()


def test_several_seeds_show_their_mean_deviation_and_number(root: Path, tmp_path: Path) -> None:
    plan = with_seeds(root, "set: {model.lcs.enabled: false}", 3)
    row = plan.tables["table_2"].rows[2]
    for noise, replica in enumerate(row.replicas[:2], 1):
        write_evaluation(plan, replica, 0.4, noise)
    write_evaluation(plan, plan.default_row, 0.4)
    write_tables(plan, "all", tmp_path / "two")
    assert section(tmp_path / "two", "table_2", "Measured here")[2][0] == "3†"
    assert section(tmp_path / "two", "table_2", "Measured here")[2][4] == "2 of 3"
    assert "† Not all of its seeds are evaluated yet." in (tmp_path / "two" / "table_2.md").read_text()
    write_evaluation(plan, row.replicas[2], 0.4, 3)
    write_tables(plan, "all", tmp_path)
    values = [percent(0.4, 0, noise) for noise in (1, 2, 3)]
    found = line(tmp_path, "table_2", 3, "a-847")
    assert float(found["miou"]) == pytest.approx(statistics.mean(values), abs=0.006)
    assert float(found["sd"]) == pytest.approx(statistics.stdev(values), abs=0.006)
    assert float(found["difference"]) == pytest.approx(statistics.mean(values) - percent(0.4, 0), abs=0.006)
    assert found["seeds"] == "3"
    assert found["eval_id"] == ";".join(replica.eval_id for replica in row.replicas)
    cells = section(tmp_path, "table_2", "Measured here")[2]
    assert cells[:5] == ["3", "yes", "yes", "no", "3"]
    assert f"± {statistics.stdev(values):.1f} (" in cells[5]
    assert len(section(tmp_path, "table_2", "Measured here")) == 4


def test_a_row_of_its_own_reference_is_not_compared_with_the_default(plan: Plan, tmp_path: Path) -> None:
    rows = plan.tables["fidelity"].rows
    for row, errors in ((rows[0], 0.3), (rows[7], 0.5), (rows[8], 0.6)):
        write_evaluation(plan, row, errors)
    write_tables(plan, "fidelity", tmp_path)
    assert {path.name for path in tmp_path.glob("*.*")} == {
        *(f"fidelity.{s}" for s in ("md", "csv", "tex")),
        "metrics.json",
        "params.yaml",
    }
    first_head, all_heads = line(tmp_path, "fidelity", 9, "pas-20"), line(tmp_path, "fidelity", 8, "pas-20")
    assert (first_head["reference_row"], all_heads["reference_row"]) == ("8", "1")
    assert float(first_head["difference"]) == pytest.approx(percent(0.6, 4) - percent(0.5, 4), abs=0.011)
    assert float(all_heads["difference"]) == pytest.approx(percent(0.5, 4) - percent(0.3, 4), abs=0.011)
    assert "Published" not in (tmp_path / "fidelity.md").read_text()
    same = section(tmp_path, "fidelity", "Difference")[4]
    assert "the same model" in [cell.strip("*") for cell in same]


def test_every_row_leads_to_what_made_it(plan: Plan, tmp_path: Path) -> None:
    rows = write_table_2(plan)
    tables = write_tables(plan, "all", tmp_path)
    for row in rows:
        found = line(tmp_path, "table_2", row.number, "mean")
        assert (found["run_id"], found["eval_id"]) == (row.run_id, row.eval_id)
        if row.number != 3:
            made = [found[key] for key in ("git_commit", "code", "training_git_commit", "training_code", "data_digest")]
            assert made == ["0" * 40, code_fingerprint(), "0" * 40, code_fingerprint(), plan.digest]
        for kind in ("md", "html"):
            text = written(tmp_path, "table_2", tables)[kind]
            assert "<details><summary>Where each row comes from" in text
            details = text.split("<details>")[1]
            assert all(
                i in details
                for i in (row.run_id or "", row.eval_id, "model.lcs.enabled = False", code_fingerprint(), plan.digest[:12])
            )
    assert (tmp_path / "table_1.md").read_text().count("<details>") == 1


def test_stale_and_other_code_have_footnotes_of_their_own(plan: Plan, tmp_path: Path) -> None:
    rows = plan.tables["table_2"].rows
    write_evaluation(plan, rows[3], 0.4)
    write_evaluation(plan, rows[0], 0.5, training=origin(plan, code=f"0ther, continued by {code_fingerprint()}"))
    write_evaluation(plan, rows[1], 0.5, provenance=origin(plan, code="0ther"))
    older = rows[2].params.model_copy(update={"revision": Revision(training=0, evaluation=1)})
    old = origin(plan, revision={"training": 0, "evaluation": 1}, code="0ther")
    write_evaluation(plan, rows[2], 0.5, folder=eval_id(older, "fgaseg", plan.digest), provenance=old, training=old)
    write_tables(plan, "all", tmp_path)
    marks = [line(tmp_path, "table_2", number, "mean") for number in (1, 2, 3, 4)]
    assert [(mark["stale"], mark["other_code"]) for mark in marks] == [
        ("no", "yes"),
        ("no", "yes"),
        ("yes", "no"),
        ("no", "no"),
    ]
    assert [cells[0] for cells in section(tmp_path, "table_2", "Measured here")] == ["1‡", "2‡", "3†", "**4**"]
    text = (tmp_path / "table_2.md").read_text()
    assert "† Stale: trained or evaluated at another revision" in text
    assert "‡ Made by other code than the present one, same revision." in text
    origins = [li for li in text.split("<details>")[1].splitlines() if li.startswith("|")][2:]
    assert [li.strip("| ").rsplit(" | ", 1)[1] for li in origins] == ["other code", "other code", "stale", "current"]


def test_results_that_agree_with_each_other_but_not_with_the_present_code_are_marked(plan: Plan, tmp_path: Path) -> None:
    for row in plan.tables["table_2"].rows:
        write_evaluation(plan, row, 0.4, training=origin(plan, code="0ld"), provenance=origin(plan, code="0ld"))
    write_tables(plan, "all", tmp_path)
    assert [line(tmp_path, "table_2", number, "mean")["other_code"] for number in (1, 2, 3, 4)] == ["yes"] * 4


def test_weights_of_another_revision_make_a_row_stale(plan: Plan, tmp_path: Path) -> None:
    row = plan.tables["table_2"].rows[0]
    write_evaluation(plan, row, 0.5, training=origin(plan, revision={"training": 0, "evaluation": 1}))
    write_tables(plan, "all", tmp_path)
    assert line(tmp_path, "table_2", 1, "mean")["stale"] == "yes"


def test_an_evaluation_that_does_not_tell_who_trained_it_is_refused(plan: Plan, tmp_path: Path) -> None:
    write_evaluation(plan, plan.tables["table_2"].rows[0], 0.5, training=None)
    with pytest.raises(UserError, match=r"training: the provenance of the weights is missing; .*evaluate the row again"):
        write_tables(plan, "all", tmp_path)


@pytest.fixture
def timed(tmp_path: Path) -> Plan:
    """Table VI with the times of its first row and of all classes."""
    shutil.copytree(PROJECT / "params", tmp_path / "params")
    for path in (tmp_path / "params" / "tables").glob("table_[2-57]*.yaml"):
        path.unlink()
    plan = Plan(tmp_path, "sample")

    def row(eval_id: str | None, milliseconds: list[float]) -> dict[str, Any]:
        one = {"classes": 20, "images": 2, "milliseconds": milliseconds, "kept": [9.6, 7.0, 3.4]}
        return {"eval_id": eval_id, "top_n": 1, "benchmarks": dict.fromkeys(BENCHMARKS, one)}

    rows = [row(plan.tables["table_6"].rows[0].eval_id, [10, 20, 30, 50]), row(None, [100, 60, 80, 40])]
    content = {"table": "table_6", "device": "cpu", "threads": 2, "warm_up": 1, "repeats": 2, "rows": rows}
    path = plan.paths.timing("table_6")
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(content | {"provenance": origin(plan)}))
    return plan


def test_times_are_medians_with_their_middle_half_and_speed_ups_ratios_of_medians(timed: Plan, tmp_path: Path) -> None:
    write_tables(timed, "all", tmp_path / "out")
    found = line(tmp_path / "out", "table_6", 1, "pc-459")
    assert (found["ms"], found["ms_q1"], found["ms_q3"], found["speed_up"]) == ("25.0", "17.5", "35.0", "2.800")
    assert (found["classes"], found["kept"], found["published_ms"], found["published_speed_up"]) == (
        "20",
        "9.6;7.0;3.4",
        "189",
        "2.460",
    )
    assert section(tmp_path / "out", "table_6", "Milliseconds per image, measured here")[0][2] == "25 (18–35)"
    assert section(tmp_path / "out", "table_6", "Speed-up against all classes kept")[0][2] == "2.80×"
    assert section(tmp_path / "out", "table_6", "Classes kept after the three heads")[0][2] == "10 → 7 → 3 of 20"
    assert section(tmp_path / "out", "table_6", "Milliseconds per image, published")[3][2:] == [
        "256",
        "419",
        "240",
        "179",
        "132",
    ]
    assert section(tmp_path / "out", "table_6", "Speed-up against row 5 (N: 32), published")[0][2] == "2.22×"


@pytest.mark.parametrize("position", ["middle", "end"])
def test_a_row_without_published_times_shows_its_measured_ones(timed: Plan, tmp_path: Path, position: str) -> None:
    path = tmp_path / "params" / "tables" / "table_6.yaml"
    text = path.read_text().replace("reference: 5 ", "#")
    new = "  - label: {N: '64', by: us}\n    set: {model.decoder.fast: true, evaluation.top_n: 64}\n"
    at = len(text) if position == "end" else text.index("  - label: {N: '8'}")
    path.write_text(text[:at] + new + text[at:])
    plan = Plan(tmp_path, "sample")
    number = 6 if position == "end" else 3
    row = plan.tables["table_6"].rows[number - 1]
    times = timed.paths.timing("table_6")
    content = json.loads(times.read_text())
    content["rows"].append(content["rows"][0] | {"eval_id": row.eval_id})
    times.write_text(json.dumps(content))
    out = tmp_path / "out"
    write_tables(plan, "all", out)
    assert section(out, "table_6", "Milliseconds per image, measured here")[number - 1][3] == "25 (18–35)"
    assert section(out, "table_6", "Milliseconds per image, published")[number - 1] == [str(number), "64", "us", *["–"] * 5]
    slowest = "row 5 (N: 32)" if position == "end" else "row 6 (N: 32)"
    speed_ups = section(out, "table_6", f"Speed-up against {slowest}, published")
    assert (speed_ups[number - 1][3], speed_ups[0][3]) == ("–", "2.22×")
    found = line(out, "table_6", number, "a-847")
    assert [found[key] for key in ("ms", "speed_up", "published_ms", "published_speed_up")] == ["25.0", "2.800", "", ""]


def test_times_of_other_code_than_the_present_one_are_called_so(timed: Plan, tmp_path: Path) -> None:
    words = "after 1 to warm up; taken by other code than the present one"
    write_tables(timed, "all", tmp_path / "out")
    assert words not in (tmp_path / "out" / "table_6.md").read_text()
    path = timed.paths.timing("table_6")
    path.write_text(path.read_text().replace(code_fingerprint(), "0ld"))
    write_tables(timed, "all", tmp_path / "out")
    assert words in (tmp_path / "out" / "table_6.md").read_text()


def test_a_row_that_is_not_timed_is_missing_and_a_damaged_file_of_times_is_named(timed: Plan, tmp_path: Path) -> None:
    write_tables(timed, "all", tmp_path / "out")
    found = line(tmp_path / "out", "table_6", 2, "pc-459")
    assert {found[key] for key in ("ms", "ms_q1", "ms_q3", "speed_up", "kept")} == {"missing"}
    assert section(tmp_path / "out", "table_6", "Milliseconds per image, measured here")[1][2:] == ["missing"] * 5
    path = timed.paths.timing("table_6")
    path.write_text(path.read_text()[:100])
    with pytest.raises(UserError, match=r"table_6\.json: the whole file: .*take the times again"):
        write_tables(timed, "all", tmp_path / "out")
    path.unlink()
    write_tables(timed, "all", tmp_path / "out")
    assert line(tmp_path / "out", "table_6", 1, "pc-459")["ms"] == "missing"


class _Balance(HTMLParser):
    """Fails on a tag that closes another than the one that is open."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.ids += [value for key, value in attrs if key == "id" and value]
        if tag not in ("meta",):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_html_is_balanced_and_each_table_has_its_id(plan: Plan, tmp_path: Path) -> None:
    write_table_2(plan)
    tables = write_tables(plan, "all", tmp_path)
    for key, ids in (("table_2", ["table-table_2"]), ("table_1", ["table-table_1", "table-table_1_groups"])):
        text = written(tmp_path, key, tables)["html"]
        parser = _Balance()
        parser.feed(text)
        assert parser.open == []
        assert parser.ids == ids
        assert not any(word in text for word in ("http", "src=", "<link", "<script", "@import", "url("))


def test_latex_rows_have_as_many_cells_as_their_header_and_only_plain_characters(plan: Plan, tmp_path: Path) -> None:
    write_table_2(plan)
    write_tables(plan, "all", tmp_path)
    text = (tmp_path / "table_2.tex").read_text()
    assert text.isascii()
    tabulars = re.findall(r"\\begin\{tabular\}\{([lr]+)\}(.*?)\\end\{tabular\}", text, re.DOTALL)
    assert len(tabulars) == 4
    for columns, body in tabulars:
        rows = [row for row in body.splitlines() if row.endswith(r"\\")]
        assert {row.count(" & ") for row in rows} == {len(columns) - 1}


def test_each_file_of_a_scope_is_there_and_two_runs_write_the_same_bytes(plan: Plan, tmp_path: Path) -> None:
    write_table_2(plan)
    files, keys = [], []
    for name in ("first", "second"):
        keys.append([table.key for table in write_tables(plan, "all", tmp_path / name)])
        files.append({path.name: path.read_bytes() for path in (tmp_path / name).iterdir()})
    assert files[0] == files[1]
    formats = ("md", "csv", "tex")
    assert files[0].keys() == {
        *(f"table_{t}.{f}" for t in "12" for f in formats),
        "table_1.txt",
        "metrics.json",
        "params.yaml",
    }
    assert keys == [["table_1", "table_1_groups", "table_2"]] * 2


def test_tidy_files_of_all_ablations_have_the_same_columns_and_a_line_for_every_number(plan: Plan, tmp_path: Path) -> None:
    write_table_2(plan)
    write_tables(plan, "all", tmp_path)
    write_tables(plan, "fidelity", tmp_path)
    headers = [next(csv.reader((tmp_path / f"{name}.csv").open())) for name in ("table_2", "fidelity")]
    assert headers[0] == headers[1]
    assert len(tidy(tmp_path / "table_2.csv")) == 4 * 6


def test_the_main_report_shows_the_default_backbone_alone(plan: Plan, tmp_path: Path) -> None:
    fabricated.write_main_rows(plan)
    write_tables(plan, "main", tmp_path)
    text = (tmp_path / "table_1.txt").read_text()
    assert "missing" not in text
    assert "mini/12@144px" not in (tmp_path / "table_1.md").read_text()
    assert json.loads((tmp_path / "metrics.json").read_text()).keys() == {"table_1"}


def test_the_whole_study_renders_in_seconds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fabricated, "IMAGES", 30)
    shutil.copytree(PROJECT / "params", tmp_path / "params")
    plan = Plan(tmp_path, "sample")
    for noise, row in enumerate(plan.evaluations.values()):
        write_evaluation(plan, row, 0.5, noise)
    start = time.process_time()
    write_tables(plan, "all", tmp_path / "out")
    assert time.process_time() - start < 15


def test_latex_starts_another_float_where_a_page_is_full(timed: Plan, tmp_path: Path) -> None:
    write_tables(timed, "all", tmp_path / "out")
    text = (tmp_path / "out" / "table_6.tex").read_text()
    assert text.count(r"\begin{table*}") == text.count(r"\end{table*}") == 2
    assert text.count(r"\caption{") == text.count(r"\label{") == text.count("(continued)") == 1
    assert text.count(r"\begin{tabular}") == 9
    assert text.rstrip().splitlines()[-2].startswith(r"\par\smallskip\footnotesize Rows of one seed")


def test_the_parameters_of_each_row_are_there_for_a_comparison_of_revisions(plan: Plan, tmp_path: Path) -> None:
    write_tables(plan, "all", tmp_path)
    table_2 = yaml.safe_load((tmp_path / "params.yaml").read_text())["table_2"]
    assert table_2["row 3 P2Tformer yes, T2P loss yes, LCS no"] == {"model.lcs.enabled": False}
    assert table_2["row 4 P2Tformer yes, T2P loss yes, LCS yes"] == "the default model"


def test_the_parameters_tell_the_method_and_several_seeds(root: Path, tmp_path: Path) -> None:
    plan = with_seeds(root, "set: {model.lcs.enabled: false}", 3)
    write_tables(plan, "all", tmp_path)
    content = yaml.safe_load((tmp_path / "params.yaml").read_text())
    assert content["table_2"]["row 3 P2Tformer yes, T2P loss yes, LCS no"] == {"model.lcs.enabled": False, "seeds": 3}
    assert content["table_1"]["row 1 method Dense CLIP, backbone base"] == {"method": "dense_clip"}
    large = content["table_1"]["row 3 method Dense CLIP, backbone large"]
    assert large["method"] == "dense_clip"
    assert large["vlm.backbone"] == "large"
