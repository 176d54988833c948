"""One training from the plan: its folder, its resumption, its tracking."""

import logging
import shutil
import zlib
from pathlib import Path

import numpy as np
import torch

from fgaseg.data.prepared import PreparedDataset
from fgaseg.evaluation.benchmark import evaluate_samples
from fgaseg.evaluation.segmenter import FGAsegSegmenter
from fgaseg.evaluation.sliding import check_cells
from fgaseg.files import exclusive, read_json, write_json
from fgaseg.loading import save_model, untrained_model
from fgaseg.plan import Plan
from fgaseg.provenance import continued, provenance
from fgaseg.runtime import set_up_torch
from fgaseg.schema import Launch, Params
from fgaseg.tracking import track_job
from fgaseg.training.metrics import MetricsFile
from fgaseg.training.state import DamagedCheckpointError, TrainingState, checkpoints
from fgaseg.training.stream import TrainingStream, training_vocabulary
from fgaseg.training.trainer import initial_state, train

log = logging.getLogger(__name__)


def _fingerprint(dataset: Path, backbone: Path) -> str:
    """A checksum of the training set's index and classes and of the backbone: a training never resumes on others."""
    crc = 0
    for path in (dataset / "index.csv", dataset / "classes.json", backbone):
        with path.open("rb") as file:
            while block := file.read(1 << 24):
                crc = zlib.crc32(block, crc)
    return f"{crc:08x}"


def _resume(state: TrainingState, folder: Path, owner: str) -> None:
    """Continue from the newest checkpoint that is whole; say so when a newer one is damaged."""
    for path in reversed(checkpoints(folder)):
        try:
            state.load(path, owner)
        except DamagedCheckpointError:
            log.warning("%s: this checkpoint is damaged and is passed over", path)
            continue
        log.info("continuing from iteration %d (%s)", state.step, path)
        return


def _record(plan: Plan, run_id: str, resumed: bool) -> None:
    """Write params.json: what is trained, and by which code; of a resumed training also by which code it began."""
    path = plan.paths.run(run_id) / "params.json"
    made = provenance(plan)["provenance"]
    if resumed:
        made = continued(read_json(path)["provenance"], made)
    params = plan.runs[run_id].model_dump(mode="json")
    write_json(path, {"run_id": run_id, "params": params, "provenance": made})


def train_run(plan: Plan, run_id: str, launch: Launch) -> Path:
    """Train run `run_id` of the plan, from its last checkpoint if there is one; returns the path of the model."""
    with exclusive(plan.paths.run(run_id)):
        return _train_run(plan, run_id, launch)


def _train_run(plan: Plan, run_id: str, launch: Launch) -> Path:
    params: Params = plan.runs[run_id]
    folder = plan.paths.run(run_id)
    device = set_up_torch(launch.threads)
    torch.manual_seed(params.training.seed)
    dataset = PreparedDataset(plan.paths.dataset(params.data.train))
    names, positions = training_vocabulary(dataset, params.data.train_classes)
    validation = PreparedDataset(plan.paths.dataset(params.data.validation))
    remap = np.append(positions, -1)

    model = untrained_model(plan.paths, params).to(device)
    check_cells(params.evaluation, 4 * model.clip.grid)
    state = initial_state(model, params.training)
    owner = f"{run_id} on inputs {_fingerprint(dataset.folder, plan.paths.vlm(params.vlm.backbone))}"
    _resume(state, folder / "checkpoints", owner)
    _record(plan, run_id, resumed=state.step > 0)

    def validate() -> float:
        segmenter = FGAsegSegmenter(model, params.vlm.architecture, params.vlm.prompts, params.training.loss)
        segmenter.set_vocabulary(names)
        counts, _ = evaluate_samples(segmenter, validation.samples, len(names), params.evaluation, remap)
        return counts.miou()

    def checkpoint() -> None:
        state.save(folder / "checkpoints", owner)

    stream = TrainingStream(dataset, positions, params.training.augmentation, params.training.seed)
    train(
        state,
        stream,
        names,
        params,
        MetricsFile(folder / "metrics.jsonl", state.step),
        log_every=launch.log_every,
        checkpoint=checkpoint,
        checkpoint_seconds=launch.checkpoint_seconds[plan.scale],
        validate=validate,
        workers=launch.workers,
    )
    save_model(model, run_id, folder / "model.safetensors")
    shutil.rmtree(folder / "checkpoints", ignore_errors=True)
    track_job(plan, launch, run_id)
    return folder / "model.safetensors"
