"""What the sample scenes show: 26 concepts, each with the name that every dataset gives it.

A dataset that has no name for a concept never shows it. `seen` says whether the COCO-Stuff sample, on which
FGAseg is trained, shows the concept; the benchmarks show all that they can name.
"""

from dataclasses import dataclass, field
from typing import Literal

DATASETS = ("coco-stuff", "a-847", "pc-459", "a-150", "pc-59", "pas-20")


@dataclass(frozen=True)
class Concept:
    """One kind of region: `names` maps a dataset to its class name, `place` tells where stuff likes to lie."""

    key: str
    kind: Literal["stuff", "thing"]
    seen: bool
    names: dict[str, str]
    place: Literal["top", "middle", "bottom", "any"] = "any"
    words: tuple[str, ...] = field(default=())

    def all_names(self) -> list[str]:
        """Every name that a caption may use for the concept, without repeats."""
        return list(dict.fromkeys((*self.names.values(), *self.words)))


def _names(coco: str, a847: str = "", pc: str = "", a150: str = "", pc59: str = "", voc: str = "") -> dict[str, str]:
    values = (coco, a847, pc, a150, pc59, voc)
    return {dataset: name for dataset, name in zip(DATASETS, values, strict=True) if name}


CONCEPTS: tuple[Concept, ...] = (
    Concept("sky", "stuff", True, _names("sky-other", "sky", "sky", "sky", "sky"), "top"),
    Concept("water", "stuff", True, _names("water-other", "water", "water", "water", "water"), "bottom"),
    Concept("grass", "stuff", True, _names("grass", "grass", "grass", "grass", "grass"), "bottom", ("lawn",)),
    Concept("road", "stuff", True, _names("road", "road", "road", "road", "road"), "bottom", ("street",)),
    Concept("wall", "stuff", True, _names("wall-brick", "wall", "wall", "wall", "wall"), "top", ("brick wall",)),
    Concept("mountain", "stuff", True, _names("mountain", "mountain", "mountain", "mountain", "mountain"), "middle"),
    Concept("tree", "stuff", True, _names("tree", "tree", "tree", "tree", "tree"), "middle"),
    Concept("floor", "stuff", True, _names("floor-wood", "floor", "floor", "floor", "floor"), "bottom"),
    Concept("sand", "stuff", False, _names("sand", "sand", "sand", "sand"), "bottom", ("beach",)),
    Concept("snow", "stuff", False, _names("snow", "snow", "snow", "", "snow"), "bottom"),
    Concept("rock", "stuff", False, _names("rock", "rock", "rock", "rock", "rock"), "middle", ("boulder",)),
    Concept("fence", "stuff", False, _names("fence", "fence", "fence", "fence", "fence"), "middle", ("picket fence",)),
    Concept("car", "thing", True, _names("car", "car", "car", "car", "car", "car"), words=("automobile",)),
    Concept("boat", "thing", True, _names("boat", "boat", "boat", "boat", "boat", "boat")),
    Concept("chair", "thing", True, _names("chair", "chair", "chair", "chair", "chair", "chair")),
    Concept("person", "thing", True, _names("person", "person", "person", "person", "person", "person"), words=("man",)),
    Concept(
        "tv",
        "thing",
        True,
        _names("tv", "television receiver", "tvmonitor", "television receiver", "tvmonitor", "tvmonitor"),
        words=("television",),
    ),
    Concept("dog", "thing", True, _names("dog", "dog", "dog", "", "dog", "dog"), words=("puppy",)),
    Concept("cow", "thing", True, _names("cow", "", "cow", "", "cow", "cow")),
    Concept(
        "bicycle", "thing", True, _names("bicycle", "bicycle", "bicycle", "bicycle", "bicycle", "bicycle"), words=("bike",)
    ),
    Concept(
        "airplane",
        "thing",
        False,
        _names("airplane", "airplane", "aeroplane", "airplane", "aeroplane", "aeroplane"),
        words=("plane",),
    ),
    Concept("bus", "thing", False, _names("bus", "bus", "bus", "bus", "bus", "bus"), words=("coach",)),
    Concept("sofa", "thing", False, _names("couch", "sofa", "sofa", "sofa", "sofa", "sofa")),
    Concept("train", "thing", False, _names("train", "train", "train", "", "train", "train"), words=("locomotive",)),
    Concept("horse", "thing", False, _names("horse", "horse", "horse", "", "horse", "horse"), words=("pony",)),
    Concept("sheep", "thing", False, _names("sheep", "", "sheep", "", "sheep", "sheep"), words=("lamb",)),
)


def shown_in(dataset: str) -> list[Concept]:
    """The concepts that scenes of `dataset` may show: all that it can name, but only seen ones in the training set.

    PAS-20 names no stuff: its scenes show stuff all the same, labelled as background.
    """
    if dataset == "coco-stuff":
        return [c for c in CONCEPTS if c.seen]
    if dataset == "pas-20":
        return [c for c in CONCEPTS if c.kind == "stuff" or dataset in c.names]
    return [c for c in CONCEPTS if dataset in c.names]
