"""What commands share: the scale, and the plan of the project that they are called in."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fgaseg.errors import UserError

if TYPE_CHECKING:
    from fgaseg.plan import Plan

ScaleOption = Annotated[str, typer.Option("--scale", help="sample or paper")]


def open_plan(scale: str) -> "Plan":
    """The plan of the project in the current folder. Raises `UserError` where there is none."""
    from fgaseg.plan import Plan

    root = Path()
    if not (root / "params" / "base.yaml").exists():
        raise UserError("params/base.yaml: not found here; run fgaseg from the project's root folder")
    return Plan(root, scale)  # type: ignore[arg-type]
