"""How many crops a training's loader makes a second: photographs of 640 x 480 pixels, the paper's crops of 384."""

from collections.abc import Callable, Iterator
from functools import partial
from itertools import islice

from benchmarks.harness import Case

PHOTOGRAPHS, CROPS = 16, 64


def _crops(workers: int) -> Callable[[], object]:
    import tempfile
    from pathlib import Path

    import numpy as np
    from PIL import Image
    from torch.utils.data import DataLoader

    from benchmarks.model import paper_params
    from fgaseg.data.prepared import Sample
    from fgaseg.sample.concepts import CONCEPTS
    from fgaseg.sample.scenes import draw_scene
    from fgaseg.training.stream import TrainingStream

    folder = tempfile.TemporaryDirectory()
    samples = []
    for i in range(PHOTOGRAPHS):
        scene = draw_scene(list(CONCEPTS), 480, 640, np.random.default_rng(i))
        image, label = (Path(folder.name, f"{i}.{kind}") for kind in ("jpg", "png"))
        Image.fromarray(scene.image).save(image, quality=92)
        Image.fromarray(scene.labels).save(label)
        samples.append(Sample(image, label))

    class Photographs:
        """What a stream needs of a prepared dataset; it keeps the folder alive."""

        folder: object
        samples: list[Sample]

    dataset = Photographs()
    dataset.folder, dataset.samples = folder, samples
    vocabulary = np.arange(171)
    stream = TrainingStream(dataset, vocabulary, paper_params().training.augmentation, 0)  # type: ignore[arg-type]

    def endless() -> Iterator[list[int]]:
        g = 0
        while True:
            yield [g]
            g += 1

    batches = iter(DataLoader(stream, batch_sampler=endless(), num_workers=workers))  # type: ignore[arg-type]
    return lambda: sum(len(images) for images, _, _ in islice(batches, CROPS))


CASES = [Case(f"loader-{workers}", "training crops", partial(_crops, workers), items=CROPS) for workers in (0, 1, 2)]
