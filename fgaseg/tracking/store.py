"""Bring MLflow up to records; what is there already is left as it is."""

import hashlib
import json
import logging
import os
import socket
import time
from collections.abc import Collection, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, get_args
from urllib.parse import urlparse

from fgaseg.files import exclusive
from fgaseg.plan import Plan, Scope
from fgaseg.schema import Launch
from fgaseg.tracking.records import Record, records

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

log = logging.getLogger(__name__)

_IDENTITY = "fgaseg.id"
_STARTED = "fgaseg.started"
_DELIVERED = "fgaseg.delivered"
_ARTIFACTS = "fgaseg.artifacts"
_SUPERSEDED = "superseded"
_BATCH = 900


def tracking_uri(plan: Plan, launch: Launch) -> str:
    """The configured server, or this scale's sqlite file."""
    return launch.tracking_uri or f"sqlite:///{plan.paths.tracking.resolve()}"


def deliver(plan: Plan, launch: Launch, only: str | None = None) -> bool:
    """Bring MLflow up to all records, or to that of `only` alone; returns whether everything arrived.

    One MLflow run for each record, found again by its tag. A server that is away, a damaged result, or any trouble with
    MLflow costs one warning: the next call brings what was missed. Bringing all, it also takes the runs that the plan has no
    more out of their tables.
    """
    uri, kept = tracking_uri(plan, launch), plan.paths.results
    try:
        if not _reachable(uri):
            log.warning("tracking server %s is away; the metrics stay in %s and are delivered later", uri, kept)
            return False
        with _alone(plan):
            store = _Store(plan, uri)
            present = store.bring(records(plan, only))
            if only is None:
                store.supersede_others(present | plan.runs.keys() | plan.evaluations.keys())
    except Exception as error:  # whatever ails MLflow, its database or a result must not end a training
        reason = (str(error) or repr(error)).splitlines()[0]
        log.warning("tracking at %s failed (%s); the metrics stay in %s and are delivered later", uri, reason, kept)
        return False
    return True


@contextmanager
def _alone(plan: Plan) -> Iterator[None]:
    """No second delivery, which would make the store or a run twice; no report in the making, whose files come and go."""
    with ExitStack() as stack:
        for path in (plan.paths.tracking, *(plan.paths.report / scope for scope in get_args(Scope))):
            stack.enter_context(exclusive(path))
        yield


def _reachable(uri: str) -> bool:
    parts = urlparse(uri)
    if parts.scheme not in ("http", "https"):
        return True
    try:
        port = parts.port or (443 if parts.scheme == "https" else 80)
        with socket.create_connection((parts.hostname or "localhost", port), timeout=2):
            return True
    except OSError:
        return False


def _client(uri: str) -> "MlflowClient":
    os.environ["MLFLOW_TRACKING_URI"] = uri
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
    from mlflow import MlflowClient

    logging.getLogger("alembic").setLevel(logging.WARNING)
    logging.getLogger("mlflow").setLevel(logging.WARNING)
    return MlflowClient(uri)


def _digest(artifacts: dict[str, Path]) -> str:
    """Changes with the name and the content of any of the files."""
    total = hashlib.sha256()
    for place, path in artifacts.items():
        total.update(f"{place}\0{hashlib.sha256(path.read_bytes()).hexdigest()}\0".encode())
    return total.hexdigest()[:16]


class _Store:
    """The MLflow experiment of a scale, and its runs by identity."""

    def __init__(self, plan: Plan, uri: str) -> None:
        self._tables = plan.tables.keys()
        self._client = _client(uri)
        name = f"fgaseg-{plan.scale}"
        found = self._client.get_experiment_by_name(name)
        if found:
            self._experiment = found.experiment_id
        else:
            # A server keeps artifacts in a store of its own.
            place = plan.paths.artifacts.resolve().as_uri() if uri.startswith("sqlite:") else None
            self._experiment = self._client.create_experiment(name, artifact_location=place)
        self._runs: dict[str, Run] = {}
        token = None
        while True:
            page = self._client.search_runs([self._experiment], max_results=1000, page_token=token)
            self._runs |= {run.data.tags[_IDENTITY]: run for run in page if _IDENTITY in run.data.tags}
            token = page.token
            if not token:
                return

    def bring(self, wanted: Iterable[Record]) -> set[str]:
        """Deliver record by record, each as it is read; returns their identities."""
        identities = set()
        for record in wanted:
            identities.add(record.identity)
            run = self._run(record)
            self._parameters(run, record)
            self._metrics(run, record)
            self._artifacts(run, record)
            self._words(run, record)
        return identities

    def supersede_others(self, present: Collection[str]) -> None:
        """Runs of none of the `present` identities keep what they hold, but stand in no table any more."""
        for run in (run for identity, run in self._runs.items() if identity not in present):
            for key in self._tables & run.data.tags.keys():
                self._client.delete_tag(run.info.run_id, key)
            if _SUPERSEDED not in run.data.tags:
                self._client.set_tag(run.info.run_id, _SUPERSEDED, "true")

    def _run(self, record: Record) -> "Run":
        """The MLflow run of a record. That of an earlier training with the same parameters goes to MLflow's bin."""
        started = str(record.started or "")
        run = self._runs.get(record.identity)
        if run is not None and run.data.tags.get(_STARTED, "") not in ("", started):
            self._client.delete_run(run.info.run_id)
            run = None
        if run is None:
            begin = int(record.started * 1000) if record.started else None
            tags = {_IDENTITY: record.identity, _STARTED: started}
            run = self._client.create_run(self._experiment, start_time=begin, tags=tags, run_name=record.name)
        return run

    def _parameters(self, run: "Run", record: Record) -> None:
        from mlflow.entities import Param

        missing = [Param(key, value) for key, value in record.params.items() if key not in run.data.params]
        for i in range(0, len(missing), 100):
            self._client.log_batch(run.info.run_id, params=missing[i : i + 100])

    def _metrics(self, run: "Run", record: Record) -> None:
        """The curves beyond the step to which each has been delivered, and the scores that are new or different."""
        from mlflow.entities import Metric, RunTag

        delivered: dict[str, int] = json.loads(run.data.tags.get(_DELIVERED, "{}"))
        points = [
            Metric(name, value, int(line["time"] * 1000), line["step"])
            for line in record.lines
            for name, value in line.items()
            if name not in ("step", "time") and line["step"] > delivered.get(name, -1)
        ]
        reached = delivered | {point.key: point.step for point in points}
        now = int(time.time() * 1000)  # of several values MLflow shows the one with the latest time
        points += [Metric(name, value, now, 0) for name, value in record.scores.items() if run.data.metrics.get(name) != value]
        for i in range(0, len(points), _BATCH):
            self._client.log_batch(run.info.run_id, metrics=points[i : i + _BATCH])
        if reached != delivered:
            self._client.log_batch(run.info.run_id, tags=[RunTag(_DELIVERED, json.dumps(reached))])

    def _artifacts(self, run: "Run", record: Record) -> None:
        digest = _digest(record.artifacts)
        if not record.artifacts or run.data.tags.get(_ARTIFACTS) == digest:
            return
        for place, path in record.artifacts.items():
            folder = str(PurePosixPath(place).parent)
            self._client.log_artifact(run.info.run_id, str(path), None if folder == "." else folder)
        self._client.set_tag(run.info.run_id, _ARTIFACTS, digest)

    def _words(self, run: "Run", record: Record) -> None:
        """Name, tags, description and state."""
        from mlflow.entities import RunTag

        wanted = record.tags | {_STARTED: str(record.started or ""), "mlflow.note.content": record.description}
        new = [RunTag(key, value) for key, value in wanted.items() if run.data.tags.get(key) != value]
        if new:
            self._client.log_batch(run.info.run_id, tags=new)
        for key in (self._tables | {_SUPERSEDED}) & run.data.tags.keys() - record.tags.keys():
            self._client.delete_tag(run.info.run_id, key)
        if run.info.run_name != record.name:
            self._client.update_run(run.info.run_id, name=record.name)
        if record.finished and run.info.status != "FINISHED":
            end = int(record.lines[-1]["time"] * 1000) if record.lines else None
            self._client.set_terminated(run.info.run_id, end_time=end)
