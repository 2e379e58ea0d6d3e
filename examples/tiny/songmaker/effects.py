"""Studio effects: equaliser, compressor, saturation, reverberation, echo, width and level.

Unless noted, they take and return [C, T] float32 at `RATE`; none changes its input. `F` bins.
"""

import numpy as np
import torch
from numpy.typing import NDArray

Audio = NDArray[np.float32]
Rng = np.random.Generator
RATE = 44100
_COMPRESSOR_HOP = 256  # samples between two gains


def rms(audio: Audio) -> float:
    """Return the RMS of the tenths of a second with over 5 % of the highest power; 0 for silence."""
    hop = RATE // 10
    power = np.add.reduceat(np.square(audio).mean(0), np.arange(0, audio.shape[1], hop)) / hop  # [blocks]
    loud = power[power > 0.05 * power.max()] if power.size and power.max() > 0 else power[:0]
    return float(np.sqrt(loud.mean())) if loud.size else 0.0


def level(audio: Audio, db: float) -> Audio:
    """Scale to `db` dBFS (measured by `rms`); silence stays."""
    loudness = rms(audio)
    if loudness < 1e-6:
        return audio
    louder: Audio = audio * np.float32(10 ** (db / 20) / loudness)
    return louder


def stereo(mono: NDArray[np.float32], pan: float) -> Audio:
    """Pan [T] to [2, T] with constant power; `pan` is from −1 (left) to 1 (right)."""
    angle = (pan + 1) * np.pi / 4
    return np.stack([mono * np.cos(angle), mono * np.sin(angle)]).astype(np.float32)  # [2, T]


def filtered(audio: Audio, points: dict[float, float]) -> Audio:
    """Apply a zero-phase equaliser: gains in dB by frequency in Hz, interpolated over log frequency."""
    length = _fast_length(audio.shape[1] + RATE // 10)
    hz = np.maximum(np.fft.rfftfreq(length, 1 / RATE), 1)
    at = sorted(points)
    gain_db = np.interp(np.log(hz), np.log(at), [points[f] for f in at])  # [F]
    return _multiply_spectrum(audio, length, torch.from_numpy((10 ** (gain_db / 20)).astype(np.float32)))


def _multiply_spectrum(audio: Audio, length: int, factor: torch.Tensor) -> Audio:
    """Multiply the spectrum of `length` points by `factor` [F] or [C, F], and cut to the input's length."""
    spectrum = torch.fft.rfft(torch.from_numpy(np.ascontiguousarray(audio)), length)  # [C, F]
    shaped = torch.fft.irfft(spectrum * factor, length)
    return np.asarray(shaped[:, : audio.shape[1]].numpy(), np.float32)


def _fast_length(samples: int) -> int:
    """Return the next length of the form 2ⁿ, 3·2ⁿ or 5·2ⁿ, whose FFT is fast."""
    power = 1 << (samples - 1).bit_length()
    return next(n for n in (power * 5 // 8, power * 3 // 4, power) if n >= samples)


def random_eq(audio: Audio, rng: Rng, spread_db: float = 3.0) -> Audio:
    """Apply a gentle equaliser with random gains."""
    return filtered(audio, {hz: rng.normal(0, spread_db) for hz in (60, 200, 700, 2500, 8000, 16000)})


def compressed(audio: Audio, threshold_db: float, ratio: float, release_s: float) -> Audio:
    """Apply a feed-forward compressor with instant attack, exponential release and a gain every 6 ms.

    A ratio below 1 expands: what is above the threshold gets louder.
    """
    over_db = np.maximum(20 * np.log10(_held_peaks(audio, release_s) + 1e-9) - threshold_db, 0)  # [blocks]
    return _amplified(audio, -over_db * (1 - 1 / ratio))


def ducked(audio: Audio, key: Audio, depth_db: float, release_s: float) -> Audio:
    """Lower `audio` by up to `depth_db` while the low end of `key`, its kick, is loud: a side-chain."""
    held = _held_peaks(filtered(key, {120: 0, 240: -48}), release_s)  # [blocks]
    return _amplified(audio, -depth_db * held / max(float(held.max(initial=0)), 1e-6))


def _held_peaks(audio: Audio, release_s: float) -> NDArray[np.float32]:
    """Return the peak of every `_COMPRESSOR_HOP` samples, or what is left of an earlier one, [blocks]."""
    peaks = np.maximum.reduceat(np.abs(audio).max(0), np.arange(0, audio.shape[1], _COMPRESSOR_HOP))
    held, decay = np.empty_like(peaks), np.exp(-_COMPRESSOR_HOP / RATE / release_s)
    state = 0.0
    for i, peak in enumerate(peaks):
        held[i] = state = max(float(peak), state * decay)
    return held


def _amplified(audio: Audio, gain_db: NDArray[np.float32]) -> Audio:
    """Apply a gain for every `_COMPRESSOR_HOP` samples, interpolated."""
    at = np.arange(len(gain_db)) * _COMPRESSOR_HOP
    return (audio * np.interp(np.arange(audio.shape[1]), at, 10 ** (gain_db / 20))).astype(np.float32)


def saturated(audio: Audio, drive: float) -> Audio:
    """Distort by tanh at unchanged loudness; a `drive` of 1 is gentle, 20 is a fuzz."""
    before = rms(audio)
    return audio if before < 1e-6 else level(np.tanh(audio / before * 0.3 * drive), 20 * np.log10(before))


def room(audio: Audio, wet: float, decay_s: float, rng: Rng) -> Audio:
    """Add reverberation: exponentially decaying noise, darker with time, different in left and right.

    Args:
        audio: [2, T].
        wet: loudness of the reverberation relative to the dry sound.
        decay_s: decay time to −60 dB.
        rng: source of the noise.
    """
    samples = int(decay_s * RATE)
    decay = np.exp(-6.9 * np.arange(samples) / samples)  # e^−6.9 is −60 dB
    noise = rng.standard_normal((2, samples)) * decay
    # moving sum of six samples: a low-pass
    dark = np.cumsum(noise, 1) - np.cumsum(np.pad(noise, ((0, 0), (6, 0)))[:, :samples], 1)
    impulse = np.pad(0.5 * noise + 0.2 * dark, ((0, 0), (int(rng.uniform(0.002, 0.03) * RATE), 0)))
    tail = convolved(audio, impulse.astype(np.float32))
    loudness, dry = rms(tail), rms(audio)
    return audio if loudness < 1e-9 else (audio + tail * np.float32(wet * dry / loudness))


def convolved(audio: Audio, impulse: Audio) -> Audio:
    """Convolve each channel with its impulse response, and cut to the input's length."""
    length = _fast_length(audio.shape[1] + impulse.shape[1])
    return _multiply_spectrum(audio, length, torch.fft.rfft(torch.from_numpy(impulse), length))


def echo(audio: Audio, delay_s: float, feedback: float) -> Audio:
    """Add repeats that alternate between the sides and fade by `feedback` each."""
    out, gain, samples = audio.copy(), feedback, int(delay_s * RATE)
    for n in range(1, 6):
        if n * samples >= audio.shape[1] or gain < 0.02:
            break
        source = audio[::-1] if n % 2 else audio
        out[:, n * samples :] += np.float32(gain) * source[:, : -n * samples]
        gain *= feedback
    return out


def doubled(audio: Audio, rng: Rng) -> Audio:
    """Add a chorus: two copies with slowly varying delays, left and right of the original."""
    time = np.arange(audio.shape[1])
    middle = audio.mean(0)
    sides = []
    for _ in range(2):
        rate_hz, depth_s, late_s = rng.uniform(0.1, 1.2), rng.uniform(0.0005, 0.003), rng.uniform(0.006, 0.02)
        wander = depth_s * np.sin(2 * np.pi * (rate_hz * time / RATE + rng.random()))
        sides.append(np.interp(time - (late_s + wander) * RATE, time, middle))
    return (0.7 * audio + 0.6 * np.stack(sides)).astype(np.float32)  # [2, T]


def widened(audio: Audio, width: float) -> Audio:
    """Scale the side signal of [2, T] by `width`: 0 is mono, 1 changes nothing."""
    middle, side = audio.mean(0), (audio[0] - audio[1]) / 2 * width
    return np.stack([middle + side, middle - side]).astype(np.float32)  # [2, T]
