"""Spectrograms whose frequency bands were computed at different sample rates, for the VR networks.

The highest band is the track itself, every other one the next higher band's wave at a lower rate. A stretch
of each band's bins is stacked on the next, so that low bands have a finer resolution in frequency. All bands
have the same frames: their hops are as long in time.
Legend: `B` batch, `S` stems, `F` bins, `T` samples of the highest band. There are always two channels.
"""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from stemsplit.errors import StemsplitError, UnknownNameError
from stemsplit.models.blocks.sinc import FILTERS, Resampling
from stemsplit.models.blocks.stft import stft

# The network's two channels as combinations of left and right
MIXINGS = {
    "mid_side": ((0.5, 0.5), (1.0, -1.0)),
    "mid_side_b2": ((0.5, 1.0), (1.0, -0.5)),
    "mid_side_c": ((1.0, 0.25), (-0.25, 1.0)),
    "stereo_n": ((1 / 0.9375, 0.25 / 0.9375), (0.25 / 0.9375, 1 / 0.9375)),
}
STEREO = ((1.0, 0.0), (0.0, 1.0))
UPWARDS = "sinc_fastest"  # filter of the bands' sum on its way to the next higher rate
MIRROR_GAP = 10  # bins between the mirror image of the high end and the pre-filter

Matrix = tuple[tuple[float, float], tuple[float, float]]


class Extent(NamedTuple):
    """The part of a stretch of audio that lies within its track.

    Attributes:
        first: the first frame, [B].
        end: the sample after the last one, [B].
    """

    first: Tensor
    end: Tensor

    def within(self, samples: int, band: "Band", top: "Band") -> Tensor:
        """Return whether each sample of a band's wave lies in the track, [B, T of the band]."""
        time = torch.arange(samples, device=self.end.device) * top.hop  # samples of the top · hop of the band
        first, end = self.first * top.hop * band.hop, self.end * band.hop
        return (time >= first[:, None]) & (time < end[:, None])

    def frames(self, count: int, hop: int) -> Tensor:
        """Return whether each frame's centre lies in the track, or at its end, [B, count]."""
        k = torch.arange(count, device=self.end.device)
        return (k >= self.first[:, None]) & (k * hop <= self.end[:, None])

    def whole(self, hop: int) -> "Extent":
        """Return the part from the first frame's centre to the last one's."""
        return Extent(self.first, self.end // hop * hop)


def sounding(audio: Tensor, hop: int, latest: int, earliest: int) -> Extent:
    """Return the extent of a track from a stretch of audio, which is silent where there is no track.

    Args:
        audio: [B, 2, T].
        hop: of the frames.
        latest: the track begins at this sample, or before.
        earliest: the track ends before this sample, or after.
    """
    loud = (audio != 0).any(dim=1).int()  # [B, T]
    first = loud.argmax(-1).clamp_max(latest) // hop
    end = (audio.shape[-1] - loud.flip(-1).argmax(-1)).clamp_min(earliest)
    return Extent(first, end)


@dataclass(frozen=True)
class Band:
    """One frequency band.

    Attributes:
        rate: sample rate in Hz.
        hop: samples from frame to frame.
        n_fft: samples per frame.
        start: first bin that the network sees.
        stop: bin after the last one that it sees.
        filter: that makes this band from the next higher one.
        mixing: the network's channels from left and right.
        gains: of the bins when the band is put together with others, [n_fft/2 + 1].
    """

    rate: int
    hop: int
    n_fft: int
    start: int
    stop: int
    filter: str
    mixing: Matrix
    gains: tuple[float, ...]

    def analyse(self, wave: Tensor) -> Tensor:
        """[B, 2, T] -> complex [B, 2, F, frames]; frame k is centred on sample k·hop."""
        half = self.n_fft // 2
        z = stft(F.pad(wave, (half, half)), self.n_fft, self.hop, centred=False)
        return self._mixed(z, torch.tensor(self.mixing))

    def synthesise(self, z: Tensor, extent: Extent, top: "Band") -> Tensor:
        """Put the track's frames together, as if there were no others.

        Beyond the centres of the first and the last one, the wave is silent.

        Args:
            z: complex [B, S, 2, F, frames].
            extent: in the frames of `z`, and in samples of the highest band from the first frame's centre.
            top: the highest band.

        Returns:
            [B, S, 2, (frames − 1)·hop of this band].
        """
        frames = z.shape[-1]
        z = self._mixed(z, torch.linalg.inv(torch.tensor(self.mixing)))
        window = torch.hann_window(self.n_fft, device=z.device)
        valid = extent.frames(frames, top.hop).float()  # [B, frames]
        parts = torch.fft.irfft(z.transpose(-1, -2), self.n_fft) * window  # [B, S, 2, frames, n_fft]
        parts = parts * valid[:, None, None, :, None]
        wave = self._overlapped(parts.flatten(0, 2)).view(*z.shape[:3], -1)
        envelope = self._overlapped(valid[..., None] * window.square())  # [B, ·]
        inside = extent.whole(top.hop).within(wave.shape[-1], self, top)  # [B, ·]
        scale = inside / torch.where(inside, envelope, 1.0)
        return wave * scale[:, None, None]

    def _overlapped(self, parts: Tensor) -> Tensor:
        """[N, frames, n_fft] -> [N, (frames − 1)·hop], from the first frame's centre to the last one's."""
        samples = (parts.shape[1] - 1) * self.hop
        size = (1, samples + self.n_fft)
        wave = F.fold(parts.transpose(1, 2), size, (1, self.n_fft), stride=(1, self.hop))  # [N, 1, 1, ·]
        return wave[:, 0, 0, self.n_fft // 2 : self.n_fft // 2 + samples]

    def _mixed(self, z: Tensor, matrix: Tensor) -> Tensor:
        """Combine the two channels of [..., 2, F, frames]."""
        if self.mixing == STEREO:
            return z
        (a, b), (c, d) = matrix.tolist()
        x, y = z.unbind(-3)
        return torch.stack([a * x + b * y, c * x + d * y], dim=-3)


@dataclass(frozen=True)
class MultiBand:
    """Bands that are stacked, the lowest first.

    Attributes:
        bins: rows of the stack that the network sees; one more is silent.
        bands: from the lowest to the highest.
        gains: of the stack's rows for the network, [bins + 1].
        mirror: the highest band's bins that a mirror image can fill, before its last one.
        mirrored: the row of the stack after those that are mirrored.
        reverse: the network hears the track backwards.
    """

    bins: int
    bands: tuple[Band, ...]
    gains: tuple[float, ...]
    mirror: int
    mirrored: int
    reverse: bool

    @property
    def top(self) -> Band:
        """The highest band."""
        return self.bands[-1]

    @property
    def analysis_frames(self) -> int:
        """Frames at the ends of a stretch of audio that depend on what lies beyond it."""
        reach, tail = [_half_frames(self.top)], 0.0
        for low, high in reversed(list(pairwise(self.bands))):
            tail += Resampling(high.rate, low.rate, low.filter).reach / high.hop
            reach.append(_half_frames(low) + tail)
        return math.ceil(max(reach)) + 1

    @property
    def synthesis_frames(self) -> int:
        """Frames before and after a stretch of audio that it depends on."""
        reach, tail = [_half_frames(self.top)], 0.0
        for low, high in reversed(list(pairwise(self.bands))):
            tail += Resampling(low.rate, high.rate, UPWARDS).reach / low.hop
            reach.append(_half_frames(low) + tail)
        return math.ceil(max(reach)) + 1

    def analyse(self, mix: Tensor, extent: Extent) -> tuple[Tensor, Tensor]:
        """Return the stack and the highest band's bins that can be mirrored.

        Args:
            mix: [B, 2, T].
            extent: of the track in the mix; no band continues beyond it.

        Returns:
            complex [B, 2, bins + 1, frames] and [B, 2, mirror, frames]; frame k is centred on sample k·hop.
        """
        frames = mix.shape[-1] // self.top.hop + 1
        waves = [mix]
        for low, high in reversed(list(pairwise(self.bands))):
            wave = Resampling(high.rate, low.rate, low.filter)(waves[0])
            waves.insert(0, wave * extent.within(wave.shape[-1], low, self.top)[:, None])
        spectra = [b.analyse(wave)[..., :frames] for b, wave in zip(self.bands, waves, strict=True)]
        rows = [z[:, :, b.start : b.stop] for b, z in zip(self.bands, spectra, strict=True)]
        stack = torch.cat(rows, dim=2)  # [B, 2, ≤ bins, frames]
        stack = F.pad(stack, (0, 0, 0, self.bins + 1 - stack.shape[2]))
        gains = torch.tensor(self.gains, device=mix.device)[:, None]  # [bins + 1, 1]
        nyquist = self.top.n_fft // 2
        return stack * gains, spectra[-1][:, :, nyquist - self.mirror : nyquist]

    def synthesise(self, stack: Tensor, extent: Extent, high_end: Tensor | None = None) -> Tensor:
        """Return the wave of a stack.

        Args:
            stack: complex [B, S, 2, bins + 1, frames].
            extent: of the track, in the frames of the stack and in samples from its first frame's centre.
            high_end: the mix's bins [B, 2, mirror, frames] to be filled by a mirror image; None for silence.

        Returns:
            [B, S, 2, (frames − 1)·hop], from the first frame's centre.
        """
        wave, row = torch.zeros((), device=stack.device), 0
        for band, above in zip(self.bands, (*self.bands[1:], None), strict=True):
            rows = stack[..., row : row + band.stop - band.start, :]
            row += band.stop - band.start
            z = F.pad(rows, (0, 0, band.start, band.n_fft // 2 + 1 - band.stop))  # [B, S, 2, F, frames]
            if above is None and high_end is not None:
                z = self._with_high_end(z, stack, high_end)
            z = z * torch.tensor(band.gains, device=z.device)[:, None]
            wave = wave + band.synthesise(z, extent, self.top)
            if above is not None:
                wave = Resampling(band.rate, above.rate, UPWARDS)(wave)
                inside = extent.whole(self.top.hop).within(wave.shape[-1], above, self.top)  # [B, ·]
                wave = wave * inside[:, None, None]
        return wave

    def _with_high_end(self, z: Tensor, stack: Tensor, high_end: Tensor) -> Tensor:
        """Fill the highest bins with the stack's mirror image in the mix's phase, where that is quieter."""
        mix = high_end[:, None]  # [B, 1, 2, mirror, frames]
        image = stack[..., self.mirrored - self.mirror : self.mirrored, :].abs().flip(-2)
        loudness = mix.abs()
        scaled = mix * (image / loudness.clamp_min(torch.finfo(loudness.dtype).tiny))
        filled = torch.where(loudness <= image, mix.expand_as(scaled), scaled)
        nyquist = z.shape[-2] - 1
        return torch.cat([z[..., : nyquist - self.mirror, :], filled, z[..., nyquist:, :]], dim=-2)


def _half_frames(band: Band) -> float:
    """Return half a frame's length in hops."""
    return band.n_fft / 2 / band.hop


@cache
def published() -> dict[str, dict[str, Any]]:
    """Return the band parameters that UVR has, by name."""
    text = (Path(__file__).parents[1] / "vr_bands.json").read_text(encoding="utf-8")
    found: dict[str, dict[str, Any]] = json.loads(text)
    return found


def multiband(parameters: str | Mapping[str, Any], *, modern: bool) -> MultiBand:
    """Return the bands that UVR's parameters describe.

    Args:
        parameters: a name of `published`, or the parameters themselves in the layout of UVR's files.
        modern: as networks v5.1 use them. Those of v5 have one mixing of channels for all bands, and another
            pre-filter if there are several bands.

    Raises:
        StemsplitError: there are no such parameters, or they contradict each other.
    """
    if isinstance(parameters, str):
        if parameters not in published():
            raise UnknownNameError("band parameters", parameters, sorted(published()))
        parameters = published()[parameters]
    try:
        return _Reader(parameters, modern).read()
    except (AttributeError, KeyError, TypeError) as error:
        raise StemsplitError(f"band parameters are malformed ({type(error).__name__}: {error})") from error


class _Reader:
    """Reads band parameters in the layout of UVR's files."""

    def __init__(self, parameters: Mapping[str, Any], modern: bool) -> None:
        self.parameters, self.modern = parameters, modern
        self.bins = parameters["bins"] if "bins" in parameters else parameters["n_bins"]
        self.rows = [band for _, band in sorted(parameters["band"].items(), key=lambda item: int(item[0]))]

    def read(self) -> MultiBand:
        if not self.rows:
            raise StemsplitError("band parameters without a band")
        start, stop = self.parameters.get("pre_filter_start", -1), self.parameters.get("pre_filter_stop", -1)
        bands = tuple(self._band(i) for i in range(len(self.rows)))
        self._check(bands)
        mirror = bands[-1].n_fft // 2 - bands[-1].stop + stop - start
        reverse = bool(self.parameters.get("reverse")) and not self.modern
        gains = tuple(self._pre_filter(start, stop))
        return MultiBand(self.bins, bands, gains, max(0, mirror), start - MIRROR_GAP, reverse)

    def _band(self, index: int) -> Band:
        row = self.rows[index]
        bins = row["n_fft"] // 2 + 1
        gains = [1.0] * bins
        if index < len(self.rows) - 1:
            gains = _product(gains, _falling(bins, row["lpf_start"], row["lpf_stop"]))
        if index > 0 and (index < len(self.rows) - 1 or row["hpf_start"] > 0):
            gains = _product(gains, _rising(bins, row["hpf_start"], row["hpf_stop"] - 1))
        return Band(
            rate=row["sr"],
            hop=row["hl"],
            n_fft=row["n_fft"],
            start=row["crop_start"],
            stop=row["crop_stop"],
            filter=row.get("res_type", "polyphase"),
            mixing=MIXINGS.get(self._mixing(row), STEREO),
            gains=tuple(gains),
        )

    def _mixing(self, row: Mapping[str, Any]) -> str:
        # UVR has no code for mid_side_b, stereo_w and a global stereo_n: such bands are plain stereo
        if self.modern:
            return str(row.get("convert_channels"))
        return next((name for name in ("mid_side", "mid_side_b2") if self.parameters.get(name)), "")

    def _pre_filter(self, start: int, stop: int) -> Iterator[float]:
        if start <= 0:
            yield from [1.0] * (self.bins + 1)
        elif self.modern or len(self.rows) == 1:
            yield from _falling(self.bins + 1, start, stop)
        else:
            gain = 1.0
            for row in range(self.bins + 1):
                gain = 10 ** (-(row - start) * (3.5 - gain) / 20) if start < row < stop else 1.0
                yield gain

    def _check(self, bands: Sequence[Band]) -> None:
        top = bands[-1]
        for band in bands:
            if min(band.rate, band.hop, band.n_fft) < 1 or band.n_fft % 2 or band.hop >= band.n_fft:
                raise StemsplitError(f"band parameters: n_fft {band.n_fft} with hl {band.hop}")
            if band.rate * top.hop != top.rate * band.hop:
                raise StemsplitError(
                    f"band parameters: sr {band.rate} and hl {band.hop} make frames of their own"
                )
            if not 0 <= band.start < band.stop <= band.n_fft // 2 + 1:
                raise StemsplitError(f"band parameters: no bins from {band.start} to {band.stop}")
        if any(band.filter not in FILTERS for band in bands[:-1]):
            raise StemsplitError(
                f"band parameters: res_type is {' or '.join(FILTERS)} below the highest band"
            )
        if any(low.rate > high.rate for low, high in pairwise(bands)):
            raise StemsplitError("band parameters: sr falls from one band to the next")
        if sum(band.stop - band.start for band in bands) > self.bins:
            raise StemsplitError(f"band parameters: more than {self.bins} bins in all bands")


def _falling(rows: int, start: int, stop: int) -> list[float]:
    """Return gains that fall from 1 at row start − 1 to 0 at row stop − 1."""
    return [min(1.0, max(0.0, 1 - (row - start + 1) / max(1, stop - start))) for row in range(rows)]


def _rising(rows: int, start: int, stop: int) -> list[float]:
    """Return gains that rise from 0 at row stop + 1 to 1 at row start + 1."""
    return [min(1.0, max(0.0, (row - stop - 1) / max(1, start - stop))) for row in range(rows)]


def _product(one: Sequence[float], other: Sequence[float]) -> list[float]:
    return [a * b for a, b in zip(one, other, strict=True)]
