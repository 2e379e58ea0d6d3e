"""A model that kills its process when it hears a certain track; workers of a cluster import it."""

import os
import signal

import torch
from torch import Tensor

POISON = 0.9  # level that only the deadly track reaches


class Deadly:
    """Two halves of the mix, for every track but the deadly one."""

    stems = ("one", "two")
    sample_rate, channels, segment_samples, context_samples = 44100, 2, 44100, 0
    normalise, overlap = False, None

    def __call__(self, mix: Tensor) -> Tensor:
        """Return the stems [B, 2, C, T] of a mix [B, C, T]."""
        if mix.abs().max() > POISON:
            os.kill(os.getpid(), signal.SIGKILL)
        return torch.stack([mix / 2, mix / 2], dim=1)  # [B, 2, C, T]
