"""Deliver records to MLflow: one delivery at a time of each, and no trouble with MLflow that ends more than the delivery."""

import logging
import os
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from typing import TYPE_CHECKING, get_args
from urllib.parse import urlparse

from fgaseg.errors import UserError
from fgaseg.files import exclusive
from fgaseg.plan import Plan, Scope
from fgaseg.schema import Launch
from fgaseg.tracking.experiment import Experiment
from fgaseg.tracking.records import begun

if TYPE_CHECKING:
    from mlflow import MlflowClient

log = logging.getLogger(__name__)


def tracking_uri(plan: Plan, launch: Launch) -> str:
    """The configured server, or this scale's sqlite file."""
    return launch.tracking_uri or f"sqlite:///{plan.paths.tracking.resolve()}"


def deliver(plan: Plan, launch: Launch, only: str | None = None) -> bool:
    """Bring MLflow up to all records, or to that of `only` alone; returns whether everything arrived.

    One MLflow run for each record, found again by its tag. A server that is away, a damaged result, or any trouble with
    MLflow costs one warning: the next call brings what was missed. Bringing all, it also takes the runs that the plan has no
    more out of their tables.
    """
    trouble = Delivery(plan, launch).bring(only)
    if trouble is not None:
        log.warning("%s", trouble)
    return trouble is None


def later_from(plan: Plan) -> str:
    """The end of every message about something that did not arrive."""
    return f"the metrics stay in {plan.paths.results} and are delivered later"


class Delivery:
    """This process's way to MLflow, which stays open from one delivery to the next."""

    def __init__(self, plan: Plan, launch: Launch) -> None:
        self._plan, self.uri = plan, tracking_uri(plan, launch)
        self._experiment: Experiment | None = None

    def bring(self, only: str | None = None) -> str | None:
        """As `deliver`, but returns what a person is to know of what did not arrive, in one line; None where all did."""
        later = later_from(self._plan)
        try:
            if not _reachable(self.uri):
                self._experiment = None
                return f"tracking server {self.uri} is away; {later}"
            # A server takes the runs of several processes at once; a database file would be made several times.
            with nullcontext() if only is not None and _served(self.uri) else _alone(self._plan):
                self._bring(only)
        except Exception as error:  # whatever ails MLflow, its database or a result must not end a training
            self._experiment = None
            reason = (str(error) or repr(error)).splitlines()[0]
            return f"tracking at {self.uri} failed ({reason}); {later}"
        return None

    def _bring(self, only: str | None) -> None:
        plan = self._plan
        if self._experiment is None:
            # A server keeps artifacts in a store of its own.
            artifacts = plan.paths.artifacts.resolve().as_uri() if self.uri.startswith("sqlite:") else None
            self._experiment = Experiment(_client(self.uri), f"fgaseg-{plan.scale}", artifacts, plan.tables)
        present: set[str] = set()
        damaged: UserError | None = None
        for source in begun(plan, only):
            present.add(source.identity)
            with exclusive(source.lock):
                try:
                    self._experiment.bring(source.read())
                except UserError as error:  # the others have nothing to do with it
                    damaged = damaged or error
        if only is None:
            self._experiment.supersede_others(present | plan.runs.keys() | plan.evaluations.keys())
        if damaged is not None:
            raise damaged


@contextmanager
def _alone(plan: Plan) -> Iterator[None]:
    """No second delivery of all, or to the same file; no report in the making, whose files come and go."""
    with ExitStack() as stack:
        for path in (plan.paths.tracking, *(plan.paths.report / scope for scope in get_args(Scope))):
            stack.enter_context(exclusive(path))
        yield


def _served(uri: str) -> bool:
    return urlparse(uri).scheme in ("http", "https")


def _reachable(uri: str) -> bool:
    if not _served(uri):
        return True
    parts = urlparse(uri)
    try:
        port = parts.port or (443 if parts.scheme == "https" else 80)
        with socket.create_connection((parts.hostname or "localhost", port), timeout=2):
            return True
    except OSError:
        return False


def _client(uri: str) -> "MlflowClient":
    """MLflow is imported here, and not before: that takes seconds and 150 MB."""
    os.environ["MLFLOW_TRACKING_URI"] = uri
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
    from mlflow import MlflowClient

    logging.getLogger("alembic").setLevel(logging.WARNING)
    logging.getLogger("mlflow").setLevel(logging.WARNING)
    logging.getLogger("urllib3").setLevel(logging.ERROR)  # a request that fails is told of once, as a whole
    return MlflowClient(uri)
