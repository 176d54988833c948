"""The workflow is interrupted in the middle of its trainings, called again, and ends in the same tables.

Slow: five runs of a small grid (two trainings, three evaluations), each job a process of its own.
"""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml
from project import DATASETS, ITERATIONS, Project, write_project

pytestmark = pytest.mark.slow

LONGER = 12  # iterations, so that there is time to interrupt
_TABLES = ("table_1", "table_4b")
_AS_IN_A_TERMINAL = ["env", "--default-signal=INT"]  # Ctrl-C counts, even where the tests run in a script's background
_SNAKEMAKE = [*_AS_IN_A_TERMINAL, sys.executable, "-m", "snakemake"]
_PATH = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"


def start(project: Project, *arguments: str) -> subprocess.Popen[str]:
    """`snakemake` as a terminal starts it: the leader of a group of processes."""
    return subprocess.Popen(
        [*_SNAKEMAKE, *([] if "--unlock" in arguments else ["--cores", "2"]), *arguments],
        cwd=project.root, env=os.environ | {"PATH": _PATH}, start_new_session=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip


def finish(process: subprocess.Popen[str]) -> str:
    """Its output, when it has ended."""
    output, _ = process.communicate(timeout=500)
    return output


def succeed(project: Project, *arguments: str) -> None:
    """A call of `snakemake` that must end well."""
    process = start(project, *arguments)
    output = finish(process)
    assert process.returncode == 0, output


def tables(project: Project) -> dict[str, str]:
    """The rendered tables and metrics."""
    folder = project.results / "report" / "all"
    files = [folder / "metrics.json", *(folder / f"{key}.{kind}" for key in _TABLES for kind in ("md", "csv", "tex"))]
    return {path.name: path.read_text() for path in files}


def wait_for_a_checkpoint(project: Project, process: subprocess.Popen[str]) -> None:
    """Return in the middle of a training."""
    deadline = time.monotonic() + 240
    while time.monotonic() < deadline and process.poll() is None:
        runs = [path.parents[1] for path in project.results.glob("runs/*/checkpoints/step_*.pt")]
        if any(not (run / "model.safetensors").exists() for run in runs):
            return
        time.sleep(0.02)
    pytest.fail(f"no training was under way: {finish(process)}")


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A small project with two tables whose data are prepared."""
    project = write_project(tmp_path_factory.mktemp("interrupted"))
    project.edit("params/scale/sample.yaml", f"training.iterations: {ITERATIONS}", f"training.iterations: {LONGER}")
    for table in (project.root / "params" / "tables").glob("*.yaml"):
        if table.stem not in _TABLES:
            table.unlink()
    content = yaml.safe_load((project.root / "params" / "tables" / "table_1.yaml").read_text())
    project.write("params/tables/table_1.yaml", yaml.safe_dump(content | {"rows": content["rows"][:2]}))
    datasets = [f"{project.dataset(name)}/index.csv" for name in DATASETS]
    succeed(project, "--", *datasets, project.backbone())
    return project


@pytest.fixture(scope="module")
def undisturbed(prepared: Project, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The tables of a run that nothing disturbs."""
    project = prepared.copy(tmp_path_factory.mktemp("undisturbed") / "project")
    succeed(project, "all")
    return tables(project)


@pytest.fixture
def project(prepared: Project, tmp_path: Path) -> Project:
    return prepared.copy(tmp_path / "project")


def interrupt_group(process: subprocess.Popen[str]) -> None:
    os.killpg(process.pid, signal.SIGINT)


def kill_group(process: subprocess.Popen[str]) -> None:
    os.killpg(process.pid, signal.SIGKILL)


def kill_the_leader_alone(process: subprocess.Popen[str]) -> None:
    os.kill(process.pid, signal.SIGKILL)


@pytest.mark.parametrize("disturb", [interrupt_group, kill_group, kill_the_leader_alone])
def test_a_workflow_that_was_stopped_ends_in_the_same_tables(
    project: Project, undisturbed: dict[str, str], disturb: Callable[[subprocess.Popen[str]], None]
) -> None:
    process = start(project, "all")
    wait_for_a_checkpoint(project, process)
    disturb(process)
    process.wait(timeout=60)
    if disturb is interrupt_group:
        with pytest.raises(ProcessLookupError):  # no process is left behind
            os.killpg(process.pid, 0)
    else:  # what is killed cannot give back its lock
        assert "locked" in finish(start(project, "all"))
        succeed(project, "--unlock")
    succeed(project, "all")
    assert tables(project) == undisturbed
    if disturb is not kill_the_leader_alone:  # whose trainings went on
        logs = "".join(path.read_text() for path in project.results.glob("logs/train/*.log"))
        assert "continuing from iteration" in logs


@pytest.fixture
def small_disk(project: Project) -> Iterator[Path]:
    """A disk for the project's results that holds the prepared data and hardly more."""
    if os.geteuid() != 0:
        pytest.skip("mounting a small disk needs root")
    kept = project.root / "kept"
    project.results.rename(kept)
    project.results.mkdir()
    size = sum(path.stat().st_size for path in kept.rglob("*") if path.is_file()) + 6_000_000
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(project.results)]
    mounted = subprocess.run(mount, capture_output=True, text=True, check=False)
    if mounted.returncode:
        pytest.skip(f"no small disk can be mounted here: {mounted.stderr.strip()}")
    try:
        shutil.copytree(kept, project.results, dirs_exist_ok=True)
        yield project.results
    finally:
        subprocess.run(["umount", str(project.results)], check=True)


def test_a_full_disk_is_named_and_with_more_space_the_tables_are_the_same(
    project: Project, undisturbed: dict[str, str], small_disk: Path
) -> None:
    process = start(project, "--keep-going", "all")
    output = finish(process)
    assert process.returncode != 0, output
    logs = "".join(path.read_text() for path in small_disk.glob("logs/**/*.log"))
    assert "no space left on the disk" in logs + output
    assert "Traceback" not in logs
    subprocess.run(["mount", "-o", "remount,size=200m", str(small_disk)], check=True)
    succeed(project, "all")
    assert tables(project) == undisturbed
