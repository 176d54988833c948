"""How long commands take to start, and Snakemake to see what is to do."""

import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import typer

from benchmarks.harness import Case
from fgaseg.cli import app


def _run(*command: str) -> Callable[[], object]:
    """The command, by the script beside this interpreter, at the project's root."""
    root = Path(__file__).parents[1]
    program, *arguments = command
    whole = [str(Path(sys.executable).with_name(program)), *arguments]
    return lambda: subprocess.run(whole, cwd=root, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=True)


def _names(group: Any, before: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """All commands of `fgaseg`, as typed."""
    for name, command in group.commands.items():
        if hasattr(command, "commands"):  # typer brings a click of its own
            yield from _names(command, (*before, name))
        else:
            yield (*before, name)


_FGASEG = typer.main.get_command(app)

CASES = [
    Case("snakemake-n-all", "what is to do", partial(_run, "snakemake", "-n", "--quiet", "all", "--", "all")),
    Case("start-show", "answers", partial(_run, "fgaseg", "show")),
    Case("start-status", "answers", partial(_run, "fgaseg", "status")),
    *(Case(f"help-{'-'.join(name)}", "help", partial(_run, "fgaseg", *name, "--help")) for name in _names(_FGASEG)),
]
