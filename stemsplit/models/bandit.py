"""Bandit and Bandit v2 (Watcharasupat et al. 2023 and 2024): speech, music and effects of cinematic audio.

"A Generalized Bandsplit Neural Network for Cinematic Audio Source Separation" (arXiv 2309.02539) and
"Remastering Divide and Remaster" (arXiv 2407.07275): overlapping bands, RNNs along time and across bands in
turn, and a complex mask per stem. The two differ in the order of a band's features, in padding and in the
names of tensors. Keys, arguments and their defaults are those of the released checkpoints.
"""

import math
from collections import Counter, OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, ClassVar, Literal, Self

import torch
from torch import Tensor, nn

from stemsplit.errors import StemsplitError
from stemsplit.models.blocks.bands import Table
from stemsplit.models.blocks.released import (
    released_arguments,
    released_stems,
    released_use,
)
from stemsplit.models.spectral import SpectralNetwork, Transform
from stemsplit.stems import canonical

# Constructor arguments of which all released configurations have the same value.
FIXED: Mapping[str, Any] = {
    "in_channel": 1,
    "in_channels": 1,
    "band_specs": "musical",
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


def musical_bands(count: int, n_fft: int, sample_rate: int) -> Table:
    """Return overlapping bands whose centres are equally spaced in pitch (arXiv 2309.02539, musical scale).

    Centre frequencies go from the first bin above 0 Hz to the highest. A band reaches to either side by its
    share of all octaves; the first also takes 0 Hz and the last everything up to the highest bin.

    Args:
        count: of bands.
        n_fft: samples per frame.
        sample_rate: in Hz.
    """
    width, top = sample_rate / n_fft, n_fft // 2
    # through the numbers of MIDI notes, so that centres between two bins round as in released checkpoints
    low = max(0.0, 12 * (math.log2(width) - math.log2(440)) + 69)
    high = 12 * (math.log2(sample_rate / 2) - math.log2(440)) + 69
    step = (high - low) / max(1, count - 1)
    reach = 2 ** (math.log2(sample_rate / 2 / width) / count)
    centres = [440 * 2 ** ((low + i * step - 69) / 12) for i in range(count)]
    starts = [0] + [math.floor(centre / reach / width) for centre in centres[1:]]
    stops = [math.ceil(centre * reach / width) + 1 for centre in centres[:-1]] + [top + 1]
    return tuple(range(start, min(stop, top + 1)) for start, stop in zip(starts, stops, strict=True))


@dataclass(frozen=True, kw_only=True)
class BanditArguments:
    """Sizes of the network that Bandit and Bandit v2 share.

    Attributes:
        stems: names of the outputs, as in the checkpoint's keys.
        audio_channels: of mix and stems; each is separated by itself.
        n_bands: on the musical scale.
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
    n_bands: int = 64
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

    @property
    def table(self) -> Table:
        """The bands."""
        return musical_bands(self.n_bands, self.n_fft, self.sample_rate)

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
        model = dict(config[cls.section])
        if (rate := model.pop("fs", None)) is not None:
            model["sample_rate"] = rate
        known = {field.name for field in fields(cls)}
        arguments = released_arguments({**config, "model": model}, known, FIXED)
        stems = tuple(arguments.get("stems", cls.stems))
        if (names := tuple(map(canonical, released_stems(config)))) != tuple(map(canonical, stems)):
            raise StemsplitError(f"stems {', '.join(stems)}, but instruments {', '.join(names)}")
        if channels := (config.get("audio") or {}).get("num_channels"):
            arguments["audio_channels"] = channels
        return cls(**arguments | released_use(config) | {"stems": stems})


class BandSplit(nn.Module):
    """Normalise every band and bring it to one width, by layers of its own.

    Args:
        arguments: of the network.
        combined: checkpoints number the layers in a module of that name, rather than name each.
        parts_first: a band's features are all real parts, then all imaginary parts, rather than bin by bin.
    """

    def __init__(self, arguments: BanditArguments, combined: bool, parts_first: bool) -> None:
        super().__init__()
        self.parts_first = parts_first
        self.slices = [slice(band.start, band.stop) for band in arguments.table]
        layers = (
            (nn.LayerNorm(2 * len(band)), nn.Linear(2 * len(band), arguments.emb_dim))
            for band in arguments.table
        )
        self.norm_fc_modules = nn.ModuleList(
            nn.Sequential(
                OrderedDict(combined=nn.Sequential(norm, fc)) if combined else OrderedDict(norm=norm, fc=fc)
            )
            for norm, fc in layers
        )

    def forward(self, z: Tensor) -> Tensor:
        """Complex [N, F, frames] -> [N, bands, frames, width]."""
        bins = torch.view_as_real(z).transpose(1, 2)  # [N, frames, F, 2]
        bands = (bins[:, :, s] for s in self.slices)
        ordered = (band.transpose(2, 3) if self.parts_first else band for band in bands)
        features = [
            layer(band.flatten(2))  # [N, frames, 2·band] -> [N, frames, width]
            for layer, band in zip(self.norm_fc_modules, ordered, strict=True)
        ]
        return torch.stack(features, dim=1)  # [N, bands, frames, width]


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
        self.rnn = make(width, hidden, batch_first=True, bidirectional=True)
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


class MaskMLP(nn.Module):
    """Mask of one band.

    Args:
        width: of a band's features.
        hidden: width of the hidden layer.
        bins: of the band.
        combined: checkpoints hold every tensor also under a second name.
    """

    def __init__(self, width: int, hidden: int, bins: int, combined: bool) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.hidden = nn.Sequential(nn.Linear(width, hidden), nn.Tanh())
        self.output = nn.Sequential(nn.Linear(hidden, 4 * bins), nn.GLU(dim=-1))
        if combined:
            self.combined = nn.Sequential(self.norm, self.hidden, self.output)

    def forward(self, x: Tensor) -> Tensor:
        """[..., width] -> [..., bins, 2], real and imaginary part."""
        y: Tensor = self.output(self.hidden(self.norm(x))).unflatten(-1, (-1, 2))  # [..., bins, 2]
        return y


class MaskEstimator(nn.Module):
    """Mask of one stem: a weighted sum of the masks of all bands that a bin lies in.

    Args:
        arguments: of the network.
        combined: as for `MaskMLP`.
    """

    def __init__(self, arguments: BanditArguments, combined: bool) -> None:
        super().__init__()
        a = arguments
        self.table = a.table
        self.norm_mlp = nn.ModuleList(
            MaskMLP(a.emb_dim, a.mlp_dim, len(band), combined) for band in self.table
        )
        covering = Counter(k for band in self.table for k in band)
        for i, band in enumerate(self.table):
            self.register_buffer(f"freq_weights/{i}", torch.tensor([1 / covering[k] for k in band]))

    def forward(self, x: Tensor) -> Tensor:
        """[N, bands, frames, width] -> complex [N, F, frames]."""
        weighted = [
            layer(band).float() * self.get_buffer(f"freq_weights/{i}").float()[:, None]
            for i, (layer, band) in enumerate(zip(self.norm_mlp, x.unbind(1), strict=True))
        ]
        by_band = torch.cat(weighted, dim=2)  # [N, frames, Σ band, 2]
        bins = torch.tensor([k for band in self.table for k in band], device=x.device)
        mask = by_band.new_zeros(*by_band.shape[:2], self.table[-1].stop, 2).index_add(2, bins, by_band)
        return torch.view_as_complex(mask).transpose(1, 2)  # [N, F, frames]


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
        split, rnns = BandSplit(a, combined, parts_first), RNNs(a, spaced=combined)
        estimators = nn.ModuleDict({stem: MaskEstimator(a, combined) for stem in a.stems})
        self._layers = split, rnns, estimators  # in a tuple: where they are registered differs
        home: nn.Module = self
        if self.inside:
            home = nn.Module()
            self.add_module(self.inside, home)
        for name, layer in zip(("band_split", "tf_model", "mask_estim"), self._layers, strict=True):
            home.add_module(name, layer)

    def spectrograms(self, mix: Tensor) -> Tensor:
        """[B, C, T] -> complex [B, S, C, F, frames]."""
        z = self.transform.analyse(mix)  # [B, C, F, frames]
        split, rnns, estimators = self._layers
        # the layers see a transform divided by the norm of its window
        scaled = z.flatten(0, 1) / self.stft.window.square().sum().sqrt()
        x = rnns(split(scaled))  # [B·C, bands, frames, width]
        masks = [estimators[stem](x).view(z.shape) for stem in self._selected()]  # [B, C, F, frames] each
        return z[:, None] * torch.stack(masks, dim=1)  # [B, S, C, F, frames]

    def _selected(self) -> list[str]:
        """Names of the selected stems in the checkpoint."""
        return [self.arguments.stems[k] for k in self.kept]

    def select(self, stems: Sequence[str]) -> Self:
        """Keep only the mask estimators of `stems`."""
        super().select(stems)
        *_, estimators = self._layers
        for stem in set(estimators) - set(self._selected()):
            del estimators[stem]
        return self


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
