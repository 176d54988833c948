"""Several pieces of work at a time, one thread of the CPU each, in the place of several threads for each operation.

Threads that share an operation wait for each other at its end, and what one has in its cache the next operation wants in
another's. Where other processes keep the cores busy, they wait longer than one alone would take.
"""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from threading import Barrier, local
from typing import TypeVar

import torch

Item = TypeVar("Item")
Result = TypeVar("Result")


_SET_ASIDE: ContextVar[int | None] = ContextVar("threads that `one_thread` has taken from operations", default=None)


def available() -> int:
    """How many threads there are for work side by side."""
    return _SET_ASIDE.get() or torch.get_num_threads()


@contextmanager
def one_thread() -> Iterator[int]:
    """One thread in each of torch's operations; gives how many are there for work side by side.

    A thread that has shared an operation stays busy for some milliseconds, waiting for the next one. Where work side by
    side alternates with small operations, these belong within `one_thread` too.
    """
    before, threads = torch.get_num_threads(), available()
    torch.set_num_threads(1)
    mark = _SET_ASIDE.set(threads)
    try:
        yield threads
    finally:
        _SET_ASIDE.reset(mark)
        torch.set_num_threads(before)


@contextmanager
def all_threads() -> Iterator[None]:
    """Within `one_thread`, operations that share all threads again."""
    before = torch.get_num_threads()
    torch.set_num_threads(available())
    try:
        yield
    finally:
        torch.set_num_threads(before)


_IN_POOL = local()


@cache
def _pool(threads: int) -> ThreadPoolExecutor:
    """Threads that stay: what torch's libraries prepare for each thread apart takes longer than many a piece of work.

    All of them are started at once: `set_num_threads` also tells threads that start later how many they begin with, and
    must not do so after the caller has put that number right.
    """
    started = Barrier(threads + 1, timeout=60)

    def start() -> None:
        _IN_POOL.yes = True
        torch.set_num_threads(1)
        started.wait()

    pool = ThreadPoolExecutor(threads, initializer=start)
    for _ in range(threads):
        pool.submit(int)
    started.wait()
    return pool


os.register_at_fork(after_in_child=_pool.cache_clear)  # a child has none of its parent's threads


def side_by_side(work: Callable[[Item], Result], items: Iterable[Item], threads: int) -> Iterator[Result]:
    """`work` of each item, in order, on so many threads, of which one alone is the caller's; to be called within `one_thread`.

    There are no gradients. Inference mode and a CPU's autocast hold for the work too; other modes that torch keeps for each
    thread apart, such as a counter of operations, do not. Work that itself calls this does its own items in turn.
    """
    inference = torch.is_inference_mode_enabled()
    cast, dtype = torch.is_autocast_enabled("cpu"), torch.get_autocast_dtype("cpu")

    def alike(item: Item) -> Result:
        with torch.inference_mode(inference), torch.no_grad(), torch.autocast("cpu", dtype, cast):
            return work(item)

    if threads == 1 or getattr(_IN_POOL, "yes", False):
        yield from map(alike, items)
        return
    pending: deque[Future[Result]] = deque()
    try:
        for item in items:
            pending.append(_pool(threads).submit(alike, item))
        while pending:
            yield pending.popleft().result()
    finally:
        for future in pending:
            future.cancel()
        wait(pending)
        pending.clear()
