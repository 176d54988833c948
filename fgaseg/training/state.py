"""The mutable state of a training, and its checkpoints.

A checkpoint holds what training changes: trained weights, buffers, optimiser, schedule, gradient scale, step. Frozen weights
come from the backbone's file; data order and augmentation follow from the step. The last two checkpoints are kept.
"""

import io
import pickle
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fgaseg.errors import UserError
from fgaseg.files import write_whole

KEPT = 2
_KEYS = {"owner", "step", "validated", "model", "optimiser", "schedule", "scaler"}


def trained_state(model: nn.Module) -> dict[str, Tensor]:
    """The tensors of `model` that training changes: parameters that take gradients, and buffers."""
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    buffers = {name for name, _ in model.named_buffers()}
    return {name: t for name, t in model.state_dict().items() if name in trained or name in buffers}


def load_trained_state(model: nn.Module, tensors: dict[str, Tensor], source: Path) -> None:
    """Put tensors of `trained_state` back. Raises `UserError` when they are those of another model."""
    own = trained_state(model)
    strange = sorted(own.keys() ^ tensors.keys())
    if strange:
        raise UserError(
            f"{source}: a checkpoint of another model: '{strange[0]}' is in only one of the two; use its own parameters"
        )
    for name, tensor in tensors.items():
        if tensor.shape != own[name].shape:
            raise UserError(
                f"{source}: a checkpoint of another model: {name} is {tuple(tensor.shape)}, "
                f"this model has {tuple(own[name].shape)}; use its own parameters"
            )
    model.load_state_dict(tensors, strict=False)


class DamagedCheckpointError(UserError):
    """A checkpoint whose bytes are not those that were written."""


@dataclass
class TrainingState:
    """All that a checkpoint must hold. `step` counts finished iterations, `validated` is the step of the last validation."""

    model: nn.Module
    optimiser: torch.optim.Optimizer
    schedule: torch.optim.lr_scheduler.LRScheduler
    scaler: torch.amp.GradScaler
    step: int = 0
    validated: int = 0

    def save(self, folder: Path, owner: str) -> Path:
        """Write `step_<n>.pt` atomically and keep one older checkpoint beside it.

        Files of later steps are damaged ones that resumption passed over: they go first.
        """
        for path in checkpoints(folder):
            if _step_of(path) > self.step:
                path.unlink()
        content = {
            "owner": owner,
            "step": self.step,
            "validated": self.validated,
            "model": trained_state(self.model),
            "optimiser": self.optimiser.state_dict(),
            "schedule": self.schedule.state_dict(),
            "scaler": self.scaler.state_dict(),
        }
        buffer = io.BytesIO()
        torch.save(content, buffer)
        raw = buffer.getvalue()
        path = folder / f"step_{self.step:08d}.pt"
        write_whole(path, raw + zlib.crc32(raw).to_bytes(4, "big"))
        for old in checkpoints(folder)[:-KEPT]:
            old.unlink()
        return path

    def load(self, path: Path, owner: str) -> None:
        """Continue from a checkpoint that `owner` wrote. Raises `UserError` when it is damaged or another's."""
        content = read_checkpoint(path)
        if content["owner"] != owner:
            raise UserError(f"{path}: a checkpoint of run {content['owner']}, not of {owner}; remove it")
        load_trained_state(self.model, content["model"], path)
        self.optimiser.load_state_dict(content["optimiser"])
        self.schedule.load_state_dict(content["schedule"])
        self.scaler.load_state_dict(content["scaler"])
        self.step, self.validated = content["step"], content["validated"]


def checkpoints(folder: Path) -> list[Path]:
    """Complete checkpoints, oldest first."""
    return sorted(folder.glob("step_*.pt"))


def _step_of(path: Path) -> int:
    return int(path.stem.removeprefix("step_"))


def read_checkpoint(path: Path) -> dict[str, Any]:
    """The content of a checkpoint, whose checksum must be right, in main memory; no pickled code is run.

    Every process of a training reads the same file, which the first one wrote: tensors must not return to its GPU.
    """
    written = path.read_bytes()
    raw, checksum = written[:-4], written[-4:]
    del written
    if zlib.crc32(raw).to_bytes(4, "big") != checksum:
        raise DamagedCheckpointError(f"{path}: the checkpoint is damaged; remove it to continue from the one before")
    if not zipfile.is_zipfile(io.BytesIO(raw)):
        raise UserError(f"{path}: not a checkpoint of fgaseg; remove it")
    try:
        content: dict[str, Any] = torch.load(io.BytesIO(raw), map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, EOFError) as error:
        raise UserError(f"{path}: not a checkpoint of fgaseg ({str(error).splitlines()[0]}); remove it") from None
    if not isinstance(content, dict) or content.keys() != _KEYS:
        raise UserError(f"{path}: not a checkpoint of fgaseg; remove it")
    return content
