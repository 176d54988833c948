"""Malformed requests and files end in one line, soon, in bounded memory, and touch no file: a few hundred, and 10 000."""

import random
import resource
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from malformed import broken_body, malformed
from project import Project
from server import peak_megabytes

from fgaseg.errors import UserError, one_line
from fgaseg.using.guard import read_json
from fgaseg.using.inputs import local_path
from fgaseg.using.pictures import decode, open_photo
from fgaseg.using.requests import check_request, read_order
from fgaseg.using.vocabulary import list_classes, parse_classes

SECONDS = 5.0
"""The longest that one attempt may take."""
MEGABYTES = 500
"""How much the process may grow."""


def attempt(kind: str, content: Any) -> None:
    """What an attempt is tried on: the functions that read what a user or a request gives. `UserError` is their only error."""
    match kind:
        case "picture":
            decode(content)
        case "row":
            if isinstance(content, Mapping):
                read_order(content)
        case "body":
            check_request("/invocations", read_json(content))
        case "classes":
            parse_classes(content) if isinstance(content, str) else list_classes(content)
        case _:
            open_photo(local_path(content))


def try_all(count: int, seed: int) -> Counter[str]:
    """How many attempts of each kind were refused; each in one line, in time."""
    refused: Counter[str] = Counter()
    for kind, content in malformed(count, seed):
        start, line = time.monotonic(), None
        try:
            attempt(kind, content)
        except UserError as error:
            line = one_line(error)
            refused[kind] += 1
        if line is not None:
            assert line.isprintable(), (kind, content)
            assert len(line) < 6000
        assert time.monotonic() - start < SECONDS, (kind, content)
    return refused


def grown(before: int) -> float:
    """Megabytes that the process's peak has grown by."""
    return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024


@pytest.mark.parametrize(("count", "seed"), [(400, 1), pytest.param(10_000, 2, marks=pytest.mark.slow)])
def test_every_attempt_ends_in_one_line_soon(count: int, seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    refused = try_all(count, seed)
    assert set(refused) == {"picture", "row", "body", "classes", "path"}
    assert refused.total() > 0.75 * count
    assert grown(before) < MEGABYTES
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("count", [60, pytest.param(1000, marks=pytest.mark.slow)])
def test_a_real_server_refuses_them_and_serves_on(count: int, guarded: str, finished: Project) -> None:
    rng = random.Random(3)
    statuses: Counter[int] = Counter()
    lines: list[bytes] = []
    before, memory = finished.files(), peak_megabytes(guarded)
    for _ in range(count):
        request = urllib.request.Request(guarded, broken_body(rng), {"Content-Type": "application/json"})
        try:
            with urllib.request.urlopen(request, timeout=60) as response:
                statuses[response.status] += 1
        except urllib.error.HTTPError as error:
            statuses[error.code] += 1
            lines.append(error.read())
    assert set(statuses) <= {200, 400, 413}, statuses
    assert not any(b"\n" in line for line in lines)
    assert statuses[400] > 0.9 * count
    assert peak_megabytes(guarded) - memory < MEGABYTES
    with urllib.request.urlopen(guarded.replace("invocations", "ping"), timeout=30) as response:
        assert response.status == 200
    assert finished.files() == before
