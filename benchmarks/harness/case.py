"""What is measured: cases, and where they are declared."""

import importlib
import pkgutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

import benchmarks
from fgaseg.errors import UserError


@dataclass(frozen=True)
class Case:
    """One thing whose time and memory are measured.

    `setup` is called once in a fresh process and is not timed; what it returns is. It imports what it needs itself, for
    all modules of cases are imported before every measurement. The first call warms up and is not counted, unless
    `warm_up` is False, for what takes minutes. A text that a call gives stands beside its figures. `items` is how many
    things a call does (images, crops), for a rate. The cases of a `group` do the same work: their times are compared with
    that of its first.
    """

    name: str
    group: str
    setup: Callable[[], Callable[[], object]]
    warm_up: bool = True
    items: int = 1


def load_cases() -> dict[str, Case]:
    """All cases by name, in the order of the modules' names; a module has its own in `CASES`."""
    cases: dict[str, Case] = {}
    for module in sorted(pkgutil.iter_modules(benchmarks.__path__), key=lambda m: m.name):
        if module.name == "__main__":
            continue
        for case in getattr(importlib.import_module(f"benchmarks.{module.name}"), "CASES", ()):
            if case.name in cases:
                raise ValueError(f"benchmarks/{module.name}.py: a case named '{case.name}' exists already")
            cases[case.name] = case
    return cases


def choose(cases: dict[str, Case], names: Sequence[str]) -> list[Case]:
    """The cases whose name or group is one of `names`, wildcards allowed; all when there are none.

    `UserError` for a name that fits nothing.
    """
    for name in names:
        if not any(_fits(case, name) for case in cases.values()):
            raise UserError(f"benchmark '{name}' is unknown; `python -m benchmarks --list` shows all")
    return [case for case in cases.values() if not names or any(_fits(case, name) for name in names)]


def by_group(cases: Sequence[Case]) -> Iterator[list[Case]]:
    """The cases of each group, groups in the order of their first case."""
    for group in dict.fromkeys(case.group for case in cases):
        yield [case for case in cases if case.group == group]


def _fits(case: Case, name: str) -> bool:
    return fnmatchcase(case.name, name) or fnmatchcase(case.group, name)
