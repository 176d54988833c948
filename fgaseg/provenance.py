"""Where a result comes from: code, data, packages."""

import hashlib
import subprocess
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from fgaseg.plan import Plan

_DECISIVE = (
    *("model", "data", "loading.py", "runtime.py"),
    *(f"training/{name}.py" for name in ("loop", "losses", "optimisation", "ranks", "run", "state", "stream")),
    *(f"evaluation/{name}.py" for name in ("ahead", "benchmark", "counts", "labelling", "run", "segmenter", "sliding")),
)
_SOURCES = (".py", ".csv", ".txt", ".json")
_PACKAGES = ("fgaseg", "torch", "torchvision", "open_clip_torch", "timm", "numpy", "Pillow")


def git_commit(plan: Plan) -> str:
    """The commit of the code, with "-dirty" where files differ from it; "unknown" outside a git checkout."""
    command = ["git", "-C", str(plan.root), "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout.strip() or "unknown"


@cache
def code_fingerprint(package: Path = Path(__file__).parent) -> str:
    """A short hash of the sources in `package` that decide weights and scores: it tells apart what one commit cannot."""
    paths = [path for name in _DECISIVE for path in (package / name, *(package / name).rglob("*"))]
    digest = hashlib.sha256()
    for path in sorted(path for path in paths if path.suffix in _SOURCES):
        digest.update(f"{path.relative_to(package).as_posix()}\n{path.stat().st_size}\n".encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()[:12]


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def continued(before: dict[str, Any], now: dict[str, Any]) -> dict[str, Any]:
    """The provenance of a training that `before` began and `now` goes on with: it names both where their code differs."""
    if before["code"] == now["code"]:
        return before
    return now | {key: f"{before[key]}, continued by {now[key]}" for key in ("git_commit", "code")}


def provenance(plan: Plan) -> dict[str, Any]:
    """Git commit, fingerprint of the code, data digest, revisions and package versions, as results record them."""
    return {
        "provenance": {
            "git_commit": git_commit(plan),
            "code": code_fingerprint(),
            "data_digest": plan.digest,
            "revision": plan.default.revision.model_dump(),
            "packages": {name: _version(name) for name in _PACKAGES},
        }
    }
