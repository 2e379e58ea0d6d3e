"""Add a family of networks in one file, train a step, save a checkpoint, and run it by its path.

In the package a family is a file like this one in `stemsplit/models/` and a line in `models.FAMILIES`.
"""

import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from stemsplit import Separator, models
from stemsplit.hub.checkpoints import save_package
from stemsplit.models.network import Network


@dataclass(frozen=True)
class MaskArguments:
    """Sizes of the network, as checkpoints carry them.

    Attributes:
        sources: names of the stems.
        sample_rate: in Hz.
        fft: window of the STFT in samples; its hop is a quarter.
        hidden: width of the network.
    """

    sources: tuple[str, ...] = ("vocals", "other")
    sample_rate: int = 44100
    fft: int = 1024
    hidden: int = 32


class Mask(Network):
    """One mask per stem from a perceptron over the bins of each frame."""

    Arguments = MaskArguments
    window: Tensor

    def __init__(self, arguments: MaskArguments) -> None:
        a = arguments
        super().__init__(
            a,
            stems=a.sources,
            sample_rate=a.sample_rate,
            channels=2,
            segment_samples=2 * a.sample_rate,
        )
        bins = a.fft // 2 + 1
        self.fft = a.fft
        self.layers = nn.Sequential(
            nn.Linear(bins, a.hidden), nn.ReLU(), nn.Linear(a.hidden, bins * len(a.sources))
        )
        self.register_buffer("window", torch.hann_window(a.fft), persistent=False)

    def estimate(self, mix: Tensor) -> Tensor:
        """Separate [B, C, n] into [B, S, C, n]."""
        batch, channels, samples = mix.shape
        flat = mix.flatten(0, 1)  # [B·C, n]
        spectrum = torch.stft(flat, self.fft, self.fft // 4, window=self.window, return_complex=True)
        masks = self.layers(spectrum.abs().transpose(1, 2))  # [B·C, frames, bins·S]
        masks = masks.unflatten(-1, (spectrum.shape[1], -1)).softmax(-1)  # [B·C, frames, bins, all stems]
        masks = masks[..., list(self.kept)]  # [B·C, frames, bins, S], those that are wanted
        stems = spectrum[..., None] * masks.transpose(1, 2)  # [B·C, bins, frames, S]
        stems = stems.permute(0, 3, 1, 2).flatten(0, 1)  # [B·C·S, bins, frames]
        audio = torch.istft(stems, self.fft, self.fft // 4, window=self.window, length=samples)
        return audio.unflatten(0, (batch, channels, len(self.stems))).transpose(1, 2)  # [B, S, C, n]


def main() -> None:
    """Train one step on noise, and separate with what came of it."""
    models.FAMILIES["mask"] = f"{Mask.__module__}:Mask"
    network = models.build("mask", {"hidden": 16})
    optimizer = torch.optim.Adam(network.parameters())
    stems = torch.randn(4, 2, 2, 8192)  # [B, S, C, n]
    loss = (network.estimate(stems.sum(1)) - stems).abs().mean()
    loss.backward()
    optimizer.step()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "mask.safetensors"
        save_package(path, network)
        found = Separator(path).separate(np.zeros((2, 100_000), np.float32), 44_100)
    print({name: samples.shape for name, samples in found.items()})


if __name__ == "__main__":
    main()
