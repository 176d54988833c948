"""The study at the paper's scale, dry: its parameters and rules, a few drawn photographs as large as the real ones.

    python tests/paper_scale.py FOLDER --iterations 2 --batch 1

writes such a project to FOLDER. There every command is that of a real study, with `--scale paper` or `scale=paper`. CLIP has
random weights unless `--weights openai` leaves the real ones to be fetched.
"""

import argparse
import shutil
from pathlib import Path

import open_clip
import torch
from project import PROJECT_FILES, PROJECT_FOLDERS, Project

from fgaseg.params import read_yaml
from fgaseg.sample.datasets import MINIATURES, write_sample

PHOTOGRAPHS = 1
PATHS = {"base": "weights/base.pt", "large": "weights/large.pt"}

_REAL = Path(__file__).parents[1]
_SCALE = "params/scale/paper.yaml"
_SETTINGS = """set:
  training.iterations: {iterations}
  training.validate_every: {iterations}
  training.global_batch: {batch}
"""


def write_dry_project(root: Path, iterations: int = 2, batch: int = 1, photographs: int = PHOTOGRAPHS) -> Project:
    """A project at the paper's scale with raw data for all seven datasets.

    Nothing but the length and the batch of trainings differs from the real parameters.
    """
    for folder in PROJECT_FOLDERS:
        shutil.copytree(_REAL / folder, root / folder)
    for file in PROJECT_FILES:
        shutil.copy(_REAL / file, root)
    project = Project(root, "paper")
    text = (root / _SCALE).read_text()
    project.write(_SCALE, text + _SETTINGS.format(iterations=iterations, batch=batch))
    counts = dict.fromkeys(MINIATURES, photographs)
    write_sample(root / "data" / "paper", counts=counts | {"coco-train": max(2, batch)}, sizes="published")
    return project


def name_weights(project: Project) -> None:
    """Let each backbone take its weights from its file of `PATHS`."""
    head, *parts = (project.root / _SCALE).read_text().split("    pretrained: openai\n")
    names = list(read_yaml(project.root / _SCALE)["backbones"])
    named = [f"    pretrained: {PATHS[name]}\n{part}" for name, part in zip(names, parts, strict=True)]
    project.write(_SCALE, head + "".join(named))


def write_weights(project: Project, backbone: str, seed: int = 0) -> None:
    """Random weights of a backbone, in half precision as OpenAI published its own."""
    architecture = read_yaml(project.root / _SCALE)["backbones"][backbone]["architecture"]
    path = project.root / PATHS[backbone]
    path.parent.mkdir(exist_ok=True)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        state = open_clip.create_model(architecture).state_dict()
    torch.save({name: value.half() if value.is_floating_point() else value for name, value in state.items()}, path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--iterations", type=int, default=2)
    parser.add_argument(
        "--batch", type=int, default=1, help="images of an iteration: a multiple of the processes of a training"
    )
    parser.add_argument("--photographs", type=int, default=PHOTOGRAPHS, help="of each dataset")
    parser.add_argument("--weights", choices=("random", "openai"), default="random")
    chosen = parser.parse_args()
    project = write_dry_project(chosen.folder, chosen.iterations, chosen.batch, chosen.photographs)
    if chosen.weights == "random":
        name_weights(project)
        for backbone in PATHS:
            write_weights(project, backbone)


if __name__ == "__main__":
    main()
