"""The processes of one training: who they are, what each does, and the few words that they exchange.

They are told apart by torchrun's environment variables (RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR, MASTER_PORT), which
SLURM jobs set as well. Without them there is one process, and nothing here communicates.
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from fgaseg.runtime import set_up_torch

T = TypeVar("T")

_PATIENCE = timedelta(minutes=30)
"""How long a process waits for the others, such as for the slowest share of a validation."""


@dataclass(frozen=True)
class Ranks:
    """One process among `world`; rank 0 alone writes files and tracks."""

    rank: int
    world: int
    device: torch.device

    @property
    def first(self) -> bool:
        return self.rank == 0

    def share(self, items: Sequence[T]) -> Sequence[T]:
        """This process's part of `items`: every `world`-th."""
        return items[self.rank :: self.world]

    def mean(self, value: Tensor) -> Tensor:
        """The mean of all processes' values, on all of them."""
        if self.world == 1:
            return value
        total = value.detach().clone()
        dist.all_reduce(total)
        return total / self.world

    def total(self, counts: NDArray[np.int64]) -> NDArray[np.int64]:
        """The sum of all processes' counts, on all of them."""
        if self.world == 1:
            return counts
        tensor = torch.from_numpy(counts).to(self.device)
        dist.all_reduce(tensor)
        return tensor.cpu().numpy()

    def agreed(self, value: T) -> T:
        """What rank 0 says."""
        if self.world == 1:
            return value
        said: list[Any] = [value]
        dist.broadcast_object_list(said, src=0, device=self.device)
        agreed: T = said[0]
        return agreed

    def average_gradients_of(self, module: nn.Module) -> nn.Module:
        """`module`, whose backward passes then leave the mean of all processes' gradients.

        Unused parameters are looked for in every step: the last block's queries have no gradient. That also keeps DDP from
        regrouping its buckets after the first step; a sum of floats depends on the grouping, and a training that was
        interrupted must end in the same bits. Nothing of the model is a statistic that would have to be synchronised.
        """
        if self.world == 1:
            return module
        return DistributedDataParallel(
            module,
            device_ids=[self.device] if self.device.type == "cuda" else None,
            find_unused_parameters=True,
        )


@contextmanager
def joined(threads: int) -> Iterator[Ranks]:
    """Set torch up in this process and meet the others, if there are any: NCCL between GPUs, gloo between CPUs."""
    rank, world, local = (int(os.environ.get(key, "0")) for key in ("RANK", "WORLD_SIZE", "LOCAL_RANK"))
    ranks = Ranks(rank, max(world, 1), set_up_torch(threads, local))
    if ranks.world == 1:
        yield ranks
        return
    dist.init_process_group("nccl" if ranks.device.type == "cuda" else "gloo", timeout=_PATIENCE)
    yield ranks
    dist.destroy_process_group()  # not after a failure: it might wait for processes that are dead
