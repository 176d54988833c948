"""What is asked of SLURM: submit a job, tell its state, find it by its name, cancel it."""

import contextlib
import getpass
import io
import re
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import submitit
from submitit.core.utils import FailedJobError, FailedSubmissionError

from fgaseg.errors import UserError
from fgaseg.schema import Cluster

_FILE = "params/launch.yaml"
_SECONDS = 30
_TIMEOUTS = 100
"""How often a job is requeued at its time limit: more often than any training needs."""

_YOURS = "(`sacctmgr show assoc user=$USER`)"
_REFUSALS = (
    ("invalid partition", "partition", "name one of those that `sinfo` lists"),
    ("invalid account", "account", f"name one that you may use now {_YOURS}, or ask your administrator"),
    ("invalid qos", "qos", f"name one that the account may use {_YOURS}"),
    ("invalid feature", "constraint", "name features that nodes have (`sinfo -o %f`)"),
    ("requested time limit is invalid", "hours", "stay below the partition's limit (`sinfo -o '%P %l'`)"),
    ("node count", "nodes", "ask for no more nodes than the partition has (`sinfo`)"),
    ("invalid generic resource", "gpus_per_node", "the nodes have no such GPUs (`sinfo -o '%P %G'`)"),
    ("node configuration is not available", "gpus_per_node", "no node has so many GPUs or CPUs (`sinfo -Ne -o '%N %G %c'`)"),
    ("violates accounting", "account", f"its limits do not allow this job now {_YOURS}"),
)
"""What sbatch says, in lower case; the key of `cluster` that it is about; what to do."""

_NEVER = {
    "InvalidAccount": "account",
    "AccountNotAllowed": "account",
    "InvalidQOS": "qos",
    "QOSNotAllowed": "qos",
    "BadConstraints": "constraint",
    "PartitionNodeLimit": "nodes",
    "PartitionTimeLimit": "hours",
}
"""Reasons for which a job waits in vain, and the key of `cluster` that they are about."""

_ENDED = {
    *("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "PREEMPTED", "BOOT_FAIL", "DEADLINE", "OUT_OF_MEMORY"),
    *("REVOKED", "UNKNOWN"),
}


class BusyError(Exception):
    """SLURM does not answer now; the same call may do so later."""


@dataclass(frozen=True)
class JobState:
    """SLURM's word for a job's state, and why it is waiting."""

    state: str
    reason: str = ""

    @property
    def ended(self) -> bool:
        return self.state in _ENDED

    @property
    def waits_in_vain(self) -> str | None:
        """The key of `cluster` for which the job will never start."""
        return _NEVER.get(self.reason) if self.state == "PENDING" else None


def require() -> None:
    """`UserError` where SLURM's commands are not there."""
    for command in ("sbatch", "srun", "scontrol", "scancel", "squeue"):
        if shutil.which(command) is None:
            raise UserError(
                f"{command}: not found: this is no machine from which SLURM jobs are submitted; go to one (a login node), "
                "or run without --profile slurm"
            )


def _ask(*command: str) -> str:
    """What a command of SLURM prints. Raises `BusyError` when it cannot answer."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=_SECONDS)
    except subprocess.TimeoutExpired:
        raise BusyError(f"{command[0]} does not answer") from None
    if done.returncode:
        raise BusyError(f"{command[0]}: {' '.join(done.stderr.split())}")
    return done.stdout


def submit(job: Callable[[], object], folder: Path, name: str, cluster: Cluster) -> str:
    """Submit the callable `job` with a process for each GPU; returns SLURM's id.

    Its logs and its pickled self lie in `folder`. Raises `UserError` when SLURM refuses it, `BusyError` when SLURM is away.
    """
    executor = submitit.SlurmExecutor(folder, max_num_timeout=_TIMEOUTS)
    asked = {
        "partition": cluster.partition,
        "account": cluster.account,
        "qos": cluster.qos,
        "constraint": cluster.constraint,
        "mem": None if cluster.memory_gb is None else f"{cluster.memory_gb}GB",
    }
    executor.update_parameters(
        job_name=name,
        nodes=cluster.nodes,
        ntasks_per_node=cluster.gpus_per_node,
        gpus_per_node=cluster.gpus_per_node,
        cpus_per_task=cluster.cpus_per_gpu,
        time=max(1, round(60 * cluster.hours)),
        signal_delay_s=cluster.notice_seconds,
        setup=list(cluster.setup),
        srun_args=["--kill-on-bad-exit=1"],  # else the other processes would go on without one that died
        additional_parameters={"requeue": True},
        **{key: value for key, value in asked.items() if value is not None},
    )
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said), submitit.helpers.clean_env():  # which matters inside a SLURM job
            return str(executor.submit(job).job_id)
    except (FailedJobError, FailedSubmissionError) as error:
        raise _refusal(str(error), cluster) from None


def _refusal(said: str, cluster: Cluster) -> Exception:
    """What sbatch's refusal means: a wrong key of `cluster`, or that SLURM is away."""
    text = " ".join(re.sub(r"sbatch: (error: )?", "", said).split())
    low = text.lower()
    if any(words in low for words in ("unable to contact", "timed out", "temporarily", "connection refused", "try again")):
        return BusyError(f"sbatch: {text}")
    for words, key, remedy in _REFUSALS:
        if words in low:
            return UserError(f"{_FILE}: cluster.{key}: {getattr(cluster, key)}: SLURM refuses the job ({text}); {remedy}")
    return UserError(f"{_FILE}: cluster: SLURM refuses the job ({text}); change what it asks for")


def state(job: str) -> JobState:
    """The state of a job, asked of the controller, or of the accounting once the controller has forgotten the job."""
    try:
        text = _ask("scontrol", "show", "job", "--oneliner", job)
    except BusyError as error:
        if "invalid job id" not in str(error).lower():
            raise
    else:
        found = dict(re.findall(r"(JobState|Reason)=(\S+)", text))
        return JobState(found["JobState"], found.get("Reason", "").replace("None", ""))
    try:
        text = _ask("sacct", "--allocations", "--noheader", "--parsable2", "--jobs", job, "--format", "State")
    except (BusyError, FileNotFoundError):  # no accounting
        return JobState("UNKNOWN")
    return JobState((text.split() or ["UNKNOWN"])[0])


def find(name: str) -> str | None:
    """The id of the waiting or running job of this name, if there is one."""
    text = _ask("squeue", "--noheader", "--user", getpass.getuser(), "--name", name, "--format", "%A %T")
    jobs = [line.split() for line in text.splitlines()]
    return next((job for job, word in jobs if word not in _ENDED | {"COMPLETING"}), None)


def cancel(job: str) -> None:
    """Cancel a job; nothing happens when it has ended."""
    _ask("scancel", job)
