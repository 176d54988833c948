"""Measurements as a table to read and as JSON to keep."""

import os
import platform
import subprocess
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from benchmarks.harness.case import by_group
from benchmarks.harness.run import ALLOCATORS, ROOT, Measurement

_PACKAGES = ("fgaseg", "torch", "torchvision", "open_clip_torch", "numpy", "Pillow", "snakemake")


def machine() -> dict[str, Any]:
    """What the figures depend on beside the code: processor, cores, load at this moment, versions, commit."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text(encoding="utf-8").splitlines() if cpuinfo.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return {
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "processor": names[0] if names else platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "load_average": [round(load, 2) for load in os.getloadavg()],
        "system": platform.platform(),
        "git_commit": _commit(),
        "versions": {"python": platform.python_version()} | {name: _version(name) for name in _PACKAGES},
    }


def _commit() -> str:
    command = ["git", "-C", str(ROOT), "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip() or "unknown"


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def ratio(measurement: Measurement, measurements: Sequence[Measurement]) -> float | None:
    """How many times faster than the first case of the group under the same allocator; None where one is missing."""
    first = next(m for m in measurements if (m.case.group, m.allocator) == (measurement.case.group, measurement.allocator))
    return first.median / measurement.median if first.seconds and measurement.seconds else None


def as_json(measurements: Sequence[Measurement], threads: int, about: dict[str, Any]) -> dict[str, Any]:
    """All figures; seconds and GiB of every process."""
    rows = []
    for m in measurements:
        row = {"name": m.case.name, "group": m.case.group, "allocator": m.allocator, "items": m.case.items, "calls": m.calls}
        row |= {"seconds": m.seconds, "median_seconds": m.median if m.seconds else None}
        row |= {
            "setup_gib": m.setup_gib,
            "peak_gib": m.peak_gib,
            "times_faster": ratio(m, measurements),
            "note": m.note,
            "problem": m.problem,
        }
        rows.append(row)
    return {"machine": about, "threads": threads, "allocators": ALLOCATORS, "measurements": rows}


def duration(seconds: float) -> str:
    """Three significant digits with a unit."""
    value, unit = (seconds, "s") if seconds >= 1 else (1000 * seconds, "ms")
    return f"{value:.{max(0, 3 - len(str(int(value))))}f} {unit}"


def table(measurements: Sequence[Measurement], threads: int, about: dict[str, Any]) -> str:
    """One line for each case and allocator: median, range, rate, peak memory, ratio to the group's first case."""
    header = ["case", "allocator", "median", "min-max", "per second", "peak GiB", "times faster", "note"]
    lines: list[list[str]] = []
    for group in by_group(list(dict.fromkeys(m.case for m in measurements))):
        lines.append([f"[{group[0].group}]"])
        for m in (m for case in group for m in measurements if m.case == case):
            lines.append(_line(m, measurements))
    columns = [line for line in [header, *lines] if len(line) == len(header)]
    widths = [max(len(line[i]) for line in columns) for i in range(len(header))]
    text = "\n".join(
        "  ".join(
            cell.ljust(w) if i < 2 or i == len(header) - 1 else cell.rjust(w)
            for i, (cell, w) in enumerate(zip(line, widths, strict=False))
        ).rstrip()
        if len(line) == len(header)
        else "  ".join(line)
        for line in [header, *lines]
    )
    about_line = f"{about['processor']}, {about['cores']} cores, {threads} threads, load {about['load_average'][0]}"
    return f"{text}\n\n{about_line}, commit {about['git_commit']}, torch {about['versions']['torch']}"


def _line(m: Measurement, measurements: Sequence[Measurement]) -> list[str]:
    if not m.seconds:
        return [m.case.name, m.allocator, "failed:" if m.failed else "skipped:", m.problem or "not measured"]
    faster = ratio(m, measurements)
    return [
        m.case.name,
        m.allocator,
        duration(m.median),
        f"{duration(min(m.seconds))}-{duration(max(m.seconds))}",
        f"{m.case.items / m.median:.3g}",
        f"{m.peak:.2f}",
        "-" if faster is None else f"{faster:.2f}",
        m.note,
    ]
