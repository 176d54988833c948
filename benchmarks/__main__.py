"""The command `python -m benchmarks`."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from benchmarks.harness.case import choose, load_cases
from benchmarks.harness.report import as_json, machine, table
from benchmarks.harness.run import ALLOCATORS, Measurement, run
from fgaseg.errors import UserError
from fgaseg.files import write_json

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def measure(
    names: Annotated[list[str] | None, typer.Argument(help="cases or groups, wildcards allowed; all when left out")] = None,
    repeats: Annotated[int, typer.Option(min=1, help="fresh processes for each case and allocator")] = 3,
    threads: Annotated[int, typer.Option(min=1, help="CPU threads")] = 2,
    allocator: Annotated[list[str] | None, typer.Option(help="default or raised; both when left out")] = None,
    json: Annotated[Path | None, typer.Option(help="file for all figures")] = None,
    show: Annotated[bool, typer.Option("--list", help="only show the cases")] = False,
) -> None:
    """Measure time and peak memory of cases, each in fresh processes, in turn with the others of its group."""
    cases = choose(load_cases(), names or [])
    if show:
        for case in cases:
            print(f"{case.group:28} {case.name}")
        return
    allocators = allocator or list(ALLOCATORS)
    for each in allocators:
        if each not in ALLOCATORS:
            raise UserError(f"--allocator: '{each}' is unknown; choose {', '.join(ALLOCATORS)}")
    about = machine()
    total, done = len(cases) * len(allocators) * repeats, 0

    def progress(measurement: Measurement) -> None:
        nonlocal done
        done += 1
        latest = f"{measurement.seconds[-1]:.4g} s" if measurement.problem is None else measurement.problem
        print(f"{done}/{total} {measurement.case.name} ({measurement.allocator}): {latest}", file=sys.stderr, flush=True)

    measurements = run(cases, repeats, threads, allocators, progress)
    if json is not None:
        write_json(json, as_json(measurements, threads, about))
    print(table(measurements, threads, about))
    if any(m.failed for m in measurements):
        raise UserError("some cases failed; the table tells which")


def main() -> None:
    """A user's mistake is one line."""
    try:
        app()
    except UserError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
