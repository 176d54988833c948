"""Time per image of a table's rows, measured side by side in one process (Table VI)."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fgaseg.data.prepared import PreparedDataset, Sample
from fgaseg.errors import UserError
from fgaseg.evaluation.benchmark import segment
from fgaseg.evaluation.run import make_segmenter
from fgaseg.evaluation.segmenter import FGAsegSegmenter
from fgaseg.files import write_json
from fgaseg.plan import Plan
from fgaseg.provenance import provenance
from fgaseg.rows import Table
from fgaseg.runtime import set_up_torch
from fgaseg.schema import Launch, Timing


@dataclass
class _Variant:
    """One way to run the trained model; of its row, or of no row: all classes kept, the reference of the speed-up."""

    eval_id: str | None
    top_n: int | None
    milliseconds: list[float] = field(default_factory=list)
    kept: list[tuple[int, ...]] = field(default_factory=list)

    def measure(self, segmenter: FGAsegSegmenter, sample: Sample, params: Any, warm: bool) -> None:
        """Segment one image, and count it unless it only warms up."""
        segmenter.top_n = self.top_n
        start = time.perf_counter()
        segment(segmenter, sample.read_image(), params)
        if segmenter.device.type == "cuda":
            torch.cuda.synchronize()
        if not warm:
            self.milliseconds.append(1000 * (time.perf_counter() - start))
            self.kept.append(segmenter.kept)


def _rounds(variants: Sequence[_Variant], repeats: int) -> list[list[_Variant]]:
    """The variants once for each repeat, each time beginning with another: a slow moment hits all of them alike."""
    return [[*variants[i % len(variants) :], *variants[: i % len(variants)]] for i in range(repeats)]


def _time_benchmark(
    segmenter: FGAsegSegmenter, dataset: PreparedDataset, table: Table, how: Timing
) -> list[tuple[_Variant, dict[str, Any]]]:
    segmenter.set_vocabulary([c.name for c in dataset.classes])
    variants = [_Variant(row.eval_id, row.params.evaluation.top_n) for row in table.rows] + [_Variant(None, None)]
    samples, params = list(dataset.samples[: how.images]), table.rows[0].params.evaluation
    for sample in (samples * how.warm_up)[: how.warm_up]:
        for variant in variants:
            variant.measure(segmenter, sample, params, warm=True)
    for sample in samples:
        for order in _rounds(variants, how.repeats):
            for variant in order:
                variant.measure(segmenter, sample, params, warm=False)
    return [
        (
            variant,
            {
                "classes": len(dataset.classes),
                "images": len(samples),
                "milliseconds": [round(ms, 2) for ms in variant.milliseconds],
                "kept": np.mean(variant.kept, axis=0).round(2).tolist(),
            },
        )
        for variant in variants
    ]


def time_table(plan: Plan, key: str, launch: Launch) -> Path:
    """Time the rows of a table that differ in top-N alone, one image at a time; returns the file of the times.

    A time goes from the image's file to the label map of its own size. Raises `UserError` for a table of another kind.
    """
    if key not in plan.tables:
        raise UserError(f"table '{key}' is unknown; params/tables has {', '.join(plan.tables)}")
    table = plan.tables[key]
    if not table.timed:
        raise UserError(f"table '{key}': only rows that differ in evaluation.top_n alone are timed, such as those of table_6")
    segmenter = make_segmenter(plan, table.rows[0], set_up_torch(launch.threads), launch)
    assert isinstance(segmenter, FGAsegSegmenter)
    rows: dict[str | None, dict[str, Any]] = {}
    for benchmark in table.rows[0].params.data.benchmarks:
        dataset = PreparedDataset(plan.paths.dataset(benchmark))
        for variant, measured in _time_benchmark(segmenter, dataset, table, launch.timing):
            row = rows.setdefault(variant.eval_id, {"eval_id": variant.eval_id, "top_n": variant.top_n, "benchmarks": {}})
            row["benchmarks"][benchmark] = measured
    path = plan.paths.timing(key)
    how = {"device": segmenter.device.type, "threads": launch.threads, **launch.timing.model_dump()}
    write_json(path, {"table": key, "run_id": table.rows[0].run_id, **how, "rows": list(rows.values()), **provenance(plan)})
    return path
