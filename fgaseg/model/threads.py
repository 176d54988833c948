"""Several pieces of work at a time, one thread of the CPU each, in the place of several threads for each operation.

Threads that share an operation wait for each other at its end, and what one has in its cache the next operation wants in
another's. Where other processes keep the cores busy, they wait longer than one alone would take.
"""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

import torch

Item = TypeVar("Item")
Result = TypeVar("Result")


@contextmanager
def one_thread() -> Iterator[int]:
    """One thread in each of torch's operations; gives how many there were."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield threads
    finally:
        torch.set_num_threads(threads)


def side_by_side(work: Callable[[Item], Result], items: Iterable[Item], threads: int) -> Iterator[Result]:
    """`work` of each item, in order, on so many threads; to be called within `one_thread`.

    What torch keeps for each thread apart is handed on, except gradients: there are none.
    """
    inference = torch.is_inference_mode_enabled()
    cast, dtype = torch.is_autocast_enabled("cpu"), torch.get_autocast_dtype("cpu")

    def alike(item: Item) -> Result:
        with torch.inference_mode(inference), torch.no_grad(), torch.autocast("cpu", dtype, cast):
            return work(item)

    pool = ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,))
    try:
        yield from pool.map(alike, items)
    finally:
        pool.shutdown(cancel_futures=True)
