"""The separator without weights puts simple sounds into the right stems."""

import pytest
import torch
from torch import Tensor

from stemsplit.core.stream import separate_array
from stemsplit.models import build
from stemsplit.models.classic import Classic, median

RATE = 44100


@pytest.fixture(scope="module")
def classic() -> Classic:
    network = build("classic", {})
    assert isinstance(network, Classic)
    return network


def decibels(reference: Tensor, error: Tensor) -> float:
    return float(10 * torch.log10(reference.square().sum() / error.square().sum()))


def shares(network: Classic, mix: Tensor) -> dict[str, float]:
    stems = separate_array(network, mix)
    energy = stems.square().sum(dim=(1, 2))
    return dict(zip(network.stems, (energy / energy.sum()).tolist(), strict=True))


def tone(hz: float, seconds: float = 3, pan: float = 0.5) -> Tensor:
    sine = torch.sin(2 * torch.pi * hz * torch.arange(int(seconds * RATE)) / RATE)
    return torch.stack([(1 - pan) * sine, pan * sine])


def test_a_median_of_constants_and_an_outlier() -> None:
    assert median(torch.tensor([1.0, 1, 9, 1, 1]), 3).tolist() == [1, 1, 1, 1, 1]
    assert median(torch.tensor([3.0, 1, 2]), 3).tolist() == [1, 2, 1]


@pytest.mark.parametrize("samples", [1, 1000, 4 * RATE, 7 * RATE])
def test_the_stems_sum_to_the_mix(classic: Classic, samples: int) -> None:
    mix = torch.randn(2, samples)
    assert decibels(mix, separate_array(classic, mix).sum(0) - mix) > 100


def test_clicks_are_drums(classic: Classic) -> None:
    mix = torch.zeros(2, 3 * RATE)
    mix[:, :: RATE // 2] = 1
    assert shares(classic, mix)["drums"] > 0.9


def test_a_low_tone_is_bass(classic: Classic) -> None:
    assert shares(classic, tone(60))["bass"] > 0.9


def test_a_centred_tone_is_vocals(classic: Classic) -> None:
    assert shares(classic, tone(600))["vocals"] > 0.9


def test_a_tone_at_one_side_is_other(classic: Classic) -> None:
    assert shares(classic, tone(600, pan=1.0))["other"] > 0.9


def test_silence_stays_silent(classic: Classic) -> None:
    assert not separate_array(classic, torch.zeros(2, 5000)).any()


def test_chunks_leave_no_seam(classic: Classic) -> None:
    mix = torch.randn(2, 8 * RATE)
    longer = build("classic", {"segment_s": 20.0})
    whole = separate_array(longer, mix)
    assert decibels(whole, separate_array(classic, mix) - whole) > 20


def test_a_narrowed_network_computes_the_same_stem(classic: Classic) -> None:
    mix = torch.randn(2, RATE)
    narrow = build("classic", {}).select(["vocals"])
    assert narrow.stems == ("vocals",)
    # a Fourier transform of fewer signals may round otherwise
    whole = separate_array(classic, mix)[3]
    assert decibels(whole, separate_array(narrow, mix)[0] - whole) > 100


def test_real_music_sums_to_the_mix(classic: Classic, shared_data: object) -> None:
    soundfile = pytest.importorskip("soundfile")
    samples, _ = soundfile.read(f"{shared_data}/music/rock-20s.mp3", dtype="float32", frames=8 * RATE)
    mix = torch.from_numpy(samples.T.copy())
    stems = separate_array(classic, mix)
    assert decibels(mix, stems.sum(0) - mix) > 100
    assert (stems.square().mean(dim=(1, 2)).sqrt() > 0.005).all()
