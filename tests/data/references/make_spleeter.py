"""Write the references of Spleeter: weights, a track, and what spleeter 2.4.2 makes of it in TensorFlow.

`STEMSPLIT_TENSORFLOW=PYTHON python -m tests.data.references.make_spleeter` (see tests/oracles/tensorflow.txt)
"""

from typing import Any

from tests.data.references.make import track
from tests.data.references.writing import run_tensorflow, write

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
    stems, state = run_tensorflow("spleeter_tf.py", params(arguments), mix)
    write(name, "spleeter", {**arguments, "sample_rate": 8000, "groups": 1}, state, mix, stems)


if __name__ == "__main__":
    for name, arguments in CASES.items():
        make(name, arguments)
