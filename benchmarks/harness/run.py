"""Starts a fresh process for every measurement, in an order that treats all cases of a group alike."""

import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.harness.case import Case, by_group

ROOT = Path(__file__).parents[2]
ALLOCATORS: dict[str, dict[str, str]] = {
    "default": {},
    "raised": {
        "MALLOC_MMAP_THRESHOLD_": str(2**32),
        "MALLOC_TRIM_THRESHOLD_": str(2**36),
        "MALLOC_TOP_PAD_": str(2**26),
    },
}
"""glibc as it is, which gives large blocks back to the kernel at once and has their pages zeroed again at the next
allocation; and glibc told to keep them."""

_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


@dataclass
class Measurement:
    """A case under one allocator: one entry for each process that measured it. `problem` tells why there is none."""

    case: Case
    allocator: str
    seconds: list[float] = field(default_factory=list)
    setup_gib: list[float] = field(default_factory=list)
    peak_gib: list[float] = field(default_factory=list)
    calls: int = 0
    note: str = ""
    problem: str | None = None
    failed: bool = False

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)

    @property
    def peak(self) -> float:
        return max(self.peak_gib)


def schedule(measurements: Sequence[Measurement], repeats: int) -> Iterator[Measurement]:
    """Group by group, all cases in turn (A B A B), so that a slow moment of the machine hits all of them alike."""
    for group in by_group(list(dict.fromkeys(m.case for m in measurements))):
        members = [m for m in measurements if m.case in group]
        for _ in range(repeats):
            yield from members


def environment(allocator: str, threads: int, inherited: Mapping[str, str] = os.environ) -> dict[str, str]:
    """The environment of a measuring process: the allocator's settings and no others, and the number of threads."""
    kept = {key: value for key, value in inherited.items() if not key.startswith("MALLOC_")}
    path = os.pathsep.join([str(ROOT), *filter(None, [kept.get("PYTHONPATH")])])
    threaded = dict.fromkeys(_THREADS, str(threads))
    return {**kept, **threaded, **ALLOCATORS[allocator], "PYTHONPATH": path, "BENCHMARK_THREADS": str(threads)}


def measure_once(measurement: Measurement, threads: int) -> None:
    """Add what one fresh process measures; a process that fails ends the case, with the last line that it said."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "result.json")
        command = [sys.executable, "-m", "benchmarks.harness.child", measurement.case.name, str(file)]
        done = subprocess.run(
            command,
            cwd=ROOT,
            env=environment(measurement.allocator, threads),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
        if done.returncode or not file.exists():
            said = done.stderr.strip().splitlines() or ["nothing"]
            measurement.problem, measurement.failed = f"ended with {done.returncode}: {said[-1]}", True
            return
        result = json.loads(file.read_text(encoding="utf-8"))
    if "skipped" in result:
        measurement.problem = result["skipped"]
        return
    measurement.seconds.append(result["seconds"])
    measurement.setup_gib.append(result["setup_gib"])
    measurement.peak_gib.append(result["peak_gib"])
    measurement.calls += result["calls"]
    measurement.note = result["note"]


def run(
    cases: Sequence[Case],
    repeats: int,
    threads: int,
    allocators: Sequence[str],
    each: Callable[[Measurement], None] = lambda measurement: None,
) -> list[Measurement]:
    """All cases under all allocators; `each` is called after every process."""
    measurements = [Measurement(case, allocator) for case in cases for allocator in allocators]
    for measurement in schedule(measurements, repeats):
        if measurement.problem is None:
            measure_once(measurement, threads)
        each(measurement)
    return measurements
