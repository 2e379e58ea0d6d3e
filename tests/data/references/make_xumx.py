"""Write the reference of X-UMX: weights, a track, and what asteroid 0.7 makes of it, without a filter.

`STEMSPLIT_ORACLES=PYTHON python -m tests.data.references.make_xumx` (see tests/oracles/requirements.txt)
"""

import tempfile
from dataclasses import asdict
from pathlib import Path

from stemsplit.hub.checkpoints import build_network, read_package
from tests.data.references.make import track
from tests.data.references.writing import run_program, write
from tests.models.test_xumx import ASTEROID


def make() -> None:
    """Write the reference."""
    mix = track(2, 3008)  # whole frames, to which asteroid's output is cut
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        asked = ASTEROID | {"return_time_signals": True, "path": str(place / "model.bin")}
        stems = run_program("xumx_asteroid.py", "STEMSPLIT_ORACLES", place, asked, mix[None])[0]
        network = build_network(read_package(place / "model.bin"))
    write("xumx", "xumx", asdict(network.arguments) | {"niter": 0}, network.state_dict(), mix, stems)


if __name__ == "__main__":
    make()
