"""The VR networks of Ultimate Vocal Remover (after tsurumeso's vocal-remover), v5 and v5.1.

They estimate a mask of the primary stem from the magnitudes of a multi-band spectrogram, window by window;
the secondary stem gets the rest. Keys of the networks and names of the arguments are the released ones.
Legend: `B` batch, `S` stems, `F` bins, `T` samples, `W` frames of a window. There are always two channels.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from stemsplit.chunking import Chunking
from stemsplit.errors import StemsplitError
from stemsplit.models.blocks.artifacts import REACH, without_artifacts
from stemsplit.models.blocks.multiband import Extent, MultiBand, multiband
from stemsplit.models.blocks.pyramid import ConvNorm, RecurrentUNet, UNet
from stemsplit.models.network import Network
from stemsplit.stems import canonical

# Primary stems of which `aggressiveness` takes more rather than less, as in UVR
SOUNDS = frozenset(
    "vocals other bass drums guitar piano synthesizer strings woodwinds brass wind_inst".split()
)


def opposite(stem: str) -> str:
    """Return the name of everything but a stem, by the rule of UVR."""
    pairs = {"vocals": "Instrumental", "instrumental": "Vocals"}
    rest = stem[3:] if stem.lower().startswith("no ") else f"No {stem}"
    return pairs.get(stem.lower(), rest)


@dataclass(frozen=True, kw_only=True)
class VRArguments:
    """Arguments of both versions; the fields after the stems, but the last, are those that a user may change.

    Attributes:
        vr_model_param: the bands, by the name of a parameter file of UVR, or in such a file's layout.
        primary_stem: the stem that is masked.
        secondary_stem: the rest; None for a name made from the primary stem's.
        window_size: frames that the network sees at once: 320, 512 or 1024 in UVR; fewer are slower.
        aggressiveness: from -50 to 100; how strongly low values of the mask are lowered further, 0 for not
            at all. If the primary stem is one of `SOUNDS`, a higher value lowers them less.
        tta: average two masks, the windows of the second shifted by half.
        high_end_process: fill the stems above the bands by a mirror image of the bins below.
        post_process: give long stretches in which the mask is nowhere low to the primary stem alone.
        post_process_threshold: the lowest value of the mask in such a stretch.
        windows: in a chunk. One more is computed for every chunk; the result is the same.
    """

    vr_model_param: str | Mapping[str, Any] = "4band_v3"
    primary_stem: str = "Vocals"
    secondary_stem: str | None = None
    window_size: int = 512
    aggressiveness: int = 5
    tta: bool = False
    high_end_process: bool = False
    post_process: bool = False
    post_process_threshold: float = 0.2
    windows: int = 8

    OFFSET: ClassVar[int]
    MODERN: ClassVar[bool]

    def __post_init__(self) -> None:
        if not -50 <= self.aggressiveness <= 100:
            raise StemsplitError(f"aggressiveness {self.aggressiveness}: must be from -50 to 100")
        if not 0 <= self.post_process_threshold <= 1:
            raise StemsplitError(
                f"post_process_threshold {self.post_process_threshold:g}: must be from 0 to 1"
            )
        multiple = 2**self.scales
        if self.window_size % multiple or self.roi < 2:
            raise StemsplitError(
                f"window_size {self.window_size}: must be a multiple of {multiple} above {2 * self.OFFSET}"
            )
        if self.bands.bins % (2 * multiple):
            raise StemsplitError(f"{self.bands.bins} bins: must be a multiple of {2 * multiple}")

    @property
    def scales(self) -> int:
        """Number of times that the network halves bins and frames."""
        return 4

    @property
    def roi(self) -> int:
        """Frames of a window that get their masks from it (region of interest)."""
        return self.window_size - 2 * self.OFFSET

    @cached_property
    def bands(self) -> MultiBand:
        """The bands that `vr_model_param` describes."""
        return multiband(self.vr_model_param, modern=self.MODERN)

    @property
    def stems(self) -> tuple[str, str]:
        """The primary and the secondary stem."""
        return self.primary_stem, self.secondary_stem or opposite(self.primary_stem)

    @property
    def exponents(self) -> tuple[float, float]:
        """Powers to which `aggressiveness` raises the mask, in the lowest band and above."""
        if not self.aggressiveness:
            return 1.0, 1.0
        strength = self.aggressiveness / 50
        if canonical(self.primary_stem) in SOUNDS:
            strength = 1 - strength
        return 1 + strength / 3, 1 + strength

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Self:
        """Return the arguments of a configuration whose section `vr` is like an entry of UVR's table.

        Args:
            config: `vr` has vr_model_param, primary_stem and perhaps secondary_stem. The sizes nout and
                nout_lstm are those of the tensors; is_karaoke, is_bv_model and is_bv_model_rebalanced only
                change how UVR names and combines the stems of several models.
        """
        entry = config["vr"]
        kept = ("vr_model_param", "primary_stem", "secondary_stem")
        return cls(**{name: entry[name] for name in kept if name in entry})


class Unused(nn.Module):
    """Weights of an output that only the original training computed; kept so that files fit.

    Args:
        channels: of its input.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.register_buffer("weight", torch.zeros(2, channels, 1, 1))


class VRNetwork(Network):
    """Base class of both versions, which implement `mask`.

    A chunk begins in the middle of a window: there is half a window of silence before the track. So the
    windows are those of the whole track, whatever the chunk, and only one is computed twice per chunk.
    """

    options: ClassVar[tuple[str, ...]] = (
        "window_size",
        "aggressiveness",
        "tta",
        "high_end_process",
        "post_process",
        "post_process_threshold",
    )
    normalise = True
    normalised_by = "magnitude"
    overlap = 0.0

    def __init__(self, arguments: VRArguments) -> None:
        a, bands = arguments, arguments.bands
        hop = bands.top.hop
        super().__init__(
            a,
            stems=a.stems,
            sample_rate=bands.top.rate,
            channels=2,
            segment_samples=a.windows * a.roi * hop,
        )
        self.bands = bands
        # frames beyond both ends of a chunk whose masks it needs
        self.margin = bands.synthesis_frames + (REACH if a.post_process else 0)
        first = min(_first_window(-self.margin, shift, a.roi) for shift in self._shifts)
        self.context_frames = a.OFFSET - first + bands.analysis_frames
        self.context_samples = self.context_frames * hop
        self.chunking = Chunking(lead=a.roi // 2 * hop)

    @property
    def _shifts(self) -> tuple[int, ...]:
        """Frames from a chunk's start to the start of a window, for each mask that is averaged."""
        half = self.arguments.roi // 2
        return (half, 0) if self.arguments.tta else (half,)

    def mask(self, x: Tensor) -> Tensor:
        """Estimate the primary stem's mask for the frames of a window but OFFSET at each end.

        Args:
            x: magnitudes [B, 2, bins, W].

        Returns:
            [B, 2, bins, W − 2·OFFSET], from 0 to 1.
        """
        raise TypeError(f"{type(self).__name__} estimates nothing")

    def estimate(self, mix: Tensor) -> Tensor:
        """[B, 2, T] -> [B, S, 2, T], with silence before and after."""
        return self(F.pad(mix, (self.context_samples, self.context_samples)))

    def forward(self, mix: Tensor) -> Tensor:
        """[B, 2, context + n + context] -> [B, S, 2, n]."""
        with torch.autocast(mix.device.type, enabled=False):  # samples of audio need full precision
            audio = mix.float().flip(-1) if self.bands.reverse else mix.float()
            extent = self._extent(audio)
            z, high_end = self.bands.analyse(audio, extent)
            heard = self._heard(z, extent)
        hop, samples = self.bands.top.hop, mix.shape[-1] - 2 * self.context_samples
        start = self.context_frames - self.margin
        stop = self.context_frames + -(-samples // hop) + self.margin + 1
        masks = self.masks(heard, start, stop, self.context_frames, extent)
        with torch.autocast(mix.device.type, enabled=False):
            shares = torch.stack([masks, 1 - masks], dim=1)[:, list(self.kept)]  # [B, S, 2, F, frames]
            stack = shares * z[:, None, ..., start:stop]
            inside = Extent(extent.first - start, extent.end - start * hop)
            mirrored = high_end[..., start:stop] if self.arguments.high_end_process else None
            wave = self.bands.synthesise(stack, inside, mirrored)
        stems = wave[..., self.margin * hop :][..., :samples]  # [B, S, 2, n]
        return stems.flip(-1) if self.bands.reverse else stems

    @torch.no_grad()
    def magnitude(self, mix: Tensor) -> float:
        """Return the largest magnitude of a chunk's frames that the network sees, of [1, 2, ctx + n + ctx]."""
        audio = mix.float().flip(-1) if self.bands.reverse else mix.float()
        extent = self._extent(audio)
        z, _ = self.bands.analyse(audio, extent)
        heard = self._heard(z, extent)
        frames = (mix.shape[-1] - 2 * self.context_samples) // self.bands.top.hop + 1
        return float(heard[..., self.context_frames : self.context_frames + frames].max())

    def masks(
        self, x: Tensor, start: int, stop: int, origin: int, extent: Extent
    ) -> Tensor:
        """Estimate the mask of frames that windows cover, with all options applied.

        Args:
            x: magnitudes [B, 2, bins + 1, frames]; there is silence beyond them.
            start: the first frame whose mask is wanted.
            stop: the frame after the last one.
            origin: the frame from which windows are `_shifts` away.
            extent: of the track.

        Returns:
            [B, 2, bins + 1, stop − start].
        """
        masks = [self._windowed(x, start, stop, origin + shift) for shift in self._shifts]
        mask = (masks[0] + masks[1]) / 2 if len(masks) > 1 else masks[0]
        mask = F.pad(mask.float(), (0, 0, 0, 1), mode="replicate")  # [B, 2, bins + 1, ·]
        if self.training:
            return mask
        a = self.arguments
        low, high = a.exponents
        split = self.bands.bands[0].stop
        mask = torch.cat([mask[:, :, :split] ** low, mask[:, :, split:] ** high], dim=2)
        if a.post_process:
            firsts, lasts = (extent.first - start).tolist(), (extent.end // self.bands.top.hop - start).tolist()
            mask = torch.stack(
                [
                    without_artifacts(one, a.post_process_threshold, first, last)
                    for one, first, last in zip(mask, firsts, lasts, strict=True)
                ]
            )
        return mask

    def _windowed(self, x: Tensor, start: int, stop: int, grid: int) -> Tensor:
        """Return the masks of windows side by side, one of which begins at the frame `grid`."""
        a = self.arguments
        first = _first_window(start, grid, a.roi)
        windows = range(first - a.OFFSET, stop - a.OFFSET, a.roi)
        before, after = max(0, -windows[0]), max(0, windows[-1] + a.window_size - x.shape[-1])
        padded = F.pad(x[:, :, : self.bands.bins], (before, after))
        masks = [self._of_window(padded[..., w + before : w + before + a.window_size]) for w in windows]
        return torch.cat(masks, dim=-1)[..., start - first : stop - first]

    def _of_window(self, x: Tensor) -> Tensor:
        offset = self.arguments.OFFSET
        inner = x[..., offset : x.shape[-1] - offset]
        if self.training or self.arguments.post_process or inner.any():
            return self.mask(x)
        return torch.zeros_like(inner)  # of silence

    def _extent(self, audio: Tensor) -> Extent:
        """Return the part of a chunk with its context, [B, 2, T], that lies within the track.

        What lies beyond is silent. A track can't begin later than after the lead, or end before the chunk.
        """
        sounding = (audio != 0).any(dim=1).int()  # [B, T]
        hop, samples = self.bands.top.hop, audio.shape[-1]
        latest = self.context_samples + self.chunking.lead
        first = sounding.argmax(-1).clamp_max(latest) // hop
        end = (samples - sounding.flip(-1).argmax(-1)).clamp_min(samples - self.context_samples)
        return Extent(first, end)

    def _heard(self, z: Tensor, extent: Extent) -> Tensor:
        """Return the magnitudes that the network sees: none in frames beyond the track.

        Args:
            z: the chunk's stack, complex [B, 2, bins + 1, frames].
            extent: of the track.

        Returns:
            [B, 2, bins + 1, frames].
        """
        heard = z.abs() * extent.frames(z.shape[-1], self.bands.top.hop)[:, None, None]
        if self.training:  # the whole track's maximum isn't known
            return heard / heard.amax((1, 2, 3), keepdim=True).clamp_min(torch.finfo(heard.dtype).tiny)
        return heard

    def use_segment(self, seconds: float) -> Self:
        """Work on chunks of `seconds`, rounded to whole windows.

        Raises:
            SettingsError: that is less than a sample.
        """
        super().use_segment(seconds)
        window = self.arguments.roi * self.bands.top.hop
        self.segment_samples = max(1, round(self.segment_samples / window)) * window
        return self

    def prepare(self, dtype: torch.dtype = torch.float32) -> Self:
        """Fold the batch normalisations into the convolutions."""
        for module in self.modules():
            if isinstance(module, ConvNorm):
                module.fold()
        return self


class VR(VRNetwork):
    """v5: two U-Nets for the lower and the upper half of the bins, then two for all, each seeing the last."""

    @dataclass(frozen=True, kw_only=True)
    class Arguments(VRArguments):
        """Values of the released HP checkpoints.

        Attributes:
            ch: channels of the first two U-Nets at their first scale: 16, 32 or 64.
            encoders: scales of a U-Net: 4 or 5.
            aspp_layers: of the pyramid: 5, 6 or 7.
        """

        ch: int = 32
        encoders: int = 4
        aspp_layers: int = 5

        OFFSET: ClassVar[int] = 128
        MODERN: ClassVar[bool] = False

        def __post_init__(self) -> None:
            if self.encoders not in (4, 5) or self.aspp_layers not in (5, 6, 7) or self.ch < 2 or self.ch % 2:
                raise StemsplitError(
                    f"encoders {self.encoders}, aspp_layers {self.aspp_layers}, ch {self.ch}:"
                    " must be 4 or 5, 5 to 7, and an even number"
                )
            super().__post_init__()

        @property
        def scales(self) -> int:
            """Number of times that the network halves bins and frames."""
            return self.encoders

        @staticmethod
        def from_shapes(shapes: Mapping[str, Sequence[int]]) -> dict[str, Any]:
            """Return the arguments that tensors' shapes tell."""
            return {
                "ch": shapes["stg1_low_band_net.enc1.conv1.conv.0.weight"][0],
                "encoders": 5 if "stg1_low_band_net.enc5.conv1.conv.0.weight" in shapes else 4,
                "aspp_layers": sum(f"stg1_low_band_net.aspp.conv{i}.conv.0.weight" in shapes for i in range(8))
                + 1,
            }

    def __init__(self, arguments: Arguments) -> None:
        super().__init__(arguments)
        a, ch = arguments, arguments.ch

        def unet(channels: int, out: int) -> UNet:
            return UNet(channels, out, a.encoders, a.aspp_layers)

        self.stg1_low_band_net, self.stg1_high_band_net = unet(2, ch), unet(2, ch)
        self.stg2_bridge, self.stg2_full_band_net = ConvNorm(2 + ch, ch // 2, 1), unet(ch // 2, ch)
        self.stg3_bridge, self.stg3_full_band_net = ConvNorm(2 + 2 * ch, ch, 1), unet(ch, 2 * ch)
        self.out = nn.Conv2d(2 * ch, 2, 1, bias=False)
        self.aux1_out, self.aux2_out = Unused(ch), Unused(ch)

    def mask(self, x: Tensor) -> Tensor:
        """[B, 2, bins, W] -> [B, 2, bins, W − 2·OFFSET]."""
        low, high = x.chunk(2, dim=2)
        first = torch.cat([self.stg1_low_band_net(low), self.stg1_high_band_net(high)], dim=2)
        second = self.stg2_full_band_net(self.stg2_bridge(torch.cat([x, first], dim=1)))
        joined = self.stg3_bridge(torch.cat([x, first, second], dim=1))
        mask: Tensor = self.out(self.stg3_full_band_net(joined, self.arguments.OFFSET)).sigmoid()
        return mask


class VRv51(VRNetwork):
    """v5.1: two stages of U-Nets for the lower and the upper half of the bins, then one for all of them."""

    @dataclass(frozen=True, kw_only=True)
    class Arguments(VRArguments):
        """Values of the released De-Echo checkpoints but for the channels.

        Attributes:
            nout: channels of the last U-Net at its first scale: 16, 32, 48 or 64.
            nout_lstm: width of its LSTM, both directions together.
        """

        nout: int = 32
        nout_lstm: int = 128

        OFFSET: ClassVar[int] = 64
        MODERN: ClassVar[bool] = True

        def __post_init__(self) -> None:
            if min(self.nout, self.nout_lstm) < 4 or self.nout % 4 or self.nout_lstm % 4:
                raise StemsplitError(
                    f"nout {self.nout}, nout_lstm {self.nout_lstm}: must be multiples of 4"
                )
            super().__post_init__()

        @staticmethod
        def from_shapes(shapes: Mapping[str, Sequence[int]]) -> dict[str, Any]:
            """Return the arguments that tensors' shapes tell."""
            return {
                "nout": shapes["out.weight"][1],
                "nout_lstm": shapes["stg3_full_band_net.lstm_dec2.dense.0.weight"][1],
            }

    def __init__(self, arguments: Arguments) -> None:
        super().__init__(arguments)
        nout, hidden, bins = arguments.nout, arguments.nout_lstm, self.bands.bins // 2

        def low(channels: int, out: int) -> nn.Sequential:
            unet = RecurrentUNet(channels, out, bins // 2, hidden)
            return nn.Sequential(unet, ConvNorm(out, out // 2, 1))

        self.stg1_low_band_net = low(2, nout // 2)
        self.stg1_high_band_net = RecurrentUNet(2, nout // 4, bins // 2, hidden // 2)
        self.stg2_low_band_net = low(nout // 4 + 2, nout)
        self.stg2_high_band_net = RecurrentUNet(nout // 4 + 2, nout // 2, bins // 2, hidden // 2)
        self.stg3_full_band_net = RecurrentUNet(3 * nout // 4 + 2, nout, bins, hidden)
        self.out = nn.Conv2d(nout, 2, 1, bias=False)
        self.aux_out = Unused(3 * nout // 4)

    def mask(self, x: Tensor) -> Tensor:
        """[B, 2, bins, W] -> [B, 2, bins, W − 2·OFFSET]."""
        low, high = x.chunk(2, dim=2)
        low1, high1 = self.stg1_low_band_net(low), self.stg1_high_band_net(high)
        low2 = self.stg2_low_band_net(torch.cat([low, low1], dim=1))
        high2 = self.stg2_high_band_net(torch.cat([high, high1], dim=1))
        first, second = torch.cat([low1, high1], dim=2), torch.cat([low2, high2], dim=2)
        joined = torch.cat([x, first, second], dim=1)
        mask: Tensor = self.out(self.stg3_full_band_net(joined, self.arguments.OFFSET)).sigmoid()
        return mask


def _first_window(start: int, grid: int, roi: int) -> int:
    """Return the last frame at or before `start` that is a multiple of `roi` away from `grid`."""
    return grid + (start - grid) // roi * roi
