"""Separate an array with a PyTorch module of your own.

A model is any callable with the attributes of `stemsplit.core.stream.Separable`. This one splits a stereo mix
into its middle signal (what both channels share) and its side signals (their differences from it).
"""

import numpy as np
import torch
from torch import Tensor, nn

from stemsplit import Separator


class MidSide(nn.Module):
    """Splits a stereo mix into middle and sides."""

    stems = ("middle", "sides")
    sample_rate, channels = 44100, 2  # the mix is resampled to this rate, and the stems back
    segment_samples = 44100  # long tracks are cut into chunks of one second
    context_samples = 0  # no audio is needed around a chunk
    normalise = False  # the mix isn't standardised
    overlap = None  # the default of 25 % between neighbouring chunks

    def forward(self, mix: Tensor) -> Tensor:
        """Separate a mix [B, C, T] into stems [B, S, C, T], with S = C = 2."""
        middle = mix.mean(dim=1, keepdim=True).expand_as(mix)  # [B, C, T]
        return torch.stack([middle, mix - middle], dim=1)  # [B, S, C, T]


def main() -> None:
    """Separate ten seconds of noise."""
    mix = 0.1 * np.random.default_rng(0).standard_normal((2, 480_000)).astype(np.float32)  # [C, T]
    with Separator(MidSide()) as separator:
        stems = separator.separate(mix, sample_rate=48_000)
    for name, samples in stems.items():
        print(name, samples.shape, f"{np.abs(samples).max():.2f}")


if __name__ == "__main__":
    main()
