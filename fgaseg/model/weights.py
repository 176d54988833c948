"""CLIP's weights on disk: given by an open_clip tag, by a file, or in the compact form of the sample data.

The compact form keeps half precision and only the token rows that pre-training has met. Expanded, it is an ordinary
state dict that `open_clip.create_model(architecture, pretrained=FILE)` loads.
"""

import io
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as save_safetensors
from torch import Tensor

from fgaseg.errors import UserError
from fgaseg.files import write_whole
from fgaseg.model.clip import create_open_clip

_FORMAT = "fgaseg-compact-clip"
_TABLE = "token_embedding.weight"
_ROWS = "token_rows"


def save_compact(state: dict[str, Tensor], trained_tokens: list[int], path: Path) -> None:
    """Write the weights of a CLIP in half precision with the token rows `trained_tokens` alone."""
    rows = torch.tensor(sorted(trained_tokens))
    tensors = {name: tensor.half().contiguous() for name, tensor in state.items() if name != _TABLE}
    tensors |= {_TABLE: state[_TABLE][rows].half(), _ROWS: rows.int()}
    write_whole(path, save_safetensors(tensors, {"format": _FORMAT}))


def _expand(path: Path, architecture: str) -> dict[str, Tensor]:
    """The full state dict of a compact file.

    Tokens that were never trained get random rows as large as the trained ones: words that this CLIP does not know.
    """
    with safe_open(path, "pt") as file:
        tensors = {name: file.get_tensor(name).float() for name in file.keys()}  # noqa: SIM118
    rows = tensors.pop(_ROWS).long()
    known = tensors[_TABLE]
    table = create_open_clip(architecture, None).state_dict()[_TABLE]
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


def provide(architecture: str, pretrained: str, root: Path, out: Path) -> None:
    """Write the state dict of `architecture` with weights `pretrained` to `out`, ready for open_clip.

    `pretrained` is an open_clip tag, or a file below `root`. Raises `UserError` when the file is missing or does not fit.
    """
    file = root / pretrained
    if file.suffix == ".safetensors" and file.exists() and _is_compact(file):
        model = create_open_clip(architecture, None)
        try:
            model.load_state_dict(_expand(file, architecture))
        except (RuntimeError, LookupError) as error:
            reason = str(error).splitlines()[-1].strip()
            raise UserError(
                f"{file}: these weights do not fit {architecture} ({reason}); set vlm.pretrained and vlm.architecture to a pair"
            ) from None
    elif "/" in pretrained and not file.exists():
        raise UserError(f"{file}: no such weights; fetch them, for the sample with `dvc pull`")
    else:
        model = create_open_clip(architecture, str(file) if file.exists() else pretrained)
    buffer = io.BytesIO()
    torch.save(model.state_dict(), buffer)
    write_whole(out, buffer.getvalue())
