"""Write the references of Wave-U-Net: weights, a track, and what f90/Wave-U-Net-Pytorch makes of it.

`python -m tests.data.references.make_wave_u_net CLONE`, with a clone of that repository at 86c113d, whose
modules `model` are imported. Its loop over the chunks (`test.predict`) is cut out of the file, because the
module imports what isn't needed for it.
"""

import ast
import contextlib
import io
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch

from tests.data.references.make import track
from tests.data.references.writing import write

SMALL: dict[str, Any] = {"features": 8, "levels": 3, "kernel_size": 3, "sr": 8000, "output_size": 0.1}
CASES: dict[str, dict[str, Any]] = {
    "wave_u_net": SMALL | {"instruments": ["bass", "vocals"]},
    "wave_u_net_learned": SMALL
    | {
        "instruments": ["bass", "vocals"],
        "strides": 2,
        "conv_type": "bn",
        "res": "learned",
        "separate": False,
        "feature_growth": "add",
    },
}
DEFAULTS = {"strides": 4, "conv_type": "gn", "res": "fixed", "separate": True, "feature_growth": "double"}


def program(clone: Path) -> tuple[type[torch.nn.Module], Any]:
    """Return the program's network, and its function that separates a track."""
    sys.path.insert(0, str(clone))
    from model.waveunet import Waveunet

    wanted = ("predict", "compute_model_output")
    tree = ast.parse((clone / "test.py").read_text())
    tree.body = [node for node in tree.body if getattr(node, "name", "") in wanted]
    module = ModuleType("test")
    module.__dict__.update(np=np, torch=torch)
    exec(compile(tree, "test.py", "exec"), module.__dict__)
    return Waveunet, module.predict


def make(name: str, arguments: dict[str, Any], clone: Path) -> None:
    """Write one reference."""
    network_class, predict = program(clone)
    a = DEFAULTS | arguments
    double = a["feature_growth"] == "double"
    widths = [a["features"] * (2**i if double else i + 1) for i in range(a["levels"])]
    torch.manual_seed(0)
    with contextlib.redirect_stdout(io.StringIO()):
        network: Any = network_class(
            2,
            widths,
            2,
            a["instruments"],
            kernel_size=a["kernel_size"],
            target_output_size=int(a["output_size"] * a["sr"]),
            depth=1,
            strides=a["strides"],
            conv_type=a["conv_type"],
            res=a["res"],
            separate=a["separate"],
        ).eval()
    state = network.state_dict()
    for key, value in state.items():  # away from zeros and ones, and into the range of audio
        if key.endswith(("running_mean", "running_var", "norm.weight", "norm.bias")):
            value += 0.2 * torch.rand_like(value)
    mix = track(2, 3000)
    stems = predict(mix.numpy(), network)
    found = torch.from_numpy(np.stack([stems[stem] for stem in a["instruments"]]))
    write(name, "wave_u_net", arguments, state, mix, found)


if __name__ == "__main__":
    for name, arguments in CASES.items():
        make(name, arguments, Path(sys.argv[1]))
