"""`fgaseg plan`: sums that can be done by hand, from made-up measurements and given ones; sizes from real models."""

import json
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Mapping
from math import ceil
from pathlib import Path
from typing import Any

import pytest
import torch
from fabricated import write_evaluation

from fgaseg.catalogue import KNOWN
from fgaseg.costs import Costs, Machines, Measured, Work, images, makespan, validations
from fgaseg.data.raw import RAW_DATASETS
from fgaseg.errors import UserError
from fgaseg.estimate import EVALUATION_BYTES, disk, estimate, size, sizes
from fgaseg.loading import save_model
from fgaseg.model.fgaseg import FGAseg
from fgaseg.plan import Plan
from fgaseg.sample.datasets import write_sample
from fgaseg.schema import Params
from fgaseg.training.optimisation import initial_state
from fgaseg.training.starts import Start, add_start
from fgaseg.training.state import KEPT

PROJECT = Path(__file__).parents[1]
WORLD = 8
IMAGES = 2000 + 5104 + 2000 + 5104 + 1449
"""Of the five benchmarks as they are published."""


def copied(folder: Path, nodes: int = 1) -> Path:
    """The project's parameters; a training takes `nodes` nodes of 8 GPUs."""
    shutil.copytree(PROJECT / "params", folder / "params")
    launch = folder / "params" / "launch.yaml"
    text = re.sub(r"\n  nodes: \d+", f"\n  nodes: {nodes}", launch.read_text())
    launch.write_text(re.sub(r"\n  gpus_per_node: \d+", f"\n  gpus_per_node: {WORLD}", text))
    return folder


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    """The paper's scale without results."""
    return Plan(copied(tmp_path), "paper")


def runs_with(plan: Plan, backbone: str) -> list[str]:
    return [run for run, params in plan.runs.items() if params.vlm.backbone == backbone]


def measure(plan: Plan, run: str, *seconds: float, world: int = WORLD, validation: float | None = None) -> Path:
    """A training's folder with a line of metrics for each of `seconds`, and after the last one a validation's."""
    folder = plan.paths.run(run)
    folder.mkdir(parents=True, exist_ok=True)
    add_start(folder, Start(1000.0, 0, "17", "node7", world))
    lines: list[dict[str, Any]] = [
        {"step": 10 * (i + 1), "time": 1000.0 + i, "loss": 0.5, "seconds_per_iteration": each} for i, each in enumerate(seconds)
    ]
    if validation is not None:
        lines.append({"step": lines[-1]["step"], "time": lines[-1]["time"] + validation, "validation_miou": 0.4})
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def time_images(plan: Plan, evaluation: str, **seconds: float) -> None:
    """An evaluation with these mean seconds per image; `a_150` stands for a-150, the others take as long as `rest`."""
    row = plan.evaluations[evaluation]
    folder = write_evaluation(plan, row, 0.4)
    content = json.loads((folder / "evaluation.json").read_text())
    for name, benchmark in content["benchmarks"].items():
        benchmark["seconds_per_image"]["mean"] = seconds.get(name.replace("-", "_"), seconds["rest"])
    (folder / "evaluation.json").write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("seconds", "at_once", "end"),
    [([], 3, 0), ([5, 4, 3, 3, 3], 1, 18), ([3, 3, 3, 4, 5], 2, 10), ([5, 4, 3, 3, 3], 3, 7), ([7], 4, 7)],
)
def test_whoever_is_free_takes_the_longest_that_is_left(seconds: list[float], at_once: int, end: float) -> None:
    """Of 5 4 3 3 3 on two: 5 + 3 and 4 + 3, the last 3 begins after 7."""
    assert makespan(seconds, at_once) == end


@pytest.mark.parametrize(("iterations", "every"), [(160, 40), (80000, 5000), (100, 30), (7, 10)])
def test_validations_are_those_after_a_step(iterations: int, every: int, plan: Plan) -> None:
    training = plan.default.training.model_copy(update={"iterations": iterations, "validate_every": every})
    due = [n for n in range(1, iterations + 1) if n % every == 0 or n == iterations]
    for step in (0, 1, every, iterations // 2, iterations - 1):
        assert validations(training, step) == len([n for n in due if n > step])


def test_hours_and_time_of_a_few_jobs_by_hand() -> None:
    """Two at once: trainings end after 9 + 1 + 3 and 7 + 2 seconds; then four GPUs take the evaluations in two rounds."""
    work = Work((19, 3, 5), [9.0, 7.0, 3.0], [1.0, 2.0, 0.0], [4.0] * 5)
    assert work.gpu_hours(world=2) == pytest.approx((38 / 3600, 6 / 3600, 20 / 3600))
    assert work.seconds(Machines(nodes=2, gpus=2, each=1)) == 12 + 8


def test_the_whole_study_by_hand(plan: Plan) -> None:
    costs = Costs(plan, "all", WORLD, per_iteration=1.3, per_image=0.5)
    work = costs.work(dict.fromkeys(costs.runs, 0), costs.rows)
    assert work.counts == (37 * 80000, 37 * 16, 44)
    iterations, validated, evaluated = work.gpu_hours(WORLD)
    assert iterations == pytest.approx(37 * 80000 * 1.3 * 8 / 3600)
    assert validated == pytest.approx(37 * 16 * (5000 / 8 * 0.5) * 8 / 3600)
    assert evaluated == pytest.approx(44 * IMAGES * 0.5 / 3600)
    training = 80000 * 1.3 + 16 * 625 * 0.5
    assert work.seconds(Machines(4, 8, 1)) == pytest.approx(10 * training + 2 * IMAGES * 0.5), "37 over 4, then 44 over 32"


def test_a_training_on_two_nodes_takes_both(tmp_path: Path) -> None:
    plan = Plan(copied(tmp_path, nodes=2), "paper")
    text = estimate(plan, "main", nodes=5, seconds_per_iteration=0.9)
    assert "assumes 16 GPUs a training, 2 at once; then 1 GPU an evaluation, 40 at once; the longest first" in text
    assert re.search(rf"iterations +80,000 +{80000 * 0.9 * 16 / 3600:.1f} ", text)
    with pytest.raises(UserError, match=r"--nodes: 1: a training takes 2 \(params/launch.yaml: cluster.nodes\)"):
        estimate(plan, "main", nodes=1, seconds_per_iteration=0.9)


def test_a_run_takes_what_it_took_or_what_its_backbone_or_all_took(plan: Plan) -> None:
    base, large = runs_with(plan, "base"), runs_with(plan, "large")
    for run, seconds in zip(base, (1.0, 2.0, 6.0), strict=False):
        measure(plan, run, seconds - 0.5, seconds, seconds + 3)
    costs = Costs(plan, "all", WORLD)
    assert [costs.iterations[run] for run in base[:5]] == [1.0, 2.0, 6.0, 2.0, 2.0]
    assert costs.iterations[large[0]] == 2.0
    assert "assumes 2 s an iteration (base): median of 3 measured; those keep their own" in costs.notes
    assert "assumes 2 s an iteration (large): median of 3 measured, none of this kind" in costs.notes
    measure(plan, large[0], 5.0)
    assert Costs(plan, "all", WORLD).iterations[large[0]] == 5.0
    assert Costs(plan, "all", WORLD).iterations[base[4]] == 2.0


def test_what_is_given_counts_for_all_whatever_was_measured(plan: Plan) -> None:
    measure(plan, runs_with(plan, "base")[0], 2.0, validation=70.0)
    time_images(plan, plan.default_row.eval_id, rest=0.3)
    costs = Costs(plan, "all", WORLD, per_iteration=1.0, per_image=0.2)
    assert costs.validations is not None
    assert costs.evaluations is not None
    assert set(costs.iterations.values()) == {1.0}
    assert [*costs.validations.values()] == pytest.approx([625 * 0.2] * 37)
    assert [*costs.evaluations.values()] == pytest.approx([IMAGES * 0.2] * 44)


def test_another_number_of_processes_is_no_measure(plan: Plan) -> None:
    run = runs_with(plan, "base")[0]
    measure(plan, run, 9.0, world=1)
    assert Measured(plan, WORLD).notes == [f"passes over run {run}: its training had 1 process(es), not 8"]
    with pytest.raises(
        UserError, match=r"no training by 8 process\(es\) has been measured yet; give --seconds-per-iteration, or"
    ):
        Costs(plan, "all", WORLD)


@pytest.mark.parametrize("file", ["metrics.jsonl", "starts.jsonl"])
def test_a_damaged_run_is_passed_over(file: str, plan: Plan) -> None:
    good, bad = runs_with(plan, "base")[:2]
    measure(plan, good, 2.0)
    (measure(plan, bad, 9.0) / file).write_text('{"step": 1\n')
    costs = Costs(plan, "all", WORLD)
    assert costs.iterations[bad] == 2.0
    assert f"passes over run {bad}: its metrics.jsonl or starts.jsonl is damaged" in costs.notes


@pytest.mark.parametrize("content", ["{", "[]", '{"benchmarks": {"a-847": {}}}', '{"benchmarks": null}'])
def test_a_damaged_evaluation_is_passed_over(content: str, plan: Plan) -> None:
    time_images(plan, plan.default_row.eval_id, rest=0.3)
    path = plan.paths.evaluation(plan.default_row.eval_id) / "evaluation.json"
    path.write_text(content)
    costs = Costs(plan, "main", WORLD, per_iteration=1.0)
    assert costs.evaluations is None
    assert f"passes over evaluation {plan.default_row.eval_id}: its evaluation.json is damaged" in costs.notes


def test_an_evaluation_takes_what_its_images_took(plan: Plan) -> None:
    dense, ours = plan.main_rows
    time_images(plan, ours.eval_id, rest=0.5, a_150=0.25)
    costs = Costs(plan, "main", WORLD, per_iteration=1.0)
    seconds = 0.5 * (IMAGES - 2000) + 0.25 * 2000
    assert costs.evaluations == pytest.approx({ours.eval_id: seconds, dense.eval_id: seconds})
    time_images(plan, dense.eval_id, rest=0.1)
    costs = Costs(plan, "all", WORLD, per_iteration=1.0)
    assert costs.evaluations is not None
    expected = {i: seconds if row.method == "fgaseg" else 0.1 * IMAGES for i, row in costs.rows.items()}
    assert costs.evaluations == pytest.approx(expected)


def test_the_untrained_clip_is_no_measure_of_ours(plan: Plan) -> None:
    time_images(plan, plan.main_rows[0].eval_id, rest=0.1)
    costs = Costs(plan, "main", WORLD, per_iteration=1.0)
    assert costs.evaluations is None
    assert "leaves out evaluations: none of a trained model has been measured yet; give --seconds-per-image" in costs.notes


def test_a_validation_takes_what_it_took_or_as_an_evaluation_of_about_as_many_classes(plan: Plan) -> None:
    run = runs_with(plan, "base")[0]
    measure(plan, run, 2.0)
    assert Costs(plan, "all", WORLD).validations is None
    time_images(plan, plan.default_row.eval_id, rest=0.5, a_150=0.3)
    costs = Costs(plan, "all", WORLD)
    assert costs.validations == pytest.approx(dict.fromkeys(costs.runs, ceil(5000 / 8) * 0.3))
    measure(plan, run, 2.0, validation=70.0)
    found = Costs(plan, "all", WORLD).validations
    assert found is not None
    assert set(found.values()) == {70.0}


def test_only_what_is_missing_is_to_be_done(plan: Plan) -> None:
    """One training is done, one is at iteration 30000, of which the validations up to there are done as well."""
    done, begun = runs_with(plan, "base")[:2]
    (measure(plan, done, 2.0) / "model.safetensors").touch()
    checkpoints = measure(plan, begun, 2.0) / "checkpoints"
    checkpoints.mkdir()
    (checkpoints / "step_00030000.pt").touch()
    time_images(plan, plan.default_row.eval_id, rest=0.5)
    text = estimate(plan, "all")
    assert text.startswith("paper scale, to do: 36 of 37 trainings, 43 of 44 evaluations\n")
    left = 35 * 80000 + 50000
    assert re.search(rf"iterations +{left:,} +{left * 2 * 8 / 3600:,.1f} +2,960,000 +{2960000 * 2 * 8 / 3600:,.1f}\n", text)
    hours = [count * 312.5 * 8 / 3600 for count in (35 * 16 + 10, 37 * 16)]
    assert re.search(rf"validations +{35 * 16 + 10} +{hours[0]:,.1f} +592 +{hours[1]:,.1f}\n", text)


def test_without_seconds_per_image_evaluations_are_unknown_and_not_nothing(plan: Plan) -> None:
    text = estimate(plan, "main", seconds_per_iteration=1.0)
    hours = 80000 * 8 / 3600
    assert re.search(rf"together +{hours:.1f} +{hours:.1f}\n", text)
    assert re.search(r"validations +16 +unknown +16 +unknown\n", text)
    assert re.search(r"evaluations +2 +unknown +2 +unknown\n", text)


def test_the_price_is_that_of_all_gpu_hours(plan: Plan) -> None:
    text = estimate(plan, "main", seconds_per_iteration=1.0, seconds_per_image=0.5, price=2.5)
    hours = (80000 + 16 * 625 * 0.5) * 8 / 3600 + 2 * IMAGES * 0.5 / 3600
    assert re.search(rf"price at 2.5 an hour +{2.5 * hours:.2f} +{2.5 * hours:.2f}\n", text)
    assert "price" not in estimate(plan, "main", seconds_per_iteration=1.0)


def test_the_sample_scale_counts_processes(tmp_path: Path) -> None:
    plan = Plan(copied(tmp_path), "sample")
    measure(plan, runs_with(plan, "base")[0], 0.5, world=1)
    text = estimate(plan, "main", nodes=2)
    iterations = plan.default.training.iterations
    assert re.search(rf"process-hours\n  iterations +{iterations} +{iterations * 0.5 / 3600:.3f} ", text)
    assert "assumes 1 process a training, 2 at once; then 1 process an evaluation, 2 at once; the longest first" in text


def test_images_are_counted_where_the_dataset_is_prepared(plan: Plan) -> None:
    assert {name: images(plan, name) for name in KNOWN} == {name: known.images for name, known in KNOWN.items()}
    index = plan.paths.dataset("a-150") / "index.csv"
    index.parent.mkdir(parents=True)
    index.write_text("image,label,width,height\na.jpg,a.png,1,1\nb.jpg,b.png,1,1\n")
    assert images(plan, "a-150") == 2


def test_the_sample_ships_as_many_images_as_are_counted(tmp_path: Path) -> None:
    write_sample(tmp_path / "data")
    plan = Plan(copied(tmp_path), "sample")
    assert {name: images(plan, name) for name in KNOWN} == {
        name: len(raw.items(tmp_path / "data")) for name, raw in RAW_DATASETS.items()
    }


def test_sizes_are_those_of_real_files(
    tmp_path: Path, build_model: Callable[..., FGAseg], resolve: Callable[[Mapping[str, Any]], Params]
) -> None:
    """But for the headers: a model as it is saved, and a checkpoint after a step."""
    for delta in ({}, {"vlm.finetune": "prompt-16", "model.decoder.fast": True}, {"vlm.finetune": "frozen"}):
        params = resolve(delta)
        trained, moments, _ = sizes(params.vlm, params.model)
        model = build_model(params)
        save_model(model, "0123", tmp_path / "model.safetensors")
        assert trained < (tmp_path / "model.safetensors").stat().st_size < trained + 60_000
        state = initial_state(model, params.training)
        for parameter in model.parameters():
            parameter.grad = torch.zeros_like(parameter) if parameter.requires_grad else None
        state.optimiser.step()
        assert trained + moments < state.save(tmp_path, "owner").stat().st_size < trained + moments + 300_000


def test_sizes_at_the_paper_scale_by_hand(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    """ViT-B/16 has 149.6 million parameters; of its 12 + 12 blocks query and value are trained. Nothing is downloaded."""
    monkeypatch.setattr(socket, "socket", lambda *_: pytest.fail("a connection"))
    sizes.cache_clear()
    vlm, model = plan.default.vlm, plan.default.model
    trained, moments, backbone = sizes(vlm, model)
    assert backbone == 4 * 149_620_737
    assert moments == 2 * trained
    frozen = sizes(vlm.model_copy(update={"finetune": "frozen"}), model)[0]
    assert trained - frozen == 4 * 2 * (12 * 768**2 + 12 * 512**2)


def test_the_disk_holds_models_of_all_and_checkpoints_of_those_at_work(plan: Plan) -> None:
    base, large = plan.default, plan.runs[runs_with(plan, "large")[0]]
    trained, _, backbone = sizes(base.vlm, base.model)
    bigger, their_moments, their_backbone = sizes(large.vlm, large.model)
    left = [*runs_with(plan, "base")[:1], *runs_with(plan, "large")[:1]]
    found, notes = disk(plan, "all", left, at_once=1)
    assert found["models"][0] == [trained, bigger]
    assert len(found["models"][1]) == 37
    assert found["checkpoints"][0] == [(KEPT + 1) * (bigger + their_moments)]
    assert sorted(found["backbones"][0]) == [backbone, their_backbone]
    assert sum(found["evaluations"][0]) == 44 * EVALUATION_BYTES["paper"]
    assert "assumes 10 MB an evaluation's files: an estimate" in notes
    plan.paths.vlm("base").parent.mkdir(parents=True)
    plan.paths.vlm("base").touch()
    assert disk(plan, "all", [], at_once=4)[0]["backbones"][0] == [their_backbone]
    assert disk(plan, "all", [], at_once=4)[0]["checkpoints"][0] == []


def test_evaluations_are_as_large_as_those_that_are_done(plan: Plan) -> None:
    folder = write_evaluation(plan, plan.default_row, 0.4)
    actual = sum(path.stat().st_size for path in folder.iterdir())
    found, notes = disk(plan, "main", [], at_once=1)
    assert found["evaluations"] == ([actual], [actual, actual])
    assert f"assumes {size(actual)} an evaluation's files: mean of 1 that are done" in notes


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 B"), (999, "999 B"), (1000, "1 kB"), (135_084_428, "135 MB"), (2.31e9, "2.31 GB"), (5e14, "500 TB")],
)
def test_sizes_are_in_the_unit_that_suits_them(count: float, text: str) -> None:
    assert size(count) == text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            (),
            "results/paper/runs: no training by 8 process(es) has been measured yet; give --seconds-per-iteration, or",
        ),
        (("--scope", "everything"), "--scope: 'everything' is unknown; choose main, all, fidelity"),
        (("--seconds-per-iteration", "-1"), "--seconds-per-iteration: -1: a number above 0 is expected"),
        (("--seconds-per-image", "nan"), "--seconds-per-image: nan: a number above 0 is expected"),
        (("--price-per-gpu-hour", "0"), "--price-per-gpu-hour: 0: a number above 0 is expected"),
        (("--scale", "huge"), "scale: 'huge' is unknown; choose sample or paper"),
    ],
)
def test_a_mistake_gives_one_line(arguments: tuple[str, ...], message: str, plan: Plan) -> None:
    command = [str(Path(sys.executable).parent / "fgaseg"), "plan", *arguments]
    done = subprocess.run(command, cwd=plan.root, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert re.fullmatch(rf"fgaseg: {re.escape(message)}.*\n", done.stderr)
    assert done.stdout == ""


def test_the_table_is_narrow_and_names_all_assumptions(plan: Plan) -> None:
    lines = estimate(plan, "main", seconds_per_iteration=1.3, seconds_per_image=0.5).splitlines()
    assert max(map(len, lines)) <= 120
    table = lines[2 : lines.index("", 2)]
    assert max(map(len, table)) <= 80
    assert [line.split("  ")[0] for line in table if not line.startswith(" ")] == ["GPU-hours", "time on 1 node", "disk"]
    assert lines[lines.index("", 2) + 1 :] == [
        "assumes 1.3 s an iteration: given",
        "assumes 7828 s an evaluation of 15657 images: 0.5 s each, given",
        "assumes 312.5 s a validation of 625 images a process: 0.5 s each, given",
        "assumes 8 GPUs a training, 1 at once; then 1 GPU an evaluation, 8 at once; the longest first",
        "assumes 3 checkpoints of a training at work, one in the making: weights and AdamW's two moments",
        "assumes 8 kB a prepared label map, 200 kB a photograph that is shrunk (a-847): an estimate",
        "assumes 10 MB an evaluation's files: an estimate",
        "leaves out waiting in the queue, starting up, preparing the data, measuring Table VI's times",
    ]
