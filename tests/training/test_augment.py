import itertools

import numpy as np
import pytest
import torch
from torch import Tensor

from stemsplit.training import augment
from stemsplit.training.rng import generator

RATE = 44100


def noise(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=generator(9)) * 0.1


def test_remix_uses_every_stem_once() -> None:
    order = augment.remix_order(4, 3, generator(0))
    assert order.shape == (3, 4)
    assert all(sorted(row.tolist()) == [0, 1, 2, 3] for row in order)
    assert len({tuple(row.tolist()) for row in order}) > 1  # each stem is dealt on its own


def test_remix_reaches_every_permutation() -> None:
    rng = generator(0)
    seen = {tuple(augment.remix_order(3, 1, rng)[0].tolist()) for _ in range(100)}
    assert seen == set(itertools.permutations(range(3)))


@pytest.mark.parametrize(
    ("level", "factor"), [(0, 1), (20, 10), (-20, 0.1), (6.0205999, 2), (-10, 0.31622777)]
)
def test_gain_in_decibels_by_hand(level: float, factor: float) -> None:
    assert augment.gains_db(2, generator(0), level, level).tolist() == pytest.approx([factor] * 2, rel=1e-6)


def test_gain_is_uniform_in_decibels() -> None:
    levels = 20 * augment.gains_db(4000, generator(0), -10, 10).log10()
    assert -10 <= float(levels.min()) < -9.9 and 9.9 < float(levels.max()) <= 10
    assert abs(float(levels.mean())) < 0.3 and float(levels.std()) == pytest.approx(20 / 12**0.5, rel=0.03)


def test_linear_gain_is_uniform_between_its_limits() -> None:
    factors = augment.gains_linear(4000, generator(0), 0.25, 1.25)
    assert 0.25 <= float(factors.min()) < 0.26 and 1.24 < float(factors.max()) < 1.25
    assert float(factors.mean()) == pytest.approx(0.75, abs=0.02)
    assert augment.gains_linear(1, generator(0), 0.5, 0.5).tolist() == [0.5]


def test_polarity_is_a_fair_coin() -> None:
    signs = augment.polarity_factors(2000, generator(0))
    assert set(signs.tolist()) == {-1.0, 1.0} and abs(float(signs.mean())) < 0.06


def test_drop_has_its_probability() -> None:
    kept = augment.drop_factors(5000, generator(0), 0.1)
    assert set(kept.tolist()) == {0.0, 1.0} and float(kept.mean()) == pytest.approx(0.9, abs=0.015)
    assert augment.drop_factors(3, generator(0), 0.0).tolist() == [1, 1, 1]
    assert augment.drop_factors(3, generator(0), 1.0).tolist() == [0, 0, 0]


def test_shift_of_each_stem_or_of_all() -> None:
    drawn = [augment.shifts(3, generator(i), 2, same=False) for i in range(60)]
    assert {s for shifts in drawn for s in shifts} == {0, 1, 2}
    assert any(len(set(shifts)) > 1 for shifts in drawn)
    assert all(len(set(augment.shifts(3, generator(i), 2, same=True))) == 1 for i in range(20))
    assert augment.shifts(3, generator(0), 0, same=False) == [0, 0, 0]


def test_channels_are_swapped_half_of_the_time() -> None:
    drawn = [augment.swaps(3, generator(i)) for i in range(400)]
    assert all(0.42 < np.mean([row[stem] for row in drawn]) < 0.58 for stem in range(3))
    assert {tuple(row) for row in drawn} == set(itertools.product([False, True], repeat=3))


def test_repitch_has_the_distribution_of_demucs() -> None:
    rng = generator(0)
    drawn = [augment.random_repitch(rng, 2, 0.12) for _ in range(3000)]
    assert {semitones for semitones, _ in drawn} == {-2, -1, 0, 1, 2}
    speeds = np.array([speed for _, speed in drawn])
    assert speeds.min() == 1 - 0.12 and speeds.max() == 1 + 0.12
    assert np.mean(np.abs(speeds - 1) < 0.05) == pytest.approx(0.683, abs=0.03)  # one standard deviation


def peak_hz(audio: Tensor) -> float:
    spectrum = np.abs(np.fft.rfft(audio.numpy() * np.hanning(audio.shape[-1]), 1 << 20))
    return float(spectrum.argmax() * RATE / (1 << 20))


@pytest.mark.parametrize("semitones", [-2, 0, 2])
def test_pitch_moves_and_length_stays(semitones: int) -> None:
    time = torch.arange(RATE) / RATE
    tone = torch.sin(2 * torch.pi * 440 * time).expand(1, 2, -1)
    moved = augment.repitch(tone, RATE, semitones, 1.0)
    assert moved.shape == tone.shape
    assert peak_hz(moved[0, 0]) == pytest.approx(440 * 2 ** (semitones / 12), rel=2e-3)


@pytest.mark.parametrize("speed", [0.88, 1.0, 1.05, 1.12])
def test_tempo_moves_events_and_keeps_pitch(speed: float) -> None:
    clicks = torch.zeros(1, 2, RATE)
    clicks[..., 30000] = 1
    faster = augment.repitch(clicks, RATE, 0, speed)
    assert abs(int(faster[0, 0].abs().argmax()) - 30000 / speed) <= 20  # 0.5 ms
    assert abs(faster.shape[-1] - RATE / speed) <= 1
    tone = torch.sin(2 * torch.pi * 440 * torch.arange(RATE) / RATE).expand(1, 2, -1)
    assert peak_hz(augment.repitch(tone, RATE, 0, speed)[0, 0]) == pytest.approx(440, rel=2e-3)


@pytest.mark.parametrize("speed", [0.88, 0.937, 1.0, 1.0333, 1.12])
@pytest.mark.parametrize("samples", [1000, 22050])
def test_repitch_gets_enough_samples(speed: float, samples: int) -> None:
    need = augment.repitch_samples(samples, speed)
    assert augment.repitch(noise(1, 2, need), RATE, 1, speed).shape[-1] >= samples


def test_repitch_is_repeatable_and_treats_stems_alike() -> None:
    stems = noise(1, 2, 20000).expand(2, -1, -1)
    first, again = (augment.repitch(stems, RATE, 2, 0.95) for _ in range(2))
    assert torch.equal(first, again) and torch.equal(first[0], first[1])


@pytest.mark.parametrize("codec", sorted(augment.CODECS))
@pytest.mark.parametrize("quality", [0.1, 0.5, 1.0])
@pytest.mark.parametrize("rate", [16000, 44100])
def test_codecs_keep_length_and_alignment(codec: str, quality: float, rate: int) -> None:
    time = torch.arange(12345) / rate
    audio = torch.stack([torch.sin(2 * torch.pi * f * time**1.3) for f in (300, 500)]) * 0.5
    coded = augment.lossy(audio, rate, codec, quality)
    assert coded.shape == audio.shape
    error = float((coded - audio).square().sum() / audio.square().sum())
    assert 0 < error < 0.03  # lossy, but aligned: one sample's delay alone would make 0.5 % at 16 kHz


def test_a_codec_does_not_clip() -> None:
    audio = 3 * torch.sin(2 * torch.pi * 300 * torch.arange(20000) / RATE).expand(2, -1)
    assert float(augment.lossy(audio, RATE, "mp3", 1.0).abs().max()) == pytest.approx(3, rel=0.02)


def test_codecs_and_qualities_are_random() -> None:
    rng = generator(0)
    drawn = [augment.random_codec(rng) for _ in range(200)]
    assert {name for name, _ in drawn} == set(augment.CODECS)
    assert all(0 <= quality < 1 for _, quality in drawn)


def test_peak_by_hand() -> None:
    mix, stems = torch.tensor([[0.5, -1.0]]), torch.tensor([[[2.0, 1.0]], [[-1.5, -2.0]]])
    new_mix, new_stems = augment.rescale_peak(mix, stems)
    assert new_mix.tolist() == [[0.25, -0.5]]
    assert new_stems.tolist() == [[[1.0, 0.5]], [[-0.75, -1.0]]]


def test_peak_of_silence() -> None:
    mix, stems = augment.rescale_peak(torch.zeros(2, 3), torch.zeros(1, 2, 3))
    assert not mix.any() and not stems.any()


def test_varispeed_by_hand() -> None:
    ramp = torch.arange(10.0).repeat(2, 1)
    assert augment.varispeed(ramp, 1.5, 6)[1].tolist() == [0, 1.5, 3, 4.5, 6, 7.5]
    assert augment.varispeed(ramp, 0.25, 5)[0].tolist() == [0, 0.25, 0.5, 0.75, 1]


def test_varispeed_moves_a_tone() -> None:
    tone = torch.sin(2 * torch.pi * 440 / RATE * torch.arange(RATE))[None]
    samples = 30000
    octave_down = augment.varispeed(tone, 0.5, samples)
    expected = torch.sin(2 * torch.pi * 220 / RATE * torch.arange(samples))[None]
    torch.testing.assert_close(octave_down, expected, atol=1e-3, rtol=0)


def test_enough_is_read_for_varispeed() -> None:
    for rate in (0.8409, 1.0, 1.00001, 1.1892):
        samples = augment.repitch_samples(1000, rate)
        assert augment.varispeed(noise(1, samples), rate, 1000).shape == (1, 1000)


def test_an_equaliser_has_the_gains_it_was_given() -> None:
    gains = torch.tensor([6.0, 0.0, -6.0, 3.0, 0.0, 0.0, 12.0])
    seconds = torch.arange(RATE) / RATE
    for hz, expected in (
        (20, 6.0),
        (60, 6.0),
        (60 * 2**1.4, 0.0),
        (60 * 2**2.8, -6.0),
        (60 * 2**3.5, -1.5),
        (21000, 12.0),
    ):
        tone = torch.sin(2 * torch.pi * round(hz) * seconds)[None]  # whole periods: a circle has no seam
        level = 20 * (augment.equalise(tone, RATE, gains).std() / tone.std()).log10()
        assert float(level) == pytest.approx(expected, abs=0.15)


def test_an_equaliser_without_gains_changes_nothing() -> None:
    audio = noise(2, 999)
    torch.testing.assert_close(augment.equalise(audio, RATE, torch.zeros(augment.EQ_BANDS)), audio)


def test_equaliser_gains_have_the_standard_deviation() -> None:
    curves = torch.stack([augment.random_eq_gains(generator(i), 3.0) for i in range(400)])
    assert curves.shape == (400, augment.EQ_BANDS)
    assert float(curves.std()) == pytest.approx(3.0, rel=0.05) and abs(float(curves.mean())) < 0.2


def test_solo_keeps_one_stem() -> None:
    rng = generator(0)
    seen = {tuple(augment.solo_factors(3, rng).tolist()) for _ in range(50)}
    assert seen == {(1, 0, 0), (0, 1, 0), (0, 0, 1)}
