"""What commands share: the scale, and the plan of the project that they are called in."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from fgaseg.plan import Plan

ScaleOption = Annotated[str, typer.Option("--scale", help="sample or paper")]


def open_plan(scale: str) -> "Plan":
    """The plan of the project in the current folder. Raises `UserError` where there is none."""
    from fgaseg.plan import open_project

    return open_project(Path(), scale)
