"""The iterations of a training: steps, lines of metrics, validations, checkpoints."""

import math
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Sampler
from tqdm import tqdm

from fgaseg.errors import UserError
from fgaseg.model.prompts import tokenise
from fgaseg.schema import Params, Training
from fgaseg.training.interruption import Interruption
from fgaseg.training.metrics import VALIDATION, MetricsFile
from fgaseg.training.optimisation import Batch, Step
from fgaseg.training.ranks import Ranks
from fgaseg.training.state import TrainingState
from fgaseg.training.stream import TrainingStream


@dataclass(frozen=True)
class Cadence:
    """How often things happen, how many images go through the model together, how many loader processes help."""

    log_every: int
    checkpoint_seconds: float
    images_per_pass: int
    workers: int = 0


class Share(Sampler[list[int]]):
    """This process's items of the stream, from iteration `start` on: a part of every global batch, without overlap or gap.

    Each list is of one iteration and goes through the model together.
    """

    def __init__(self, params: Training, ranks: Ranks, start: int, images_per_pass: int) -> None:
        self.params, self.ranks, self.start, self.size = params, ranks, start, images_per_pass
        self.each = params.global_batch // ranks.world
        self.passes = math.ceil(self.each / images_per_pass)

    def __iter__(self) -> Iterator[list[int]]:
        for step in range(self.start, self.params.iterations):
            first = step * self.params.global_batch + self.ranks.rank * self.each
            items = range(first, first + self.each)
            yield from (list(items[i : i + self.size]) for i in range(0, self.each, self.size))

    def __len__(self) -> int:
        return (self.params.iterations - self.start) * self.passes


def _batches(stream: TrainingStream, share: Share, workers: int) -> Iterator[list[Batch]]:
    """For each iteration this process's batches."""
    loader = iter(DataLoader(stream, batch_sampler=share, num_workers=workers))
    try:
        while batches := list(islice(loader, share.passes)):
            yield batches
    except UserError as error:  # a loader process puts its stack trace before the message
        raise UserError(str(error).strip().splitlines()[-1].removeprefix("fgaseg.errors.UserError: ")) from None


@dataclass
class _Watch:
    """The mean duration of iterations since it was last read or paused."""

    start: float = 0.0
    steps: int = 0

    def restart(self) -> None:
        self.start, self.steps = time.monotonic(), 0

    def read(self) -> float:
        mean = (time.monotonic() - self.start) / self.steps
        self.restart()
        return mean


class Loop:
    """Runs the iterations that `state` still lacks, on this process's share of the images.

    `metrics` is None in all processes but the first. `checkpoint` is called there at the first iteration after every
    `checkpoint_seconds` and before an interruption is granted; `validate` in all processes, every `validate_every`
    iterations and after the last one.
    """

    def __init__(
        self,
        state: TrainingState,
        params: Params,
        names: list[str],
        ranks: Ranks,
        cadence: Cadence,
        *,
        metrics: MetricsFile | None,
        checkpoint: Callable[[], None],
        validate: Callable[[], float],
        interruption: Interruption,
    ) -> None:
        self.state, self.params, self.ranks, self.cadence = state, params, ranks, cadence
        self.metrics, self.checkpoint, self.validate, self.interruption = metrics, checkpoint, validate, interruption
        tokens = tokenise(names, params.vlm.prompts, params.vlm.architecture).to(ranks.device)
        self.step = Step(state, params, tokens, ranks)
        self.watch = _Watch()

    def run(self, stream: TrainingStream) -> None:
        """Raises `UserError` when a loss is not finite or an image cannot be read; `SystemExit` when interrupted."""
        state, training = self.state, self.params.training
        state.model.train()
        self._validate_if_due()
        saved = time.monotonic()
        self.watch.restart()
        terminal = sys.stderr.isatty()
        with tqdm(
            total=training.iterations, initial=state.step, unit="it", ncols=100,
            mininterval=0.5 if terminal else 15.0, disable=not self.ranks.first,
        ) as bar:  # fmt: skip
            share = Share(training, self.ranks, state.step, self.cadence.images_per_pass)
            for batches in _batches(stream, share, self.cadence.workers):
                terms, norm = self.step(batches)
                self.watch.steps += 1
                bar.update()
                if state.step % self.cadence.log_every == 0 or state.step == training.iterations:
                    bar.set_postfix(loss=f"{self._log(terms, norm):.3f}", refresh=False)
                self.save_if_interrupted()
                if self.ranks.first and time.monotonic() - saved >= self.cadence.checkpoint_seconds:
                    self.checkpoint()
                    saved = time.monotonic()
                self._validate_if_due()

    def _log(self, terms: dict[str, Tensor], norm: Tensor) -> float:
        """Write a line of metrics, each the mean over the global batch; returns the loss."""
        means = self.ranks.mean(torch.stack(list(terms.values())))
        values = dict(zip(terms, means.tolist(), strict=True))
        schedule = self.state.schedule
        lr = self.params.training.lr * float(schedule.get_last_lr()[0]) / schedule.base_lrs[0]
        seconds = self.watch.read()
        if self.metrics is not None:
            line = values | {"grad_norm": norm.item(), "lr": lr, "seconds_per_iteration": seconds}
            self.metrics.append(self.state.step, line)
        return values["loss"]

    def _validate_if_due(self) -> None:
        """The same on all processes: a step decides. One that an interruption cut short is made up for."""
        state, training = self.state, self.params.training
        due = state.step and (state.step % training.validate_every == 0 or state.step == training.iterations)
        if not due or state.validated == state.step:
            return
        state.model.eval()
        miou = self.validate()
        state.model.train()
        if self.metrics is not None:
            self.metrics.append(state.step, {VALIDATION: miou})
        state.validated = state.step
        self.watch.restart()

    def save_if_interrupted(self) -> None:
        """To be called between iterations, and between the images of a validation."""
        if self.interruption.requested:
            self.checkpoint()
            self.interruption.grant()
