"""Blending finished files equals blending their samples."""

from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from stemsplit.audio.reader import read_audio
from stemsplit.core.blends import make_blend
from stemsplit.errors import InputError, OutputError, SettingsError, UnknownNameError
from stemsplit.events import Event, Notice
from stemsplit.separation.blending import blend_files, format_of
from stemsplit.settings import OutputSettings

RATE = 44100
FLOAT = OutputSettings(bit_depth="32f")


def sound(seed: int, frames: int = 90_001, channels: int = 2) -> np.ndarray:
    return 0.2 * np.random.default_rng(seed).standard_normal((channels, frames)).astype(np.float32)


def written(folder: Path, *sounds: np.ndarray, rate: int = RATE) -> list[Path]:
    paths = [folder / f"{index}.wav" for index in range(len(sounds))]
    for path, audio in zip(paths, sounds, strict=True):
        soundfile.write(path, audio.T, rate, subtype="FLOAT")
    return paths


@pytest.mark.parametrize("blend", ["avg_wave", "median_wave", "max_fft", "uvr_min_spec"])
def test_files_are_blended_as_their_samples_are(blend: str, tmp_path: Path) -> None:
    sounds = [sound(seed) for seed in range(3)]
    making = make_blend(blend, [1, 1, 1])
    expected = torch.cat([making.push(list(map(torch.from_numpy, sounds))), making.finish()], dim=-1)
    blend_files(written(tmp_path, *sounds), tmp_path / "out.wav", blend=blend, output=FLOAT)
    audio, rate = read_audio(tmp_path / "out.wav")
    assert rate == RATE
    np.testing.assert_allclose(audio, expected.numpy(), rtol=0, atol=1e-6)
    assert {path.name for path in tmp_path.iterdir()} == {"0.wav", "1.wav", "2.wav", "out.wav"}


def test_weights(tmp_path: Path) -> None:
    one, other = sound(0), sound(1)
    blend_files(written(tmp_path, one, other), tmp_path / "out.wav", weights=[3, 1], output=FLOAT)
    np.testing.assert_allclose(
        read_audio(tmp_path / "out.wav")[0], 0.75 * one + 0.25 * other, rtol=0, atol=1e-7
    )


def test_rates_channels_and_lengths_may_differ_with_notices(tmp_path: Path) -> None:
    long, mono, short = sound(0), sound(1, channels=1), sound(2, frames=48_000)
    paths = written(tmp_path, long, mono)
    soundfile.write(tmp_path / "short.wav", short.T, 48_000, subtype="FLOAT")
    events: list[Event] = []
    blend_files([*paths, tmp_path / "short.wav"], tmp_path / "out.wav", output=FLOAT, callback=events.append)
    audio, rate = read_audio(tmp_path / "out.wav")
    assert (audio.shape, rate) == (long.shape, RATE)
    np.testing.assert_allclose(audio[:, 50_000:], (long + mono)[:, 50_000:] / 3, rtol=0, atol=1e-6)
    messages = [event.message for event in events if isinstance(event, Notice)]
    assert messages == [
        "resampled from 48000 to 44100 Hz",
        f"{(90_001 - 44_100) / RATE:.3f} s shorter than the longest: silence there",
    ]


def test_loud_blends_are_turned_down_in_integer_formats(tmp_path: Path) -> None:
    loud = np.full((2, 5000), 1.6, np.float32)
    events: list[Event] = []
    blend_files(written(tmp_path, loud, loud), tmp_path / "out.flac", output=OutputSettings(format="flac"))
    blend_files(written(tmp_path, loud, loud), tmp_path / "out.wav", callback=events.append)
    for name in ("out.flac", "out.wav"):
        assert 0.99 < read_audio(tmp_path / name)[0].max() <= 1
    assert [event.message for event in events if isinstance(event, Notice)] == [
        "-4.08 dB, so that nothing clips"
    ]


def test_invalid_settings_are_refused_and_leave_no_file(tmp_path: Path) -> None:
    one, other = written(tmp_path, sound(0), sound(1))
    target = tmp_path / "new/out.wav"
    with pytest.raises(SettingsError, match="two files or more"):
        blend_files([one], target)
    with pytest.raises(UnknownNameError, match="no blend named 'avg'"):
        blend_files([one, other], target, blend="avg")
    with pytest.raises(SettingsError, match="--weights: median_fft doesn't use weights"):
        blend_files([one, other], target, blend="median_fft", weights=[1, 1])
    for weights, why in (([1], "2 files need 2"), ([1, -1], "not be negative"), ([0, 0], "nor all zero")):
        with pytest.raises(SettingsError, match=why):
            blend_files([one, other], target, weights=weights)
    with pytest.raises(InputError, match="no such file"):
        blend_files([one, tmp_path / "gone.wav"], target)
    with pytest.raises(OutputError, match="is an input"):
        blend_files([one, other], one, overwrite=True)
    damaged = tmp_path / "damaged.flac"
    soundfile.write(damaged, sound(2).T, RATE)
    content = bytearray(damaged.read_bytes())
    content[len(content) // 2] ^= 0xFF
    damaged.write_bytes(content)
    with pytest.raises(InputError, match="damaged at"):
        blend_files([one, damaged], target)
    assert not target.parent.exists()


def test_an_existing_file_stays_without_overwrite(tmp_path: Path) -> None:
    paths = written(tmp_path, sound(0), sound(1))
    blend_files(paths, tmp_path / "out.wav")
    before = (tmp_path / "out.wav").read_bytes()
    with pytest.raises(OutputError, match="exists") as caught:
        blend_files(paths, tmp_path / "out.wav", blend="max_wave")
    assert caught.value.hint == "-y overwrites it" and (tmp_path / "out.wav").read_bytes() == before
    blend_files(paths, tmp_path / "out.wav", blend="max_wave", overwrite=True)
    assert (tmp_path / "out.wav").read_bytes() != before


def test_the_suffix_chooses_the_format() -> None:
    assert [format_of(f"a.{end}") for end in ("wav", "FLAC", "m4a", "opus")] == ["wav", "flac", "m4a", "opus"]
    with pytest.raises(SettingsError, match="-o a.xyz: no format has this suffix"):
        format_of("a.xyz")
