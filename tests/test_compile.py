"""`compile` in params/launch.yaml: a block gives the same, with a compiler and without one."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

# In a process of its own: what compilation is told to do about its failures holds for a whole process.
PROGRAM = """
import sys

import torch
from torch._dynamo.utils import counters

from fgaseg.model.aggregation import GuidedSwinBlock
from fgaseg.runtime import compile_parts

torch.set_num_threads(1)
torch.manual_seed(0)
block = GuidedSwinBlock(16, 8, 2, 4, int(sys.argv[1]), 2).eval()
maps, guidance = torch.randn(1, 3, 8, 8, 16), torch.randn(1, 8, 8, 8)
with torch.no_grad():
    plain = block(maps, block.guide(guidance))
    compile_parts(block)
    compiled = block(maps, block.guide(guidance))
torch.testing.assert_close(compiled, plain, rtol=1e-4, atol=1e-5)
print(counters["stats"]["unique_graphs"])
"""


@pytest.mark.parametrize("shift", ["0", "2"])
@pytest.mark.parametrize("compiler", ["c++", "false"], ids=["with a compiler", "with a broken one"])
def test_a_compiled_block_gives_what_the_plain_one_gives(compiler: str, shift: str, tmp_path: Path, project_root: Path) -> None:
    environment = os.environ | {"CXX": compiler, "TORCHINDUCTOR_CACHE_DIR": str(tmp_path), "PYTHONPATH": str(project_root)}
    done = subprocess.run([sys.executable, "-c", PROGRAM, shift], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert bool(list(tmp_path.rglob("*.so"))) == (compiler == "c++")
    assert int(done.stdout) > 0
