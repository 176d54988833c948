"""The report as one HTML page that needs nothing else: tables, figures, training curves, and where the numbers come from."""

import base64
import html
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import groupby
from pathlib import Path

from fgaseg.files import write_whole
from fgaseg.plan import Plan, Scope
from fgaseg.reporting.cells import LOW_INTERVALS
from fgaseg.reporting.figures import Figure, runs_by_table, short_title
from fgaseg.reporting.layout import Table
from fgaseg.reporting.results import Evaluations, Provenance
from fgaseg.reporting.statistics import LEVEL, SAMPLES
from fgaseg.reporting.webpage import STYLE, fragment

_CURVES = "curves-"  # how the keys of single trainings' figures begin
_TITLES: dict[Scope, str] = {
    "main": "FGAseg: the default model",
    "all": "FGAseg: tables and figures of the paper",
    "fidelity": "FGAseg: where the paper and the released code differ",
}
_BANNERS = {
    "sample": (
        "Sample scale: these are not the paper's numbers",
        "All that is measured here comes from scenes that this project draws, from a small CLIP, and from trainings of a "
        "minute or two. It shows that the whole study runs, whether FGAseg improves on the untrained CLIP that it starts "
        "from, and what its parts do on these scenes. It says nothing about the method on photographs, and cannot be "
        "compared with published numbers; those stand in sections of their own and come from real datasets and OpenAI's "
        "CLIP.",
    ),
    "paper": ("Paper scale", "Real datasets, OpenAI's CLIP and the training length of the paper."),
}
_HOW_TO_READ = (
    ("12.3 (11.0\N{EN DASH}13.6)", f"mIoU in percent, its {LEVEL:.0%} interval over images ({SAMPLES} bootstrap resamples). "
     + LOW_INTERVALS),
    ("+1.2* (+0.4 to +2.0)", "a difference, paired by image. The asterisk: its interval excludes 0. Grey, without one: not "
     "distinguishable from 0 on these images. With many rows some intervals exclude 0 by chance."),
    ("\N{PLUS-MINUS SIGN} 0.5", "standard deviation over training seeds, where a row has several. Any other row is one "
     "training, and its interval does not hold what another seed would change."),
    ("bold", "the highest number of its column in its section. Shaded rows are the ones that the table is about."),
    ("missing", "planned, but not evaluated yet: never a zero."),
    ("stale", "in a footnote: trained or evaluated at another revision, or on other data, than the plan's."),
    ("other code", "in a footnote: at the plan's revision, but trained or evaluated by other code than the present one."),
)  # fmt: skip
_PAGE_STYLE = """
* { box-sizing: border-box; }
html { scroll-padding-top: 1rem; }
body { margin: 0; font: 15px/1.5 system-ui, sans-serif; color: #1c2126; background: #fff; }
a { color: #0b57a4; }
.layout { display: grid; grid-template-columns: 16.5rem minmax(0, 1fr); max-width: 96rem; margin: 0 auto; }
nav { position: sticky; top: 0; height: 100vh; overflow-y: auto; padding: 1.4rem 1rem;
  border-right: 1px solid #dde1e5; font-size: 13.5px; }
nav p { margin: 1rem 0 .2rem; font-weight: 700; } nav p:first-child { margin-top: 0; }
nav ul { list-style: none; margin: 0; padding: 0; }
nav a { display: block; padding: .16rem .4rem; color: #1c2126; text-decoration: none; border-radius: 4px; }
nav a:hover, nav a:focus { background: #eaf1f8; color: #0b57a4; }
nav small { color: #5b6670; }
main { padding: 1.6rem 2.2rem 4rem; }
h1 { font-size: 1.7rem; line-height: 1.25; margin: 0 0 1rem; }
h2 { font-size: 1.4rem; margin: 3rem 0 1rem; padding-bottom: .3rem; border-bottom: 2px solid #1c2126; }
h3 { font-size: 1.15rem; }
.banner { border-left: 5px solid #b25c00; background: #fdf4e7; padding: .8rem 1.1rem; max-width: 62rem; }
.banner.paper { border-color: #2e6b3d; background: #eef7f0; }
.banner strong { display: block; }
main p, main dl { max-width: 62rem; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .25rem 1.2rem; margin: 0; }
dt { font-weight: 600; white-space: nowrap; } dd { margin: 0; }
.fgaseg-table { margin-top: 2.6rem; }
figure { margin: 1.2rem 0 2rem; } figcaption { font-weight: 600; margin-bottom: .4rem; }
img { max-width: 100%; height: auto; display: block; }
details { margin: .8rem 0; } summary { cursor: pointer; color: #0b57a4; }
.origin { border-collapse: collapse; font-size: .92em; }
.origin th, .origin td { text-align: left; padding: .25rem .8rem .25rem 0; }
.origin th { border-bottom: 1px solid #1c2126; }
.origin td { font-family: ui-monospace, monospace; font-size: .92em; vertical-align: top; }
.wide { overflow-x: auto; }
@media (max-width: 1000px) {
  .layout { display: block; }
  nav { position: static; height: auto; border-right: 0; border-bottom: 1px solid #dde1e5; }
  nav ul { columns: 3 12rem; }
  main { padding: 1.2rem 1rem 3rem; }
  dl { grid-template-columns: 1fr; } dd { margin: 0 0 .4rem 1rem; }
}
@media print {
  .layout { display: block; } nav { display: none; } body { font-size: 10pt; } main { padding: 0; }
  .banner { border: 1px solid #b25c00; }
  figure, tr { break-inside: avoid; } h2, h3, h4 { break-after: avoid; }
  .fgaseg-table .scroll { overflow: visible; } .fgaseg-table table { font-size: 8pt; }
}
"""


def _image(figure: Figure, out: Path) -> str:
    data = base64.b64encode((out / figure.file).read_bytes()).decode()
    return f'<img alt="{html.escape(figure.title)}" src="data:image/png;base64,{data}">'


def _figure(figure: Figure, out: Path) -> str:
    """A figure with its title above it, but for curves, which have it in the picture."""
    title = "" if figure.key.startswith(_CURVES) else f"<figcaption>{html.escape(figure.title)}</figcaption>\n"
    return f'<figure id="figure-{figure.key}">\n{title}{_image(figure, out)}\n</figure>'


def _figures(figures: Iterable[Figure], out: Path) -> list[str]:
    """The figures; those in a row that share a caption have it once, above them."""
    parts = []
    for caption, group in groupby(figures, key=lambda figure: figure.caption):
        parts += [f"<p>{html.escape(caption)}</p>", *(_figure(figure, out) for figure in group)]
    return parts


def _curves(table: Table, runs: Iterable[str], figures: dict[str, Figure], shown: set[str], out: Path) -> str:
    """The curves of a table's trainings, folded; those that an earlier table has shown are linked. Adds to `shown`."""
    new, links = [], []
    for run in runs:
        figure = figures[run]
        if run in shown:
            links.append(f'<a href="#figure-{figure.key}">{html.escape(figure.title)}</a>')
        else:
            new.append(figure)
            shown.add(run)
    number = len(new) + len(links)
    if not number:
        return ""
    parts = _figures(new, out)
    if links:
        parts.append(f"<p>Shown above: {'; '.join(links)}.</p>")
    count = "its training" if number == 1 else f"its {number} trainings"
    return "\n".join(
        [f"<details><summary>{html.escape(short_title(table.title))}: curves of {count}</summary>", *parts, "</details>"]
    )


def _entry(target: str, title: str) -> str:
    name, _, rest = title.partition(":")
    rest = f" <small>{html.escape(rest.strip())}</small>" if rest else ""
    return f'<li><a href="#{target}">{html.escape(name)}{rest}</a></li>'


def _navigation(tables: Sequence[Table], figures: Iterable[Figure]) -> str:
    groups = (
        ("Report", [_entry("how-to-read", "How to read"), _entry("provenance", "Provenance")]),
        ("Tables", [_entry(f"table-{table.key}", table.title) for table in tables]),
        ("Figures", [_entry(f"figure-{figure.key}", figure.title) for figure in figures]),
    )
    parts = ["\n".join([f"<p>{name}</p>", "<ul>", *entries, "</ul>"]) for name, entries in groups]
    return "\n".join(['<nav aria-label="Contents">', *parts, "</nav>"])


def _origin_table(origins: Sequence[tuple[str, Provenance]]) -> str:
    """A line for each distinct origin of trainings and of evaluations, with their number."""
    heads = ("", "commit", "code", "data", "revision", "packages")
    distinct = Counter((what, origin.model_dump_json()) for what, origin in origins)
    lines = []
    for (what, content), number in sorted(distinct.items(), reverse=True):
        origin = Provenance.model_validate_json(content)
        revision = ", ".join(f"{name} {value}" for name, value in origin.revision.model_dump().items())
        packages = ", ".join(f"{name} {version}" for name, version in sorted(origin.packages.items()))
        cells = (f"{number} {what}{'s' * (number > 1)}", origin.git_commit, origin.code, origin.data_digest, revision, packages)
        lines.append("".join(f"<td>{html.escape(cell)}</td>" for cell in cells))
    head = "".join(f'<th scope="col">{name}</th>' for name in heads)
    body = "\n".join(f"<tr>{line}</tr>" for line in lines)
    return (
        f'<div class="wide"><table class="origin">\n<thead><tr>{head}</tr></thead>\n<tbody>\n{body}\n</tbody>\n</table></div>'
    )


def _provenance(plan: Plan, scope: Scope) -> str:
    """Where the trainings and evaluations of a scope come from, as far as there are any."""
    planned, evaluations = plan.evaluations_of(scope), Evaluations(plan)
    found = [result for row in planned.values() if (result := evaluations.find(row))]
    stale = sum(result.stale for result in found)
    trainings = {result.evaluation.run_id: result.evaluation.training for result in found if result.evaluation.training}
    origins = [("training", origin) for origin in trainings.values()]
    origins += [("stale evaluation" if r.stale else "evaluation", r.evaluation.provenance) for r in found]
    apart = f" {stale} more {'is' if stale == 1 else 'are'} stale: of another revision or other data." if stale else ""
    sentence = (
        f"{len(found) - stale} of {len(planned)} planned evaluations are there.{apart} "
        f"Every measured number is rendered from the files of its evaluation in results/{plan.scale}/evaluations, in the "
        "folder that its id names; fgaseg show TABLE lists them. Code is a fingerprint of the sources that decide results, "
        "data the digest of the raw data."
    )
    return f"<p>{html.escape(sentence)}</p>\n" + (_origin_table(origins) if origins else "")


def write_page(plan: Plan, scope: Scope, tables: Sequence[Table], figures: Sequence[Figure], out: Path) -> None:
    """Write `report.html` into the folder `out`, which holds the pictures of `figures`; the same inputs give the same bytes."""
    single = {figure.key.removeprefix(_CURVES): figure for figure in figures if figure.key.startswith(_CURVES)}
    others = [figure for figure in figures if not figure.key.startswith(_CURVES)]
    runs, shown = runs_by_table(plan, scope), set[str]()
    table_parts = [fragment(table) + "\n" + _curves(table, runs.get(table.key, {}), single, shown, out) for table in tables]
    heading, text = _BANNERS[plan.scale]
    title = f"{_TITLES[scope]} ({plan.scale} scale)"
    entries = "\n".join(f"<dt>{html.escape(sign)}</dt><dd>{html.escape(meaning)}</dd>" for sign, meaning in _HOW_TO_READ)
    body = [
        '<div class="layout">',
        _navigation(tables, others),
        "<main>",
        f"<h1>{html.escape(title)}</h1>",
        f'<p class="banner {plan.scale}"><strong>{html.escape(heading)}</strong>{html.escape(text)}</p>',
        f'<section id="how-to-read">\n<h2>How to read</h2>\n<dl>\n{entries}\n</dl>\n</section>',
        "<h2>Tables</h2>",
        *table_parts,
        "<h2>Figures</h2>",
        *_figures(others, out),
        f'<section id="provenance">\n<h2>Provenance</h2>\n{_provenance(plan, scope)}\n</section>',
        "</main>",
        "</div>",
    ]
    meta = '<meta charset="utf-8">\n<meta name="viewport" content="width=device-width, initial-scale=1">'
    head = f"{meta}\n<title>{html.escape(title)}</title>\n<style>{STYLE}{_PAGE_STYLE}</style>"
    content = "\n".join(body)
    page = f'<!doctype html>\n<html lang="en">\n<head>\n{head}\n</head>\n<body>\n{content}\n</body>\n</html>\n'
    write_whole(out / "report.html", page)
