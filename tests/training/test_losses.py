import math
from typing import get_args

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from stemsplit.evaluation import community, metrics
from stemsplit.models.blocks.stft import stft
from stemsplit.models.network import Network
from stemsplit.models.spectral import SpectralNetwork, Transform
from stemsplit.training import criterion, losses
from stemsplit.training.learning import LossConfig, LossName, SvdConfig
from stemsplit.training.losses import Signals
from stemsplit.training.rng import generator


def pair(*shape: int) -> tuple[Signals, Signals]:
    source = generator(3)
    return tuple(Signals(torch.randn(*shape, generator=source)) for _ in range(2))  # type: ignore[return-value]


def with_spectra(signals: Signals) -> Signals:
    return Signals(signals.audio, stft(signals.audio, 64, 16))


def by_hand() -> tuple[Signals, Signals]:
    """Return two stems of one channel and two samples, with errors 1 and 3 in stem 0, 0 and 2 in stem 1."""
    return Signals(torch.tensor([[[[1.0, 5.0]], [[0.0, -2.0]]]])), Signals(
        torch.tensor([[[[2.0, 2.0]], [[0.0, 0.0]]]])
    )


def test_l1_and_mse_by_hand() -> None:
    assert losses.l1(*by_hand()).tolist() == [2.0, 1.0]
    assert losses.mse(*by_hand()).tolist() == [5.0, 2.0]


def spectral(estimate: complex, target: complex) -> tuple[Signals, Signals]:
    """Return signals of one stem with one bin each, and an audio error of 0.5."""
    return tuple(  # type: ignore[return-value]
        Signals(torch.full((1, 1, 1, 4), audio), torch.full((1, 1, 1, 1, 1), z))
        for z, audio in ((estimate, 0.5), (target, 1.0))
    )


def test_frequency_and_time_by_hand() -> None:
    assert losses.frequency_time(*spectral(3 + 1j, 1 - 2j)).tolist() == [2 + 3 + 0.5]


def test_magnitude_and_phase_by_hand() -> None:
    assert losses.magnitude(*spectral(3 + 4j, -1j)).tolist() == [4.0]
    assert losses.phase(*spectral(2j, 5 + 0j)).tolist() == pytest.approx([math.pi / 2])


def test_frequency_and_time_is_a_mean_over_bins_frames_and_channels() -> None:
    estimate, target = (with_spectra(s) for s in pair(2, 3, 2, 256))
    z = estimate.spectrogram - target.spectrogram
    expected = [
        float(z[:, s].real.abs().mean() + z[:, s].imag.abs().mean())
        + float((estimate.audio - target.audio)[:, s].abs().mean())
        for s in range(3)
    ]
    assert losses.frequency_time(estimate, target).tolist() == pytest.approx(expected, rel=1e-5)


def test_spectral_terms_refuse_signals_without_spectra() -> None:
    with pytest.raises(ValueError, match="needs spectra"):
        losses.magnitude(*pair(1, 1, 1, 8))


def test_si_sdr_by_hand() -> None:
    # ŝ = (1, 1), s = (1, 0): α = 1, |αs|² = 1, |αs − ŝ|² = 1: 0 dB. ŝ = (3, 1): α = 3, 9 to 1.
    for first, ratio in ((1.0, 1.0), (3.0, 9.0)):
        estimate, target = Signals(torch.tensor([[[[first, 1.0]]]])), Signals(torch.tensor([[[[1.0, 0.0]]]]))
        value = losses.negative_si_sdr(estimate, target)
        assert value.tolist() == pytest.approx([-10 * math.log10(ratio)], abs=1e-5)


def test_si_sdr_agrees_with_the_metric() -> None:
    estimate, target = pair(3, 2, 2, 500)
    expected = -metrics.si_sdr(target.audio, estimate.audio).mean(0)
    assert losses.negative_si_sdr(estimate, target).tolist() == pytest.approx(expected.tolist(), abs=1e-4)


def test_si_sdr_of_silence_is_finite_and_has_a_gradient() -> None:
    guess = torch.zeros(1, 1, 2, 10, requires_grad=True)
    for target in (torch.zeros(1, 1, 2, 10), torch.ones(1, 1, 2, 10)):
        value = losses.negative_si_sdr(Signals(guess), Signals(target)).sum()
        (gradient,) = torch.autograd.grad(value, guess)
        assert value.isfinite() and gradient.isfinite().all()


def test_multi_resolution_distance_is_the_sum_of_its_parts() -> None:
    estimate, target = pair(2, 2, 2, 600)
    both = losses.multi_stft([128, 64], hop=16)(estimate, target)
    parts = [losses.multi_stft([size], hop=16)(estimate, target) for size in (128, 64)]
    torch.testing.assert_close(both, parts[0] + parts[1])
    z = stft(estimate.audio, 64, 16) - stft(target.audio, 64, 16)
    torch.testing.assert_close(parts[1], z.abs().mean((0, 2, 3, 4)), rtol=1e-4, atol=1e-5)


def test_spectral_convergence_of_half_the_signal() -> None:
    # |Ŝ| = |S|/2 everywhere: ‖S/2‖ / ‖S‖ + |log 2|
    _, target = pair(1, 2, 2, 600)
    value = losses.spectral_convergence([64, 128])(Signals(target.audio / 2), target)
    assert value.tolist() == pytest.approx([2 * (0.5 + math.log(2))] * 2, rel=1e-3)


def test_a_configuration_may_name_every_loss() -> None:
    assert set(get_args(LossName)) == {*losses.LOSSES, criterion.MASK_ERROR}
    asking = {name for name, one in losses.LOSSES.items() if one.spectral}
    assert asking == {"frequency_time", "magnitude", "phase"}


@pytest.mark.parametrize("name", losses.LOSSES)
def test_every_term_is_smallest_for_the_target_and_has_finite_gradients(name: str) -> None:
    term = losses.LOSSES[name].make(LossConfig(resolutions=(64,), resolution_hop=16))
    estimate, target = pair(2, 3, 2, 1200)
    estimate.audio.requires_grad_(True)
    off = term(with_spectra(estimate), with_spectra(target))
    exact = term(with_spectra(target), with_spectra(target))
    assert off.shape == (3,) and (exact < off).all()
    off.sum().backward()
    assert estimate.audio.grad is not None and estimate.audio.grad.isfinite().all()
    silent = Signals(torch.zeros(2, 3, 2, 1200))
    assert term(with_spectra(silent), with_spectra(target)).isfinite().all()
    assert term(with_spectra(silent), with_spectra(silent)).isfinite().all()


def double(signals: Signals) -> Signals:
    """Return signals with the spectra of their audio, at a precision at which differences tell a gradient.

    The first and the last bin are real, as are those of the mirrored first and last frame: their phase jumps.
    """
    audio = signals.audio.double()
    return Signals(audio, stft(audio, 64, 16)[..., 1:-1, 1:-1])


@pytest.mark.parametrize("name", losses.LOSSES)
def test_gradients_are_those_of_finite_differences(name: str) -> None:
    term = losses.LOSSES[name].make(LossConfig(resolutions=(256, 64), resolution_hop=16, quantile=0.5))
    estimate, target = (double(one) for one in pair(3, 2, 2, 2400))
    weights, step = torch.tensor([1.0, -0.7], dtype=torch.float64), 1e-8

    def value(audio: Tensor) -> Tensor:
        return (weights * term(double(Signals(audio)), target)).sum()

    audio = estimate.audio.requires_grad_(True)
    (gradient,) = torch.autograd.grad(value(audio), audio)
    for seed in range(3):
        direction = torch.randn(audio.shape, generator=generator(seed), dtype=torch.float64)
        with torch.no_grad():
            slope = (value(audio + step * direction) - value(audio - step * direction)) / (2 * step)
        assert slope.item() != 0
        torch.testing.assert_close((gradient * direction).sum(), slope, rtol=1e-4, atol=1e-7)


def test_the_masked_error_by_hand() -> None:
    # errors of four samples of one stem: 1, 4, 9, 100; their quantile of 0.7 lies between 9 and 100
    estimate = Signals(torch.tensor([1.0, 2.0, -3.0, 10.0]).reshape(4, 1, 1, 1))
    silence = Signals(torch.zeros(4, 1, 1, 1))
    assert losses.masked_mse(0.7)(estimate, silence).tolist() == [pytest.approx(14 / 3)]
    assert losses.masked_mse(1.0)(estimate, silence).tolist() == [28.5]
    one = Signals(estimate.audio[3:])
    assert losses.masked_mse(0.5)(one, Signals(silence.audio[3:])).tolist() == [100.0]  # never nothing at all


def test_the_l1_ratio_by_hand() -> None:
    expected = [-10 * math.log10((2.0 + 1e-3) / (2.0 + 1e-3)), -10 * math.log10(1e-3 / 1.001)]
    assert losses.l1_snr(*by_hand()).tolist() == pytest.approx(expected, abs=1e-5)


def music(seed: int, samples: int = 20000) -> Tensor:
    """Return noise with a decaying spectrum, [2, T]."""
    noise = torch.randn(2, samples, generator=generator(seed))
    return torch.fft.irfft(torch.fft.rfft(noise) / (1 + torch.arange(samples // 2 + 1) / 200), samples)


def test_losses_agree_with_the_metrics_that_they_are_made_of() -> None:
    target, estimate, rest = music(0), 0.5 * music(0) + 0.3 * music(1), music(2)
    stems = Signals(torch.stack([target, rest])[None])
    guess = Signals(torch.stack([estimate, rest])[None])

    def of(term: losses.Term, estimate: Signals = guess) -> float:
        return float(term(estimate, stems)[0])

    assert of(losses.log_wmse) == pytest.approx(
        -float(community.log_wmse(target, estimate, target + rest)), rel=1e-4
    )
    bleed = community.bleed(target, estimate)
    assert 100 / (1 + of(losses.bleedless)) == pytest.approx(float(bleed.bleedless), rel=1e-4)
    assert 100 / (1 + of(losses.fullness)) == pytest.approx(float(bleed.fullness), rel=1e-4)
    # a permuted estimate is as loud as its target, so that the metric subtracts nothing for its level
    turned = target.flip(-1)
    both = [of(term, Signals(turned[None, None])) for term in (losses.l1_snr, losses.l1_snr_stft)]
    assert -sum(both) / 2 == pytest.approx(float(community.l1_snr(target, turned)), rel=1e-4)


def test_the_mixture_of_the_step_weighs_the_error() -> None:
    estimate, target = pair(1, 2, 2, 500)
    mix = 2 * target.audio.sum(1)
    alone, beside = (losses.log_wmse(estimate, Signals(target.audio, mix=m)) for m in (None, mix))
    assert (alone - beside).tolist() == pytest.approx([4 * math.log(4)] * 2, rel=1e-4)

    network, stems = Answering(), by_hand()[1].audio
    compare = criterion.Criterion(LossConfig(terms={"log_wmse": 1.0}), ("a", "b"))
    quiet, loud = (compare(network, factor * stems.sum(1), stems)[1] for factor in (1, 2))
    assert float(quiet[0] - loud[0]) == pytest.approx(4 * math.log(4), rel=1e-4)


class Answering(Network):
    """Network that always estimates stem 0 of `by_hand`, and has a constant mask error."""

    def __init__(self) -> None:
        super().__init__(None, stems=("a", "b"), sample_rate=8, channels=1, segment_samples=2)

    def estimate(self, mix: Tensor) -> Tensor:
        return by_hand()[0].audio

    def mask_error(self, mix: Tensor, target: Tensor) -> Tensor:
        return torch.tensor([[1.0, 0.0], [3.0, 8.0]])


def test_terms_add_by_factor_and_stems_by_weight() -> None:
    target = by_hand()[1].audio

    def both(terms: dict[LossName, float], weights: dict[str, float]) -> tuple[Tensor, Tensor]:
        compare = criterion.Criterion(LossConfig(terms=terms, weights=weights), ("a", "b"))
        return compare(Answering(), target.sum(1), target)

    # [2·2 + 5/2, 2·1 + 2/2] = [6.5, 3]
    loss, per_stem = both({"l1": 2.0, "mse": 0.5}, {"b": 3.0})
    assert per_stem.tolist() == [6.5, 3.0] and float(loss) == (6.5 + 9) / 4
    only, _ = both({"l1": 2.0, "mse": 0.5}, {"a": 0.0})
    assert float(only) == 3.0
    # the masks' errors are averaged over the batch: [2, 4]
    assert both({"mask_error": 0.5}, {})[1].tolist() == [1.0, 2.0]
    assert both({"l1": 1.0, "mask_error": 0.5}, {})[1].tolist() == [3.0, 3.0]


def penalty(network: nn.Module, smallest: int = 1, rank: int = 6, iterations: int = 10) -> Tensor:
    return criterion.svd_penalty(network, smallest=smallest, rank=rank, iterations=iterations)


def test_singular_values_by_hand() -> None:
    layer = nn.Linear(3, 3)
    layer.weight.data = torch.diag(torch.tensor([1.0, -3.0, 2.0]))
    value = penalty(layer)
    assert value.item() == pytest.approx(9.0, rel=1e-5)
    value.backward()
    assert layer.weight.grad is not None  # ∂σ²/∂W = 2σ·u·vᵀ, and here W₁₁ = −σ
    expected = torch.zeros(3, 3)
    expected[1, 1] = -6.0
    torch.testing.assert_close(layer.weight.grad, expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("layer", [nn.Conv1d(8, 12, 3), nn.Linear(20, 7), nn.Conv2d(3, 5, (2, 3))])
def test_largest_singular_value_is_found(layer: nn.Module) -> None:
    exact = torch.linalg.svdvals(layer.weight.detach().flatten(1))[0] ** 2  # type: ignore[operator, union-attr]
    assert penalty(layer).item() == pytest.approx(float(exact), rel=1e-3)


def test_transposed_convolutions_are_flattened_by_output_channel() -> None:
    layer = nn.ConvTranspose1d(4, 6, 5)
    exact = torch.linalg.svdvals(layer.weight.detach().transpose(0, 1).flatten(1))[0] ** 2
    assert penalty(layer).item() == pytest.approx(float(exact), rel=1e-3)


def test_small_weights_biases_and_scales_are_not_penalised() -> None:
    network = nn.Sequential(nn.Linear(10, 10), nn.LayerNorm(10), nn.Linear(4, 4))
    assert penalty(network, smallest=17).item() == pytest.approx(penalty(network[0]).item(), rel=1e-4)
    assert penalty(nn.LayerNorm(10)).item() == 0.0


class Halver(SpectralNetwork):
    """Network that estimates half of the mix's spectrogram, with an inconsistent phase."""

    def __init__(self) -> None:
        transform = Transform(64, 16)
        super().__init__(
            None, stems=("a",), sample_rate=1, channels=1, segment_samples=256, transform=transform
        )
        self.gain = nn.Parameter(torch.tensor(0.5))

    def spectrograms(self, mix: Tensor) -> Tensor:
        spectra = self.gain * self.transform.analyse(mix)[:, None]
        turns = torch.polar(torch.ones(spectra.shape[-1]), torch.arange(spectra.shape[-1]) * 2.5)
        return F.pad(spectra * turns, (0, 2))  # and two frames too many


def test_spectral_networks_are_compared_by_their_own_spectra() -> None:
    mix, target = (signals.audio for signals in pair(2, 1, 1, 256))
    network = Halver()
    compare = criterion.Criterion(LossConfig(terms={"magnitude": 1.0}), network.stems)
    loss, per_stem = compare(network, mix[:, 0], target)
    wanted = network.transform.analyse(target[:, 0])
    expected = (0.5 * network.transform.analyse(mix[:, 0]).abs() - wanted.abs()).abs().mean()
    torch.testing.assert_close(loss, expected)
    assert per_stem.tolist() == [pytest.approx(expected.item())] and not per_stem.requires_grad
    loss.backward()
    assert network.gain.grad is not None and network.gain.grad != 0


class Gain(Network):
    """Network of two stems, each the mix times a weight."""

    def __init__(self) -> None:
        super().__init__(None, stems=("a", "b"), sample_rate=1, channels=1, segment_samples=256)
        self.gains = nn.Parameter(torch.tensor([[2.0, 0.0], [1.0, 0.0]]))

    def estimate(self, mix: Tensor) -> Tensor:
        return self.gains[:, 0, None, None] * mix[:, None]


def criterion_of(**config: object) -> criterion.Criterion:
    return criterion.Criterion(LossConfig(**config), ("a", "b"))  # type: ignore[arg-type]


def test_the_criterion_by_hand() -> None:
    mix, target = torch.tensor([[[1.0, -1.0]]]), torch.tensor([[[[1.0, 1.0]], [[1.0, -1.0]]]])
    loss, per_stem = criterion_of()(Gain(), mix, target)  # |2 − 1|, |−2 − 1| and 0, 0
    assert per_stem.tolist() == [2.0, 0.0] and loss.item() == 1.0
    loss, _ = criterion_of(weights={"b": 0.0})(Gain(), mix, target)
    assert loss.item() == 2.0
    loss, _ = criterion_of(terms={"l1": 0.5, "mse": 1.0})(Gain(), mix, target)
    assert loss.item() == (0.5 * 2 + 5) / 2
    svd = SvdConfig(penalty=0.1, smallest=1, rank=2, iterations=3)
    loss, _ = criterion_of(svd=svd)(Gain(), mix, target)  # the only singular value is √5
    assert loss.item() == pytest.approx(1 + 0.1 * 5, rel=1e-5)


def test_other_networks_are_compared_by_the_stft_of_their_audio() -> None:
    mix, target = torch.randn(2, 1, 256), torch.randn(2, 2, 1, 256)
    loss, _ = criterion_of(terms={"magnitude": 1.0}, fft=64, hop=16)(Gain(), mix, target)
    estimate = stft(Gain().estimate(mix), 64, 16).abs()
    torch.testing.assert_close(loss, (estimate - stft(target, 64, 16).abs()).abs().mean())
