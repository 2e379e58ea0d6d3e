from math import inf, log10, nan

import numpy as np
import pytest
import torch
from torch import Tensor

from stemsplit.evaluation import metrics


def signal(*channels: list[float]) -> Tensor:
    return torch.tensor(channels)


def close(actual: Tensor, expected: object) -> None:
    torch.testing.assert_close(
        actual, torch.tensor(expected, dtype=torch.float64), rtol=0, atol=1e-9, equal_nan=True
    )


REFERENCE = signal([3.0, 4.0], [0.0, 0.0])  # energy 25


def test_usdr_by_hand() -> None:
    # errors 0 and 0.5: 25 / 0.25
    close(metrics.usdr(REFERENCE, signal([3.0, 3.5], [0.0, 0.0])), 10 * log10((25 + 1e-7) / (0.25 + 1e-7)))
    # an estimate of zeros leaves the reference as the error
    close(metrics.usdr(REFERENCE, torch.zeros(2, 2)), 0.0)
    # the other channel counts: 25 / (0 + 4)
    close(metrics.usdr(REFERENCE, signal([3.0, 4.0], [2.0, 0.0])), 10 * log10((25 + 1e-7) / (4 + 1e-7)))


def test_usdr_epsilon_is_added_to_sums() -> None:
    close(metrics.usdr(REFERENCE, REFERENCE), 10 * log10((25 + 1e-7) / 1e-7))
    close(metrics.usdr(torch.zeros(2, 2), torch.zeros(2, 2)), 0.0)
    close(metrics.usdr(torch.zeros(2, 2), REFERENCE), 10 * log10(1e-7 / (25 + 1e-7)))


def test_usdr_equals_the_challenge_code_on_noise() -> None:
    reference, estimate = torch.randn(3, 2, 1000), torch.randn(3, 2, 1000)
    r, e = reference.double().numpy(), estimate.double().numpy()
    expected = 10 * np.log10((np.sum(r**2, (1, 2)) + 1e-7) / (np.sum((r - e) ** 2, (1, 2)) + 1e-7))
    torch.testing.assert_close(
        metrics.usdr(reference, estimate), torch.from_numpy(expected), rtol=0, atol=1e-6
    )


def test_si_sdr_by_hand() -> None:
    # s = (1, 0), e = (1, 1): alpha 1, target (1, 0), error (0, -1)
    close(metrics.si_sdr(signal([1.0, 0.0]), signal([1.0, 1.0])), 0.0)
    # s = (3, 4), e = (4, 4): alpha 28/25; |t|² = 31.36; |t − e|² = (−0.64)² + 0.48² = 0.64
    close(metrics.si_sdr(signal([3.0, 4.0]), signal([4.0, 4.0])), 10 * log10(31.36 / 0.64))


@pytest.mark.parametrize("gain", [0.01, 0.5, -3.0, 100.0])
def test_si_sdr_forgives_a_gain(gain: float) -> None:
    reference, estimate = torch.randn(2, 100).double(), torch.randn(2, 100).double()
    torch.testing.assert_close(
        metrics.si_sdr(reference, gain * estimate), metrics.si_sdr(reference, estimate)
    )


def test_si_sdr_has_one_gain_for_all_channels() -> None:
    reference = signal([1.0], [1.0])
    # alpha = 3/2; |t|² = 4.5; errors ±0.5: 0.5
    close(metrics.si_sdr(reference, signal([1.0], [2.0])), 10 * log10(9))


def test_si_sdr_of_silence_and_perfection() -> None:
    close(metrics.si_sdr(torch.zeros(2, 2), REFERENCE), nan)
    close(metrics.si_sdr(REFERENCE, torch.zeros(2, 2)), nan)
    close(metrics.si_sdr(REFERENCE, 2 * REFERENCE), inf)


def test_frame_sdr_by_hand() -> None:
    reference = signal([1.0, 0.0, 2.0, 0.0, 0.0, 0.0, 9.0])
    estimate = signal([0.0, 0.0, 1.0, 0.0, 1.0, 1.0, 0.0])
    # frames (1 0), (2 0), silence, and a rest that is left out
    close(metrics.frame_sdr(reference, estimate, 2), [0.0, 10 * log10((4 + 1e-7) / (1 + 1e-7)), nan])


def test_frames_longer_than_the_signal() -> None:
    close(metrics.frame_sdr(REFERENCE, torch.zeros(2, 2), 44100), [0.0])


def test_median_sdr_by_hand() -> None:
    reference = torch.ones(1, 8)
    estimate = signal([1.0, 0.0, 0.0, 0.0, 0.5, 0.5, 2.0, 3.0])  # errors of frames: 1, 2, 0.5, 5
    middle = [10 * log10((2 + 1e-7) / (e + 1e-7)) for e in (1, 2)]
    close(metrics.median_sdr(reference, estimate, 2), sum(middle) / 2)
    close(metrics.median_sdr(torch.zeros(1, 8), estimate, 2), nan)


def test_every_metric_is_batched() -> None:
    reference, estimate = torch.randn(2, 3, 2, 50), torch.randn(2, 3, 2, 50)
    reference[1, 2] = 0
    for metric in (
        metrics.usdr,
        metrics.si_sdr,
        lambda r, e: metrics.frame_sdr(r, e, 8),
        lambda r, e: metrics.median_sdr(r, e, 8),
    ):
        together = metric(reference, estimate)
        apart = torch.stack(
            [metric(reference[b, s], estimate[b, s]) for b in range(2) for s in range(3)]
        ).unflatten(0, (2, 3))
        torch.testing.assert_close(together, apart, equal_nan=True)


def test_long_songs_keep_their_precision() -> None:
    # 2^24 equal samples: a float32 running sum would stop growing
    reference = torch.full((1, 1 << 24), 0.1)
    exact = (1 << 24) * float(torch.tensor(0.1)) ** 2
    assert float(metrics.energy(reference)) == pytest.approx(exact, rel=1e-7)


@pytest.mark.parametrize(
    "values",
    [
        [3.0, 1.0, 2.0],
        [4.0, 1.0, 2.0, 3.0],
        [nan, 5.0, nan, 1.0, 2.0],
        [nan, 1.0, 4.0],
        [inf, inf, 1.0, inf],
        [1.0, inf],
        [-inf, 2.0, 3.0],
        [7.0],
        [nan],
    ],
)
@pytest.mark.filterwarnings("ignore:All-NaN slice")
def test_nan_median_is_numpys(values: list[float]) -> None:
    close(metrics.nan_median(torch.tensor(values, dtype=torch.float64)), np.nanmedian(values).item())


def test_nan_median_over_any_dimension() -> None:
    values = torch.tensor([[1.0, nan, 5.0], [3.0, nan, 2.0], [2.0, nan, nan]]).double()
    close(metrics.nan_median(values, dim=0), [2.0, nan, 3.5])
    close(metrics.nan_median(values, dim=1), [3.0, 2.5, 2.0])
    assert metrics.nan_median(torch.zeros(2, 0)).isnan().all()


def test_nan_mean() -> None:
    close(metrics.nan_mean(torch.tensor([1.0, nan, 3.0]).double()), 2.0)
    close(metrics.nan_mean(torch.tensor([nan]).double()), nan)


def test_inputs_do_not_change() -> None:
    reference, estimate = torch.randn(2, 9), torch.randn(2, 9)
    before = reference.clone(), estimate.clone()
    metrics.usdr(reference, estimate), metrics.si_sdr(reference, estimate)
    metrics.median_sdr(reference, estimate, 4)
    assert torch.equal(reference, before[0]) and torch.equal(estimate, before[1])
