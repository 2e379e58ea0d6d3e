"""HT Demucs: Hybrid Demucs with a Transformer across its two branches in the middle.

Rouard, Massa, Défossez, "Hybrid Transformers for Music Source Separation", 2022.
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
from stemsplit.models.blocks.sparse_attention import Sparsity
from stemsplit.models.fast.packed import PackedPointwise


@dataclass(frozen=True)
class Arguments:
    """Arguments of the network. Names, order and defaults are those of the class in demucs 4.1.0.

    Attributes:
        sources: names of the stems.
        audio_channels: of the mix and of every stem.
        channels: after the first layer of the spectral branch.
        channels_time: after the first layer of the temporal branch; None for as many.
        growth: channels grow by this factor from level to level.
        nfft: samples per frame of the spectrogram; the hop is a quarter.
        wiener_iters: without `cac`, iterations of Wiener filtering; 0 takes the mix's phase, a negative
            number takes it without care for empty bins.
        end_iters: the same while training.
        wiener_residual: filter with one more stem, what the others leave of the mix.
        cac: real and imaginary parts as channels instead of magnitudes.
        depth: levels of the U-Net.
        rewrite: a GLU in every layer.
        multi_freqs: own weights for bands of frequency, which end at these fractions of the bins.
        multi_freqs_depth: so many outermost levels have bands.
        freq_emb: weight of the frequency embedding after the first layer; 0 for none.
        emb_scale: the embedding learns faster by this factor.
        emb_smooth: neighbouring frequencies start with similar embeddings.
        kernel_size: of the strided convolutions.
        time_stride: of the layers below the joint of the branches.
        stride: of the other strided convolutions.
        context: neighbours that the decoder's GLUs see on each side.
        context_enc: neighbours that the encoder's GLUs see on each side.
        norm_starts: the first level with group normalisation.
        norm_groups: its groups.
        dconv_mode: residual branches in the encoder (1), the decoder (2) or both (3).
        dconv_depth: residual branches per layer; negative for as many without dilation.
        dconv_comp: they are narrower by this factor.
        dconv_init: their initial LayerScale.
        bottom_channels: channels within the Transformer; 0 for as many as around it.
        t_layers: layers of the Transformer; 0 for none.
        t_emb: positions of the waveform: "sin", "cape" or "scaled".
        t_hidden_scale: the feed-forward part is wider than the Transformer by this factor.
        t_heads: attention heads.
        t_dropout: within the Transformer.
        t_max_positions: number of learnt positions, with "scaled".
        t_norm_in: normalise every step of the Transformer's input; being False,
        t_norm_in_group: normalise it over time in this many groups.
        t_group_norm: normalise within the layers over time in this many groups, 0 for every step by itself.
        t_norm_first: normalise what enters a residual branch rather than what leaves the addition.
        t_norm_out: with `t_norm_first`, normalise the output of every layer over time, in this many groups.
        t_max_period: 2π times this bounds the wavelengths of the sinusoids.
        t_weight_decay: of the Transformer's weights.
        t_lr: learning rate of the Transformer; None for that of the rest.
        t_layer_scale: LayerScale in the Transformer.
        t_gelu: GELU rather than ReLU in the Transformer.
        t_weight_pos_embed: weight of the position embeddings.
        t_sin_random_shift: with "sin", start while training at a random position up to this one.
        t_cape_mean_normalize: with "cape", count positions from the middle.
        t_cape_augment: with "cape", jitter positions while training.
        t_cape_glob_loc_scale: the largest shift of all positions, shift of one and scale.
        t_sparse_self_attn: attend sparsely within a branch.
        t_sparse_cross_attn: attend sparsely from branch to branch.
        t_mask_type: patterns "diag", "jmask", "random" and "global", joined by underscores.
        t_mask_random_seed: of the random pattern.
        t_sparse_attn_window: keys on each side of the diagonal.
        t_global_window: steps that see, and are seen by, all.
        t_sparsity: the fraction of pairs that the random pattern or hashing drops.
        t_auto_sparsity: choose the pairs by hashing instead of a pattern.
        t_cross_first: start with attention from branch to branch.
        rescale: initial scale that convolutions are pulled to; 0 leaves them.
        samplerate: in Hz.
        segment: the length in seconds that the network was trained at.
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

    # what only Hybrid Demucs varies
    hybrid: ClassVar[bool] = True
    hybrid_old: ClassVar[bool] = False
    dconv_attn: ClassVar[float] = float("inf")
    dconv_lstm: ClassVar[float] = float("inf")


def layer_shape(a: Arguments, channels: int) -> LayerShape:
    """What the Transformer's layers are made of."""
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
    """How the waveform's positions are embedded.

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
    """Makes the normalisation of the Transformer's input."""
    if a.t_norm_in:
        return partial(nn.LayerNorm, channels)
    if a.t_norm_in_group:
        return partial(SequenceNorm, int(a.t_norm_in_group), channels)
    return nn.Identity


def cross_transformer(a: Arguments, channels: int) -> CrossTransformer:
    """The Transformer in the middle."""
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

    It has only ever seen chunks of one length, and does best at that: P(n) is the segment, and a chunk's
    margin is real audio. A segment shorter than the trained one is filled up with zeros at its end.
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
        if a.t_layers:  # 1020 to 880 MB for the released arguments, and 2 % slower
            self.rests = ("crosstransformer", f"decoder.{len(self.decoder) - 1}")

    def padded_samples(self, samples: int) -> int:
        """P(n): the segment, whatever n."""
        return self.segment_samples if self.arguments.use_train_segment else samples

    def longest_segment_samples(self) -> int | None:
        """The length that the network was trained at."""
        return self.trained_samples if self.arguments.use_train_segment else None

    def use_segment(self, seconds: float) -> Self:
        """Work on chunks of `seconds`.

        Raises:
            SettingsError: that is longer than the network was trained at.
        """
        super().use_segment(seconds)
        if self.arguments.use_train_segment:
            self.context_samples = self.segment_samples // 2
        return self

    def optimizer_overrides(self) -> dict[str, dict[str, float]]:
        """The Transformer's own weight decay and learning rate."""
        if self.crosstransformer is None:
            return {}
        own = {"weight_decay": self.arguments.t_weight_decay}
        if self.arguments.t_lr is not None:
            own["lr"] = self.arguments.t_lr
        return {"crosstransformer.*": own}

    def estimate(self, mix: Tensor) -> Tensor:
        """All stems that are left; of any length while training, up to the trained one otherwise.

        Args:
            mix: [B, C, T].

        Returns:
            [B, S, C, T].

        Raises:
            StemsplitError: the mix is longer than the network was trained at.
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
        """Pack the weights for inference on a CPU; the Transformer computes in `dtype`."""
        super().prepare(dtype)
        if self.crosstransformer is None:
            return self
        self.crosstransformer.prepare(dtype)
        if self.arguments.bottom_channels:
            for name in ("upsampler", "downsampler", "upsampler_t", "downsampler_t"):
                conv = getattr(self, f"channel_{name}")
                packed = PackedPointwise(conv.weight[..., 0], conv.bias, dtype=dtype)
                setattr(self, f"channel_{name}", packed)
        return self

    def bottleneck(self, x: Tensor, xt: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """The Transformer, in its own number of channels.

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
        x = self.channel_upsampler(x.flatten(2)).unflatten(-1, (bins, -1))
        x, xt = self.crosstransformer(x, self.channel_upsampler_t(xt))
        x = self.channel_downsampler(x.flatten(2)).unflatten(-1, (bins, -1))
        return x, self.channel_downsampler_t(xt)
