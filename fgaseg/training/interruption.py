"""Signals that end a process are granted between two iterations, when the state has been saved."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

_NOTICE = {signal.SIGTERM: 10, signal.SIGINT: 10}
"""Seconds within which a process among several ends by itself: if another is dead, no iteration will ever end."""


class Interruption:
    """Remembers that this process has been asked to end.

    SIGTERM (cancelled, requeued, or the machine goes down), SIGINT (Ctrl-C) and SIGUSR2 (SLURM: preempted, or soon at the
    time limit; submitit's handler then requeues the job). Rank 0 saves and ends; the others help it to end its iteration.
    """

    def __init__(self, rank: int = 0, world: int = 1) -> None:
        self._rank, self._world = rank, world
        self._signal: signal.Signals | None = None
        self._before: dict[signal.Signals, signal._HANDLER] = {}

    @contextmanager
    def awaited(self) -> Iterator["Interruption"]:
        """Listen to the signals within the block."""
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR2):
            self._before[number] = signal.signal(number, self._remember)
        try:
            yield self
        finally:
            for number, handler in self._before.items():
                signal.signal(number, handler)
            signal.alarm(0)

    def _remember(self, number: int, frame: FrameType | None) -> None:
        again, self._signal = self._signal, signal.Signals(number)
        if again is signal.SIGINT and number == signal.SIGINT:
            raise KeyboardInterrupt
        if self._world > 1 and self._signal in _NOTICE:
            signal.alarm(_NOTICE[self._signal])

    @property
    def requested(self) -> bool:
        """Whether to save and then to call `grant`; rank 0 alone is to."""
        return self._rank == 0 and self._signal is not None

    def grant(self) -> None:
        """End the process as the signal wants it: requeued by the handler before, if that is submitit's; or exit."""
        number = self._signal
        assert number is not None
        before = self._before[number]
        if number == signal.SIGUSR2 and callable(before):
            before(number, None)
        raise SystemExit(128 + number)
