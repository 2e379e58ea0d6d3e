"""A track comes back at its own rate, channels and exact length, however it is read."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from stemsplit.separation.outputs import MIX, Output, Sum
from stemsplit.separation.source import ArraySource, Shape, Source, output_shape
from stemsplit.separation.stage import measure
from stemsplit.separation.track import OverflowingError
from stemsplit.settings import ChunkSettings, OutputSettings
from tests.separation.flows import flow_of, separated

Audio = NDArray[np.float32]
OUTPUTS = (Output("half", Sum(("half",))), Output("rest", Sum((MIX,), ("half",))))


@dataclass
class Half:
    """Half of the mix, at 44.1 kHz stereo."""

    stems: tuple[str, ...] = ("half",)
    sample_rate: int = 44100
    channels: int = 2
    segment_samples: int = 20000
    context_samples: int = 500
    normalise: bool = False
    overlap: float | None = None

    def __call__(self, mix: Tensor) -> Tensor:
        return 0.5 * mix[:, None, :, self.context_samples : mix.shape[-1] - self.context_samples]


@dataclass(frozen=True)
class Chopped(ArraySource):
    """An array that comes in small blocks."""

    size: int = 997

    def blocks(self) -> Iterator[Audio]:
        for start in range(0, self.audio.shape[-1], self.size):
            yield self.audio[:, start : start + self.size]


def music(samples: int, rate: int, channels: int) -> Audio:
    """A chord well below the Nyquist frequency of every rate here."""
    time = np.arange(samples) / rate
    chord = sum(np.sin(2 * np.pi * hz * time) for hz in (220, 331, 997))
    return np.stack([0.2 * (c + 1) / channels * chord for c in range(channels)]).astype(np.float32)


def separate(source: Source, model: Half, shape: Shape) -> Audio:
    blocks = list(separated(source, flow_of(model), OUTPUTS, shape))
    return np.concatenate([np.zeros((2, shape.channels, 0), np.float32), *blocks], axis=-1)


@pytest.mark.parametrize("rate", [44100, 48000, 22050, 96000, 8000])
@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("samples", [1, 2, 100, 30_011])
def test_rate_channels_and_length_are_kept(rate: int, channels: int, samples: int) -> None:
    audio = music(samples, rate, channels)
    half, rest = separate(ArraySource(audio, rate), Half(), Shape(rate, channels))
    assert half.shape == rest.shape == audio.shape
    assert np.abs(half + rest - audio).max() < 1e-6
    if samples > 1000:
        inner = slice(300, -300)  # a resampler rings at the ends
        assert np.abs(half - 0.5 * audio)[:, inner].max() < 1e-4


@pytest.mark.parametrize("size", [1, 100, 65536])
def test_the_blocks_of_the_source_change_nothing(size: int) -> None:
    audio = music(5000, 48000, 2)
    whole = separate(ArraySource(audio, 48000), Half(), Shape(48000, 2))
    assert np.array_equal(separate(Chopped(audio, 48000, size=size), Half(), Shape(48000, 2)), whole)


def test_other_rates_and_channels_on_request() -> None:
    audio = music(48000, 48000, 1)
    half, _ = separate(ArraySource(audio, 48000), Half(), Shape(44100, 2))
    assert half.shape == (2, 44100)
    assert np.abs(half - 0.5 * music(44100, 44100, 1))[:, 300:-300].max() < 1e-4


def test_six_channels_become_stereo() -> None:
    audio = np.zeros((6, 4000), np.float32)
    audio[2] = 0.1  # the centre
    source = ArraySource(audio, 44100, layout="5.1")
    half, rest = separate(source, Half(), output_shape(source, OutputSettings()))
    assert np.allclose(half + rest, 0.1 * 0.5**0.5, atol=1e-6)


def test_the_first_pass_counts_and_measures() -> None:
    audio = music(30_000, 44100, 2) + 0.1
    models = {0: Half(normalise=True), 1: Half(), 2: Half(normalise=True, channels=1, sample_rate=16000)}
    found = measure(Chopped(audio, 44100), models)
    assert found.frames == 30_000
    assert list(found.stats) == [0, 2]
    assert found.stats[2].mean == pytest.approx(found.stats[0].mean, rel=1e-3)
    assert found.stats[0].mean == pytest.approx(float(audio.mean()), rel=1e-4)
    assert measure(Chopped(audio, 44100), {0: Half()}).frames is None


def test_a_normalising_model_gives_the_level_back() -> None:
    audio = 0.01 * music(30_000, 44100, 2) + 0.1
    half, _ = separate(ArraySource(audio, 44100), Half(normalise=True), Shape(44100, 2))
    mean = audio.mean(0).mean()
    assert np.abs(half - (0.5 * (audio - mean) + mean)).max() < 1e-6


def test_progress_is_reported_in_seconds() -> None:
    seen: list[float] = []
    source = ArraySource(music(48000, 48000, 2), 48000)
    list(separated(source, flow_of(Half()), OUTPUTS, Shape(48000, 2), progress=seen.append))
    assert seen == sorted(seen)
    assert seen[-1] == pytest.approx(1.0, abs=0.001)


@dataclass
class Broken(Half):
    """NaN from one second on."""

    sample: int = 0

    def __call__(self, mix: Tensor) -> Tensor:
        stems = super().__call__(mix)
        if self.sample == 2 * self.segment_samples:
            stems[..., 100:] = torch.nan
        self.sample += self.segment_samples
        return stems


@pytest.mark.parametrize("rate", [44100, 48000, 8000])
def test_nan_samples_are_reported_with_their_time(rate: int) -> None:
    source = ArraySource(music(4 * rate, rate, 2), rate)
    chunks = ChunkSettings(overlap=0)
    with pytest.raises(OverflowingError) as caught:
        list(separated(source, flow_of(Broken()), OUTPUTS, Shape(rate, 2), chunks=chunks))
    assert 0 <= 40_100 / 44100 - caught.value.at_s < 0.06  # a resampler spreads them a little


@pytest.mark.parametrize("shifts", [0, 2])
@pytest.mark.parametrize("normalise", [False, True])
@pytest.mark.parametrize("rate", [44100, 16000])
def test_a_mono_model_separates_each_channel_of_a_stereo_track(
    rate: int, normalise: bool, shifts: int
) -> None:
    audio = music(30_011, 44100, 2)
    model = Half(channels=1, sample_rate=rate, normalise=normalise)
    chunks = ChunkSettings(shifts=shifts, overlap=0)
    blocks = list(
        separated(ArraySource(audio, 44100), flow_of(model), OUTPUTS, Shape(44100, 2), chunks=chunks)
    )
    half, rest = np.concatenate(blocks, axis=-1)
    assert np.abs(half - 0.5 * audio)[:, 400:-400].max() < 1e-3
    assert np.abs(half + rest - audio).max() < 1e-6


def test_a_mono_model_takes_the_mean_where_mono_is_wanted_or_given() -> None:
    model, stereo = Half(channels=1), music(20_000, 44100, 2)
    half, _ = separate(ArraySource(stereo, 44100), model, Shape(44100, 1))
    assert np.abs(half - 0.5 * stereo.mean(0)).max() < 1e-6
    half, _ = separate(ArraySource(stereo[:1], 44100), model, Shape(44100, 2))
    assert np.abs(half - 0.5 * stereo[:1]).max() < 1e-6
