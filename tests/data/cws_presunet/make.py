"""Write what the authors' two networks make of a mix, with narrower layers and random weights.

`STEMSPLIT_ORACLES=PYTHON STEMSPLIT_CWS=CLONE python -m tests.data.cws_presunet.make` (see
tests/oracles/requirements.txt and tests/oracles/cws_presunet.py)
"""

import json
import os
import subprocess
import tempfile
from pathlib import Path

from safetensors.torch import load_file, save_file

from tests.data.references.make import track

HERE = Path(__file__).parent
WIDTHS = [2, 3, 2, 3, 4, 2]

if __name__ == "__main__":
    mix = track(2, 4100)[None]
    for name, joint in (("vocals", False), ("joint", True)):
        with tempfile.TemporaryDirectory() as folder:
            place = Path(folder)
            asked = json.dumps({"joint": joint, "widths": WIDTHS})
            save_file({"mix": mix}, place / "asked", {"arguments": asked})
            program = HERE.parents[1] / "oracles/cws_presunet.py"
            subprocess.run(
                [os.environ["STEMSPLIT_ORACLES"], program, place / "asked", place / "answer"], check=True
            )
            save_file({"mix": mix, **load_file(place / "answer")}, HERE / f"{name}.safetensors")
