"""A trained run as one folder that needs no project: weights, backbone and parameters."""

import shutil
from pathlib import Path

from fgaseg.errors import UserError
from fgaseg.files import read_json, write_json
from fgaseg.loading import load_model
from fgaseg.paths import Paths
from fgaseg.plan import Plan
from fgaseg.runtime import set_up_torch
from fgaseg.schema import Params
from fgaseg.using.segmenter import PhotoSegmenter

_INDEX = "bundle.json"


def _paths(bundle: Path, scale: str, backbone: str) -> Paths:
    """The layout of results/ inside the bundle, so that models are loaded from both in one way."""
    return Paths(bundle, scale, "", {backbone: "bundled"})


def write_bundle(plan: Plan, run: str, out: Path) -> None:
    """Copy what the trained `run` needs into the new folder `out`. Raises `UserError` where it is not there."""
    params = plan.runs[run]
    backbone = params.vlm.backbone
    target = _paths(out, plan.scale, backbone)
    model = plan.paths.run(run) / "model.safetensors"
    if not model.exists():
        raise UserError(f"{model}: no trained model; train it with `make sample` or `fgaseg train {run}`")
    weights = plan.paths.vlm(backbone)
    if not weights.exists():
        raise UserError(f"{weights}: the backbone's weights are missing; make them with `fgaseg vlm {backbone}`")
    for source, copy in ((model, target.run(run) / model.name), (weights, target.vlm(backbone))):
        copy.parent.mkdir(parents=True)
        shutil.copyfile(source, copy)
    write_json(out / _INDEX, {"run_id": run, "scale": plan.scale, "params": params.model_dump(mode="json")})


def load_bundle(bundle: Path, threads: int = 1) -> PhotoSegmenter:
    """The segmenter in a bundle. Raises `UserError` when it is damaged."""
    content = read_json(bundle / _INDEX)
    params = Params.model_validate(content["params"])
    paths = _paths(bundle, content["scale"], params.vlm.backbone)
    device = set_up_torch(threads)
    model = load_model(paths, params, paths.run(content["run_id"]) / "model.safetensors").to(device)
    return PhotoSegmenter(model, params, content["run_id"], content["scale"])
