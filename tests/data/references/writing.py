"""Run programs of `tests/oracles` for references, and write references."""

import json
import os
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor

from stemsplit.hub import tensor_bundles, tensorflow_names

HERE = Path(__file__).parent
ORACLES = HERE.parents[1] / "oracles"


def run_program(program: str, variable: str, folder: Path, asked: Mapping[str, Any], mix: Tensor) -> Tensor:
    """Return the stems of a program for a mix, both in its own shape.

    Args:
        program: its file's name.
        variable: environment variable that names its Python.
        folder: for its files.
        asked: its arguments.
        mix: what it separates.
    """
    save_file({"mix": mix}, folder / "asked", {"arguments": json.dumps(asked)})
    command = [os.environ[variable], ORACLES / program, folder / "asked", folder / "answer"]
    subprocess.run(command, check=True)
    return load_file(folder / "answer")["stems"]


def run_tensorflow(program: str, asked: Mapping[str, Any], mix: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """Return the stems of a program of TensorFlow, and the weights of the checkpoint that it leaves."""
    with tempfile.TemporaryDirectory() as folder:
        given = {**asked, "checkpoint": folder}
        stems = run_program(program, "STEMSPLIT_TENSORFLOW", Path(folder), given, mix)
        index = Path(folder) / "model.index"
        return stems, tensorflow_names.named(index, tensor_bundles.read(index))


def write(
    name: str,
    family: str,
    arguments: Mapping[str, Any],
    state: Mapping[str, Tensor],
    mix: Tensor,
    stems: Tensor,
    **more: float,
) -> None:
    """Write a reference: weights by name, the mix [C, T] and its stems [S, C, T].

    `more` may have `overlap`, if the stems were made with another one than the network's own.
    """
    tensors = {f"weights/{key}": value for key, value in state.items()} | {"mix": mix, "stems": stems}
    save_file(
        {key: value.contiguous() for key, value in tensors.items()},
        HERE / f"{name}.safetensors",
        {"family": family, "arguments": json.dumps(arguments)} | {k: str(v) for k, v in more.items()},
    )
