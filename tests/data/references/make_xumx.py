"""Write the reference of X-UMX: weights, a track, and what asteroid 0.7 makes of it, without a filter.

`STEMSPLIT_ORACLES=PYTHON python -m tests.data.references.make_xumx` (see tests/oracles/requirements.txt)
"""

import json
import os
import subprocess
import tempfile
from dataclasses import asdict
from pathlib import Path

from safetensors.torch import load_file, save_file

from stemsplit.hub.checkpoints import build_network, read_package
from tests.data.references.make import track
from tests.models.test_xumx import ASTEROID

HERE = Path(__file__).parent
PROGRAM = HERE.parents[1] / "oracles/xumx_asteroid.py"


def make() -> None:
    """Write the reference."""
    mix = track(2, 3008)  # whole frames, to which asteroid's output is cut
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        asked = ASTEROID | {"return_time_signals": True, "path": str(place / "model.bin")}
        save_file({"mix": mix[None]}, place / "asked", {"arguments": json.dumps(asked)})
        subprocess.run(
            [os.environ["STEMSPLIT_ORACLES"], PROGRAM, place / "asked", place / "answer"], check=True
        )
        stems = load_file(place / "answer")["stems"][0]
        network = build_network(read_package(place / "model.bin"))
    state = {f"weights/{name}": value.contiguous() for name, value in network.state_dict().items()}
    arguments = asdict(network.arguments) | {"niter": 0}
    save_file(
        state | {"mix": mix, "stems": stems.contiguous()},
        HERE / "xumx.safetensors",
        {"family": "xumx", "arguments": json.dumps(arguments)},
    )


if __name__ == "__main__":
    make()
