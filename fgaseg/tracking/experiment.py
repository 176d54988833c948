"""The MLflow experiment of a scale: its runs are brought up to records; what is there already is left as it is."""

import hashlib
import time
from collections.abc import Collection
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from fgaseg.errors import UserError
from fgaseg.tracking.records import Record

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

_IDENTITY = "fgaseg.id"
_STARTED = "fgaseg.started"
_ARTIFACTS = "fgaseg.artifacts"
_SUPERSEDED = "superseded"
_BATCH = 900


def _experiment_id(client: "MlflowClient", name: str, artifacts: str | None) -> str:
    """The experiment of this name; of several processes that find none, one makes it and the others take it."""
    from mlflow.exceptions import MlflowException

    found = client.get_experiment_by_name(name)
    if found is None:
        try:
            return client.create_experiment(name, artifact_location=artifacts)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
        found = client.get_experiment_by_name(name)
        assert found is not None
    return found.experiment_id


def _digest(artifacts: dict[str, Path]) -> str:
    """Changes with the name and the content of any of the files."""
    total = hashlib.sha256()
    for place, path in artifacts.items():
        total.update(f"{place}\0{hashlib.sha256(path.read_bytes()).hexdigest()}\0".encode())
    return total.hexdigest()[:16]


class Experiment:
    """An experiment, which is made where there is none, with its artifacts at the URI `artifacts` (None: the server's choice).

    `tables` are the names of the tags that put a run into a table.
    """

    def __init__(self, client: "MlflowClient", name: str, artifacts: str | None, tables: Collection[str]) -> None:
        self._client, self._tables = client, set(tables)
        self._id = _experiment_id(client, name, artifacts)

    def bring(self, record: Record) -> None:
        """Deliver what MLflow lacks of a record, which no other process may be delivering.

        Raises `UserError` where MLflow holds a training of the same identity that was begun later, elsewhere.
        """
        run = self._run(record)
        self._parameters(run, record)
        self._metrics(run, record)
        self._words(run, record)
        self._artifacts(run, record)

    def supersede_others(self, present: Collection[str]) -> None:
        """Runs of none of the `present` identities keep what they hold, but stand in no table any more."""
        kept = {None, *present}
        for run in (run for run in self._all() if run.data.tags.get(_IDENTITY) not in kept):
            for key in self._tables & run.data.tags.keys():
                self._client.delete_tag(run.info.run_id, key)
            if _SUPERSEDED not in run.data.tags:
                self._client.set_tag(run.info.run_id, _SUPERSEDED, "true")

    def _all(self) -> "list[Run]":
        runs: list[Run] = []
        token = None
        while True:
            page = self._client.search_runs([self._id], max_results=1000, page_token=token)
            runs += page
            token = page.token
            if not token:
                return runs

    def _run(self, record: Record) -> "Run":
        """The MLflow run of a record, as it is now. One of an earlier training of the same parameters goes to MLflow's bin."""
        started = str(record.started or "")
        found = self._client.search_runs([self._id], f"tags.`{_IDENTITY}` = '{record.identity}'", max_results=1)
        if found:
            known = found[0].data.tags.get(_STARTED, "")
            if known in ("", started):
                return found[0]
            if (
                record.started is not None and float(known) > record.started
            ):  # two checkouts would replace each other's for ever
                raise UserError(
                    f"run {record.identity}: MLflow holds a training of it that was begun later in another folder; "
                    "delete that MLflow run to have this one there"
                )
            self._client.delete_run(found[0].info.run_id)
        begin = int(record.started * 1000) if record.started else None
        tags = {_IDENTITY: record.identity, _STARTED: started}
        return self._client.create_run(self._id, start_time=begin, tags=tags, run_name=record.name)

    def _parameters(self, run: "Run", record: Record) -> None:
        from mlflow.entities import Param

        missing = [Param(key, value) for key, value in record.params.items() if key not in run.data.params]
        for i in range(0, len(missing), 100):
            self._client.log_batch(run.info.run_id, params=missing[i : i + 100])

    def _metrics(self, run: "Run", record: Record) -> None:
        """The curves beyond the step that each has reached in MLflow, and the scores that are new or different.

        MLflow alone knows that step for certain: it stores a batch and the newest points in one transaction, whereas a
        note of what was sent is lost with the sender. A training that goes on from a checkpoint makes some points once
        more, at other times: they would be doubles.
        """
        from mlflow.entities import Metric

        reached = {metric.key: metric.step for metric in run.data.to_proto().metrics}
        points = [
            Metric(name, value, int(line["time"] * 1000), line["step"])
            for line in record.lines
            for name, value in line.items()
            if name not in ("step", "time") and line["step"] > reached.get(name, -1)
        ]
        now = int(time.time() * 1000)  # of several values MLflow shows the one with the latest time
        points += [Metric(name, value, now, 0) for name, value in record.scores.items() if run.data.metrics.get(name) != value]
        for i in range(0, len(points), _BATCH):
            self._client.log_batch(run.info.run_id, metrics=points[i : i + _BATCH])

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
        if not record.finished and run.info.status != "RUNNING":
            self._client.update_run(run.info.run_id, status="RUNNING")

    def _artifacts(self, run: "Run", record: Record) -> None:
        digest = _digest(record.artifacts)
        if not record.artifacts or run.data.tags.get(_ARTIFACTS) == digest:
            return
        for place, path in record.artifacts.items():
            folder = str(PurePosixPath(place).parent)
            self._client.log_artifact(run.info.run_id, str(path), None if folder == "." else folder)
        self._client.set_tag(run.info.run_id, _ARTIFACTS, digest)
