"""Mirror a run's files into MLflow.

The metrics file is the truth; MLflow is brought up to it from time to time. A tracking server that is away costs a
warning, and the next delivery brings what was missed.
"""

import logging
import os
import socket
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

from fgaseg.plan import Plan
from fgaseg.schema import Launch
from fgaseg.training.metrics import read_metrics

log = logging.getLogger(__name__)

_DELIVERED = "fgaseg.delivered_lines"
_BATCH = 900


def tracking_uri(configured: str | None, store: Path) -> str:
    """The configured server, or a sqlite file."""
    return configured or f"sqlite:///{store.resolve()}"


def _flatten(tree: dict[str, Any], prefix: str = "") -> dict[str, str]:
    flat: dict[str, str] = {}
    for key, value in tree.items():
        flat |= _flatten(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": str(value)[:500]}
    return flat


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


def deliver(
    uri: str, experiment: str, run_id: str, tags: dict[str, str], params: dict[str, Any], metrics: Path, final: dict[str, float]
) -> bool:
    """Bring MLflow's run for `run_id` up to the metrics file; found again by its tag, made where there is none.

    `final` holds metrics without a step (the benchmarks' mIoU). Returns whether everything was delivered.
    """
    if not _reachable(uri):
        log.warning("tracking server %s is away; metrics stay in %s and are delivered later", uri, metrics)
        return False
    os.environ["MLFLOW_TRACKING_URI"] = uri
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
    from mlflow import MlflowClient
    from mlflow.entities import Metric, Param, RunTag

    logging.getLogger("alembic").setLevel(logging.WARNING)
    logging.getLogger("mlflow").setLevel(logging.WARNING)
    try:
        client = MlflowClient(uri)
        found = client.get_experiment_by_name(experiment)
        experiment_id = found.experiment_id if found else client.create_experiment(experiment)
        runs = client.search_runs([experiment_id], f"tags.`fgaseg.run_id` = '{run_id}'", max_results=1)
        if runs:
            run = runs[0]
        else:
            run = client.create_run(experiment_id, run_name=run_id)
            client.log_batch(run.info.run_id, params=[Param(k, v) for k, v in _flatten(params).items()])
        start = int(run.data.tags.get(_DELIVERED, 0))
        lines = read_metrics(metrics)
        points = [
            Metric(name, value, int(line.get("time", 0) * 1000), line["step"])
            for line in lines[start:]
            for name, value in line.items()
            if name not in ("step", "time")
        ]
        last = lines[-1]["step"] if lines else 0
        points += [Metric(name, value, 0, last) for name, value in final.items()]
        for i in range(0, len(points), _BATCH):
            client.log_batch(run.info.run_id, metrics=points[i : i + _BATCH])
        all_tags = {**tags, "fgaseg.run_id": run_id, _DELIVERED: str(len(lines))}
        client.log_batch(run.info.run_id, tags=[RunTag(k, v) for k, v in all_tags.items()])
        if final:
            client.set_terminated(run.info.run_id)
    except Exception as error:  # whatever ails MLflow or its database must not end a training
        reason = (str(error) or repr(error)).splitlines()[0]
        log.warning("tracking at %s failed (%s); metrics stay in %s and are delivered later", uri, reason, metrics)
        return False
    return True


def table_tags(plan: Plan, run_id: str) -> dict[str, str]:
    """MLflow tags that name the tables and rows of a run: `table_2: row 4` and so on."""
    tags: dict[str, str] = {"scale": plan.scale}
    for row in plan.rows:
        if row.run_id == run_id:
            tags[row.table] = ", ".join(f"{k}: {v}" for k, v in row.label.items())
    return tags


def track(plan: Plan, run_id: str, launch: Launch, final: dict[str, float] | None = None) -> bool:
    """Bring MLflow up to the files of a run."""
    return deliver(
        tracking_uri(launch.tracking_uri, plan.paths.tracking),
        f"fgaseg-{plan.scale}",
        run_id,
        table_tags(plan, run_id),
        plan.runs[run_id].model_dump(mode="json", exclude={"evaluation"}),
        plan.paths.run(run_id) / "metrics.jsonl",
        final or {},
    )
