"""The command `fgaseg`: each subcommand is one step that a rule of the workflow, or a person, runs."""

import logging
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fgaseg.data_commands import data_app, sample_app
from fgaseg.errors import UserError, one_line
from fgaseg.logs import set_up_logs
from fgaseg.options import ScaleOption, open_plan
from fgaseg.using import commands
from fgaseg.weights_commands import convert_command

if TYPE_CHECKING:
    from fgaseg.plan import Scope

log = logging.getLogger(__name__)
app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help=__doc__)
app.add_typer(data_app, name="data")
app.add_typer(sample_app, name="sample")
app.command("convert")(convert_command)


def _scope(scope: str) -> "Scope":
    from typing import get_args

    from fgaseg.plan import Scope

    if scope not in get_args(Scope):
        raise UserError(f"--scope: '{scope}' is unknown; choose {', '.join(get_args(Scope))}")
    return scope  # type: ignore[return-value]


@app.command()
def prepare(
    dataset: Annotated[str, typer.Argument(help="such as coco-stuff-train or a-150")],
    scale: ScaleOption = "sample",
    workers: Annotated[int, typer.Option(min=1, help="processes")] = 1,
) -> None:
    """Bring a raw dataset to the common form that training and evaluation read."""
    from fgaseg.data.prepare import prepare as run
    from fgaseg.data.prepared import PreparedDataset
    from fgaseg.data.raw import raw_dataset
    from fgaseg.expected import expected_images, miscounted

    plan = open_plan(scale)
    raw, root = raw_dataset(plan.find_dataset(dataset), plan.root, plan.default.data.root)
    if not root.is_dir():
        raise UserError(
            f"{root}: no data is there; `dvc pull` brings what data.dvc tracks, `fgaseg data import` what publishers ship"
        )
    out = plan.paths.dataset(dataset)
    run(raw, root, out, workers)
    if wrong := miscounted(dataset, len(PreparedDataset(out).samples), expected_images(plan, dataset)):
        log.warning("%s; look it through with `fgaseg data verify %s --scale %s`", wrong, dataset, scale)


@app.command()
def vlm(backbone: Annotated[str, typer.Argument(help="base or large")], scale: ScaleOption = "sample") -> None:
    """Provide the weights of a CLIP backbone as open_clip loads them."""
    from fgaseg.model.weights import provide

    plan = open_plan(scale)
    if backbone not in plan.backbones:
        raise UserError(f"backbone '{backbone}' is unknown; params/scale/{scale}.yaml has {', '.join(plan.backbones)}")
    params = plan.backbones[backbone].vlm
    provide(params.architecture, params.pretrained, plan.root, plan.paths.vlm(backbone), params.pretrained_sha256)


@app.command()
def train(
    run: Annotated[str, typer.Argument(help="run id, or its beginning; `fgaseg show` lists them")],
    scale: ScaleOption = "sample",
    on: Annotated[str, typer.Option(help="here, or slurm: as a job of the cluster in params/launch.yaml")] = "here",
) -> None:
    """Train one run, or continue it from its last checkpoint; where another process is training it, wait for its model.

    A run that has its model already is left as it is.
    """
    from fgaseg.files import exclusive
    from fgaseg.params import check_world, load_launch

    plan = open_plan(scale)
    run_id, launch = plan.find_run(run), load_launch(plan.root)
    if on == "slurm":
        from fgaseg.launch.launcher import launch_run

        check_world(plan.runs[run_id].training, launch.cluster.world, "params/launch.yaml: cluster.nodes x gpus_per_node")
        typer.echo(launch_run(plan, run_id, launch))
        return
    if on != "here":
        raise UserError(f"--on: '{on}' is unknown; choose here or slurm")
    from fgaseg.training.run import train_run

    model = plan.paths.run(run_id) / "model.safetensors"
    if not model.is_file():
        with exclusive(plan.paths.run(run_id)):  # another process may be training it
            pass
    typer.echo(model if model.is_file() else train_run(plan, run_id, launch))


@app.command()
def evaluate(
    evaluation: Annotated[str, typer.Argument(help="evaluation id, or its beginning; `fgaseg show` lists them")],
    scale: ScaleOption = "sample",
) -> None:
    """Score a trained run, or the untrained dense CLIP, on all benchmarks."""
    from fgaseg.evaluation.run import evaluate_row
    from fgaseg.params import load_launch

    plan = open_plan(scale)
    typer.echo(evaluate_row(plan, plan.find_evaluation(evaluation), load_launch(plan.root)))


@app.command()
def timing(
    table: Annotated[str, typer.Argument(help="such as table_6: its rows differ in top-N alone")] = "table_6",
    scale: ScaleOption = "sample",
) -> None:
    """Measure the time per image of a table's rows, side by side and one image at a time."""
    from fgaseg.evaluation.timing import time_table
    from fgaseg.params import load_launch

    plan = open_plan(scale)
    typer.echo(time_table(plan, table, load_launch(plan.root)))


@app.command()
def report(
    scope: Annotated[str, typer.Option(help="main (Table I's default rows), all (the paper's tables) or fidelity")] = "all",
    out: Annotated[Path | None, typer.Option(help="folder to write; default: results/<scale>/report/<scope>")] = None,
    scale: ScaleOption = "sample",
    quiet: Annotated[bool, typer.Option(help="do not print Table I")] = False,
) -> None:
    """Render tables, figures and report.html from the trainings and evaluations that exist."""
    from fgaseg.files import complete_files
    from fgaseg.reporting.figures import write_figures
    from fgaseg.reporting.page import write_page
    from fgaseg.reporting.tables import write_tables

    plan, chosen = open_plan(scale), _scope(scope)
    folder = out or plan.paths.report / scope
    if not folder.name:
        raise UserError(f"--out: '{folder}' is no folder of the report's own; name one, such as reports.new")
    with complete_files(folder) as rendered:
        tables = write_tables(plan, chosen, rendered)
        figures = write_figures(plan, chosen, rendered)
        write_page(plan, chosen, tables, figures, rendered)
    text = folder / "table_1.txt"
    if not quiet and scope != "fidelity":
        typer.echo(text.read_text(encoding="utf-8").rstrip("\n"))


@app.command()
def track(scale: ScaleOption = "sample") -> None:
    """Bring MLflow up to all runs, evaluations and reports that exist; exit status 1 where something was not delivered."""
    from fgaseg.params import load_launch
    from fgaseg.tracking import deliver, tracking_uri

    plan = open_plan(scale)
    launch = load_launch(plan.root)
    if not deliver(plan, launch):
        raise typer.Exit(1)
    uri = tracking_uri(plan, launch)
    typer.echo(f"tracked; look at {uri}" if launch.tracking_uri else f"tracked; mlflow ui --backend-store-uri {uri}")


@app.command("show")
def show_command(
    what: Annotated[str | None, typer.Argument(help="a table such as table_2, or a run's or evaluation's id")] = None,
    row: Annotated[int | None, typer.Argument(help="number of a row of the table")] = None,
    scale: ScaleOption = "sample",
) -> None:
    """Show all tables; the rows of one; or all about one row: ids, parameters, state, scores, what made it."""
    from fgaseg.show import show

    typer.echo(show(open_plan(scale), what, row))


@app.command("status")
def status_command(
    scope: Annotated[str, typer.Option(help="all (the paper's tables), main or fidelity")] = "all",
    watch: Annotated[bool, typer.Option("--watch", help="show it again every 5 seconds, until Ctrl-C")] = False,
    scale: ScaleOption = "sample",
) -> None:
    """Show how far the trainings are, from files alone: works without SLURM, while the workflow runs, and after it died."""
    import shutil
    import time
    from contextlib import suppress

    from fgaseg.status import status

    plan, chosen = open_plan(scale), _scope(scope)

    def now() -> str:
        return status(plan, chosen, shutil.get_terminal_size((100, 24)).columns)

    if not watch:
        typer.echo(now())
        return
    with suppress(KeyboardInterrupt):
        while True:
            typer.echo(f"\x1b[H\x1b[2J{now()}")
            time.sleep(5)


@app.command("plan")
def plan_command(
    scope: Annotated[str, typer.Option(help="all (the paper's tables), main or fidelity")] = "all",
    nodes: Annotated[int | None, typer.Option(min=1, help="nodes to be had; default: as many as one training takes")] = None,
    seconds_per_iteration: Annotated[float | None, typer.Option(help="default: as measured in the runs that there are")] = None,
    seconds_per_image: Annotated[
        float | None, typer.Option(help="default: as measured in the evaluations that there are")
    ] = None,
    price_per_gpu_hour: Annotated[float | None, typer.Option(help="in any currency")] = None,
    scale: ScaleOption = "paper",
) -> None:
    """Estimate GPU-hours, time and disk: of what is still to be done, and of all from nothing."""
    from fgaseg.estimate import estimate

    given = {
        "--seconds-per-iteration": seconds_per_iteration,
        "--seconds-per-image": seconds_per_image,
        "--price-per-gpu-hour": price_per_gpu_hour,
    }
    for option, value in given.items():
        if value is not None and not 0 < value < float("inf"):
            raise UserError(f"{option}: {value:g}: a number above 0 is expected")
    typer.echo(estimate(open_plan(scale), _scope(scope), nodes, *given.values()))


for command in (commands.predict, commands.features, commands.app, commands.export, commands.serve):
    app.command()(command)


def main() -> None:
    """Run the command; a user's mistake is one line on standard error and exit status 2."""
    set_up_logs()
    try:
        app()
    except UserError as error:
        message = one_line(error)
    except OSError as error:
        message = f"{error.filename or 'a file'}: {error.strerror or error}; check that it is there and may be read or written"
    else:
        return
    print(f"fgaseg: {message}", file=sys.stderr)
    sys.exit(2)


if __name__ == "__main__":
    main()
