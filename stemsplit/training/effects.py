"""Random effects of a studio: equaliser, soft clipping, compressor and reverberation.

Filters are linear, and the other effects are gains that vary with time. So an effect that is found for the
mix can be applied to each stem, and the stems still add up to the mix. `C` channels, `T` samples.
"""

from collections.abc import Callable
from math import log, tanh

import torch
from torch import Generator, Tensor
from torch.nn import functional as F

from stemsplit.training import augment
from stemsplit.training.rng import bernoulli, integer, uniform
from stemsplit.training.sampling import EffectsConfig

# An effect takes audio [..., C, T], and the signal [C, T] that controls it, and returns audio [..., C, T].
Effect = Callable[[Tensor, Tensor], Tensor]

BLOCK_S = 0.005  # the compressor measures levels of blocks of this length
ATTACK_S, RELEASE_S = 0.01, 0.15  # half-lives
MIN_RMS = 1e-5  # of a control signal; softer ones aren't compressed


def random_effects(rng: Generator, config: EffectsConfig, sample_rate: int) -> list[Effect]:
    """Draw effects with random settings, in the order in which they are applied."""
    drawn: list[Effect] = []
    if bernoulli(rng, config.equalise):
        gains_db = augment.random_eq_gains(rng, config.equalise_db)
        drawn.append(lambda audio, control: augment.equalise(audio, sample_rate, gains_db))
    if bernoulli(rng, config.distort):
        drive_db = uniform(rng, *config.drive_db)
        drawn.append(lambda audio, control: audio * clipping_gain(control, drive_db))
    if bernoulli(rng, config.compress):
        ratio, below_db = uniform(rng, *config.ratio), uniform(rng, 0, 12)
        drawn.append(lambda audio, control: audio * compressor_gain(control, sample_rate, ratio, below_db))
    if bernoulli(rng, config.reverb):
        decay_s, level_db = uniform(rng, *config.reverb_s), uniform(rng, *config.reverb_db)
        room = integer(rng, 0, 2**31)
        drawn.append(
            lambda audio, control: convolve(
                audio, room_response(room, audio.shape[-2:], sample_rate, decay_s, level_db)
            )
        )
    return drawn


def clipping_gain(control: Tensor, drive_db: float) -> Tensor:
    """Return the gain of soft clipping, y / x for y = tanh(d·x) / tanh(d) at a peak of 1.

    Args:
        control: signal x to clip, [C, T], with any peak.
        drive_db: d in dB; 0 hardly distorts.

    Returns:
        [C, T]; the peak's gain is 1, softer samples are amplified.
    """
    drive: float = 10 ** (drive_db / 20)
    driven = control / control.abs().amax().clamp(min=MIN_RMS) * drive  # d·x
    # tanh(u) / u tends to 1 for u → 0
    slope = torch.where(driven.abs() < 1e-4, torch.ones_like(driven), torch.tanh(driven) / driven)
    return slope * (drive / tanh(drive))


def compressor_gain(control: Tensor, sample_rate: int, ratio: float, below_db: float) -> Tensor:
    """Return the gain of a compressor, the same for all channels, that keeps the RMS of the control signal.

    Args:
        control: signal that is measured, [C, T].
        sample_rate: in Hz.
        ratio: change of level at the input per change at the output, above the threshold.
        below_db: threshold, so many dB below the RMS of the signal.

    Returns:
        [1, T].
    """
    samples, block = control.shape[-1], max(1, round(BLOCK_S * sample_rate))
    power = control.square().mean(0)  # [T]
    rms = power.mean().sqrt()
    if rms < MIN_RMS:
        return torch.ones(1, samples)
    blocks = F.avg_pool1d(power[None, None], block, ceil_mode=True)[0, 0]  # [blocks]
    over_db = 10 * torch.log10(blocks / rms**2 + 1e-10) + below_db  # above the threshold
    wanted_db = over_db.clamp(min=0) * (1 / ratio - 1)  # [blocks]
    smooth = torch.tensor(_smoothed(wanted_db.tolist()))
    gain = torch.pow(10, F.interpolate(smooth[None, None], samples, mode="linear") / 20)[0]  # [1, T]
    return gain * (rms / (control * gain).square().mean().sqrt())


def _smoothed(wanted_db: list[float]) -> list[float]:
    """Return gains in dB that follow `wanted_db` faster downwards (attack) than upwards (release)."""
    attack, release = 1 - 2 ** (-BLOCK_S / ATTACK_S), 1 - 2 ** (-BLOCK_S / RELEASE_S)
    found, now = [], 0.0
    for wanted in wanted_db:
        now += (wanted - now) * (attack if wanted < now else release)
        found.append(now)
    return found


def room_response(
    seed: int, shape: tuple[int, ...] | torch.Size, sample_rate: int, decay_s: float, level_db: float
) -> Tensor:
    """Return the impulse response of a room: the direct sound, and noise that decays by 60 dB in `decay_s`.

    Args:
        seed: of the noise, which differs by channel.
        shape: C and T of the audio; the response isn't longer.
        sample_rate: in Hz.
        decay_s: RT60 in seconds.
        level_db: energy of the reverberation relative to the direct sound.

    Returns:
        [C, at most T]; its first sample is 1.
    """
    rng = torch.Generator().manual_seed(seed)
    samples = max(1, min(shape[-1], round(decay_s * sample_rate)))
    time = torch.arange(samples) / sample_rate
    noise = torch.randn(shape[0], samples, generator=rng) * torch.exp(-3 * log(10) / decay_s * time)  # [C, T]
    noise[:, : round(uniform(rng, 0.002, 0.02) * sample_rate) + 1] = 0  # the first reflection comes later
    energy = noise.square().sum(-1, keepdim=True).clamp(min=1e-12)  # [C, 1]
    response = noise * (10 ** (level_db / 10) / energy).sqrt()
    response[:, 0] = 1
    return response


def convolve(audio: Tensor, response: Tensor) -> Tensor:
    """Convolve audio [..., C, T] with a response [C, n], silence preceding it, [..., C, T]."""
    samples = audio.shape[-1]
    size = 2 ** (samples + response.shape[-1] - 2).bit_length()
    spectrum = torch.fft.rfft(audio, size) * torch.fft.rfft(response, size)  # [..., C, F]
    convolved: Tensor = torch.fft.irfft(spectrum, size)[..., :samples]
    return convolved
