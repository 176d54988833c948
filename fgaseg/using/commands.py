"""The commands that use a trained model; each is registered by `fgaseg.cli`."""

from pathlib import Path
from typing import Annotated

import typer

from fgaseg.options import ScaleOption, open_plan

Threads = Annotated[int | None, typer.Option("--threads", min=1, help="CPU threads; default: params/launch.yaml")]
Run = Annotated[str, typer.Option("--run", help="run id, its beginning, or main: the default model")]
Classes = Annotated[
    str | None, typer.Option("--classes", help='class names: "sky, tree, sofa|couch"; a bar parts names of one class')
]
ClassesFile = Annotated[Path | None, typer.Option("--classes-file", help="a text file with one class a line")]
Dataset = Annotated[str | None, typer.Option("--vocabulary", help="a dataset's classes, such as a-150")]
Prompts = Annotated[
    list[str] | None, typer.Option("--prompt", help='a prompt template such as "a drawing of a {}"; may be given several times')
]


def predict(
    photos: Annotated[list[str], typer.Argument(help="pictures, folders of them, or file:// URLs", metavar="PHOTO...")],
    out: Annotated[Path, typer.Option(help="overlay to write (PNG), labels and areas beside it; for several a folder")],
    classes: Classes = None,
    classes_file: ClassesFile = None,
    vocabulary: Dataset = None,
    prompt: Prompts = None,
    background: Annotated[
        float | None, typer.Option(help="score from 0 to 1: pixels whose best class is below it become background")
    ] = None,
    run: Run = "main",
    scale: ScaleOption = "sample",
    threads: Threads = None,
) -> None:
    """Segment photographs into classes that you name; exit status 1 where some of several could not be read or written."""
    from fgaseg.predict import predict as segment
    from fgaseg.predict import read_request

    plan = open_plan(scale)
    request = read_request(classes, classes_file, vocabulary, prompt or (), background)
    told, well = segment(plan, photos, request, out, run, threads)
    typer.echo(told)
    if not well:
        raise typer.Exit(1)


def features(
    photo: Annotated[str, typer.Argument(help="a picture or its file:// URL")],
    out: Annotated[Path, typer.Option(help="npz file to write")],
    classes: Classes = None,
    classes_file: ClassesFile = None,
    vocabulary: Dataset = None,
    prompt: Prompts = None,
    run: Run = "main",
    scale: ScaleOption = "sample",
    threads: Threads = None,
) -> None:
    """Write a photograph's dense features, aligned text features, and global, local and fused maps as arrays."""
    from fgaseg.predict import read_request
    from fgaseg.using.features import aligned_features, check_out, write_features
    from fgaseg.using.inputs import local_path
    from fgaseg.using.pictures import open_photo
    from fgaseg.using.segmenter import segmenter_of

    plan = open_plan(scale)
    request = read_request(classes, classes_file, vocabulary, prompt or ())
    path = local_path(photo)
    image = open_photo(path)
    check_out(path, out)
    arrays = aligned_features(segmenter_of(plan, run, threads), image, request.vocabulary, request.prompts)
    typer.echo(write_features(arrays, out))


def app(
    host: Annotated[
        str, typer.Option(help="address to listen on; 0.0.0.0 lets other machines in, without a password")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535)] = 7860,
    scale: ScaleOption = "sample",
    threads: Threads = None,
) -> None:
    """Serve a web page: drop a picture, type classes, compare runs."""
    from fgaseg.using.web import serve

    serve(open_plan(scale), host, port, threads, typer.echo)


def export(
    run: Annotated[str, typer.Argument(help="run id, its beginning, or main: the default model")],
    out: Annotated[Path, typer.Argument(help="folder to write")],
    scale: ScaleOption = "sample",
) -> None:
    """Write a trained run as an MLflow model, for `fgaseg serve` and `mlflow models serve`."""
    from fgaseg.using.export import export as write

    plan = open_plan(scale)
    chosen = plan.default_row.run_id if run == "main" else plan.find_run(run)
    assert chosen is not None
    typer.echo(write(plan, chosen, out))


def serve(
    model: Annotated[Path, typer.Argument(help="folder that `fgaseg export` wrote")],
    host: Annotated[str, typer.Option(help="address to listen on; others than 127.0.0.1 let other machines in")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535)] = 5001,
) -> None:
    """Serve an exported model by HTTP: MLflow's scoring server behind limits and checks."""
    from fgaseg.using.export import serve_model

    serve_model(model, host, port, typer.echo)
