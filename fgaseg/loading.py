"""Models from files: the backbone of a row, a trained run."""

from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from fgaseg.errors import UserError
from fgaseg.files import write_whole
from fgaseg.model.clip import DenseCLIP, create_open_clip
from fgaseg.model.fgaseg import FGAseg, build
from fgaseg.paths import Paths
from fgaseg.schema import VLM, Params
from fgaseg.training.state import load_trained_state, trained_state


def load_clip(paths: Paths, vlm: VLM) -> DenseCLIP:
    """The dense CLIP of a row, with the weights that `fgaseg vlm` provided."""
    weights = paths.vlm(vlm.backbone)
    if not weights.exists():
        raise UserError(f"{weights}: the backbone's weights are missing; make them with `fgaseg vlm {vlm.backbone}`")
    clip = create_open_clip(vlm.architecture, str(weights))
    layers = len(clip.visual.transformer.resblocks)
    if max(vlm.guidance_layers) >= layers - 1:
        raise UserError(
            f"vlm.guidance_layers: {vlm.guidance_layers} must lie before the last of {layers} blocks (counted from 0)"
        )
    return DenseCLIP(clip, vlm.image_size, vlm.guidance_layers, vlm.dense_residual)


def untrained_model(paths: Paths, params: Params) -> FGAseg:
    """FGAseg around the pre-trained backbone, the rest with random weights."""
    return build(load_clip(paths, params.vlm), params)


def save_model(model: FGAseg, run_id: str, path: Path) -> None:
    """Write what training changed, with the run's id in the header: one entry, since safetensors does not order several."""
    write_whole(path, save({k: v.contiguous() for k, v in trained_state(model).items()}, {"run_id": run_id}))


def load_model(paths: Paths, params: Params, path: Path) -> FGAseg:
    """The trained FGAseg in `path`. Raises `UserError` when it is missing, damaged or another model's."""
    if not path.exists():
        raise UserError(f"{path}: no trained model; train it with `make sample` or `fgaseg train {path.parent.name}`")
    model = untrained_model(paths, params)
    try:
        with safe_open(path, "pt") as file:
            owner = (file.metadata() or {}).get("run_id")
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise UserError(f"{path}: damaged ({error}); remove it and train again") from None
    if owner != path.parent.name:
        raise UserError(f"{path}: the model of run {owner}, not of {path.parent.name}; remove it and train again")
    load_trained_state(model, tensors, path)
    return model.eval()
