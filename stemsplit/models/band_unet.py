"""Band U-Net, a small network for all stems: a U-Net over bands of a spectrogram, and soft masks.

The spectrogram's bins are merged into bands, fine below 1.4 kHz and coarse above 5.5 kHz, so that the U-Net
sees an image of 64 bands instead of 2049 bins. An LSTM at its bottom sees the whole chunk. Every band then
gets a mask per stem for its bins; the masks sum to one, so the stems sum to the mix. In the coarse bands,
groups of bins share their masks. The network is our own; there is no paper.

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

VIEWS = 4  # left, right, mid, side
TINY = 1e-8  # keeps divisions by zero and roots of zero finite
LEVEL_FLOOR = 0.15  # of the mix's level: quieter stems count as if they were that loud
ROOT_FLOOR = 1e-6  # keeps the gradient of √0 finite
ERROR_FLOOR = 1e-3  # of the mix's energy: smaller errors hardly count
SDR_WEIGHT = 1.5  # of 10 dB of error, relative to the mean distance of the groups


class Region(NamedTuple):
    """Adjacent bands of equal width.

    Attributes:
        bands: number of bands.
        width: bins per band.
        group: bins that share a mask.
    """

    bands: int
    width: int
    group: int

    @property
    def groups(self) -> int:
        """Number of masks per band."""
        return self.width // self.group


@dataclass(frozen=True)
class BandUNetArguments:
    """Sizes of the network.

    Attributes:
        sources: names of the stems.
        sample_rate: in Hz.
        segment_s: length of a chunk, in s.
        fft: window of the STFT in samples, twice the bins of all regions.
        hop: samples from frame to frame.
        regions: (bands, bins per band, bins per mask), from low to high.
        widths: features per band at full, half and quarter resolution.
        blocks: number of residual blocks at full, half and quarter resolution.
        recurrent: width of the LSTM at the bottom, per direction.
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


def typical_moments(bins: int, bin_hz: float) -> tuple[Tensor, Tensor]:
    """Return the rough mean and standard deviation of the `views` of music, which fall with frequency.

    Args:
        bins: F − 1.
        bin_hz: width of a bin, in Hz.

    Returns:
        [VIEWS, 1, F − 1] each.
    """
    fall = (1 + torch.arange(bins) * bin_hz / 700) ** -0.45
    loud = torch.tensor([1.1, 1.1, 1.1, 0.75])[:, None, None]  # the side is quieter; [VIEWS, 1, 1]
    return loud * fall, 0.05 + 0.4 * loud * fall**0.7


class BandSplit(nn.Module):
    """Standardise the magnitudes, and map each band to N features by a matrix of its own."""

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
        mean, spread = typical_moments(bins, bin_hz)
        self.register_buffer("mean", mean)
        self.register_buffer("scale", 1 / spread)

    def forward(self, views: Tensor) -> Tensor:
        """[B, VIEWS, frames, F − 1] -> [B, N, frames, K]."""
        views = (views - self.mean) * self.scale
        batch, _, frames, _ = views.shape
        sizes = [r.bands * r.width for r in self.regions]
        found = []
        for region, weight, part in zip(self.regions, self.weights, views.split(sizes, -1), strict=True):
            # [B, VIEWS, frames, bands, width] -> [bands, B, frames, VIEWS, width]
            by_band = part.unflatten(-1, region[:2]).permute(3, 0, 2, 1, 4)  # [bands, B, frames, ·, ·]
            flat = by_band.flatten(3).flatten(1, 2)  # [bands, B·frames, VIEWS·width]
            found.append(torch.bmm(flat, weight).view(region.bands, batch, frames, -1))  # [·, B, frames, N]
        joined = torch.cat(found).permute(1, 3, 2, 0) + self.bias[:, None]  # [B, N, frames, K]
        return joined.contiguous(memory_format=torch.channels_last)


class MaskHeads(nn.Module):
    """Map each band's features to `outputs` logits per group of bins, by a matrix of its own."""

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
        """[B, N, frames, K] -> [B, outputs, frames, G]."""
        batch, _, frames, _ = features.shape
        by_band = features.permute(3, 0, 2, 1).flatten(1, 2)  # [K, B·frames, N]
        parts = by_band.split([r.bands for r in self.regions])
        joined = []
        for region, weight, bias, part in zip(self.regions, self.weights, self.biases, parts, strict=True):
            logits = torch.baddbmm(bias.to(part.dtype), part, weight.to(part.dtype))
            shape = (region.bands, batch, frames, self.outputs, region.groups)
            logits = logits.view(shape)  # [bands, B, frames, outputs, groups]
            joined.append(logits.permute(1, 3, 2, 0, 4).flatten(-2))  # [B, outputs, frames, bands·groups]
        return torch.cat(joined, -1)  # [B, outputs, frames, G]


class ResidualBlock(nn.Module):
    """Two residual 3×3 convolutions, the first dilated along time."""

    def __init__(self, features: int, dilation: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(1, features)
        self.first = nn.Conv2d(features, features, 3, padding=(dilation, 1), dilation=(dilation, 1))
        self.second = nn.Conv2d(features, features, 3, padding=1)
        with torch.no_grad():  # the block starts close to the identity
            self.second.weight.mul_(0.3)

    def forward(self, x: Tensor) -> Tensor:
        """[B, N, frames, K] -> [B, N, frames, K]."""
        y: Tensor = self.second(F.relu(self.first(F.relu(self.norm(x)))))
        return x + y


def residuals(features: int, count: int) -> nn.Sequential:
    """Build residual blocks with dilations 1, 2, 4 and so on."""
    return nn.Sequential(*(ResidualBlock(features, 2**i) for i in range(count)))


class FrameLSTM(nn.Module):
    """Residual bidirectional LSTM over the frames, with all bands of a frame as its features."""

    def __init__(self, features: int, bands: int, hidden: int) -> None:
        super().__init__()
        self.enter = nn.Linear(features * bands, hidden)
        self.lstm = nn.LSTM(hidden, hidden, batch_first=True, bidirectional=True)
        self.leave = nn.Linear(2 * hidden, features * bands)
        with torch.no_grad():  # start closer to the identity
            self.leave.weight.mul_(0.5)

    def forward(self, x: Tensor) -> Tensor:
        """[B, N, frames, K] -> [B, N, frames, K]."""
        by_frame = x.permute(0, 2, 3, 1)  # [B, frames, K, N]
        y = self.leave(self.lstm(self.enter(by_frame.flatten(2)))[0])  # [B, frames, K·N]
        added: Tensor = x + y.view(by_frame.shape).permute(0, 3, 1, 2)  # [B, N, frames, K]
        return added


class UNet(nn.Module):
    """U-Net with three resolutions in time and bands, and `FrameLSTM` at the lowest."""

    def __init__(self, a: BandUNetArguments, bands: int) -> None:
        super().__init__()
        w, n = a.widths, a.blocks
        self.encoder = nn.ModuleList(residuals(w[i], n[i]) for i in (0, 1))
        self.down = nn.ModuleList(nn.Conv2d(w[i], w[i + 1], 2, 2) for i in (0, 1))
        self.middle = nn.Sequential(
            residuals(w[2], n[2]), FrameLSTM(w[2], bands // 4, a.recurrent), residuals(w[2], n[2] - 1)
        )
        self.up = nn.ModuleList(nn.ConvTranspose2d(w[i + 1], w[i], 2, 2) for i in (0, 1))
        self.decoder = nn.ModuleList(residuals(w[i], n[i]) for i in (0, 1))

    def forward(self, x: Tensor) -> Tensor:
        """[B, N, frames, K] -> [B, N, frames, K]; K is a multiple of four."""
        frames = x.shape[2]
        full = self.encoder[0](F.pad(x, (0, 0, 0, -frames % 4)))  # frames a multiple of four
        half = self.encoder[1](self.down[0](full))  # [B, widths[1], frames/2, K/2]
        quarter = self.middle(self.down[1](half))  # [B, widths[2], frames/4, K/4]
        half = self.decoder[1](half + self.up[1](quarter))
        result: Tensor = self.decoder[0](full + self.up[0](half))
        return result[:, :, :frames]


class BandUNet(SpectralNetwork):
    """Estimate masks from the mix's magnitudes; all stems get the mix's phase.

    Every chunk is scaled to the same level. `normalise` isn't used: undoing it adds the track's mean to every
    stem, so that masks that sum to one wouldn't give stems that sum to the mix.
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
        """[B, 2, T] -> [B, S, 2, T]; stem by stem, to hold one spectrogram at a time."""
        spectrum, samples = self.transform.analyse(mix), mix.shape[-1]
        masks = self._kept_masks(mix, spectrum).unbind(1)  # [B, 2, frames, G] each
        return torch.stack(
            [self.transform.synthesise(self._per_bin(m).mT * spectrum, samples) for m in masks], 1
        )

    def spectrograms(self, mix: Tensor) -> Tensor:
        """[B, 2, T] -> complex [B, S, 2, F, frames]."""
        spectrum = self.transform.analyse(mix)
        return self._per_bin(self._kept_masks(mix, spectrum)).mT * spectrum[:, None]

    def _kept_masks(self, mix: Tensor, spectrum: Tensor) -> Tensor:
        """Return the selected stems' masks, from the mix scaled to an RMS of 1: [B, S, 2, frames, G]."""
        rms = mix.square().mean((1, 2)).sqrt()[:, None, None, None]  # [B, 1, 1, 1]
        return self.masks(spectrum / (rms + TINY))[:, list(self.kept)]

    def masks(self, spectrum: Tensor) -> Tensor:
        """Estimate the masks of all stems for every group of bins.

        Args:
            spectrum: complex [B, 2, F, frames], of a mix with an RMS of 1.

        Returns:
            [B, S, 2, frames, G] in [0, 1], with a sum of one over the stems.
        """
        logits = self.heads(self.unet(self.split(self.views(spectrum))))
        by_stem: Tensor = logits.float().unflatten(1, (-1, 2))  # [B, S, 2, frames, G]
        return by_stem.softmax(1)

    def views(self, spectrum: Tensor) -> Tensor:
        """Return compressed magnitudes |·|^¼ of left, right, mid and side, without the highest bin.

        Args:
            spectrum: complex [B, 2, F, frames].

        Returns:
            [B, VIEWS, frames, F − 1].
        """
        left, right = spectrum[:, :, :-1].unbind(1)  # [B, F − 1, frames] each
        views = torch.stack([left, right, (left + right) * 0.5**0.5, (left - right) * 0.5**0.5], 1)
        power = torch.view_as_real(views).square().sum(-1)  # [B, VIEWS, F − 1, frames]
        return (power + TINY).sqrt().sqrt().sqrt().mT  # (|z|²)^⅛ = |z|^¼

    def mask_error(self, mix: Tensor, target: Tensor) -> Tensor:
        """Return the loss of the masks: the distance of the masked mix from the true stems.

        The loss is the mean over groups of the distance |m·z − s|, plus a term in the level of the whole
        error, which SDR measures. The distance is relative to the geometric mean of the levels of mix and
        stem, so that quiet stems count nearly as much as loud ones.

        With a group's mask m, Σ|m·z − s|² = m²·Σ|z|² − 2m·Σ Re(z̄·s) + Σ|s|². The sums over bins need no
        gradient, and no inverse transform.

        Args:
            mix: [B, 2, T].
            target: the true stems, [B, S, 2, T].

        Returns:
            [B, S]; 0 for silence.
        """
        z = self.transform.analyse(mix / (mix.square().mean((1, 2)).sqrt()[:, None, None] + TINY))
        masks = self.masks(z)
        with torch.no_grad():
            factor = mix.square().mean((1, 2)).sqrt()[:, None, None, None] + TINY  # [B, 1, 1, 1]
            # Item by item: one item's spectra stay in the CPU's cache.
            sums = [self._sums(*pair) for pair in zip(z, self._stem_spectra(target / factor), strict=True)]
            power, product, own = (torch.stack(part) for part in zip(*sums, strict=True))
            # mean levels, [B, 1] and [B, S]
            loud, level = power.sqrt().mean((1, 2, 3))[:, None], own.sqrt().mean((2, 3, 4))
            scale = (loud * level.maximum(LEVEL_FLOOR * loud)).rsqrt().masked_fill(loud == 0, 0.0)
        # Σ|m·z − s|² per group, [B, S, 2, frames, G]; rounding can make it negative
        squares = (masks * (masks * power[:, None] - 2 * product) + own).clamp(min=0)
        distance = scale * squares.add(ROOT_FLOOR).sqrt().mean((2, 3, 4))
        share = squares.sum((2, 3, 4)) / (power.sum((1, 2, 3))[:, None] + TINY)
        return distance + SDR_WEIGHT * (1 + share / ERROR_FLOOR).log10()

    def _stem_spectra(self, stems: Tensor) -> Tensor:
        """[B, S, 2, T] -> complex [B, S, 2, F, frames]."""
        spectra = self.transform.analyse(stems.flatten(0, 1))  # [B·S, 2, F, frames]
        unflat: Tensor = spectra.unflatten(0, stems.shape[:2])  # [B, S, 2, F, frames]
        return unflat

    def _sums(self, z: Tensor, s: Tensor) -> list[Tensor]:
        """Return Σ|z|² [2, frames, G], and Σ Re(z̄·s) and Σ|s|² [S, 2, frames, G].

        Args:
            z: the mix, complex [2, F, frames].
            s: the stems, complex [S, 2, F, frames].
        """
        pairs = ((z, z), (z, s), (s, s))
        return [self._per_group(a.real * b.real + a.imag * b.imag) for a, b in pairs]

    def _per_group(self, values: Tensor) -> Tensor:
        """Sum over bins that share a mask, without the highest bin: [..., F, frames] -> [..., frames, G]."""
        sizes = [r.bands * r.width for r in self.regions]
        parts = values[..., : sum(sizes), :].split(sizes, -2)
        sums = [
            part if r.group == 1 else part.unflatten(-2, (-1, r.group)).sum(-2)  # [..., groups, frames]
            for r, part in zip(self.regions, parts, strict=True)
        ]
        return torch.cat(sums, -2).mT.contiguous()

    def _per_bin(self, masks: Tensor) -> Tensor:
        """Repeat every group's mask for its bins, the last one also for the highest: [..., G] -> [..., F]."""
        sizes = [r.bands * r.groups for r in self.regions]
        parts = [
            part.repeat_interleave(r.group, -1)
            for r, part in zip(self.regions, masks.split(sizes, -1), strict=True)
        ]
        return torch.cat([*parts, masks[..., -1:]], -1)
