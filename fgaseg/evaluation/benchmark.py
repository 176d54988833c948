"""Score a segmenter on the images of one benchmark."""

import time
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fgaseg.data.prepared import Sample
from fgaseg.errors import UserError
from fgaseg.evaluation.ahead import loaded
from fgaseg.evaluation.counts import Counts
from fgaseg.evaluation.labelling import label_map
from fgaseg.evaluation.segmenter import Segmenter
from fgaseg.evaluation.sliding import merge, views
from fgaseg.schema import Evaluation

Labels = NDArray[np.int64]


def segment(segmenter: Segmenter, image: Image.Image, params: Evaluation, chunk: int = 32) -> Labels:
    """The best class of each pixel of an RGB image (H, W); `chunk` classes at a time are at its full size."""
    scores, classes = segmenter.scores(views(image, params).to(segmenter.device))
    best = label_map(merge(scores, params), image.height, image.width, chunk)
    result: Labels = (best if classes is None else classes[best]).cpu().numpy()
    return result


def evaluate_samples(
    segmenter: Segmenter,
    samples: Sequence[Sample],
    classes: int,
    params: Evaluation,
    remap: Labels | None = None,
    workers: int = 0,
    each: Callable[[Sample, Labels], None] = lambda sample, predicted: None,
) -> tuple[Counts, list[float]]:
    """Pixel counts of all images, and the seconds that each took from the picture in memory to its label map.

    `remap` (K + 1,) translates the files' labels to the vocabulary's, its last entry stands for void. `workers` threads
    read ahead. `each` is called with every prediction.
    """
    counts, seconds = Counts(classes), []
    for sample, image, labels in loaded(samples, workers):
        start = time.perf_counter()
        predicted = segment(segmenter, image, params)
        seconds.append(time.perf_counter() - start)
        if labels.shape != predicted.shape:
            raise UserError(
                f"{sample.label}: {labels.shape} labels for an image of {predicted.shape}; prepare the dataset again"
            )
        counts.add(predicted, labels if remap is None else remap[labels])
        each(sample, predicted)
    return counts, seconds
