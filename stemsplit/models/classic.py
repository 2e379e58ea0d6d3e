"""A separator without weights: the baseline that every network must beat.

Percussive sounds are vertical lines of a spectrogram and harmonic ones horizontal lines, so that two median
filters tell them apart (Fitzgerald 2010). Of the harmonic part the lowest band is called bass, what is panned
to the centre is called vocals, and the rest is called other. The four masks sum to one, so do the stems.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from stemsplit.models.network import Network

TINY = 1e-12


@dataclass(frozen=True)
class ClassicArguments:
    """Sizes of the analysis.

    Attributes:
        sample_rate: in Hz.
        fft: window of the STFT in samples; its hop is a quarter.
        harmonic_frames: length of the median filter along time.
        percussive_bins: length of the median filter along frequency.
        bass_hz: where the low band ends (half power).
        segment_s: length of a chunk.
    """

    sample_rate: int = 44100
    fft: int = 4096
    harmonic_frames: int = 17
    percussive_bins: int = 31
    bass_hz: float = 180.0
    segment_s: float = 6.0


class Classic(Network):
    """Harmonic/percussive, low/high and centre/side soft masks on one STFT."""

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
        # Enough for the median along time and for the windows that reach over the chunk's ends.
        self.context_samples = (a.harmonic_frames // 2 + 4) * self.hop
        hz = torch.fft.rfftfreq(a.fft, 1 / a.sample_rate)
        self.register_buffer("window", torch.hann_window(a.fft), persistent=False)
        # Butterworth power response of order 4.
        self.register_buffer("low", (1 / (1 + (hz / a.bass_hz) ** 8))[:, None], persistent=False)

    def padded_samples(self, samples: int) -> int:
        """A chunk and all of its context."""
        return samples + 2 * self.context_samples

    def estimate(self, mix: Tensor) -> Tensor:
        """[B, 2, T] to [B, S, 2, T]."""
        batch, channels, samples = mix.shape
        spectrum = self._stft(mix.flatten(0, 1))
        spectrum = spectrum.view(batch, channels, *spectrum.shape[1:])
        masks = self.masks(spectrum)[:, list(self.kept), None]
        stems = (masks * spectrum[:, None]).flatten(0, 2)
        audio = torch.istft(stems, self.arguments.fft, self.hop, window=self.window, length=samples)
        return audio.view(batch, len(self.kept), channels, samples)

    def _stft(self, mix: Tensor) -> Tensor:
        # Zeros, because a reflection needs more samples than a short track has.
        return torch.stft(
            mix, self.arguments.fft, self.hop, window=self.window, pad_mode="constant", return_complex=True
        )

    def masks(self, spectrum: Tensor) -> Tensor:
        """The share of every stem in every bin.

        Args:
            spectrum: complex [B, 2, F, frames].

        Returns:
            [B, 4, F, frames], in [0, 1], summing to one over the stems.
        """
        left, right = spectrum.unbind(1)
        power = left.abs().square() + right.abs().square()
        # 1 where both channels agree in level and phase, 0 where they have nothing in common.
        centre = (2 * (left * right.conj()).real / (power + TINY)).clamp(0, 1).square()
        magnitude = power.sqrt()
        harmonic = median(magnitude, self.arguments.harmonic_frames).square()
        percussive = median(magnitude.mT, self.arguments.percussive_bins).mT.square()
        drums = percussive / (harmonic + percussive + TINY)
        bass = (1 - drums) * self.low
        vocals = (1 - drums - bass) * centre
        return torch.stack([drums, bass, 1 - drums - bass - vocals, vocals], dim=1)


def median(x: Tensor, length: int) -> Tensor:
    """Running median of odd `length` along the last axis; the ends see zeros. [..., n] to [..., n]."""
    return F.pad(x, (length // 2, length // 2)).unfold(-1, length, 1).median(dim=-1).values
