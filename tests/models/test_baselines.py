"""The separators without weights take apart mixtures that were made for them."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from stemsplit import load_model
from stemsplit.core.stream import separate_array
from stemsplit.models import build
from stemsplit.models.baselines import ICA, NMF, Repet, sparseness
from stemsplit.models.network import Network

Decibels = Callable[[Tensor, Tensor], float]
RATE = 44100
PERIOD = 88 * 512  # samples: a whole number of hops
NAMES = ["repet", "repet_sim", "nmf", "ica"]


def named_stems(name: str, mix: Tensor) -> dict[str, Tensor]:
    network = build(name, {})
    return dict(zip(network.stems, separate_array(network, mix), strict=True))


def stereo(mono: Tensor, left: float = 0.5) -> Tensor:
    return torch.stack([left * mono, (1 - left) * mono])


def above(hz: int, samples: int) -> Tensor:
    """Noise without low frequencies."""
    spectrum = torch.fft.rfft(torch.randn(samples))
    spectrum[: hz * samples // RATE] = 0
    return torch.fft.irfft(spectrum, samples)


def repeating(seconds: float) -> Tensor:
    """One bar of high noise with a rhythm, again and again."""
    beats = torch.linspace(0, 4, PERIOD).remainder(1)
    bar = above(4000, PERIOD) * torch.exp(-4 * beats)
    samples = int(seconds * RATE)
    return stereo(bar.repeat(samples // PERIOD + 1)[:samples])


def melody(seconds: float) -> Tensor:
    """Low notes of which none comes twice."""
    notes = int(seconds / 0.6) + 1
    pitches = (200 * 1.08 ** torch.randperm(notes)).repeat_interleave(int(0.6 * RATE))[: int(seconds * RATE)]
    return stereo(0.25 * torch.sin(2 * torch.pi * (pitches / RATE).cumsum(0)))


@pytest.mark.parametrize("name", ["repet", "repet_sim"])
def test_a_melody_leaves_a_periodic_background(name: str, decibels: Decibels) -> None:
    voice, background = melody(16), repeating(16)
    stems = named_stems(name, voice + background)
    late = slice(8 * RATE, 15 * RATE)  # online, nothing has been repeated at first
    assert decibels(voice[:, late], stems["vocals"][:, late]) >= 15
    assert decibels(background[:, late], stems["other"][:, late]) >= 15


def test_the_period_is_found() -> None:
    network = build("repet", {})
    assert isinstance(network, Repet)
    z = torch.stft(repeating(10)[0], 2048, 512, window=torch.hann_window(2048), return_complex=True)
    assert network.period(z.abs().square()) == 88


def test_hits_leave_held_notes(decibels: Decibels) -> None:
    samples = 8 * RATE
    hits = above(6000, samples) * torch.exp(-(torch.arange(samples) % 22050) / 800)
    time = torch.arange(samples) / RATE
    chords = [
        torch.sin(2 * torch.pi * hz * time) * (0.6 + 0.4 * torch.sin(hz * time / 90))
        for hz in (220, 331, 1567)
    ]
    drums, other = stereo(8 * hits), stereo(torch.stack(chords).sum(0), 0.3)
    stems = named_stems("nmf", drums + other)
    assert decibels(drums, stems["drums"]) >= 15 and decibels(other, stems["other"]) >= 15


@pytest.mark.parametrize("shares", [(0.9, 0.3), (0.55, 0.45), (1.0, 0.0)])
def test_sources_of_different_places_come_apart(shares: tuple[float, float], decibels: Decibels) -> None:
    left = stereo(torch.sin(torch.arange(3 * RATE) * 0.031), shares[0])
    right = stereo(torch.randn(3 * RATE) ** 3, shares[1])
    stems = named_stems("ica", left + right)
    assert decibels(left, stems["source_1"]) >= 15 and decibels(right, stems["source_2"]) >= 40


def test_the_factors_of_a_product_are_found(decibels: Decibels) -> None:
    network = build("nmf", {"components": 3, "iterations": 300})
    assert isinstance(network, NMF)
    v = torch.rand(40, 3) ** 4 @ torch.rand(3, 60) ** 4
    w, h = network.factors(v)
    assert (w >= 0).all() and (h >= 0).all() and decibels(v, w @ h) >= 30


def test_sparseness_is_from_zero_to_one() -> None:
    assert sparseness(torch.tensor([[1.0, 1, 1, 1], [0, 2, 0, 0]])).tolist() == pytest.approx(
        [0, 1], abs=1e-6
    )


@pytest.mark.parametrize("samples", [1, 17, 1000, RATE])
@pytest.mark.parametrize("name", NAMES)
def test_the_stems_sum_to_the_mix(name: str, samples: int, decibels: Decibels) -> None:
    mix = torch.randn(2, samples)
    stems = separate_array(build(name, {}), mix)
    assert stems.shape == (2, 2, samples) and decibels(mix, stems.sum(0)) > (60 if samples > 1 else 0)


@pytest.mark.parametrize("name", NAMES)
def test_silence_stays_silent(name: str) -> None:
    assert not separate_array(build(name, {}), torch.zeros(2, 5000)).any()


def test_mono_is_one_source(decibels: Decibels) -> None:
    mono = stereo(torch.randn(RATE))
    first, second = separate_array(build("ica", {}), mono)
    assert decibels(mono, first + second) >= 60


@pytest.mark.parametrize("name", NAMES)
def test_a_narrowed_separator_computes_the_same_stem(name: str) -> None:
    mix = torch.randn(2, RATE // 2)
    whole, narrow = build(name, {}), build(name, {})
    narrow.select([whole.stems[1]])
    assert torch.equal(separate_array(narrow, mix)[0], separate_array(whole, mix)[1])


@pytest.mark.parametrize(("asked", "stems"), [("repet", 2), ("repet-sim", 2), ("nmf", 2), ("ica", 2)])
def test_the_registry_names_them(asked: str, stems: int) -> None:
    network = load_model(asked)
    assert isinstance(network, Network) and len(network.stems) == stems
    assert network.segment_samples == 30 * RATE
    assert isinstance(network, ICA) == (asked == "ica")
