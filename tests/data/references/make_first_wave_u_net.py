"""Write the references of the first Wave-U-Net: weights, a track, and what TensorFlow makes of it.

`STEMSPLIT_TENSORFLOW=PYTHON python -m tests.data.references.make_first_wave_u_net`
"""

from typing import Any

from stemsplit.models.first_wave_u_net import FirstWaveUNetArguments, lengths
from tests.data.references.make import track
from tests.data.references.writing import run_tensorflow, write

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


def asked(arguments: dict[str, Any]) -> dict[str, Any]:
    """Return the arguments of the program."""
    taken, given = lengths(FirstWaveUNetArguments(**arguments), arguments["num_frames"])
    return {**arguments, "taken": taken, "given": given}


def make(name: str, arguments: dict[str, Any]) -> None:
    """Write one reference."""
    mix = track(2, 3000)
    stems, state = run_tensorflow("wave_u_net_tf.py", asked(arguments), mix)
    write(name, "first_wave_u_net", arguments, state, mix, stems)


if __name__ == "__main__":
    for name, arguments in CASES.items():
        make(name, arguments)
