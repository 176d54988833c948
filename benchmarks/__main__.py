"""`python -m benchmarks [PART OF A NAME ...]`: measure, print a table and, with `--json`, write everything down."""

import fnmatch
import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from benchmarks.harness import ALLOCATORS, Case, all_cases, measure, report, table


def main(
    names: Annotated[list[str] | None, typer.Argument(help="groups or cases, such as 'crop*' or 'text encoder*'")] = None,
    repeats: Annotated[int, typer.Option(min=1, help="fresh processes for each case")] = 3,
    threads: Annotated[int, typer.Option(min=1)] = 2,
    allocator: Annotated[list[str] | None, typer.Option(help=f"{' or '.join(ALLOCATORS)}; default: both")] = None,
    out: Annotated[Path | None, typer.Option("--json", help="file to write")] = None,
    listing: Annotated[bool, typer.Option("--list", help="name the cases and stop")] = False,
) -> None:
    """Measure time and memory of the project beside plain ways of doing the same. Run it from the project's root folder."""

    def wanted(case: Case) -> bool:
        whole = f"{case.group}: {case.name}"
        return not names or any(fnmatch.fnmatch(text, name) for name in names for text in (case.group, whole))

    cases = [case for each in all_cases().values() for case in each if wanted(case)]
    if not cases:
        sys.exit(f"no case fits {', '.join(names or [])}; --list names them")
    if listing:
        sys.stdout.write("".join(f"{case.group}: {case.name}\n" for case in cases))
        return
    settings = allocator or list(ALLOCATORS)
    if unknown := set(settings) - set(ALLOCATORS):
        sys.exit(f"--allocator: '{unknown.pop()}' is unknown; choose {' or '.join(ALLOCATORS)}")
    results = measure(wanted, repeats, threads, settings, lambda line: typer.echo(line, err=True))
    sys.stdout.write(table(results) + "\n")
    if out is not None:
        out.write_text(json.dumps(report(results, threads, repeats), indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    typer.run(main)
