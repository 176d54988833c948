"""Measures one case in this process, which nothing else has used: `python -m benchmarks.harness.child NAME FILE`."""

import json
import resource
import statistics
import sys
import time
from pathlib import Path

from benchmarks.harness.case import Case, load_cases
from fgaseg.errors import UserError

ENOUGH_SECONDS = 1.0
ENOUGH_CALLS = 100
GIB = 2**30


def peak_bytes() -> int:
    """The highest resident memory of this process so far, or of its largest child, where that is more.

    Not `ru_maxrss` of this process, which `exec` leaves at what the starting process had needed.
    """
    status = Path("/proc/self/status")
    if status.exists():
        line = next(line for line in status.read_text(encoding="ascii").splitlines() if line.startswith("VmHWM"))
        own = 1024 * int(line.split()[1])
    else:
        own = _maximum(resource.RUSAGE_SELF)
    return max(own, _maximum(resource.RUSAGE_CHILDREN))


def _maximum(who: int) -> int:
    return resource.getrusage(who).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def measure(case: Case) -> dict[str, float | int | str]:
    """The median time of a call, the number of calls, and the peak memory before and after them.

    A short call is repeated for a second.
    """
    call = case.setup()
    before = peak_bytes()
    if case.warm_up:
        call()
    seconds: list[float] = []
    while not seconds or (sum(seconds) < ENOUGH_SECONDS and len(seconds) < ENOUGH_CALLS):
        start = time.perf_counter()
        answer = call()
        seconds.append(time.perf_counter() - start)
    return {
        "seconds": statistics.median(seconds),
        "calls": len(seconds),
        "setup_gib": before / GIB,
        "peak_gib": peak_bytes() / GIB,
        "note": answer if isinstance(answer, str) else "",
    }


def main() -> None:
    """Write the measurement to FILE; a `UserError` of the case, such as missing data, is written there as well."""
    name, file = sys.argv[1:]
    try:
        result: dict[str, object] = dict(measure(load_cases()[name]))
    except UserError as error:
        result = {"skipped": str(error)}
    Path(file).write_text(json.dumps(result), encoding="utf-8")


if __name__ == "__main__":
    main()
