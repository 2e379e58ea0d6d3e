"""Wiener filtering against the textbook formulas, solved bin by bin in float64."""

import numpy as np
import pytest
import torch
from torch import Tensor

from stemsplit.models.blocks.wiener import wiener


def spectra(channels: int, frames: int = 307, stems: int = 3, gain: float = 1.0) -> tuple[Tensor, Tensor]:
    """Magnitudes [2, S, C, 5, frames] and a mix [2, C, 5, frames], in double precision."""
    generator = torch.Generator().manual_seed(1)
    parts = torch.randn(2, stems, channels, 5, frames, dtype=torch.cdouble, generator=generator) * gain
    errors = 0.5 + torch.rand(parts.shape, dtype=torch.double, generator=generator)
    return parts.abs() * errors, parts.sum(1)


def textbook(magnitudes: Tensor, mix: Tensor, iterations: int, softmask: bool, residual: bool) -> Tensor:
    """One window of one item: magnitudes [S, C, F, frames], mix [C, F, frames]."""
    y = magnitudes.numpy() * np.exp(1j * np.angle(mix.numpy()))
    if softmask:
        y = mix.numpy() * magnitudes.numpy() / (1e-10 + magnitudes.numpy().sum(0))
    if residual:
        y = np.concatenate([y, (mix.numpy() - y.sum(0))[None]])
    scale = max(1.0, np.abs(mix.numpy()).max() / 10) if iterations else 1.0
    x, y = mix.numpy() / scale, y / scale
    for _ in range(iterations):
        power = (np.abs(y) ** 2).mean(1)
        new = np.zeros_like(y)
        for f in range(x.shape[1]):
            spatial = np.stack([s[:, f] @ s[:, f].conj().T for s in y])
            spatial = spatial / (1e-10 + power[:, f].sum(-1))[:, None, None]
            for t in range(x.shape[2]):
                total = np.einsum("s,scd->cd", power[:, f, t], spatial) + 1e-5 * np.eye(len(x))
                z = np.linalg.solve(total, x[:, f, t])
                new[:, :, f, t] = power[:, f, t, None] * (spatial @ z)
        y = new
    return torch.from_numpy(y * scale)


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("iterations", [0, 1, 2])
@pytest.mark.parametrize(("softmask", "residual"), [(False, False), (True, False), (False, True)])
def test_equals_the_formulas(channels: int, iterations: int, softmask: bool, residual: bool) -> None:
    magnitudes, mix = spectra(channels, gain=4.0)
    out = wiener(magnitudes, mix, iterations=iterations, softmask=softmask, residual=residual)
    for item in range(2):
        for window in (slice(0, 300), slice(300, 307)):
            expected = textbook(
                magnitudes[item, ..., window], mix[item, ..., window], iterations, softmask, residual
            )
            torch.testing.assert_close(out[item, ..., window], expected, rtol=1e-9, atol=1e-9)


def test_scaling_starts_at_a_magnitude_of_ten() -> None:
    magnitudes, mix = spectra(2, frames=50)
    gain = 9.9 / mix[0].abs().max()
    quiet, loud = mix * gain, mix * gain * 2
    for x, m in ((quiet, magnitudes * gain), (loud, magnitudes * gain * 2)):
        expected = textbook(m[0], x[0], 1, False, False)
        torch.testing.assert_close(wiener(m, x, iterations=1)[0], expected, rtol=1e-9, atol=1e-9)


def test_items_of_a_batch_dont_touch_each_other() -> None:
    magnitudes, mix = spectra(2, frames=20)
    magnitudes[1] *= 100
    mix[1] *= 100
    both = wiener(magnitudes, mix, iterations=1)
    alone = wiener(magnitudes[:1], mix[:1], iterations=1)
    torch.testing.assert_close(both[:1], alone, rtol=1e-12, atol=1e-12)


def test_first_guess_with_residual_sums_to_the_mix() -> None:
    magnitudes, mix = spectra(2, frames=20)
    out = wiener(magnitudes, mix, iterations=0, residual=True)
    assert out.shape[1] == 4
    torch.testing.assert_close(out.sum(1), mix)


@pytest.mark.parametrize("iterations", [0, 1, 3])
def test_silence_stays_silent(iterations: int) -> None:
    out = wiener(
        torch.zeros(1, 2, 2, 3, 4), torch.zeros(1, 2, 3, 4, dtype=torch.cfloat), iterations=iterations
    )
    assert torch.equal(out, torch.zeros_like(out))


def test_an_empty_bin_has_phase_zero() -> None:
    out = wiener(torch.full((1, 1, 1, 1, 1), 3.0), torch.zeros(1, 1, 1, 1, dtype=torch.cfloat), iterations=0)
    assert out.item() == 3


@pytest.mark.parametrize("softmask", [False, True])
def test_identical_channels_stay_finite(softmask: bool) -> None:
    # Both covariances have rank one: every determinant is nothing but ε and rounding.
    magnitudes, mix = spectra(2, gain=30.0)
    mix = mix[:, :1].expand(-1, 2, -1, -1).to(torch.cfloat)
    magnitudes = magnitudes[:, :, :1].expand(-1, -1, 2, -1, -1).float()
    out = wiener(magnitudes, mix, iterations=3, softmask=softmask)
    assert out.isfinite().all()
    assert out.abs().amax() < 10 * mix.abs().amax()


def test_gradients_are_finite_even_in_silence() -> None:
    magnitudes, mix = spectra(2, frames=8)
    magnitudes[..., :3], mix[..., :3] = 0, 0
    magnitudes.requires_grad_()
    wiener(magnitudes, mix, iterations=2).abs().square().sum().backward()
    assert magnitudes.grad is not None
    assert magnitudes.grad.isfinite().all()
    assert magnitudes.grad[..., 3:].abs().amax() > 0
