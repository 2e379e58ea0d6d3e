"""Networks that map the mix's spectrogram to the stems' spectrograms.

Legend: `B` batch, `S` stems, `C` channels, `F` bins, `T` samples.
"""

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
    """A centred STFT of all fft_size/2 + 1 bins, for signals of any length.

    Attributes:
        fft_size: samples per frame, even.
        hop: samples from frame to frame; frame k is centred on sample k·hop, k = 0 … ⌊T/hop⌋.
        window_size: length of the window, centred in the frame; None for the whole frame.
        trim: samples cut off both ends of the window, which is made longer by as many before.
        rectangular: a window of ones rather than Hann's.
        reflect: continue the signal by its reflection beyond its ends, rather than by silence.
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
        """Number of bins, F."""
        return self.fft_size // 2 + 1

    def analyse(self, x: Tensor) -> Tensor:
        """[B, C, T] -> complex [B, C, F, frames]."""
        half = self.fft_size // 2
        padded = reflect_pad(x, half, half) if self.reflect else F.pad(x, (half, half))
        return stft(
            padded, self.fft_size, self.hop, centred=False, normalised=self.normalised, window=self.window(x)
        )

    def synthesise(self, z: Tensor, samples: int) -> Tensor:
        """Complex [..., F, frames] -> [..., T] for T = `samples`."""
        return istft(z, self.hop, samples, normalised=self.normalised, window=self.window(z.real))

    def window(self, like: Tensor) -> Tensor:
        """Return the window in the dtype and on the device of another tensor, [fft_size]."""
        size = self.fft_size if self.window_size is None else self.window_size
        make = torch.ones if self.rectangular else torch.hann_window
        window = make(size + 2 * self.trim, dtype=like.dtype, device=like.device)
        left = (self.fft_size - size) // 2
        return F.pad(window[self.trim : self.trim + size], (left, self.fft_size - size - left))  # [fft_size]


class SpectralNetwork(Network):
    """Base class of families that implement `spectrograms` instead of `estimate`.

    Args:
        arguments: of the family.
        stems: names, in the order of the output.
        sample_rate: in Hz.
        channels: of mix and stems.
        segment_samples: length of a chunk.
        transform: STFT between audio and spectrograms.
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
        """Estimate the stems' spectrograms; losses on spectrograms use them before they are synthesised.

        Args:
            mix: [B, C, T].

        Returns:
            complex [B, S, C, F, frames], at the scale of `transform.analyse`. They needn't be consistent,
            that is, be the STFT of any signal.
        """
        raise TypeError(f"{type(self).__name__} estimates nothing")

    def estimate(self, mix: Tensor) -> Tensor:
        """[B, C, T] -> [B, S, C, T]."""
        return self.transform.synthesise(self.spectrograms(mix), mix.shape[-1])
