"""The process that follows a training: `python -m fgaseg.tracking.follower FD`, where FD is an open file with its task.

Its standard input is a pipe from the training: a word says that training has ended, an end without one that the trainer died.
On standard output it says in the end what did not arrive. It imports no torch, and MLflow only when it can be reached.
"""

import logging
import os
import pickle
import select
import signal
import sys
import threading
import time
from typing import TextIO

from fgaseg.tracking.live import UNHEARD, Task
from fgaseg.tracking.store import Delivery

log = logging.getLogger(__name__)

_NICENESS = 5
_LOOK_SECONDS = 1.0


def _listen(trainer: int, ended: threading.Event) -> None:
    """Set `ended` when the trainer says so; end this process, whatever it is doing, when the trainer is dead.

    The pipe alone would not tell: processes that load the trainer's images hold its other end as well.
    """
    while os.getppid() == trainer:
        if ended.is_set():
            time.sleep(_LOOK_SECONDS)
        elif select.select([0], [], [], _LOOK_SECONDS)[0]:
            if not os.read(0, 16):
                break
            ended.set()
    os._exit(1)


def follow(task: Task, ended: threading.Event) -> str | None:
    """Deliver again and again, the last time after `ended`; returns what a person is to know of what did not arrive."""
    delivery = Delivery(task.plan, task.launch)
    before = None
    while True:
        last = ended.is_set()
        trouble = delivery.bring(task.run_id)
        if trouble is not None and before is None:
            log.warning("%s", trouble)
        if trouble is None and before is not None:
            log.warning("tracking at %s works again; what was missed has arrived", delivery.uri)
        if last:
            return trouble
        before = trouble
        ended.wait(task.interval)


def _only_output() -> TextIO:
    """Standard output; what libraries print goes to standard error from now on."""
    output = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    return output


def main() -> None:
    """Follow the training whose task is in the file that the argument numbers."""
    for number in UNHEARD:
        signal.signal(number, signal.SIG_IGN)
    os.nice(_NICENESS)
    logging.basicConfig(format="%(asctime)s %(levelname)s: %(message)s", level=logging.WARNING)
    with os.fdopen(int(sys.argv[1]), "rb") as file:
        task: Task = pickle.load(file)
    ended = threading.Event()
    threading.Thread(target=_listen, args=(task.trainer, ended), daemon=True).start()
    with _only_output() as output:
        output.write(follow(task, ended) or "")
    os._exit(0)  # the trainer waits, and to take MLflow's modules apart takes longer than the delivery


if __name__ == "__main__":
    main()
