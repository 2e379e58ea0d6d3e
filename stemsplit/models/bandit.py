"""Bandit and Bandit v2 (Watcharasupat et al. 2023 and 2024): speech, music and effects of cinematic audio.

"A Generalized Bandsplit Neural Network for Cinematic Audio Source Separation" (arXiv 2309.02539) and
"Remastering Divide and Remaster" (arXiv 2407.07275): overlapping bands, RNNs along time and across bands in
turn, and a complex mask per stem. The two differ in the order of a band's features, in padding and in the
names of tensors. Keys, arguments and their defaults are those of the released checkpoints.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, ClassVar, Literal, Self

import torch
from torch import Tensor, nn

from stemsplit.errors import StemsplitError, UnknownNameError
from stemsplit.models.blocks.band_masks import BandSplit, MaskEstimator
from stemsplit.models.blocks.filterbanks import TABLES, Filterbank, filterbank
from stemsplit.models.blocks.released import (
    released_arguments,
    released_stems,
    released_use,
)
from stemsplit.models.fast.gru import PackedGRU
from stemsplit.models.fast.packed import pack_linears, packs
from stemsplit.models.spectral import SpectralNetwork, Transform
from stemsplit.stems import canonical

# Constructor arguments of which all released configurations have the same value.
FIXED: Mapping[str, Any] = {
    "in_channel": 1,
    "in_channels": 1,
    "band_type": "musical",
    "require_no_overlap": False,
    "require_no_gap": True,
    "normalize_channel_independently": False,
    "treat_channel_as_feature": True,
    "cond_dim": 0,
    "bidirectional": True,
    "hidden_activation": "Tanh",
    "hidden_activation_kwargs": None,
    "complex_mask": True,
    "use_freq_weights": True,
    "window_fn": "hann_window",
    "wkwargs": None,
    "power": None,
    "center": True,
    "normalized": True,
    "onesided": True,
}

# Names of tables in released configurations that aren't ours
RELEASED_TABLES = {"dnr:mel": "mel", "dnr:vox7": "vox7", "dnr:speech": "vox7"}


@dataclass(frozen=True, kw_only=True)
class BanditArguments:
    """Sizes of the network that Bandit and Bandit v2 share.

    Attributes:
        stems: names of the outputs, as in the checkpoint's keys.
        audio_channels: of mix and stems; each is separated by itself.
        band_specs: table of bands, a key of `TABLES`.
        n_bands: number of bands; vox7 has its own.
        common_encoder: the stems share band split and RNNs; else each has a network of its own, with one mask
            (the authors' Band-Split RNN).
        mult_add_mask: besides masking it, something is added to the spectrogram.
        n_sqm_modules: pairs of an RNN along time and one across bands.
        emb_dim: width of a band's features.
        rnn_dim: width of each direction of the RNNs.
        rnn_type: GRU or LSTM.
        mlp_dim: width of the mask estimators' hidden layer.
        n_fft: samples per frame.
        win_length: length of the Hann window in samples.
        hop_length: samples from frame to frame.
        pad_mode: zeros (constant) or the signal's reflection (reflect) beyond its ends.
        normalise: standardise the whole track's waveform.
        overlap: fraction of a chunk shared with the next; None for the default.
        segment_samples: length of a chunk in samples.
        sample_rate: in Hz.
    """

    stems: Sequence[str] = ("speech", "music", "effects")
    audio_channels: int = 2
    band_specs: str = "musical"
    n_bands: int = 64
    common_encoder: bool = True
    mult_add_mask: bool = False
    n_sqm_modules: int = 8
    emb_dim: int = 128
    rnn_dim: int = 256
    rnn_type: Literal["GRU", "LSTM"] = "GRU"
    mlp_dim: int = 512
    n_fft: int = 2048
    win_length: int = 2048
    hop_length: int = 512
    pad_mode: Literal["constant", "reflect"] = "constant"
    normalise: bool = False
    overlap: float | None = None
    segment_samples: int = 264_600
    sample_rate: int = 44_100

    section: ClassVar[str] = "model"

    def __post_init__(self) -> None:
        if self.rnn_type not in ("GRU", "LSTM"):
            raise StemsplitError(f"rnn_type is GRU or LSTM, not {self.rnn_type}")
        if self.pad_mode not in ("constant", "reflect"):
            raise StemsplitError(f"pad_mode is constant or reflect, not {self.pad_mode}")
        if not 0 < self.win_length <= self.n_fft or self.n_fft < 4:
            raise StemsplitError(f"a window of {self.win_length} in frames of {self.n_fft} samples")
        if self.n_bands < 1 or self.n_sqm_modules < 1:
            raise StemsplitError(f"{self.n_bands} bands and {self.n_sqm_modules} modules make no network")
        if self.band_specs not in TABLES:
            raise UnknownNameError("band_specs", self.band_specs, sorted(TABLES))

    @property
    def bank(self) -> Filterbank:
        """The bands and their shares."""
        return filterbank(self.band_specs, self.n_bands, self.n_fft, self.sample_rate)

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Self:
        """Return the arguments of a released checkpoint, from the configuration published beside it.

        Args:
            config: with the constructor's arguments in the section `model` (Bandit) or `kwargs` (Bandit v2),
                with `training` (instruments), and perhaps `audio` (chunk_size, num_channels, sample_rate) and
                `inference` (`released_use`).

        Raises:
            StemsplitError: the configuration asks for something that the network doesn't have.
        """
        model = _own_names(config[cls.section])
        known = {field.name for field in fields(cls)}
        arguments = released_arguments({**config, "model": model}, known, FIXED)
        stems = tuple(arguments.get("stems", cls.stems))
        if (names := tuple(map(canonical, released_stems(config)))) != tuple(map(canonical, stems)):
            raise StemsplitError(f"stems {', '.join(stems)}, but instruments {', '.join(names)}")
        if channels := (config.get("audio") or {}).get("num_channels"):
            arguments["audio_channels"] = channels
        return cls(**arguments | released_use(config) | {"stems": stems})


def _own_names(model: Mapping[str, Any]) -> dict[str, Any]:
    """Translate a constructor's arguments that say the same as ours in other words.

    Raises:
        StemsplitError: each stem has its own network with bands of its own.
    """
    own = dict(model)
    if (rate := own.pop("fs", None)) is not None:
        own["sample_rate"] = rate
    if own.get("n_bands", 0) is None:
        del own["n_bands"]
    if (given := own.pop("band_specs_map", None)) is not None:
        if not (named := re.fullmatch(r"(dnr:vox7)(?::(\w+))?", given)):
            raise StemsplitError(f"a variant of the network that isn't supported: band_specs_map {given}")
        stems = [named[2]] if named[2] else list(BanditArguments.stems)
        own |= {"band_specs": named[1], "stems": stems, "common_encoder": False}
    if "band_specs" in own:
        own["band_specs"] = RELEASED_TABLES.get(own["band_specs"], own["band_specs"])
    return own


class ResidualRNN(nn.Module):
    """Normalisation of each step, a bidirectional RNN and a linear layer, added to their input.

    Args:
        arguments: of the network.
    """

    def __init__(self, arguments: BanditArguments) -> None:
        super().__init__()
        width, hidden = arguments.emb_dim, arguments.rnn_dim
        make = nn.GRU if arguments.rnn_type == "GRU" else nn.LSTM
        self.norm = nn.LayerNorm(width)
        self.rnn: nn.Module = make(width, hidden, batch_first=True, bidirectional=True)
        self.fc = nn.Linear(2 * hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        """Run along the steps and transpose for the next RNN.

        Args:
            x: [N, rows, steps, width].

        Returns:
            [N, steps, rows, width].
        """
        hidden, _ = self.rnn(self.norm(x).flatten(0, 1))  # [N·rows, steps, 2·hidden]
        y: Tensor = x + self.fc(hidden).view(x.shape)
        return y.transpose(1, 2)  # [N, steps, rows, width]


class RNNs(nn.Module):
    """RNNs along time and across bands in turn.

    Args:
        arguments: of the network.
        spaced: checkpoints number a parameterless layer after every RNN.
    """

    def __init__(self, arguments: BanditArguments, spaced: bool) -> None:
        super().__init__()

        def layers() -> Iterator[nn.Module]:
            for _ in range(2 * arguments.n_sqm_modules):
                yield ResidualRNN(arguments)
                if spaced:
                    yield nn.Identity()

        self.seqband = nn.Sequential(*layers())

    def forward(self, x: Tensor) -> Tensor:
        """[N, bands, frames, width] -> [N, bands, frames, width]."""
        y: Tensor = self.seqband(x)
        return y


class Core(nn.Module):
    """Band split, RNNs and the mask estimators of the stems that share them.

    Args:
        arguments: of the network.
        mask_estim: by the stems' names in checkpoints, or the only one.
        combined: as for `MaskMLP`.
        parts_first: as for `BandSplit`.
    """

    def __init__(
        self,
        arguments: BanditArguments,
        mask_estim: nn.ModuleDict | MaskEstimator,
        *,
        combined: bool,
        parts_first: bool,
    ) -> None:
        super().__init__()
        self.band_split = BandSplit(arguments.bank.table, arguments.emb_dim, combined, parts_first)
        self.tf_model = RNNs(arguments, spaced=combined)
        self.mask_estim = mask_estim

    def forward(self, z: Tensor, stems: Sequence[str]) -> list[Tensor]:
        """Estimate the masks of some of the stems.

        Args:
            z: complex [N, F, frames].
            stems: names in checkpoints.

        Returns:
            for each stem complex [masks, N, F, frames].
        """
        x = self.tf_model(self.band_split(z))  # [N, bands, frames, width]
        if isinstance(self.mask_estim, MaskEstimator):
            return [self.mask_estim(x)]
        return [self.mask_estim[stem](x) for stem in stems]


class Window(nn.Module):
    """Place of the Hann window in checkpoints.

    Args:
        size: in samples.
    """

    window: Tensor

    def __init__(self, size: int) -> None:
        super().__init__()
        self.register_buffer("window", torch.hann_window(size))


class BandSplitNetwork(SpectralNetwork):
    """A mask per stem for every number of the spectrogram; each audio channel by itself.

    Attributes:
        inside: where checkpoints hold the layers.
    """

    inside: ClassVar[str] = ""

    def __init__(self, arguments: BanditArguments, *, combined: bool, parts_first: bool) -> None:
        a = arguments
        super().__init__(
            a,
            stems=a.stems,
            sample_rate=a.sample_rate,
            channels=a.audio_channels,
            segment_samples=a.segment_samples,
            transform=Transform(a.n_fft, a.hop_length, a.win_length, reflect=a.pad_mode == "reflect"),
        )
        self.normalise, self.overlap = a.normalise, a.overlap
        self.stft, self.istft = Window(a.win_length), Window(a.win_length)
        estimators = {
            stem: MaskEstimator(
                a.bank,
                self.transform.bins,
                a.emb_dim,
                a.mlp_dim,
                combined=combined,
                additive=a.mult_add_mask,
            )
            for stem in a.stems
        }

        def core(mask_estim: nn.ModuleDict | MaskEstimator) -> Core:
            return Core(a, mask_estim, combined=combined, parts_first=parts_first)

        if a.common_encoder:
            own = nn.ModuleDict(estimators)
            self._cores = dict.fromkeys(a.stems, core(own))
            self._register(self._cores[a.stems[0]])
        else:
            own = nn.ModuleDict({stem: core(estimator) for stem, estimator in estimators.items()})
            self._cores = {stem: part for stem, part in own.items() if isinstance(part, Core)}
            self.add_module("bsrnn", own)
        self._own = (own,)  # what only one stem needs; in a tuple, since it is registered already

    def _register(self, core: Core) -> None:
        """Put the layers where checkpoints have them."""
        home: nn.Module = self
        if self.inside:
            home = nn.Module()
            self.add_module(self.inside, home)
        for name, layer in core.named_children():
            home.add_module(name, layer)

    def spectrograms(self, mix: Tensor) -> Tensor:
        """[B, C, T] -> complex [B, S, C, F, frames]."""
        z = self.transform.analyse(mix)  # [B, C, F, frames]
        # the layers see a transform divided by the norm of its window
        norm = self.stft.window.square().sum().sqrt()
        selected = self._selected()
        masks: dict[str, Tensor] = {}  # complex [masks, B·C, F, frames] each
        for core in dict.fromkeys(self._cores[stem] for stem in selected):
            stems = [stem for stem in selected if self._cores[stem] is core]
            masks |= zip(stems, core(z.flatten(0, 1) / norm, stems), strict=True)
        return torch.stack([_apply(masks[stem], z, norm) for stem in selected], dim=1)

    def prepare(self, dtype: torch.dtype = torch.float32) -> Self:
        """Pack the linear layers and the GRUs."""
        for module in self.modules():
            if isinstance(module, ResidualRNN) and isinstance(module.rnn, nn.GRU) and packs(dtype):
                module.rnn = PackedGRU(module.rnn)
        pack_linears(self, dtype)
        return self

    def _selected(self) -> list[str]:
        """Names of the selected stems in the checkpoint."""
        return [self.arguments.stems[k] for k in self.kept]

    def select(self, stems: Sequence[str]) -> Self:
        """Keep only the layers that `stems` need."""
        super().select(stems)
        for stem in self._cores.keys() - set(self._selected()):
            del self._own[0][stem], self._cores[stem]
        return self


def _apply(masks: Tensor, z: Tensor, norm: Tensor) -> Tensor:
    """Multiply a spectrogram by the first mask, and add the second if there is one.

    Args:
        masks: complex [masks, B·C, F, frames].
        z: complex [B, C, F, frames].
        norm: that the layers' spectrograms are divided by, the second mask among them.

    Returns:
        complex [B, C, F, frames].
    """
    factor, *summand = (mask.view(z.shape) for mask in masks)
    masked: Tensor = z * factor
    return masked + norm * summand[0] if summand else masked


class Bandit(BandSplitNetwork):
    """Bandit: zeros beyond the ends of the signal; a band's real parts come before its imaginary parts."""

    Arguments = BanditArguments
    inside = "bsrnn"

    def __init__(self, arguments: BanditArguments) -> None:
        super().__init__(arguments, combined=False, parts_first=True)


class BanditV2(BandSplitNetwork):
    """Bandit v2: the signal is reflected at its ends; a band's features go bin by bin."""

    @dataclass(frozen=True, kw_only=True)
    class Arguments(BanditArguments):
        """As in the released code."""

        stems: Sequence[str] = ("speech", "music", "sfx")
        pad_mode: Literal["constant", "reflect"] = "reflect"
        segment_samples: int = 384_000
        sample_rate: int = 48_000

        section: ClassVar[str] = "kwargs"

    def __init__(self, arguments: Arguments) -> None:
        super().__init__(arguments, combined=True, parts_first=False)
