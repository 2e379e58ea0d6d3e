"""Surround files: --channels each."""

import subprocess
from pathlib import Path

import numpy as np
import pytest
import soundfile

from stemsplit.audio.reader import probe
from tests.cli.conftest import Shell


@pytest.mark.parametrize(
    ("layout", "channels"), [("5.1", 6), ("5.1(side)", 6), ("7.1", 8), ("quad", 4), ("3.0", 3), ("2.1", 3)]
)
@pytest.mark.parametrize("form", ["wav", "flac"])
def test_surround_files_keep_their_loudspeakers(shell: Shell, layout: str, channels: int, form: str) -> None:
    audio = 0.1 * np.random.default_rng(1).standard_normal((4000, channels))
    soundfile.write(shell.folder / "plain.wav", audio, 44100, subtype="PCM_24")
    made = ["ffmpeg", "-v", "error", "-i", "plain.wav", "-af", f"channelmap=channel_layout={layout}"]
    subprocess.run([*made, "-c:a", "pcm_s24le", "in.wav"], cwd=shell.folder, check=True)
    ran = shell("in.wav", "-m", "classic", "-s", "bass", "--rest", "--channels", "each", "-f", form)
    assert ran.code == 0 and "mixed down" not in ran.err, ran.err
    outputs = [shell.folder / f"stems/in/{name}.{form}" for name in ("bass", "no_bass")]
    assert [probe(path).layout for path in outputs] == [layout] * 2
    assert shown_layout(outputs[0]) == layout
    bass, rest = (soundfile.read(path)[0] for path in outputs)
    assert bass.shape == (4000, channels)
    assert np.abs(bass + rest - audio).max() < 3e-7


def shown_layout(path: Path) -> str:
    """Return the channel layout that ffprobe reports."""
    asked = ["ffprobe", "-v", "error", "-show_entries", "stream=channel_layout", "-of", "csv=p=0", str(path)]
    return subprocess.run(asked, capture_output=True, text=True, check=True).stdout.strip()


def test_into_a_pipe(shell: Shell) -> None:
    audio = 0.1 * np.random.default_rng(1).standard_normal((4000, 6))
    soundfile.write(shell.folder / "in.wav", audio, 44100, subtype="PCM_24")
    ran = shell("in.wav", "-m", "classic", "-s", "bass", "--channels", "each", "-o", "-")
    assert ran.code == 0
    (shell.folder / "out.wav").write_bytes(ran.out)
    assert probe(shell.folder / "out.wav").layout == "5.1"
    assert soundfile.read(shell.folder / "out.wav")[0].shape == (4000, 6)
