"""The commands `fgaseg data` and `fgaseg sample`: datasets brought in, looked through and drawn."""

from pathlib import Path
from typing import Annotated

import typer

from fgaseg.catalogue import OwnDataset
from fgaseg.errors import UserError
from fgaseg.options import ScaleOption, open_plan

data_app = typer.Typer(no_args_is_help=True, help="Datasets.")
sample_app = typer.Typer(no_args_is_help=True, help="What the sample scale ships.")


@data_app.command("sample")
def data_sample(out: Annotated[Path, typer.Option(help="folder to write")] = Path("data/sample")) -> None:
    """Draw the sample scale's miniatures of the six datasets, in their raw layouts."""
    from fgaseg.sample.datasets import write_sample

    write_sample(out)


@data_app.command("import")
def data_import(
    dataset: Annotated[str, typer.Argument(help="such as coco-stuff-train or a-150")],
    downloads: Annotated[list[Path], typer.Argument(help="its publisher's archives, plain files or unpacked folders")],
    scale: ScaleOption = "paper",
    workers: Annotated[int | None, typer.Option(min=1, help="processes; default: one for each core")] = None,
) -> None:
    """Bring a dataset's downloads into the raw layout below the data root; an interrupted import goes on."""
    import os

    from fgaseg.intake.importing import import_dataset
    from fgaseg.intake.publishers import PUBLICATIONS
    from fgaseg.intake.remarks import completeness

    plan = open_plan(scale)
    plan.find_dataset(dataset)
    if dataset not in PUBLICATIONS:
        raise UserError(f"{dataset}: a dataset of your own lies where its file in params/datasets says; choose a published one")
    root = plan.root / plan.default.data.root
    count = workers or os.cpu_count() or 1
    for one in import_dataset(PUBLICATIONS[dataset], downloads, root, scale == "paper", count, quiet=False):
        typer.echo(f"{one.download}: {one.written} files written, {one.kept} there already, {one.left_out} not needed")
    typer.echo(completeness(plan, dataset))


@data_app.command("verify")
def data_verify(
    dataset: Annotated[list[str] | None, typer.Argument(help="such as a-150; default: all that the plan uses")] = None,
    scale: ScaleOption = "sample",
    sheet: Annotated[Path | None, typer.Option(help="PNG to write: photographs beside their labels in colour")] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="file to write: all findings and label histograms")] = None,
    workers: Annotated[int | None, typer.Option(min=1, help="processes; default: one for each core")] = None,
) -> None:
    """Look raw datasets through: missing and damaged files, counts, ids, shifted labels. Exit status 1: something is found."""
    from fgaseg.files import write_json
    from fgaseg.verification.report import as_json, text
    from fgaseg.verification.verify import verify

    plan = open_plan(scale)
    data = plan.default.data
    names = dict.fromkeys(dataset or (data.train, data.validation, *data.benchmarks))
    datasets = [plan.find_dataset(name) for name in names]
    if sheet and sheet.suffix.lower() != ".png":
        raise UserError(f"--sheet: '{sheet}': a PNG is written; give a name that ends in .png")
    found = []
    for chosen in datasets:
        found.append(verify(plan, chosen.name, workers, quiet=False))
        folder = chosen.images if isinstance(chosen, OwnDataset) else data.root
        typer.echo(text(found[-1], f"{scale} scale, {folder}"))
    if json_file:
        write_json(json_file, [as_json(one) for one in found])
    if sheet:
        from fgaseg.verification.sheet import contact_sheet

        contact_sheet(found, sheet)
    if any(one.defects for one in found):
        raise typer.Exit(1)


@sample_app.command("vlm")
def sample_vlm(
    out: Annotated[Path, typer.Option(help="file to write")] = Path("data/sample/vlm/fgaseg-mini.safetensors"),
) -> None:
    """Pre-train the small CLIP that the sample data ship (about 20 minutes on 2 cores) and measure it."""
    import json

    from fgaseg.sample.make_vlm import make_vlm

    typer.echo(json.dumps(make_vlm(open_plan("sample").default, out), indent=1))
