"""Define a network family in one file, train it for a step, save a checkpoint, and separate with it.

In the package, a family is a file like this in `stemsplit/models/` and a line in `models.FAMILIES`.
`B` batch, `S` stems, `C` channels, `T` samples, `F` bins.
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
    """Arguments of the network, which its checkpoints contain.

    Attributes:
        sources: names of the stems.
        sample_rate: in Hz.
        fft: STFT window in samples; the hop is a quarter of it.
        hidden: width of the hidden layer.
    """

    sources: tuple[str, ...] = ("vocals", "other")
    sample_rate: int = 44100
    fft: int = 1024
    hidden: int = 32


class Mask(Network):
    """Masks for all stems, from a perceptron over the bins of each frame's magnitude."""

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
        """Separate a mix [B, C, T] into stems [B, S, C, T]."""
        batch, channels, samples = mix.shape
        flat = mix.flatten(0, 1)  # [B·C, T]
        spectrum = torch.stft(flat, self.fft, self.fft // 4, window=self.window, return_complex=True)
        magnitude = spectrum.abs().transpose(1, 2)  # [B·C, frames, F]
        masks = self.layers(magnitude).unflatten(-1, (spectrum.shape[1], -1))  # [B·C, frames, F, all stems]
        masks = masks.softmax(-1)[..., list(self.kept)]  # [B·C, frames, F, S], only the requested stems
        stems = spectrum[..., None] * masks.transpose(1, 2)  # [B·C, F, frames, S]
        stems = stems.permute(0, 3, 1, 2).flatten(0, 1)  # [B·C·S, F, frames]
        audio = torch.istft(stems, self.fft, self.fft // 4, window=self.window, length=samples)  # [B·C·S, T]
        return audio.unflatten(0, (batch, channels, len(self.stems))).transpose(1, 2)  # [B, S, C, T]


def main() -> None:
    """Train a step on noise, and separate silence with the resulting checkpoint."""
    models.FAMILIES["mask"] = f"{Mask.__module__}:Mask"
    network = models.build("mask", {"hidden": 16})
    optimizer = torch.optim.Adam(network.parameters())
    stems = torch.randn(4, 2, 2, 8192)  # [B, S, C, T]
    loss = (network.estimate(stems.sum(1)) - stems).abs().mean()  # L1
    loss.backward()
    optimizer.step()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "mask.safetensors"
        save_package(path, network)
        found = Separator(path).separate(np.zeros((2, 100_000), np.float32), 44_100)  # [C, T] each
    print({name: samples.shape for name, samples in found.items()})


if __name__ == "__main__":
    main()
