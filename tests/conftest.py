"""Fixtures that every test may use."""

from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import pytest
import torch

from stemsplit.audio.reader import read_audio

Encode = Callable[[str, str, str], int]

torch.set_num_threads(1)

REPOSITORY = Path(__file__).parents[1]


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
