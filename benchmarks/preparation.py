"""How fast preparation is, what a kill costs, and how long reading a large prepared dataset takes to begin.

    python -m benchmarks.preparation                     20 000 label files, 2 workers
    python -m benchmarks.preparation --images 2000 --workers 1 --index 10000

Photographs and labels are cut from a few drawn scenes, in the layout of COCO-Stuff. Preparation runs undisturbed; then once
more, is killed with SIGKILL when half of the labels are there, and called again. Printed: images per second and core, what
the second call found finished and did again, and whether both end in the same bytes.
"""

import argparse
import hashlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from fgaseg.data.prepared import PreparedDataset
from fgaseg.sample.datasets import write_sample
from fgaseg.schema import Augmentation

DATASET = "coco-stuff-val"
SCENES = 16
HEIGHT, WIDTH = 240, 320


@dataclass(frozen=True)
class Measured:
    """What came out; `redone` are the label files that the second call wrote though the killed one had finished them."""

    images: int
    workers: int
    seconds: float
    finished: int
    redone: int
    resumed_seconds: float
    identical: bool

    @property
    def per_core(self) -> float:
        """Images per second and core of the undisturbed preparation, its start-up included."""
        return self.images / self.seconds / self.workers


def generate(root: Path, count: int) -> None:
    """Write `count` photographs with labels below `root`, cut at random from drawn scenes."""
    drawn = root / "drawn"
    write_sample(drawn, counts={"coco-train": 0, "coco-val": SCENES, "a-150": 0, "a-847": 0, "context": 0, "voc": 0})
    stems = sorted(path.stem for path in (drawn / "coco" / "val2017").glob("*.jpg"))
    larger = (2 * WIDTH, 2 * HEIGHT)
    pictures = [Image.open(drawn / "coco" / "val2017" / f"{stem}.jpg").resize(larger) for stem in stems]
    folder = drawn / "coco" / "stuffthingmaps" / "val2017"
    labels = [Image.open(folder / f"{stem}.png").resize(larger, Image.Resampling.NEAREST) for stem in stems]
    images, maps = root / "coco" / "val2017", root / "coco" / "stuffthingmaps" / "val2017"
    images.mkdir(parents=True)
    maps.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for i in range(count):
        scene, left, top = i % SCENES, int(rng.integers(WIDTH)), int(rng.integers(HEIGHT))
        box = (left, top, left + WIDTH, top + HEIGHT)
        pictures[scene].crop(box).save(images / f"{i:012d}.jpg", quality=90)
        labels[scene].crop(box).save(maps / f"{i:012d}.png", compress_level=6)


def _start(root: Path, out: Path, workers: int) -> "subprocess.Popen[bytes]":
    code = (
        "import sys; from pathlib import Path; from fgaseg.data.prepare import prepare; "
        "prepare(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]), int(sys.argv[4]))"
    )
    return subprocess.Popen([sys.executable, "-c", code, DATASET, root, out, str(workers)], start_new_session=True)


def _run(root: Path, out: Path, workers: int) -> float:
    start = time.perf_counter()
    if status := _start(root, out, workers).wait():
        raise SystemExit(f"preparation failed with status {status}")
    return time.perf_counter() - start


def _labels(out: Path) -> dict[str, tuple[int, int]]:
    """Inode and time of every finished label: what is written again has others."""
    folder = out / "labels"
    if not folder.exists():
        return {}
    return {e.name: (e.inode(), e.stat().st_mtime_ns) for e in os.scandir(folder) if not e.name.startswith(".")}


def _digest(out: Path) -> str:
    """Of all files in the folder, with the folder's own name left out of the index."""
    digest = hashlib.sha256()
    for path in sorted(path for path in out.rglob("*") if path.is_file()):
        digest.update(str(path.relative_to(out)).encode() + path.read_bytes().replace(str(out).encode(), b""))
    return digest.hexdigest()


def measure(folder: Path, images: int, workers: int) -> Measured:
    """Generate the files in an empty `folder`, prepare them undisturbed, and killed halfway."""
    raw, whole, killed = folder / "raw", folder / "whole", folder / "killed"
    generate(raw, images)
    seconds = _run(raw, whole, workers)
    process = _start(raw, killed, workers)
    while len(_labels(killed)) < images // 2 and process.poll() is None:
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    time.sleep(0.2)
    before = _labels(killed)
    resumed = _run(raw, killed, workers)
    after = _labels(killed)
    redone = sum(before[name] != after[name] for name in before)
    return Measured(images, workers, seconds, len(before), redone, resumed, _digest(whole) == _digest(killed))


def start_up(prepared: Path, images: int) -> tuple[float, float]:
    """Seconds to list the samples of an index of `images` lines, and from there to the first training crop."""
    from fgaseg.training.stream import TrainingStream

    lines = (prepared / "index.csv").read_text(encoding="utf-8").splitlines()
    repeated = [lines[1 + i % (len(lines) - 1)] for i in range(images)]
    (prepared / "index.csv").write_text("\n".join([lines[0], *repeated, ""]), encoding="utf-8")
    start = time.perf_counter()
    dataset = PreparedDataset(prepared)
    assert len(dataset.samples) == images
    listed = time.perf_counter()
    augmentation = Augmentation(crop=96, short_edges=(96,), colour_jitter=False, flip=True, pad_value=128)
    TrainingStream(dataset, np.arange(len(dataset.classes)), augmentation, 0)[0]
    return listed - start, time.perf_counter() - listed


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print; exit status 1 where something was redone or differs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=20_000)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--index", type=int, default=118_287, help="lines of the index whose start-up is measured")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        found = measure(Path(folder), options.images, options.workers)
        listed, crop = start_up(Path(folder) / "whole", options.index)
    print(f"{found.images} images of {WIDTH} x {HEIGHT}, {found.workers} workers: {found.seconds:.1f} s")
    print(f"{found.per_core:.0f} images per second and core")
    print(f"killed with {found.finished} finished; the next call took {found.resumed_seconds:.1f} s and redid {found.redone}")
    print(f"the same bytes as undisturbed: {'yes' if found.identical else 'no'}")
    print(f"an index of {options.index} images: {listed:.2f} s to its samples, {crop:.2f} s more to the first crop")
    return 0 if found.identical and found.redone <= found.workers else 1


if __name__ == "__main__":
    sys.exit(main())
