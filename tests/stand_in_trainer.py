"""What tracking sees of a training, without a model: a process that writes a run's files and is followed.

Started in a project's root; on standard output it says in JSON what its last step was and how long leaving `following` took.
"""

import argparse
import json
import signal
import time
from pathlib import Path

from fgaseg.files import write_json
from fgaseg.params import load_launch
from fgaseg.plan import Plan
from fgaseg.tracking import following
from fgaseg.training.metrics import VALIDATION, MetricsFile
from fgaseg.training.starts import Start, add_start


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("run", help="run id")
    parser.add_argument("--begin", type=int, default=0, help="the iterations of the checkpoint to go on from")
    parser.add_argument("--steps", type=int, default=20, help="the last iteration; a signal or the file `stop` ends it before")
    parser.add_argument("--pause", type=float, default=0.05, help="seconds that an iteration takes")
    parser.add_argument("--interval", type=float, default=0.5, help="seconds between two deliveries")
    options = parser.parse_args()

    plan = Plan(Path(), "sample")
    folder = plan.paths.run(options.run)
    provenance = {"git_commit": "0" * 40, "code": "0" * 12, "data_digest": plan.digest}
    write_json(folder / "params.json", {"params": plan.runs[options.run].model_dump(mode="json"), "provenance": provenance})
    metrics = MetricsFile(folder / "metrics.jsonl", options.begin, options.begin)
    add_start(folder, Start(time.time(), options.begin, None, "here", 1))
    asked: list[int] = []
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR2):
        signal.signal(number, lambda number, _: asked.append(number))
    step = options.begin
    with following(plan, load_launch(Path()), options.run, options.interval):
        while step < options.steps and not asked and not Path("stop").exists():
            step += 1
            metrics.append(step, {"loss": 1 / step, "grad_norm": float("inf") if step == 7 else 2 / step, "lr": 1e-3})
            if step % 10 == 0:
                metrics.append(step, {VALIDATION: step / 1000})
            time.sleep(options.pause)
        if step == options.steps:
            (folder / "model.safetensors").touch()
        left = time.monotonic()
    print(json.dumps({"step": step, "seconds": time.monotonic() - left}))


if __name__ == "__main__":
    main()
