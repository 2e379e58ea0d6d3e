"""Rendering of parts by FluidSynth with a General MIDI SoundFont."""

import subprocess
import tempfile
from pathlib import Path

import numpy as np
import soundfile

from songmaker import midi
from songmaker.effects import RATE, Audio
from songmaker.notes import Part
from stemsplit.errors import ResourceError

# FluidSynth's reverberation and chorus are off: effects are added later and differ between songs
_COMMAND = (
    "fluidsynth", "-n", "-i", "-q", "-O", "float", "-T", "wav", "-r", str(RATE), "-g", "0.4",
    "-o", "synth.dynamic-sample-loading=1", "-R", "0", "-C", "0",
)  # fmt: skip


def play(part: Part, duration_s: float, font: Path) -> Audio:
    """Render a part, [2, T].

    Raises:
        ResourceError: FluidSynth isn't installed or fails.
    """
    with tempfile.TemporaryDirectory() as folder:
        score, sound = Path(folder, "part.mid"), Path(folder, "part.wav")
        midi.write_part(score, part)
        try:
            subprocess.run(
                [*_COMMAND, "-F", str(sound), str(font), str(score)], check=True, capture_output=True
            )
        except (OSError, subprocess.CalledProcessError) as error:
            raise ResourceError(f"fluidsynth can't play {font}: {error}") from error
        audio = soundfile.read(sound, dtype="float32", always_2d=True)[0].T
    samples = int(duration_s * RATE)
    return np.pad(audio[:, :samples], ((0, 0), (0, max(0, samples - audio.shape[1]))))
