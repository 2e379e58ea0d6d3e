"""LASAFT-Net-v2: one U-Net for all stems whose decoder listens to the mix to find its latent sources.

Choi, Jeong, Kim, Chung, Jung, Reiss, "Listen, Attend and Separate by Attentively aggregating Frequency
Transformation" (2022), for which there is only the authors' program (ws-choi/LASAFT-Net-v2); names and shapes
of the weights are those of its checkpoints, which also hold the window of the transform. The encoder doesn't
know the stem. A block of the decoder is LightSAFT with gated modulation, of which queries and keys are
computed from the features (`query_listen` and `key_listen` of its configurations).

Legend: `B` batch, `S` stems, `C` channels, `W` width of features, `F` bins, `T` samples; `N` counts the items
of a batch, each with its stem: N = B·S.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from stemsplit.errors import StemsplitError
from stemsplit.models.blocks.conditioned import (
    Activation,
    ConditionedArguments,
    ConditionedNetwork,
    ConditionedUNet,
    Convolutions,
    Frequencies,
    counted,
    modulated,
    narrowed,
    normalised,
)
from stemsplit.models.blocks.released import require_fixed

ACTIVATIONS: Mapping[str, Activation] = {"relu": nn.ReLU, "leaky_relu": nn.LeakyReLU}

# Where a configuration of the program has our arguments, below `model`
PLACES = {
    **{key: (key,) for key in ("n_fft", "hop_length", "num_frame")},
    **{key: ("spec2spec", key) for key in ("n_blocks", "internal_channels", "n_internal_layers")},
    "embedding_dim": ("spec2spec", "embedding_dim"),
    "activation": ("spec2spec", "first_conv_activation"),
    **{key: ("spec2spec", "mk_block_f", key) for key in ("num_tdfs", "dk")},
}
# The program's choices that the family is written for, below `model`
FIXED: Mapping[tuple[str, ...], Mapping[str, Any]] = {
    (): {
        **{"spec_type": "complex", "spec_est_mode": "mapping", "norm": "bn"},
        **{"query_listen": True, "key_listen": True},
    },
    ("spec2spec",): {
        **{"last_activation": "identity", "control_vector_type": "embedding"},
        **{"control_input_dim": 4, "input_channels": 4, "condition_to": "decoder"},
    },
    ("spec2spec", "mk_block_f"): {
        "_target_": "lasaft.models.conditioned.spec2spec.block_functions.MkTFCLightSAFTGPoCM",
        **{"kt": 3, "kf": 3, "bn_factor": 16, "min_bn_units": 16, "bias": False},
    },
}


@dataclass(frozen=True, kw_only=True)
class LaSAFTv2Arguments(ConditionedArguments):
    """Arguments of the authors' classes; the defaults are those of the large released network.

    Attributes:
        activation: after normalisations, `relu` or `leaky_relu`.
    """

    family: ClassVar[str] = "lasaft_v2"

    num_tdfs: int = 16
    activation: str = "relu"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.activation not in ACTIVATIONS:
            self.refuse(f"activation {self.activation!r}: one of {', '.join(ACTIVATIONS)}")

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Self:
        """Return the arguments that a configuration of the authors' program has.

        Args:
            config: with the section `model`.

        Raises:
            StemsplitError: it asks for another network.
            KeyError: it lacks an argument.
        """
        model = config["model"]
        for place, fixed in FIXED.items():
            require_fixed(_within(model, place), fixed)
        found = {key: _within(model, place) for key, place in PLACES.items()}
        others = [
            _within(model, ("spec2spec", part, "activation")) for part in ("mk_block_f", "mk_ds_f", "mk_us_f")
        ]
        if {*others} != {found["activation"]}:
            raise StemsplitError("activations that differ from layer to layer")
        return cls(**found)

    @classmethod
    def from_shapes(cls, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
        """Return what the tensors of a checkpoint tell; not the stems' names, hop, frames and activation.

        Raises:
            KeyError: a tensor is missing.
        """
        home, light = "spec2spec", "spec2spec.decoders.0.tfc_lightsaft"
        width, parts = shapes[f"{home}.first_conv.0.weight"][:2]
        return {
            "n_fft": 2 * shapes[f"{home}.encoders.0.tdf.tdf.0.weight"][1],
            "n_blocks": 2 * counted(shapes, rf"{home}\.encoders\.(\d+)\.") + 1,
            "internal_channels": width,
            "n_internal_layers": counted(shapes, rf"{home}\.encoders\.0\.tfc\.H\.(\d+)\."),
            "num_tdfs": shapes[f"{light}.keys.0.weight"][0],
            "dk": shapes[f"{light}.keys.3.weight"][0],
            "embedding_dim": shapes[f"{home}.embedding.weight"][1],
            "audio_channels": parts // 2,
        }


def _within(model: Mapping[str, Any], place: Sequence[str]) -> Any:
    for key in place:
        model = model[key]
    return model


class NormedLinear(nn.Module):
    """A linear layer with its weights as directions and lengths (weight normalisation).

    Args:
        given: features of the input.
        out: features of the output.
    """

    def __init__(self, given: int, out: int) -> None:
        super().__init__()
        self.weight_g = nn.Parameter(torch.ones(out, 1))
        self.weight_v = nn.Parameter(torch.empty(out, given))
        self.bias = nn.Parameter(torch.zeros(out))
        nn.init.kaiming_normal_(self.weight_v)

    def forward(self, x: Tensor) -> Tensor:
        """[N, given] -> [N, out]."""
        return F.linear(x, self.weight_g * F.normalize(self.weight_v, dim=1), self.bias)


def generator(given: int, out: int) -> nn.Sequential:
    """Return layers that compute a modulation from a stem's embedding."""
    return nn.Sequential(NormedLinear(given, given), nn.ReLU(), NormedLinear(given, out))


class EncoderBlock(nn.Module):
    """Convolutions, and linear layers along frequency that are added to their output.

    Args:
        bins: of input and output.
        a: arguments of the family.
    """

    def __init__(self, bins: int, a: LaSAFTv2Arguments) -> None:
        super().__init__()
        width, activation = a.internal_channels, ACTIVATIONS[a.activation]
        self.tfc = Convolutions(width, width, a.n_internal_layers, activation)
        self.tdf = Frequencies(width, bins, bins, activation)

    def forward(self, x: Tensor) -> Tensor:
        """[B, W, frames, F] -> [B, W, frames, F]."""
        x = self.tfc(x)
        y: Tensor = x + self.tdf(x)
        return y


class LightSAFT(nn.Module):
    """Convolutions, and a mixture of latent sources, weighted frame by frame.

    Args:
        bins: of input and output.
        a: arguments of the family.
    """

    def __init__(self, bins: int, a: LaSAFTv2Arguments) -> None:
        super().__init__()
        width, activation, narrow = a.internal_channels, ACTIVATIONS[a.activation], narrowed(bins)
        self.tfc = Convolutions(2 * width, width, a.n_internal_layers, activation)
        down = nn.Linear(bins, narrow * a.num_tdfs, bias=False)
        self.LaSAFT_bn_layer = normalised(width, down, activation=activation)
        self.LaSIFT = nn.Sequential(nn.BatchNorm2d(width), nn.Linear(narrow, bins, bias=False), activation())
        self.query_pocm_generator = generator(a.embedding_dim, width + 1)
        self.linear_query = nn.Sequential(nn.LayerNorm(bins), nn.ReLU(), nn.Linear(bins, a.dk))
        self.keys = nn.Sequential(
            *(nn.Conv2d(width, a.num_tdfs, 1), nn.BatchNorm2d(a.num_tdfs), nn.ReLU()),
            nn.Linear(bins, a.dk),
        )

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        """Return what the latent sources add to the convolutions' output.

        Args:
            x: that output, modulated, [N, W, frames, F].
            embedding: of the stems, [N, embedding_dim].

        Returns:
            [N, W, frames, F].
        """
        keys = self.keys(x)  # [N, latent sources, frames, dk]
        matrix, offset = self.query_pocm_generator(embedding).split([x.shape[1], 1], dim=1)
        heard = modulated(x, matrix[..., None], offset)[:, 0]  # [N, frames, F]
        query = self.linear_query(heard)  # [N, frames, dk]
        scores = torch.einsum("nltd,ntd->ntl", keys, query) / math.sqrt(query.shape[-1])
        weights = scores.softmax(-1)[:, None, :, :, None]  # [N, 1, frames, latent sources, 1]
        values = self.LaSAFT_bn_layer(x).unflatten(
            -1, (-1, keys.shape[1])
        )  # [N, W, frames, F', latent sources]
        y: Tensor = self.LaSIFT((values @ weights)[..., 0])
        return y


class DecoderBlock(nn.Module):
    """Convolutions, their gated modulation by the stem, and what latent sources add.

    Args:
        bins: of input and output.
        a: arguments of the family.
    """

    def __init__(self, bins: int, a: LaSAFTv2Arguments) -> None:
        super().__init__()
        width = a.internal_channels
        self.tfc_lightsaft = LightSAFT(bins, a)
        self.pocm_generator = generator(a.embedding_dim, width**2 + width)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        """[N, 2W, frames, F] -> [N, W, frames, F]."""
        x = self.tfc_lightsaft.tfc(x)
        width = x.shape[1]
        matrices, offsets = self.pocm_generator(embedding).split([width**2, width], dim=1)
        x = x * modulated(x, matrices.unflatten(1, (width, width)), offsets).sigmoid()
        y: Tensor = x + self.tfc_lightsaft(x, embedding)
        return y


class UNet(ConditionedUNet):
    """U-Net whose decoder only knows the stem, so that the encoder runs once for all stems.

    Args:
        a: arguments of the family.
    """

    def __init__(self, a: LaSAFTv2Arguments) -> None:
        width, bins, activation = a.internal_channels, a.bins, ACTIVATIONS[a.activation]
        super().__init__(a, activation)
        self.encoders = nn.ModuleList(EncoderBlock(size, a) for size in bins[:-1])
        self.downsamplings = nn.ModuleList(
            normalised(width, nn.Conv2d(width, width, 2, 2), activation=activation) for _ in bins[:-1]
        )
        self.mid_block = EncoderBlock(bins[-1], a)
        self.upsamplings = nn.ModuleList(
            normalised(width, nn.ConvTranspose2d(width, width, 2, 2), activation=activation)
            for _ in bins[:-1]
        )
        self.decoders = nn.ModuleList(DecoderBlock(size, a) for size in reversed(bins[:-1]))

    def forward(self, x: Tensor, groups: Sequence[Sequence[int]]) -> Tensor:
        """[B, 2C, frames, F + 1] -> [B, S, 2C, frames, F + 1], see `ConditionedUNet`."""
        x = self.first_conv(x)  # [B, W, frames, F]
        saved = []
        for block, down in zip(self.encoders, self.downsamplings, strict=True):
            saved.append(block(x))
            x = down(saved[-1])
        x = self.mid_block(x)
        return torch.cat([self._decoded(x, saved, stems) for stems in groups], dim=1)

    def _decoded(self, x: Tensor, saved: Sequence[Tensor], stems: Sequence[int]) -> Tensor:
        """Return the spectrograms of stems, [B, S, 2C, frames, F + 1], from what the encoder saved."""
        batch, each = len(x), len(stems)
        embedding = self.embedded(stems, batch)  # [N, embedding_dim]
        x = x.repeat_interleave(each, 0)  # [N, W, frames, F] of the lowest scale
        for block, up, before in zip(self.decoders, self.upsamplings, reversed(saved), strict=True):
            x = block(torch.cat([up(x), before.repeat_interleave(each, 0)], dim=1), embedding)
        out: Tensor = self.last_conv(x).unflatten(0, (batch, -1))  # [B, S, 2C, frames, F + 1]
        return out


class LaSAFTv2(ConditionedNetwork):
    """Maps the mix's complex spectrogram to each stem's, in the middle of chunks that overlap by half."""

    Arguments = LaSAFTv2Arguments

    def __init__(self, arguments: LaSAFTv2Arguments) -> None:
        super().__init__(arguments, UNet(arguments))
        self.overlap = 0.5
        # The authors' program draws the lengths of normed weights, too, some of which are almost 0 then
        for name, parameter in self.named_parameters():
            if parameter.dim() > 1 and not name.endswith("weight_g"):
                nn.init.kaiming_normal_(parameter)
