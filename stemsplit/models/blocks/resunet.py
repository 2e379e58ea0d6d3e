"""Parts of residual U-Nets that estimate magnitude and phase, of the full band or of subbands.

Kong et al., "Decoupling Magnitude and Phase Estimation with Deep ResUNet for Music Source Separation" (ISMIR
2021, arXiv 2109.05418).

Legend: `B` batch, `N` channels of the input, `Q` subbands, `F` bins, `T` samples, `W` width of features.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from stemsplit.models.blocks.stft import reflect_pad, stft

FILTERS = Path(__file__).with_name("resunet_filters.json")
SUBBANDS = 4
TAPS = 64  # of each filter of the bank
MAPS = 4  # per channel and subband: the mask, real and imaginary part of the rotation, the added magnitude
LEVELS = 6  # of the U-Net; the bins are halved by each
MOMENTUM = 0.01  # of the running statistics
LEAST_NORM = 1e-20  # of a rotation before it is scaled to 1


class Constant(nn.Module):
    """A tensor that checkpoints hold as the weight of a convolution.

    Args:
        weight: the tensor.
    """

    weight: Tensor

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.register_buffer("weight", weight)


class FilterBank(nn.Module):
    """PQMF: four subbands of a quarter of the bandwidth each, which sum to the signal again."""

    def __init__(self) -> None:
        super().__init__()
        values = json.loads(FILTERS.read_text(encoding="utf-8"))
        self.ana_conv_filter = Constant(torch.tensor(values["analysis"])[:, None])  # [Q, 1, taps]
        synthesis = torch.tensor(values["synthesis"])
        self.syn_conv_filter = Constant(synthesis.view(SUBBANDS, SUBBANDS, TAPS // SUBBANDS))  # [phase, Q, ·]

    def analyse(self, x: Tensor) -> Tensor:
        """[N, T] -> [N, Q, ⌊T/4⌋ + 16]."""
        padded = F.pad(x[:, None], (TAPS - SUBBANDS, TAPS))
        with torch.autocast(x.device.type, enabled=False):  # samples of audio need full precision
            return F.conv1d(padded, self.ana_conv_filter.weight, stride=SUBBANDS)

    def synthesise(self, bands: Tensor, samples: int) -> Tensor:
        """[N, Q, ⌊T/4⌋ + 16] -> [N, T] for T = `samples`."""
        padded = F.pad(bands, (0, TAPS // SUBBANDS - 1))
        with torch.autocast(bands.device.type, enabled=False):
            phases = F.conv1d(padded, self.syn_conv_filter.weight)  # [N, phase, T/4]
        return phases.transpose(1, 2).flatten(1)[:, :samples]


class Residual(nn.Module):
    """Two convolutions of three by three, each after a normalisation and an activation.

    Args:
        width: of the input.
        out: width of the output.
    """

    second = "bn2"  # name of the second normalisation in checkpoints
    norm = nn.BatchNorm2d  # its kind

    def __init__(self, width: int, out: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(width, momentum=MOMENTUM)
        self.add_module(self.second, self.norm(out, momentum=MOMENTUM))
        self.conv1 = nn.Conv2d(width, out, 3, padding=1, bias=False)
        self.conv2 = nn.Conv2d(out, out, 3, padding=1, bias=False)
        self.shortcut = nn.Conv2d(width, out, 1) if width != out else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """[B, W, frames, F] -> [B, W, frames, F]."""
        y = self.conv1(F.leaky_relu(self.bn1(x)))
        y = self.conv2(F.leaky_relu(self.get_submodule(self.second)(y)))
        return torch.add(y, self.shortcut(x))


class Residuals(nn.Module):
    """A row of residual blocks.

    Args:
        width: of the input.
        out: width of the output.
        first: number of the first one in the names of the weights.
        count: of the blocks.
    """

    block = Residual

    def __init__(self, width: int, out: int, first: int = 1, count: int = 4) -> None:
        super().__init__()
        self.numbers = range(first, first + count)
        for i in self.numbers:
            self.add_module(f"conv_block{i}", self.block(width if i == first else out, out))

    def forward(self, x: Tensor) -> Tensor:
        """[B, W, frames, F] -> [B, W, frames, F]."""
        for i in self.numbers:
            x = self.get_submodule(f"conv_block{i}")(x)
        return x


def spectrum(bands: Tensor, n_fft: int, hop_length: int, least_power: float) -> tuple[Tensor, Tensor]:
    """Return the STFT of subbands and its magnitude: [B, N, T] -> twice [B, N, frames, n_fft/2 + 1].

    Args:
        bands: [B, N, T].
        n_fft: samples per frame.
        hop_length: samples from frame to frame.
        least_power: of a bin.
    """
    z = stft(reflect_pad(bands, n_fft // 2, n_fft // 2), n_fft, hop_length, centred=False).mT
    return z, torch.view_as_real(z).square().sum(-1).clamp_min(least_power).sqrt()


def u_net(network: nn.Module, x: Tensor, middle: Sequence[str], last: tuple[int, int]) -> Tensor:
    """Go down six levels and up again: [B, C·Q, frames, F] -> [B, W, frames, F].

    Args:
        network: with encoder_block1 to 6 and decoder_block1 to 6.
        x: the input.
        middle: names of the layers in the middle.
        last: factors by which the last level has fewer frames and bins.
    """
    skips = []
    for i in range(1, LEVELS + 1):
        x = network.get_submodule(f"encoder_block{i}")(x)
        skips.append(x)
        x = F.avg_pool2d(x, last if i == LEVELS else 2)
    for name in middle:
        x = network.get_submodule(name)(x)
    for i in range(1, LEVELS + 1):
        decoder: Any = network.get_submodule(f"decoder_block{i}")
        x = decoder.up(x, skips.pop())
    return x


def decoupled(z: Tensor, magnitude: Tensor, mask: Tensor, rotation: Tensor, added: Tensor) -> Tensor:
    """Return z with the magnitude |X|·sigmoid(mask) + added, at least 0, and its phase rotated.

    Args:
        z: complex spectrum.
        magnitude: |X|, that of z.
        mask: before the sigmoid.
        rotation: complex, of any norm.
        added: to the magnitude.
    """
    norm = torch.view_as_real(rotation).square().sum(-1).clamp_min(LEAST_NORM).sqrt()
    estimated = torch.relu(magnitude * torch.sigmoid(mask) + added)
    return z * rotation * (estimated / (magnitude * norm))
