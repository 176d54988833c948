"""One training from the plan: its folder, its resumption, its tracking."""

import logging
import os
import shutil
import socket
import time
import zlib
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import torch

from fgaseg.data.prepared import PreparedDataset
from fgaseg.evaluation.benchmark import evaluate_samples
from fgaseg.evaluation.counts import miou
from fgaseg.evaluation.segmenter import FGAsegSegmenter
from fgaseg.evaluation.sliding import check_cells
from fgaseg.files import exclusive, read_json, write_json
from fgaseg.loading import save_model, untrained_model
from fgaseg.params import check_world
from fgaseg.plan import Plan
from fgaseg.provenance import continued, provenance
from fgaseg.runtime import suit
from fgaseg.schema import Launch, Params
from fgaseg.tracking import following
from fgaseg.training.interruption import Interruption
from fgaseg.training.loop import Cadence, Loop
from fgaseg.training.metrics import MetricsFile
from fgaseg.training.optimisation import check_precision, initial_state
from fgaseg.training.ranks import Ranks, joined
from fgaseg.training.starts import Start, add_start
from fgaseg.training.state import DamagedCheckpointError, TrainingState, checkpoints
from fgaseg.training.stream import TrainingStream, training_vocabulary

log = logging.getLogger(__name__)


def _fingerprint(dataset: Path, backbone: Path) -> str:
    """A checksum of the training set's index and classes and of the backbone: a training never resumes on others."""
    crc = 0
    for path in (dataset / "index.csv", dataset / "classes.json", backbone):
        with path.open("rb") as file:
            while block := file.read(1 << 24):
                crc = zlib.crc32(block, crc)
    return f"{crc:08x}"


def _resume(state: TrainingState, folder: Path, owner: str, ranks: Ranks) -> None:
    """Continue from the newest checkpoint that is whole; say so when a newer one is damaged."""
    found: Path | None = None
    if ranks.first:
        for path in reversed(checkpoints(folder)):
            try:
                state.load(path, owner)
            except DamagedCheckpointError:
                log.warning("%s: this checkpoint is damaged and is passed over", path)
                continue
            log.info("continuing from iteration %d (%s)", state.step, path)
            found = path
            break
    agreed = ranks.agreed(found)
    if agreed is not None and not ranks.first:
        state.load(agreed, owner)


def _record(plan: Plan, run_id: str, step: int, ranks: Ranks) -> None:
    """Write params.json: what is trained, and by which code; of a resumed training also by which code it began.

    Each start of a training adds a line to starts.jsonl.
    """
    folder = plan.paths.run(run_id)
    path = folder / "params.json"
    made = provenance(plan)["provenance"]
    if step:
        made = continued(read_json(path)["provenance"], made)
    params = plan.runs[run_id].model_dump(mode="json")
    write_json(path, {"run_id": run_id, "params": params, "provenance": made})
    add_start(folder, Start(time.time(), step, os.environ.get("SLURM_JOB_ID"), socket.gethostname(), ranks.world))


def train_run(plan: Plan, run_id: str, launch: Launch) -> Path:
    """Train run `run_id` of the plan, from its last checkpoint if there is one; returns the path of the model.

    Several processes share the work where the environment says so (see `ranks`). Asked to end, it saves and exits.
    """
    check_world(plan.runs[run_id].training, int(os.environ.get("WORLD_SIZE", "1")), "WORLD_SIZE")
    with joined(launch.threads) as ranks, exclusive(plan.paths.run(run_id)) if ranks.first else nullcontext():
        return _train_run(plan, run_id, launch, ranks)


def _train_run(plan: Plan, run_id: str, launch: Launch, ranks: Ranks) -> Path:
    params: Params = plan.runs[run_id]
    folder = plan.paths.run(run_id)
    check_precision(params.training.precision, ranks.device)
    torch.manual_seed(params.training.seed)
    dataset = PreparedDataset(plan.paths.dataset(params.data.train))
    names, positions = training_vocabulary(dataset, params.data.train_classes)
    validation = PreparedDataset(plan.paths.dataset(params.data.validation))
    remap = np.append(positions, -1)

    model = suit(untrained_model(plan.paths, params).to(ranks.device), launch, plan.scale)
    check_cells(params.evaluation, 4 * model.clip.grid)
    state = initial_state(model, params.training)
    owner = f"{run_id} on inputs {_fingerprint(dataset.folder, plan.paths.vlm(params.vlm.backbone))}"
    _resume(state, folder / "checkpoints", owner, ranks)
    metrics = None
    if ranks.first:
        metrics = MetricsFile(folder / "metrics.jsonl", state.step, state.validated)
        _record(plan, run_id, state.step, ranks)

    def validate() -> float:
        segmenter = FGAsegSegmenter(model, params.vlm.architecture, params.vlm.prompts, params.training.loss)
        segmenter.set_vocabulary(names)
        samples = ranks.share(validation.samples)
        counts, _ = evaluate_samples(
            segmenter,
            samples,
            len(names),
            params.evaluation,
            remap,
            launch.workers,
            each=lambda *_: loop.save_if_interrupted(),
        )
        return miou(*ranks.total(np.stack(counts.totals())))

    def checkpoint() -> None:
        state.save(folder / "checkpoints", owner)

    tracked = following(plan, launch, run_id) if ranks.first else nullcontext()
    with Interruption(ranks.rank, ranks.world).awaited() as interruption, tracked:
        loop = Loop(
            state,
            params,
            names,
            ranks,
            Cadence(
                launch.log_every,
                launch.checkpoint_seconds[plan.scale],
                launch.images_per_pass[plan.scale],
                launch.workers,
            ),
            metrics=metrics,
            checkpoint=checkpoint,
            validate=validate,
            interruption=interruption,
        )
        loop.run(TrainingStream(dataset, positions, params.training.augmentation, params.training.seed))
        if ranks.first:
            save_model(model, run_id, folder / "model.safetensors")
            shutil.rmtree(folder / "checkpoints", ignore_errors=True)
    return folder / "model.safetensors"
