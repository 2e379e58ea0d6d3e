"""Write the references of the first Wave-U-Net: weights, a track, and what TensorFlow makes of it.

`STEMSPLIT_TENSORFLOW=PYTHON python -m tests.data.references.make_first_wave_u_net`
"""

import json
import os
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file

from stemsplit.hub import tensor_bundles, tensorflow_names
from stemsplit.models.first_wave_u_net import FirstWaveUNetArguments, lengths
from tests.data.references.make import track

HERE = Path(__file__).parent
PROGRAM = HERE.parents[1] / "oracles/wave_u_net_tf.py"
SMALL: dict[str, Any] = {
    "num_initial_filters": 3,
    "num_layers": 3,
    "filter_size": 5,
    "merge_filter_size": 3,
    "expected_sr": 8000,
    "num_frames": 200,
}
CASES: dict[str, dict[str, Any]] = {
    "first_wave_u_net": SMALL | {"source_names": ["bass", "vocals"], "learned_upsampling": False},
    "first_wave_u_net_learned": SMALL
    | {"source_names": ["bass", "drums", "vocals"], "learned_upsampling": True},
}


def asked(arguments: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Return the arguments of the program."""
    taken, given = lengths(FirstWaveUNetArguments(**arguments), arguments["num_frames"])
    return {**arguments, "taken": taken, "given": given, "checkpoint": str(folder)}


def make(name: str, arguments: dict[str, Any]) -> None:
    """Write one reference."""
    mix = track(2, 3000)
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        save_file({"mix": mix}, place / "asked", {"arguments": json.dumps(asked(arguments, place))})
        command = [os.environ["STEMSPLIT_TENSORFLOW"], PROGRAM, place / "asked", place / "answer"]
        subprocess.run(command, check=True)
        stems = load_file(place / "answer")["stems"]
        index = place / "model.index"
        state = tensorflow_names.named(index, tensor_bundles.read(index))
    tensors = {f"weights/{key}": value for key, value in state.items()} | {"mix": mix, "stems": stems}
    save_file(
        {key: value.contiguous() for key, value in tensors.items()},
        HERE / f"{name}.safetensors",
        {"family": "first_wave_u_net", "arguments": json.dumps(arguments)},
    )


if __name__ == "__main__":
    for name, arguments in CASES.items():
        make(name, arguments)
