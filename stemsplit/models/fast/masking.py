"""Bands of a spectrogram and masks for inference on a CPU, without copies of all bands, frames or stems.

Legend: `B` batch, `C` channels, `F` bins, `T` samples.
"""

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from stemsplit.models.blocks.bands import BandSplit
from stemsplit.models.blocks.stft import overlap_add_
from stemsplit.models.spectral import Transform

FRAMES = 64  # masked and transformed at a time


class WrittenBandSplit(nn.Module):
    """`BandSplit` whose layers write where the next ones read.

    Args:
        split: with packed linear layers.
        width: of a band's features.
    """

    def __init__(self, split: BandSplit, width: int) -> None:
        super().__init__()
        self.width = width
        self.slices, self.to_features = split.slices, split.to_features

    def forward(self, flat: Tensor) -> Tensor:
        """[B, frames, F·parts] -> [B, frames, bands, width]."""
        out = flat.new_empty(*flat.shape[:2], len(self.slices), self.width)
        for layer, part, features in zip(self.to_features, self.slices, out.unbind(2), strict=True):
            features.copy_(layer(flat[..., part]))  # [B, frames, width]
        return out


def masked_audio(
    transform: Transform, spectrum: Tensor, masks: Iterable[Tensor], samples: int, zero_dc: bool
) -> Tensor:
    """Multiply a spectrogram by each of several masks, and transform every product back.

    Args:
        transform: of the spectrogram; its frames overlap by half at least.
        spectrum: complex [B, C, F, frames].
        masks: of S stems, [B, frames, F, 2·C] each: real and imaginary part of every channel.
        samples: T, length of the results.
        zero_dc: set the lowest bin to zero.

    Returns:
        [B, S, C, T].
    """
    size, hop, window = transform.fft_size, transform.hop, transform.window(spectrum.real)
    mix, frames = spectrum.permute(0, 3, 1, 2), spectrum.shape[-1]  # [B, frames, C, F]
    rows = frames + -(-size // hop) - 1  # hops from the first frame's start to the last one's end
    weight = window.new_zeros(rows * hop)
    overlap_add_(weight, window.square().expand(frames, -1), hop)
    inside = slice(size // 2, size // 2 + samples)
    stems = []
    for mask in masks:
        pairs = mask.float().contiguous().unflatten(-1, (-1, 2))  # [B, frames, F, C, 2]
        factors = torch.view_as_complex(pairs).transpose(2, 3)  # [B, frames, C, F]
        out = window.new_zeros(*spectrum.shape[:2], rows * hop)
        for start in range(0, frames, FRAMES):
            z = mix[:, start : start + FRAMES] * factors[:, start : start + FRAMES]  # [B, n, C, F]
            if zero_dc:
                z[..., 0] = 0
            pieces = torch.fft.irfft(z.transpose(1, 2), size, norm="ortho" if transform.normalised else None)
            overlap_add_(out[..., start * hop :], pieces.mul_(window), hop)  # pieces: [B, C, n, size]
        stems.append(out[..., inside] / weight[inside])
    return torch.stack(stems, dim=1)  # [B, S, C, T]
