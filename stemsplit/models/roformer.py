"""BS-RoFormer and Mel-Band RoFormer: rotary attention over time and over bands estimates complex masks.

Lu et al., "Music Source Separation with Band-Split RoPE Transformer", 2023; Wang et al., "Mel-Band RoFormer
for Music Source Separation", 2023. The two differ in the bands, in where the features are normalised and in
how the depth of the mask estimators is counted. Keys, arguments and their defaults are those of the released
checkpoints' code (lucidrains/BS-RoFormer, bs_roformer.py and mel_band_roformer.py).

Legend: `B` batch, `S` stems, `C` channels, `F` bins, `T` samples, `dim` width of a band's features.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from stemsplit.errors import StemsplitError
from stemsplit.models.blocks.bands import BandSplit, MaskEstimator, Table, join_bands, linear_bands, mel_bands
from stemsplit.models.blocks.released import (
    released_arguments,
    released_stems,
    released_use,
    require_channels,
)
from stemsplit.models.blocks.rotary import RMSNorm, Rotary, Shape, Transformer
from stemsplit.models.fast.packed import pack_linears
from stemsplit.models.spectral import SpectralNetwork, Transform

# Bins per band, 1025 in all.
BANDS_62 = (2,) * 24 + (4,) * 12 + (12,) * 8 + (24,) * 8 + (48,) * 8 + (128, 129)

# Tensors of later variants with other mathematics: value residuals, hyper-connections, polar positions.
FOREIGN = re.compile(r"to_value_residual_mix|\.branch\.|pope|shared_\w*bias")


@dataclass(frozen=True, kw_only=True)
class RoformerArguments:
    """Arguments of both families.

    Attributes:
        stems: names of the `num_stems` outputs.
        sample_rate: in Hz.
        segment_samples: length of a chunk.
        dim: width of a band's features.
        depth: number of blocks, of a transformer over time and one over bands each.
        stereo: two channels rather than one.
        num_stems: number of mask estimators.
        time_transformer_depth: layers of each transformer over time.
        freq_transformer_depth: layers of each transformer over bands.
        linear_transformer_depth: layers of linear attention over both, at the start of a block.
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
    time_transformer_depth: int = 2
    freq_transformer_depth: int = 2
    linear_transformer_depth: int = 0
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

    fixed: ClassVar[Mapping[str, Any]] = {}

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


class AxialBlock(nn.ModuleList):
    """Transformers over time and over bands, optionally after one over both, in checkpoints' order."""

    def forward(self, x: Tensor, earlier: Tensor | None) -> Tensor:
        """Run the transformers one after the other.

        Args:
            x: [B, frames, bands, dim].
            earlier: to add to the input of the transformer over time, [B, frames, bands, dim].

        Returns:
            [B, frames, bands, dim].
        """
        *both, over_time, over_bands = self
        for transformer in both:
            x = transformer(x.flatten(1, 2)).view_as(x)  # over [B, frames·bands, dim]
        if earlier is not None:
            x = x + earlier
        x = x.transpose(1, 2)  # [B, bands, frames, dim]
        x = over_time(x.flatten(0, 1)).view_as(x).transpose(1, 2)  # over [B·bands, frames, dim]
        y: Tensor = over_bands(x.flatten(0, 1)).view_as(x)  # over [B·frames, bands, dim]
        return y


class Roformer(SpectralNetwork):
    """Axial transformers over features of bands, and a complex mask per stem.

    Args:
        arguments: of the family.
        table: the bands.
        norm_transformers: normalise at the end of every transformer rather than once after the last block.
        mask_layers: number of hidden layers of the mask estimators.
    """

    def __init__(
        self, arguments: RoformerArguments, table: Table, *, norm_transformers: bool, mask_layers: int
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
        shape = Shape(a.dim, a.heads, a.dim_head, a.attn_dropout, a.ff_dropout)
        axes: list[tuple[int, Rotary | None]] = [
            (a.linear_transformer_depth, None),
            (a.time_transformer_depth, Rotary(a.dim_head)),
            (a.freq_transformer_depth, Rotary(a.dim_head)),
        ]
        parts = 2 * a.channels  # real and imaginary part of every channel
        self.layers = nn.ModuleList(
            AxialBlock(
                Transformer(shape, depth, rotary, norm_transformers)
                for depth, rotary in axes
                if rotary is not None or depth
            )
            for _ in range(a.depth)
        )
        self.final_norm = nn.Identity() if norm_transformers else RMSNorm(a.dim)
        self.band_split = BandSplit(table, parts, a.dim, RMSNorm)
        self.mask_estimators = nn.ModuleList(
            MaskEstimator(table, parts, a.dim, a.dim * a.mlp_expansion_factor, mask_layers) for _ in a.stems
        )

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
        flat = torch.view_as_real(spectrum).permute(0, 3, 2, 1, 4).flatten(2)  # [B, frames, F·C·2]
        x = self.final_norm(self._blocks(self.band_split(flat)))  # [B, frames, bands, dim]
        parts = 2 * self.channels
        masks = torch.stack([join_bands(mask(x), self.table, parts) for mask in self.mask_estimators], dim=1)
        pairs = masks.float().unflatten(-1, (self.channels, 2))  # [B, S, frames, F, C, 2]
        return torch.view_as_complex(pairs.contiguous()).permute(0, 1, 4, 3, 2)  # [B, S, C, F, frames]

    def _blocks(self, x: Tensor) -> Tensor:
        """Run all blocks: [B, frames, bands, dim] -> [B, frames, bands, dim]."""
        earlier: Tensor | None = None
        for block in self.layers:
            x = block(x, earlier)
            if self.arguments.skip_connection:
                earlier = x if earlier is None else earlier + x
        return x

    def select(self, stems: Sequence[str]) -> Self:
        """Estimate only `stems`, and drop the other mask estimators."""
        before = self.kept
        super().select(stems)
        self.mask_estimators = nn.ModuleList(self.mask_estimators[before.index(k)] for k in self.kept)
        return self

    def prepare(self, dtype: torch.dtype = torch.float32) -> Self:
        """Pack the linear layers for inference on a CPU, to compute in `dtype`."""
        pack_linears(self, dtype)
        return self

    def load_state_dict(
        self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False
    ) -> Any:
        """Load weights; old checkpoints number the transformers from 1, without a linear one at 0.

        Raises:
            StemsplitError: the weights belong to a variant with other mathematics.
        """
        if foreign := [key for key in state_dict if FOREIGN.search(key)]:
            raise StemsplitError(
                f"a variant of the network that isn't supported: its weights have {foreign[0]}"
            )
        renumbered = state_dict
        if not self.arguments.linear_transformer_depth and not any(
            k.startswith("layers.0.0.") for k in state_dict
        ):
            renumbered = {_one_place_down(key): value for key, value in state_dict.items()}
        return super().load_state_dict(renumbered, strict, assign)


def _one_place_down(key: str) -> str:
    """Return the key with the transformer's number in its block less one."""
    return re.sub(r"^(layers\.\d+\.)(\d+)", lambda m: f"{m[1]}{int(m[2]) - 1}", key)


class BSRoformer(Roformer):
    """Adjacent bands, one normalisation after the last block; mask_estimator_depth counts all layers."""

    @dataclass(frozen=True, kw_only=True)
    class Arguments(RoformerArguments):
        """Arguments of the released class.

        Attributes:
            freqs_per_bands: number of bins of each band.
        """

        freqs_per_bands: Sequence[int] = BANDS_62

        fixed: ClassVar[Mapping[str, Any]] = {"norm_output": False}

    def __init__(self, arguments: Arguments) -> None:
        a = arguments
        super().__init__(
            a,
            linear_bands(a.freqs_per_bands, a.stft_n_fft // 2 + 1),
            norm_transformers=False,
            mask_layers=a.mask_estimator_depth - 1,
        )


class MelBandRoformer(Roformer):
    """Mel bands, a normalisation after every transformer; mask_estimator_depth counts the hidden layers."""

    @dataclass(frozen=True, kw_only=True)
    class Arguments(RoformerArguments):
        """Arguments of the released class.

        Attributes:
            num_bands: number of bands on the mel scale.
        """

        fixed: ClassVar[Mapping[str, Any]] = {"norm_output": True}

        num_bands: int = 60
        attn_dropout: float = 0.1
        ff_dropout: float = 0.1
        mask_estimator_depth: int = 1

    def __init__(self, arguments: Arguments) -> None:
        a = arguments
        super().__init__(
            a,
            mel_bands(a.num_bands, a.stft_n_fft, a.sample_rate),
            norm_transformers=True,
            mask_layers=a.mask_estimator_depth,
        )
