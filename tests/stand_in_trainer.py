"""What tracking sees of a training, without a model: a process that writes a run's files and is followed.

Started in a project's root. On standard output it says in JSON what its last step was and how long it took to leave
`following`. It is finished at its last step, or when there is a file `stop`; a signal ends it before.
"""

import argparse
import json
import multiprocessing
import signal
import sys
import time
from pathlib import Path

from fgaseg.files import write_json
from fgaseg.params import load_launch
from fgaseg.plan import Plan
from fgaseg.tracking import following
from fgaseg.training.metrics import VALIDATION, MetricsFile
from fgaseg.training.starts import Start, add_start


def begin(plan: Plan, run: str, step: int = 0, at: float | None = None) -> MetricsFile:
    """The files of a run whose training begins, or goes on from a checkpoint of `step`; at a time, now if it is None."""
    folder = plan.paths.run(run)
    provenance = {"git_commit": "0" * 40, "code": "0" * 12, "data_digest": plan.digest}
    write_json(folder / "params.json", {"params": plan.runs[run].model_dump(mode="json"), "provenance": provenance})
    add_start(folder, Start(time.time() if at is None else at, step, None, "here", 1))
    return MetricsFile(folder / "metrics.jsonl", step, step)


def write(metrics: MetricsFile, step: int) -> None:
    """The lines of one iteration: always the same values, and one that is not finite."""
    metrics.append(step, {"loss": 1 / step, "grad_norm": float("inf") if step == 7 else 2 / step, "lr": 1e-3})
    if step % 10 == 0:
        metrics.append(step, {VALIDATION: step / 1000})


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("run", help="run id")
    parser.add_argument("--begin", type=int, default=0, help="the iterations of the checkpoint to go on from")
    parser.add_argument("--steps", type=int, default=100000, help="the last iteration")
    parser.add_argument("--pause", type=float, default=0.05, help="seconds that an iteration takes")
    parser.add_argument("--loader", action="store_true", help="fork a process that outlives this one for some seconds")
    options = parser.parse_args()

    plan = Plan(Path(), "sample")
    asked: list[int] = []
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR2):
        signal.signal(number, lambda number, _: asked.append(number))
    metrics, step = begin(plan, options.run, options.begin), options.begin
    with following(plan, load_launch(Path()), options.run, interval=0.5):
        if options.loader:
            multiprocessing.get_context("fork").Process(target=time.sleep, args=(10,)).start()
        while step < options.steps and not asked and not Path("stop").exists():
            step += 1
            write(metrics, step)
            time.sleep(options.pause)
        if not asked:
            (plan.paths.run(options.run) / "model.safetensors").touch()
        left = time.monotonic()
    sys.stdout.write(json.dumps({"step": step, "seconds": time.monotonic() - left}))


if __name__ == "__main__":
    main()
