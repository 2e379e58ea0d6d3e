"""Frame of the Open-Unmix networks: their transform, and stems from spectra that are estimated all at once.

Legend: `B` batch, `S` stems, `C` channels, `F` bins, `T` samples.
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from stemsplit.models.blocks.stft import istft, reflect_pad, stft


def through_spectra(mix: Tensor, n_fft: int, n_hop: int, separate: Callable[[Tensor], Tensor]) -> Tensor:
    """Separate a mix by a function of its spectrum.

    Args:
        mix: [B, C, T].
        n_fft: samples per STFT frame.
        n_hop: samples from frame to frame.
        separate: the mix's complex spectrum [B, C, F, frames] -> the stems' [B, S, C, F, frames].

    Returns:
        [B, S, C, T].
    """
    samples = mix.shape[-1]
    mix = F.pad(mix, (0, _tail(samples, n_fft, n_hop)))
    half = n_fft // 2
    spectrum = stft(reflect_pad(mix, half, half), n_fft, n_hop, centred=False)  # [B, C, F, frames]
    stems = separate(spectrum).unbind(1)  # [B, C, F, frames] each
    # One at a time: the inverse transform holds several copies of its input. [B, S, C, T]
    return torch.stack([istft(stem, n_hop, mix.shape[-1])[..., :samples] for stem in stems], dim=1)


def _tail(samples: int, n_fft: int, n_hop: int) -> int:
    """Return how many zeros to append, so that no last sample lies under the end of a single window.

    The inverse transform divides by the window, which goes to zero there. If frames overlap by half only
    (umxse), that would turn the tiniest error in the last quarter of a hop into a click.
    """
    rest = samples % n_hop
    return n_hop - rest if 2 * n_hop >= n_fft and 4 * rest > 3 * n_hop else 0
