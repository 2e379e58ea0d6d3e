"""Hybrid Demucs: a spectrogram and a waveform branch that join in common layers.

Défossez, "Hybrid Spectrogram and Waveform Source Separation", 2021; demucs 4.1.0, hdemucs.py.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, ClassVar

from torch import Tensor

from stemsplit.errors import StemsplitError
from stemsplit.models.blocks.hybrid import HybridNetwork
from stemsplit.models.blocks.released_demucs import DemucsConfiguration


@dataclass(frozen=True)
class Arguments(DemucsConfiguration):
    """Arguments of the network. Names, order and defaults are those of the class in demucs 4.1.0.

    Attributes:
        sources: names of the stems.
        audio_channels: of the mix and of every stem.
        channels: after the first layer of the spectral branch.
        channels_time: after the first layer of the temporal branch; None for the same number.
        growth: factor by which channels grow from level to level.
        nfft: samples per frame of the spectrogram; the hop is a quarter.
        wiener_iters: without `cac`, iterations of Wiener filtering; 0 takes the mix's phase z/|z|, a negative
            number z/(|z| + 1e-8).
        end_iters: the same in training; must be the same number if `hybrid`.
        wiener_residual: filter with one more stem, the rest of the mix.
        cac: complex as channels: real and imaginary parts as channels instead of magnitudes.
        depth: levels of the U-Net.
        rewrite: a GLU in every layer.
        hybrid: with a temporal branch.
        hybrid_old: frame the spectrogram as for the first checkpoints, see `AlignedFraming.legacy`.
        multi_freqs: edges between frequency bands with weights of their own, as fractions of the bins.
        multi_freqs_depth: number of outermost levels with such bands.
        freq_emb: weight of the frequency embedding after the first layer; 0 for none.
        emb_scale: factor by which the embedding learns faster.
        emb_smooth: neighbouring frequencies start with similar embeddings.
        kernel_size: of the strided convolutions.
        time_stride: of the layers after the join of the branches.
        stride: of the other strided convolutions.
        context: neighbours on each side that the decoder's GLUs see.
        context_enc: neighbours on each side that the encoder's GLUs see.
        norm_starts: the first level with group normalisation.
        norm_groups: its groups.
        dconv_mode: residual branches in the encoder (1), the decoder (2) or both (3).
        dconv_depth: residual branches per layer; negative for as many without dilation.
        dconv_comp: factor by which they are narrower.
        dconv_attn: the first level with local attention in its residual branches.
        dconv_lstm: the first level with an LSTM in its residual branches.
        dconv_init: initial LayerScale of the residual branches.
        rescale: reference of `rescale_weights`; 0 for none.
        samplerate: in Hz.
        segment: length of a chunk in seconds.
    """

    sources: Sequence[str]
    audio_channels: int = 2
    channels: int = 48
    channels_time: int | None = None
    growth: float = 2
    nfft: int = 4096
    wiener_iters: int = 0
    end_iters: int = 0
    wiener_residual: bool = False
    cac: bool = True
    depth: int = 6
    rewrite: bool = True
    hybrid: bool = True
    hybrid_old: bool = False
    multi_freqs: Sequence[float] | None = None
    multi_freqs_depth: int = 2
    freq_emb: float = 0.2
    emb_scale: float = 10
    emb_smooth: bool = True
    kernel_size: int = 8
    time_stride: int = 2
    stride: int = 4
    context: int = 1
    context_enc: int = 0
    norm_starts: int = 4
    norm_groups: int = 4
    dconv_mode: int = 1
    dconv_depth: int = 2
    dconv_comp: float = 4
    dconv_attn: int = 4
    dconv_lstm: int = 4
    dconv_init: float = 1e-4
    rescale: float = 0.1
    samplerate: int = 44100
    segment: float | Fraction = 40


class HDemucs(HybridNetwork):
    """Hybrid Demucs, for chunks of any length, without context.

    There is no bottleneck: the decoders start from the skip connections.
    """

    Arguments: ClassVar[Any] = Arguments

    def __init__(self, arguments: Arguments) -> None:
        a = arguments
        if a.hybrid_old and not a.hybrid:
            raise StemsplitError("hybrid_old: is about aligning two branches, so it needs hybrid")
        if a.hybrid and a.wiener_iters != a.end_iters:
            raise StemsplitError(
                f"wiener_iters {a.wiener_iters}, end_iters {a.end_iters}: the temporal branch only fits the "
                "filtering that it was trained with, so they must be the same"
            )
        super().__init__(a, segment_samples=int(a.segment * a.samplerate))

    def estimate(self, mix: Tensor) -> Tensor:
        """[B, C, T] -> [B, S, C, T], of any length."""
        return self.separate(mix)
