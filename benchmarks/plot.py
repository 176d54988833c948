"""`python -m benchmarks.plot FIGURE.png RESULTS.json...`: the cost of one crop against the number of classes."""

import json
import re
from collections import defaultdict
from pathlib import Path
from typing import Annotated

import typer

SHOWN = {"plain": "reference", "fast": "fgaseg", **{f"top-{n}": f"fgaseg, fast decoder, N = {n}" for n in (16, 8, 1)}}


def main(
    figure: Annotated[Path, typer.Argument(help="PNG file to write")],
    results: Annotated[list[Path], typer.Argument(exists=True, help="what `python -m benchmarks 'crop*' --json` wrote")],
    allocator: str = "default",
) -> None:
    """Draw time and peak memory against K."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    lines: dict[str, list[tuple[int, float, float]]] = defaultdict(list)
    for one in (one for path in results for one in json.loads(path.read_text(encoding="utf-8"))["measurements"]):
        found = re.fullmatch(r"crop-(\d+)-(.+)", one["name"])
        if found and one["allocator"] == allocator and one["seconds"] and found[2] in SHOWN:
            lines[found[2]].append((int(found[1]), one["median_seconds"], max(one["peak_gib"])))
    drawing, (left, right) = plt.subplots(1, 2, figsize=(10, 3.2), layout="constrained")
    for name, label in SHOWN.items():
        if name in lines:
            classes, seconds, peak = zip(*sorted(lines[name]), strict=True)
            for axes, values in ((left, seconds), (right, peak)):
                axes.plot(
                    classes, values, marker="o", markersize=3.5, label=label, linestyle="-" if len(classes) > 1 else "none"
                )
    for axes, label in ((left, "seconds"), (right, "peak memory, GiB")):
        axes.set(xlabel="classes K", ylabel=label, ylim=(0, None))
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
        axes.axvline(256, color="grey", linewidth=0.8, linestyle=":")
    left.annotate("cap: 256", (256, 0), xytext=(4, 4), textcoords="offset points", color="grey", fontsize=8)
    handles, names = left.get_legend_handles_labels()
    drawing.legend(handles, names, loc="outside right center", frameon=False, fontsize=8)
    drawing.suptitle("One 384 x 384 crop, ViT-B/16, 2 cores", fontsize=10)
    drawing.savefig(figure, dpi=150)


if __name__ == "__main__":
    typer.run(main)
