"""Where a result comes from: code, data, packages."""

import subprocess
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from fgaseg.plan import Plan

_PACKAGES = ("fgaseg", "torch", "torchvision", "open_clip_torch", "timm", "numpy", "Pillow")


def git_commit(plan: Plan) -> str:
    """The commit of the code, with "-dirty" where files differ from it; "unknown" outside a git checkout."""
    command = ["git", "-C", str(plan.root), "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout.strip() or "unknown"


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def provenance(plan: Plan) -> dict[str, Any]:
    """Git commit, data digest, revisions and package versions, as results record them."""
    return {
        "provenance": {
            "git_commit": git_commit(plan),
            "data_digest": plan.digest,
            "revision": plan.default.revision.model_dump(),
            "packages": {name: _version(name) for name in _PACKAGES},
        }
    }
