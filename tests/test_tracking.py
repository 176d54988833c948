"""MLflow as a user meets it: `fgaseg track`, a real server, and the compare view in a real browser."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from browser import browse, needs_browser
from mlflow import MlflowClient
from project import Project, Result, assert_says
from tracking_server import free_address, runs, serving

from fgaseg.plan import Plan
from fgaseg.rows import Row
from fgaseg.tracking.records import begun
from fgaseg.training.metrics import read_metrics
from fgaseg.training.starts import Start, add_start

LINES_ON_SCREEN = """(async () => {
    for (let tries = 0; tries < 150 && !document.body.innerText.includes('miou/pc-59'); tries++)
        await new Promise(resolve => setTimeout(resolve, 200));
    const lines = {};
    for (const cell of document.querySelectorAll('td, th, [role=rowgroup] > div')) {
        const place = cell.getBoundingClientRect();
        (lines[Math.round(place.top)] ??= []).push([place.left, cell.innerText.trim()]);
    }
    return Object.values(lines).map(line => line.sort((a, b) => a[0] - b[0]).map(cell => cell[1]));
})()"""
"""The cells of tables and grids, left to right, once the last score is there, or after half a minute.

The compare view draws a grid's first column apart from the others.
"""


def plan_of(project: Project) -> Plan:
    return Plan(project.root, "sample")


def pretend(project: Project, row: Row, miou: float) -> None:
    """Files of a trained and evaluated row, made from those of the default model: only what tracking reads is right."""
    plan = plan_of(project)
    done = next(path.parent for path in sorted(project.results.glob("runs/*/model.safetensors")))
    evaluated = json.loads((plan.paths.evaluation(plan.default_row.eval_id) / "evaluation.json").read_text())
    run = f"results/sample/runs/{row.run_id}"
    params = json.loads((done / "params.json").read_text()) | {
        "run_id": row.run_id,
        "params": row.params.model_dump(mode="json"),
    }
    if done.name != row.run_id:
        project.write(f"{run}/params.json", json.dumps(params))
        project.write(f"{run}/metrics.jsonl", (done / "metrics.jsonl").read_text())
        project.write(f"{run}/model.safetensors", b"")
    for result in evaluated["benchmarks"].values():
        result["miou"] = miou
    project.write(f"results/sample/evaluations/{row.eval_id}/evaluation.json", json.dumps(evaluated))


@pytest.fixture(scope="module")
def grid(finished: Project, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """The main job, three other weights of the T2P loss, and two top-N evaluations of one run. To be copied, not changed."""
    project = finished.copy(tmp_path_factory.mktemp("tracked") / "project")
    tables = plan_of(project).tables
    for number, miou in ((4, 0.41), (6, 0.42), (7, 0.43)):
        pretend(project, tables["table_3d"].rows[number - 1], miou)
    for number, miou in ((1, 0.51), (3, 0.52)):
        pretend(project, tables["table_6"].rows[number - 1], miou)
    project.write(f"results/sample/report/all/curves/{plan_of(project).default_row.run_id}.png", b"a picture")
    project.write("results/sample/report/all/table_1.md", "a table")
    return project


@pytest.fixture(scope="module")
def tracked(grid: Project, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """The grid after `fgaseg track`, to be read."""
    project = grid.copy(tmp_path_factory.mktemp("read") / "project")
    project.succeed("track")
    return project


@pytest.fixture(scope="module")
def growing(grid: Project, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """The grid after `fgaseg track`, to be changed: each test changes runs of its own."""
    project = grid.copy(tmp_path_factory.mktemp("growing") / "project")
    project.succeed("track")
    return project


def store(project: Project) -> MlflowClient:
    return MlflowClient(f"sqlite:///{project.results / 'mlflow.db'}")


def content(client: MlflowClient) -> dict[str, Any]:
    """All that MLflow tells of the runs, with every point of every metric and the artifacts' times."""
    found: dict[str, Any] = {}
    for name, run in runs(client).items():
        points = {
            key: [(p.step, p.timestamp, p.value) for p in client.get_metric_history(run.info.run_id, key)]
            for key in run.data.metrics
        }
        found[name] = (run.to_dictionary(), points)
    return found


def test_every_row_is_one_run_with_a_name_for_people(tracked: Project) -> None:
    found = runs(store(tracked))
    expected = {"default model", "dense CLIP, mini/12", "report (all)", "table_5 fast: yes, fusion: cat"}
    assert found.keys() == expected | {f"table_3d weight: {weight}" for weight in ("0.2", "1", "5")}
    tags = found["default model"].data.tags
    assert (tags["table_1"], tags["table_3d"]) == ("method: FGAseg, backbone: base", "weight: 0.02")
    note = found["table_3d weight: 5"].data.tags["mlflow.note.content"]
    assert "Table III (d): weight of the T2P loss, row weight: 5" in note
    assert "`model.t2p.weight` = 5" in note
    assert "not comparable with published numbers" in note
    assert {run.info.status for run in found.values()} == {"FINISHED"}


def test_curves_parameters_and_scores_are_those_of_the_files(tracked: Project) -> None:
    client, plan = store(tracked), plan_of(tracked)
    run = runs(client)["default model"]
    lines = read_metrics(plan.paths.run(plan.default_row.run_id or "") / "metrics.jsonl")
    for name in ("loss", "validation_miou"):
        expected = [(line["step"], line[name]) for line in lines if name in line]
        assert expected
        assert [(p.step, p.value) for p in client.get_metric_history(run.info.run_id, name)] == expected
    assert run.data.params["training.global_batch"] == "8"
    assert run.data.params["model.t2p.weight"] == "0.02"
    evaluated = json.loads((plan.paths.evaluation(plan.default_row.eval_id) / "evaluation.json").read_text())
    miou = {name: result["miou"] for name, result in evaluated["benchmarks"].items()}
    for name, value in miou.items():
        assert run.data.metrics[f"miou/{name}"] == value
    assert run.data.metrics["miou/mean"] == pytest.approx(sum(miou.values()) / 5)


def test_evaluations_of_one_run_stand_side_by_side(tracked: Project) -> None:
    metrics = runs(store(tracked))["table_5 fast: yes, fusion: cat"].data.metrics
    assert metrics["miou/a-847/top-1"] == metrics["miou/mean/top-1"] == 0.51
    assert metrics["miou/a-847/top-8"] == metrics["miou/mean/top-8"] == 0.52
    assert "miou/a-847" not in metrics


def test_params_curves_and_reports_are_artifacts_below_the_results(tracked: Project) -> None:
    client, plan = store(tracked), plan_of(tracked)
    found = runs(client)
    assert {file.path for file in client.list_artifacts(found["default model"].info.run_id)} == {"params.json", "curves"}
    folder = tracked.results / "mlartifacts"
    (curve,) = folder.glob(f"{found['default model'].info.run_id}/artifacts/curves/{plan.default_row.run_id}.png")
    assert curve.read_bytes() == b"a picture"
    (report,) = folder.glob(f"{found['report (all)'].info.run_id}/artifacts/table_1.md")
    assert report.read_text() == "a table"


def test_tracking_a_second_time_changes_nothing(tracked: Project) -> None:
    client = store(tracked)
    first = content(client)
    times = {path: path.stat().st_mtime_ns for path in (tracked.results / "mlartifacts").rglob("*")}
    tracked.succeed("track")
    assert content(client) == first
    assert {path: path.stat().st_mtime_ns for path in (tracked.results / "mlartifacts").rglob("*")} == times


def test_two_deliveries_at_once_make_one_store_and_each_run_once(grid: Project, tmp_path: Path) -> None:
    project = grid.copy(tmp_path / "project")
    command = [str(Path(sys.executable).parent / "fgaseg"), "track"]
    both = [subprocess.Popen(command, cwd=project.root, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    said = "".join(process.communicate()[1] for process in both)
    assert [process.returncode for process in both] == [0, 0]
    assert [line for line in said.splitlines() if "another process is making it; waiting" not in line] == []
    assert len(runs(store(project))) == 7


def test_a_lower_score_and_a_new_report_replace_the_old_ones(growing: Project) -> None:
    pretend(growing, plan_of(growing).tables["table_3d"].rows[6], 0.12)
    growing.write("results/sample/report/all/table_1.md", "another table")
    growing.succeed("track")
    client = store(growing)
    assert runs(client)["table_3d weight: 5"].data.metrics["miou/a-847"] == 0.12
    report = client.download_artifacts(runs(client)["report (all)"].info.run_id, "table_1.md")
    assert Path(report).read_text() == "another table"


def test_runs_that_the_plan_has_no_more_leave_their_tables_until_they_are_back(growing: Project) -> None:
    table = "params/tables/table_3d.yaml"
    elsewhere = plan_of(growing).tables["table_3d"].rows[5]  # its results lie in another copy of the project
    growing.remove(f"results/sample/runs/{elsewhere.run_id}")
    growing.edit(table, "model.t2p.weight: 0.2}", "model.t2p.weight: 0.3}")
    growing.succeed("track")
    found = runs(store(growing))
    old = found.pop("table_3d weight: 0.2")
    assert (old.data.tags.get("table_3d"), old.data.tags["superseded"]) == (None, "true")
    assert old.data.metrics["miou/a-847"] == 0.41
    in_table = {run.data.tags["table_3d"] for run in found.values() if "table_3d" in run.data.tags}
    assert in_table == {"weight: 0.02", "weight: 1", "weight: 5"}
    assert not any("superseded" in run.data.tags for run in found.values())

    growing.edit(table, "model.t2p.weight: 0.3}", "model.t2p.weight: 0.2}")
    growing.succeed("track")
    back = runs(store(growing))["table_3d weight: 0.2"]
    assert (back.data.tags["table_3d"], "superseded" in back.data.tags) == ("weight: 0.2", False)


def test_the_curves_drawn_last_are_those_of_a_run(grid: Project, tmp_path: Path) -> None:
    project = grid.copy(tmp_path / "project")
    plan = plan_of(project)
    run = plan.default_row.run_id
    for age, scope in enumerate(("all", "main", "fidelity", "all")):
        curve = plan.paths.report / scope / "curves" / f"{run}.png"
        project.write(curve.relative_to(project.root), b"drawn again")
        os.utime(curve, (age, age))
        assert next(begun(plan, run)).read().artifacts[f"curves/{run}.png"] == curve


def test_a_training_that_goes_on_adds_its_points_and_one_begun_anew_replaces_the_run(growing: Project) -> None:
    plan = plan_of(growing)
    path = plan.paths.run(plan.default_row.run_id or "") / "metrics.jsonl"
    lines = read_metrics(path)
    longer = [*lines, {"step": 9, "time": lines[-1]["time"] + 1, "loss": 0.5}]
    growing.write(path.relative_to(growing.root), "".join(json.dumps(line) + "\n" for line in longer))
    growing.succeed("track")
    client = store(growing)
    before = runs(client)["default model"].info.run_id
    assert [p.step for p in client.get_metric_history(before, "loss")] == [1, 2, 3, 9]

    anew = [{"step": 1, "time": lines[0]["time"] + 100, "loss": 7.0}]
    add_start(path.parent, Start(lines[0]["time"] + 99, 0, None, "here", 1))
    growing.write(path.relative_to(growing.root), "".join(json.dumps(line) + "\n" for line in anew))
    growing.succeed("track")
    after = runs(client)["default model"].info.run_id
    assert after != before
    assert [(p.step, p.value) for p in client.get_metric_history(after, "loss")] == [(1, 7.0)]


def test_a_job_without_a_server_does_not_load_mlflow(grid: Project) -> None:
    script = (
        "import sys; from pathlib import Path; from fgaseg.plan import Plan; from fgaseg.params import load_launch; "
        "from fgaseg.tracking import track_job; plan = Plan(Path(), 'sample'); "
        "track_job(plan, load_launch(Path()), plan.default_row.run_id); sys.exit('mlflow' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", script], cwd=grid.root, check=True)
    assert not (grid.results / "mlflow.db").exists()


def served_by(address: str, grid: Project, folder: Path) -> Project:
    """A copy of the grid whose tracking server is at an address."""
    project = grid.copy(folder)
    project.edit("params/launch.yaml", "tracking_uri: null", f"tracking_uri: {address}")
    return project


def assert_not_delivered(result: Result, status: int, *words: str) -> None:
    """One warning for a person, with all of the words, and an exit status."""
    assert result.status == status, result.err
    assert result.err.count("WARNING") == 1
    assert "Traceback" not in result.err
    assert_says(result.err, "delivered later", *words)


@pytest.mark.slow  # trains once more
def test_a_server_that_is_away_costs_a_training_one_warning_and_the_command_its_success(grid: Project, tmp_path: Path) -> None:
    address = free_address()
    project = served_by(address, grid, tmp_path / "project")
    run = plan_of(project).default_row.run_id or ""
    project.remove(f"results/sample/runs/{run}/model.safetensors")
    assert_not_delivered(project.quick("train", run), 0, f"tracking server {address} is away")
    tracked = project.quick("track")
    assert_not_delivered(tracked, 1, f"tracking server {address} is away")
    assert not tracked.out


def test_an_address_that_cannot_be_one_costs_one_warning(grid: Project, tmp_path: Path) -> None:
    address = "http://127.0.0.1:fivethousand"
    assert_not_delivered(served_by(address, grid, tmp_path / "project").quick("track"), 1, address, "Port")


def test_a_damaged_result_costs_one_warning_that_names_it(grid: Project, tmp_path: Path) -> None:
    project = grid.copy(tmp_path / "project")
    file = f"results/sample/evaluations/{plan_of(project).default_row.eval_id}/evaluation.json"
    project.truncate(file)
    assert_not_delivered(project.quick("track"), 1, file, "not valid JSON")


_RENDERER = """
import sys
from pathlib import Path
from fgaseg.files import exclusive
folder = Path(sys.argv[1])
with exclusive(folder):
    content = (folder / "table_1.md").read_text()
    (folder / "table_1.md").unlink()
    print("in the middle", flush=True)
    sys.stdin.readline()
    (folder / "table_1.md").write_text(content)
"""


def test_a_report_in_the_making_is_waited_for(grid: Project, tmp_path: Path) -> None:
    project = grid.copy(tmp_path / "project")
    folder, said = project.results / "report" / "all", tmp_path / "said"
    command = [sys.executable, "-c", _RENDERER, str(folder)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as renderer, said.open("w") as err:
        assert renderer.stdin is not None
        assert renderer.stdout is not None
        assert renderer.stdout.readline() == "in the middle\n"
        track = subprocess.Popen([str(Path(sys.executable).parent / "fgaseg"), "track"], cwd=project.root, stderr=err)
        while "report/all: another process is making it; waiting" not in said.read_text():
            assert track.poll() is None, said.read_text()
        renderer.stdin.write("go on\n")
        renderer.stdin.flush()
        assert track.wait(timeout=120) == 0
    client = store(project)
    report = runs(client)["report (all)"].info.run_id
    assert {file.path for file in client.list_artifacts(report)} >= {"curves", "table_1.md"}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """The address of a tracking server, and its own folder of artifacts."""
    address, folder = free_address(), tmp_path_factory.mktemp("server")
    with serving(address, folder):
        yield address, folder / "store"


_PATIENT_TRAINING = """
import sys
import fgaseg.tracking.live
from fgaseg.cli import main
fgaseg.tracking.live.PATIENCE_SECONDS = 120.0
sys.argv = ["fgaseg", "train", sys.argv[1]]
main()
"""
"""A training that waits longer for its last delivery: this one is over before a busy machine has imported MLflow."""


@pytest.fixture(scope="module")
def told(grid: Project, server: tuple[str, Path], tmp_path_factory: pytest.TempPathFactory) -> tuple[Project, set[str]]:
    """The grid with a server and its default model trained once more, and the names of the runs that the server has then."""
    project = served_by(server[0], grid, tmp_path_factory.mktemp("told") / "project")
    run = plan_of(project).default_row.run_id or ""
    project.remove(f"results/sample/runs/{run}/model.safetensors")
    subprocess.run([sys.executable, "-c", _PATIENT_TRAINING, run], cwd=project.root, check=True)
    return project, set(runs(MlflowClient(server[0])))


@pytest.mark.slow  # a server starts
def test_a_training_tells_the_server_at_its_end_and_what_was_missed_follows_without_double_points(
    told: tuple[Project, set[str]], server: tuple[str, Path]
) -> None:
    project, at_its_end = told
    assert at_its_end == {"default model"}
    for _ in range(2):
        project.succeed("track")
    client = MlflowClient(server[0])
    tracked = runs(client)
    assert len(tracked) == 7
    assert [p.step for p in client.get_metric_history(tracked["default model"].info.run_id, "loss")] == [1, 2, 3]
    assert any(server[1].rglob("params.json"))
    assert not (project.results / "mlartifacts").exists()


@needs_browser
@pytest.mark.slow  # a server and a browser start
def test_the_compare_view_shows_an_ablation(told: tuple[Project, set[str]], server: tuple[str, Path], tmp_path: Path) -> None:
    told[0].succeed("track")
    client = MlflowClient(server[0])
    ablation = {run.data.tags["table_3d"]: run for run in runs(client).values() if "table_3d" in run.data.tags}
    assert ablation.keys() == {f"weight: {weight}" for weight in ("0.02", "0.2", "1", "5")}
    ids = [run.info.run_id for run in ablation.values()]
    experiment = next(iter(ablation.values())).info.experiment_id
    query = f"runs={quote(json.dumps(ids))}&experiments={quote(json.dumps([experiment]))}"
    shown = browse(f"{server[0]}/#/compare-runs?{query}", tmp_path, 0, LINES_ON_SCREEN, (1600, 3000))
    rows = {row[0].rstrip(":"): set(row[1:]) for row in shown.value if row}
    assert rows["Run Name"] == {str(run.info.run_name) for run in ablation.values()}
    assert rows["model.t2p.weight"] == {"0.02", "0.2", "1.0", "5.0"}
    assert rows["miou/a-847"] > {"0.41", "0.42", "0.43"}
