"""Open-Unmix: a network per stem estimates magnitudes, and a Wiener filter combines all estimates.

Stöter, Uhlich, Liutkus, Mitsufuji, "Open-Unmix – A Reference Implementation for Music Source Separation",
2019; open-unmix 1.3, model.py. The networks are trained separately and stored in a file each.

Legend: `B` batch, `S` stems, `C` channels, `F` bins, `T` samples.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor, nn

from stemsplit.errors import StemsplitError
from stemsplit.models.blocks.magnitudes import through_spectra
from stemsplit.models.blocks.wiener import wiener
from stemsplit.models.network import Network, ignore_when_loading
from stemsplit.stems import canonical

RESIDUAL = "residual"
LSTM_DROPOUT = 0.4


@dataclass(frozen=True)
class OpenUnmixArguments:
    """Sizes of the networks and settings of the filter; the defaults are those of umx and umxhq.

    Attributes:
        targets: stems that have a network.
        nb_channels: of mix and stems, 1 or 2.
        hidden_size: width of the network.
        nb_layers: stacked LSTM layers.
        max_bin: number of bins that the network sees, from the lowest; 1487 end at 16 kHz.
        unidirectional: see the past only.
        niter: iterations of expectation maximisation in the Wiener filter; 0 for the mix's phase.
        softmask: start the filter from shares of the mix rather than from the estimated magnitudes.
        residual: add a stem, the rest of the mix.
        sample_rate: in Hz.
        n_fft: samples per STFT frame.
        n_hop: samples from frame to frame.
        segment_s: length of a chunk, in s. With an overlap of a quarter, a track of up to 60 s is one chunk.
    """

    targets: Sequence[str] = ("vocals", "drums", "bass", "other")
    nb_channels: int = 2
    hidden_size: int = 512
    nb_layers: int = 3
    max_bin: int = 1487
    unidirectional: bool = False
    niter: int = 1
    softmask: bool = False
    residual: bool = False
    sample_rate: int = 44100
    n_fft: int = 4096
    n_hop: int = 1024
    segment_s: float = 80.0

    def __post_init__(self) -> None:
        if self.nb_channels not in (1, 2):
            raise StemsplitError(f"openunmix: nb_channels {self.nb_channels}: must be 1 or 2")
        if self.niter and len(self.targets) + self.residual < 2:
            raise StemsplitError("openunmix: niter > 0 needs two targets, or one and the residual")


class Target(nn.Module):
    """Network of one stem: three dense layers around an LSTM estimate a mask for the mix's magnitudes.

    Args:
        a: arguments of the family.
    """

    def __init__(self, a: OpenUnmixArguments) -> None:
        super().__init__()
        self.max_bin = a.max_bin
        bins, hidden = a.n_fft // 2 + 1, a.hidden_size
        self.input_mean = nn.Parameter(torch.zeros(a.max_bin))  # to be added: minus the mean
        self.input_scale = nn.Parameter(torch.ones(a.max_bin))
        self.fc1 = nn.Linear(a.nb_channels * a.max_bin, hidden, bias=False)
        self.bn1 = nn.BatchNorm1d(hidden)
        self.lstm = nn.LSTM(
            hidden,
            hidden if a.unidirectional else hidden // 2,
            num_layers=a.nb_layers,
            bidirectional=not a.unidirectional,
            dropout=LSTM_DROPOUT if a.nb_layers > 1 else 0,
        )
        self.fc2 = nn.Linear(2 * hidden, hidden, bias=False)
        self.bn2 = nn.BatchNorm1d(hidden)
        self.fc3 = nn.Linear(hidden, a.nb_channels * bins, bias=False)
        self.bn3 = nn.BatchNorm1d(a.nb_channels * bins)
        self.output_scale = nn.Parameter(torch.ones(bins))
        self.output_mean = nn.Parameter(torch.ones(bins))
        ignore_when_loading(self, "sample_rate", "stft.window", "transform.0.window")

    def forward(self, mix: Tensor) -> Tensor:
        """Return the stem's magnitudes from the mix's: [B, C, F, frames] -> [B, C, F, frames]."""
        batch, channels, bins, frames = mix.shape
        cropped = mix.permute(3, 0, 1, 2)[..., : self.max_bin]  # [frames, B, C, max_bin]
        scaled = (cropped + self.input_mean) * self.input_scale
        x = torch.tanh(self.bn1(self.fc1(scaled.reshape(frames * batch, -1))))  # [frames·B, hidden]
        recurrent, _ = self.lstm(x.view(frames, batch, -1))  # [frames, B, hidden]
        x = torch.cat([x, recurrent.flatten(0, 1)], dim=-1)  # [frames·B, 2·hidden]: a skip connection
        x = torch.relu(self.bn2(self.fc2(x)))
        x = self.bn3(self.fc3(x)).view(frames, batch, channels, bins)  # [frames, B, C, F]
        mask = torch.relu(x * self.output_scale + self.output_mean)
        return mask.permute(1, 2, 3, 0) * mix  # [B, C, F, frames]


class OpenUnmix(Network):
    """Networks of all targets, and the filter that combines their estimates.

    In checkpoints the keys of a target begin with `targets.<stem>.`.
    """

    Arguments = OpenUnmixArguments
    arguments: OpenUnmixArguments

    def __init__(self, arguments: OpenUnmixArguments) -> None:
        a = arguments
        super().__init__(
            a,
            stems=(*a.targets, RESIDUAL) if a.residual else a.targets,
            sample_rate=a.sample_rate,
            channels=a.nb_channels,
            segment_samples=int(a.segment_s * a.sample_rate),
        )
        self.targets = nn.ModuleDict({name: Target(a) for name in a.targets})

    def targets_needed(self, stems: Sequence[str]) -> tuple[str, ...]:
        """Return the targets that `stems` depend on: all if the filter weighs them against each other."""
        a = self.arguments
        together = a.niter > 0 or a.softmask or RESIDUAL in stems
        return tuple(name for name in a.targets if together or canonical(name) in stems)

    def select(self, stems: Sequence[str]) -> Self:
        """Estimate only `stems`, and drop the targets that they don't depend on."""
        super().select(stems)
        for name in set(self.targets) - set(self.targets_needed(self.stems)):
            del self.targets[name]
        return self

    def estimate(self, mix: Tensor) -> Tensor:
        """[B, C, T] -> [B, S, C, T]."""
        a = self.arguments
        return through_spectra(mix, a.n_fft, a.n_hop, self._spectra)

    def _spectra(self, mix: Tensor) -> Tensor:
        """Return the stems' spectra from the mix's: [B, C, F, frames] -> [B, S, C, F, frames]."""
        a = self.arguments
        magnitudes = mix.abs()
        guesses = torch.stack([target(magnitudes) for target in self.targets.values()], dim=1)
        residual = a.residual and len(self.targets) == len(a.targets)
        names = [*map(canonical, self.targets), RESIDUAL]
        return wiener(
            guesses,
            mix,
            iterations=a.niter,
            softmask=a.softmask,
            residual=residual,
            keep=[names.index(stem) for stem in self.stems],
        )
