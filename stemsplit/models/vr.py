"""The VR networks of Ultimate Vocal Remover (after tsurumeso's vocal-remover), v5 and v5.1.

They estimate a mask of the primary stem from the magnitudes of a multi-band spectrogram, window by window;
the secondary stem gets the rest. Keys of the networks and names of the arguments are the released ones.
Legend: `B` batch, `S` stems, `F` bins, `T` samples, `W` frames of a window. There are always two channels.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from stemsplit.chunking import Chunking
from stemsplit.errors import StemsplitError
from stemsplit.models.blocks.artifacts import REACH, without_artifacts
from stemsplit.models.blocks.multiband import Extent, sounding
from stemsplit.models.blocks.pyramid import ConvNorm, RecurrentUNet, UNet
from stemsplit.models.blocks.uvr import VRArguments
from stemsplit.models.fast.padded import tile_convolutions
from stemsplit.models.network import Network


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
            segment_samples=a.windows * a.grid.roi * hop,
        )
        self.bands = bands
        # frames beyond both ends of a chunk whose masks it needs
        self.margin = bands.synthesis_frames + (REACH if a.post_process else 0)
        first = min(a.grid.first(-self.margin, shift) for shift in self._shifts)
        self.context_frames = a.OFFSET - first + bands.analysis_frames
        self.context_samples = self.context_frames * hop
        self.chunking = Chunking(lead=a.grid.roi // 2 * hop)

    @property
    def _shifts(self) -> tuple[int, ...]:
        """Frames from a chunk's start to the start of a window, for each mask that is averaged."""
        half = self.arguments.grid.roi // 2
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
        return self.forward(F.pad(mix, (self.context_samples, self.context_samples)))

    def forward(self, mix: Tensor) -> Tensor:
        """[B, 2, context + n + context] -> [B, S, 2, n]."""
        z, high_end, heard, extent = self._analysed(mix)
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
        stems: Tensor = wave[..., self.margin * hop :][..., :samples]  # [B, S, 2, n]
        return stems.flip(-1) if self.bands.reverse else stems

    @torch.no_grad()
    def magnitude(self, mix: Tensor) -> float:
        """Return the largest magnitude of a chunk's frames, of [1, 2, context + n + context]."""
        heard = self._analysed(mix)[2]
        frames = (mix.shape[-1] - 2 * self.context_samples) // self.bands.top.hop + 1
        return float(heard[..., self.context_frames : self.context_frames + frames].max())

    def masks(self, x: Tensor, start: int, stop: int, origin: int, extent: Extent) -> Tensor:
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
        seen = x[:, :, : self.bands.bins]
        grids = [origin + shift for shift in self._shifts]
        masks = [self.arguments.grid.masks(seen, start, stop, grid, self._of_window) for grid in grids]
        mask = (masks[0] + masks[1]) / 2 if len(masks) > 1 else masks[0]
        mask = F.pad(mask.float(), (0, 0, 0, 1), mode="replicate")  # [B, 2, bins + 1, ·]
        return mask if self.training else self._finished(mask, start, extent)

    def _finished(self, mask: Tensor, start: int, extent: Extent) -> Tensor:
        """Return a mask with aggressiveness and post-processing applied.

        Args:
            mask: [B, 2, bins + 1, frames].
            start: its first frame.
            extent: of the track.

        Returns:
            [B, 2, bins + 1, frames].
        """
        low, high = self.arguments.exponents
        split = self.bands.bands[0].stop
        mask = torch.cat([mask[:, :, :split] ** low, mask[:, :, split:] ** high], dim=2)
        if not self.arguments.post_process:
            return mask
        threshold = self.arguments.post_process_threshold
        firsts, lasts = extent.first - start, extent.end // self.bands.top.hop - start
        tracks = zip(mask, firsts.tolist(), lasts.tolist(), strict=True)
        return torch.stack([without_artifacts(one, threshold, first, last) for one, first, last in tracks])

    def _of_window(self, x: Tensor) -> Tensor:
        offset = self.arguments.OFFSET
        inner = x[..., offset : x.shape[-1] - offset]
        # Silence needs no mask. A device that works while the program goes on isn't asked: the answer takes
        # as long as all work before it.
        skips = x.device.type == "cpu" and not (self.training or self.arguments.post_process)
        return torch.zeros_like(inner) if skips and not inner.any() else self.mask(x)

    def _analysed(self, mix: Tensor) -> tuple[Tensor, Tensor, Tensor, Extent]:
        """Return a chunk's stack and high end, the magnitudes that the network sees, and the track's extent.

        A track can't begin later than after the lead, or end before the chunk.

        Args:
            mix: [B, 2, context + n + context].

        Returns:
            complex [B, 2, bins + 1, frames] and [B, 2, ·, frames]; real [B, 2, bins + 1, frames]; [B] each.
        """
        with torch.autocast(mix.device.type, enabled=False):  # samples of audio need full precision
            audio = mix.float().flip(-1) if self.bands.reverse else mix.float()
            latest = self.context_samples + self.chunking.lead
            extent = sounding(audio, self.bands.top.hop, latest, mix.shape[-1] - self.context_samples)
            z, high_end = self.bands.analyse(audio, extent)
            heard = z.abs() * extent.frames(z.shape[-1], self.bands.top.hop)[:, None, None]
            if self.training:  # the whole track's maximum isn't known
                largest = heard.amax((1, 2, 3), keepdim=True)
                heard = heard / largest.clamp_min(torch.finfo(heard.dtype).tiny)
            return z, high_end, heard, extent

    def use_segment(self, seconds: float) -> Self:
        """Work on chunks of `seconds`, rounded to whole windows.

        Raises:
            SettingsError: that is less than a sample.
        """
        super().use_segment(seconds)
        window = self.arguments.grid.roi * self.bands.top.hop
        self.segment_samples = max(1, round(self.segment_samples / window)) * window
        return self

    def prepare(self, dtype: torch.dtype = torch.float32) -> Self:
        """Fold the batch normalisations, keep channels adjacent, and compute wide convolutions faster."""
        for module in self.modules():
            if isinstance(module, ConvNorm):
                module.fold()
        # torch's types don't know that modules take a memory format
        cast(Any, self).to(memory_format=torch.channels_last)
        tile_convolutions(self)
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
                "aspp_layers": sum(
                    f"stg1_low_band_net.aspp.conv{i}.conv.0.weight" in shapes for i in range(8)
                )
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
                raise StemsplitError(f"nout {self.nout}, nout_lstm {self.nout_lstm}: must be multiples of 4")
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
