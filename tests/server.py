"""Real servers on 127.0.0.1, for as long as a test needs them."""

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

BIN = Path(sys.executable).parent


@contextmanager
def serving(folder: Path, *command: str, ready: str = "ping", environment: Mapping[str, str] | None = None) -> Iterator[str]:
    """The address of a server, whose last option is the port, run in a folder; it is there once the path `ready` answers."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    own = {"PATH": f"{BIN}:{os.environ['PATH']}", "OMP_NUM_THREADS": "1", "MLFLOW_DISABLE_TELEMETRY": "true"}
    address = f"http://127.0.0.1:{port}"
    with tempfile.TemporaryFile("w+") as log:
        server = subprocess.Popen(
            [*command, str(port)],
            cwd=folder,
            env=os.environ | own if environment is None else environment,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
        try:
            until = time.monotonic() + 120
            while True:
                try:
                    urllib.request.urlopen(f"{address}/{ready}", timeout=5).close()
                    break
                except OSError:
                    assert server.poll() is None, _no_answer(command[0], log)
                    assert time.monotonic() < until, _no_answer(command[0], log)
                    time.sleep(0.3)
            yield address
        finally:
            os.killpg(server.pid, signal.SIGKILL)
            server.wait()


def _no_answer(program: str, log: IO[str]) -> str:
    """What a server said that has ended or taken two minutes."""
    log.seek(0)
    return f"{program} does not answer: {log.read()}"


def peak_megabytes(address: str) -> float:
    """The highest resident memory so far of the processes that were started with the port of an address."""
    port, kilobytes = str(urllib.parse.urlsplit(address).port).encode(), 0
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if port in (process / "cmdline").read_bytes().split(b"\0"):
                status = (process / "status").read_text()
                kilobytes += sum(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM"))
    assert kilobytes, f"no process serves {address}"
    return kilobytes / 1024
