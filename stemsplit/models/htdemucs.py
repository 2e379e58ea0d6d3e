"""HT Demucs: Hybrid Demucs with a cross-domain Transformer between its encoders and decoders.

Rouard, Massa, Défossez, "Hybrid Transformers for Music Source Separation", 2022; demucs 4.1.0, htdemucs.py.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from stemsplit.errors import StemsplitError, UnknownNameError
from stemsplit.models.blocks.attention import CrossTransformer, LayerShape, SequenceNorm
from stemsplit.models.blocks.embeddings import AugmentedPositions, LearntPositions, SinusoidalPositions
from stemsplit.models.blocks.hybrid import HybridNetwork, plan_levels
from stemsplit.models.blocks.released_demucs import DemucsConfiguration
from stemsplit.models.blocks.sparse_attention import Sparsity
from stemsplit.models.fast.packed import PackedPointwise


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
        end_iters: the same in training.
        wiener_residual: filter with one more stem, the rest of the mix.
        cac: complex as channels: real and imaginary parts as channels instead of magnitudes.
        depth: levels of the U-Net.
        rewrite: a GLU in every layer.
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
        dconv_init: their initial LayerScale.
        bottom_channels: channels of the Transformer; 0 for those of the innermost level.
        t_layers: layers of the Transformer; 0 for none.
        t_emb: positions of the waveform: "sin", "cape" or "scaled".
        t_hidden_scale: factor by which the feed-forward part is wider than the Transformer.
        t_heads: attention heads.
        t_dropout: of the Transformer.
        t_max_positions: number of learnt positions, with "scaled".
        t_norm_in: layer normalisation of the Transformer's input.
        t_norm_in_group: without `t_norm_in`, groups of a group normalisation of that input; 0 for none.
        t_group_norm: groups of group normalisations within the layers; 0 for layer normalisations.
        t_norm_first: normalise the input of every residual branch rather than the sums (pre-norm).
        t_norm_out: with `t_norm_first`, groups of a group normalisation of every layer's output; 0 for none.
        t_max_period: 2π times this bounds the wavelengths of the sinusoids, in positions.
        t_weight_decay: of the Transformer's weights.
        t_lr: learning rate of the Transformer; None for that of the rest.
        t_layer_scale: LayerScale in the Transformer.
        t_gelu: GELU rather than ReLU in the Transformer.
        t_weight_pos_embed: weight of the position embeddings.
        t_sin_random_shift: with "sin", the largest random start position in training.
        t_cape_mean_normalize: with "cape", count positions from the middle.
        t_cape_augment: with "cape", jitter positions in training.
        t_cape_glob_loc_scale: largest shift of all positions, largest shift of one, largest scaling.
        t_sparse_self_attn: sparse self-attention.
        t_sparse_cross_attn: sparse cross-attention.
        t_mask_type: patterns "diag", "jmask", "random" and "global", joined by underscores.
        t_mask_random_seed: of the random pattern.
        t_sparse_attn_window: half width of the diagonal pattern, in keys.
        t_global_window: number of first keys that all queries see, see `Sparsity`.
        t_sparsity: fraction of the pairs that the random pattern or hashing drops.
        t_auto_sparsity: select the pairs by hashing instead of a pattern.
        t_cross_first: start with cross-attention.
        rescale: reference of `rescale_weights`; 0 for none.
        samplerate: in Hz.
        segment: length of the training's chunks in seconds.
        use_train_segment: always run at that length.
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
    depth: int = 4
    rewrite: bool = True
    multi_freqs: Sequence[float] | None = None
    multi_freqs_depth: int = 3
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
    dconv_comp: float = 8
    dconv_init: float = 1e-3
    bottom_channels: int = 0
    t_layers: int = 5
    t_emb: str = "sin"
    t_hidden_scale: float = 4.0
    t_heads: int = 8
    t_dropout: float = 0.0
    t_max_positions: int = 10000
    t_norm_in: bool = True
    t_norm_in_group: int = False
    t_group_norm: int = False
    t_norm_first: bool = True
    t_norm_out: int = True
    t_max_period: float = 10000.0
    t_weight_decay: float = 0.0
    t_lr: float | None = None
    t_layer_scale: bool = True
    t_gelu: bool = True
    t_weight_pos_embed: float = 1.0
    t_sin_random_shift: int = 0
    t_cape_mean_normalize: bool = True
    t_cape_augment: bool = True
    t_cape_glob_loc_scale: Sequence[float] = (5000.0, 1.0, 1.4)
    t_sparse_self_attn: bool = False
    t_sparse_cross_attn: bool = False
    t_mask_type: str = "diag"
    t_mask_random_seed: int = 42
    t_sparse_attn_window: int = 500
    t_global_window: int = 100
    t_sparsity: float = 0.95
    t_auto_sparsity: bool = False
    t_cross_first: bool = False
    rescale: float = 0.1
    samplerate: int = 44100
    segment: float | Fraction = 10
    use_train_segment: bool = True

    # Settings that only Hybrid Demucs varies.
    hybrid: ClassVar[bool] = True
    hybrid_old: ClassVar[bool] = False
    dconv_attn: ClassVar[float] = float("inf")
    dconv_lstm: ClassVar[float] = float("inf")


def layer_shape(a: Arguments, channels: int) -> LayerShape:
    """Return the settings of the Transformer's layers."""
    sparsity = Sparsity(
        pattern=a.t_mask_type,
        seed=a.t_mask_random_seed,
        window=a.t_sparse_attn_window,
        global_window=a.t_global_window,
        sparsity=a.t_sparsity,
        hashed=a.t_auto_sparsity,
    )
    return LayerShape(
        channels=channels,
        heads=a.t_heads,
        hidden=int(channels * a.t_hidden_scale),
        dropout=a.t_dropout,
        gelu=a.t_gelu,
        groups=int(a.t_group_norm),
        norm_first=a.t_norm_first,
        norm_out=int(a.t_norm_out),
        layer_scale=a.t_layer_scale,
        sparsity=sparsity,
    )


def positions(a: Arguments, channels: int) -> nn.Module:
    """Build the embedding of the waveform's positions.

    Raises:
        UnknownNameError: there is no such embedding.
    """
    if a.t_emb == "sin":
        return SinusoidalPositions(channels, a.t_max_period, a.t_sin_random_shift)
    if a.t_emb == "cape":
        whole, step, factor = a.t_cape_glob_loc_scale
        jitter = (whole, step, factor) if a.t_cape_augment else None
        return AugmentedPositions(channels, a.t_max_period, a.t_cape_mean_normalize, jitter)
    if a.t_emb == "scaled":
        return LearntPositions(a.t_max_positions, channels)
    raise UnknownNameError("position embedding", a.t_emb, ("cape", "scaled", "sin"))


def input_norm(a: Arguments, channels: int) -> Callable[[], nn.Module]:
    """Return a function that makes the normalisation of the Transformer's input."""
    if a.t_norm_in:
        return partial(nn.LayerNorm, channels)
    if a.t_norm_in_group:
        return partial(SequenceNorm, int(a.t_norm_in_group), channels)
    return nn.Identity


def cross_transformer(a: Arguments, channels: int) -> CrossTransformer:
    """Build the Transformer.

    Raises:
        StemsplitError: the channels are no multiple of the heads and of 4.
    """
    if channels % a.t_heads or channels % 4:
        raise StemsplitError(
            f"t_heads {a.t_heads}: the Transformer's {channels} channels must be a multiple of it and of 4"
        )
    return CrossTransformer(
        layer_shape(a, channels),
        layers=a.t_layers,
        cross_first=a.t_cross_first,
        sparse_self=a.t_sparse_self_attn,
        sparse_cross=a.t_sparse_cross_attn,
        norm_in=input_norm(a, channels),
        positions=positions(a, channels),
        period=a.t_max_period,
        position_weight=a.t_weight_pos_embed,
    )


class HTDemucs(HybridNetwork):
    """Hybrid Transformer Demucs.

    It was trained with chunks of one length and is most accurate at that length: P(n) is the segment for any
    n, filled up with real audio. If the segment is shorter than in training, zeros are appended to it.
    """

    Arguments: ClassVar[Any] = Arguments
    precisions = (torch.float32, torch.bfloat16)

    def __init__(self, arguments: Arguments) -> None:
        a = arguments
        self.trained_samples = int(a.segment * a.samplerate)
        super().__init__(a, segment_samples=self.trained_samples)
        self.context_samples = self.trained_samples // 2 if a.use_train_segment else 0
        innermost = list(plan_levels(a, self.representation.width))[-1]
        if not innermost.spectral.spectral or innermost.temporal is None:
            raise StemsplitError(
                f"depth {a.depth}: the Transformer needs two branches, which join further out"
            )
        outside, outside_t = innermost.spectral.inner, innermost.temporal.inner
        inside = a.bottom_channels or outside
        if a.bottom_channels:
            self.channel_upsampler = nn.Conv1d(outside, inside, 1)
            self.channel_downsampler = nn.Conv1d(inside, outside, 1)
            self.channel_upsampler_t = nn.Conv1d(outside_t, inside, 1)
            self.channel_downsampler_t = nn.Conv1d(inside, outside_t, 1)
        elif outside != outside_t:
            raise StemsplitError("channels_time: without bottom_channels both branches need as many channels")
        self.crosstransformer = cross_transformer(a, inside) if a.t_layers else None
        if a.t_layers:  # 880 instead of 1020 MB with the released arguments, and 2 % slower
            self.trim_before = ("crosstransformer", f"decoder.{len(self.decoder) - 1}")

    def padded_samples(self, samples: int) -> int:
        """Return P(n): the segment, whatever n."""
        return self.segment_samples if self.arguments.use_train_segment else samples

    def longest_segment_samples(self) -> int | None:
        """Return the length that the network was trained at; None if it isn't bound to it."""
        return self.trained_samples if self.arguments.use_train_segment else None

    def use_segment(self, seconds: float) -> Self:
        """Work on chunks of `seconds`.

        Raises:
            SettingsError: that is longer than the network's training chunks.
        """
        super().use_segment(seconds)
        if self.arguments.use_train_segment:
            self.context_samples = self.segment_samples // 2
        return self

    def optimizer_overrides(self) -> dict[str, dict[str, float]]:
        """Return the weight decay and the learning rate of the Transformer."""
        if self.crosstransformer is None:
            return {}
        own = {"weight_decay": self.arguments.t_weight_decay}
        if self.arguments.t_lr is not None:
            own["lr"] = self.arguments.t_lr
        return {"crosstransformer.*": own}

    def estimate(self, mix: Tensor) -> Tensor:
        """Estimate the selected stems, of any length in training, else up to the trained length.

        Args:
            mix: [B, C, T].

        Returns:
            [B, S, C, T].

        Raises:
            StemsplitError: the mix is longer than the trained length.
        """
        if self.training or not self.arguments.use_train_segment:
            return self.separate(mix)
        samples = mix.shape[-1]
        if samples > self.trained_samples:
            raise StemsplitError(
                f"{samples} samples at once: the network takes at most {self.trained_samples}"
            )
        return self.separate(F.pad(mix, (0, self.trained_samples - samples)))[..., :samples]

    def prepare(self, dtype: torch.dtype = torch.float32) -> Self:
        """Pack the weights for inference on a CPU; only the Transformer computes in `dtype`."""
        super().prepare(dtype)
        if self.crosstransformer is None:
            return self
        self.crosstransformer.prepare(dtype)
        if self.arguments.bottom_channels:
            for name in ("upsampler", "downsampler", "upsampler_t", "downsampler_t"):
                conv = getattr(self, f"channel_{name}")
                packed = PackedPointwise(conv.weight[..., 0], conv.bias, dtype=dtype)  # [outputs, inputs]
                setattr(self, f"channel_{name}", packed)
        return self

    def bottleneck(self, x: Tensor, xt: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Run the Transformer, in its own number of channels.

        Args:
            x: [B, C, F, frames].
            xt: [B, C, T].

        Returns:
            both in the same shapes.
        """
        if self.crosstransformer is None or xt is None:
            return x, xt
        if not self.arguments.bottom_channels:
            x, xt = self.crosstransformer(x, xt)
            return x, xt
        bins = x.shape[-2]
        # Over [B, C, F·frames]; the results are [B, C', F, frames].
        x = self.channel_upsampler(x.flatten(2)).unflatten(-1, (bins, -1))  # [B, bottom, F, frames]
        x, xt = self.crosstransformer(x, self.channel_upsampler_t(xt))
        x = self.channel_downsampler(x.flatten(2)).unflatten(-1, (bins, -1))  # [B, C, F, frames]
        return x, self.channel_downsampler_t(xt)
