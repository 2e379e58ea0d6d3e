"""Separate an array with a module of your own.

A model is anything with the attributes of `stemsplit.core.stream.Separable` that can be called. This one
splits a mix into what both channels have in common and what sets them apart.
"""

import numpy as np
import torch
from torch import Tensor, nn

from stemsplit import Separator


class MidSide(nn.Module):
    """Middle and sides of a stereo mix."""

    stems = ("middle", "sides")
    sample_rate, channels = 44100, 2  # the mix is resampled to this rate, and the stems back
    segment_samples = 44100  # long tracks are cut into chunks of one second
    context_samples = 0  # no audio is needed around a chunk
    normalise = False  # the level of the mix is left as it is
    overlap = None  # the default: neighbouring chunks share a quarter

    def forward(self, mix: Tensor) -> Tensor:
        """Separate [B, 2, n] into [B, 2 stems, 2, n]."""
        middle = mix.mean(dim=1, keepdim=True).expand_as(mix)
        return torch.stack([middle, mix - middle], dim=1)


def main() -> None:
    """Separate ten seconds of noise."""
    mix = 0.1 * np.random.default_rng(0).standard_normal((2, 480_000)).astype(np.float32)  # [C, T]
    with Separator(MidSide()) as separator:
        stems = separator.separate(mix, sample_rate=48_000)
    for name, samples in stems.items():
        print(name, samples.shape, f"{np.abs(samples).max():.2f}")


if __name__ == "__main__":
    main()
