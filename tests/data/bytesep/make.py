"""Write what bytesep 0.1.1 makes of a mix with a small network of the full band.

`STEMSPLIT_ORACLES=PYTHON python -m tests.data.bytesep.make` (see tests/oracles/requirements.txt)
"""

import json
import os
import subprocess
import tempfile
from pathlib import Path

from safetensors.torch import load_file, save_file

from tests.data.references.make import track

HERE = Path(__file__).parent
SIZES = {"sources": 2, "n_fft": 128, "hop_length": 32, "widths": [2, 3, 2, 3, 4, 2]}

if __name__ == "__main__":
    mix = track(2, 1500)[None]
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        save_file({"mix": mix}, place / "asked", {"arguments": json.dumps(SIZES)})
        program = HERE.parents[1] / "oracles/resunet_bytesep.py"
        subprocess.run(
            [os.environ["STEMSPLIT_ORACLES"], program, place / "asked", place / "answer"], check=True
        )
        save_file({"mix": mix, **load_file(place / "answer")}, HERE / "resunet.safetensors")
