"""What the tests of the model, the training and the evaluation share: the sample scale's parameters and a small model."""

import copy
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
from project import Project, finish_project, write_project
from server import BIN, serving

from fgaseg.model.clip import DenseCLIP, create_open_clip
from fgaseg.model.fgaseg import FGAseg, build
from fgaseg.params import Resolver
from fgaseg.schema import Params


@pytest.fixture(scope="session")
def project_root() -> Path:
    return Path(__file__).parents[1]


@pytest.fixture(scope="session")
def resolve(project_root: Path) -> Callable[[Mapping[str, Any]], Params]:
    """The sample scale's parameters with a few dotted keys changed."""
    resolver = Resolver(project_root, "sample")
    return lambda delta: resolver.resolve(delta, "test")


@pytest.fixture(scope="session")
def sample_params(resolve: Callable[[Mapping[str, Any]], Params]) -> Params:
    return resolve({})


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Tiny tensors are slower on several threads than on one."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def float64_default() -> Iterator[None]:
    """New tensors are float64, so that constants made inside a forward pass are as exact as the weights."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.fixture(scope="session")
def mini_clip() -> open_clip.CLIP:
    """The sample scale's CLIP with random weights. To be copied, not changed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return create_open_clip("fgaseg-mini", None)


@pytest.fixture(scope="session")
def build_model(mini_clip: open_clip.CLIP) -> Callable[..., FGAseg]:
    """FGAseg with given parameters around a copy of the small CLIP, the same weights for the same seed."""

    def make(params: Params, seed: int = 1) -> FGAseg:
        vlm = params.vlm
        clip = DenseCLIP(copy.deepcopy(mini_clip), vlm.image_size, vlm.guidance_layers, vlm.dense_residual)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return build(clip, params)

    return make


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A throw-away project whose main job is done: prepared, trained, evaluated. To be copied, not changed."""
    project = write_project(tmp_path_factory.mktemp("finished"))
    finish_project(project)
    return project


@pytest.fixture
def project(finished: Project, tmp_path: Path) -> Project:
    """A copy of the finished project, to be changed."""
    return finished.copy(tmp_path / "project")


@pytest.fixture
def run(project: Project) -> str:
    """The folder of the finished project's trained run, from its root."""
    return f"results/sample/runs/{project.ids('table_1', 2)[0]}"


@pytest.fixture(scope="session")
def exported(finished: Project, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The finished project's default model as `fgaseg export` writes it."""
    folder = tmp_path_factory.mktemp("exported") / "model"
    result = finished.run("export", "main", folder)
    assert (result.status, result.errors) == (0, []), result.err
    return folder


@pytest.fixture(scope="session")
def guarded(exported: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of `fgaseg serve` with it, run in a folder that is no project."""
    with serving(tmp_path_factory.mktemp("elsewhere"), str(BIN / "fgaseg"), "serve", str(exported), "--port") as address:
        yield f"{address}/invocations"


@pytest.fixture
def tiny_model(build_model: Callable[..., FGAseg], sample_params: Params) -> FGAseg:
    """FGAseg at the sample scale with random weights, in training mode."""
    return build_model(sample_params)
