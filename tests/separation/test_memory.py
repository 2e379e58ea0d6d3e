"""Memory doesn't grow with the length of a track."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from stemsplit.hub.checkpoints import save_package
from stemsplit.models import build
from tests.memory import RUN
from tests.separation.networks import save_quick, save_small

TINY = {
    "sources": ["drums", "bass", "other", "vocals"],
    "channels": 8,
    "bottom_channels": 16,
    "t_layers": 1,
    "t_heads": 2,
    "nfft": 1024,
    "segment": 5.0,
}


@pytest.fixture
def quick(tmp_path: Path) -> Path:
    return save_quick(tmp_path / "quick.safetensors")


def peak_mb(song: Path, model: Path, *options: str) -> float:
    arguments = [str(song), "-m", str(model), "-o", str(song.parent / "stems"), "-y", *options]
    return peak_of(*arguments)


def peak_of(*arguments: str, stdin: Path | None = None) -> float:
    """MB that the command takes at most."""
    with open(stdin or os.devnull, "rb") as file:
        done = subprocess.run(
            [sys.executable, "-c", RUN, *arguments], stdin=file, capture_output=True, text=True, check=True
        )
    return float(done.stdout.splitlines()[-1])


def write_song(path: Path, minutes: int, rate: int = 44100) -> Path:
    """Noise, a minute at a time."""
    generator = np.random.default_rng(0)
    with soundfile.SoundFile(path, "w", rate, 2, subtype="PCM_16") as file:
        for _ in range(minutes):
            file.write(0.1 * generator.standard_normal((60 * rate, 2)))
    return path


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc")
def test_thirty_minutes_take_the_memory_of_three(tmp_path: Path) -> None:
    """At a quarter of the usual rate, where the difference between the tracks is 143 MB of float32."""
    model = tmp_path / "tiny.safetensors"
    save_package(model, build("htdemucs", TINY | {"samplerate": 11025}))
    short = peak_mb(write_song(tmp_path / "short.wav", 3, 11025), model)
    long = peak_mb(write_song(tmp_path / "long.wav", 30, 11025), model)
    assert long - short < 50


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc")
def test_complements_common_gain_and_stdin_hold_no_track(tmp_path: Path, quick: Path) -> None:
    options = ("-m", str(quick), "-s", "vocals", "--rest", "--clip", "common", "-y", "-f", "flac")
    peaks = []
    for minutes in (1, 12):  # eleven minutes of stereo are 116 MB in 16 bits
        song = write_song(tmp_path / "song.wav", minutes)
        peaks.append(peak_of("-", *options, "-o", str(tmp_path / "stems"), stdin=song))
    short, long = peaks
    assert long - short < 50


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc")
def test_thirty_minutes_of_an_ensemble_and_a_chain_take_the_memory_of_three(tmp_path: Path) -> None:
    """At a tenth of the usual rate, where the difference between the tracks is 57 MB of float32."""
    models = save_small(tmp_path, slower=10)
    options = ["--blend", "median_fft", "-f", "flac", "-s", "vocals,bass"]
    for name in ("bs_roformer", "openunmix", "mono16k"):
        options += ["-m", str(models[name])]
    options += ["--then", f"vocals={models['parts']}", "--then", f"vocals.lead={models['room']}"]
    short = peak_mb(write_song(tmp_path / "short.wav", 3, 4410), models["htdemucs"], *options)
    long = peak_mb(write_song(tmp_path / "long.wav", 30, 4410), models["htdemucs"], *options)
    assert long - short < 50


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc")
@pytest.mark.parametrize("form", ["stem.m4a", "mka"])
def test_stem_files_hold_no_track(tmp_path: Path, quick: Path, form: str) -> None:
    peaks = []
    for minutes in (1, 6):  # five minutes of five streams are 265 MB in 16 bits
        song = write_song(tmp_path / "song.wav", minutes)
        peaks.append(peak_mb(song, quick, "-f", form))
    assert peaks[1] - peaks[0] < 50


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc")
@pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="no ffmpeg program")
def test_films_hold_no_track(tmp_path: Path, quick: Path) -> None:
    peaks = []
    for minutes in (1, 8):  # seven minutes of this picture are 100 MB, and of the sound 74 MB
        song = write_song(tmp_path / "song.wav", minutes)
        made = ["ffmpeg", "-v", "error", "-y", "-f", "lavfi", "-i", f"testsrc2=s=320x240:d={minutes * 60}"]
        made += ["-i", str(song), "-c:v", "mpeg4", "-b:v", "2M", "-c:a", "flac", str(tmp_path / "film.mkv")]
        subprocess.run(made, check=True)
        peaks.append(peak_mb(tmp_path / "film.mkv", quick, "-s", "bass", "--mux"))
    assert peaks[1] - peaks[0] < 50
