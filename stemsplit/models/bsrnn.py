"""Band-Split RNN: LSTMs along time and across bands estimate a complex mask for one stem.

Luo and Yu, "Music Source Separation with Band-Split RNN", 2022.

Legend: `B` batch, `C` channels, `F` bins, `T` samples, `N` width of a band's features.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from stemsplit.errors import UnknownNameError
from stemsplit.models.blocks.bands import SCHEMES, BandSplit, MaskEstimator, Table, hertz_bands, linear_bands
from stemsplit.models.spectral import SpectralNetwork, Transform

# Added to variances: small, because the spectrogram isn't standardised and quiet music's variances are too.
EPSILON = torch.finfo(torch.float32).eps

STEM_SCHEMES = {"bass": "bass", "drums": "drums"}  # section V-A; every other stem takes v7


def layer_norm(width: int) -> nn.LayerNorm:
    """Return a normalisation over the features of one band in one frame."""
    return nn.LayerNorm(width, eps=EPSILON)


class ResidualRNN(nn.Module):
    """Residual normalisation over the whole sequence, BiLSTM and linear layer (section II-B).

    Args:
        width: of the features.
        hidden: of each direction of the LSTM.
    """

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(1, width, eps=EPSILON)
        self.lstm = nn.LSTM(width, hidden, batch_first=True, bidirectional=True)
        self.linear = nn.Linear(2 * hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        """[N, steps, width] -> [N, steps, width]."""
        # GroupNorm takes [N, width, steps].
        hidden, _ = self.lstm(self.norm(x.transpose(1, 2)).transpose(1, 2))  # [N, steps, 2·hidden]
        y: Tensor = self.linear(hidden)
        return x + y


class DualPath(nn.Module):
    """An LSTM along time, with shared weights for all bands, then one across bands, shared by all frames."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.along_time = ResidualRNN(width, hidden)
        self.across_bands = ResidualRNN(width, hidden)

    def forward(self, x: Tensor) -> Tensor:
        """[B, bands, frames, width] -> [B, bands, frames, width]."""
        # over [B·bands, frames, width], then over [B·frames, bands, width]
        x = self.along_time(x.flatten(0, 1)).view_as(x).transpose(1, 2)  # [B, frames, bands, width]
        y: Tensor = self.across_bands(x.flatten(0, 1)).view_as(x).transpose(1, 2)  # [B, bands, frames, width]
        return y


class BSRNN(SpectralNetwork):
    """A network for one stem, which separates each audio channel by itself."""

    @dataclass(frozen=True, kw_only=True)
    class Arguments:
        """Arguments; the defaults are the paper's (section IV-A).

        Attributes:
            stem: that is estimated.
            bands: a key of `SCHEMES`, or the bins of each band; None is the scheme for `stem`.
            sample_rate: in Hz.
            audio_channels: of mix and stem.
            segment_samples: length of a chunk.
            n_fft: samples per frame, under a Hann window.
            hop: samples from frame to frame.
            width: N, of a band's features; the LSTMs have 2N per direction, the mask estimators 4N inside.
            modules: number of LSTM pairs.
        """

        stem: str = "vocals"
        bands: str | Sequence[int] | None = None
        sample_rate: int = 44_100
        audio_channels: int = 2
        segment_samples: int = 132_300
        n_fft: int = 2048
        hop: int = 512
        width: int = 128
        modules: int = 12

        @property
        def table(self) -> Table:
            """Table of the bands.

            Raises:
                UnknownNameError: `bands` is no scheme.
                StemsplitError: the bands don't fit the transform.
            """
            bands = self.bands or STEM_SCHEMES.get(self.stem, "v7")
            if not isinstance(bands, str):
                return linear_bands(bands, self.n_fft // 2 + 1)
            if bands not in SCHEMES:
                raise UnknownNameError("scheme of bands", bands, sorted(SCHEMES))
            return hertz_bands(SCHEMES[bands], self.n_fft, self.sample_rate)

    def __init__(self, arguments: Arguments) -> None:
        a = arguments
        super().__init__(
            a,
            stems=(a.stem,),
            sample_rate=a.sample_rate,
            channels=a.audio_channels,
            segment_samples=a.segment_samples,
            transform=Transform(a.n_fft, a.hop),
        )
        self.band_split = BandSplit(a.table, 2, a.width, layer_norm)
        self.dual_paths = nn.Sequential(*(DualPath(a.width, 2 * a.width) for _ in range(a.modules)))
        self.mask_estimator = MaskEstimator(a.table, 2, a.width, 4 * a.width, 1, layer_norm)

    def spectrograms(self, mix: Tensor) -> Tensor:
        """[B, C, T] -> complex [B, 1, C, F, frames]."""
        z = self.transform.analyse(mix)
        flat = torch.view_as_real(z.flatten(0, 1)).transpose(1, 2).flatten(2)  # [B·C, frames, F·2]
        x = self.dual_paths(self.band_split(flat).transpose(1, 2)).transpose(1, 2)  # [B·C, frames, bands, N]
        pairs = self.mask_estimator(x).float().unflatten(-1, (-1, 2))  # [B·C, frames, F, 2]
        mask = torch.view_as_complex(pairs.contiguous()).transpose(1, 2)  # [B·C, F, frames]
        return (z * mask.view_as(z))[:, None]  # [B, 1, C, F, frames]
