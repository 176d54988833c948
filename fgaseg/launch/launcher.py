"""Submit the job of a training and wait for its model, or take up one that was submitted before.

There is never a second job while one is alive: its id is on the disk, and should that be lost, SLURM finds it by its name.
"""

import hashlib
import logging
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import FrameType

from fgaseg.errors import UserError
from fgaseg.files import exclusive
from fgaseg.launch import slurm
from fgaseg.launch.failures import cause, killed, last_words, read_failures
from fgaseg.launch.job import TrainingJob
from fgaseg.launch.record import JobRecord, read_record, write_record
from fgaseg.plan import Plan
from fgaseg.schema import Launch

log = logging.getLogger(__name__)

LOOK_SECONDS = 1.0
"""Between two looks at the disk for the model."""
ASK_SECONDS = 8.0
"""Between two questions to SLURM, which serves others as well."""
PATIENCE_SECONDS = 600.0
"""How long SLURM may be away when a job is to be submitted."""
_LATE_SECONDS = 20.0
"""How much later than the end of a job its files may appear on a shared disk."""


class TrainingFailedError(UserError):
    """The training came to an end that starting it once more would not change; the traceback is in the log."""


def job_name(plan: Plan, run_id: str) -> str:
    """A name that no job of another run or of another checkout has."""
    place = hashlib.sha256(str(plan.paths.results.resolve()).encode()).hexdigest()[:8]
    return f"fgaseg-{run_id}-{place}"


def _newest_checkpoint(folder: Path) -> int:
    """The iteration of the newest checkpoint, 0 where there is none."""
    return max((int(path.stem.removeprefix("step_")) for path in folder.glob("checkpoints/step_*.pt")), default=0)


def launch_run(plan: Plan, run_id: str, launch: Launch) -> Path:
    """Train a run on the cluster; returns the path of its model.

    A job that dies for an outer reason is submitted again, at most `cluster.retries` times in a row without a new
    checkpoint. Ctrl-C cancels the job; a launcher that dies leaves it, and the next one takes it up. Raises `UserError` when
    SLURM refuses the job, when it was cancelled, and when the training itself fails.
    """
    slurm.require()
    with exclusive(plan.paths.run(run_id) / "launcher"):
        return _Launcher(plan, run_id, launch).run()


class _Launcher:
    def __init__(self, plan: Plan, run_id: str, launch: Launch) -> None:
        self.plan, self.run_id, self.launch = plan, run_id, launch
        self.folder = plan.paths.run(run_id)
        self.logs = (self.folder / "slurm").resolve()
        self.model = self.folder / "model.safetensors"
        self.name = job_name(plan, run_id)
        self.interrupted = threading.Event()
        self.record: JobRecord | None = None

    def run(self) -> Path:
        """Until the model is there."""
        deaths, reached = 0, _newest_checkpoint(self.folder)
        with self._interruptible():
            while not self.model.exists():
                self.record = self._take_up() or self._submit()
                end = self._wait(self.record.job)
                if end is None:
                    break
                reason = self._reason(end)
                if _newest_checkpoint(self.folder) > reached:
                    deaths, reached = 0, _newest_checkpoint(self.folder)
                deaths += 1
                if deaths > self.launch.cluster.retries:
                    raise self._given_up(f"{reason}; {deaths} times in a row without a new checkpoint")
                log.warning("%s; going on from iteration %d in a new job", reason, reached)
        return self.model

    @contextmanager
    def _interruptible(self) -> Iterator[None]:
        """Ctrl-C within the block cancels the job, and waits until it has left the queue."""

        def interrupt(number: int, frame: FrameType | None) -> None:
            self.interrupted.set()

        before = signal.signal(signal.SIGINT, interrupt)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, before)

    def _pause(self, seconds: float) -> None:
        """Wait, but not longer than until Ctrl-C."""
        if not self.interrupted.wait(seconds):
            return
        try:
            self._cancel()
        except slurm.BusyError as error:
            log.error("interrupted, but %s; cancel the job yourself: scancel --name %s", error, self.name)
        raise SystemExit(130)

    def _cancel(self) -> None:
        """Cancel the job, if there is one, and see it leave the queue."""
        job = (self.record and self.record.job) or slurm.find(self.name)
        if not job:
            return
        slurm.cancel(job)
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline and not slurm.state(job).ended:
            threading.Event().wait(0.5)
        if self.record is not None:
            self._note(replace(self.record, job=job, state="CANCELLED", reason="Ctrl-C", checked=time.time()))
        log.warning("interrupted: job %s is cancelled; start again to go on from its last checkpoint", job)

    def _note(self, record: JobRecord) -> None:
        self.record = record
        write_record(self.folder, record)

    def _take_up(self) -> JobRecord | None:
        """The record of a job of this run that is alive, whoever submitted it."""
        record = read_record(self.folder)
        job = None
        if record is not None and not self._ask(record.job).ended:
            job = record.job
        job = job or self._find()
        if job is None:
            return None
        log.info("job %s of this run is alive: waiting for it (logs: %s)", job, self.logs)
        before = record or JobRecord(job, time.time(), self.launch.cluster.world, 0, "", "", 0.0)
        record = replace(before, job=job, error=None)
        self._note(record)
        return record

    def _find(self) -> str | None:
        """The job of this name in the queue, if there is one."""
        while True:
            try:
                return slurm.find(self.name)
            except slurm.BusyError as error:
                log.warning("%s; asking again", error)
                self._pause(ASK_SECONDS)

    def _submit(self) -> JobRecord:
        """Submit a job; while SLURM is away, try again."""
        before = read_record(self.folder)
        job = TrainingJob(self.plan, self.run_id, self.launch)
        cluster = self.launch.cluster
        submitted = JobRecord(
            "", time.time(), cluster.world, (before.submissions if before else 0) + 1, "PENDING", "", time.time()
        )
        self._note(submitted)  # a disk that takes no record takes no checkpoint either: better to know before
        deadline = time.monotonic() + PATIENCE_SECONDS
        found: str | None = None
        while found is None:
            try:
                found = slurm.submit(job, self.logs, self.name, cluster)
            except UserError as error:
                raise self._given_up(str(error)) from None
            except slurm.BusyError as error:
                if time.monotonic() > deadline:
                    raise self._given_up(f"{error}; no answer for {PATIENCE_SECONDS:.0f} s; start again later") from None
                log.warning("%s; trying again", error)
                self._pause(ASK_SECONDS)
                found = self._find()  # it may have taken the job without being able to say so
        record = replace(submitted, job=found)
        self._note(record)
        log.info("submitted as job %s: %d x %d GPUs (logs: %s)", found, cluster.nodes, cluster.gpus_per_node, self.logs)
        return record

    def _ask(self, job: str) -> slurm.JobState:
        """The state of a job; while SLURM is away, ask again."""
        while job:
            try:
                return slurm.state(job)
            except slurm.BusyError as error:
                log.warning("%s; asking again", error)
                self._pause(ASK_SECONDS)
        return slurm.JobState("UNKNOWN")

    def _wait(self, job: str) -> slurm.JobState | None:
        """Wait for the model (None), or for an end of the job without one (its state)."""
        asked = 0.0
        while True:
            if self.model.exists():
                self._follow(slurm.JobState("COMPLETED"))
                return None
            if time.monotonic() - asked >= ASK_SECONDS:
                now = self._ask(job)
                asked = time.monotonic()
                self._follow(now)
                if now.ended:
                    return None if self._appears(now) else now
            self._pause(LOOK_SECONDS)

    def _appears(self, end: slurm.JobState) -> bool:
        """Whether the model of a completed job turns up."""
        deadline = time.monotonic() + (_LATE_SECONDS if end.state == "COMPLETED" else 0)
        while not self.model.exists() and time.monotonic() < deadline:
            self._pause(LOOK_SECONDS)
        return self.model.exists()

    def _follow(self, now: slurm.JobState) -> None:
        """Log and note what is new about the job; give up what waits in vain."""
        record = self.record
        assert record is not None
        if (now.state, now.reason) != (record.state, record.reason):
            because = f" ({now.reason})" if now.reason and now.state == "PENDING" else ""
            log.info("job %s is %s%s", record.job, now.state.lower(), because)
        self._note(replace(record, state=now.state, reason=now.reason, checked=time.time()))
        key = now.waits_in_vain
        if key:
            slurm.cancel(record.job)
            value = getattr(self.launch.cluster, key)
            raise self._given_up(
                f"params/launch.yaml: cluster.{key}: {value}: the job would wait for ever ({now.reason}); change it"
            )

    def _reason(self, end: slurm.JobState) -> str:
        """Why a job ended without a model, where a new one may do better; raises `UserError` where it would not."""
        record = self.record
        assert record is not None
        job = f"job {record.job}"
        if end.state == "CANCELLED":
            reached = _newest_checkpoint(self.folder)
            raise self._given_up(f"{job} was cancelled; start again to go on from iteration {reached}")
        failure = cause(read_failures(self.logs, record.job))
        if failure is not None and failure.kind == "mistake":
            raise self._given_up(f"{failure.message} ({failure.place}, {job})")
        if failure is not None:
            log.error("%s of %s failed:\n%s", failure.place, job, failure.trace)
            raise self._given_up(f"{failure.place} of {job} failed: {failure.message}; the traceback is in the log")
        if end.state == "OUT_OF_MEMORY":
            raise self._given_up(f"{job} ran out of memory; raise cluster.memory_gb in params/launch.yaml")
        death = killed(self.logs, record.job)
        if not death and end.state == "FAILED":
            log.error("%s failed before its training began:\n%s", job, last_words(self.logs, record.job))
        return f"{job} ended as {end.state}" + (f" ({death})" if death else "")

    def _given_up(self, why: str) -> UserError:
        if self.record is not None:
            self._note(replace(self.record, error=why, checked=time.time()))
        return TrainingFailedError(why)
