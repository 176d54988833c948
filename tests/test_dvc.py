"""DVC around the study: real clones, `dvc pull` and `dvc repro` of a study of one training.

What must never happen is that a result of other parameters or other data is reported as that of the present ones.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from project import ITERATIONS, PICTURES, VLM, Project, write_project

from fgaseg.plan import Plan
from fgaseg.sample.datasets import MINIATURES, write_sample

ROOT = Path(__file__).parents[1]
TABLES = {
    "table_1": "[{label: {method: Dense CLIP, backbone: base}, method: dense_clip}, {label: {method: FGAseg, backbone: base}}]",
    "fidelity": "[{label: {choice: default model, value: '-'}}]",
}


def sh(folder: Path, *command: str) -> str:
    """What a command says, that must end well."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    names = {f"GIT_{role}_{what}": "test@example.org" for role in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
    environment = os.environ | names | {"PATH": path, "DO_NOT_TRACK": "true", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return done.stdout + done.stderr


def commit(folder: Path) -> None:
    sh(folder, "git", "add", "-A")
    sh(folder, "git", "commit", "-q", "--allow-empty", "-m", "a state of the study")


def repro(folder: Path) -> str:
    """`dvc repro`, and the state of the tree afterwards: up to date, data.dvc untouched."""
    said = sh(folder, "dvc", "repro")
    assert "up to date" in sh(folder, "dvc", "status")
    return said


def reported(folder: Path) -> dict[str, Any]:
    """The scores that the reports show for the default model."""
    metrics = json.loads((folder / "reports" / "metrics.json").read_text())["table_1"]
    return {name: scores["fgaseg"] for name, scores in metrics.items() if name != "mean"}


def evaluated(folder: Path) -> dict[str, Any]:
    """The scores in the results of the present parameters and data."""
    path = Plan(folder, "sample").paths.evaluation(Plan(folder, "sample").default_row.eval_id) / "evaluation.json"
    return {name: round(100 * result["miou"], 2) for name, result in json.loads(path.read_text())["benchmarks"].items()}


def change_seed(folder: Path, seed: int) -> None:
    path = folder / "params" / "base.yaml"
    path.write_text(re.sub(r"( seed: )\d+", rf"\g<1>{seed}", path.read_text()))


def draw(folder: Path, pictures: int) -> None:
    """Draw so many pictures of each dataset in place of the raw data, and tell DVC."""
    weights = (folder / VLM).read_bytes()
    shutil.rmtree(folder / "data" / "sample")
    write_sample(folder / "data" / "sample", counts=dict.fromkeys(MINIATURES, pictures) | {"coco-train": 4})
    (folder / VLM).parent.mkdir()
    (folder / VLM).write_bytes(weights)
    sh(folder, "dvc", "commit", "-q", "-f", "data.dvc")


@pytest.fixture(scope="module")
def origin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository with parameters, code and data, whose study has not run."""
    root = tmp_path_factory.mktemp("dvc") / "origin"
    project: Project = write_project(root)
    for key, old in (
        ("training.iterations", ITERATIONS),
        ("training.validate_every", ITERATIONS),
        ("evaluation.panels", PICTURES),
    ):
        project.edit("params/scale/sample.yaml", f"{key}: {old}", f"{key}: 1")
    project.edit("params/base.yaml", "benchmarks: [a-847, pc-459, a-150, pc-59, pas-20]", "benchmarks: [a-150, pas-20]")
    for path in (root / "params" / "tables").iterdir():
        path.unlink()
    for key, rows in TABLES.items():
        target = "target: fidelity\n" if key == "fidelity" else ""
        project.write(f"params/tables/{key}.yaml", f"title: {key}\ncaption: small\n{target}rows: {rows}\n")
    shutil.copytree(ROOT / "fgaseg", root / "fgaseg", ignore=shutil.ignore_patterns("__pycache__"))
    for name in (".gitignore", ".dvcignore", "environment.yml"):
        shutil.copy(ROOT / name, root)
    (root / ".dvc").mkdir()
    for name in ("config", ".gitignore"):
        shutil.copy(ROOT / ".dvc" / name, root / ".dvc")
    shutil.copy(ROOT / "dvc.yaml", root)
    project.write("data.dvc", "outs:\n- path: data/sample\n  hash: md5\n")
    sh(root, "git", "init", "-q")
    draw(root, 1)
    sh(root, "dvc", "push", "-q")
    commit(root)
    return root


def clone(of: Path, to: Path) -> Path:
    """A fresh clone with the data."""
    sh(of.parent, "git", "clone", "-q", str(of), str(to))
    sh(to, "dvc", "pull", "-q")
    return to


@pytest.fixture(scope="module")
def studied(origin: Path) -> Path:
    """A clone whose study has run and whose reports are committed. To be copied, not changed."""
    folder = clone(origin, origin.parent / "studied")
    repro(folder)
    commit(folder)
    return folder


@pytest.fixture
def folder(studied: Path, tmp_path: Path) -> Iterator[Path]:
    """A fresh clone of the finished study."""
    folder = clone(studied, tmp_path / "clone")
    yield folder
    shutil.rmtree(folder)


def put_results(studied: Path, folder: Path) -> None:
    """Results from elsewhere, newer than all else and without Snakemake's metadata: it takes each file for up to date."""
    shutil.copytree(studied / "results", folder / "results")
    now = time.time()
    for path in (folder / "results").rglob("*"):
        os.utime(path, (now, now))


def test_everything_that_decides_the_study_is_a_dependency() -> None:
    stage = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]["study"]
    files = {next(iter(entry)) for entry in stage["params"]}
    assert files == {"params/base.yaml", "params/workflow.yaml", "params/scale/${scale}.yaml"}
    assert set(stage["deps"]) == {"Snakefile", "workflow", "fgaseg", "params/datasets", "params/tables", "data/${scale}"}


def test_no_path_belongs_to_both_tools() -> None:
    content = yaml.safe_load((ROOT / "dvc.yaml").read_text())
    theirs = [next(iter(out)) if isinstance(out, dict) else out for out in content["stages"]["study"]["outs"]]
    theirs += [out["path"] for out in yaml.safe_load((ROOT / "data.dvc").read_text())["outs"]]
    rules = "".join(path.read_text() for path in [ROOT / "Snakefile", *(ROOT / "workflow" / "rules").glob("*.smk")])
    outputs = re.findall(r"^ +output:\n((?: {8,}.*\n)+)", rules, re.MULTILINE)
    named = [name for block in outputs for name in re.findall(r'f?"([^"\n]*/[^"\n]*|[^"\n]*\.\w+)"', block)]
    named = [name for name in named if not name.startswith("../")]  # captions
    assert len(named) > 5
    assert 'RESULTS = f"results/{SCALE}"' in rules
    assert all(name.startswith(("{RESULTS}/", "results/")) for name in named), named
    assert all(not path.startswith("results") for path in theirs), theirs


def test_raw_data_of_the_papers_scale_get_a_digest_and_git_sees_their_file_alone(origin: Path, tmp_path: Path) -> None:
    sh(tmp_path, "git", "clone", "-q", str(origin), "clone")
    clone = tmp_path / "clone"
    (clone / "data" / "paper" / "JPEGImages").mkdir(parents=True)
    (clone / "data" / "paper" / "JPEGImages" / "2010_000001.jpg").write_bytes(b"a photograph")
    assert Plan(clone, "paper").digest == "untracked"
    sh(clone, "dvc", "add", "data/paper")
    assert re.fullmatch(r"[0-9a-f]{32}\.dir", Plan(clone, "paper").digest)
    assert sh(clone, "git", "status", "--short", "--untracked-files=all") == "?? data/paper.dvc\n"


def test_a_report_that_fails_leaves_the_former_reports_as_they_were(origin: Path, tmp_path: Path) -> None:
    folder = clone(origin, tmp_path / "clone")
    commands = tmp_path / "bin"
    commands.mkdir()
    render = (
        'for word; do [ "$before" = --out ] && out="$word"; before="$word"; done; mkdir -p "$out"; touch "$out/metrics.json"'
    )
    for name, script in (("snakemake", ":"), ("fgaseg", f'case "$*" in *fidelity*) exit 1; esac; {render}')):
        (commands / name).write_text(f"#!/bin/sh\n{script}\n")
        (commands / name).chmod(0o755)
    (folder / "reports").mkdir()
    (folder / "reports" / "metrics.json").write_text("the former ones")
    path = os.pathsep.join([str(commands), str(Path(sys.executable).parent), os.environ["PATH"]])
    with pytest.raises(AssertionError, match=r"failed to run: fgaseg report .* fidelity"):
        sh(folder, "env", f"PATH={path}", "dvc", "repro")
    assert {file.name: file.read_text() for file in (folder / "reports").iterdir()} == {"metrics.json": "the former ones"}


@pytest.mark.slow  # the whole small study runs
def test_a_fresh_clone_of_the_finished_study_is_up_to_date_and_the_reports_show_its_results(
    studied: Path, tmp_path: Path
) -> None:
    assert reported(studied) == evaluated(studied)
    assert not sh(studied, "git", "status", "--porcelain")
    assert sh(studied, "git", "log", "--format=%h", "--", "data.dvc").count("\n") == 1
    fresh = clone(studied, tmp_path / "fresh")
    assert "Data and pipelines are up to date" in sh(fresh, "dvc", "status")
    repro(fresh)
    assert not (fresh / "results").exists()
    assert "table_1" in sh(fresh, "dvc", "metrics", "show")


@pytest.mark.slow  # trains once more
def test_results_of_other_parameters_are_never_reported_as_those_of_the_present_ones(studied: Path, folder: Path) -> None:
    before = reported(folder)
    change_seed(folder, 1)
    put_results(studied, folder)
    assert "training.seed" in sh(folder, "dvc", "params", "diff")
    repro(folder)
    assert reported(folder) == evaluated(folder) != before
    assert "table_1" in sh(folder, "dvc", "metrics", "diff")
    commit(folder)

    # DVC's run cache knows the first parameters, the reports are of the second ones.
    sh(folder, "git", "checkout", "HEAD~1", "--", "params")
    sh(folder, "dvc", "checkout")
    repro(folder)
    assert reported(folder) == evaluated(folder) == before


@pytest.mark.slow  # prepares, trains and evaluates once more
def test_results_of_other_data_are_never_reported_as_those_of_the_present_ones(studied: Path, folder: Path) -> None:
    draw(folder, 2)
    put_results(studied, folder)
    repro(folder)
    plan = Plan(folder, "sample")
    for row in plan.main_rows:
        scores = json.loads((plan.paths.evaluation(row.eval_id) / "evaluation.json").read_text())["benchmarks"]
        assert {result["images"] for result in scores.values()} == {2}
    assert reported(folder) == evaluated(folder)
