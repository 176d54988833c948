"""Evaluate a row of the plan on all benchmarks in one job, and keep what tables, statistics and figures need."""

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from tqdm import tqdm

from fgaseg.catalogue import ClassEntry
from fgaseg.data.prepared import PreparedDataset, Sample
from fgaseg.data.vocabulary import seen
from fgaseg.errors import UserError
from fgaseg.evaluation.benchmark import Labels, evaluate_samples
from fgaseg.evaluation.counts import Counts, save_counts
from fgaseg.evaluation.pseudo_masks import pseudo_mask_panels
from fgaseg.evaluation.segmenter import DenseCLIPSegmenter, FGAsegSegmenter, Segmenter
from fgaseg.files import atomic_folder, relative, write_json, writing
from fgaseg.loading import load_clip, load_model
from fgaseg.plan import Plan
from fgaseg.provenance import provenance
from fgaseg.rows import Row
from fgaseg.runtime import set_up_torch, suit
from fgaseg.schema import Launch
from fgaseg.tracking import track_job

log = logging.getLogger(__name__)


def make_segmenter(plan: Plan, row: Row, device: torch.device, launch: Launch) -> Segmenter:
    """The trained model of a row, or its untrained dense CLIP."""
    params = row.params
    if row.method == "dense_clip":
        return DenseCLIPSegmenter(load_clip(plan.paths, params.vlm).to(device), params.vlm.architecture, params.vlm.prompts)
    assert row.run_id is not None
    model = load_model(plan.paths, params, plan.paths.run(row.run_id) / "model.safetensors").to(device)
    top_n = params.evaluation.top_n
    return FGAsegSegmenter(
        suit(model, launch, plan.scale), params.vlm.architecture, params.vlm.prompts, params.training.loss, top_n
    )


def _group(iou: np.ndarray[Any, Any], mask: list[bool]) -> dict[str, float | int | None]:
    values = iou[np.array(mask) & ~np.isnan(iou)]
    return {"classes": len(values), "miou": float(values.mean()) if len(values) else None}


def summarise(counts: Counts, dataset: PreparedDataset, is_seen: list[bool], seconds: list[float]) -> dict[str, Any]:
    """The metrics of one benchmark, as they stand in `evaluation.json`."""
    iou, labelled = counts.iou(), counts.totals()[2]
    kinds = [c.kind for c in dataset.classes]
    classes = [
        {"name": c.name, "iou": None if np.isnan(i) else float(i), "pixels": int(n), "seen": s, "kind": c.kind}
        for c, i, n, s in zip(dataset.classes, iou, labelled, is_seen, strict=True)
    ]
    return {
        "images": counts.images,
        "miou": counts.miou(),
        "pixel_accuracy": counts.pixel_accuracy(),
        "seconds_per_image": {"median": float(np.median(seconds)), "mean": float(np.mean(seconds))},
        "groups": {
            "seen": _group(iou, is_seen),
            "unseen": _group(iou, [not s for s in is_seen]),
            "stuff": _group(iou, [k == "stuff" for k in kinds]),
            "thing": _group(iou, [k == "thing" for k in kinds]),
        },
        "classes": classes,
    }


def _keep_panels(
    folder: Path, benchmark: str, limit: int, panels: list[dict[str, str]], classes: Path, bar: "tqdm[None]"
) -> Callable[[Sample, Labels], None]:
    """Keep the predictions of the first `limit` images as 16-bit PNG files, and count all on the bar."""
    kept = 0

    def keep(sample: Sample, predicted: Labels) -> None:
        nonlocal kept
        bar.update()
        if kept >= limit:
            return
        kept += 1
        path = folder / "panels" / benchmark / f"{sample.image.stem}.png"
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(predicted.astype(np.uint16)).save(path)
        panels.append(
            {
                "benchmark": benchmark,
                "image": relative(sample.image, folder),
                "label": relative(sample.label, folder),
                "prediction": str(path.relative_to(folder)),
                "classes": relative(classes, folder),
            }
        )

    return keep


def evaluate_row(plan: Plan, row: Row, launch: Launch) -> Path:
    """Score a row on its benchmarks; returns the path of `evaluation.json`. An earlier one is left until the end."""
    device = set_up_torch(launch.threads)
    params = row.params
    training = PreparedDataset(plan.paths.dataset(params.data.train))
    trained_on = tuple(c.entry for c in training.classes if c.present)
    datasets: dict[str, PreparedDataset] = {
        benchmark: PreparedDataset(plan.paths.dataset(benchmark)) for benchmark in params.data.benchmarks
    }
    images = sum(len(dataset.samples) for dataset in datasets.values())
    segmenter = make_segmenter(plan, row, device, launch)
    folder = plan.paths.evaluation(row.eval_id)
    with atomic_folder(folder) as out, tqdm(total=images, unit="image", ncols=100) as bar:
        _score(plan, row, segmenter, datasets, trained_on, out, bar, max(1, launch.workers))
    track_job(plan, launch, row.run_id or row.eval_id)
    return folder / "evaluation.json"


def _origin(plan: Plan, run_id: str) -> dict[str, Any]:
    """The provenance of a run's weights; `UserError` when its folder does not tell."""
    path = plan.paths.run(run_id) / "params.json"
    try:
        origin: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))["provenance"]
    except (OSError, ValueError, KeyError, TypeError):
        raise UserError(f"{path}: does not tell what trained the weights; run `fgaseg train {run_id}` again") from None
    return origin


def _score(
    plan: Plan,
    row: Row,
    segmenter: Segmenter,
    datasets: dict[str, PreparedDataset],
    trained_on: tuple[ClassEntry, ...],
    out: Path,
    bar: "tqdm[None]",
    workers: int,
) -> None:
    """Write all files of an evaluation to `out`."""
    params = row.params
    origin = None if row.run_id is None else _origin(plan, row.run_id)
    all_counts: dict[str, Counts] = {}
    results: dict[str, Any] = {}
    panels: list[dict[str, str]] = []
    masks: list[dict[str, Any]] = []
    for benchmark, dataset in datasets.items():
        segmenter.set_vocabulary([c.name for c in dataset.classes])
        keep = _keep_panels(out, benchmark, params.evaluation.panels, panels, dataset.folder / "classes.json", bar)
        counts, seconds = evaluate_samples(
            segmenter, dataset.samples, len(dataset.classes), params.evaluation, workers=workers, each=keep
        )
        is_seen = [seen(c.entry, trained_on) for c in dataset.classes]
        results[benchmark] = summarise(counts, dataset, is_seen, seconds)
        all_counts[benchmark] = counts
        if isinstance(segmenter, FGAsegSegmenter) and params.evaluation.panels:
            masks += pseudo_mask_panels(segmenter, dataset, benchmark, params.evaluation, out)
    save_counts(out / "counts.npz", all_counts)
    write_json(out / "panels.json", {"segmentations": panels, "pseudo_masks": masks})
    write_json(
        out / "evaluation.json",
        {
            "eval_id": row.eval_id,
            "run_id": row.run_id,
            "method": row.method,
            "scale": plan.scale,
            "backbone": params.vlm.label,
            "benchmarks": results,
            **provenance(plan),
            "training": origin,
        },
    )
