"""X-UMX: the networks of Open-Unmix, coupled by two averages over their stems.

Sawata, Uhlich, Takahashi, Mitsufuji, "All for One and One for All: Improving Music Separation by Bridging
Networks" (arXiv 2010.04228): every stem has the layers of an Open-Unmix network, but the LSTMs see the mean
of all encoders, and the decoders the mean of all encoders and LSTMs. Keys and arguments are those of
asteroid 0.7, models/x_umx.py; the stems come from a Wiener filter, as in Open-Unmix.

Legend: `B` batch, `S` stems, `C` channels, `F` bins, `T` samples.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Self

import torch
from torch import Tensor, nn

from stemsplit.errors import StemsplitError
from stemsplit.models.blocks.magnitudes import through_spectra
from stemsplit.models.blocks.released import released_arguments
from stemsplit.models.blocks.wiener import wiener
from stemsplit.models.network import Network, ignore_when_loading
from stemsplit.stems import canonical

LSTM_DROPOUT = 0.4
# Arguments of asteroid's constructor that the network is written for one value of
FIXED = {"spec_power": 1}
# Arguments of it that change no output: start values of parameters, and what else `forward` returns
HARMLESS = frozenset({"input_mean", "input_scale", "return_time_signals"})


@dataclass(frozen=True)
class XUMXArguments:
    """Sizes of the networks and settings of the filter; the defaults are those of the paper.

    Attributes:
        sources: stems, in the order of the output.
        nb_channels: of mix and stems, 1 or 2.
        hidden_size: width of the networks.
        nb_layers: stacked LSTM layers.
        max_bin: number of bins that the networks see, from the lowest; 1487 end at 16 kHz.
        bidirectional: see the future too.
        niter: iterations of expectation maximisation in the Wiener filter; 0 for the mix's phase.
        softmask: start the filter from shares of the mix rather than from the estimated magnitudes.
        sample_rate: in Hz.
        in_chan: samples per STFT frame.
        n_hop: samples from frame to frame.
        segment_s: length of a chunk, in s, as of Open-Unmix.
    """

    sources: Sequence[str] = ("bass", "drums", "vocals", "other")
    nb_channels: int = 2
    hidden_size: int = 512
    nb_layers: int = 3
    max_bin: int = 1487
    bidirectional: bool = True
    niter: int = 1
    softmask: bool = False
    sample_rate: int = 44100
    in_chan: int = 4096
    n_hop: int = 1024
    segment_s: float = 80.0

    def __post_init__(self) -> None:
        if self.nb_channels not in (1, 2):
            raise StemsplitError(f"xumx: nb_channels {self.nb_channels}: must be 1 or 2")
        if not 0 < self.max_bin <= self.in_chan // 2 + 1:
            raise StemsplitError(f"xumx: max_bin {self.max_bin}: must be 1 to {self.in_chan // 2 + 1}")
        if self.bidirectional and self.hidden_size % 2:
            raise StemsplitError(f"xumx: hidden_size {self.hidden_size}: must be even if bidirectional")
        if self.niter and len(self.sources) < 2:
            raise StemsplitError("xumx: niter > 0 needs two sources")

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Self:
        """Read asteroid's arguments, in the section `model` of a configuration.

        Raises:
            StemsplitError: it asks for something that the network doesn't have.
        """
        model = {name: value for name, value in config["model"].items() if name not in HARMLESS}
        window = model.pop("window_length", model.get("in_chan", cls.in_chan))
        if window != model.get("in_chan", cls.in_chan):
            raise StemsplitError(f"xumx: window_length {window}: must be that of in_chan")
        if model.get("max_bin", 0) is None:
            model["max_bin"] = window // 2 + 1
        known = {field.name for field in fields(cls)}
        given = released_arguments({**config, "model": model}, known, FIXED)
        if (samples := given.pop("segment_samples", None)) is not None:
            given["segment_s"] = samples / given.get("sample_rate", cls.sample_rate)
        return cls(**given)


class Encoder(nn.Module):
    """Dense layer from the bins of one frame to features.

    Args:
        a: arguments of the family.
    """

    def __init__(self, a: XUMXArguments) -> None:
        super().__init__()
        self.enc = nn.Sequential(
            nn.Linear(a.nb_channels * a.max_bin, a.hidden_size, bias=False), nn.BatchNorm1d(a.hidden_size)
        )

    def forward(self, x: Tensor) -> Tensor:
        """[frames, B, C, max_bin] -> [frames, B, hidden]."""
        frames, batch = x.shape[:2]
        return torch.tanh(self.enc(x.reshape(frames * batch, -1))).view(frames, batch, -1)


class Decoder(nn.Module):
    """Two dense layers from features to the bins of one frame.

    Args:
        a: arguments of the family.
    """

    def __init__(self, a: XUMXArguments) -> None:
        super().__init__()
        self.channels = a.nb_channels
        outputs = a.nb_channels * (a.in_chan // 2 + 1)
        self.dec = nn.Sequential(
            nn.Linear(2 * a.hidden_size, a.hidden_size, bias=False),
            nn.BatchNorm1d(a.hidden_size),
            nn.ReLU(),
            nn.Linear(a.hidden_size, outputs, bias=False),
            nn.BatchNorm1d(outputs),
        )

    def forward(self, x: Tensor) -> Tensor:
        """[frames, B, 2·hidden] -> [frames, B, C, F]."""
        y: Tensor = self.dec(x.flatten(0, 1))  # [frames·B, C·F]
        return y.view(*x.shape[:2], self.channels, -1)


class XUMX(Network):
    """The coupled networks, and the filter that combines their estimates."""

    Arguments = XUMXArguments
    arguments: XUMXArguments

    def __init__(self, arguments: XUMXArguments) -> None:
        a = arguments
        super().__init__(
            a,
            stems=a.sources,
            sample_rate=a.sample_rate,
            channels=a.nb_channels,
            segment_samples=int(a.segment_s * a.sample_rate),
        )
        self.layer_enc = nn.ModuleDict({name: Encoder(a) for name in a.sources})
        self.layer_lstm = nn.ModuleDict({name: _lstm(a) for name in a.sources})
        self.layer_dec = nn.ModuleDict({name: Decoder(a) for name in a.sources})
        scales: dict[str, nn.Parameter] = {}
        for name in a.sources:
            scales[f"input_mean_{name}"] = nn.Parameter(torch.zeros(a.max_bin))  # to be added: minus the mean
            scales[f"input_scale_{name}"] = nn.Parameter(torch.ones(a.max_bin))
            scales[f"output_mean_{name}"] = nn.Parameter(torch.ones(a.in_chan // 2 + 1))
            scales[f"output_scale_{name}"] = nn.Parameter(torch.ones(a.in_chan // 2 + 1))
        self.mean_scale = nn.ParameterDict(scales)
        ignore_when_loading(self, "encoder.0.window", "decoder.window")

    def select(self, stems: Sequence[str]) -> Self:
        """Estimate only `stems`; without the filter, the decoders of the others are dropped."""
        super().select(stems)
        if not self.arguments.niter and not self.arguments.softmask:
            for name in [name for name in self.layer_dec if canonical(name) not in self.stems]:
                del self.layer_dec[name]
                del self.mean_scale[f"output_mean_{name}"], self.mean_scale[f"output_scale_{name}"]
        return self

    def estimate(self, mix: Tensor) -> Tensor:
        """[B, C, T] -> [B, S, C, T]."""
        return through_spectra(mix, self.arguments.in_chan, self.arguments.n_hop, self._spectra)

    def _spectra(self, mix: Tensor) -> Tensor:
        """Return the stems' spectra from the mix's: [B, C, F, frames] -> [B, S, C, F, frames]."""
        guesses = self.magnitudes(mix.abs())
        decoded = [canonical(name) for name in self.layer_dec]
        keep = [decoded.index(stem) for stem in self.stems]
        return wiener(
            guesses, mix, iterations=self.arguments.niter, softmask=self.arguments.softmask, keep=keep
        )

    def magnitudes(self, mix: Tensor) -> Tensor:
        """Return the decoded stems' magnitudes from the mix's: [B, C, F, frames] -> [B, S, C, F, frames]."""
        scale = self.mean_scale
        cropped = mix.permute(3, 0, 1, 2)[..., : self.arguments.max_bin]  # [frames, B, C, max_bin]
        encoded = torch.stack(
            [
                encoder((cropped + scale[f"input_mean_{name}"]) * scale[f"input_scale_{name}"])
                for name, encoder in self.layer_enc.items()
            ]
        ).mean(0)  # [frames, B, hidden]
        recurrent = torch.stack([lstm(encoded)[0] for lstm in self.layer_lstm.values()]).mean(0)
        features = torch.cat([encoded, recurrent], dim=-1)  # [frames, B, 2·hidden]: a skip connection
        stems = []
        for name, decoder in self.layer_dec.items():
            decoded = decoder(features) * scale[f"output_scale_{name}"] + scale[f"output_mean_{name}"]
            stems.append(torch.relu(decoded).permute(1, 2, 3, 0) * mix)  # [B, C, F, frames]
        return torch.stack(stems, dim=1)


def _lstm(a: XUMXArguments) -> nn.LSTM:
    return nn.LSTM(
        a.hidden_size,
        a.hidden_size // 2 if a.bidirectional else a.hidden_size,
        num_layers=a.nb_layers,
        bidirectional=a.bidirectional,
        dropout=LSTM_DROPOUT if a.nb_layers > 1 else 0,
    )
