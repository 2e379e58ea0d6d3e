"""Write small files of NNabla, an input, and what NNabla's networks make of it.

`STEMSPLIT_NNABLA=PYTHON python -m tests.data.nnabla.make` (see tests/oracles/nnabla.txt)
"""

import json
import os
import subprocess
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from tests.data.references.make import track

HERE = Path(__file__).parent
ORACLES = HERE.parents[1] / "oracles"

SIZES = {
    "valid_signal_idx": 12,
    "band_split_idxs": [4],
    "num_init_features": [2, 1],
    "dens_k": [[2, 3, 2], [1]],
    "num_layer_blocks": [[2, 2, 1], [2]],
    "b_n_blocks": [[2, 2, 1], [2]],
    "f_num_init_features": 2,
    "f_dens_k": [2, 3, 2],
    "f_num_layer_block": [2, 1, 2],
    "f_n_blocks": [1, 2, 2],
    "ttl_dens_k": 2,
    "ttl_num_layer_block": 2,
    "test_patch_len": 8,
    "out_shift": 4,
}
D3NET: dict[str, Any] = {
    "targets": {"bass": SIZES, "vocals": SIZES | {"test_patch_len": 12, "out_shift": 4}},
    "fft_size": 32,
    "hop_size": 8,
}
XUMX: dict[str, Any] = {
    "sources": ["bass", "drums", "vocals", "other"],
    "hidden_size": 6,
    "nb_layers": 3,
    "max_bin": 9,
}


def ask(program: str, arguments: dict[str, Any], **tensors: Tensor) -> dict[str, Tensor]:
    """Return the answer of a program of `tests/oracles`, which also writes its weights here."""
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        save_file(tensors, place / "asked", {"arguments": json.dumps(arguments | {"checkpoint": str(HERE)})})
        command = [os.environ["STEMSPLIT_NNABLA"], ORACLES / program, place / "asked", place / "answer"]
        subprocess.run(command, check=True)
        return load_file(place / "answer")


def save(name: str, **tensors: Tensor) -> None:
    """Write tensors that belong to a file of NNabla."""
    save_file({key: value.contiguous() for key, value in tensors.items()}, HERE / f"{name}.safetensors")


if __name__ == "__main__":
    mix = track(2, 8 * 25 + 3)  # 26 frames: the released program leaves out no patch
    save("d3net", mix=mix, stems=ask("d3net_nnabla.py", D3NET, mix=mix)["stems"])
    magnitudes = torch.rand(1, 2, 17, 12, generator=torch.Generator().manual_seed(0))
    with zipfile.ZipFile(HERE / "d3net.zip", "w", zipfile.ZIP_DEFLATED) as archive:  # a tenth of its size
        archive.write(HERE / "d3net.h5", "d3net-mss.h5")
    (HERE / "d3net.h5").unlink()
    save("x-umx", magnitudes=magnitudes, stems=ask("xumx_nnabla.py", XUMX, magnitudes=magnitudes)["stems"])
