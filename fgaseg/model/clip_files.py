"""CLIP's weights in a file that somebody published: read in each of the forms that are in use, and its SHA-256 checked.

No code of the file is run: pickles are read with `weights_only`, of a TorchScript archive only its tensors and the names of
its classes are looked at.
"""

import hashlib
import json
import warnings
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import open_clip
import torch
from open_clip.factory import load_state_dict
from torch import Tensor

from fgaseg.errors import UserError

_OPENAI_ENTRIES = ("input_resolution", "context_length", "vocab_size")
_NO_WEIGHTS = frozenset((*_OPENAI_ENTRIES, "attn_mask"))
"""What TorchScript archives hold beside weights: OpenAI's three sizes; a traced open_clip model's causal mask."""


@dataclass(frozen=True)
class Published:
    """A file whose SHA-256, or its beginning, is in its address. `openai`: one of OpenAI's archives."""

    digest: str
    quick_gelu: bool
    openai: bool


@dataclass(frozen=True)
class WeightFile:
    """What a file holds: tensors under open_clip's names, and whether they were trained with QuickGELU.

    `quick_gelu` is None where nothing tells; `evidence` says what told.
    """

    path: Path
    state: dict[str, Tensor]
    quick_gelu: bool | None
    evidence: str


def published_files() -> dict[str, Published]:
    """The files of OpenAI and of open_clip's releases by name, as open_clip lists their addresses."""
    found = {}
    for architecture, tag in open_clip.list_pretrained():
        config = open_clip.get_pretrained_cfg(architecture, tag)
        folder, _, name = config.get("url", "").rpartition("/")
        openai = "openaipublic" in folder
        if openai or "mlfoundations" in folder:
            digest = folder.rpartition("/")[2] if openai else Path(name).stem.rpartition("-")[2]
            found[name] = Published(digest, config.get("quick_gelu", False), openai)
    return found


def is_torchscript(path: Path) -> bool:
    """Whether the file is a TorchScript archive, the form of OpenAI's weights."""
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any(name.endswith("/constants.pkl") for name in archive.namelist())


def _check_digest(path: Path, digest: str, expected: str | None, torchscript: bool) -> Published | None:
    """What is known about the published file that this is. Raises `UserError` where the digest is not the expected one."""
    published = published_files()
    of_name = published.get(path.name)
    if expected is not None:
        if not digest.startswith(expected.lower()):
            raise UserError(
                f"{path}: its SHA-256 is {digest}, vlm.pretrained_sha256 is {expected}: another file, or a damaged one; "
                "copy it again, or correct the parameter"
            )
    elif of_name and (torchscript or not of_name.openai) and not digest.startswith(of_name.digest):
        raise UserError(
            f"{path}: its SHA-256 is {digest}, the published file of this name has {of_name.digest}: another file, or a "
            "damaged one; copy it again, or give vlm.pretrained_sha256 if you mean this one"
        )
    return next((each for each in published.values() if digest.startswith(each.digest)), None)


def _open_torchscript(path: Path) -> tuple[dict[str, Tensor], bool | None, str]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # of deprecation: OpenAI's files will not change
        archive = torch.jit.load(path, map_location="cpu")
    state = {name: tensor for name, tensor in archive.state_dict().items() if name not in _NO_WEIGHTS}
    activations = {module.original_name for module in archive.modules()} & {"QuickGELU", "GELU"}
    if activations in ({"QuickGELU"}, {"GELU"}):
        return state, activations == {"QuickGELU"}, "its TorchScript code"
    openai = all(hasattr(archive, name) for name in _OPENAI_ENTRIES)
    return state, True if openai else None, "its form, OpenAI's archive"


def _open_plain(path: Path) -> dict[str, Tensor]:
    state: Any = load_state_dict(str(path), device="cpu", weights_only=True)
    if not isinstance(state, dict) or not all(isinstance(each, Tensor) for each in state.values()):
        raise ValueError("it holds something else than tensors by name")
    return state


def _told_beside(path: Path) -> tuple[bool | None, str]:
    """What the configuration beside the weights says, as open_clip's Hugging Face repositories have it, or the file's name."""
    config = path.parent / "open_clip_config.json"
    if config.is_file():
        try:
            return bool(json.loads(config.read_text(encoding="utf-8"))["model_cfg"].get("quick_gelu", False)), str(config)
        except (ValueError, LookupError, TypeError, AttributeError):
            raise UserError(f"{config}: not a configuration of open_clip; fetch it again, or remove it") from None
    named = published_files().get(path.name)
    if named is not None:
        return named.quick_gelu, f"its name, {path.name}"
    for word in ("openai", "quickgelu"):
        if word in f"{path.parent.name}/{path.name}".lower():
            return True, f"its name ({word})"
    return None, ""


def read_weights(path: Path, expected_sha256: str | None = None) -> WeightFile:
    """Read OpenAI's TorchScript archive, a state dict of PyTorch (also as `state_dict` of a checkpoint) or safetensors.

    The SHA-256 must begin with `expected_sha256`; without one, a name under which OpenAI or open_clip have published a file
    must go with that file's digest. Raises `UserError` for another digest and for what is not readable.
    """
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    torchscript = is_torchscript(path)
    known = _check_digest(path, digest, expected_sha256, torchscript)
    told: tuple[bool | None, str] = (None, "")
    try:
        if torchscript:
            state, *told = _open_torchscript(path)  # type: ignore[assignment]
        else:
            state = _open_plain(path)
    except Exception as error:  # a damaged pickle may raise anything
        reason = (str(error).strip() or repr(error)).splitlines()[0].split(". ")[0].rstrip(":")
        raise UserError(
            f"{path}: not readable as CLIP weights ({reason}); a TorchScript archive, a state dict that torch.save wrote, or "
            "safetensors are expected: fetch it again"
        ) from None
    if known is not None:
        told = known.quick_gelu, f"its SHA-256, {digest[:8]}"
    elif told[0] is None:
        told = _told_beside(path)
    return WeightFile(path, state, *told)
