"""How good the small CLIP is on held-out scenes: retrieval of captions, and dense segmentation without any training."""

from collections.abc import Sequence

import numpy as np
import open_clip
import torch
from PIL import Image
from torch import Tensor

from fgaseg.data.pixels import normalise
from fgaseg.evaluation.benchmark import segment
from fgaseg.evaluation.counts import Counts
from fgaseg.evaluation.segmenter import DenseCLIPSegmenter
from fgaseg.model.clip import DenseCLIP
from fgaseg.model.prompts import tokenizer
from fgaseg.sample.concepts import CONCEPTS
from fgaseg.sample.scenes import Scene
from fgaseg.sample.vlm import ARCHITECTURE, caption
from fgaseg.schema import Evaluation


@torch.no_grad()
def retrieval(model: open_clip.CLIP, scenes: Sequence[Scene], seed: int = 0) -> dict[str, float]:
    """Recall at 1 of finding each scene's caption among all captions, and the reverse, in [0, 1].

    A caption that equals another scene's counts as found when either is.
    """
    rng = np.random.default_rng(seed)
    texts = [caption(scene.present(), rng) for scene in scenes]
    size = model.visual.image_size[0]
    pictures = [np.asarray(Image.fromarray(s.image).resize((size, size), Image.Resampling.BILINEAR)) for s in scenes]
    images = normalise(torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2))
    similarity = (
        model.encode_image(images, normalize=True) @ model.encode_text(tokenizer(ARCHITECTURE)(texts), normalize=True).T
    )

    def recall(scores: Tensor) -> float:
        return float(np.mean([texts[int(best)] == texts[i] for i, best in enumerate(scores.argmax(1))]))

    return {"image_to_text": recall(similarity), "text_to_image": recall(similarity.T), "captions": len(texts)}


def dense_quality(clip: DenseCLIP, scenes: Sequence[Scene], params: Evaluation, prompts: Sequence[str]) -> dict[str, float]:
    """mIoU in [0, 1] of dense CLIP over all concepts, over stuff and things, and over seen and unseen ones."""
    segmenter = DenseCLIPSegmenter(clip, ARCHITECTURE, prompts)
    segmenter.set_vocabulary([concept.names["coco-stuff"] for concept in CONCEPTS])
    counts = Counts(len(CONCEPTS))
    for scene in scenes:
        counts.add(segment(segmenter, Image.fromarray(scene.image), params), scene.labels.astype(np.int64))
    iou = counts.iou()
    groups = {
        "all": [True for _ in CONCEPTS],
        "stuff": [c.kind == "stuff" for c in CONCEPTS],
        "things": [c.kind == "thing" for c in CONCEPTS],
        "seen": [c.seen for c in CONCEPTS],
        "unseen": [not c.seen for c in CONCEPTS],
    }
    labelled = counts.totals()[2]
    chance = float(np.mean([share / (1 + share * (len(CONCEPTS) - 1)) for share in labelled / labelled.sum()]))
    return {**{name: float(np.nanmean(iou[np.array(mask)])) for name, mask in groups.items()}, "chance": chance}
