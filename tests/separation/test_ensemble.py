"""Several models over one track: equal to blending whole tracks, and stems meet by what they mean."""

import pickle
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from stemsplit.audio.channels import convert_channels
from stemsplit.blend_names import BLENDS, WEIGHTED
from stemsplit.core.blends import make_blend
from stemsplit.errors import SettingsError, UnknownNameError
from stemsplit.separation.flow import Flow
from stemsplit.separation.outputs import MIX, Output, Sum
from stemsplit.separation.separator import Separator
from stemsplit.separation.source import ArraySource, Shape
from tests.separation.flows import flow_of, separated, whole

Audio = NDArray[np.float32]


@dataclass
class Gains:
    """Each stem is the mix times a gain, at any rate and with any channels; counts its calls."""

    gains: dict[str, float]
    sample_rate: int = 44100
    channels: int = 2
    segment_samples: int = 9000
    context_samples: int = 0
    normalise: bool = False
    overlap: float | None = None
    residual: str | None = None
    calls: list[int] = field(default_factory=list)

    @property
    def stems(self) -> tuple[str, ...]:
        return tuple(self.gains)

    def __call__(self, mix: Tensor) -> Tensor:
        self.calls.append(mix.shape[-1])
        context = self.context_samples
        centre = mix[..., context : mix.shape[-1] - context]
        return torch.stack([gain * centre.abs().sqrt() * centre.sign() for gain in self.gains.values()], 1)


FOUR = {"drums": 0.1, "bass": 0.2, "other": 0.3, "vocals": 0.4}


def noise(frames: int, channels: int = 2) -> Audio:
    return 0.2 * np.random.default_rng(frames).standard_normal((channels, frames)).astype(np.float32)


def joint(audio: Audio, rate: int, flow: Flow, stems: Sequence[str]) -> Audio:
    return whole(ArraySource(audio, rate), flow, stems, Shape(rate, min(2, len(audio))))


def alone(audio: Audio, rate: int, model: Gains, stem: str) -> Audio:
    return joint(audio, rate, flow_of(model), [stem])[0]


def different() -> list[Gains]:
    """Models that differ in everything."""
    return [
        Gains(FOUR),
        Gains({"vocals": 0.9, "bass": 0.05}, sample_rate=48000, segment_samples=5000, normalise=True),
        Gains({"bass": 0.6, "guitar": 0.3}, sample_rate=16000, channels=1, segment_samples=3000, overlap=0.5),
        Gains(
            {"other": 0.2, "vocals": 0.1, "drums": 0.7},
            segment_samples=7001,
            context_samples=300,
            overlap=0.1,
        ),
    ]


@pytest.mark.parametrize("blend", BLENDS)
@pytest.mark.parametrize(("rate", "channels"), [(44100, 2), (22050, 1)])
def test_a_stream_of_models_is_the_blend_of_their_tracks(blend: str, rate: int, channels: int) -> None:
    for frames in (1, 1023, 30_011):
        audio = noise(frames, channels)
        models = different()
        weights = (1.0, 0.5, 2.0, 0.25) if blend in WEIGHTED else None
        flow = flow_of(*models, blend=blend, weights=weights)
        assert flow.stems == ("drums", "bass", "other", "vocals", "guitar")
        streamed = joint(audio, rate, flow, flow.stems)
        assert streamed.shape == (5, channels, frames)
        for stem, samples in zip(flow.stems, streamed, strict=True):
            counted = zip(models, weights or (1.0,) * 4, strict=True)
            givers = [(model, weight) for model, weight in counted if stem in model.stems]
            making = make_blend(blend if len(givers) > 1 else "avg_wave", [weight for _, weight in givers])
            parts = [torch.from_numpy(alone(audio, rate, model, stem)) for model, _ in givers]
            blended = torch.cat([making.push(parts), making.finish()], dim=-1).numpy()
            assert np.abs(samples - blended).max() < 2e-6, (stem, frames)


def test_the_other_beside_vocals_alone_is_the_accompaniment() -> None:
    four = Gains(FOUR)
    two = Gains({"vocals": 0.5, "other": 0.25})
    three = Gains({"instrumental": 0.75})
    flow = flow_of(four, two, three)
    assert flow.stems == ("drums", "bass", "other", "vocals", "no_vocals")
    audio = noise(20_000)
    other, accompaniment = joint(audio, 44100, flow, ("other", "no_vocals"))
    assert np.abs(other - alone(audio, 44100, four, "other")).max() < 1e-6
    mean = (alone(audio, 44100, two, "other") + alone(audio, 44100, three, "instrumental")) / 2
    assert np.abs(accompaniment - mean).max() < 1e-6


def test_a_residual_is_blended_like_any_stem() -> None:
    voice, both = Gains({"vocals": 0.5}, residual="other"), Gains({"vocals": 0.2, "other": 0.6})
    audio = noise(20_000)
    (rest,) = joint(audio, 44100, flow_of(voice, both), ("no_vocals",))
    expected = (audio - alone(audio, 44100, voice, "vocals") + alone(audio, 44100, both, "other")) / 2
    assert np.abs(rest - expected).max() < 1e-6


def test_outputs_may_be_sums_with_the_mix() -> None:
    audio = noise(12_345)
    outputs = [Output("vocals", Sum(("vocals",))), Output("no_vocals", Sum((MIX,), ("vocals",)))]
    for blend in ("avg_wave", "median_fft"):
        flow = flow_of(Gains(FOUR), Gains({"vocals": 0.8}), blend=blend)
        blocks = list(separated(ArraySource(audio, 44100), flow, outputs, Shape(44100, 2)))
        vocals, rest = np.concatenate(blocks, axis=-1)
        assert np.abs(vocals + rest - audio).max() < 1e-6


def test_models_run_in_lockstep() -> None:
    """Neither runs ahead of the other by more than a few chunks, whatever their segments are."""
    fast, slow = Gains({"vocals": 1.0}, segment_samples=20_000), Gains({"vocals": 0.5}, segment_samples=1000)
    audio, spread = noise(400_000), []
    outputs = [Output("vocals", Sum(("vocals",)))]
    stream = separated(ArraySource(audio, 44100), flow_of(fast, slow), outputs, Shape(44100, 2))
    done = 0
    for block in stream:
        done += block.shape[-1]
        spread.append(len(fast.calls) * 15_000 - done)
    assert done == 400_000 and max(spread) < 100_000


class TestSeparator:
    def test_several_models_are_an_ensemble(self) -> None:
        models = [Gains(FOUR), Gains({"vocals": 0.8, "instrumental": 0.1})]
        separator = Separator(models, blend="max_wave")
        assert separator.stems == ("drums", "bass", "other", "vocals", "no_vocals")
        audio = noise(20_000)
        found = separator.separate(audio, 44100)
        assert np.abs(found["vocals"] - alone(audio, 44100, models[1], "vocals")).max() < 1e-6
        assert separator.identity is None

    def test_models_that_give_nothing_that_is_wanted_are_not_loaded(self) -> None:
        models = [Gains(FOUR), Gains({"vocals": 0.8, "other": 0.1})]
        separator = Separator(models, stems=["No Vocals"])
        assert separator.stems == ("no_vocals",)
        # alone, it's still the accompaniment that it gives
        assert np.abs(separator.separate(noise(5000), 44100)["no_vocals"]).max() > 0
        assert models[1].calls and not models[0].calls

    def test_a_four_stem_model_narrowed_to_two_keeps_what_they_mean(self) -> None:
        separator = Separator(["classic", "tiny"], stems=["other", "vocals"])
        assert separator.stems == ("other", "vocals")
        both = [Separator(model, stems=["other", "vocals"]) for model in ("classic", "tiny")]
        audio = noise(20_000)
        parts = [one.separate(audio, 44100)["other"] for one in both]
        assert np.abs(separator.separate(audio, 44100)["other"] - (parts[0] + parts[1]) / 2).max() < 1e-6

    def test_one_model_in_a_list_is_that_model(self) -> None:
        audio = noise(30_000)
        one, other = Separator("classic"), Separator(["classic"])
        assert one.identity == other.identity
        for stem, samples in one.separate(audio, 44100).items():
            assert np.array_equal(other.separate(audio, 44100)[stem], samples)

    def test_it_is_pickled_with_its_blend(self) -> None:
        separator = Separator(["tiny", "classic"], blend="avg_fft", weights=[2, 1], stems=["bass"])
        again = pickle.loads(pickle.dumps(separator))
        audio = noise(30_000)
        assert again.stems == ("bass",) and again.fingerprint == separator.fingerprint
        assert np.array_equal(again.separate(audio, 44100)["bass"], separator.separate(audio, 44100)["bass"])
        assert separator.identity is not None and separator.identity.name == "tiny+classic"

    def test_what_does_not_fit_is_refused(self) -> None:
        with pytest.raises(SettingsError, match="--weights 1,2,3: 2 models need 2 weights"):
            Separator(["tiny", "classic"], weights=[1, 2, 3])
        with pytest.raises(SettingsError, match="--weights: min_fft doesn't use weights"):
            Separator(["tiny", "classic"], blend="min_fft", weights=[1, 2])
        with pytest.raises(UnknownNameError, match="no blend named 'mean'"):
            Separator(["tiny", "classic"], blend="mean")
        with pytest.raises(UnknownNameError, match="no stem named 'piano'"):
            Separator(["tiny", "classic"], stems=["piano"])
        with pytest.raises(SettingsError, match="no model"):
            Separator([])


def test_downmixed_and_mono_tracks_keep_their_shape() -> None:
    audio = noise(9000, channels=6)
    found = joint(audio, 48000, flow_of(Gains(FOUR), Gains({"vocals": 0.8})), ("vocals",))
    assert found.shape == (1, 2, 9000)
    assert convert_channels(audio, 2).shape == (2, 9000)
