"""Keep the pseudo-masks of an image for the figure: classes that it shows and classes that it does not (paper, Fig. 6)."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fgaseg.data.pixels import normalise, to_pixels
from fgaseg.data.prepared import PreparedDataset
from fgaseg.evaluation.segmenter import FGAsegSegmenter
from fgaseg.files import relative, write_arrays
from fgaseg.schema import Evaluation

PRESENT, ABSENT = 3, 2


def _choose(dataset: PreparedDataset) -> tuple[int, list[int], list[int]]:
    """The image that shows most classes, its largest ones, and classes that others show but it does not."""
    shares = [np.bincount(s.read_labels().ravel() + 1, minlength=len(dataset.classes) + 1)[1:] for s in dataset.samples[:50]]
    best = max(range(len(shares)), key=lambda i: (np.count_nonzero(shares[i] > 0.02 * shares[i].sum()), -i))
    present = [int(c) for c in np.argsort(-shares[best], kind="stable")[:PRESENT] if shares[best][c]]
    total = np.sum(shares, axis=0)
    absent = [int(c) for c in np.argsort(-total, kind="stable") if not shares[best][c]][:ABSENT]
    return best, present, absent


def principal_component(embedding: Tensor, reference: Tensor) -> Tensor:
    """The direction in which an embedding (K, D, h, w) varies most over classes and places, as maps (K, h, w) around 0.

    Its sign, which is arbitrary, is chosen so that it grows with `reference` (K, h, w).
    """
    vectors = embedding.movedim(1, -1).flatten(0, -2)
    centred = (vectors - vectors.mean(0)).double()
    _, axes = torch.linalg.eigh(centred.T @ centred)  # by rising eigenvalue
    component = (centred @ axes[:, -1]).view_as(reference)
    grows = (component * (reference - reference.mean())).sum() >= 0
    return (component if grows else -component).to(embedding.dtype)


def pseudo_mask_panels(
    segmenter: FGAsegSegmenter, dataset: PreparedDataset, benchmark: str, params: Evaluation, out: Path
) -> list[dict[str, Any]]:
    """Write the maps to `pseudo_masks/<benchmark>.npz` below `out`; returns their entries in `panels.json` (no map: null).

    Of the fused embedding its first principal component over the chosen classes is kept.
    """
    index, present, absent = _choose(dataset)
    sample = dataset.samples[index]
    size = (params.window, params.window)
    image = normalise(to_pixels(sample.read_image().resize(size)))[None].to(segmenter.device)
    chosen = present + absent
    masks = segmenter.model.pseudo_masks(image, segmenter.text[chosen])
    kinds = {
        "gcs": masks.gcs[0],
        "lcs": None if masks.lcs is None else masks.lcs[0],
        "fused": principal_component(masks.fused[0], masks.gcs[0]),
    }
    file = Path("pseudo_masks", f"{benchmark}.npz")
    arrays: dict[str, NDArray[np.float32]] = {}
    entries: list[dict[str, Any]] = []
    for i, c in enumerate(chosen):
        arrays |= {f"{i}/{kind}": maps[i].cpu().numpy() for kind, maps in kinds.items() if maps is not None}
        entries.append(
            {
                "benchmark": benchmark,
                "image": relative(sample.image, out),
                "class": dataset.classes[c].name,
                "present": c in present,
                "arrays": str(file),
                **{kind: f"{i}/{kind}" if maps is not None else None for kind, maps in kinds.items()},
            }
        )
    write_arrays(out / file, arrays)
    return entries
