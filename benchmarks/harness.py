"""Measure cases in fresh processes, in turns, and report medians and ratios.

Every measurement starts a process of its own, so that no case profits from another's memory; cases take turns, so that a slow
moment of the machine hits all of them.
"""

import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

MODULES = ("model", "evaluation", "loading", "commands")
"""The modules beside this one whose `CASES` are measured."""

ALLOCATORS: dict[str, dict[str, str]] = {
    "default": {},
    "raised": {"MALLOC_MMAP_THRESHOLD_": str(1 << 40), "MALLOC_TRIM_THRESHOLD_": str(1 << 40)},
}
"""Settings of glibc's allocator. Raised thresholds keep freed memory, whose first touch costs a page fault otherwise."""

LIMIT = 900.0
"""Seconds for one measurement."""

_ENOUGH = 1.0


@dataclass(frozen=True)
class Case:
    """Something to measure.

    Cases of one `group` do the same job, the first of them the plain way. `setup` is not timed; what it returns is called
    once to warm up and then timed. If the call returns a text, it stands beside the time.
    """

    name: str
    group: str
    setup: Callable[[], Callable[[], object]]


@dataclass
class Measured:
    """Seconds and peak memory (GiB, of the whole process) of a case under one allocator setting."""

    group: str
    name: str
    allocator: str
    seconds: list[float] = field(default_factory=list)
    peak: list[float] = field(default_factory=list)
    note: str = ""

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)


def all_cases() -> dict[str, list[Case]]:
    """The cases of each module."""
    return {name: import_module(f"benchmarks.{name}").CASES for name in MODULES}


def peak_gib() -> float:
    """The largest resident size of this process so far."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) / (1 << 20)


def run_case(module: str, index: int, threads: int) -> dict[str, Any]:
    """Measure one case in this process: the median of as many calls as fit into a second, at least one."""
    import torch

    torch.set_num_threads(threads)
    torch.manual_seed(0)
    call = import_module(f"benchmarks.{module}").CASES[index].setup()
    call()
    seconds: list[float] = []
    while sum(seconds) < _ENOUGH and len(seconds) < 50:
        start = time.perf_counter()
        result = call()
        seconds.append(time.perf_counter() - start)
    return {"seconds": statistics.median(seconds), "peak": peak_gib(), "note": result if isinstance(result, str) else ""}


def _measure(module: str, index: int, threads: int, allocator: str) -> dict[str, Any]:
    command = [sys.executable, "-m", "benchmarks.harness", module, str(index), str(threads)]
    environment = os.environ | ALLOCATORS[allocator] | {"OMP_NUM_THREADS": str(threads)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=LIMIT, check=False)
    if done.returncode:
        raise RuntimeError(f"{module}, case {index}: {done.stderr[-2000:]}")
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answer


def measure(
    wanted: Callable[[Case], bool], repeats: int, threads: int, allocators: Sequence[str], say: Callable[[str], None]
) -> list[Measured]:
    """Measure the wanted cases `repeats` times each, in turns."""
    chosen = [(m, i, case) for m, cases in all_cases().items() for i, case in enumerate(cases) if wanted(case)]
    found = {(m, i, a): Measured(case.group, case.name, a) for m, i, case in chosen for a in allocators}
    for turn in range(repeats):
        for (module, index, allocator), into in found.items():
            answer = _measure(module, index, threads, allocator)
            into.seconds.append(answer["seconds"])
            into.peak.append(answer["peak"])
            into.note = answer["note"]
            say(f"{turn + 1}/{repeats}  {into.group}: {into.name} ({allocator}) {answer['seconds']:.3f} s")
    return list(found.values())


def _duration(seconds: float) -> str:
    return f"{seconds:.2f} s" if seconds >= 0.1 else f"{1000 * seconds:.1f} ms"


def table(results: Sequence[Measured]) -> str:
    """A Markdown table: each case's median, peak and how many times faster than the first of its group it is."""
    lines = ["| | allocator | time | ratio | peak | |", "|---|---|---|---|---|---|"]
    firsts: dict[tuple[str, str], Measured] = {}
    for one in sorted(results, key=lambda r: list(dict.fromkeys(x.group for x in results)).index(r.group)):
        first = firsts.setdefault((one.group, one.allocator), one)
        ratio = "1" if first is one else f"{first.median / one.median:.1f} x"
        peak = f"{statistics.median(one.peak):.2f} GiB"
        lines.append(f"| {one.group}: {one.name} | {one.allocator} | {_duration(one.median)} | {ratio} | {peak} | {one.note} |")
    return "\n".join(lines)


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor()


def report(results: Sequence[Measured], threads: int, repeats: int) -> dict[str, Any]:
    """What is written as JSON: the results and what they were measured with."""
    from importlib.metadata import version

    import torch

    commit = subprocess.run(
        ["git", "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"], capture_output=True, text=True, check=False
    )
    return {
        "machine": {"processor": _processor(), "cores": os.cpu_count(), "threads": threads},
        "versions": {"python": platform.python_version(), **{p: version(p) for p in ("torch", "open_clip_torch", "numpy")}},
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "git_commit": commit.stdout.strip() or "unknown",
        "repeats": repeats,
        "allocators": ALLOCATORS,
        "results": [asdict(one) | {"median": one.median} for one in results],
    }


if __name__ == "__main__":
    sys.stdout.write(json.dumps(run_case(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))) + "\n")
