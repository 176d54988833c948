"""Cases to come."""

from benchmarks.harness import Case

CASES: list[Case] = []
