"""The harness of the benchmarks: what is measured, in which order, and what the table says of it."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from benchmarks import modules
from benchmarks.harness.case import Case, choose, load_cases
from benchmarks.harness.report import as_json, duration, ratio, table
from benchmarks.harness.run import ROOT, Measurement, environment, schedule
from fgaseg.errors import UserError

ABOUT = {"processor": "any", "cores": 2, "load_average": [0.5], "git_commit": "abc", "versions": {"torch": "2"}}


def case(name: str, group: str = "g") -> Case:
    return Case(name, group, lambda: lambda: None)


def measured(name: str, *seconds: float, allocator: str = "default") -> Measurement:
    return Measurement(case(name), allocator, list(seconds), [1.0] * len(seconds), [2.0] * len(seconds), len(seconds))


def test_cases_of_a_group_take_turns() -> None:
    a, b, other = (Measurement(each, "default") for each in (case("a"), case("b"), case("c", "h")))
    assert [m.case.name for m in schedule([a, b, other], 2)] == ["a", "b", "a", "b", "c", "c"]


def test_names_choose_cases_and_groups() -> None:
    cases = {name: case(name, group) for name, group in (("ab", "g"), ("ac", "h"), ("b", "h"))}
    assert [c.name for c in choose(cases, ["h"])] == ["ac", "b"]
    assert [c.name for c in choose(cases, ["a*"])] == ["ab", "ac"]
    with pytest.raises(UserError, match="'x' is unknown"):
        choose(cases, ["b", "x"])


def test_ratios_compare_medians_under_the_same_allocator() -> None:
    rows = [
        measured("a", 3, 9, 4),
        measured("a", 8, allocator="raised"),
        measured("b", 2),
        measured("b", 1, allocator="raised"),
    ]
    assert [ratio(m, rows) for m in rows] == [1, 1, 2, 8]


def test_what_was_not_measured_is_never_a_number() -> None:
    missing = Measurement(case("b"), "default", problem="data are missing")
    rows = [measured("a", 1), missing]
    assert "skipped:  data are missing" in table(rows, 1, ABOUT)
    kept = as_json(rows, 1, ABOUT)["measurements"][1]
    assert (kept["median_seconds"], kept["times_faster"], kept["problem"]) == (None, None, "data are missing")


def test_allocator_settings_of_the_caller_do_not_leak_in() -> None:
    inherited = {"MALLOC_TOP_PAD_": "1", "HOME": "/h"}
    assert not any(key.startswith("MALLOC_") for key in environment("default", 2, inherited))
    assert environment("raised", 2, inherited)["MALLOC_TOP_PAD_"] == str(2**26)
    assert environment("default", 2, inherited)["OMP_NUM_THREADS"] == "2"


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="tells the peak on Linux alone")
def test_peak_memory_is_the_measured_process_s_own() -> None:
    """A process that is started by a large one does not inherit its peak."""
    ballast = bytearray(2**29)
    ballast[:: 2**12] = b"x" * len(ballast[:: 2**12])
    command = [sys.executable, "-c", "from benchmarks.harness.child import peak_bytes; print(peak_bytes())"]
    peak = int(subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout)
    assert 2**22 < peak < 2**28


@pytest.mark.parametrize(
    ("seconds", "expected"), [(0.00123, "1.23 ms"), (0.0999, "99.9 ms"), (4.056, "4.06 s"), (161.2, "161 s")]
)
def test_durations_have_three_digits(seconds: float, expected: str) -> None:
    assert duration(seconds) == expected


def test_every_case_has_one_name() -> None:
    assert all(name == each.name for name, each in load_cases().items())


def test_the_command_measures_in_a_fresh_process(tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    command = [sys.executable, "-m", "benchmarks", "confusion", "--repeats", "1", "--allocator", "default", "--json", str(out)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert "confusion" in done.stdout
    (row,) = json.loads(out.read_text())["measurements"]
    assert row["median_seconds"] > 0
    assert row["peak_gib"][0] > 0.1
    assert row["calls"] > 1


@torch.no_grad()
def test_the_operations_of_each_part_are_counted_whichever_thread_does_them() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        found = {name: gflop for name, (_, gflop) in modules.measure(20, repeats=1).items()}
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
    blocks, maps, tokens = 4, 20, 24 * 24
    assert found["of that, MLP"] == pytest.approx(blocks * maps * tokens * 128 * 512 * 4 / 1e9)
    assert found["spatial aggregation"] > found["of that, MLP"] + found["of that, window attention"] * 0.99
    parts = ("image encoder", "spatial aggregation", "class aggregation", "decoder, of the image", "decoder, of all classes")
    assert 0.97 < sum(found[name] for name in parts) / found["whole"] < 1
