"""A real tracking server, and what MLflow holds as tests read it."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

from mlflow import MlflowClient
from mlflow.entities import Run

QUIET = {"MLFLOW_DISABLE_TELEMETRY": "true", "DO_NOT_TRACK": "true"}


def free_address() -> str:
    """Where no server is, and one can be."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{free.getsockname()[1]}"


@contextmanager
def serving(address: str, folder: Path) -> Iterator[None]:
    """A server with its database and, in `store`, its artifacts in a folder; it is killed in the end."""
    command = [
        str(Path(sys.executable).parent / "mlflow"), "server", "--host", "127.0.0.1", "--port", address.rsplit(":", 1)[1],
        "--workers", "1", "--backend-store-uri", f"sqlite:///{folder / 'server.db'}",
        "--artifacts-destination", str(folder / "store"),
    ]  # fmt: skip
    with (folder / "server.log").open("w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, env=os.environ | QUIET, start_new_session=True)
        try:
            until = time.monotonic() + 120
            while True:
                try:
                    with urlopen(f"{address}/health", timeout=2):
                        break
                except (URLError, OSError):
                    assert process.poll() is None, (folder / "server.log").read_text()
                    assert time.monotonic() < until, "the tracking server has not started in two minutes"
                    time.sleep(0.3)
            yield
        finally:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def runs(client: MlflowClient) -> dict[str, Run]:
    """The runs of the one experiment by name, which must tell them apart."""
    experiment = client.get_experiment_by_name("fgaseg-sample")
    assert experiment is not None
    found = client.search_runs([experiment.experiment_id])
    named = {str(run.info.run_name): run for run in found}
    assert len(named) == len(found)
    return named
