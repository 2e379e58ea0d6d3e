"""Small audio files in every format, made once."""

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile

RATE = 44100
FRAMES = 66_273
IMPULSE = 10_000


@pytest.fixture(scope="session")
def music() -> np.ndarray:
    """Quiet noise [2, T], different per channel, with one loud sample at 10 000."""
    generator = np.random.default_rng(1)
    audio = (generator.standard_normal((2, FRAMES)) * 0.02).astype(np.float32)
    audio[:, IMPULSE] = 0.9
    return audio


@pytest.fixture(scope="session")
def pcm(music: np.ndarray) -> np.ndarray:
    """The music rounded to 16-bit PCM."""
    return (np.rint(music * 32768) / 32768).astype(np.float32)


@pytest.fixture(scope="session")
def wav(pcm: np.ndarray, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("source") / "source.wav"
    soundfile.write(path, pcm.T, RATE, subtype="PCM_16")
    return path


Ffmpeg = Callable[..., None]


@pytest.fixture(scope="session")
def ffmpeg() -> Ffmpeg:
    """Run the ffmpeg program."""
    if shutil.which("ffmpeg") is None:
        pytest.skip("no ffmpeg program")

    def run(*arguments: str | Path) -> None:
        subprocess.run(["ffmpeg", "-v", "error", "-nostdin", "-y", *map(str, arguments)], check=True)

    return run


@pytest.fixture(scope="session")
def ffmpeg_decoded(ffmpeg: Ffmpeg) -> Callable[[Path, int], np.ndarray]:
    """Return a file's first audio stream as the ffmpeg program decodes it, [C, T]."""

    def decode(path: Path, channels: int = 2) -> np.ndarray:
        command = ["ffmpeg", "-v", "error", "-nostdin", "-i", str(path), "-map", "0:a:0", "-f", "f32le", "-"]
        done = subprocess.run(command, capture_output=True, check=True)
        return np.frombuffer(done.stdout, "<f4").reshape(-1, channels).T

    return decode


def loudest(audio: np.ndarray) -> int:
    """Return the sample at which the impulse is."""
    return int(np.abs(audio[0]).argmax())
