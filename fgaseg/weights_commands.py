"""The command `fgaseg convert`: a released checkpoint as a run of this project."""

from pathlib import Path
from typing import Annotated

import typer

from fgaseg.options import ScaleOption, open_plan


def convert_command(
    checkpoint: Annotated[Path, typer.Argument(help="the released model's file (.pth)")],
    run: Annotated[str, typer.Option(help="id of the run to fill, or its beginning; `fgaseg show TABLE` lists them")],
    allow_missing: Annotated[bool, typer.Option("--allow-missing", help="write it though tensors are lacking")] = False,
    scale: ScaleOption = "paper",
) -> None:
    """Convert a released FGAseg checkpoint into a run's model; exit status 1 where the model would lack tensors."""
    from fgaseg.conversion import convert_released

    plan = open_plan(scale)
    report = convert_released(plan, checkpoint, plan.find_run(run), allow_missing)
    typer.echo(report.text)
    if report.model is None:
        raise typer.Exit(1)
