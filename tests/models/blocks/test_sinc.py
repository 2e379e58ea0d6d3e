"""Resampling by a rational factor."""

import math

import pytest
import torch

from stemsplit.models.blocks.sinc import FILTERS, Resampling

RATES = [(44100, 14700), (14700, 44100), (32000, 6000), (6000, 32000), (7350, 7350), (48000, 6000)]


@pytest.mark.parametrize(("from_hz", "to_hz"), RATES)
@pytest.mark.parametrize("name", FILTERS)
def test_any_length_is_rounded_up(from_hz: int, to_hz: int, name: str) -> None:
    for samples in (1, 2, 3, 7, 50, 1001):
        y = Resampling(from_hz, to_hz, name)(torch.randn(2, 3, samples))
        assert y.shape == (2, 3, math.ceil(samples * to_hz / from_hz))


@pytest.mark.parametrize(("from_hz", "to_hz"), RATES)
@pytest.mark.parametrize("name", FILTERS)
def test_a_tone_stays_the_same_tone(from_hz: int, to_hz: int, name: str) -> None:
    tone = 2 * math.pi * 0.2 * min(from_hz, to_hz)
    x = torch.sin(tone * torch.arange(from_hz // 4, dtype=torch.float64) / from_hz).float()
    expected = torch.sin(tone * torch.arange(to_hz // 4, dtype=torch.float64) / to_hz).float()
    y = Resampling(from_hz, to_hz, name)(x)
    inner = slice(len(y) // 4, -len(y) // 4)
    assert (y - expected)[inner].abs().max() < 0.003  # the ripple of a short Kaiser window


@pytest.mark.parametrize(("from_hz", "to_hz"), RATES[:4])
@pytest.mark.parametrize("name", FILTERS)
def test_each_sample_is_the_sum_that_defines_it(from_hz: int, to_hz: int, name: str) -> None:
    x = torch.randn(60, dtype=torch.float64)
    cutoff, half, beta, unity = FILTERS[name]
    lower = min(1.0, to_hz / from_hz)
    grid = torch.arange(-4000, 4001, dtype=torch.float64) / max(Resampling(from_hz, to_hz, name).factor)

    def h(time: torch.Tensor) -> torch.Tensor:
        window = torch.i0(beta * (1 - (time / half) ** 2).clamp_min(0).sqrt()) / torch.i0(torch.tensor(beta))
        return cutoff * torch.sinc(cutoff * time) * window * (time.abs() <= half)

    gain = float(h(grid).sum() * (grid[1] - grid[0])) if unity else 1.0
    time = torch.arange(math.ceil(60 * to_hz / from_hz), dtype=torch.float64) * from_hz / to_hz
    expected = (h((time[:, None] - torch.arange(60)) * lower) * x).sum(1) * lower / gain
    y = Resampling(from_hz, to_hz, name)(x.float())
    torch.testing.assert_close(y, expected.float(), rtol=1e-4, atol=2e-5)


def test_samples_out_of_reach_change_nothing() -> None:
    for name in FILTERS:
        step = Resampling(32000, 6000, name)
        x = torch.randn(1, 3200)
        changed = x.clone()
        changed[:, 1601] += 1000
        moved = (step(changed) != step(x))[0].nonzero()[:, 0] * 32000 / 6000
        assert 0.7 * step.reach < (moved - 1601).abs().max() <= step.reach


def test_filters_made_in_inference_serve_training() -> None:
    x = torch.randn(1, 50, requires_grad=True)
    with torch.inference_mode():
        Resampling(9, 7, "polyphase")(torch.randn(1, 50))
    Resampling(9, 7, "polyphase")(x).sum().backward()
    assert x.grad is not None
