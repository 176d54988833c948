"""Figures from panels on disk: what can be told from their pixels, and what a damaged file leads to."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from fgaseg.errors import UserError
from fgaseg.evaluation.pseudo_masks import principal_component
from fgaseg.files import complete_files, write_whole
from fgaseg.plan import Plan
from fgaseg.reporting.curves import Line, overview_figure, read_curves
from fgaseg.reporting.figures import runs_by_table, write_figures
from fgaseg.reporting.palette import OTHER, VOID, VOID_STRIPE, colours, paint
from fgaseg.reporting.results import read_panels
from fgaseg.reporting.segmentations import segmentation_figure
from fgaseg.rows import Row

PROJECT = Path(__file__).parents[1]
NAMES = ["sky", "grass", "zebra"]
BENCHMARKS = ("a-847", "pc-459", "a-150", "pc-59", "pas-20")


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    """The project's own plan at sample scale, with empty results."""
    shutil.copytree(PROJECT / "params", tmp_path / "params")
    return Plan(tmp_path, "sample")


def write_panels(plan: Plan, row: Row, prediction: int) -> Path:
    """Panels as the evaluation writes them: half sky, half grass, a void corner, everything predicted as `prediction`.

    There are two of A-150, and pseudo-masks of each benchmark.
    """
    folder = plan.paths.evaluation(row.eval_id)
    folder.mkdir(parents=True)
    (folder / "evaluation.json").write_text("{}")
    image, label = plan.root / "image.png", plan.root / "label.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 60, 3), np.uint8)).save(image)
    labels = np.repeat([0, 1], 20)[:, None] * np.ones((1, 60), np.uint8)
    labels[:10, :10] = 255
    Image.fromarray(labels.astype(np.uint8)).save(label)
    Image.fromarray(np.full((40, 60), prediction, np.uint16)).save(folder / "prediction.png")
    (folder / "classes.json").write_text(json.dumps([{"name": name} for name in NAMES]))
    maps: dict[str, Any] = {kind: np.linspace(0, 1, 24, dtype=np.float32).reshape(4, 6) for kind in ("gcs", "lcs", "fused")}
    np.savez(folder / "maps.npz", **maps)
    shutil.copy(image, other := plan.root / "other.png")
    panel = {"benchmark": "a-150", "label": str(label), "prediction": "prediction.png", "classes": "classes.json"}
    mask = {"image": str(image), "arrays": "maps.npz", "gcs": "gcs", "lcs": "lcs", "fused": "fused"}
    shown = [{"class": "sky", "present": True}, {"class": "zebra", "present": False}]
    content = {
        "segmentations": [panel | {"image": str(path)} for path in (image, other)],
        "pseudo_masks": [mask | {"benchmark": benchmark} | cls for benchmark in BENCHMARKS for cls in shown],
    }
    (folder / "panels.json").write_text(json.dumps(content))
    return folder


def write_metrics(plan: Plan, row: Row) -> Path:
    assert row.run_id
    path = plan.paths.run(row.run_id) / "metrics.jsonl"
    path.parent.mkdir(parents=True)
    lines: list[dict[str, Any]] = [{"step": s, "loss": 3 / s, "loss_seg": 2 / s, "loss_t2p": 1 / s} for s in range(10, 60, 10)]
    lines.append({"step": 50, "validation_miou": 0.4})
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def write_all(plan: Plan) -> tuple[Path, Path, Path]:
    dense, ours = plan.main_rows
    return write_panels(plan, dense, 2), write_panels(plan, ours, 0), write_metrics(plan, ours)


def shown(path: Path, colour: tuple[int, int, int]) -> int:
    """How many pixels of a figure have exactly `colour`."""
    pixels = np.asarray(Image.open(path).convert("RGB"))
    return int((pixels == np.array(colour, np.uint8)).all(2).sum())


def size(path: Path) -> tuple[int, int]:
    with Image.open(path) as picture:
        return picture.size


def written(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*.png")}


def test_all_figures_are_written_and_a_second_time_to_the_same_bytes(plan: Plan, tmp_path: Path) -> None:
    write_all(plan)
    figures = write_figures(plan, "main", tmp_path / "first")
    write_figures(plan, "main", tmp_path / "second")
    files = written(tmp_path / "first")
    run = plan.default_row.run_id
    masks = {f"pseudo_masks/{benchmark}.png" for benchmark in BENCHMARKS}
    assert set(files) == {"segmentation.png", "curves.png", f"curves/{run}.png"} | masks
    assert sorted(str(figure.file) for figure in figures) == sorted(files)
    assert len({figure.key for figure in figures}) == len(figures)
    assert files == written(tmp_path / "second")
    assert all(b"tIME" not in content and b"Software" not in content for content in files.values())


def test_the_reports_of_all_tables_and_of_fidelity_show_the_curves_of_each_of_their_trainings(
    plan: Plan, tmp_path: Path
) -> None:
    write_metrics(plan, plan.default_row)
    for scope in ("all", "fidelity"):
        write_figures(plan, scope, tmp_path / scope)
        rows = [single for table in plan.tables_of(scope) for row in table.rows for single in row.single]
        runs = {f"curves/{row.run_id}.png" for row in rows if row.run_id}
        assert {name for name in written(tmp_path / scope) if name.startswith("curves/")} == runs
    assert {name for name in written(tmp_path / "fidelity") if not name.startswith("curves")} == set()


def test_a_training_that_serves_several_rows_is_drawn_once_for_each_table(plan: Plan) -> None:
    tables = runs_by_table(plan, "all")
    assert sum(plan.default_row.run_id in runs for runs in tables.values()) >= 9
    (rows,) = tables["table_6"].values()
    assert [row.label["N"] for row in rows] == ["1", "4", "8", "16", "32"]


def test_a_report_of_all_tables_shows_every_image_that_a_benchmark_kept(plan: Plan, tmp_path: Path) -> None:
    write_all(plan)
    write_figures(plan, "all", tmp_path)
    assert {f"segmentation/{benchmark}.png" for benchmark in BENCHMARKS} <= set(written(tmp_path))
    one, two = size(tmp_path / "segmentation.png")[1], size(tmp_path / "segmentation" / "a-150.png")[1]
    assert 1.6 * one < two < 2.1 * one


def test_the_default_model_is_drawn_black_in_the_overview(plan: Plan, tmp_path: Path) -> None:
    layers = plan.tables["table_3b"].rows
    for row in layers[:2]:
        write_metrics(plan, row)
    lines = [Line(row.description, read_curves(plan.paths.run(str(row.run_id)) / "metrics.jsonl"), i == 0)
             for i, row in enumerate(layers[:2])]  # fmt: skip
    weak = [Line(line.label, line.curves, False) for line in lines]
    overview_figure([("Table", lines)], tmp_path / "strong.png")
    overview_figure([("Table", weak)], tmp_path / "weak.png")
    dark = [int((np.asarray(Image.open(tmp_path / name).convert("L")) < 50).sum()) for name in ("strong.png", "weak.png")]
    assert dark[0] > 1.3 * dark[1]


def test_predictions_and_ground_truth_have_the_colours_of_their_names(plan: Plan, tmp_path: Path) -> None:
    dense, ours, _ = write_all(plan)
    table = colours(NAMES)
    segmentation_figure(read_panels(ours).segmentations, tmp_path / "alone.png")
    segmentation_figure(read_panels(ours).segmentations, tmp_path / "both.png", read_panels(dense).segmentations)
    assert shown(tmp_path / "alone.png", table["zebra"]) == 0  # dense CLIP alone predicts it
    assert shown(tmp_path / "both.png", table["zebra"]) > 10_000
    assert shown(tmp_path / "alone.png", table["sky"]) > 1.5 * shown(tmp_path / "alone.png", table["grass"])
    assert shown(tmp_path / "alone.png", VOID_STRIPE) > 300


def test_long_names_make_the_picture_wider_in_the_place_of_being_cut_off(plan: Plan, tmp_path: Path) -> None:
    widths = []
    for name in ("zebra", "W" * 20):
        folder = write_panels(plan, plan.default_row, 2)
        classes = [{"name": f"{name} {i}"} for i in range(12)]
        (folder / "classes.json").write_text(json.dumps(classes))
        labels = np.repeat(np.arange(12), 5)[None] * np.ones((40, 1), np.uint8)
        Image.fromarray(labels.astype(np.uint8)).save(plan.root / "label.png")
        segmentation_figure(read_panels(folder).segmentations, tmp_path / "figure.png")
        picture = np.asarray(Image.open(tmp_path / "figure.png").convert("L"))
        widths.append(picture.shape[1])
        assert (picture[:, -4:] == 255).all()
        shutil.rmtree(folder)
    assert widths[0] < widths[1]


def test_dense_clip_stands_left_of_fgaseg(plan: Plan, tmp_path: Path) -> None:
    dense, ours, _ = write_all(plan)
    segmentation_figure(read_panels(ours).segmentations, tmp_path / "both.png", read_panels(dense).segmentations)
    pixels = np.asarray(Image.open(tmp_path / "both.png").convert("RGB"))
    columns = np.nonzero((pixels == np.array(colours(NAMES)["zebra"], np.uint8)).all(2))[1]
    assert 0.4 < np.median(columns) / pixels.shape[1] < 0.55


def test_a_method_without_the_image_is_shown_as_missing(plan: Plan, tmp_path: Path) -> None:
    _, ours, _ = write_all(plan)
    panels = read_panels(ours).segmentations
    segmentation_figure(panels, tmp_path / "missing.png", [])
    segmentation_figure(panels, tmp_path / "both.png", panels)
    sky = colours(NAMES)["sky"]
    assert 0 < shown(tmp_path / "missing.png", sky) < shown(tmp_path / "both.png", sky)


def test_an_evaluation_without_panels_says_so_in_the_picture(plan: Plan, tmp_path: Path) -> None:
    dense, ours, _ = write_all(plan)
    write_figures(plan, "main", tmp_path / "full")
    for folder in (dense, ours):
        (folder / "panels.json").write_text('{"segmentations": [], "pseudo_masks": []}')
    write_figures(plan, "main", tmp_path / "empty")
    assert set(written(tmp_path / "empty")) == set(written(tmp_path / "full"))
    assert size(tmp_path / "empty" / "segmentation.png") != size(tmp_path / "full" / "segmentation.png")


def test_a_plan_without_any_result_has_pictures_that_say_so(plan: Plan, tmp_path: Path) -> None:
    figures = write_figures(plan, "main", tmp_path)
    assert {str(figure.file) for figure in figures} == set(written(tmp_path))
    assert len(figures) == 8


def test_a_model_without_local_maps_has_a_figure_without_their_line(plan: Plan, tmp_path: Path) -> None:
    _, folder, _ = write_all(plan)
    write_figures(plan, "main", tmp_path / "with")
    panels = json.loads((folder / "panels.json").read_text())
    for mask in panels["pseudo_masks"]:
        mask["lcs"] = None
    (folder / "panels.json").write_text(json.dumps(panels))
    write_figures(plan, "main", tmp_path / "without")
    tall, short = (size(tmp_path / name / "pseudo_masks" / "a-150.png")[1] for name in ("with", "without"))
    assert 0.6 * tall < short < 0.8 * tall


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("panels.json", Path.unlink),
        ("panels.json", lambda path: path.write_text('{"segmentations": [{}], "pseudo_masks": []}')),
        ("prediction.png", Path.unlink),
        ("prediction.png", lambda path: path.write_bytes(path.read_bytes()[:60])),
        ("prediction.png", lambda path: Image.new("L", (5, 5)).save(path)),
        ("classes.json", lambda path: path.write_text("[1, 2]")),
        ("maps.npz", lambda path: np.savez(path, gcs=np.zeros((4, 4)))),
        ("maps.npz", lambda path: path.write_bytes(path.read_bytes()[:90])),
    ],
)
def test_a_damaged_file_is_named(plan: Plan, tmp_path: Path, name: str, damage: Any) -> None:
    _, folder, _ = write_all(plan)
    damage(folder / name)
    with pytest.raises(UserError) as error:
        write_figures(plan, "main", tmp_path / "out")
    assert str(folder / name) in str(error.value)
    assert "\n" not in str(error.value)


def test_a_resumed_training_overrides_the_steps_that_it_repeats(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 10, "loss": 3}\n{"step": 20, "loss": 2}\n{"step": 10, "loss": 5}\n{"step": 30, "lo')
    steps, values = read_curves(path)["loss"]
    assert steps.tolist() == [10, 20]
    assert values.tolist() == [5, 2]


def test_a_damaged_line_of_metrics_is_named(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 10, "loss": 3}\n{"loss": 2}\n{"step": 30, "loss": 1}\n')
    with pytest.raises(UserError, match=r"metrics\.jsonl: line 2 is damaged"):
        read_curves(path)


def test_a_name_keeps_its_colour_in_any_company() -> None:
    alone = {name: colours([name])[name] for name in ("sky", "aeroplane", "kitchen island")}
    together = colours(["kitchen island", "sky", "road", "aeroplane", "person"])
    assert {name: together[name] for name in alone} == alone
    assert colours(["airplane"])["airplane"] == alone["aeroplane"]


def test_names_that_are_shown_together_are_told_apart() -> None:
    found = list(colours(f"class {i}" for i in range(24)).values())
    gaps = [sum(abs(x - y) for x, y in zip(a, b, strict=True)) for i, a in enumerate(found) for b in found[:i]]
    assert min(gaps) >= 30
    assert min(sum(abs(x - 255) for x in colour) for colour in found) >= 60


def test_void_and_unnamed_classes_look_like_no_class() -> None:
    picture = paint(np.array([[-1, 0], [1, 2]]), NAMES, {"sky": (1, 2, 3)})
    assert tuple(picture[0, 0]) in (VOID, VOID_STRIPE)
    assert tuple(picture[0, 1]) == (1, 2, 3)
    assert tuple(picture[1, 0]) == tuple(picture[1, 1]) == OTHER


def test_the_principal_component_finds_the_direction_of_most_variance_with_the_sign_of_the_reference() -> None:
    generator = torch.Generator().manual_seed(0)
    signal = torch.randn(3, 5, 4, generator=generator)
    direction = torch.tensor([0.6, -0.8, 0.0, 0.0])
    noise = 0.01 * torch.randn(3, 4, 5, 4, generator=generator)
    embedding = 7 + signal[:, None] * direction[:, None, None] + noise
    for sign in (1, -1):
        component = principal_component(embedding, sign * signal + 3)
        assert torch.allclose(component, sign * (signal - signal.mean()), atol=0.1)


def test_a_folder_of_figures_replaces_the_earlier_one_whole(tmp_path: Path) -> None:
    for name in ("old", "new"):
        with complete_files(tmp_path / "report") as folder:
            write_whole(folder / "curves" / f"{name}.png", name)
            write_whole(folder / f"{name}.txt", name)
    assert {path.name for path in (tmp_path / "report").rglob("*.*")} == {"new.png", "old.txt", "new.txt"}
