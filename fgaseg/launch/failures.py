"""Why a job died: each process notes its own failure, and of several the cause is picked out.

When one process dies, the others lose their connection to it and fail as well: these failures are echoes.
"""

import json
import re
import socket
import traceback
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from fgaseg.errors import UserError
from fgaseg.files import write_json

Kind = Literal["mistake", "error", "echo"]

_CONNECTION = re.compile(
    r"gloo|NCCL|ProcessGroup|TCPStore|Connection (closed|reset|refused)|Broken pipe|[Ss]ocket|EADDRINUSE|address already in use"
)
_SRUN = re.compile(r"srun: error: (?P<host>\S+): tasks? (?P<ranks>[\d,-]+): (?P<end>.+)$", re.MULTILINE)
_TAIL = 15


@dataclass(frozen=True)
class Failure:
    """How one process failed. A mistake is the user's and has one line; an error has a traceback."""

    rank: int
    host: str
    kind: Kind
    message: str
    trace: str = ""

    @property
    def place(self) -> str:
        return f"rank {self.rank} on {self.host}"


def _kind(error: Exception) -> Kind:
    if isinstance(error, UserError):
        return "echo" if getattr(error, "echo", False) else "mistake"
    return "echo" if isinstance(error, RuntimeError | OSError) and _CONNECTION.search(str(error)) else "error"


def _file(folder: Path, job: str, rank: int | str) -> Path:
    return folder / f"{job}_{rank}_failure.json"


def remove_failure(folder: Path, job: str, rank: int) -> None:
    """Forget how this process failed before its job was requeued."""
    _file(folder, job, rank).unlink(missing_ok=True)


def note_failure(folder: Path, job: str, rank: int, error: Exception) -> None:
    """Write down how this process failed, for the launcher to read."""
    kind = _kind(error)
    trace = "" if kind == "mistake" else "".join(traceback.format_exception(error))
    failure = Failure(rank, socket.gethostname(), kind, " ".join(str(error).splitlines()) or repr(error), trace)
    write_json(_file(folder, job, rank), asdict(failure))


def read_failures(folder: Path, job: str) -> list[Failure]:
    """The failures of a job's processes, by rank; one that is being written or damaged is left out."""
    found = []
    for path in folder.glob(_file(folder, job, "*").name):
        try:
            found.append(Failure(**json.loads(path.read_text(encoding="utf-8"))))
        except (OSError, ValueError, TypeError):
            continue
    return sorted(found, key=lambda failure: failure.rank)


def cause(failures: Iterable[Failure]) -> Failure | None:
    """The failure that the others are echoes of, None where all are: then something outside killed a process."""
    order: tuple[Kind, ...] = ("mistake", "error")
    return next((failure for kind in order for failure in failures if failure.kind == kind), None)


def killed(folder: Path, job: str) -> str:
    """What srun says of the first process that ended by a signal: `rank 3 on node7: Killed`; nothing where it says nothing.

    It ends the others itself.
    """
    log = folder / f"{job}_0_log.err"
    text = log.read_text(encoding="utf-8", errors="replace") if log.exists() else ""
    ends = (m for m in _SRUN.finditer(text) if not m["end"].startswith("Exited with exit code"))
    return next((f"rank {m['ranks']} on {m['host']}: {m['end']}" for m in ends), "")


def last_words(folder: Path, job: str) -> str:
    """The end of what the job's processes printed on standard error, those alone that say something of their own."""
    said: dict[str, str] = {}
    for path in sorted(folder.glob(f"{job}_*_log.err")):
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()[-_TAIL:]
        if lines:
            said.setdefault("\n".join(lines), path.name)
    return "\n".join(f"--- {name}\n{text}" for text, name in list(said.items())[:3])
