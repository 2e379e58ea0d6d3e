"""Fourier operators against their formulas."""

import torch

from stemsplit.models.blocks.bands import linear_bands
from stemsplit.models.blocks.fourier import (
    MODES,
    FourierMaskEstimator,
    FourierOperator,
    SpectralConvolution,
)


def wave(cycles: int, frames: int, phase: float = 0.0) -> torch.Tensor:
    """[1, 1, frames]."""
    turns = cycles * torch.arange(frames, dtype=torch.float64) / frames
    return torch.cos(2 * torch.pi * turns + phase).float().view(1, 1, -1)


@torch.inference_mode()
def test_a_wave_is_scaled_and_delayed_by_its_factor() -> None:
    layer = SpectralConvolution(1)
    layer.bias.zero_()
    for frames in (70, 101):
        for cycles in (1, MODES - 1):
            factor = layer.weight["tensor"][0, cycles]
            expected = factor.abs() * wave(cycles, frames, float(factor.angle()))
            torch.testing.assert_close(layer(wave(cycles, frames)), expected, rtol=0, atol=1e-5)
        torch.testing.assert_close(layer(wave(MODES, frames)), torch.zeros(1, 1, frames), rtol=0, atol=1e-5)


@torch.inference_mode()
def test_a_constant_is_scaled_by_the_real_part_of_the_first_factor() -> None:
    layer = SpectralConvolution(2)
    for frames in (1, 2, 5, 200):
        x = torch.randn(1, 2, 1).expand(1, 2, frames)
        expected = layer.weight["tensor"][:, :1].real * x + layer.bias
        torch.testing.assert_close(layer(x), expected, rtol=0, atol=1e-5)


@torch.inference_mode()
def test_the_same_frames_of_a_longer_chunk_give_something_else() -> None:
    operator, x = FourierOperator(4, 6), torch.randn(1, 4, 80)
    assert not torch.allclose(operator(x)[..., :40], operator(x[..., :40]), atol=1e-3)


@torch.inference_mode()
def test_estimators_see_their_band_only() -> None:
    estimator, x = FourierMaskEstimator(linear_bands([1, 2], 3), 2, 4), torch.randn(2, 9, 2, 4)
    masks = estimator(x)
    assert masks.shape == (2, 9, 6)
    x[:, :, 1] = 0
    assert torch.equal(estimator(x)[..., :2], masks[..., :2])
    assert not torch.allclose(estimator(x)[..., 2:], masks[..., 2:])


def test_factors_stay_complex_and_train() -> None:
    operator = FourierOperator(4, 6)
    operator(torch.randn(1, 4, 80)).square().sum().backward()
    complex_names = [name for name, p in operator.named_parameters() if p.is_complex()]
    assert complex_names == [f"fno_blocks.convs.{i}.weight.tensor" for i in range(3)]
    for name, parameter in operator.named_parameters():
        assert parameter.grad is not None and bool(parameter.grad.abs().sum() > 0), name
