"""A training means the same however many processes share it."""

import copy
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.multiprocessing as mp
from project import DATASETS, Project, write_project
from small import random, random_labels

from fgaseg.errors import UserError
from fgaseg.model.fgaseg import FGAseg
from fgaseg.model.prompts import tokenise
from fgaseg.params import check_world
from fgaseg.schema import Params
from fgaseg.training.loop import Share
from fgaseg.training.metrics import read_metrics
from fgaseg.training.optimisation import Batch, Step, initial_state
from fgaseg.training.ranks import Ranks, joined
from fgaseg.training.state import trained_state

Resolve = Callable[[Mapping[str, Any]], Params]
STEPS = 2
NAMES = ["sky", "grass", "car"]


def ranks(rank: int, world: int) -> Ranks:
    return Ranks(rank, world, torch.device("cpu"))


@pytest.mark.parametrize("world", [1, 2, 4, 8])
def test_every_image_of_the_stream_is_read_once_and_in_its_iteration(world: int, resolve: Resolve) -> None:
    training = resolve({"training.iterations": 5}).training
    shares = [Share(training, ranks(r, world), start=2, images_per_pass=3) for r in range(world)]
    lists = [list(share) for share in shares]
    assert [len(found) for found in lists] == [len(share) for share in shares]
    assert max(len(items) for found in lists for items in found) <= 3
    passes = shares[0].passes
    for step in range(3):
        together = [g for found in lists for items in found[step * passes : (step + 1) * passes] for g in items]
        assert together == list(range((2 + step) * training.global_batch, (3 + step) * training.global_batch))


@pytest.mark.parametrize("world", [3, 16])
def test_a_number_of_processes_that_does_not_divide_the_batch_is_refused(world: int, sample_params: Params) -> None:
    with pytest.raises(UserError, match=rf"cluster: {world} processes .*global_batch \(8\)"):
        check_world(sample_params.training, world, "cluster")


def image(g: int) -> tuple[torch.Tensor, torch.Tensor]:
    """An image and its labels; some have many void pixels, which must not weigh less."""
    labels = random_labels(48, 48, classes=len(NAMES), seed=g)
    labels[: 5 * (g % 8)] = -1
    return random(3, 96, 96, seed=g), labels


def batches_of(step: int, rank: int, world: int) -> list[Batch]:
    """This process's images of an iteration, of which there are eight, up to three in a pass."""
    own = list(range(8 * step + 8 * rank // world, 8 * step + 8 * (rank + 1) // world))
    passes = [[image(g) for g in own[i : i + 3]] for i in range(0, len(own), 3)]
    return [(torch.stack([x for x, _ in found]), torch.stack([y for _, y in found]), []) for found in passes]


def steps(model: FGAseg, params: Params, own: Ranks) -> tuple[FGAseg, list[float]]:
    """Some steps on this process's share; the model, and the mean loss of each."""
    tokens = tokenise(NAMES, params.vlm.prompts, params.vlm.architecture)
    state = initial_state(model.train(), params.training)
    step = Step(state, params, tokens, own)
    losses = []
    for i in range(STEPS):
        terms, _ = step(batches_of(i, own.rank, own.world))
        losses.append(own.mean(terms["loss"]).item())
    return model, losses


def one_of_several(rank: int, world: int, port: int, model: FGAseg, params: Params, out: Path) -> None:
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(world), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.set_default_dtype(torch.float64)
    with joined(threads=1) as own:
        trained, losses = steps(copy.deepcopy(model), params, own)  # what is handed to a process is shared with it
        torch.save((trained_state(trained), losses), out / f"{rank}.pt")


def test_processes_with_a_share_each_and_one_with_all_end_in_the_same_weights(
    build_model: Callable[..., FGAseg], resolve: Resolve, tmp_path: Path, float64_default: None
) -> None:
    """In float64, where what is left is rounding: in float32 Adam turns the rounding of a zero gradient into a step."""
    world, params = 8, resolve({"model.decoder.fast": True})
    model = build_model(params).double()
    start = {name: tensor.clone() for name, tensor in trained_state(model).items()}
    port = 20000 + os.getpid() % 20000
    mp.start_processes(one_of_several, (world, port, model, params, tmp_path), nprocs=world, start_method="spawn")
    found = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(world)]
    trained, losses = steps(copy.deepcopy(model), params, ranks(0, 1))
    assert max((tensor - start[name]).abs().max().item() for name, tensor in trained_state(trained).items()) > 1e-3
    for weights, their_losses in found:
        np.testing.assert_allclose(their_losses, losses, rtol=1e-9)
        for name, tensor in trained_state(trained).items():
            np.testing.assert_allclose(weights[name].numpy(), tensor.detach().numpy(), rtol=1e-6, atol=1e-8, err_msg=name)
            assert torch.equal(weights[name], found[0][0][name]), name


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_half_precision_learns_the_same_up_to_its_rounding(
    precision: str, build_model: Callable[..., FGAseg], resolve: Resolve, one_thread: None
) -> None:
    _, exact = steps(build_model(resolve({})), resolve({}), ranks(0, 1))
    params = resolve({"training.precision": precision})
    model, rounded = steps(build_model(params), params, ranks(0, 1))
    assert rounded != exact
    np.testing.assert_allclose(rounded, exact, rtol=0.03)
    assert all(tensor.dtype == torch.float32 for tensor in trained_state(model).values())


def test_torchrun_trains_the_same_as_one_process(tmp_path: Path) -> None:
    """The command on four processes; in float32 the first losses agree closely, later ones as far as rounding lets them."""
    project = write_project(tmp_path / "one")
    for name in DATASETS[:2]:
        project.succeed("prepare", name)
    project.succeed("vlm", "base")
    several = project.copy(tmp_path / "several")
    run, _ = project.ids("table_1", 2)
    project.succeed("train", run)
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "4", "-m", "fgaseg.cli", "train", run]
    done = subprocess.run(
        command, cwd=several.root, env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    curves = [curve(p, run) for p in (project, several)]
    assert [step for step, _ in curves[0]] == [step for step, _ in curves[1]]
    np.testing.assert_allclose(*[[loss for _, loss in lines] for lines in curves], rtol=5e-3)
    assert curves[0][0][1] == pytest.approx(curves[1][0][1], rel=1e-6)
    assert (several.results / "runs" / run / "model.safetensors").exists()


def curve(project: Project, run: str) -> list[tuple[int, float]]:
    lines = read_metrics(project.results / "runs" / run / "metrics.jsonl")
    return [(line["step"], line.get("loss", line.get("validation_miou"))) for line in lines]
