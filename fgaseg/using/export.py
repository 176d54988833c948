"""A trained run as an MLflow model, and the server around it."""

import logging
import os
import tempfile
import warnings
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fgaseg.errors import UserError
from fgaseg.files import atomic_folder
from fgaseg.plan import Plan
from fgaseg.using.bundle import write_bundle
from fgaseg.using.guard import Guard
from fgaseg.using.requests import check_request

if TYPE_CHECKING:
    from mlflow.models import ModelSignature

_PACKAGES = ("mlflow", "torch", "torchvision", "open_clip_torch", "timm", "safetensors", "numpy", "pillow", "matplotlib")


def _mlflow() -> Any:
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    import mlflow

    logging.getLogger("mlflow").setLevel(logging.ERROR)
    return mlflow


def signature() -> "ModelSignature":
    """Columns of requests and answers."""
    from mlflow.models import ModelSignature
    from mlflow.types.schema import Array, ColSpec, DataType, Object, Property, Schema

    area = Object(
        [
            Property("label", DataType.long),
            Property("name", DataType.string),
            Property("pixels", DataType.long),
            Property("area", DataType.double),
            Property("confidence", DataType.double, required=False),
        ]
    )
    asked: list[Any] = [
        ColSpec("string", "image"),
        ColSpec("string", "classes"),
        ColSpec("double", "background", required=False),
    ]
    given: list[Any] = [
        ColSpec("string", "run_id"),
        ColSpec("long", "height"),
        ColSpec("long", "width"),
        ColSpec("string", "labels"),
        ColSpec(Array(area), "classes"),
    ]
    return ModelSignature(inputs=Schema(asked), outputs=Schema(given))


def export(plan: Plan, run: str, out: Path) -> Path:
    """Write the trained `run` (an id) as an MLflow model into the new folder `out`. Raises `UserError` where `out` exists."""
    if out.exists():
        raise UserError(f"{out}: there already; remove it, or choose another folder")
    mlflow = _mlflow()
    with tempfile.TemporaryDirectory() as scratch, atomic_folder(out) as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about type hints that the signature makes needless
        bundle = Path(scratch) / "bundle"
        write_bundle(plan, run, bundle)
        mlflow.pyfunc.save_model(
            folder,
            python_model=str(Path(__file__).with_name("scoring.py")),
            artifacts={"bundle": str(bundle)},
            signature=signature(),
            pip_requirements=[f"{name}=={version(name)}" for name in _PACKAGES],
            metadata={"run_id": run, "scale": plan.scale},
        )
    return out


def serve_model(folder: Path, host: str, port: int, tell: Callable[[str], None]) -> None:
    """MLflow's scoring server for an exported model, behind `Guard`: what is refused gets 4xx and one line.

    Raises `UserError` when the folder holds no model.
    """
    if not (folder / "MLmodel").is_file():
        raise UserError(f"{folder}: no MLflow model; write one with `fgaseg export RUN {folder}`")
    mlflow = _mlflow()
    import uvicorn
    from mlflow.pyfunc import scoring_server

    server = scoring_server.init(mlflow.pyfunc.load_model(str(folder)))
    server.add_middleware(Guard, always_json=("/invocations",), check=check_request)
    tell(f"http://{host}:{port}/invocations (Ctrl-C ends it)")
    uvicorn.run(server, host=host, port=port, log_level="warning", limit_concurrency=16)
