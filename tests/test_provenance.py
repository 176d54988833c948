"""What the fingerprint of the code knows, and what it leaves out on purpose."""

import subprocess
import sys
from pathlib import Path

from fgaseg.provenance import code_fingerprint

ROOT = Path(__file__).parents[1]

UNDECISIVE = {
    *("catalogue", "errors", "files", "identity", "params", "paths", "plan", "provenance", "rows", "schema"),
    *("evaluation", "evaluation.pseudo_masks", "training", "training.interruption", "training.metrics", "training.starts"),
    *("tracking", "tracking.experiment", "tracking.live", "tracking.records", "tracking.store"),
}
"""What trainings and evaluations import without a say in their weights and scores, or with one that ids know."""

_IMPORTED = """
import sys
import fgaseg.evaluation.run, fgaseg.training.run
print(*(name.removeprefix("fgaseg.") for name in sys.modules if name.startswith("fgaseg.")))
"""


def test_every_module_of_a_training_and_an_evaluation_is_fingerprinted_or_left_out_on_purpose(tmp_path: Path) -> None:
    names = subprocess.run([sys.executable, "-c", _IMPORTED], capture_output=True, text=True, check=True).stdout.split()
    sources = {name: ROOT / "fgaseg" / f"{name.replace('.', '/')}.py" for name in names}
    sources |= {name: path.with_suffix("") / "__init__.py" for name, path in sources.items() if not path.exists()}
    for path in sources.values():
        copy = tmp_path / path.relative_to(ROOT)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(path.read_bytes())
    before, ignored = code_fingerprint.__wrapped__(tmp_path / "fgaseg"), set()
    for name, path in sources.items():
        copy = tmp_path / path.relative_to(ROOT)
        copy.write_bytes(path.read_bytes() + b"# changed")
        if code_fingerprint.__wrapped__(tmp_path / "fgaseg") == before:
            ignored.add(name)
        copy.write_bytes(path.read_bytes())
    assert ignored == UNDECISIVE
