"""From an image's low-resolution scores (K, R, R) to its label map and pixel counts: A-847 at the paper's scale."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.harness import Case

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

CLASSES, SIDE, HEIGHT, WIDTH = 847, 160, 512, 683


def clip_scores() -> "Tensor":
    """What the sample's dense CLIP gives for all names of A-847: (K, R, R), few classes win."""
    from fgaseg.data.prepared import PreparedDataset
    from fgaseg.evaluation.run import make_segmenter
    from fgaseg.evaluation.sliding import merge, views
    from fgaseg.params import load_launch
    from fgaseg.plan import Plan
    from fgaseg.runtime import set_up_torch

    plan = Plan(Path(), "sample")
    row = plan.tables["table_1"].rows[0]
    dataset = PreparedDataset(plan.paths.dataset("a-847"))
    segmenter = make_segmenter(plan, row, set_up_torch(1), load_launch(plan.root))
    segmenter.set_vocabulary([c.name for c in dataset.classes])
    window = row.params.evaluation.window
    params = row.params.evaluation.model_copy(update={"resize": 5 * window, "stride": window})
    return merge(segmenter.scores(views(dataset.samples[0].read_image(), params)).values, params)


def smooth_scores() -> "Tensor":
    """Probabilities that vary slowly, with other classes in front everywhere: 535 of 847 win somewhere."""
    import torch
    import torch.nn.functional as F

    coarse = 2 * torch.randn(1, CLASSES, 12, 12, generator=torch.Generator().manual_seed(0))
    return F.interpolate(coarse, size=(SIDE, SIDE), mode="bicubic")[0].softmax(0).contiguous()


def noise_scores() -> "Tensor":
    """Independent noise in every cell of every class: the worst case, nothing can be ruled out."""
    import torch

    return torch.rand(CLASSES, SIDE, SIDE, generator=torch.Generator().manual_seed(0))


def _labels() -> "NDArray[np.int64]":
    """Ground truth of 40 classes in blocks, a tenth of it void."""
    import numpy as np

    rng = np.random.default_rng(0)
    blocks = rng.choice(np.append(rng.integers(0, CLASSES, 40), [-1] * 4), (HEIGHT // 32 + 1, WIDTH // 32 + 1))
    return np.kron(blocks, np.ones((32, 32), np.int64))[:HEIGHT, :WIDTH]


def _plain_label_map(scores: "Tensor") -> "NDArray[np.int64]":
    """All classes at full size, then the best: K x H x W values in memory."""
    import torch.nn.functional as F

    return F.interpolate(scores[None], size=(HEIGHT, WIDTH), mode="bilinear", align_corners=False)[0].argmax(0).numpy()


def _plain_counts(predicted: "NDArray[np.int64]", labels: "NDArray[np.int64]") -> "NDArray[np.int64]":
    """The full K x K confusion matrix."""
    import numpy as np

    valid = labels >= 0
    pairs = CLASSES * labels[valid] + predicted[valid]
    return np.bincount(pairs, minlength=CLASSES * CLASSES).reshape(CLASSES, CLASSES)


def _set_threads() -> None:
    """`set_up_torch` may have chosen another number."""
    import os

    import torch

    torch.set_num_threads(int(os.environ["BENCHMARK_THREADS"]))


def _plain(make: "Callable[[], Tensor]") -> Callable[[], object]:
    scores, labels = make(), _labels()
    _set_threads()
    return lambda: _plain_counts(_plain_label_map(scores), labels)


def _ours(make: "Callable[[], Tensor]") -> Callable[[], object]:
    from fgaseg.evaluation.counts import Counts
    from fgaseg.evaluation.labelling import label_map

    scores, labels = make(), _labels()
    _set_threads()
    return lambda: Counts(CLASSES).add(label_map(scores, HEIGHT, WIDTH).numpy(), labels)


def _counts(ours: bool) -> Callable[[], object]:
    from fgaseg.evaluation.counts import Counts

    predicted, labels = _plain_label_map(smooth_scores()), _labels()
    return lambda: Counts(CLASSES).add(predicted, labels) if ours else _plain_counts(predicted, labels)


_MAPS = {"clip": clip_scores, "smooth": smooth_scores, "noise": noise_scores}

CASES = [
    case
    for name, make in _MAPS.items()
    for case in (
        Case(f"labels-{name}-plain", f"labels and counts, {name}", partial(_plain, make)),
        Case(f"labels-{name}", f"labels and counts, {name}", partial(_ours, make)),
    )
] + [
    Case("confusion-plain", "pixel counts", partial(_counts, False)),
    Case("confusion", "pixel counts", partial(_counts, True)),
]
