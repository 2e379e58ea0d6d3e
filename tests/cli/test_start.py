"""The command's start does only what the first chunk needs; `tests.benchmarks` has its seconds."""

import subprocess
import sys
from pathlib import Path

import pytest

from stemsplit.hub.checkpoints import save_package
from stemsplit.models import build
from tests.cli.conftest import Shell, environment
from tests.models.test_contract import HTDEMUCS

# Parts of torch that some of its functions import at their first call, and packages for other inputs
LATE = {"torch._dynamo", "torch._inductor", "torch.distributed.fsdp", "sympy"}
OTHERS = {"fsspec", "h5py", "huggingface_hub", "onnx", "stemsplit.evaluation", "stemsplit.training"}
CODE = """
import gc, sys
from stemsplit.cli.main import run
try:
    run(sys.argv[1:])
finally:
    print(*sys.modules)
    print(gc.isenabled(), gc.get_freeze_count())
"""


@pytest.mark.slow
def test_nothing_more_is_imported_and_no_garbage_sought_in_it(shell: Shell, tmp_path: Path) -> None:
    save_package(tmp_path / "model.safetensors", build("htdemucs", HTDEMUCS))
    song = shell.write("song.wav")
    line = [sys.executable, "-c", CODE, song, "-m", "model.safetensors", "-d", "cpu"]
    done = subprocess.run(
        line, cwd=tmp_path, env=environment(tmp_path), capture_output=True, text=True, check=True
    )
    modules, collector = done.stdout.splitlines()[-2:]
    assert "torch" in modules.split()
    assert set(modules.split()) & (LATE | OTHERS) == set()
    enabled, frozen = collector.split()
    assert enabled == "True" and int(frozen) > 100_000
