"""Images and labels from the disk while the model is at work."""

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fgaseg.data.prepared import Sample


class Loaded(NamedTuple):
    """A sample with its image, RGB, and its labels (H, W), -1 where void."""

    sample: Sample
    image: Image.Image
    labels: NDArray[np.int64]


def load(sample: Sample) -> Loaded:
    """Read both files of a sample."""
    return Loaded(sample, sample.read_image(), sample.read_labels())


def loaded(samples: Sequence[Sample], workers: int) -> Iterator[Loaded]:
    """The samples in their order, read by `workers` threads up to two each ahead of their use; by none where that is 0.

    Decoding needs no lock of the interpreter, so threads are enough. An unreadable file raises when its turn comes.
    """
    if not workers:
        yield from map(load, samples)
        return
    with ThreadPoolExecutor(workers, "load") as pool:
        waiting: deque[Future[Loaded]] = deque()
        try:
            for sample in samples:
                waiting.append(pool.submit(load, sample))
                if len(waiting) > 2 * workers:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()
