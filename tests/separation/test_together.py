"""Networks of different families together: a stream of them equals whole tracks through each of them."""

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from stemsplit.audio.channels import convert_channels
from stemsplit.audio.resample import resample
from stemsplit.core.blends import make_blend
from stemsplit.core.stream import PerChannel, separate_array
from stemsplit.hub.recipes import Recipe, Step
from stemsplit.models.network import Network
from stemsplit.separation.source import ArraySource, Shape
from tests.separation.flows import flow_of, whole
from tests.separation.networks import small

Audio = NDArray[np.float32]
RATE, FRAMES = 44_100, 300_011


def song(frames: int = FRAMES) -> Audio:
    time = np.arange(frames) / RATE
    tones = sum(np.sin(2 * np.pi * hz * time * (1 + 0.1 * np.sin(time))) for hz in (110, 220, 1500))
    noise = np.random.default_rng(0).standard_normal((2, frames))
    return (0.05 * np.stack([tones, 0.5 * tones]) + 0.05 * noise).astype(np.float32)


def alone(audio: Audio, network: Network) -> dict[str, Audio]:
    """Return every stem of a whole track, separated in memory."""
    model = PerChannel(network, 2) if network.channels == 1 else network
    mix = resample(convert_channels(audio, model.channels), RATE, network.sample_rate)
    stems = separate_array(model, torch.from_numpy(np.ascontiguousarray(mix))).numpy()
    back = [resample(stem, network.sample_rate, RATE, audio.shape[-1]) for stem in stems]
    return dict(zip(network.stems, back, strict=True))


def blended(blend: str, *parts: Audio) -> Audio:
    making = make_blend(blend, [1.0] * len(parts))
    pushed = making.push([torch.from_numpy(part) for part in parts])
    found: Audio = torch.cat([pushed, making.finish()], dim=-1).numpy()
    return found


def agreement_db(found: Audio, expected: Audio) -> float:
    error = float(np.square(found.astype(float) - expected).sum())
    return 200.0 if error == 0 else 10 * float(np.log10(np.square(expected.astype(float)).sum() / error))


@pytest.mark.parametrize("blend", ["avg_wave", "median_wave", "avg_fft", "max_fft"])
def test_an_ensemble_of_four_families(blend: str) -> None:
    networks = {name: small(name) for name in ("htdemucs", "bs_roformer", "openunmix", "mono16k")}
    assert [network.sample_rate for network in networks.values()] == [44_100, 44_100, 48_000, 16_000]
    flow = flow_of(*networks.values(), blend=blend)
    assert flow.stems == ("drums", "bass", "other", "vocals", "no_vocals")
    audio = song()
    streamed = whole(ArraySource(audio, RATE), flow, flow.stems, Shape(RATE, 2))
    found = dict(zip(flow.stems, streamed, strict=True))
    stems = {name: alone(audio, network) for name, network in networks.items()}
    expected = {
        "drums": stems["htdemucs"]["drums"],
        "bass": blended(blend, stems["htdemucs"]["bass"], stems["openunmix"]["bass"]),
        "other": stems["htdemucs"]["other"],
        "vocals": blended(blend, *(found["vocals"] for found in stems.values())),
        "no_vocals": stems["mono16k"]["other"],
    }
    for name, samples in expected.items():
        assert np.square(samples).mean() > 1e-9
        assert agreement_db(found[name], samples) >= 120, name


def test_a_chain_with_a_fork() -> None:
    """vocals -> lead, backing and vocals -> dry, reverb by a network that normalises over the whole track."""
    first, parts, room = small("htdemucs"), small("parts"), small("room")
    assert room.normalise and not parts.normalise
    steps = (Step((first,), name="a"), Step((parts,), input="a.vocals"), Step((room,), input="a.vocals"))
    flow = flow_of(Recipe(steps))
    audio = song()
    streamed = whole(ArraySource(audio, RATE), flow, flow.stems, Shape(RATE, 2))
    found = dict(zip(flow.stems, streamed, strict=True))
    mix = alone(audio, first)
    expected = {"drums": mix["drums"]}
    expected |= {f"vocals.{name}": stem for name, stem in alone(mix["vocals"], parts).items()}
    expected |= {f"vocals.{name}": stem for name, stem in alone(mix["vocals"], room).items()}
    for name, samples in expected.items():
        assert np.square(samples).mean() > 1e-9
        assert agreement_db(found[name], samples) >= 120, name
    in_turn = whole(ArraySource(audio, RATE), flow, flow.stems, Shape(RATE, 2), sequential=True)
    assert in_turn.tobytes() == streamed.tobytes()
