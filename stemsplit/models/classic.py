"""A separator without weights, as a baseline for the networks.

Percussive sounds are vertical lines of a spectrogram and harmonic sounds horizontal ones, so two median
filters tell them apart (Fitzgerald, "Harmonic/percussive separation using median filtering", 2010). The
percussive part is the drums. The lowest band of the harmonic part is the bass, its centre the vocals, its
rest the other stem. The four masks sum to one, so the stems sum to the mix.

Legend: `B` batch, `S` stems, `F` bins, `T` samples.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from stemsplit.models.network import Network

TINY = 1e-12  # keeps 0/0 of silence finite


@dataclass(frozen=True)
class ClassicArguments:
    """Sizes of the STFT and of the filters.

    Attributes:
        sample_rate: in Hz.
        fft: window of the STFT in samples; the hop is a quarter.
        harmonic_frames: length of the median filter along time, odd.
        percussive_bins: length of the median filter along frequency, odd.
        bass_hz: half-power frequency of the low-pass for the bass.
        segment_s: length of a chunk, in s.
    """

    sample_rate: int = 44100
    fft: int = 4096
    harmonic_frames: int = 17
    percussive_bins: int = 31
    bass_hz: float = 180.0
    segment_s: float = 6.0


class Classic(Network):
    """Soft masks on one STFT: harmonic/percussive, low/high, centre/side."""

    Arguments = ClassicArguments
    arguments: ClassicArguments
    window: Tensor
    low: Tensor

    def __init__(self, arguments: ClassicArguments) -> None:
        a = arguments
        super().__init__(
            a,
            stems=("drums", "bass", "other", "vocals"),
            sample_rate=a.sample_rate,
            channels=2,
            segment_samples=int(a.segment_s * a.sample_rate),
        )
        self.hop = a.fft // 4
        # Half the median filter, and four hops for windows that reach over the chunk's ends.
        self.context_samples = (a.harmonic_frames // 2 + 4) * self.hop
        hz = torch.fft.rfftfreq(a.fft, 1 / a.sample_rate)
        self.register_buffer("window", torch.hann_window(a.fft), persistent=False)
        # Power response of a Butterworth low-pass of order 4: 1/(1 + (f/f₀)⁸), [F, 1].
        self.register_buffer("low", (1 / (1 + (hz / a.bass_hz) ** 8))[:, None], persistent=False)

    def padded_samples(self, samples: int) -> int:
        """Return P(n): the chunk and all of its context."""
        return samples + 2 * self.context_samples

    def estimate(self, mix: Tensor) -> Tensor:
        """[B, 2, T] -> [B, S, 2, T]."""
        batch, channels, samples = mix.shape
        spectrum = self._stft(mix.flatten(0, 1))  # [B·2, F, frames]
        spectrum = spectrum.view(batch, channels, *spectrum.shape[1:])  # [B, 2, F, frames]
        masks = self.masks(spectrum)[:, list(self.kept), None]  # [B, S, 1, F, frames]
        stems = (masks * spectrum[:, None]).flatten(0, 2)  # [B·S·2, F, frames]
        audio = torch.istft(stems, self.arguments.fft, self.hop, window=self.window, length=samples)
        return audio.view(batch, len(self.kept), channels, samples)  # [B, S, 2, T]

    def _stft(self, mix: Tensor) -> Tensor:
        # Padded with zeros: a reflection needs more samples than a short track has.
        return torch.stft(
            mix, self.arguments.fft, self.hop, window=self.window, pad_mode="constant", return_complex=True
        )

    def masks(self, spectrum: Tensor) -> Tensor:
        """Return the mask of every stem.

        Args:
            spectrum: complex [B, 2, F, frames].

        Returns:
            [B, 4, F, frames], in [0, 1], summing to one over the stems.
        """
        left, right = spectrum.unbind(1)  # [B, F, frames] each
        power = left.abs().square() + right.abs().square()
        # 1 where both channels agree in level and phase, 0 where they have nothing in common:
        # (2 Re(L·R*) / (|L|² + |R|²))², negative correlations counting as none.
        centre = (2 * (left * right.conj()).real / (power + TINY)).clamp(0, 1).square()
        magnitude = power.sqrt()
        harmonic = median(magnitude, self.arguments.harmonic_frames).square()
        percussive = median(magnitude.mT, self.arguments.percussive_bins).mT.square()
        drums = percussive / (harmonic + percussive + TINY)
        bass = (1 - drums) * self.low
        vocals = (1 - drums - bass) * centre
        return torch.stack([drums, bass, 1 - drums - bass - vocals, vocals], dim=1)  # [B, 4, F, frames]


def median(x: Tensor, length: int) -> Tensor:
    """Running median of odd `length` along the last axis, zeros beyond the ends: [..., n] -> [..., n]."""
    windows = F.pad(x, (length // 2, length // 2)).unfold(-1, length, 1)  # [..., n, length]
    return windows.median(dim=-1).values
