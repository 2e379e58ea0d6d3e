"""The U-Net with two branches that Hybrid Demucs and HT Demucs share.

A spectral branch encodes a spectrogram by convolutions over frequency, a temporal branch the waveform by
convolutions over time. At the level that has no more bins left than the kernel is long, the spectral branch
is reduced to a single bin and the branches join; deeper levels are common to both and run over time. The
decoder mirrors the encoder. The outputs of both branches are added as waveforms (Hybrid Demucs, Figure 1;
demucs 4.1.0, hdemucs.py).

Legend: `B` batch, `S` stems, `C` audio channels, `F` bins, `T` samples.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Self

import torch
from torch import Tensor, nn

from stemsplit.errors import StemsplitError
from stemsplit.models.blocks.conv import DConv, rescale_weights
from stemsplit.models.blocks.embeddings import ScaledEmbedding
from stemsplit.models.blocks.hybrid_layers import (
    BandedDecoder,
    BandedEncoder,
    DecoderLayer,
    EncoderLayer,
    LayerPlan,
)
from stemsplit.models.blocks.spectra import ComplexAsChannels, Magnitudes, Representation
from stemsplit.models.blocks.stft import AlignedFraming, CentredFraming, Framing
from stemsplit.models.fast.tiled import tiled
from stemsplit.models.network import Network

STD_FLOOR = 1e-5  # added to standard deviations before dividing by them
Skip = tuple[Tensor, int]  # output of an encoder layer, and the length of its input


@dataclass(frozen=True)
class Level:
    """One level of the U-Net.

    Attributes:
        spectral: layer of the spectral branch, or of the common one after the join.
        temporal: layer of the temporal branch; None if there is none, or after the join.
        bands: edges between bands of the spectral layer, as fractions of the bins; mostly none.
        bins: number left after the encoder's layer.
    """

    spectral: LayerPlan
    temporal: LayerPlan | None
    bands: tuple[float, ...]
    bins: int


def plan_levels(a: Any, width: int) -> Iterator[Level]:
    """Plan the levels, from the outermost to the innermost.

    Args:
        a: arguments of the family.
        width: real channels of the spectrogram per audio channel.

    Raises:
        StemsplitError: the branches wouldn't be aligned.
    """
    check_alignment(a)
    bins = a.nfft // 2
    outer, outer_t = a.audio_channels * width, a.audio_channels
    inner, inner_t = a.channels, a.channels_time or a.channels
    for index in range(a.depth):
        over_bins, joins = bins > 1, 1 < bins <= a.kernel_size
        if joins:  # their outputs are added
            inner = inner_t = max(inner, inner_t)
        make = partial(_plan, a, index)
        kernel, stride = (a.kernel_size, a.stride) if over_bins else (2 * a.time_stride, a.time_stride)
        kernel, padding = (bins, 0) if joins else (kernel, kernel // 4)  # all bins to one
        spectral = make(outer, inner, kernel=kernel, stride=stride, padding=padding, spectral=over_bins)
        temporal = None
        if over_bins and a.hybrid:
            padding = a.kernel_size // 4
            temporal = make(
                outer_t, inner_t, kernel=a.kernel_size, stride=a.stride, padding=padding, bare=joins
            )
        bins = bins // a.stride if over_bins and not joins else 1
        yield Level(spectral, temporal, _bands(a, index, spectral), bins)
        outer, outer_t = inner, inner_t
        inner, inner_t = int(a.growth * inner), int(a.growth * inner_t)


def _plan(
    a: Any, index: int, outer: int, inner: int, *, spectral: bool = False, bare: bool = False, **geometry: int
) -> LayerPlan:
    """Plan the layer of one branch at level `index`; the settings below are the same for both branches."""
    outermost = index == 0
    return LayerPlan(
        outer=outer,
        inner=inner,
        outputs=outer * len(a.sources) if outermost else outer,
        outermost=outermost,
        spectral=spectral,
        bare=bare,
        groups=a.norm_groups if index >= a.norm_starts else 0,
        rewrite=a.rewrite,
        context_encoder=a.context_enc,
        context_decoder=a.context,
        residual=partial(
            DConv,
            compress=a.dconv_comp,
            depth=a.dconv_depth,
            init=a.dconv_init,
            attention=index >= a.dconv_attn,
            lstm=index >= a.dconv_lstm,
        ),
        residual_encoder=bool(a.dconv_mode & 1),  # bit 0: encoder, bit 1: decoder
        residual_decoder=bool(a.dconv_mode & 2),
        **geometry,
    )


def _bands(a: Any, index: int, plan: LayerPlan) -> tuple[float, ...]:
    """Return the edges between the bands of level `index`, as fractions of the bins; () for none."""
    if not a.multi_freqs or index >= a.multi_freqs_depth:
        return ()
    if plan.groups or not plan.spectral or not plan.padding:
        raise StemsplitError(
            f"multi_freqs_depth {a.multi_freqs_depth}: level {index} can't be cut into bands, "
            "for that takes a spectral level above the joint and without normalisation"
        )
    return tuple(a.multi_freqs)


def check_alignment(a: Any) -> None:
    """Check that strided convolutions, padded by (kernel − stride)/2, divide all lengths exactly.

    Raises:
        StemsplitError: they don't.
    """
    if a.nfft % 8:
        raise StemsplitError(f"nfft {a.nfft}: must be a multiple of 8")
    if a.kernel_size - a.stride != 2 * (a.kernel_size // 4):
        raise StemsplitError(
            f"kernel_size {a.kernel_size} with stride {a.stride}: a kernel must exceed its stride by twice a "
            "quarter of itself, such as 8 and 4"
        )
    if a.time_stride % 2:
        raise StemsplitError(f"time_stride {a.time_stride}: must be even")
    bins, hop = a.nfft // 2, a.nfft // 4
    levels = 1
    while bins > a.kernel_size:
        if bins % a.stride:
            raise StemsplitError(f"nfft {a.nfft}: {bins} bins can't be divided by the stride {a.stride}")
        bins //= a.stride
        levels += 1
    # Where the branches join, the waveform must have one step per frame.
    if a.hybrid and a.depth >= levels and a.stride**levels != hop:
        raise StemsplitError(
            f"nfft {a.nfft}: the branches can't join at level {levels}, "
            f"for the hop {hop} isn't {a.stride}^{levels}"
        )


def _framing(a: Any) -> Framing:
    """Return the framing of the spectrogram; only a temporal branch needs aligned frames."""
    return AlignedFraming(a.nfft, legacy=a.hybrid_old) if a.hybrid else CentredFraming(a.nfft)


def _representation(a: Any) -> Representation:
    """Return the representation of the spectrogram as real channels."""
    if a.cac:
        return ComplexAsChannels()
    return Magnitudes(a.wiener_iters, a.end_iters, a.wiener_residual)


def _standardise(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Standardise every item of a batch.

    Args:
        x: [B, ...].

    Returns:
        the standardised x, the mean [B, 1, ...] and the standard deviation [B, 1, ...].
    """
    dims = tuple(range(1, x.dim()))
    mean = x.mean(dim=dims, keepdim=True)
    std = x.std(dim=dims, keepdim=True) if x[0].numel() > 1 else torch.zeros_like(mean)  # no 0/0 of one value
    return (x - mean) / (STD_FLOOR + std), mean, std


class HybridNetwork(Network):
    """The U-Net with its transforms. A family implements `bottleneck`, between encoders and decoders.

    Args:
        a: arguments of the family.
        segment_samples: the chunk length that the network was made for.
    """

    normalise = True

    def __init__(self, a: Any, segment_samples: int) -> None:
        super().__init__(
            a,
            stems=a.sources,
            sample_rate=a.samplerate,
            channels=a.audio_channels,
            segment_samples=segment_samples,
        )
        self.framing = _framing(a)
        self.representation = _representation(a)
        levels = list(plan_levels(a, self.representation.width))
        plans = [level.temporal for level in levels if level.temporal]
        self.encoder = nn.ModuleList(
            BandedEncoder(level.spectral, level.bands) if level.bands else EncoderLayer(level.spectral)
            for level in levels
        )
        self.decoder = nn.ModuleList(
            BandedDecoder(level.spectral, level.bands) if level.bands else DecoderLayer(level.spectral)
            for level in reversed(levels)
        )
        # In demucs' order, in which quantised checkpoints have the parameters
        self.tencoder = nn.ModuleList(EncoderLayer(plan) for plan in plans)
        self.tdecoder = nn.ModuleList(DecoderLayer(plan) for plan in reversed(plans))
        self.freq_emb: ScaledEmbedding | None = None
        if a.freq_emb:
            channels = levels[0].spectral.inner
            self.freq_emb = ScaledEmbedding(levels[0].bins, channels, boost=a.emb_scale, smooth=a.emb_smooth)
        if a.rescale:
            rescale_weights(self, a.rescale)

    def bottleneck(self, x: Tensor, xt: Tensor | None) -> tuple[Tensor | None, Tensor | None]:
        """Return the decoders' inputs; None for zeros, so that they start from the skip connections.

        Args:
            x: output of the spectral encoder, [B, C, F, frames], or [B, C, T] after the join.
            xt: output of the temporal encoder, [B, C, T]; None without such a branch.

        Returns:
            both in the same shapes, or None.
        """
        return None, None

    def select(self, stems: Sequence[str]) -> Self:
        """Estimate only `stems`: the outermost layers compute no others.

        With Wiener filtering the spectral branch still computes all stems, to weigh them against each other.

        Raises:
            UnknownNameError: the network has no such stem.
        """
        super().select(stems)
        self._select_outputs(self.tdecoder, self.channels)
        if self.representation.separable:
            self._select_outputs(self.decoder, self.channels * self.representation.width)
        return self

    def _select_outputs(self, decoder: Any, per_stem: int) -> None:
        """Keep the `per_stem` channels of every selected stem in a decoder's outermost layer."""
        channels = [stem * per_stem + channel for stem in self.kept for channel in range(per_stem)]
        for outermost in decoder[-1:]:
            outermost.select_outputs(channels)

    def prepare(self, dtype: torch.dtype = torch.float32) -> Self:
        """Rearrange the convolutions for inference on a CPU; they compute in fp32 whatever `dtype`."""
        for layers in (self.encoder, self.tencoder, self.decoder, self.tdecoder):
            for index, layer in enumerate(layers):
                layers[index] = tiled(layer)
        return self

    def separate(self, mix: Tensor) -> Tensor:
        """Run the whole network on the mix, whatever its length: [B, C, T] -> [B, S, C, T]."""
        z = self.framing.analyse(mix)  # [B, C, F, frames]
        x, mean, std = _standardise(self.representation.encode(z))
        xt, mean_t, std_t = _standardise(mix)
        y, yt = self._unet(x, xt if len(self.tencoder) else None)
        stems = self._synthesise(y, mean, std, z, mix.shape[-1])
        if yt is None:
            return stems
        # std_t and mean_t: [B, 1, 1] -> [B, 1, 1, 1]
        return yt.view_as(stems) * std_t[:, None] + mean_t[:, None] + stems  # [B, S, C, T]

    def _synthesise(self, x: Tensor, mean: Tensor, std: Tensor, z: Tensor, samples: int) -> Tensor:
        """Return the waveforms of the spectral branch.

        Args:
            x: [B, S·C·width, F, frames], standardised.
            mean: of the mix's spectrogram, [B, 1, 1, 1].
            std: of the mix's spectrogram, [B, 1, 1, 1].
            z: the mix's spectrogram, [B, C, F, frames].
            samples: T.

        Returns:
            [B, S, C, T].
        """
        per_stem = self.channels * self.representation.width
        x = x.view(x.shape[0], -1, per_stem, *x.shape[2:])  # [B, S, C·width, F, frames]
        if not self.representation.separable:
            spectra = self._spectra(x, mean, std, z)[:, list(self.kept)]
            return self.framing.synthesise(spectra, samples)
        # Stem by stem: spectrograms are the network's largest tensors.
        stems = [
            self.framing.synthesise(self._spectra(stem, mean, std, z), samples) for stem in x.split(1, dim=1)
        ]
        return torch.cat(stems, dim=1)  # [B, 1, C, T] each -> [B, S, C, T]

    def _spectra(self, x: Tensor, mean: Tensor, std: Tensor, z: Tensor) -> Tensor:
        """Undo the standardisation and return complex spectra, [B, S, C, F, frames]."""
        return self.representation.decode(torch.addcmul(mean[:, None], x, std[:, None]), z, self.training)

    def _unet(self, x: Tensor, xt: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Run encoders, bottleneck and decoders of both branches.

        Args:
            x: [B, C·width, F, frames].
            xt: [B, C, T], or None without a temporal branch.

        Returns:
            the same for every stem, [B, S·C·width, F, frames] and [B, S·C, T].
        """
        x, xt, skips, skips_t = self._encode(x, xt)
        return self._decode(*self.bottleneck(x, xt), skips, skips_t)

    def _encode(self, x: Tensor, xt: Tensor | None) -> tuple[Tensor, Tensor | None, list[Skip], list[Skip]]:
        """Run both encoders; return their outputs and the skip connections, outermost first."""
        skips: list[Skip] = []
        skips_t: list[Skip] = []
        layers_t: Sequence[Any] = () if xt is None else list(self.tencoder)
        for index, layer in enumerate(self.encoder):
            length, inject = x.shape[-1], None
            if xt is not None and index < len(layers_t):
                length_t, xt = xt.shape[-1], layers_t[index](xt)
                skips_t.append((xt, length_t))
                inject = xt if layers_t[index].plan.bare else None  # the branches join here
            x = layer(x, inject)
            if index == 0 and self.freq_emb is not None:
                x = x + self._frequencies(x.shape[-2], x.device)
            skips.append((x, length))
        return x, xt, skips, skips_t

    def _frequencies(self, bins: int, device: torch.device) -> Tensor:
        """Return the frequency embedding of the outermost level, [C, F, 1]."""
        embedded: Tensor = self.freq_emb(torch.arange(bins, device=device))  # type: ignore[misc]
        scaled: Tensor = self.arguments.freq_emb * embedded.t()[..., None]  # [F, C] -> [C, F, 1]
        return scaled

    def _decode(
        self, x: Any, xt: Tensor | None, skips: list[Skip], skips_t: list[Skip]
    ) -> tuple[Tensor, Tensor | None]:
        """Run both decoders, which take the skip connections from the innermost outwards."""
        layers_t: list[Any] = list(self.tdecoder)
        for layer in self.decoder:
            x, inner = layer(x, *skips.pop())
            if len(skips) < len(skips_t):  # at and above the level where the branches part
                layer_t, (skip, length) = layers_t.pop(0), skips_t.pop()
                xt = (
                    layer_t.contract(inner[:, :, 0], length)  # [B, inner, 1, T] -> [B, inner, T]
                    if layer_t.plan.bare
                    else layer_t(xt, skip, length)[0]
                )
        return x, xt
