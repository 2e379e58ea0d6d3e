"""Networks that go from the mix's spectrogram to the stems'."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from stemsplit.models.blocks.stft import istft, reflect_pad, stft
from stemsplit.models.network import Network


@dataclass(frozen=True)
class Transform:
    """A centred STFT with all its bins, for signals of any length.

    Attributes:
        fft_size: samples per frame, even.
        hop: samples from frame to frame; frame k is centred on sample k·hop, k = 0 … ⌊T/hop⌋.
        window_size: samples in the middle of the frame that the window covers; None for all.
        trim: the window is the middle of one that is longer by so many samples at either end.
        rectangular: the window is all ones rather than Hann's.
        reflect: what lies beyond the ends is the signal's reflection rather than silence.
        normalised: divide by √fft_size.
    """

    fft_size: int
    hop: int
    window_size: int | None = None
    trim: int = 0
    rectangular: bool = False
    reflect: bool = True
    normalised: bool = False

    @property
    def bins(self) -> int:
        """F."""
        return self.fft_size // 2 + 1

    def analyse(self, x: Tensor) -> Tensor:
        """[B, C, T] -> complex [B, C, F, frames]."""
        half = self.fft_size // 2
        padded = reflect_pad(x, half, half) if self.reflect else F.pad(x, (half, half))
        return stft(
            padded, self.fft_size, self.hop, centred=False, normalised=self.normalised, window=self._window(x)
        )

    def synthesise(self, z: Tensor, samples: int) -> Tensor:
        """Complex [..., F, frames] -> [..., T] for T = `samples`."""
        return istft(z, self.hop, samples, normalised=self.normalised, window=self._window(z.real))

    def _window(self, like: Tensor) -> Tensor:
        """[fft_size]."""
        size = self.fft_size if self.window_size is None else self.window_size
        make = torch.ones if self.rectangular else torch.hann_window
        window = make(size + 2 * self.trim, dtype=like.dtype, device=like.device)
        left = (self.fft_size - size) // 2
        return F.pad(window[self.trim : self.trim + size], (left, self.fft_size - size - left))


class SpectralNetwork(Network):
    """A family implements `spectrograms`.

    Args:
        arguments: of the family.
        stems: as for every network, and so on.
        sample_rate: in Hz.
        channels: of mix and stems.
        segment_samples: length of a chunk.
        transform: between audio and spectrograms.
    """

    def __init__(
        self,
        arguments: Any,
        *,
        stems: Sequence[str],
        sample_rate: int,
        channels: int,
        segment_samples: int,
        transform: Transform,
    ) -> None:
        super().__init__(
            arguments,
            stems=stems,
            sample_rate=sample_rate,
            channels=channels,
            segment_samples=segment_samples,
        )
        self.transform = transform

    def spectrograms(self, mix: Tensor) -> Tensor:
        """The stems' spectrograms, which needn't be consistent: what losses on spectrograms look at.

        Args:
            mix: [B, C, T].

        Returns:
            complex [B, S, C, F, frames], as `transform.analyse` would give of the stems.
        """
        raise TypeError(f"{type(self).__name__} estimates nothing")

    def estimate(self, mix: Tensor) -> Tensor:
        """[B, C, T] -> [B, S, C, T]."""
        return self.transform.synthesise(self.spectrograms(mix), mix.shape[-1])
