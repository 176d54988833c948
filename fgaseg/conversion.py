"""A released checkpoint as a trained run of this project: read, converted by `released`, held against the backbone."""

import hashlib
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from fgaseg.errors import UserError
from fgaseg.files import write_json
from fgaseg.loading import save_model, untrained_model
from fgaseg.plan import Plan
from fgaseg.provenance import provenance
from fgaseg.released import convert
from fgaseg.training.state import trained_state

DIFFERENCES = (
    "class aggregation adds its input once, the released code twice",
    "text guidance is made from T^ as it is, in the released code from its direction alone",
    "the fast decoder's heads 1 and 2 read maps before LCS is fused in again, in the released code after it",
)
"""Where this model computes something else with the same weights: a converted model is not the released one."""


@dataclass(frozen=True)
class Report:
    """What was converted. `lacking`: names the model needs and does not get, and why; `model`: the file, if one was written."""

    text: str
    lacking: dict[str, str]
    model: Path | None


def read_released(path: Path) -> dict[str, Tensor]:
    """The tensors of a checkpoint, flat or in `model` or `state_dict`; no pickled code is run."""
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise UserError(f"{path}: no such checkpoint; give the released file") from None
    except Exception as error:  # a damaged pickle may raise anything
        reason = (str(error).strip() or repr(error)).splitlines()[0].split(". ")[0]
        raise UserError(f"{path}: not readable as a state dict of PyTorch ({reason}); fetch it again") from None
    for wrapper in ("model", "state_dict"):
        if isinstance(content, dict) and isinstance(content.get(wrapper), dict):
            content = content[wrapper]
    tensors = {k: v for k, v in content.items() if isinstance(v, Tensor)} if isinstance(content, dict) else {}
    if not tensors:
        raise UserError(f"{path}: no tensors by name in it; a state dict is expected")
    return {name.removeprefix("module."): tensor for name, tensor in tensors.items()}


def _listed(title: str, names: dict[str, str]) -> list[str]:
    """A line for each reason with the number of names and the first of them."""
    lines = [f"{title}: {len(names)}"]
    for reason, count in Counter(names.values()).items():
        first = next(name for name, why in names.items() if why == reason)
        lines.append(f"  {first}{f' and {count - 1} more' if count > 1 else ''}: {reason}")
    return lines


def convert_released(plan: Plan, checkpoint: Path, run_id: str, allow_missing: bool) -> Report:
    """Write a released checkpoint as the model of a run, unless the run needs tensors that it does not get from it.

    What training leaves frozen comes from the backbone, and has to be the same in the checkpoint as far as that holds it.
    `allow_missing` writes all the same: what is lacking keeps random weights, or the backbone's. The run's provenance says that
    it was converted. Raises `UserError` where the run has a model already, or the checkpoint is not readable.
    """
    path = plan.paths.run(run_id) / "model.safetensors"
    if path.exists():
        raise UserError(f"{path}: run {run_id} has a model already; remove it first, or choose another run")
    released = read_released(checkpoint)
    params = plan.runs[run_id]
    torch.manual_seed(params.training.seed)
    model = untrained_model(plan.paths, params)
    own = model.state_dict()
    found = convert(released, {name: tensor.shape for name, tensor in own.items()})
    needed = trained_state(model).keys()
    lacking = {name: reason for name, reason in found.missing.items() if name in needed}
    for name in found.tensors.keys() - needed:
        if not torch.allclose(found.tensors[name], own[name].float(), rtol=1e-3, atol=1e-4):
            lacking[name] = "frozen, and other than the backbone's, which is used"
    from_backbone = {n: "frozen: the backbone's is used" for n in found.missing if n not in needed}
    taken = found.tensors.keys() & needed
    lines = [f"converted: {len(taken)} of {len(needed)} tensors that training changes"]
    lines += [f"frozen, held against the backbone: {len(found.tensors) - len(taken)}"]
    lines += _listed("left out of the file", found.left_out) if found.left_out else []
    lines += _listed("not in the file", from_backbone) if from_backbone else []
    lines += _listed("LACKING", lacking) if lacking else []
    lines += ["computed otherwise here with the same weights:", *(f"  {each}" for each in DIFFERENCES)]
    if lacking and not allow_missing:
        return Report("\n".join([*lines, "nothing written; --allow-missing writes it all the same"]), lacking, None)
    model.load_state_dict({name: found.tensors[name] for name in taken}, strict=False)
    with checkpoint.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    made = provenance(plan)["provenance"]
    made |= {"code": "released", "git_commit": f"{made['git_commit']}, converted from {checkpoint.name} ({digest[:12]})"}
    about = {"run_id": run_id, "params": params.model_dump(mode="json"), "provenance": made}
    record = {"checkpoint": checkpoint.name, "sha256": digest, "lacking": lacking, "left_out": found.left_out}
    write_json(path.parent / "converted.json", record | {"differences": DIFFERENCES})
    write_json(path.parent / "params.json", about)
    save_model(model, run_id, path)
    return Report("\n".join([*lines, str(path)]), lacking, path)
