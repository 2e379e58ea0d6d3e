import numpy as np
import pytest

from stemsplit.training.activity import ActivityMeter

METER = ActivityMeter(segment_samples=20)  # ten chunks of two samples


def test_energy_is_the_sum_of_squares_over_channels_and_time() -> None:
    audio = np.array([[1, 2, 3, 0, 5], [0, 0, 1, 1, 9]], np.float32)  # the fifth sample is no whole chunk
    assert METER.energies([audio]) == [1 + 4, 9 + 1 + 1]


@pytest.mark.parametrize("size", [1, 2, 3, 7, 50])
def test_blocks_of_any_size_give_the_same_energies(size: int) -> None:
    audio = np.random.default_rng(0).standard_normal((2, 51)).astype(np.float32)
    blocks = [audio[:, start : start + size] for start in range(0, 51, size)]
    assert METER.energies(blocks) == METER.energies([audio])


def test_segments_overlap_by_half_and_begin_at_every_fifth_chunk() -> None:
    # Louder and louder. The five segments hold 50 chunks: 1 … 5, 6 … 25 twice, 26 … 30; at 0.15 · 49 = 7.35
    # lies a 7, which three chunks of the first segment exceed and nine of the second.
    assert METER.salient_starts([float(n) for n in range(1, 31)]) == [10, 20, 30, 40]


def test_by_hand() -> None:
    # 20 chunks, segments at chunks 0, 5 and 10. All chunks of all segments, sorted: 10 × 0.5 (chunks 0 … 4
    # once, 5 … 9 twice: fifteen 0.5), then chunks 10 … 14 twice and 15 … 19 once.
    energies = [0.5] * 10 + [2.0] * 5 + [4.0] * 5
    # thirty values, fifteen of them 0.5; the quantile at 0.15 · 29 = 4.35 is 0.5, so only what exceeds 0.5
    # counts: 0 of 10, 5 of 10 (not more than half), 10 of 10.
    assert METER.salient_starts(energies) == [20]


def test_one_chunk_more_than_half() -> None:
    assert METER.salient_starts([0.5] * 5 + [2.0] * 5) == []
    assert METER.salient_starts([0.5] * 4 + [2.0] * 6) == [0]


def test_the_quantile_is_interpolated() -> None:
    # one segment of 1 … 10: position 0.15 · 9 = 1.35, value 2.35; chunks 3 … 10 exceed it
    energies = [float(n) for n in range(1, 11)]
    assert METER.salient_starts(energies) == [0]
    # 1, 1, 1, 1, then six at 1.3: position 1.35 is 1; six of ten exceed
    assert METER.salient_starts([1.0] * 4 + [1.3] * 6) == [0]


def test_quiet_tracks_are_measured_against_the_floor() -> None:
    assert METER.salient_starts([1e-3] * 10) == []  # not above γ
    assert METER.salient_starts([1e-4] * 4 + [1.01e-3] * 6) == [0]
    assert METER.salient_starts([9e-4] * 4 + [1e-3] * 6) == []


def test_silence_counts_as_epsilon() -> None:
    assert METER.salient_starts([0.0] * 40) == []
    assert METER.salient_starts([0.0] * 4 + [0.5] * 6) == [0]


def test_constant_sound_is_not_above_its_own_quantile() -> None:
    # a consequence of the definition: nothing exceeds the 15 % quantile of a constant
    assert METER.salient_starts([3.0] * 10) == []


@pytest.mark.parametrize("count", [0, 1, 9])
def test_less_than_a_segment_has_none(count: int) -> None:
    assert METER.salient_starts([1.0 + n for n in range(count)]) == []


def test_the_paper_s_segment() -> None:
    assert ActivityMeter(6 * 44100).chunk_samples == 26460
