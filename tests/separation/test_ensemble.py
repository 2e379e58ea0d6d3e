"""Several models over one track: equal to blending whole tracks, and stems meet by what they mean."""

import pickle
from dataclasses import dataclass, field

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from stemsplit.audio.channels import convert_channels
from stemsplit.core.blends import make_blend
from stemsplit.errors import SettingsError, UnknownNameError
from stemsplit.separation.ensemble import Member, joint_stems, separate_ensemble
from stemsplit.separation.mixes import MIX, Output
from stemsplit.separation.separator import Separator
from stemsplit.separation.source import ArraySource, Shape
from stemsplit.separation.track import separate_track
from stemsplit.settings import BLENDS
from stemsplit.stems import meanings

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


def members(*models: Gains, weights: tuple[float, ...] | None = None) -> list[Member]:
    counted = weights or (1.0,) * len(models)
    return [Member(m, meanings(m.stems), weight=w) for m, w in zip(models, counted, strict=True)]


def noise(frames: int, channels: int = 2) -> Audio:
    return 0.2 * np.random.default_rng(frames).standard_normal((channels, frames)).astype(np.float32)


def ensemble(audio: Audio, rate: int, found: list[Member], blend: str, stems: tuple[str, ...]) -> Audio:
    outputs = [Output(stem, (stem,)) for stem in stems]
    shape = Shape(rate, min(2, len(audio)))
    blocks = list(separate_ensemble(ArraySource(audio, rate), found, outputs, shape, blend=blend))
    return np.concatenate([np.zeros((len(stems), shape.channels, 0), np.float32), *blocks], axis=-1)


def alone(audio: Audio, rate: int, model: Gains, stem: str) -> Audio:
    shape = Shape(rate, min(2, len(audio)))
    blocks = list(separate_track(ArraySource(audio, rate), model, [Output(stem, (stem,))], shape))
    return np.concatenate([np.zeros((1, shape.channels, 0), np.float32), *blocks], axis=-1)[0]


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
        found = members(*models, weights=(1.0, 0.5, 2.0, 0.25))
        assert joint_stems(found) == ("drums", "bass", "other", "vocals", "guitar")
        streamed = ensemble(audio, rate, found, blend, joint_stems(found))
        assert streamed.shape == (5, channels, frames)
        for stem, samples in zip(joint_stems(found), streamed, strict=True):
            givers = [member for member in found if stem in member.stems]
            making = make_blend(blend if len(givers) > 1 else "avg_wave", [one.weight for one in givers])
            parts = [torch.from_numpy(alone(audio, rate, one.model, stem)) for one in givers]
            whole = torch.cat([making.push(parts), making.finish()], dim=-1).numpy()
            assert np.abs(samples - whole).max() < 2e-6, (stem, frames)


def test_the_other_beside_vocals_alone_is_the_accompaniment() -> None:
    four = Gains(FOUR)
    two = Gains({"vocals": 0.5, "other": 0.25})
    three = Gains({"instrumental": 0.75})
    found = members(four, two, three)
    assert joint_stems(found) == ("drums", "bass", "other", "vocals", "no_vocals")
    audio = noise(20_000)
    other, accompaniment = ensemble(audio, 44100, found, "avg_wave", ("other", "no_vocals"))
    assert np.abs(other - alone(audio, 44100, four, "other")).max() < 1e-6
    mean = (alone(audio, 44100, two, "other") + alone(audio, 44100, three, "instrumental")) / 2
    assert np.abs(accompaniment - mean).max() < 1e-6


def test_a_residual_is_blended_like_any_stem() -> None:
    voice, both = Gains({"vocals": 0.5}), Gains({"vocals": 0.2, "other": 0.6})
    found = [
        Member(voice, meanings(("vocals", "other")), residual="other"),
        Member(both, meanings(both.stems)),
    ]
    audio = noise(20_000)
    (rest,) = ensemble(audio, 44100, found, "avg_wave", ("no_vocals",))
    expected = (audio - alone(audio, 44100, voice, "vocals") + alone(audio, 44100, both, "other")) / 2
    assert np.abs(rest - expected).max() < 1e-6


def test_outputs_may_be_sums_with_the_mix() -> None:
    found = members(Gains(FOUR), Gains({"vocals": 0.8}))
    audio = noise(12_345)
    outputs = [Output("vocals", ("vocals",)), Output("no_vocals", (MIX,), ("vocals",))]
    for blend in ("avg_wave", "median_fft"):
        blocks = list(
            separate_ensemble(ArraySource(audio, 44100), found, outputs, Shape(44100, 2), blend=blend)
        )
        vocals, rest = np.concatenate(blocks, axis=-1)
        assert np.abs(vocals + rest - audio).max() < 1e-6


def test_models_run_in_lockstep() -> None:
    """Neither runs ahead of the other by more than a few chunks, whatever their segments are."""
    fast, slow = Gains({"vocals": 1.0}, segment_samples=20_000), Gains({"vocals": 0.5}, segment_samples=1000)
    audio, spread = noise(400_000), []
    stream = separate_ensemble(
        ArraySource(audio, 44100), members(fast, slow), [Output("vocals", ("vocals",))], Shape(44100, 2)
    )
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
        assert separator.stems == ("no_vocals",) and [one.model for one in separator.members] == models[1:]
        # alone, it's still the accompaniment that it gives
        assert np.abs(separator.separate(noise(5000), 44100)["no_vocals"]).max() > 0

    def test_a_four_stem_model_narrowed_to_two_keeps_what_they_mean(self) -> None:
        separator = Separator(["classic", "tiny"], stems=["other", "vocals"])
        assert separator.stems == ("other", "vocals")
        assert [one.stems for one in separator.members] == [("other", "vocals")] * 2

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
        assert (again.blend, again.stems) == ("avg_fft", ("bass",))
        assert np.array_equal(again.separate(audio, 44100)["bass"], separator.separate(audio, 44100)["bass"])
        assert separator.identity is not None and separator.identity.name == "tiny+classic"

    def test_what_does_not_fit_is_refused(self) -> None:
        with pytest.raises(SettingsError, match="--weights 1,2,3: 2 models need 2 weights"):
            Separator(["tiny", "classic"], weights=[1, 2, 3])
        with pytest.raises(SettingsError, match="--weights: min_fft has none"):
            Separator(["tiny", "classic"], blend="min_fft", weights=[1, 2])
        with pytest.raises(UnknownNameError, match="no blend named 'mean'"):
            Separator(["tiny", "classic"], blend="mean")
        with pytest.raises(UnknownNameError, match="no stem named 'piano'"):
            Separator(["tiny", "classic"], stems=["piano"])
        with pytest.raises(SettingsError, match="no model"):
            Separator([])


def test_downmixed_and_mono_tracks_keep_their_shape() -> None:
    audio = noise(9000, channels=6)
    found = ensemble(audio, 48000, members(Gains(FOUR), Gains({"vocals": 0.8})), "avg_wave", ("vocals",))
    assert found.shape == (1, 2, 9000)
    assert convert_channels(audio, 2).shape == (2, 9000)
