"""A small network for all stems at once: bands of a spectrogram through a U-Net, soft masks on the mix.

The spectrogram's bins are gathered into bands, fine below 1.4 kHz and coarse above 5.5 kHz, so that what the
U-Net sees is a picture of 64 bands instead of 2049 bins. A recurrent layer at its bottom looks at the whole
chunk. Every band then says which share of each of its bins belongs to which stem; the shares sum to one, so
do the stems. Bins of the coarse bands share their masks in groups.

Legend: `B` batch, `S` stems, `C` = 2 channels, `F` bins, `K` bands, `N` features, `G` groups of bins.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from stemsplit.errors import StemsplitError
from stemsplit.models.spectral import SpectralNetwork, Transform

VIEWS = 4  # left, right, middle, side
TINY = 1e-8
FAINT = 0.15  # of the mix's level: what is below counts as if it were that loud
EVEN = 1e-6  # keeps the slope of a root of nothing finite
UNHEARD = 1e-3  # an error of that share of the mix's energy is as good as none
BEL = 0.5  # what ten decibels of error weigh beside the distance of the groups


class Region(NamedTuple):
    """Neighbouring bands of one kind: how many, bins per band, and bins that share a mask."""

    bands: int
    width: int
    group: int

    @property
    def groups(self) -> int:
        """Masks per band."""
        return self.width // self.group


@dataclass(frozen=True)
class BandUNetArguments:
    """Sizes of everything.

    Attributes:
        sources: the stems.
        sample_rate: in Hz.
        segment_s: length of a chunk.
        fft: window of the STFT in samples, one more than twice the bins of all regions.
        hop: from frame to frame.
        regions: (bands, bins per band, bins per mask), from low to high.
        widths: features per band at full, half and quarter resolution.
        blocks: residual blocks there.
        recurrent: features of the recurrent layer at the bottom, per direction.
    """

    sources: tuple[str, ...] = ("drums", "bass", "other", "vocals")
    sample_rate: int = 44100
    segment_s: float = 6.0
    fft: int = 4096
    hop: int = 1024
    regions: tuple[tuple[int, int, int], ...] = (
        (32, 4, 1),
        (16, 8, 1),
        (8, 32, 2),
        (4, 128, 4),
        (4, 256, 16),
    )
    widths: tuple[int, int, int] = (48, 80, 128)
    blocks: tuple[int, int, int] = (1, 2, 2)
    recurrent: int = 192


def typical(bins: int, bin_hz: float) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of the `views` of music, roughly: they fall with frequency.

    Returns:
        [VIEWS, 1, F − 1] each.
    """
    fall = (1 + torch.arange(bins) * bin_hz / 700) ** -0.45
    loud = torch.tensor([1.1, 1.1, 1.1, 0.75])[:, None, None]  # there is less of the side
    return loud * fall, 0.05 + 0.4 * loud * fall**0.7


class BandSplit(nn.Module):
    """Every band's standardised magnitudes brought to N features by a matrix of its own."""

    mean: Tensor
    scale: Tensor

    def __init__(self, regions: Sequence[Region], features: int, bin_hz: float) -> None:
        super().__init__()
        self.regions = regions
        bands, bins = sum(r.bands for r in regions), sum(r.bands * r.width for r in regions)
        self.weights = nn.ParameterList(
            nn.Parameter(torch.randn(r.bands, VIEWS * r.width, features) / (VIEWS * r.width) ** 0.5)
            for r in regions
        )
        self.bias = nn.Parameter(torch.zeros(features, bands))
        mean, spread = typical(bins, bin_hz)
        self.register_buffer("mean", mean)
        self.register_buffer("scale", 1 / spread)

    def forward(self, views: Tensor) -> Tensor:
        """[B, VIEWS, frames, F] to [B, N, frames, K]."""
        views = (views - self.mean) * self.scale
        batch, _, frames, _ = views.shape
        sizes = [r.bands * r.width for r in self.regions]
        found = []
        for region, weight, part in zip(self.regions, self.weights, views.split(sizes, -1), strict=True):
            bands = part.unflatten(-1, region[:2]).permute(3, 0, 2, 1, 4).flatten(3).flatten(1, 2)
            found.append(torch.bmm(bands, weight).view(region.bands, batch, frames, -1))
        features = torch.cat(found).permute(1, 3, 2, 0) + self.bias[:, None]
        return features.contiguous(memory_format=torch.channels_last)


class MaskHeads(nn.Module):
    """Every band's logits by a matrix of its own, `outputs` per group of bins."""

    def __init__(self, regions: Sequence[Region], features: int, outputs: int) -> None:
        super().__init__()
        self.regions, self.outputs = regions, outputs
        self.weights = nn.ParameterList(
            nn.Parameter(torch.randn(r.bands, features, outputs * r.groups) * 0.5 / features**0.5)
            for r in regions
        )
        self.biases = nn.ParameterList(
            nn.Parameter(torch.zeros(r.bands, 1, outputs * r.groups)) for r in regions
        )

    def forward(self, features: Tensor) -> Tensor:
        """[B, N, frames, K] to [B, outputs, frames, G]."""
        batch, _, frames, _ = features.shape
        by_band = features.permute(3, 0, 2, 1).flatten(1, 2)
        parts = by_band.split([r.bands for r in self.regions])
        found = []
        for region, weight, bias, part in zip(self.regions, self.weights, self.biases, parts, strict=True):
            logits = torch.baddbmm(bias.to(part.dtype), part, weight.to(part.dtype))
            logits = logits.view(region.bands, batch, frames, self.outputs, region.groups)
            found.append(logits.permute(1, 3, 2, 0, 4).flatten(-2))
        return torch.cat(found, -1)


class Residual(nn.Module):
    """Two 3×3 convolutions beside the identity, the first dilated along time."""

    def __init__(self, features: int, dilation: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(1, features)
        self.first = nn.Conv2d(features, features, 3, padding=(dilation, 1), dilation=(dilation, 1))
        self.second = nn.Conv2d(features, features, 3, padding=1)
        with torch.no_grad():  # nearly the identity at first
            self.second.weight.mul_(0.3)

    def forward(self, x: Tensor) -> Tensor:
        """[B, N, frames, K] to the same."""
        y: Tensor = self.second(F.relu(self.first(F.relu(self.norm(x)))))
        return x + y


def residuals(features: int, count: int) -> nn.Sequential:
    """Residual blocks whose dilation doubles from one to the next."""
    return nn.Sequential(*(Residual(features, 2**i) for i in range(count)))


class Memory(nn.Module):
    """A bidirectional LSTM over the frames, all bands of a frame together, beside the identity."""

    def __init__(self, features: int, bands: int, hidden: int) -> None:
        super().__init__()
        self.enter = nn.Linear(features * bands, hidden)
        self.lstm = nn.LSTM(hidden, hidden, batch_first=True, bidirectional=True)
        self.leave = nn.Linear(2 * hidden, features * bands)
        with torch.no_grad():
            self.leave.weight.mul_(0.5)

    def forward(self, x: Tensor) -> Tensor:
        """[B, N, frames, K] to the same."""
        by_frame = x.permute(0, 2, 3, 1)
        y = self.leave(self.lstm(self.enter(by_frame.flatten(2)))[0])
        added: Tensor = x + y.view(by_frame.shape).permute(0, 3, 1, 2)
        return added


class UNet(nn.Module):
    """Three resolutions in time and bands, and `Memory` at the lowest."""

    def __init__(self, a: BandUNetArguments, bands: int) -> None:
        super().__init__()
        w, n = a.widths, a.blocks
        self.encoder = nn.ModuleList(residuals(w[i], n[i]) for i in (0, 1))
        self.down = nn.ModuleList(nn.Conv2d(w[i], w[i + 1], 2, 2) for i in (0, 1))
        self.middle = nn.Sequential(
            residuals(w[2], n[2]), Memory(w[2], bands // 4, a.recurrent), residuals(w[2], n[2] - 1)
        )
        self.up = nn.ModuleList(nn.ConvTranspose2d(w[i + 1], w[i], 2, 2) for i in (0, 1))
        self.decoder = nn.ModuleList(residuals(w[i], n[i]) for i in (0, 1))

    def forward(self, x: Tensor) -> Tensor:
        """[B, N, frames, K] to the same; K divisible by four."""
        frames = x.shape[2]
        full = self.encoder[0](F.pad(x, (0, 0, 0, -frames % 4)))
        half = self.encoder[1](self.down[0](full))
        quarter = self.middle(self.down[1](half))
        half = self.decoder[1](half + self.up[1](quarter))
        result: Tensor = self.decoder[0](full + self.up[0](half))
        return result[:, :, :frames]


class BandUNet(SpectralNetwork):
    """Magnitudes in, masks out, the mix's phase for all stems.

    Every chunk is seen at the same loudness. The core could standardise the whole track, but it gives the
    track's mean to every stem, and four masks that sum to one need no such help.
    """

    Arguments = BandUNetArguments
    arguments: BandUNetArguments

    def __init__(self, arguments: BandUNetArguments) -> None:
        a = arguments
        super().__init__(
            a,
            stems=a.sources,
            sample_rate=a.sample_rate,
            channels=2,
            segment_samples=int(a.segment_s * a.sample_rate),
            transform=Transform(a.fft, a.hop, reflect=False, normalised=True),
        )
        self.regions = tuple(Region(*r) for r in a.regions)
        bands = sum(r.bands for r in self.regions)
        if sum(r.bands * r.width for r in self.regions) != a.fft // 2 or bands % 4:
            raise StemsplitError(f"band_unet: the regions must have {a.fft // 2} bins and 4·n bands")
        if any(r.width % r.group for r in self.regions):
            raise StemsplitError("band_unet: a band's width must be a multiple of its group")
        self.split = BandSplit(self.regions, a.widths[0], a.sample_rate / a.fft)
        self.unet = UNet(a, bands)
        self.heads = MaskHeads(self.regions, a.widths[0], 2 * len(a.sources))

    def estimate(self, mix: Tensor) -> Tensor:
        """[B, 2, T] to [B, S, 2, T]; stem after stem, to hold one spectrogram at a time."""
        spectrum, samples = self.transform.analyse(mix), mix.shape[-1]
        masks = self._kept_masks(mix, spectrum).unbind(1)
        return torch.stack(
            [self.transform.synthesise(self._per_bin(m).mT * spectrum, samples) for m in masks], 1
        )

    def spectrograms(self, mix: Tensor) -> Tensor:
        """[B, 2, T] to complex [B, S, 2, F, frames]."""
        spectrum = self.transform.analyse(mix)
        return self._per_bin(self._kept_masks(mix, spectrum)).mT * spectrum[:, None]

    def _kept_masks(self, mix: Tensor, spectrum: Tensor) -> Tensor:
        """The masks of the mix at a root mean square of 1, for the stems that `select` left."""
        loudness = mix.square().mean((1, 2)).sqrt()[:, None, None, None]
        return self.masks(spectrum / (loudness + TINY))[:, list(self.kept)]

    def masks(self, spectrum: Tensor) -> Tensor:
        """What share of every group of bins belongs to which stem.

        Args:
            spectrum: complex [B, 2, F, frames], of a mix whose root mean square is 1.

        Returns:
            [B, S, 2, frames, G] in [0, 1], summing to one over all stems.
        """
        logits = self.heads(self.unet(self.split(self.views(spectrum))))
        by_stem: Tensor = logits.float().unflatten(1, (-1, 2))
        return by_stem.softmax(1)

    def views(self, spectrum: Tensor) -> Tensor:
        """Compressed magnitudes |·|^¼ of left, right, middle and side without the highest bin.

        Args:
            spectrum: complex [B, 2, F, frames].

        Returns:
            [B, VIEWS, frames, F − 1].
        """
        left, right = spectrum[:, :, :-1].unbind(1)
        both = torch.stack([left, right, (left + right) * 0.5**0.5, (left - right) * 0.5**0.5], 1)
        power = torch.view_as_real(both).square().sum(-1)
        return (power + TINY).sqrt().sqrt().sqrt().mT

    def mask_error(self, mix: Tensor, target: Tensor) -> Tensor:
        """How far the masked mix is from the stems.

        That is the mean distance in a group of bins that share a mask, and beside it the level of all that is
        wrong, which is what SDR measures.

        With a group's mask m, Σ|m·z − s|² = m²·Σ|z|² − 2m·Σ Re(z̄·s) + Σ|s|²: of the bins only sums without a
        gradient are needed, and nothing is transformed back. Quiet stems count nearly as much as loud ones:
        the distance is relative to the geometric mean of the levels of mix and stem.

        Args:
            mix: [B, 2, T].
            target: the true stems, [B, S, 2, T].

        Returns:
            [B, S]; 0 of silence.
        """
        z = self.transform.analyse(mix / (mix.square().mean((1, 2)).sqrt()[:, None, None] + TINY))
        masks = self.masks(z)
        with torch.no_grad():  # item by item: what is at hand stays in the cache
            factor = mix.square().mean((1, 2)).sqrt()[:, None, None, None] + TINY
            sums = [
                self._sums(*pair)
                for pair in zip(
                    z,
                    self.transform.analyse((target / factor).flatten(0, 1)).unflatten(0, target.shape[:2]),
                    strict=True,
                )
            ]
            power, product, own = (torch.stack(part) for part in zip(*sums, strict=True))
            loud, level = power.sqrt().mean((1, 2, 3))[:, None], own.sqrt().mean((2, 3, 4))
            scale = (loud * level.maximum(FAINT * loud)).rsqrt().masked_fill(loud == 0, 0.0)
        squares = (masks * (masks * power[:, None] - 2 * product) + own).clamp(min=0)
        distance = scale * squares.add(EVEN).sqrt().mean((2, 3, 4))
        share = squares.sum((2, 3, 4)) / (power.sum((1, 2, 3))[:, None] + TINY)
        return distance + BEL * (1 + share / UNHEARD).log10()

    def _sums(self, z: Tensor, s: Tensor) -> list[Tensor]:
        """[2, F, frames] and [S, 2, F, frames] to Σ|z|², Σ Re(z̄·s) and Σ|s|², [(S,) 2, frames, G]."""
        pairs = ((z, z), (z, s), (s, s))
        return [self._per_group(a.real * b.real + a.imag * b.imag) for a, b in pairs]

    def _per_group(self, values: Tensor) -> Tensor:
        """[..., F, frames] to [..., frames, G]: sums over bins that share a mask, without the highest bin."""
        sizes = [r.bands * r.width for r in self.regions]
        parts = values[..., : sum(sizes), :].split(sizes, -2)
        sums = [
            part if r.group == 1 else part.unflatten(-2, (-1, r.group)).sum(-2)
            for r, part in zip(self.regions, parts, strict=True)
        ]
        return torch.cat(sums, -2).mT.contiguous()

    def _per_bin(self, masks: Tensor) -> Tensor:
        """[..., G] to [..., F]: every group's mask for its bins, the last one also for the highest bin."""
        sizes = [r.bands * r.groups for r in self.regions]
        parts = [
            part.repeat_interleave(r.group, -1)
            for r, part in zip(self.regions, masks.split(sizes, -1), strict=True)
        ]
        return torch.cat([*parts, masks[..., -1:]], -1)
