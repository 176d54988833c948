"""What makes two trainings, or two evaluations, the same or different: hashes of all that decides their results."""

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

from fgaseg.catalogue import OwnDataset
from fgaseg.errors import UserError
from fgaseg.params import read_yaml
from fgaseg.schema import Params

Method = Literal["fgaseg", "dense_clip"]

NONE: Mapping[str, str] = MappingProxyType({})
_DIGEST = "pretrained_sha256"


def _short_hash(content: Mapping[str, Any]) -> str:
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()[:12]


def _digests(path: Path) -> dict[Path, str]:
    """What a file of DVC tracks, from the project's root, with its digests."""
    if not path.exists():
        return {}
    try:
        return {path.parent / out["path"]: str(out["md5"]) for out in read_yaml(path)["outs"]}
    except (KeyError, TypeError):
        raise UserError(f"{path}: not a file of DVC: outs with path and md5 are expected; restore it from git") from None


def data_file(root: Path, data_root: str) -> Path | None:
    """The file of DVC that tracks the raw data at `data_root`: `data.dvc`, or the one that `dvc add` writes beside them."""
    for path in (root / "data.dvc", root / f"{data_root}.dvc"):
        if root / data_root in _digests(path):
            return path
    return None


def data_digest(root: Path, data_root: str) -> str:
    """The digest that DVC recorded for the raw data at `data_root`, or "untracked".

    Read from DVC's file: known before the data are there, so that a plan needs no data.
    """
    path = data_file(root, data_root)
    return "untracked" if path is None else _digests(path)[root / data_root]


def own_id(own: OwnDataset, root: Path) -> str:
    """Identity of a user's own dataset: its description, and the digests of its folders where DVC tracks them."""
    digests = [_folder_digest(root, folder) for folder in (own.images, own.labels)]
    return _short_hash(own.content() | {"digests": digests})[:8]


def _folder_digest(root: Path, folder: str) -> str:
    """The digest of the folder, or of the nearest one around it, that DVC tracks; "untracked" where it tracks none."""
    around = [folder, *(str(parent) for parent in Path(folder).parents if parent.name)]
    return next((digest for each in around if (digest := data_digest(root, each)) != "untracked"), "untracked")


def _of_own(names: Iterable[str], own: Mapping[str, str]) -> dict[str, Any]:
    """A user's own datasets among `names` with their identities; nothing where there are none."""
    used = {name: own[name] for name in names if name in own}
    return {"own": used} if used else {}


def _digest_of_weights(vlm: Mapping[str, Any]) -> dict[str, str]:
    """The digest that a file of weights must have, where one is asked for."""
    return {_DIGEST: str(vlm[_DIGEST]).lower()} if vlm.get(_DIGEST) else {}


def run_id(params: Params, digest: str, own: Mapping[str, str] = NONE) -> str:
    """Identity of a training: all that decides its weights, and nothing else.

    `own` has the identities of a user's own datasets.
    """
    p = params.model_dump(mode="json")
    vlm = {k: v for k, v in p["vlm"].items() if k not in ("backbone", "label", _DIGEST)} | _digest_of_weights(p["vlm"])
    data = {k: p["data"][k] for k in ("train", "train_classes")} | _of_own([params.data.train], own)
    training = {k: v for k, v in p["training"].items() if k != "validate_every"}
    parts = {"vlm": vlm, "model": p["model"], "training": training, "data": data}
    return _short_hash(parts | {"digest": digest, "revision": params.revision.training})


def eval_id(params: Params, method: Method, digest: str, own: Mapping[str, str] = NONE) -> str:
    """Identity of an evaluation: the training (or the untrained CLIP) and how it is scored.

    `own` has the identities of a user's own datasets.
    """
    p = params.model_dump(mode="json")
    if method == "fgaseg":
        subject: Any = run_id(params, digest, own)
    else:
        subject = {k: p["vlm"][k] for k in ("architecture", "pretrained", "image_size", "dense_residual", "prompts")}
        subject |= _digest_of_weights(p["vlm"])
    scoring = {k: v for k, v in p["evaluation"].items() if k != "panels"}
    parts = {"subject": subject, "method": method, "evaluation": scoring, "benchmarks": p["data"]["benchmarks"]}
    parts |= _of_own([params.data.train, *params.data.benchmarks], own)
    return _short_hash(parts | {"digest": digest, "revision": params.revision.evaluation})


def data_id(data_root: str, digest: str) -> str:
    """Identity of the raw data: what prepared datasets are made from."""
    return _short_hash({"root": data_root, "digest": digest})[:8]


def weights_id(backbone: Mapping[str, Any], digest: str) -> str:
    """Identity of a backbone's weights: where they are from; the data may ship them."""
    parts = {key: backbone[key] for key in ("architecture", "pretrained")} | _digest_of_weights(backbone)
    return _short_hash(parts | {"digest": digest})[:8]


def changes(default: Params, params: Params) -> dict[str, Any]:
    """The dotted keys in which `params` differs from `default`, with their values."""

    def walk(a: dict[str, Any], b: dict[str, Any], prefix: str) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for key, value in b.items():
            if isinstance(value, dict):
                found |= walk(a[key], value, f"{prefix}{key}.")
            elif a[key] != value:
                found[f"{prefix}{key}"] = value
        return found

    return walk(default.model_dump(mode="json"), params.model_dump(mode="json"), "")
