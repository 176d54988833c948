"""The commands in README.md and docs/: each is run here as it stands there, or by the test that is named for it."""

import ast
import os
import re
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest
from project import Project
from server import serving

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]

ELSEWHERE = {
    "sudo apt-get install -y git make python3-venv": ".ci/run",
    "git clone <this repository> fgaseg && cd fgaseg": "tests/test_dvc.py::origin",
    "make sample": ".ci/run",
    "make install": ".ci/run",
    "tests/slurm/cluster.sh start": ".ci/run",
    "make test": ".ci/run",
    "make check": ".ci/run",
    "make app": ".ci/run",
    ".venv-app/bin/fgaseg app": "tests/test_web.py::address",
    "fgaseg serve exported --port 5001": "tests/conftest.py::guarded",
    "mlflow models serve -m exported --env-manager local -h 127.0.0.1 -p 5001": (
        "tests/test_serving.py::test_mlflows_own_server_answers"
    ),
    "mlflow ui --backend-store-uri sqlite:///results/sample/mlflow.db": "tests/test_docs.py::test_mlflow_shows_the_study",
    "mlflow server --host 127.0.0.1 --port 5000 --backend-store-uri sqlite:///mlflow-server.db"
    " --artifacts-destination ./mlflow-artifacts": "tests/tracking_server.py::serving",
    "dvc pull": "tests/test_dvc.py::test_a_fresh_clone_of_the_finished_study_is_up_to_date_and_the_reports_show_its_results",
    "dvc repro": "tests/test_dvc.py::repro",
    "dvc repro --force": "tests/test_dvc.py::studied",
    "dvc add data/paper": ("tests/test_dvc.py::test_raw_data_of_the_papers_scale_get_a_digest_and_git_sees_their_file_alone"),
    "dvc metrics diff HEAD~1": (
        "tests/test_dvc.py::test_results_of_other_parameters_are_never_reported_as_those_of_the_present_ones"
    ),
    "dvc params diff HEAD~1": (
        "tests/test_dvc.py::test_results_of_other_parameters_are_never_reported_as_those_of_the_present_ones"
    ),
    "snakemake --cores 2 all": "tests/test_workflow.py::test_after_all_nothing_is_left_to_do",
    "snakemake --cores 2 main": "tests/test_interruption.py::succeed",
    "snakemake --profile slurm all": (
        "tests/test_slurm.py::test_ordinary_jobs_and_trainings_go_to_the_cluster_and_end_in_table_1"
    ),
    "snakemake --profile slurm --config scale=paper -- all": (
        "tests/test_workflow.py::test_the_slurm_profile_plans_the_same_jobs"
    ),
    "pytest -m paper": "tests/test_paper_scale.py",
    "python tests/paper_scale.py /shared/dry --batch 8 --iterations 50 --weights openai": "tests/test_paper_scale.py::dry",
    "cd /shared/dry": "tests/test_paper_scale.py::dry",
    "snakemake --profile slurm --config scale=paper -- main": "tests/test_paper_scale.py::dry",
    "fgaseg vlm base --scale paper": "tests/test_paper_scale.py::dry",
    "fgaseg convert model_final.pth --run RUN": "tests/test_released.py::test_the_command_writes_a_model_that_evaluation_loads",
    "fgaseg evaluate EVALUATION --scale paper": "tests/test_released.py::test_a_converted_run_is_evaluated_and_shown",
    "fgaseg plan --scale paper": "tests/test_estimate.py::test_a_run_takes_what_it_took_or_what_its_backbone_or_all_took",
    "fgaseg data import coco-stuff-train train2017.zip stuffthingmaps_trainval2017.zip": (
        "tests/test_import.py::test_the_command_says_what_is_still_missing_and_what_comes_next"
    ),
    "fgaseg data verify coco-stuff-train --scale paper --sheet sheet.png": (
        "tests/test_verify.py::test_the_command_tells_by_its_exit_status"
    ),
    "fgaseg data verify harbour --sheet sheet.png": "tests/test_own_datasets.py::test_the_workflow_prepares_it",
}
"""What is too long, needs a server, an installation or archives, and where it is run instead: a file, or a function in it."""

SMALLER = {
    "make quick": f"make -C {ROOT} -n quick",
    "python -m benchmarks 'labels-*' --repeats 5": "python -m benchmarks 'help-tr*' --repeats 1 --allocator default",
    "python -m benchmarks --json out.json --threads 1": (
        "python -m benchmarks help-show --repeats 1 --allocator default --json out.json --threads 1"
    ),
    "python -m benchmarks 'crop-*' --json crops.json && python -m benchmarks.plot cost.png crops.json": (
        "python -m benchmarks crop-20-fast --repeats 1 --allocator default --threads 1 --json crops.json"
        " && python -m benchmarks.plot cost.png crops.json"
    ),
    "python -m benchmarks.modules --classes 150": "python -m benchmarks.modules --classes 20 --repeats 1 --threads 1",
    "python -m benchmarks.preparation": "python -m benchmarks.preparation --images 200 --index 1000",
}
"""The same commands with less to do."""

IN_CHECKOUT = ("dvc dag", "dvc metrics show")
"""What reads git's or DVC's own files, and changes none."""


def blocks(page: Path, language: str) -> list[str]:
    """The fenced blocks of a page."""
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE)


def commands(block: str) -> list[str]:
    """The commands of a block of shell lines, without comments; a continued line is one command."""
    lines = re.sub(r" *\\\n *", " ", block).splitlines()
    return [command for line in lines if (command := re.sub(r"(^|\s+)#.*$", "", line).strip())]


def shell(folder: Path, lines: list[str]) -> subprocess.CompletedProcess[str]:
    """Lines as one script, as a person types them in a folder: an activated environment, the first error ends it."""
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}
    script = "\n".join(["set -euo pipefail", *lines])
    return subprocess.run(["bash", "-c", script], cwd=folder, env=environment, capture_output=True, text=True, check=False)


ALL = {page.name: [commands(block) for block in blocks(page, "sh")] for page in PAGES}


def test_what_is_run_elsewhere_is_there_and_still_in_the_docs() -> None:
    written = {command for page in ALL.values() for block in page for command in block}
    assert sorted((ELSEWHERE.keys() | SMALLER.keys() | set(IN_CHECKOUT)) - written) == []
    for place in ELSEWHERE.values():
        file, _, name = place.partition("::")
        text = (ROOT / file).read_text()
        if name:
            found = {each.name for each in ast.walk(ast.parse(text)) if isinstance(each, ast.FunctionDef)}
            assert name in found, place


@pytest.mark.parametrize("page", ALL)
def test_the_commands_of_a_page_work(page: str, project: Project) -> None:
    """In the order of the page, in a project whose main job is done; a page's YAML is put where the page says."""
    (project.root / ".venv").symlink_to(sys.prefix)
    if page == "start.md":
        table = project.root / "params" / "tables" / "table_3d.yaml"
        project.write(table, table.read_text() + blocks(ROOT / "docs" / page, "yaml")[0])
    if page == "ablations.md":
        content = next(block for block in blocks(ROOT / "docs" / page, "yaml") if block.startswith("title"))
        project.write("params/tables/blocks.yaml", content)
    for block in ALL[page]:
        lines = [SMALLER.get(line, line) for line in block if line not in ELSEWHERE]
        for folder, chosen in (
            (ROOT, [line for line in lines if line in IN_CHECKOUT]),
            (project.root, [line for line in lines if line not in IN_CHECKOUT]),
        ):
            done = shell(folder, chosen)
            assert done.returncode == 0, f"{chosen}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"
    if page == "start.md":  # it has trained, evaluated and reported the row that it added
        assert (project.results / "evaluations" / project.ids("table_3d", 8)[1] / "evaluation.json").exists()
        assert "0.1" in (project.results / "report" / "all" / "table_3d.md").read_text()


def test_python_of_the_docs_works(project: Project, guarded: str) -> None:
    """Segmenting in Python, and a request to a real server, whose port is the only thing that is another."""
    for code in blocks(ROOT / "docs" / "using.md", "python"):
        here = code.replace("http://127.0.0.1:5001/invocations", guarded)
        done = subprocess.run(
            [sys.executable, "-c", here], cwd=project.root, capture_output=True, text=True, check=False, env=os.environ
        )
        assert done.returncode == 0, done.stderr
    assert (project.root / "overlay.png").exists()


def test_mlflow_shows_the_study(project: Project) -> None:
    """The page of `mlflow ui` answers, with the database that `fgaseg track` wrote."""
    project.succeed("track")
    line = next(command for block in ALL["README.md"] for command in block if command.startswith("mlflow ui"))
    with serving(project.root, *line.split(), "--port", ready="health") as address:
        request = urllib.request.Request(
            f"{address}/api/2.0/mlflow/experiments/search", b'{"max_results": 10}', {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=30) as answer:
            assert "fgaseg-sample" in answer.read().decode()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_to_files_that_are_there(page: Path) -> None:
    targets = re.findall(r"\]\(([^)#\s]+?)(?:#[\w-]+)?\)", page.read_text())
    local = [target for target in targets if "://" not in target]
    assert [target for target in local if not (page.parent / target).exists()] == []
