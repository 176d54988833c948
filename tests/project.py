"""A throw-away project of the sample scale: all of the real one's parameters and rules, few pictures, three iterations.

Commands run as a user types them. `Project.run` starts the installed `fgaseg`; `Project.quick` runs its entry point in a
fork of a process that has imported torch already, which saves the six seconds that the import takes.
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from multiprocessing import get_context
from pathlib import Path

import torch

from fgaseg.model.clip import create_open_clip
from fgaseg.model.weights import save_compact
from fgaseg.paths import Paths
from fgaseg.plan import Plan
from fgaseg.sample.datasets import MINIATURES, write_sample
from fgaseg.schema import Scale

DATASETS = ("coco-stuff-train", "coco-stuff-val", "a-847", "pc-459", "a-150", "pc-59", "pas-20")
ITERATIONS = 3
PICTURES = 3
VLM = "data/sample/vlm/fgaseg-mini.safetensors"

PROJECT_FOLDERS = ("params", "profiles", "slurm", "workflow")
PROJECT_FILES = ("Snakefile", "data.dvc", "environment.yml")

_REAL = Path(__file__).parents[1]
_COMMAND = Path(sys.executable).parent / "fgaseg"
_LOG_LINE = re.compile(r"(INFO|WARNING): ")
_PROGRESS = re.compile(r"^\s*\d+%\|")

_forks = get_context("forkserver")
_forks.set_forkserver_preload(["fgaseg.cli", "fgaseg.predict", "fgaseg.evaluation.run", "fgaseg.data.prepare"])


@dataclass(frozen=True)
class Result:
    """How a command ended; `errors` are the lines on standard error without progress bars and log lines."""

    status: int
    out: str
    err: str

    @property
    def errors(self) -> list[str]:
        lines = [line for line in re.split(r"[\r\n]+", self.err) if line.strip()]
        return [line for line in lines if not _LOG_LINE.match(line) and not _PROGRESS.match(line)]


def _link_or_copy(source: str, target: str) -> None:
    """A hard link, or a copy of a file that commands change in place."""
    if Path(source).suffix in (".db", ".jsonl"):
        shutil.copy(source, target)
    else:
        os.link(source, target)


def _command(arguments: Sequence[str], folder: Path, out: Path, err: Path) -> None:
    """In the fork: what the script `fgaseg` does."""
    for path, descriptor in ((out, 1), (err, 2)):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), descriptor)
    os.chdir(folder)
    sys.argv = ["fgaseg", *arguments]
    from fgaseg.cli import main

    main()


@dataclass(frozen=True)
class Project:
    """A project's root folder, the scale that is worked at, and the commands there."""

    root: Path
    scale: Scale = "sample"

    def run(self, *arguments: str | Path) -> Result:
        """The installed command."""
        line = [str(_COMMAND), *map(str, arguments)]
        done = subprocess.run(line, cwd=self.root, capture_output=True, text=True, check=False)
        return Result(done.returncode, done.stdout, done.stderr)

    def quick(self, *arguments: str | Path) -> Result:
        """The command's entry point, in a fork that need not import torch."""
        with tempfile.TemporaryDirectory() as folder:
            out, err = Path(folder, "out"), Path(folder, "err")
            process = _forks.Process(target=_command, args=([*map(str, arguments)], self.root, out, err))
            process.start()
            process.join()
            return Result(process.exitcode or 0, out.read_text(), err.read_text())

    def succeed(self, *arguments: str | Path) -> Result:
        """A quick command that must end well."""
        result = self.quick(*arguments)
        assert result.status == 0, result.err
        return result

    def refusal(self, *arguments: str | Path) -> str:
        """The one line with which a quick command refuses; no file is new, changed or gone afterwards."""
        before = self.files()
        message = self.one_line(self.quick(*arguments))
        assert self.files() == before
        return message

    @staticmethod
    def one_line(result: Result) -> str:
        """The message of a command that failed: one line for a person, no stack trace, an exit status other than 0."""
        assert result.status != 0, result.out
        assert "Traceback" not in result.err, result.err
        assert len(result.errors) == 1, result.err
        assert result.errors[0].startswith("fgaseg: "), result.err
        return result.errors[0].removeprefix("fgaseg: ")

    def files(self) -> dict[str, str]:
        """Every file below the root with its digest."""
        found = sorted(path for path in self.root.rglob("*") if path.is_file())
        return {str(path.relative_to(self.root)): sha256(path.read_bytes()).hexdigest() for path in found}

    def copy(self, to: Path) -> "Project":
        """A project of its own, quickly: files are linked, so write to them with `write` and `edit` alone."""
        return Project(shutil.copytree(self.root, to, copy_function=_link_or_copy), self.scale)

    def write(self, file: str | Path, content: str | bytes) -> None:
        """A new file in the place of an old one."""
        path = self.root / file
        path.unlink(missing_ok=True)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)

    def edit(self, file: str | Path, old: str, new: str) -> None:
        """Replace the one occurrence of `old` in a file of the project."""
        text = (self.root / file).read_text()
        assert text.count(old) == 1, f"{old!r} occurs {text.count(old)} times in {file}"
        self.write(file, text.replace(old, new))

    def truncate(self, file: str | Path) -> None:
        """Cut a file in half."""
        content = (self.root / file).read_bytes()
        self.write(file, content[: len(content) // 2])

    def remove(self, path: str | Path) -> None:
        """Remove a file or folder."""
        whole = self.root / path
        if whole.is_dir():
            shutil.rmtree(whole)
        else:
            whole.unlink()

    @property
    def results(self) -> Path:
        return self.root / "results" / self.scale

    def _paths(self) -> Paths:
        return Plan(self.root, self.scale).paths

    def dataset(self, name: str) -> str:
        """The folder of a prepared dataset, from the root."""
        return str(self._paths().dataset(name).relative_to(self.root))

    def backbone(self) -> str:
        """The file of the default backbone's weights, from the root."""
        return str(self._paths().vlm("base").relative_to(self.root))

    def ids(self, table: str, row: int) -> tuple[str, str]:
        """Run and evaluation id of a table's row, as `fgaseg show` prints them."""
        lines = [line.split() for line in self.succeed("show", table, "--scale", self.scale).out.splitlines()]
        found = next(words for words in lines if words and words[0] == str(row))
        return found[1], found[2]


def assert_says(message: str, *words: str) -> None:
    """The message holds all of the words."""
    assert [word for word in words if word not in message] == [], message


def write_project(root: Path) -> Project:
    """The parameters and rules of the real project, small raw data, and the shipped CLIP (random weights where it is not)."""
    for folder in PROJECT_FOLDERS:
        shutil.copytree(_REAL / folder, root / folder)
    for file in PROJECT_FILES:
        shutil.copy(_REAL / file, root)
    project = Project(root)
    scale = "params/scale/sample.yaml"
    project.edit(scale, "training.iterations: 100", f"training.iterations: {ITERATIONS}")
    project.edit(scale, "training.validate_every: 25", f"training.validate_every: {ITERATIONS}")
    project.edit(scale, "evaluation.panels: 3", f"evaluation.panels: {PICTURES}")
    project.edit("params/launch.yaml", "sample: 20", "sample: 0")
    project.edit("params/launch.yaml", "log_every: 10", "log_every: 1")
    write_sample(root / "data" / "sample", counts=dict.fromkeys(MINIATURES, PICTURES) | {"coco-train": 8})
    weights = root / VLM
    weights.parent.mkdir()
    if (_REAL / VLM).exists():
        shutil.copy(_REAL / VLM, weights)
    else:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            save_compact(create_open_clip("fgaseg-mini", None).state_dict(), [*range(1000), 49406, 49407], weights)
    return project


def finish_project(project: Project) -> None:
    """Prepare, train and evaluate the main job's rows."""
    run, ours = project.ids("table_1", 2)
    _, dense = project.ids("table_1", 1)
    steps = [
        *(("prepare", name) for name in DATASETS),
        ("vlm", "base"),
        ("train", run),
        ("evaluate", ours),
        ("evaluate", dense),
    ]
    for step in steps:
        project.succeed(*step)
