"""CLIP's weights on disk: given by an open_clip tag, by a file (`clip_files`), or in the compact form of the sample data.

The compact form keeps half precision and only the token rows that pre-training has met. Expanded, it is an ordinary
state dict that `open_clip.create_model(architecture, pretrained=FILE)` loads.
"""

import io
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import open_clip
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as save_safetensors
from torch import Tensor

from fgaseg.errors import UserError
from fgaseg.files import write_whole
from fgaseg.model.clip import create_open_clip
from fgaseg.model.clip_files import read_weights
from fgaseg.model.clip_guard import check_fit, check_tag, computes_quick_gelu

_FORMAT = "fgaseg-compact-clip"
_TABLE = "token_embedding.weight"
_ROWS = "token_rows"


def save_compact(state: dict[str, Tensor], trained_tokens: list[int], path: Path) -> None:
    """Write the weights of a CLIP in half precision with the token rows `trained_tokens` alone."""
    rows = torch.tensor(sorted(trained_tokens))
    tensors = {name: tensor.half().contiguous() for name, tensor in state.items() if name != _TABLE}
    tensors |= {_TABLE: state[_TABLE][rows].half(), _ROWS: rows.int()}
    write_whole(path, save_safetensors(tensors, {"format": _FORMAT}))


def _expand(compact: Mapping[str, Tensor], table: Tensor) -> dict[str, Tensor]:
    """The full state dict of a compact file; `table` is as large as the token embedding shall be.

    Tokens that were never trained get random rows as large as the trained ones: words that this CLIP does not know.
    """
    tensors = {name: tensor.float() for name, tensor in compact.items()}
    rows = tensors.pop(_ROWS).long()
    known = tensors[_TABLE]
    generator = torch.Generator().manual_seed(0)
    tensors[_TABLE] = torch.randn(table.shape, generator=generator) * known.std()
    tensors[_TABLE][rows] = known
    return tensors


def _is_compact(path: Path) -> bool:
    try:
        with safe_open(path, "pt") as file:
            return (file.metadata() or {}).get("format") == _FORMAT
    except SafetensorError as error:
        raise UserError(
            f"{path}: not a readable safetensors file ({error}); fetch it again, for the sample with `dvc pull`"
        ) from None


def provide(architecture: str, pretrained: str, root: Path, out: Path, sha256: str | None = None) -> None:
    """Write the state dict of `architecture` with weights `pretrained` to `out`, ready for open_clip.

    `pretrained` is an open_clip tag, or a file below `root`, whose SHA-256 must begin with `sha256`. Raises `UserError` when
    the file is missing, another one, or does not fit.
    """
    file = root / pretrained
    if file.is_file():
        model = _from_file(architecture, file, sha256)
    elif "/" in pretrained:
        raise UserError(f"{file}: no such weights; fetch them, for the sample with `dvc pull`")
    elif sha256 is not None:
        raise UserError(f"vlm.pretrained_sha256: '{pretrained}' is no file whose digest could be compared; leave it out")
    else:
        check_tag(architecture, pretrained)
        model = create_open_clip(architecture, pretrained)
    buffer = io.BytesIO()
    torch.save(model.state_dict(), buffer)
    write_whole(out, buffer.getvalue())


def _from_file(architecture: str, file: Path, sha256: str | None) -> open_clip.CLIP:
    """An open_clip model with the weights of a file in any form."""
    model = create_open_clip(architecture, None)
    own = model.state_dict()
    compact = file.suffix == ".safetensors" and _is_compact(file)
    weights = read_weights(file, sha256)
    if compact:
        try:
            state = _expand(weights.state, own[_TABLE])
        except (RuntimeError, LookupError) as error:
            raise UserError(
                f"{file}: these weights do not fit {architecture} ({str(error).splitlines()[0]}); "
                "set vlm.pretrained and vlm.architecture to a pair"
            ) from None
        weights = replace(weights, state=state, quick_gelu=computes_quick_gelu(architecture))
    check_fit(weights, architecture, own)
    model.load_state_dict({name: tensor.reshape(own[name].shape) for name, tensor in weights.state.items()})
    return model
