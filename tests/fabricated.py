"""Evaluations on disk as the evaluation writes them, of made-up pixels: what tables and `fgaseg show` read."""

import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fgaseg.plan import Plan
from fgaseg.provenance import code_fingerprint
from fgaseg.reporting import layout
from fgaseg.reporting.webpage import fragment
from fgaseg.rows import Replica, Row

NAMES = ["sky", "grass", "car", "sheep", "unused"]
SEEN = [True, True, True, False, False]
KINDS = ["stuff", "stuff", "thing", "thing", "thing"]
IMAGES = 12


def confusion(errors: float, benchmark: int, noise: int = 0) -> np.ndarray:
    """(images, class of the label, class of the prediction): pixels of made-up images; `errors` is the rate, `noise` which."""
    labelled = np.random.default_rng(benchmark).integers(200, 900, (IMAGES, 4))
    shares = np.random.default_rng([benchmark, 1, noise]).uniform(0.2, 1.0, (IMAGES, 4)) * errors
    result = np.zeros((IMAGES, 5, 5), np.int64)
    for k in range(4):
        wrong = (labelled[:, k] * shares[:, k]).astype(np.int64)
        result[:, k, k], result[:, k, (k + 1) % 4] = labelled[:, k] - wrong, wrong
    return result


def origin(plan: Plan, **changes: Any) -> dict[str, Any]:
    """A provenance block of the present plan, with `changes`."""
    revision = plan.default.revision.model_dump()
    return {
        "git_commit": "0" * 40,
        "code": code_fingerprint(),
        "data_digest": plan.digest,
        "revision": revision,
        "packages": {"numpy": np.__version__},
    } | changes


def write_evaluation(plan: Plan, row: Row | Replica, errors: float, noise: int = 0, **changes: Any) -> Path:
    """An evaluation's folder as the evaluation writes it; `changes` replace keys of evaluation.json.

    The rate of errors decides the scores: rows of the same rate have the same, to the last digit.
    """
    folder = plan.paths.evaluation(changes.pop("folder", row.eval_id))
    folder.mkdir(parents=True)
    benchmarks: dict[str, Any] = {}
    arrays: dict[str, Any] = {}
    for i, benchmark in enumerate(row.params.data.benchmarks):
        pixels = confusion(errors, i, noise)
        hit, predicted, labelled = np.diagonal(pixels, axis1=1, axis2=2), pixels.sum(1), pixels.sum(2)
        image, cls = np.nonzero(predicted + labelled)
        columns = {"image": image.astype(np.int32), "class": cls.astype(np.int32)}
        columns |= {"intersection": hit[image, cls], "predicted": predicted[image, cls], "labelled": labelled[image, cls]}
        arrays |= {f"{benchmark}/{key}": value for key, value in columns.items()}
        iou = [
            float(hit[:, k].sum() / (predicted + labelled - hit)[:, k].sum()) if labelled[:, k].any() else None
            for k in range(5)
        ]
        known = [value for value in iou if value is not None]
        described = zip(NAMES, iou, labelled.sum(0).tolist(), SEEN, KINDS, strict=True)
        benchmarks[benchmark] = {
            "images": IMAGES,
            "miou": sum(known) / len(known),
            "pixel_accuracy": float(hit.sum() / labelled.sum()),
            "seconds_per_image": {"median": 0.1, "mean": 0.1},
            "groups": {},
            "classes": [{"name": n, "iou": v, "pixels": p, "seen": s, "kind": k} for n, v, p, s, k in described],
        }
    content = {
        "eval_id": folder.name,
        "run_id": row.run_id,
        "method": "fgaseg" if row.run_id else "dense_clip",
        "scale": plan.scale,
        "backbone": row.params.vlm.label,
        "benchmarks": benchmarks,
        "provenance": origin(plan),
        "training": origin(plan) if row.run_id else None,
    }
    (folder / "evaluation.json").write_text(json.dumps(content | changes))
    np.savez_compressed(folder / "counts.npz", **arrays)
    return folder


def write_main_rows(plan: Plan) -> tuple[Path, Path]:
    dense, ours = plan.main_rows
    return write_evaluation(plan, dense, 0.8), write_evaluation(plan, ours, 0.4)


def tidy(path: Path) -> list[dict[str, str]]:
    """The lines of a CSV file."""
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def written(out: Path, key: str, tables: Sequence[layout.Table]) -> dict[str, str]:
    """What a person reads of one file of tables: as Markdown, as LaTeX, and as it stands in the page."""
    parts = [table for table in tables if table.key.startswith(key)]
    return {kind: (out / f"{key}.{kind}").read_text() for kind in ("md", "tex")} | {"html": "\n".join(map(fragment, parts))}
