"""Fixtures that every test may use."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from stemsplit.audio.reader import read_audio

Encode = Callable[[str, str, str], int]

# Workers of the suite run side by side: threads that wait for each other's cores would double its time.
torch.set_num_threads(1)
os.environ["OMP_NUM_THREADS"] = "1"  # of the processes that tests start

REPOSITORY = Path(__file__).parents[1]

# New processes unpickle classes of tests. Last in the path, so that the installed package is tested.
sys.path.append(str(REPOSITORY))


@pytest.fixture(scope="session")
def decibels() -> Callable[[Tensor, Tensor], float]:
    """Signal-to-error ratio of an estimate against its reference, in dB."""

    def measure(reference: Tensor, estimate: Tensor) -> float:
        assert estimate.shape == reference.shape
        error = (reference.double() - estimate.double()).square().sum().clamp_min(1e-60)
        return float(10 * torch.log10(reference.double().square().sum() / error))

    return measure


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real music, where the machine has it."""
    folder = REPOSITORY.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"no real music at {folder}")
    return folder


@pytest.fixture
def encode(tmp_path: Path) -> Encode:
    """Write three seconds of quiet, then loud stereo at 44.1 kHz; return how many samples decoding gives.

    The quiet beginning has a low bit rate, from which a length that is estimated comes out far too long.
    """

    def write(name: str, codec: str, container: str) -> int:
        generator = np.random.default_rng(0)
        time = np.arange(3 * 44100) / 44100
        mono = (time > 2) * (0.1 * np.sin(2760 * time) + 0.05 * generator.random(len(time)))
        stereo = np.stack([mono, mono]).astype(np.float32)
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        with av.open(str(tmp_path / name), "w", format=container) as file:
            stream = file.add_stream(codec, rate=44100, layout="stereo")
            frame = av.AudioFrame.from_ndarray(stereo, format="fltp", layout="stereo")
            frame.sample_rate = 44100
            for packet in (*stream.encode(frame), *stream.encode(None)):
                file.mux(packet)
        return read_audio(tmp_path / name)[0].shape[1]

    return write


# Programs whose reference packages have an environment of their own: what names its Python, and the packages
ENVIRONMENTS = {
    "spleeter_tf.py": ("STEMSPLIT_TENSORFLOW", "tensorflow.txt"),
    "wave_u_net_tf.py": ("STEMSPLIT_TENSORFLOW", "tensorflow.txt"),
    "d3net_nnabla.py": ("STEMSPLIT_NNABLA", "nnabla.txt"),
    "xumx_nnabla.py": ("STEMSPLIT_NNABLA", "nnabla.txt"),
}


@pytest.fixture(scope="session")
def oracle(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., dict[str, Tensor]]:
    """Run a program of `tests/oracles` with a reference package, in the package's own environment.

    The program gets the paths of a safetensors file, with the tensors that are passed and `arguments` as
    JSON in its metadata, and of the safetensors file to write. Its Python is named by STEMSPLIT_ORACLES, or
    as `ENVIRONMENTS` says.
    """

    def ask(program: str, arguments: dict[str, Any], **tensors: Tensor) -> dict[str, Tensor]:
        variable, packages = ENVIRONMENTS.get(program, ("STEMSPLIT_ORACLES", "requirements.txt"))
        python = os.environ.get(variable, "")
        if not Path(python).is_file():
            pytest.skip(f"{variable} names no Python with the packages of tests/oracles/{packages}")
        place = tmp_path_factory.mktemp("oracle")
        given = {name: tensor.detach().clone().contiguous() for name, tensor in tensors.items()}
        save_file(given, place / "asked", {"arguments": json.dumps(arguments)})
        path = Path(__file__).parent / "oracles" / program
        command = [python, path, place / "asked", place / "answer"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{program}: {done.stderr[-3000:]}"
        return load_file(place / "answer")

    return ask
