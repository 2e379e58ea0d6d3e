from itertools import pairwise

import pytest
import torch
from torch import Tensor

from stemsplit.training import effects
from stemsplit.training.rng import generator
from stemsplit.training.sampling import EffectsConfig

RATE = 8000
ALL = EffectsConfig(equalise=1.0, distort=1.0, compress=1.0, reverb=1.0)


def noise(*shape: int, seed: int = 0) -> Tensor:
    return 0.1 * torch.randn(*shape, generator=generator(seed))


def applied(found: list[effects.Effect], audio: Tensor, control: Tensor | None = None) -> Tensor:
    """Apply effects in order; the control signal goes through them too."""
    control = audio if control is None else control
    for effect in found:
        audio, control = effect(audio, control), effect(control, control)
    return audio


def level_db(audio: Tensor) -> float:
    return 20 * float(audio.square().mean().sqrt().log10())


@pytest.mark.parametrize("name", ["equalise", "distort", "compress", "reverb"])
def test_an_effect_changes_stems_as_it_changes_their_sum(name: str) -> None:
    stems = noise(3, 2, RATE)
    mix = stems.sum(0)
    found = effects.random_effects(generator(5), EffectsConfig(**{name: 1.0}), RATE)
    changed, parts = applied(found, mix), applied(found, stems, mix)
    assert len(found) == 1 and parts.shape == stems.shape
    assert not torch.allclose(changed, mix, atol=1e-3)
    torch.testing.assert_close(parts.sum(0), changed, atol=1e-5, rtol=1e-4)


def test_all_effects_together_still_add_up() -> None:
    stems = noise(4, 2, RATE)
    for seed in range(5):
        found = effects.random_effects(generator(seed), ALL, RATE)
        mix, parts = applied(found, stems.sum(0)), applied(found, stems, stems.sum(0))
        assert len(found) == 4 and mix.isfinite().all()
        torch.testing.assert_close(parts.sum(0), mix, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("name", ["equalise", "distort", "compress", "reverb"])
def test_silence_stays_silent(name: str) -> None:
    found = effects.random_effects(generator(1), EffectsConfig(**{name: 1.0}), RATE)
    assert not applied(found, torch.zeros(2, 900)).any()


def test_effects_have_their_probabilities() -> None:
    config = EffectsConfig(equalise=0.2, distort=0.5, compress=0.8)
    counts = [len(effects.random_effects(generator(i), config, RATE)) for i in range(600)]
    assert sum(counts) / 600 == pytest.approx(1.5, abs=0.12)
    assert effects.random_effects(generator(0), EffectsConfig(), RATE) == []
    assert not EffectsConfig().used and config.used


def test_clipping_by_hand() -> None:
    x = torch.tensor([[0.5, -0.25, 0.0]])  # the peak is 0.5: u = 2·x·d
    gain = effects.clipping_gain(x, 20 * torch.log10(torch.tensor(3.0)).item())
    driven = torch.tensor([3.0, -1.5])
    expected = driven.tanh() / torch.tensor(3.0).tanh() / torch.tensor([1.0, -0.5])
    torch.testing.assert_close(gain[0, :2], expected)
    assert gain[0, 2].item() == pytest.approx(3 / torch.tensor(3.0).tanh().item())


def test_a_compressor_makes_loud_and_soft_alike() -> None:
    steady = noise(2, 4 * RATE)
    steady[:, 2 * RATE :] *= 4  # 12 dB louder
    gain = effects.compressor_gain(steady, RATE, ratio=4.0, below_db=18.0)
    out = steady * gain
    assert gain.shape == (1, 4 * RATE)
    before = level_db(steady[:, 3 * RATE :]) - level_db(steady[:, RATE : 2 * RATE])
    after = level_db(out[:, 3 * RATE :]) - level_db(out[:, RATE : 2 * RATE])
    assert before == pytest.approx(12, abs=0.3) and after == pytest.approx(3, abs=1.0)
    assert level_db(out) == pytest.approx(level_db(steady), abs=1e-3)


def test_a_compressor_falls_faster_than_it_rises() -> None:
    falling = effects._smoothed([-10.0] * 20)
    rising = effects._smoothed([-10.0] * 200 + [0.0] * 20)[200:]
    assert -falling[1] == pytest.approx(5, abs=0.01)  # half after 10 ms
    assert rising[-1] == pytest.approx(-10 * 2 ** (-0.1 / 0.15), rel=1e-3)
    assert all(a > b for a, b in pairwise(falling))


def test_a_room_by_its_definition() -> None:
    response = effects.room_response(3, (2, 3 * RATE), RATE, decay_s=1.0, level_db=-6.0)
    assert response.shape == (2, RATE) and (response[:, 0] == 1).all()
    late = response[:, 1:]
    assert not late[:, : round(0.002 * RATE) - 1].any()
    for channel in late:
        assert 10 * float(channel.square().sum().log10()) == pytest.approx(-6, abs=1e-3)
    # 60 dB in a second are 30 dB in half of one
    drop = level_db(late[:, 1000:2000]) - level_db(late[:, 5000:6000])
    assert drop == pytest.approx(30, abs=1.5)
    assert not torch.equal(response[0], response[1])
    assert effects.room_response(3, (2, 500), RATE, 1.0, -6.0).shape == (2, 500)


def test_convolution_by_hand() -> None:
    audio = torch.tensor([[[1.0, 2.0, 3.0]], [[0.0, 1.0, 0.0]]])
    found = effects.convolve(audio, torch.tensor([[1.0, 0.5]]))
    torch.testing.assert_close(found, torch.tensor([[[1.0, 2.5, 4.0]], [[0.0, 1.0, 0.5]]]))
