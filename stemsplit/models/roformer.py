"""BS-RoFormer, Mel-Band RoFormer and their Conformers: attention over time and over bands estimates masks.

Lu et al., "Music Source Separation with Band-Split RoPE Transformer", 2023; Wang et al., "Mel-Band RoFormer
for Music Source Separation", 2023. The two differ in the bands, in where the features are normalised and in
how the depth of the mask estimators is counted. Keys, arguments and their defaults are those of the released
checkpoints' code (lucidrains/BS-RoFormer, bs_roformer.py and mel_band_roformer.py; the Conformers' that of
ZFTurbo's Music-Source-Separation-Training).

Legend: `B` batch, `S` stems, `C` channels, `F` bins, `T` samples, `dim` width of a band's features.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from functools import partial
from typing import Any, ClassVar, Self, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from stemsplit.errors import StemsplitError
from stemsplit.models.blocks.axial import AxialBlock, AxialBlocks
from stemsplit.models.blocks.bands import BandSplit, MaskEstimator, Table, join_bands, linear_bands, mel_bands
from stemsplit.models.blocks.conformer import Conformer, ConformerShape, Convolution
from stemsplit.models.blocks.deep_masks import DeepMaskEstimator
from stemsplit.models.blocks.fourier import FourierMaskEstimator
from stemsplit.models.blocks.hyperace import V1, V2, HyperaceMaskEstimator
from stemsplit.models.blocks.polar import Polar
from stemsplit.models.blocks.released import (
    released_arguments,
    released_stems,
    released_use,
    require_channels,
)
from stemsplit.models.blocks.rotary import RMSNorm, Rotary, Shape, Transformer
from stemsplit.models.blocks.shared import share_biases, tied
from stemsplit.models.blocks.siamese import SiameseBlocks
from stemsplit.models.blocks.value_residual import ValueResidualBlocks
from stemsplit.models.fast.masking import WrittenBandSplit, masked_audio
from stemsplit.models.fast.packed import pack_linears
from stemsplit.models.fast.sliced import Normalised, slice_blocks
from stemsplit.models.spectral import SpectralNetwork, Transform

# Bins per band, 1025 in all.
BANDS_62 = (2,) * 24 + (4,) * 12 + (12,) * 8 + (24,) * 8 + (48,) * 8 + (128, 129)

# Hyper-connections, which no network here has: several streams of features, mixed around every layer.
ONE_STREAM = {"num_residual_streams": 1, "num_residual_fracs": 1}
FOREIGN = re.compile(r"\.branch\.")

# Mask estimator by name, which takes bands, numbers per bin, width, and width and number of hidden layers
ESTIMATORS: dict[str, Callable[[Table, int, int, int, int], nn.Module]] = {
    "mlp": MaskEstimator,
    "deep": DeepMaskEstimator,
    "fno": lambda table, parts, width, *_: FourierMaskEstimator(table, parts, width),
    "hyperace_v1": partial(HyperaceMaskEstimator, V1),
    "hyperace_v2": partial(HyperaceMaskEstimator, V2),
}


@dataclass(frozen=True, kw_only=True)
class AxialArguments:
    """Arguments of all families.

    Attributes:
        stems: names of the `num_stems` outputs.
        sample_rate: in Hz.
        segment_samples: length of a chunk.
        dim: width of a band's features.
        depth: number of blocks, of layers over time and layers over bands each.
        stereo: two channels rather than one.
        num_stems: number of mask estimators.
        dim_head: width of a head.
        heads: attention heads.
        attn_dropout: of attention.
        ff_dropout: of feed-forward layers.
        stft_n_fft: samples per frame.
        stft_hop_length: samples from frame to frame.
        stft_win_length: length of the Hann window.
        stft_normalized: divide the transform by √stft_n_fft.
        mask_estimator_depth: layers of the mask estimators, as the family counts them.
        mlp_expansion_factor: width of their hidden layers, divided by `dim`.
        skip_connection: add the sum of all earlier blocks' outputs to every block's input.
        zero_dc: set the stems' lowest bin to zero.
        normalise: standardise the waveform of the whole track.
        overlap: fraction of a chunk shared with the next; None for the default.
    """

    stems: Sequence[str] = ("vocals",)
    sample_rate: int = 44_100
    segment_samples: int = 352_800
    dim: int = 384
    depth: int = 6
    stereo: bool = False
    num_stems: int = 1
    dim_head: int = 64
    heads: int = 8
    attn_dropout: float = 0.0
    ff_dropout: float = 0.0
    stft_n_fft: int = 2048
    stft_hop_length: int = 512
    stft_win_length: int = 2048
    stft_normalized: bool = False
    mask_estimator_depth: int = 2
    mlp_expansion_factor: int = 4
    skip_connection: bool = False
    zero_dc: bool = True
    normalise: bool = False
    overlap: float | None = None

    fixed: ClassVar[Mapping[str, Any]] = ONE_STREAM

    def __post_init__(self) -> None:
        if len(self.stems) != self.num_stems:
            raise StemsplitError(f"{self.num_stems} stems have {len(self.stems)} names")
        if not 0 < self.stft_win_length <= self.stft_n_fft:
            raise StemsplitError(f"a window of {self.stft_win_length} in frames of {self.stft_n_fft} samples")
        if self.dim_head % 2:
            raise StemsplitError(f"heads of odd width {self.dim_head} have no pairs to rotate")

    @property
    def channels(self) -> int:
        """Audio channels."""
        return 2 if self.stereo else 1

    @property
    def parts(self) -> int:
        """Numbers per bin: the real and the imaginary part of every channel."""
        return 2 * self.channels

    @property
    def shape(self) -> Shape:
        """Settings of all layers."""
        return Shape(self.dim, self.heads, self.dim_head, self.attn_dropout, self.ff_dropout)

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Self:
        """Return the arguments of a released checkpoint, from the configuration published beside it.

        Args:
            config: with the sections `model` (the constructor's arguments) and `training` (instruments and
                target_instrument), and perhaps `audio` and `inference`; see `released_arguments` and
                `released_use`.

        Raises:
            StemsplitError: the configuration asks for something that the network doesn't have.
        """
        known = {field.name for field in fields(cls)}
        arguments = released_arguments(config, known, cls.fixed)
        stems = released_stems(config, arguments.get("num_stems", cls.num_stems))
        found = cls(**arguments | released_use(config) | {"stems": stems})
        require_channels(config, found.channels)
        return found


class AxialNetwork(SpectralNetwork):
    """Layers along time and along bands over features of bands, and a complex mask per stem.

    Args:
        arguments: of the family.
        table: the bands.
        layers: the blocks.
        final_norm: normalise after the last block.
        estimator: makes the mask estimator of a stem, which maps [B, frames, bands, dim] to
            [B, frames, Σ band·parts].
    """

    def __init__(
        self,
        arguments: AxialArguments,
        table: Table,
        layers: AxialBlocks,
        *,
        final_norm: bool,
        estimator: Callable[[], nn.Module],
    ) -> None:
        a = arguments
        super().__init__(
            a,
            stems=a.stems,
            sample_rate=a.sample_rate,
            channels=a.channels,
            segment_samples=a.segment_samples,
            transform=Transform(
                a.stft_n_fft, a.stft_hop_length, a.stft_win_length, normalised=a.stft_normalized
            ),
        )
        self.normalise, self.overlap = a.normalise, a.overlap
        self.table = table
        self.layers = layers
        self.final_norm: nn.Module = RMSNorm(a.dim) if final_norm else nn.Identity()
        self.band_split: nn.Module = BandSplit(table, a.parts, a.dim, RMSNorm)
        self.mask_estimators = nn.ModuleList(estimator() for _ in a.stems)
        self.prepared = False

    def estimate(self, mix: Tensor) -> Tensor:
        """[B, C, T] -> [B, S, C, T]; prepared, stem by stem without the stems' spectrograms."""
        a = self.arguments
        if not self.prepared or a.stft_hop_length > a.stft_n_fft // 2:
            return super().estimate(mix)
        spectrum = self.transform.analyse(mix)
        x = self._features(spectrum)
        masks = (self._mask(estimator, x) for estimator in self.mask_estimators)
        return masked_audio(self.transform, spectrum, masks, mix.shape[-1], a.zero_dc)

    def spectrograms(self, mix: Tensor) -> Tensor:
        """[B, C, T] -> complex [B, S, C, F, frames]."""
        spectrum = self.transform.analyse(mix)
        stems = spectrum[:, None] * self.masks(spectrum)  # [B, 1, C, F, frames] · [B, S, C, F, frames]
        return F.pad(stems[..., 1:, :], (0, 0, 1, 0)) if self.arguments.zero_dc else stems

    def masks(self, spectrum: Tensor) -> Tensor:
        """Estimate complex masks of any magnitude.

        Args:
            spectrum: complex [B, C, F, frames].

        Returns:
            complex [B, S, C, F, frames].
        """
        x = self._features(spectrum)
        masks = torch.stack([self._mask(estimator, x) for estimator in self.mask_estimators], dim=1)
        pairs = masks.float().unflatten(-1, (self.channels, 2))  # [B, S, frames, F, C, 2]
        return torch.view_as_complex(pairs.contiguous()).permute(0, 1, 4, 3, 2)  # [B, S, C, F, frames]

    def _features(self, spectrum: Tensor) -> Tensor:
        """Complex [B, C, F, frames] -> [B, frames, bands, dim]."""
        flat = torch.view_as_real(spectrum).permute(0, 3, 2, 1, 4).flatten(2)  # [B, frames, F·C·2]
        x: Tensor = self.layers(self.band_split(flat), self.final_norm)  # [B, frames, bands, dim]
        return x

    def _mask(self, estimator: nn.Module, x: Tensor) -> Tensor:
        """Estimate one stem's mask: [B, frames, bands, dim] -> [B, frames, F, parts]."""
        return join_bands(estimator(x), self.table, self.arguments.parts)

    def select(self, stems: Sequence[str]) -> Self:
        """Estimate only `stems`, and drop the other mask estimators."""
        before = self.kept
        super().select(stems)
        self.mask_estimators = nn.ModuleList(self.mask_estimators[before.index(k)] for k in self.kept)
        return self

    def prepare(self, dtype: torch.dtype = torch.float32) -> Self:
        """Rearrange the layers for inference on a CPU; the linear ones compute in `dtype`."""
        for module in self.modules():
            if isinstance(module, Convolution):
                module.prepare(dtype)
        slice_blocks(self.layers, dtype, copies=self.arguments.skip_connection)
        for estimator in self.mask_estimators:
            if isinstance(estimator, DeepMaskEstimator):
                slice_blocks(estimator.layers, dtype, copies=True)  # the other estimators see the same input
        pack_linears(self, dtype)
        self.band_split = WrittenBandSplit(cast(BandSplit, self.band_split), self.arguments.dim)
        if isinstance(self.final_norm, RMSNorm) and type(self.layers) is AxialBlocks:
            self.final_norm = Normalised(self.final_norm)
        self.prepared = True
        return self

    def load_state_dict(
        self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False
    ) -> Any:
        """Load weights; old checkpoints number the transformers from 1, without a linear one at 0.

        Raises:
            StemsplitError: the weights belong to a variant with other mathematics, or copies of a shared
                parameter differ.
        """
        if foreign := [key for key in state_dict if FOREIGN.search(key)]:
            raise StemsplitError(
                f"a variant of the network that isn't supported: its weights have {foreign[0]}"
            )
        renumbered = state_dict
        linear = any(name.startswith("layers.0.2.") for name, _ in self.named_parameters())
        if not linear and not any(name.startswith("layers.0.0.") for name in state_dict):
            renumbered = {_one_place_down(key): value for key, value in state_dict.items()}
        return super().load_state_dict(tied(self, renumbered), strict, assign)


def _one_place_down(key: str) -> str:
    """Return the key with the transformer's number in its block less one."""
    return re.sub(r"^(layers\.\d+\.)(\d+)", lambda m: f"{m[1]}{int(m[2]) - 1}", key)


@dataclass(frozen=True, kw_only=True)
class RoformerArguments(AxialArguments):
    """Arguments of both RoFormers.

    Attributes:
        time_transformer_depth: layers of each transformer over time.
        freq_transformer_depth: layers of each transformer over bands.
        linear_transformer_depth: layers of linear attention over both, at the start of a block.
    """

    time_transformer_depth: int = 2
    freq_transformer_depth: int = 2
    linear_transformer_depth: int = 0

    def blocks(self, positions: Sequence[Rotary], norm: bool) -> AxialBlocks:
        """Make the transformers.

        Args:
            positions: along time and along bands.
            norm: normalise at the end of every transformer.
        """
        depths = (self.time_transformer_depth, self.freq_transformer_depth)
        axes: list[tuple[int, Rotary | None]] = [*zip(depths, positions, strict=True)]
        if self.linear_transformer_depth:
            axes.insert(0, (self.linear_transformer_depth, None))
        return AxialBlocks(
            (
                AxialBlock(Transformer(self.shape, depth, rotary, norm) for depth, rotary in axes)
                for _ in range(self.depth)
            ),
            self.skip_connection,
        )


class BSRoformer(AxialNetwork):
    """Adjacent bands, one normalisation after the last block; mask_estimator_depth counts all layers.

    The estimators `fno`, `hyperace_v1` and `hyperace_v2` compute over the whole chunk: other results than the
    released ones come from chunks of another length than `segment_samples`.
    """

    @dataclass(frozen=True, kw_only=True)
    class Arguments(RoformerArguments):
        """Arguments of the released class, and its variants.

        Attributes:
            freqs_per_bands: number of bins of each band.
            use_shared_bias: all attentions share two biases.
            use_pope: polar positions rather than rotary ones.
            use_value_residual_learning: values of attention lean towards those of the first block.
            siamese: two streams of features, one normalised before the layers and one after them.
            mask_estimator: mlp, an MLP per band; deep, transformers before it; hyperace_v1 or hyperace_v2, an
                image network beside it; fno, Fourier operators over time instead.
        """

        fixed: ClassVar[Mapping[str, Any]] = ONE_STREAM | {"norm_output": False}

        freqs_per_bands: Sequence[int] = BANDS_62
        use_shared_bias: bool = False
        use_pope: bool = False
        use_value_residual_learning: bool = False
        siamese: bool = False
        mask_estimator: str = "mlp"

        def __post_init__(self) -> None:
            super().__post_init__()
            if self.mask_estimator not in tuple(ESTIMATORS):  # which compares whatever a file holds
                raise StemsplitError(f"mask_estimator is {', '.join(ESTIMATORS)}, not {self.mask_estimator}")
            alone = ("use_value_residual_learning", "siamese")
            others = (*alone, "use_pope", "linear_transformer_depth", "skip_connection")
            for name in filter(lambda name: getattr(self, name), alone):
                if both := next((o for o in others if o != name and getattr(self, o)), None):
                    raise StemsplitError(f"no network has both {name} and {both}")

        def trunk(self) -> AxialBlocks:
            """Make the blocks."""
            depths = (self.time_transformer_depth, self.freq_transformer_depth)
            if self.siamese:
                return SiameseBlocks(self.shape, self.depth, depths)
            if self.use_value_residual_learning:
                return ValueResidualBlocks(self.shape, self.depth, depths)
            polar = self.use_pope
            axes = [Polar(self.dim_head, self.heads) if polar else Rotary(self.dim_head) for _ in depths]
            return self.blocks(axes, norm=False)

    def __init__(self, arguments: Arguments) -> None:
        a = arguments
        table, make = linear_bands(a.freqs_per_bands, a.stft_n_fft // 2 + 1), ESTIMATORS[a.mask_estimator]
        hidden = a.dim * a.mlp_expansion_factor
        estimator = partial(make, table, a.parts, a.dim, hidden, a.mask_estimator_depth - 1)
        super().__init__(a, table, a.trunk(), final_norm=True, estimator=estimator)
        if a.use_shared_bias:
            share_biases(self, a.shape)


class MelBandRoformer(AxialNetwork):
    """Mel bands, a normalisation after every transformer; mask_estimator_depth counts the hidden layers."""

    @dataclass(frozen=True, kw_only=True)
    class Arguments(RoformerArguments):
        """Arguments of the released class.

        Attributes:
            num_bands: number of bands on the mel scale.
        """

        fixed: ClassVar[Mapping[str, Any]] = ONE_STREAM | {"norm_output": True}

        num_bands: int = 60
        attn_dropout: float = 0.1
        ff_dropout: float = 0.1
        mask_estimator_depth: int = 1

    def __init__(self, arguments: Arguments) -> None:
        a = arguments
        table = mel_bands(a.num_bands, a.stft_n_fft, a.sample_rate)
        layers = a.blocks([Rotary(a.dim_head), Rotary(a.dim_head)], norm=True)
        hidden = a.dim * a.mlp_expansion_factor
        estimator = partial(MaskEstimator, table, a.parts, a.dim, hidden, a.mask_estimator_depth)
        super().__init__(a, table, layers, final_norm=False, estimator=estimator)


@dataclass(frozen=True, kw_only=True)
class ConformerArguments(AxialArguments):
    """Arguments of both Conformers.

    Attributes:
        time_conformer_depth: layers of each conformer over time.
        freq_conformer_depth: layers of each conformer over bands.
        ff_mult: width of the feed-forward layers inside, divided by `dim`.
        conv_expansion_factor: width of the convolutions, divided by `dim`.
        conv_kernel_size: steps that a convolution sees, odd.
        conv_dropout: of the convolutions' output; None for `ff_dropout`.
    """

    fixed: ClassVar[Mapping[str, Any]] = ONE_STREAM | {"norm_output": False}

    time_conformer_depth: int = 2
    freq_conformer_depth: int = 2
    ff_mult: float = 4
    conv_expansion_factor: int = 2
    conv_kernel_size: int = 31
    conv_dropout: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.conv_kernel_size % 2 == 0:
            raise StemsplitError(f"conv_kernel_size {self.conv_kernel_size}: must be odd")

    def estimator(self, table: Table) -> Callable[[], nn.Module]:
        """Return what makes a mask estimator."""
        hidden = self.dim * self.mlp_expansion_factor
        return partial(MaskEstimator, table, self.parts, self.dim, hidden, self.mask_estimator_depth - 1)

    def blocks(self) -> AxialBlocks:
        """Make the conformers."""
        dropout = self.ff_dropout if self.conv_dropout is None else self.conv_dropout
        shape = ConformerShape(
            **asdict(self.shape),
            feed_forward=self.ff_mult,
            convolved=self.conv_expansion_factor,
            kernel=self.conv_kernel_size,
            convolution_dropout=dropout,
        )
        axes = [
            (depth, Rotary(self.dim_head)) for depth in (self.time_conformer_depth, self.freq_conformer_depth)
        ]
        return AxialBlocks(
            (
                AxialBlock(Conformer(shape, depth, rotary) for depth, rotary in axes)
                for _ in range(self.depth)
            ),
            self.skip_connection,
        )


class BSConformer(AxialNetwork):
    """Adjacent bands, one normalisation after the last block."""

    @dataclass(frozen=True, kw_only=True)
    class Arguments(ConformerArguments):
        """Arguments of the released class.

        Attributes:
            freqs_per_bands: number of bins of each band.
        """

        freqs_per_bands: Sequence[int] = BANDS_62

    def __init__(self, arguments: Arguments) -> None:
        a = arguments
        table = linear_bands(a.freqs_per_bands, a.stft_n_fft // 2 + 1)
        super().__init__(a, table, a.blocks(), final_norm=True, estimator=a.estimator(table))


class MelBandConformer(AxialNetwork):
    """Mel bands, and no normalisation but those of the layers."""

    @dataclass(frozen=True, kw_only=True)
    class Arguments(ConformerArguments):
        """Arguments of the released class.

        Attributes:
            num_bands: number of bands on the mel scale.
        """

        num_bands: int = 60
        attn_dropout: float = 0.1
        ff_dropout: float = 0.1
        mask_estimator_depth: int = 1

    def __init__(self, arguments: Arguments) -> None:
        a = arguments
        table = mel_bands(a.num_bands, a.stft_n_fft, a.sample_rate)
        super().__init__(a, table, a.blocks(), final_norm=False, estimator=a.estimator(table))
