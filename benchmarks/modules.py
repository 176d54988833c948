"""`python -m benchmarks.modules`: where the time of one crop goes, module by module, and the GFLOP/s that each reaches."""

import math
import statistics
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Annotated, Any

import torch
import typer
from torch import nn
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

from benchmarks.model import VOCABULARIES, crop, paper_model, tokens

PARTS: dict[str, Callable[[Any], list[nn.Module]]] = {
    "P2Tformer": lambda m: [m.p2tformer] if m.p2tformer else [],
    "of the supplementation, LCS": lambda m: [m.local] if m.local else [],
    "spatial aggregation": lambda m: list(m.propagation.spatial),
    "of that, window attention": lambda m: [block.attention for pair in m.propagation.spatial for block in pair.blocks],
    "of that, MLP": lambda m: [block.mlp for pair in m.propagation.spatial for block in pair.blocks],
    "class aggregation": lambda m: list(m.propagation.classes),
    "decoder, of all classes": lambda m: [m.decoder],
    "of that, stage 1": lambda m: [m.decoder.stages[0]],
    "of that, stage 2": lambda m: [m.decoder.stages[1]],
}


def _attention_flops(query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
    """Of PyTorch's fused attention for CPUs, which its counter does not know."""
    return int(sdpa_flop_count(query, key, value))


def _packed_flops(x: Any, weight: Any, *_: Any, out_shape: Any, **__: Any) -> int:
    """Of a linear map whose weight is laid out beforehand."""
    return int(2 * math.prod(x) * out_shape[-1])


UNKNOWN_TO_THE_COUNTER: dict[Any, Callable[..., int]] = {
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention_flops
}
if hasattr(torch.ops.mkldnn, "_linear_pointwise"):
    UNKNOWN_TO_THE_COUNTER[torch.ops.mkldnn._linear_pointwise] = _packed_flops


class _Method(nn.Module):
    """A method as a module, so that it can be watched like the others."""

    def __init__(self, method: Callable[..., Any]) -> None:
        super().__init__()
        self.method = method

    def forward(self, *arguments: Any) -> Any:
        return self.method(*arguments)


def _as_module(owner: nn.Module, name: str) -> nn.Module:
    """Put a module in the place of one of the owner's methods."""
    module = _Method(getattr(owner, name))
    object.__setattr__(owner, name, module)  # a plain attribute: as a submodule, the method would hide it
    return module


@contextmanager
def _watched(parts: dict[str, list[nn.Module]], enter: Callable[[str], None], leave: Callable[[str], None]) -> Iterator[None]:
    hooks = []
    for name, modules in parts.items():
        for module in modules:
            hooks.append(module.register_forward_pre_hook(lambda *_, name=name: enter(name)))
            hooks.append(module.register_forward_hook(lambda *_, name=name: leave(name)))
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def measure(classes: int, repeats: int) -> dict[str, tuple[float, float]]:
    """Seconds (the median) and GFLOP of each part of one crop; `whole` is all of it.

    Of a part that several threads work on side by side, the seconds of each are added up and divided by their number.
    """
    model, image = paper_model().eval(), crop()
    text = model.clip.encode_text(tokens(classes))
    parts: dict[str, list[nn.Module]] = {
        "whole": [model],
        "image encoder": [_as_module(model.clip, "encode_image")],
        "supplementation": [_as_module(model, "supplement")],
        "decoder, of the image": [_as_module(model.decoder, "guide")],
    }
    parts |= {name: find(model) for name, find in PARTS.items()}

    seconds: dict[str, list[float]] = defaultdict(list)
    for _ in range(repeats + 1):
        spent: dict[tuple[str, int], float] = defaultdict(float)  # by part and thread

        def enter(name: str, spent: dict[tuple[str, int], float] = spent) -> None:
            spent[name, threading.get_ident()] -= time.perf_counter()

        def leave(name: str, spent: dict[tuple[str, int], float] = spent) -> None:
            spent[name, threading.get_ident()] += time.perf_counter()

        with _watched(parts, enter, leave):
            model(image, text)
        for name in parts:
            of_threads = {thread: value for (part, thread), value in spent.items() if part == name}
            alone = set(of_threads) <= {threading.get_ident()}
            seconds[name].append(sum(of_threads.values()) / (1 if alone else torch.get_num_threads()))

    threads = torch.get_num_threads()
    flops: dict[str, float] = defaultdict(float)
    with FlopCounterMode(display=False, custom_mapping=UNKNOWN_TO_THE_COUNTER) as counter:

        def open_account(name: str) -> None:
            flops[name] -= counter.get_total_flops()

        def close_account(name: str) -> None:
            flops[name] += counter.get_total_flops()

        torch.set_num_threads(1)  # the counter sees its own thread alone
        with _watched(parts, open_account, close_account):
            model(image, text)
        torch.set_num_threads(threads)
    return {name: (statistics.median(seconds[name][1:]), flops[name] / 1e9) for name in parts}


@torch.no_grad()
def main(
    classes: Annotated[int, typer.Option(help=f"one of {', '.join(map(str, VOCABULARIES))}")] = 150,
    repeats: Annotated[int, typer.Option(min=1)] = 3,
    threads: Annotated[int, typer.Option(min=1)] = 2,
) -> None:
    """Print a table of the model's parts."""
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    found = measure(classes, repeats)
    seconds, gflop = found["image encoder"]
    rate = gflop / seconds
    lines = [f"| K = {classes} | time | share | GFLOP | GFLOP/s | of the encoder's |", "|---|---|---|---|---|---|"]
    for name, (taken, work) in found.items():
        share, speed = taken / found["whole"][0], work / taken
        lines.append(f"| {name} | {taken:.3f} s | {share:.0%} | {work:.1f} | {speed:.0f} | {speed / rate:.0%} |")
    typer.echo("\n".join(lines))


if __name__ == "__main__":
    typer.run(main)
