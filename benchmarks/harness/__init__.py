"""Measures the cases that the modules of `benchmarks` list."""

from benchmarks.harness.case import Case

__all__ = ["Case"]
