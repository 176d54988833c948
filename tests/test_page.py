"""The report's page as a reader meets it: `fgaseg report` writes it, and a real browser opens it."""

import io
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from browser import Visit, browse, needs_browser
from fabricated import write_evaluation
from PIL import Image
from project import Project

from fgaseg.plan import Plan, Scope
from fgaseg.reporting.figures import Figure, write_figures
from fgaseg.reporting.page import write_page
from fgaseg.reporting.tables import write_tables

PROJECT = Path(__file__).parents[1]
READ = """({
  ids: [...document.querySelectorAll('[id]')].map(e => e.id),
  links: [...document.querySelectorAll('nav a, main a')].map(a => a.getAttribute('href')),
  images: [...document.images].map(i => ({figure: i.closest('figure').id, width: i.complete ? i.naturalWidth : 0, alt: i.alt})),
  headless: [...document.querySelectorAll('table')].filter(t => !t.querySelector('thead th[scope=col]')).length,
  overflow: document.documentElement.scrollWidth - window.innerWidth,
  text: document.body.innerText,
})"""

pytestmark = needs_browser


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with evaluations of Table I and a training that has begun; everything else is missing."""
    root = tmp_path_factory.mktemp("page")
    shutil.copytree(PROJECT / "params", root / "params")
    plan = Plan(root, "sample")
    for row, errors in zip(plan.main_rows, (0.5, 0.2), strict=True):
        folder = write_evaluation(plan, row, errors)
        (folder / "panels.json").write_text('{"segmentations": [], "pseudo_masks": []}')
    metrics = plan.paths.run(str(plan.default_row.run_id)) / "metrics.jsonl"
    metrics.parent.mkdir(parents=True)
    lines: list[dict[str, Any]] = [{"step": s, "loss": 3 / s} for s in (10, 20)]
    metrics.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return root


@pytest.fixture(scope="module", params=["main", "all", "fidelity"])
def report(request: pytest.FixtureRequest, root: Path) -> tuple[Plan, Scope, Path]:
    """A report of each scope, as the command writes it."""
    scope: Scope = request.param
    result = Project(root).quick("report", "--scope", scope, "--quiet")
    assert result.status == 0, result.err
    return Plan(root, "sample"), scope, root / "results" / "sample" / "report" / scope / "report.html"


@pytest.fixture(scope="module")
def visit(report: tuple[Plan, Scope, Path], tmp_path_factory: pytest.TempPathFactory) -> Visit:
    return browse(report[2].as_uri(), tmp_path_factory.mktemp("browser"), script=READ)


def test_every_planned_table_and_figure_is_on_the_page(report: tuple[Plan, Scope, Path], visit: Visit) -> None:
    plan, scope, _ = report
    wanted = {f"table-{table.key}" for table in plan.tables_of(scope)}
    runs = {row.run_id for row in plan.evaluations_of(scope).values() if row.run_id}
    wanted |= {"figure-curves", *(f"figure-curves-{run}" for run in runs)}
    if scope != "fidelity":
        wanted |= {"figure-segmentation", *(f"figure-pseudo_masks-{b}" for b in plan.default.data.benchmarks)}
    ids = visit.value["ids"]
    assert wanted <= set(ids)
    assert len(ids) == len(set(ids))


def test_every_picture_is_decoded_and_described(visit: Visit) -> None:
    images = visit.value["images"]
    assert len(images) >= 8
    assert all(image["width"] > 300 and len(image["alt"]) > 5 for image in images)
    assert sum(name.startswith("figure-") for name in visit.value["ids"]) == len({image["figure"] for image in images})


def test_the_page_asks_for_nothing_and_reports_no_error(report: tuple[Plan, Scope, Path], visit: Visit) -> None:
    assert visit.console == []
    own, *others = visit.requests
    assert own == report[2].as_uri()
    assert all(url.startswith("data:image/png;base64,") for url in others)


def test_every_link_leads_to_a_place_on_the_page(visit: Visit) -> None:
    links = visit.value["links"]
    assert len(links) >= 4
    assert all(link.startswith("#") and link[1:] in visit.value["ids"] for link in links)


def test_columns_have_headers_and_the_page_is_no_wider_than_the_window(
    report: tuple[Plan, Scope, Path], visit: Visit, tmp_path: Path
) -> None:
    narrow = browse(report[2].as_uri(), tmp_path, script=READ, size=(800, 900)).value
    assert visit.value["headless"] == 0
    assert (visit.value["overflow"], narrow["overflow"]) == (0, 0)


def test_the_first_screen_tells_the_scale(visit: Visit) -> None:
    pixels = np.asarray(Image.open(io.BytesIO(visit.screenshot)).convert("L"))
    assert pixels.shape == (900, 1400)
    assert 0.01 < (pixels < 100).mean() < 0.3
    assert "(sample scale)" in visit.value["text"]
    assert "cannot be compared with published numbers" in visit.value["text"]


def test_what_is_missing_is_said(report: tuple[Plan, Scope, Path], visit: Visit) -> None:
    plan, scope, _ = report
    planned = plan.evaluations_of(scope)
    there = sum(row.eval_id in {main.eval_id for main in plan.main_rows} for row in planned.values())
    assert f"{there} of {len(planned)} planned evaluations are there" in visit.value["text"]
    assert ("missing" in visit.dom.split('id="table-', 1)[1]) == (scope != "main")


def test_the_link_to_curves_in_another_table_opens_them(report: tuple[Plan, Scope, Path], tmp_path: Path) -> None:
    plan, _, page = report
    target = f"figure-curves-{plan.default_row.run_id}"
    script = f"""new Promise(done => {{
      location.hash = '#{target}';
      setTimeout(() => done(document.getElementById('{target}').checkVisibility({{contentVisibilityAuto: true}})
        && document.getElementById('{target}').getBoundingClientRect().top < window.innerHeight), 300);
    }})"""
    assert browse(page.as_uri(), tmp_path, script=script).value is True


def test_the_same_results_give_the_same_page(report: tuple[Plan, Scope, Path], tmp_path: Path) -> None:
    plan, scope, page = report
    figures: list[Figure] = write_figures(plan, scope, tmp_path)
    write_page(plan, scope, write_tables(plan, scope, tmp_path), figures, tmp_path)
    assert (tmp_path / "report.html").read_bytes() == page.read_bytes()
