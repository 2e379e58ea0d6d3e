"""CWS-PResUNet: a phase-aware residual U-Net on the subbands of every channel.

Liu, Kong, Liu, "CWS-PResUNet: Music Source Separation with Channel-wise Subband Phase-aware ResUNet" (2021,
arXiv 2112.04685). The mix is split into four subbands at a quarter of the rate; a U-Net estimates for each of
them a mask for the magnitude, a rotation of the phase and a magnitude to add. Two networks were released: one
for vocals, and one for bass, drums and other together, with half as many residual blocks and a head per stem.
Keys are those of the released checkpoints.

Legend: `B` batch, `S` stems, `C` channels, `Q` subbands, `F` bins, `T` samples, `W` width of features.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from stemsplit.errors import StemsplitError
from stemsplit.models.blocks.resunet import (
    LEVELS,
    MAPS,
    MOMENTUM,
    SUBBANDS,
    FilterBank,
    Residuals,
    decoupled,
    spectrum,
    u_net,
)
from stemsplit.models.blocks.stft import istft
from stemsplit.models.network import Network, ignore_when_loading

MIDDLE = tuple(f"conv_block{i}" for i in range(7, 11))
FRAMES = 2**LEVELS  # the frames are padded to a multiple of this
LEAST_POWER = 1e-8  # of a bin
# Published files hold these besides the weights: STFTs as convolutions, also those of the loss
UNUSED = ("f_helper.stft.", "f_helper.istft.", "wav_spec_loss.", "l1loss.")


@dataclass(frozen=True)
class CWSPResUNetArguments:
    """Sizes of the network; the defaults are those of the released one for vocals.

    Attributes:
        stems: in the order of the output; a network that isn't joint has one.
        joint: a head per stem and four residual blocks per level, rather than eight.
        channels: of mix and stems.
        sample_rate: in Hz.
        widths: of the six levels.
        n_fft: samples of a subband per STFT frame, a multiple of 128.
        hop_length: samples of a subband from frame to frame.
        segment_seconds: audio in a chunk, in s.
        margin_seconds: audio on each side of it that the network sees too, in s.
    """

    stems: Sequence[str] = ("vocals",)
    joint: bool = False
    channels: int = 2
    sample_rate: int = 44100
    widths: Sequence[int] = (32, 64, 128, 256, 384, 384)
    n_fft: int = 512
    hop_length: int = 110
    segment_seconds: float = 10.0
    margin_seconds: float = 1.5

    def __post_init__(self) -> None:
        if len(self.widths) != LEVELS:
            raise StemsplitError(f"cws_presunet: widths {list(self.widths)}: must be {LEVELS}")
        if self.n_fft < 2 * FRAMES or self.n_fft % (2 * FRAMES):
            raise StemsplitError(f"cws_presunet: n_fft {self.n_fft}: must be a multiple of {2 * FRAMES}")
        if not self.joint and len(self.stems) != 1:
            raise StemsplitError(f"cws_presunet: stems {list(self.stems)}: without joint there is one")

    @classmethod
    def from_shapes(cls, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
        """Return the arguments that the shapes of the tensors tell; a network that isn't joint names no stem.

        Raises:
            KeyError: tensors are missing.
        """
        convs = [shapes[f"encoder_block{i}.conv_block1.conv1.weight"] for i in range(1, LEVELS + 1)]
        end = "_blocks.1.weight"
        heads = [key.removesuffix(end) for key in shapes if key.endswith(end)]
        return {
            **({"stems": tuple(heads)} if heads else {}),
            "joint": bool(heads),
            "channels": convs[0][1] // SUBBANDS,
            "widths": tuple(shape[0] for shape in convs),
            "n_fft": 2 * (shapes["bn0.weight"][0] - 1),
        }


class Decoder(Residuals):
    """Transposed convolution to twice the frames and bins, then residual blocks with the encoder's features.

    Args:
        width: of the input.
        out: width of the output and of the encoder's features.
        count: of the residual blocks.
    """

    def __init__(self, width: int, out: int, count: int) -> None:
        super().__init__(2 * out, out, first=2, count=count)
        self.conv1 = nn.ConvTranspose2d(width, out, 3, stride=2, bias=False)
        self.bn1 = nn.BatchNorm2d(width)

    def up(self, x: Tensor, skip: Tensor) -> Tensor:
        """[B, W, frames, F], [B, W, 2·frames, 2·F] -> [B, W, 2·frames, 2·F]."""
        fine = self.conv1(F.relu(self.bn1(x)))[..., :-1, :-1]  # of 2·frames + 1 and 2·F + 1
        return self.forward(torch.cat([fine, skip], dim=1))


class CWSPResUNet(Network):
    """Filter bank, STFT, U-Net, and back.

    The released program cuts the track into chunks of 10 s and gives the network 1.5 s more on each side. At
    the ends of the track it gives it nothing there; here, it is silence. It estimates `other` from the mix
    minus the vocals if both are wanted, and takes bass and drums from Demucs.
    """

    Arguments = CWSPResUNetArguments
    arguments: CWSPResUNetArguments
    overlap = 0.0

    def __init__(self, arguments: CWSPResUNetArguments) -> None:
        a = arguments
        super().__init__(
            a,
            stems=a.stems,
            sample_rate=a.sample_rate,
            channels=a.channels,
            segment_samples=int(a.segment_seconds * a.sample_rate),
        )
        self.context_samples = int(a.margin_seconds * a.sample_rate)
        count = 4 if a.joint else 8
        self.f_helper = nn.ModuleDict({"qmf": FilterBank()})
        self.bn0 = nn.BatchNorm2d(a.n_fft // 2 + 1, momentum=MOMENTUM)
        width = SUBBANDS * a.channels
        for i, out in enumerate(a.widths, 1):
            self.add_module(f"encoder_block{i}", Residuals(width, out, count=count))
            width = out
        for name in MIDDLE:
            self.add_module(name, Residuals(width, width, count=count))
        for i, out in enumerate(reversed(a.widths), 1):
            self.add_module(f"decoder_block{i}", Decoder(width, out, count))
            width = out
        names = [(f"{s}_blocks.0", f"{s}_blocks.1") for s in a.stems]
        self.heads = names if a.joint else [("after_conv_block1", "after_conv2")]
        for stem, (block, last) in zip(a.stems, self.heads, strict=True):
            layers = Residuals(width, width), nn.Conv2d(width, MAPS * a.channels * SUBBANDS, 1)
            if a.joint:
                self.add_module(f"{stem}_blocks", nn.ModuleList(layers))
            else:
                self.add_module(block, layers[0])
                self.add_module(last, layers[1])
        ignore_when_loading(self, *UNUSED)

    def padded_samples(self, samples: int) -> int:
        """Return P(n): the chunk and all of its context."""
        return samples + 2 * self.context_samples

    def estimate(self, mix: Tensor) -> Tensor:
        """[B, C, T] -> [B, S, C, T]. The T % 4 last samples, of which no subband has one, are silent."""
        batch, channels, samples = mix.shape
        bank: Any = self.f_helper["qmf"]
        bands = bank.analyse(mix.flatten(0, 1))[..., : samples // SUBBANDS]  # [B·C, Q, T/4]
        bands = bands.reshape(batch, channels * SUBBANDS, -1)  # [B, C·Q, T/4]
        z, magnitude = spectrum(bands, self.arguments.n_fft, self.arguments.hop_length, LEAST_POWER)
        mask, real, imaginary, added = self.maps(magnitude).float().unbind(2)  # [B, S, C, Q, frames, F] each
        z, magnitude = (part.unflatten(1, (1, channels, -1))[..., :-1] for part in (z, magnitude))
        stems = decoupled(z, magnitude, mask, torch.complex(real, imaginary), added)
        stems = F.pad(stems, (0, 1)).flatten(0, 3).mT  # [B·S·C·Q, F + 1, frames]; the highest bin is silent
        waves = istft(stems, self.arguments.hop_length, bands.shape[-1])  # [B·S·C·Q, T/4]
        waves = bank.synthesise(waves.unflatten(0, (-1, SUBBANDS)), samples)  # [B·S·C, 4·⌊T/4⌋]
        waves = F.pad(waves, (0, samples - waves.shape[-1]))  # [B·S·C, T]
        found: Tensor = waves.unflatten(0, (batch, -1, channels))
        return found

    def maps(self, magnitude: Tensor) -> Tensor:
        """Return what the U-Net estimates: [B, C·Q, frames, F + 1] -> [B, S, maps, C, Q, frames, F]."""
        frames = magnitude.shape[2]
        x = self.bn0(magnitude.transpose(1, 3)).transpose(1, 3)  # normalised by bin
        x = F.pad(x[..., :-1], (0, 0, 0, -frames % FRAMES))  # [B, C·Q, padded frames, F]
        x = u_net(self, x, MIDDLE, (2, 2))
        stems = []
        for block, last in (self.heads[i] for i in self.kept):
            y = self.get_submodule(last)(self.get_submodule(block)(x))[:, :, :frames]
            stems.append(y.unflatten(1, (MAPS, self.channels, SUBBANDS)))
        return torch.stack(stems, dim=1)
