"""The web page: drop a picture, type classes, see what one run, or two side by side, find. Needs the extra `app` (Gradio)."""

import html
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from starlette.middleware import Middleware

from fgaseg.errors import UserError, one_line
from fgaseg.plan import Plan
from fgaseg.using.guard import Guard
from fgaseg.using.limits import REQUEST
from fgaseg.using.overlay import class_colours, percent
from fgaseg.using.pictures import decode
from fgaseg.using.segmentation import Segmentation
from fgaseg.using.segmenter import PhotoSegmenter, segmenter_of
from fgaseg.using.vocabulary import parse_classes

if TYPE_CHECKING:
    import gradio

MISSING = "the web page needs Gradio: `make app` builds an environment with it, then .venv-app/bin/fgaseg app"
NONE = "(none)"
_CSS = """
.legend {border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; border: 0 !important}
.legend tr {border: 0 !important}
.legend th, .legend td {padding: 3px 8px !important; text-align: right; white-space: nowrap;
  border: 0 !important; border-bottom: 1px solid var(--border-color-primary) !important}
.legend th:nth-child(2), .legend td:nth-child(2) {text-align: left; width: 99%; white-space: normal; overflow-wrap: anywhere}
.legend i {display: inline-block; width: 1.2em; height: 1.2em; vertical-align: middle; border: 1px solid #5a5a5a}
.refusal {color: #b00020; font-weight: 600}
"""


def trained_runs(plan: Plan) -> dict[str, str]:
    """The runs whose model is there: beginning of the id and what people call them -> id, the default model first."""
    default = plan.default_row.run_id
    found: dict[str, str] = {}
    for run in sorted(plan.runs, key=lambda run: run != default):
        if (plan.paths.run(run) / "model.safetensors").exists():
            row = plan.rows_with(run)[0]
            found[f"{run[:6]} · {'default model' if run == default else row.name}"] = run
    if not found:
        raise UserError(f"{plan.paths.results / 'runs'}: no trained model; train one with `make sample`")
    return found


def legend(result: Segmentation) -> str:
    """A table in HTML: colour, name, share and confidence of each class, largest first; classes not found at the end."""
    table = class_colours(result.names)
    rows = []
    for i in sorted(range(len(result.names)), key=lambda i: -result.shares[i]):
        name, sure = result.names[i], result.class_confidence[i]
        colour = "rgb({}, {}, {})".format(*table[name])
        rows.append(
            f'<tr><td><i style="background: {colour}"></i></td><td>{html.escape(name)}</td>'
            f"<td>{percent(result.shares[i])}</td><td>{'–' if sure is None else f'{sure:.2f}'}</td></tr>"
        )
    head = "<tr><th></th><th>class</th><th>area</th><th>confidence</th></tr>"
    return f'<table class="legend">{head}{"".join(rows)}</table>'


class Runs:
    """The segmenters of a plan, each loaded when it is first asked for."""

    def __init__(self, plan: Plan, threads: int | None) -> None:
        self.plan, self.threads, self.titles = plan, threads, trained_runs(plan)
        self._loaded: dict[str, PhotoSegmenter] = {}

    def __getitem__(self, title: str) -> PhotoSegmenter:
        if title not in self.titles:
            raise UserError("run: unknown; choose one from the list")
        run = self.titles[title]
        if run not in self._loaded:
            self._loaded[run] = segmenter_of(self.plan, run, self.threads)
        return self._loaded[run]


def answer(runs: Runs, picture: str | None, classes: str, background: float, first: str, second: str) -> list[Any]:
    """What the page shows for a request: overlay and legend of two runs, of the second None and "" where none is chosen.

    `picture` is the file that Gradio has kept of the upload. Raises `UserError` for what cannot be used.
    """
    if not isinstance(picture, str):
        raise UserError("picture: none; drop one into the box")
    if not isinstance(classes, str):
        raise UserError("classes: text is expected")
    vocabulary = parse_classes(classes, "classes", REQUEST)
    size = Path(picture).stat().st_size
    REQUEST.check_bytes(size, "picture")
    image = decode(Path(picture).read_bytes(), "picture")
    shown: list[Any] = []
    for title in (first, second):
        if title == NONE:
            shown += [None, ""]
            continue
        result = runs[title](image, vocabulary, background=background or None, limits=REQUEST)
        heading = f"<p><b>{html.escape(title)}</b></p>"
        shown += [result.mask(), heading + legend(result)]
    return shown


def build_page(runs: Runs) -> "gradio.Blocks":
    """The page as Gradio blocks; one request at a time is worked on, ten may wait."""
    gr = _gradio()
    titles = list(runs.titles)

    def respond(*values: Any) -> list[Any]:
        try:
            return [*answer(runs, *values), ""]
        except UserError as error:
            return [None, "", None, "", f'<p class="refusal">{html.escape(one_line(error))}</p>']

    with gr.Blocks(title="FGAseg", analytics_enabled=False, delete_cache=(600, 600)) as page:
        gr.Markdown(f"# FGAseg\nSegments a picture into the classes that you name. Scale: **{runs.plan.scale}**.")
        with gr.Row():
            with gr.Column(scale=2):
                picture = gr.Image(
                    type="filepath", sources=["upload", "clipboard"], label="Picture", height=320, elem_id="picture"
                )
            with gr.Column(scale=3):
                classes = gr.Textbox(
                    "sky, tree, boat, sofa|couch",
                    label="Classes",
                    info="parted by commas; a bar parts several names of one class",
                    max_length=REQUEST.classes * REQUEST.letters,
                    elem_id="classes",
                )
                background = gr.Slider(
                    0,
                    1,
                    0,
                    step=0.05,
                    label="Background",
                    info="pixels that are less sure belong to no class; 0: every pixel does",
                )
                with gr.Row():
                    first = gr.Dropdown(titles, value=titles[0], label="Run", elem_id="first")
                    second = gr.Dropdown([NONE, *titles], value=NONE, label="Compare with", elem_id="second")
                button = gr.Button("Segment", variant="primary", elem_id="segment")
                said = gr.HTML(elem_id="said")
        outputs = []
        with gr.Row():
            for place in ("one", "two"):
                with gr.Column(visible=place == "one") as column:
                    outputs += [
                        gr.Image(label="Classes found", interactive=False, format="png", buttons=["download"], elem_id=place),
                        gr.HTML(elem_id=f"legend-{place}"),
                    ]
        second.change(lambda title: gr.Column(visible=title != NONE), second, column, api_name=False)
        inputs = [picture, classes, background, first, second]
        event: dict[str, Any] = {"concurrency_limit": 1, "api_name": "segment"}
        button.click(respond, inputs, [*outputs, said], **event)
        classes.submit(respond, inputs, [*outputs, said], concurrency_limit=1, api_name=False)
    page.queue(max_size=10)
    return page


def no_addresses(path: str, content: Any) -> None:
    """`UserError` for a request that names a picture by an address: nothing is downloaded.

    The page itself sends the address at which this server shows an upload beside its path, which is the one that counts.
    """
    stack = [content]
    while stack:
        each = stack.pop()
        if isinstance(each, dict):
            stored = each.get("path")
            if ("url" in each and not stored) or (isinstance(stored, str) and "://" in stored):
                raise UserError("picture: an address; nothing is downloaded, upload the picture")
            stack += each.values()
        elif isinstance(each, list):
            stack += each


def _gradio() -> Any:
    """Gradio with everything off that would tell others of its use."""
    os.environ.update(GRADIO_ANALYTICS_ENABLED="False", HF_HUB_OFFLINE="1", HF_HUB_DISABLE_TELEMETRY="1")
    try:
        import gradio
    except ImportError:
        raise UserError(MISSING) from None
    return gradio


def serve(plan: Plan, host: str, port: int, threads: int | None, tell: Callable[[str], None]) -> None:
    """Serve the page until Ctrl-C. Raises `UserError` without Gradio, without a trained model, and for a port in use."""
    gr = _gradio()
    page = build_page(Runs(plan, threads))
    theme = gr.themes.Default(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"])
    try:
        page.launch(
            server_name=host,
            server_port=port,
            share=False,
            quiet=True,
            prevent_thread_lock=True,
            max_file_size=REQUEST.body,
            theme=theme,
            css=_CSS,
            footer_links=["api"],
            ssr_mode=False,
            enable_monitoring=False,
            show_error=False,
            app_kwargs={"middleware": [Middleware(Guard, check=no_addresses)]},
        )
    except OSError as error:
        raise UserError(f"--port {port}: cannot be used ({error}); choose another port") from None
    tell(f"http://{host}:{port} (Ctrl-C ends it)")
    page.block_thread()
