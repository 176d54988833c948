"""Imports point one way: params <- plan <- cli; model knows nothing of files, tracking, clusters or the workflow."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "fgaseg"

FORBIDDEN = {
    "catalogue": {"plan", "paths", "data", "model", "training", "evaluation", "reporting", "sample", "loading", "cli"},
    "schema": {"params", "plan", "paths", "data", "model", "training", "evaluation", "reporting", "sample", "loading", "cli"},
    "params": {"plan", "paths", "data", "model", "training", "evaluation", "reporting", "sample", "loading", "cli"},
    "rows": {"plan", "paths", "data", "model", "training", "evaluation", "reporting", "sample", "loading", "cli"},
    "plan": {"data", "model", "training", "evaluation", "reporting", "sample", "loading", "cli"},
    "model": {
        "params",
        "plan",
        "paths",
        "data",
        "training",
        "evaluation",
        "reporting",
        "sample",
        "loading",
        "provenance",
        "cli",
    },
    "data": {"plan", "paths", "model", "training", "evaluation", "reporting", "sample", "loading", "cli"},
    "training": {"reporting", "sample", "cli"},
    "evaluation": {"training", "reporting", "sample", "cli"},
    "reporting": {"model", "training", "sample", "loading", "cli"},
    "sample": {"training", "reporting", "cli"},
    "using": {"training", "sample", "intake", "verification", "cli"},
    "intake": {"model", "training", "evaluation", "reporting", "sample", "loading", "cli"},
    "verification": {"model", "training", "evaluation", "loading", "cli"},
}
OUTSIDE = {
    "model": {"mlflow", "submitit", "snakemake", "dvc", "pandas"},
    "reporting": {"torch", "mlflow", "open_clip", "snakemake"},
    "data": {"mlflow", "snakemake"},
    "using": {"snakemake", "dvc", "submitit"},
    "plan": {"torch", "mlflow", "snakemake"},
    "params": {"torch", "mlflow", "snakemake"},
}


def files(part: str) -> list[Path]:
    folder = PACKAGE / part
    return sorted(folder.rglob("*.py")) if folder.is_dir() else [PACKAGE / f"{part}.py"]


def imported(path: Path) -> set[str]:
    """The dotted names of all modules that a file imports, wherever in the file."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return names


@pytest.mark.parametrize("part", FORBIDDEN)
def test_imports_inside_the_package_point_one_way(part: str) -> None:
    for path in files(part):
        found = {name.split(".")[1] for name in imported(path) if name.startswith("fgaseg.")}
        assert not found & FORBIDDEN[part], path


@pytest.mark.parametrize("part", OUTSIDE)
def test_parts_do_not_know_the_tools_around_them(part: str) -> None:
    for path in files(part):
        assert not {name.split(".")[0] for name in imported(path)} & OUTSIDE[part], path


def test_every_module_is_seen() -> None:
    assert {p.relative_to(PACKAGE).parts[0].removesuffix(".py") for p in PACKAGE.rglob("*.py")} >= FORBIDDEN.keys()
