"""Write the references of Spleeter: weights, a track, and what spleeter 2.4.2 makes of it in TensorFlow.

`STEMSPLIT_TENSORFLOW=PYTHON python -m tests.data.references.make_spleeter` (see tests/oracles/tensorflow.txt)
"""

import json
import os
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file

from stemsplit.hub import tensor_bundles, tensorflow_names
from tests.data.references.make import track

HERE = Path(__file__).parent
PROGRAM = HERE.parents[1] / "oracles/spleeter_tf.py"
SIZES = {
    "n_channels": 2,
    "T": 64,
    "F": 64,
    "frame_length": 256,
    "frame_step": 64,
    "separation_exponent": 2,
    "conv_n_filters": [2, 3, 4, 5, 6, 7],
    "mask_extension": "zeros",
}
CASES: dict[str, dict[str, Any]] = {
    "spleeter": SIZES | {"instrument_list": ["vocals", "accompaniment"]},
    "spleeter_softmax": SIZES
    | {
        "instrument_list": ["vocals", "drums", "bass"],
        "conv_activation": "ELU",
        "deconv_activation": "ELU",
        "softmax": True,
        "mask_extension": "average",
    },
}
LAYERS = ("conv_n_filters", "conv_activation", "deconv_activation")


def params(arguments: dict[str, Any]) -> dict[str, Any]:
    """Return our arguments as the parameters of spleeter."""
    kind = "unet.softmax_unet" if arguments.get("softmax") else "unet.unet"
    inside = {key: arguments[key] for key in LAYERS if key in arguments}
    rest = {key: value for key, value in arguments.items() if key not in (*LAYERS, "softmax")}
    return {**rest, "mix_name": "mix", "model": {"type": kind, "params": inside}}


def make(name: str, arguments: dict[str, Any]) -> None:
    """Write one reference."""
    mix = track(2, 6000)  # one and a half groups of frames
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        asked = params(arguments) | {"checkpoint": folder}
        save_file({"mix": mix}, place / "asked", {"arguments": json.dumps(asked)})
        command = [os.environ["STEMSPLIT_TENSORFLOW"], PROGRAM, place / "asked", place / "answer"]
        subprocess.run(command, check=True)
        stems = load_file(place / "answer")["stems"]
        index = place / "model.index"
        state = tensorflow_names.named(index, tensor_bundles.read(index))
    tensors = {f"weights/{key}": value for key, value in state.items()} | {"mix": mix, "stems": stems}
    own = {**arguments, "sample_rate": 8000, "groups": 1}
    save_file(
        {key: value.contiguous() for key, value in tensors.items()},
        HERE / f"{name}.safetensors",
        {"family": "spleeter", "arguments": json.dumps(own)},
    )


if __name__ == "__main__":
    for name, arguments in CASES.items():
        make(name, arguments)
