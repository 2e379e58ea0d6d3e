import itertools

import numpy as np
import pytest

from stemsplit.audio.resample import Resampler, resample, resampled_frames

PAIRS = [
    (44100, 48000),
    (48000, 44100),
    (22050, 44100),
    (44100, 22050),
    (96000, 44100),
    (8000, 44100),
    (44056, 48000),
]
LENGTHS = [0, 1, 2, 3, 99, 100, 101, 1023, 1024, 1025, 20_011]


def noise(frames: int, channels: int = 2) -> np.ndarray:
    return np.random.default_rng(frames).standard_normal((channels, frames)).astype(np.float32)


@pytest.mark.parametrize(("from_hz", "to_hz"), [*PAIRS, (44100, 44100)])
def test_any_block_sizes_give_the_same_output(from_hz: int, to_hz: int) -> None:
    for frames, size in itertools.product(LENGTHS, (1, 7, 1000, 1 << 20)):
        if size == 1 and frames > 1025:
            continue
        audio = noise(frames)
        stream = Resampler(2, from_hz, to_hz)
        pieces = [stream.push(audio[:, start : start + size]) for start in range(0, frames, size)]
        joined = np.concatenate([*pieces, stream.finish()], axis=1)
        assert joined.shape == (2, resampled_frames(frames, from_hz, to_hz)) and joined.dtype == np.float32
        assert np.array_equal(joined, resample(audio, from_hz, to_hz))


@pytest.mark.parametrize(("from_hz", "to_hz"), PAIRS)
def test_samples_keep_their_position(from_hz: int, to_hz: int) -> None:
    at = from_hz // 10 + 7
    audio = np.zeros((1, from_hz), np.float32)
    audio[0, at] = 1
    assert abs(int(np.abs(resample(audio, from_hz, to_hz)[0]).argmax()) - at * to_hz / from_hz) <= 0.5


@pytest.mark.parametrize(("from_hz", "to_hz"), PAIRS)
def test_a_tone_stays_the_same_tone(from_hz: int, to_hz: int) -> None:
    frequency = 1000.0
    time = np.arange(from_hz) / from_hz
    audio = np.sin(2 * np.pi * frequency * time).astype(np.float32)[None]
    expected = np.sin(2 * np.pi * frequency * np.arange(to_hz) / to_hz)
    middle = slice(to_hz // 10, -to_hz // 10)
    error = resample(audio, from_hz, to_hz)[0][middle] - expected[middle]
    assert 20 * np.log10(np.sqrt(2 * np.mean(error**2))) < -115


@pytest.mark.parametrize(("from_hz", "to_hz"), PAIRS)
def test_there_and_back_has_the_length_of_the_input(from_hz: int, to_hz: int) -> None:
    for frames in LENGTHS:
        there = resample(noise(frames), from_hz, to_hz)
        assert resampled_frames(there.shape[1], to_hz, from_hz) >= frames
        assert resample(there, to_hz, from_hz, frames).shape == (2, frames)


def test_there_and_back_keeps_the_music() -> None:
    time = np.arange(48_000) / 48_000
    audio = (0.5 * np.sin(2 * np.pi * 3000 * time) * np.hanning(48_000)).astype(np.float32)[None]
    back = resample(resample(audio, 48_000, 44_100), 44_100, 48_000, 48_000)
    assert 20 * np.log10(np.sqrt(np.mean((back - audio) ** 2) / np.mean(audio**2))) < -110


def test_equal_rates_pass_through_untouched() -> None:
    stream, audio = Resampler(2, 44100, 44100), noise(1000)
    assert stream.push(audio) is audio
    assert stream.finish().shape == (2, 0)


def test_a_longer_length_is_filled_with_silence() -> None:
    audio = noise(1000)
    longer = resample(audio, 44100, 44100, 1200)
    assert np.array_equal(longer[:, :1000], audio) and not longer[:, 1000:].any()
    longer = resample(audio, 44100, 22050, 10_000)
    assert longer.shape == (2, 10_000) and not longer[:, 600:].any()


def test_a_length_that_is_already_exceeded() -> None:
    stream = Resampler(2, 44100, 44100)
    stream.push(noise(1000))
    with pytest.raises(ValueError, match="999 samples wanted, 1000 already given"):
        stream.finish(999)


def test_length_is_rounded_up() -> None:
    assert resampled_frames(1, 44100, 48000) == 2
    assert resampled_frames(44100, 44100, 48000) == 48000
    assert resampled_frames(3, 48000, 8000) == 1
    assert resampled_frames(0, 44100, 48000) == 0
