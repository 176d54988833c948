"""Disturb trainings on a SLURM cluster at random times, in every way that a cluster and people have, and see how they end.

    python tests/faults.py --faults 24 --seed 0

Each training must end, with the weights of an undisturbed one bit for bit; never may two jobs of one training be alive. A
table tells for each kind of fault how often it was injected, and how many iterations had to be done again.
"""

import argparse
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from cluster import wait_until
from project import DATASETS, Project, write_project

from fgaseg.launch.launcher import job_name
from fgaseg.launch.record import read_record
from fgaseg.launch.slurm import find
from fgaseg.plan import Plan
from fgaseg.training.metrics import read_metrics
from fgaseg.training.starts import read_starts

ITERATIONS = 40
_PATH = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
_PATIENCE = 240.0


def prepared(root: Path, iterations: int = ITERATIONS) -> Project:
    """A small project on the cluster's partition `low`, whose jobs may be preempted, ready for its trainings."""
    project = write_project(root)
    scale = "params/scale/sample.yaml"
    project.edit(scale, "training.iterations: 3", f"training.iterations: {iterations}")
    project.edit(scale, "training.validate_every: 3", f"training.validate_every: {iterations // 2}")
    project.edit("params/launch.yaml", "sample: 0", "sample: 2")
    project.edit("params/launch.yaml", "partition: null", "partition: low")
    project.edit("params/launch.yaml", "notice_seconds: 90", "notice_seconds: 20")
    for name in DATASETS[:2]:
        project.run("prepare", name)
    project.run("vlm", "base")
    return project


@dataclass
class Training:
    """A training of a project, as `snakemake --profile slurm` runs it, with a person who starts it again when it ends badly."""

    project: Project
    run: str
    snakemake: subprocess.Popen[bytes] | None = None
    starts: int = 0

    @property
    def folder(self) -> Path:
        return self.project.results / "runs" / self.run

    @property
    def model(self) -> Path:
        return self.folder / "model.safetensors"

    @property
    def job(self) -> str | None:
        """The id of its job that waits or runs. Never are there two."""
        return find(job_name(Plan(self.project.root, "sample"), self.run))

    def _snakemake(self, *arguments: str) -> subprocess.Popen[bytes]:
        command = ["env", "--default-signal=INT", sys.executable, "-m", "snakemake", "--profile", "slurm", *arguments]
        with (self.project.root / "snakemake.log").open("ab") as log:
            return subprocess.Popen(
                command, cwd=self.project.root, env=os.environ | {"PATH": _PATH}, start_new_session=True, stdout=log, stderr=log
            )

    def keep_going(self) -> None:
        """Start Snakemake where none is at work, as often as it takes."""
        if self.snakemake is not None and self.snakemake.poll() is None:
            return
        self._snakemake("--unlock").wait(timeout=60)
        self.snakemake = self._snakemake("--", str(self.model.relative_to(self.project.root)))
        self.starts += 1

    def reached(self) -> int:
        """The newest iteration of which a line of metrics tells."""
        return max((line["step"] for line in read_metrics(self.folder / "metrics.jsonl")), default=0)

    def running_job(self) -> str:
        """Wait until the job runs; its id."""

        def running() -> str | None:
            self.keep_going()
            job = self.job
            return job if job and _state(job) == "RUNNING" else None

        return str(wait_until(running, _PATIENCE, f"a job of {self.run} runs"))

    def finish(self) -> None:
        """Wait for the model."""

        def done() -> bool:
            if not self.model.exists():
                self.keep_going()
            return self.model.exists()

        wait_until(done, 3 * _PATIENCE, f"{self.run} is trained")
        if self.snakemake is not None:
            self.snakemake.wait(timeout=120)

    def kill_launchers(self) -> None:
        """End all that runs on the submitting machine at once, as a power cut does; a job lives on."""
        if self.snakemake is not None:
            with suppress(ProcessLookupError):
                os.killpg(self.snakemake.pid, signal.SIGKILL)
            self.snakemake.wait(timeout=30)
        for launcher in _processes(lambda words: self.run.encode() in words and b"slurm" in words):
            with suppress(ProcessLookupError):
                os.kill(launcher, signal.SIGKILL)  # left by a Snakemake that died before

    def close(self) -> None:
        """Leave nothing behind, so that one that failed is in no other test's way."""
        self.kill_launchers()
        _sh("scancel", "--name", job_name(Plan(self.project.root, "sample"), self.run))


def _state(job: str) -> str:
    shown = subprocess.run(["scontrol", "show", "job", "-o", job], capture_output=True, text=True, check=False, timeout=30)
    found = re.search(r"JobState=(\S+)", shown.stdout)
    return found[1] if found else ""


def _sh(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True, timeout=60)


def _processes(wanted: Callable[[list[bytes]], bool]) -> list[int]:
    """The processes whose command line is wanted."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if wanted((folder / "cmdline").read_bytes().split(b"\0")):
                found.append(int(folder.name))
    return found


def rank_process(job: str, rank: int) -> int | None:
    """The process of one rank of a job, as the system knows it."""
    wanted = {f"SLURM_JOB_ID={job}".encode(), f"SLURM_PROCID={rank}".encode()}
    for process in _processes(lambda words: b"submitit.core._submit" in words):
        with suppress(OSError):
            if wanted <= set(Path(f"/proc/{process}/environ").read_bytes().split(b"\0")):
                return process
    return None


def kill_a_rank(training: Training, job: str, chance: random.Random) -> None:
    process = rank_process(job, chance.randrange(8))
    if process is not None:
        os.kill(process, signal.SIGKILL)


def damage_and_kill(training: Training, job: str, chance: random.Random) -> None:
    """The newest checkpoint loses its end, as on a disk that lied; then a rank is killed."""
    kill_a_rank(training, job, chance)
    found = sorted(training.folder.glob("checkpoints/step_*.pt"))
    if found:
        os.truncate(found[-1], found[-1].stat().st_size // 2)


def preempt(training: Training, job: str, chance: random.Random) -> None:
    """A job of a higher partition wants the same GPUs."""
    script = "#!/bin/sh\nsleep 2\n"
    command = ["sbatch", "--partition", "gpu", "--gpus-per-node", "8", "--ntasks", "1", "--output", "/dev/null"]
    subprocess.run(command, input=script, text=True, check=True, capture_output=True, timeout=60)


def notice(training: Training, job: str, chance: random.Random) -> None:
    """What SLURM sends before a preemption or the time limit."""
    _sh("scancel", "--signal", "USR2", job)


def time_limit(training: Training, job: str, chance: random.Random) -> None:
    """The job may run for one minute in all, and for an hour once it has been requeued."""
    _sh("scontrol", "update", f"JobId={job}", "TimeLimit=1")
    wait_until(lambda: _state(job) != "RUNNING" or training.model.exists(), 120, f"job {job} is at its time limit")
    if not training.model.exists():
        _sh("scontrol", "update", f"JobId={job}", "TimeLimit=60")


def requeue(training: Training, job: str, chance: random.Random) -> None:
    _sh("scontrol", "requeue", job)


def cancel(training: Training, job: str, chance: random.Random) -> None:
    _sh("scancel", job)


def interrupt(training: Training, job: str, chance: random.Random) -> None:
    """Ctrl-C, after which no job may be left."""
    assert training.snakemake is not None
    with suppress(ProcessLookupError):
        os.killpg(training.snakemake.pid, signal.SIGINT)
    training.snakemake.wait(timeout=90)
    assert training.job is None, "Ctrl-C has left a job"


def kill_snakemake(training: Training, job: str, chance: random.Random) -> None:
    """Snakemake alone dies; the process that waits for the job is left."""
    assert training.snakemake is not None
    training.snakemake.kill()
    training.snakemake.wait(timeout=30)


def kill_the_host(training: Training, job: str, chance: random.Random) -> None:
    """All that ran on the submitting machine is gone at once; the job knows nothing of it and must be found again."""
    training.kill_launchers()
    record = read_record(training.folder)
    training.keep_going()
    taken_up = f"job {job} of this run is alive"
    log = training.project.results / "logs" / "train" / f"{training.run}.log"
    wait_until(lambda: training.model.exists() or (log.exists() and taken_up in log.read_text()), 60, taken_up)
    assert record is not None
    assert record.job == job


Fault = Callable[[Training, str, random.Random], None]
FAULTS: dict[str, Fault] = {
    "kill -9 of a rank": kill_a_rank,
    "damaged checkpoint and kill -9 of a rank": damage_and_kill,
    "preemption": preempt,
    "USR2": notice,
    "time limit": time_limit,
    "scontrol requeue": requeue,
    "scancel": cancel,
    "Ctrl-C": interrupt,
    "kill -9 of Snakemake": kill_snakemake,
    "death of the submitting host": kill_the_host,
}
_JOB_LIVES_ON = {kill_snakemake, kill_the_host}


@dataclass
class Tally:
    """What became of each kind of fault; `lost` are iterations that had to be done again."""

    injected: Counter[str] = field(default_factory=Counter)
    lost: dict[str, list[int]] = field(default_factory=dict)

    def table(self) -> str:
        """One line for each kind."""
        lines = [f"{'fault':42} {'injected':>8} {'iterations lost: median':>24} {'most':>5}"]
        for name, count in self.injected.items():
            lost = sorted(self.lost[name])
            lines.append(f"{name:42} {count:8} {lost[len(lost) // 2]:24} {lost[-1]:5}")
        everything = [n for each in self.lost.values() for n in each]
        lines.append(f"{'all':42} {self.injected.total():8} {'':24} {max(everything):5}")
        return "\n".join(lines)


def inject(training: Training, name: str, chance: random.Random) -> int:
    """One fault at a random time; returns the iterations that it cost, when the training goes on."""
    job = training.running_job()
    if chance.random() < 0.25:  # while the job starts, or soon after
        time.sleep(chance.uniform(0, 12))
    else:
        goal = training.reached() + chance.randint(1, 4)
        wait_until(
            lambda: training.reached() >= goal or training.model.exists() or not training.job, _PATIENCE, f"iteration {goal}"
        )
        time.sleep(chance.uniform(0, 1))
    before = len(read_starts(training.folder))
    FAULTS[name](training, job, chance)
    reached = training.reached()

    def going_on() -> bool:
        training.keep_going()
        return FAULTS[name] in _JOB_LIVES_ON or training.model.exists() or len(read_starts(training.folder)) > before

    wait_until(going_on, _PATIENCE, f"the training goes on after: {name}")
    starts = read_starts(training.folder)
    return max(0, reached - starts[-1].step) if len(starts) > before else 0


@contextmanager
def never_two_jobs(training: Training) -> Iterator[None]:
    """Within the block, look all the time whether two jobs of the training are alive."""
    name = job_name(Plan(training.project.root, "sample"), training.run)
    script = (
        f'while sleep 0.5; do n=$(squeue -h -n {name} -o "%A %T" 2>/dev/null | grep -cv COMPLETING); '
        f'[ "$n" -gt 1 ] && touch {training.folder}.two; done'
    )
    watcher = subprocess.Popen(["sh", "-c", script], start_new_session=True)
    try:
        yield
    finally:
        os.killpg(watcher.pid, signal.SIGTERM)
        watcher.wait()
    assert not Path(f"{training.folder}.two").exists(), "two jobs of one training were alive"


def disturb(undisturbed: Project, disturbed: Project, runs: list[str], faults: list[str], chance: random.Random) -> Tally:
    """Spread the faults over the trainings. Raises `AssertionError` for other weights, `TimeoutError` for one that hangs."""
    tally, left = Tally(), list(faults)
    for i, run in enumerate(runs):
        plain, training = Training(undisturbed, run), Training(disturbed, run)
        share = left if i == len(runs) - 1 else left[: len(faults) // len(runs)]
        before = tally.injected.total()
        with closing(plain), closing(training), never_two_jobs(training):
            plain.finish()
            for name in list(share):
                training.keep_going()
                if training.model.exists():
                    break
                lost = inject(training, name, chance)
                left.remove(name)
                tally.injected[name] += 1
                tally.lost.setdefault(name, []).append(lost)
                print(f"{run}: {name} at iteration {training.reached()}, {lost} iterations lost", flush=True)
            training.finish()
        assert training.model.read_bytes() == plain.model.read_bytes(), f"{run}: other weights than undisturbed"
        faults_here = tally.injected.total() - before
        print(f"{run}: the same weights after {faults_here} faults, {training.starts} calls of snakemake", flush=True)
    return tally


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--faults", type=int, default=24)
    parser.add_argument("--runs", type=int, default=4)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--iterations", type=int, default=ITERATIONS)
    chosen = parser.parse_args()
    chance = random.Random(chosen.seed)
    names = list(FAULTS) * (1 + chosen.faults // len(FAULTS))
    names = names[: chosen.faults]
    chance.shuffle(names)
    folder = Path(tempfile.mkdtemp(prefix="fgaseg-faults-"))
    project = prepared(folder / "disturbed", chosen.iterations)
    undisturbed = project.copy(folder / "undisturbed")
    rows = Plan(project.root, "sample").tables["table_3d"].rows
    runs = [str(row.run_id) for row in rows][: chosen.runs]
    tally = disturb(undisturbed, project, runs, names, chance)
    print(tally.table())
    shutil.rmtree(folder)


if __name__ == "__main__":
    main()
