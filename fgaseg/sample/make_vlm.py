"""The target that makes the small CLIP: pre-train, measure, write."""

from pathlib import Path

import torch
from tqdm import tqdm

from fgaseg.data.classes import class_table
from fgaseg.files import write_json
from fgaseg.model.clip import DenseCLIP
from fgaseg.model.prompts import tokenizer
from fgaseg.model.weights import save_compact
from fgaseg.sample.concepts import CONCEPTS, DATASETS
from fgaseg.sample.vlm import ARCHITECTURE, STEPS, TEMPLATES, draw_scenes, pretrain
from fgaseg.sample.vlm_quality import dense_quality, retrieval
from fgaseg.schema import Params

HELD_OUT_SEED = 1_000_003


def trained_tokens() -> list[int]:
    """Ids of all tokens that a caption of pre-training may hold."""
    encode = tokenizer(ARCHITECTURE)
    names = {name for c in CONCEPTS for name in c.all_names()} | {e.name for d in DATASETS for e in class_table(d)}
    texts = [*names, *(t.format("") for t in TEMPLATES), ", and", "a, b"]
    return sorted({int(i) for i in encode(texts).unique()})


def make_vlm(params: Params, out: Path, steps: int = STEPS, threads: int = 2) -> dict[str, object]:
    """Pre-train the small CLIP, write its compact weights to `out` and what was measured beside it, as JSON."""
    torch.set_num_threads(threads)
    bar = tqdm(total=steps, unit="it", mininterval=5.0, ncols=100)
    for _step, loss, trained in pretrain(steps=steps):
        bar.update()
        bar.set_postfix(loss=f"{loss:.3f}", refresh=False)
        model = trained
    bar.close()
    model.eval()
    save_compact(model.state_dict(), trained_tokens(), out)
    found = retrieval(model, draw_scenes(200, HELD_OUT_SEED))
    clip = DenseCLIP(model, params.vlm.image_size, params.vlm.guidance_layers, params.vlm.dense_residual)
    dense = dense_quality(clip, draw_scenes(60, HELD_OUT_SEED), params.evaluation, params.vlm.prompts)
    report: dict[str, object] = {"steps": steps, "recall_at_1": found, "dense_miou": dense}
    write_json(out.with_suffix(".json"), report)
    return report
