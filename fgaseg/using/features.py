"""The dense aligned features of a photograph and the maps that the model makes of them: `fgaseg features`.

Axes: C CLIP's joint channels, P templates, K names, D the map embedding's channels, h x w the patch grid.
"""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from fgaseg.data.pixels import normalise, to_pixels
from fgaseg.errors import UserError
from fgaseg.files import write_arrays
from fgaseg.model.supplementation import global_similarity
from fgaseg.using.limits import OWN_FILES, Limits
from fgaseg.using.pictures import Picture, as_image
from fgaseg.using.segmenter import PhotoSegmenter
from fgaseg.using.vocabulary import Vocabulary


def _array(tensor: Tensor) -> NDArray[np.float32]:
    return tensor.float().cpu().numpy()


def aligned_features(
    segmenter: PhotoSegmenter,
    picture: Picture,
    vocabulary: Vocabulary,
    prompts: tuple[str, ...] | None = None,
    limits: Limits = OWN_FILES,
) -> dict[str, NDArray[Any]]:
    """Named arrays, float32 unless said otherwise, of the whole picture at CLIP's input size; no class is dropped.

    `image` (C, h, w) is `F_v`; `text` (K, P, C) is `T^`, the text features as P2Tformer aligned them to this picture;
    `gcs` (K, h, w) their cosine, averaged over templates; `lcs` (K, h, w) the local similarity, absent where the run has
    none; `fused` (K, D, h, w) the fused maps that propagation starts from. `names` (K,) are all names of all classes,
    `classes` (K,) int64 the class that each belongs to. Raises `UserError` as a call of the segmenter does.
    """
    image: Image.Image = as_image(picture, limits)
    side = segmenter.params.evaluation.window
    view = normalise(to_pixels(image.resize((side, side), Image.Resampling.BILINEAR)))[None]
    with segmenter.model(vocabulary, prompts) as (model, text), torch.no_grad():
        features, _ = model.clip.encode_image(model.clip.fit(view.to(text.device)))
        aligned = model.align(features, text)
        gcs = global_similarity(features, aligned)
        fused, lcs = model.supplement(features, aligned, gcs)
    arrays: dict[str, NDArray[Any]] = {
        "image": _array(features[0]),
        "text": _array(aligned[0]),
        "gcs": _array(gcs.mean(1)[0]),
        "fused": _array(fused[0].permute(0, 3, 1, 2)),
        "names": np.array(vocabulary.prompted),
        "classes": np.array(vocabulary.owners, np.int64),
    }
    return arrays if lcs is None else arrays | {"lcs": _array(lcs[0])}


def check_out(photo: Path, out: Path) -> None:
    """`UserError` where arrays cannot be written to `out`."""
    if out.suffix.lower() != ".npz":
        raise UserError(f"--out {out}: arrays are written to an npz file; end its name in .npz")
    if out.is_dir() or (out.exists() and out.samefile(photo)):
        raise UserError(f"--out {out}: a folder, or the photograph itself; choose another name")


def write_features(arrays: dict[str, NDArray[Any]], out: Path) -> str:
    """Write the arrays to the npz file `out`; returns a line for each with its shape."""
    write_arrays(out, arrays)
    lines = [f"{name:<8} {'text' if a.dtype.kind == 'U' else a.dtype.name:<8} {a.shape}" for name, a in arrays.items()]
    return "\n".join([*lines, f"wrote {out}"])
