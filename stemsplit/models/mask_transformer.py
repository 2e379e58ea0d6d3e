"""The masking Transformer (Porcelli, Politecnico di Torino 2024): attention over frames of a magnitude.

Transformer encoders estimate a mask between 0 and 1 for the magnitude of the mix's spectrogram; the phase is
the mix's. Every variant that the thesis compares is a choice among the arguments.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from stemsplit.errors import StemsplitError
from stemsplit.models.blocks.attention import LayerShape, SelfLayer
from stemsplit.models.blocks.audio_encoder import LayerSum, hidden_states, load_encoder
from stemsplit.models.spectral import SpectralNetwork, Transform

PERIOD = 10_000.0  # of the slowest position sinusoid, in radians


def positions(x: Tensor) -> Tensor:
    """Sines and cosines of the frame number, alternating, at rates from 1 down to 1/PERIOD.

    Args:
        x: [..., frames, width], for which they are wanted; the width may be odd.

    Returns:
        [frames, width].
    """
    frames, width = x.shape[-2:]
    rates = PERIOD ** -(torch.arange(0, width, 2, device=x.device) / width)
    phase = torch.outer(torch.arange(frames, device=x.device), rates)
    return torch.stack([phase.sin(), phase.cos()], dim=-1).flatten(1)[:, :width]


def encoder(width: int, layers: int, heads: int, hidden: int, dropout: float) -> nn.Sequential:
    """Layers of the original Transformer's encoder (Vaswani et al. 2017), normalised after each addition."""
    shape = LayerShape(
        channels=width,
        heads=heads,
        hidden=hidden,
        dropout=dropout,
        gelu=False,
        groups=0,
        norm_first=False,
        norm_out=0,
        layer_scale=False,
        sparsity=None,
    )
    return nn.Sequential(*(SelfLayer(shape) for _ in range(layers)))


def rmse(frames: Tensor) -> Tensor:
    """Root of the mean square of each frame (equation 2.5): [..., n] -> [...]."""
    return frames.square().mean(-1).sqrt()


def zero_crossing_rate(frames: Tensor) -> Tensor:
    """The share of neighbouring samples whose product isn't positive (section 2.2.2): [..., n] -> [...]."""
    crossings = frames[..., 1:] * frames[..., :-1] <= 0
    return crossings.sum(-1) / frames.shape[-1]


class MaskTransformer(SpectralNetwork):
    """One stem per network; the audio channels are separated each by itself."""

    @dataclass(frozen=True, kw_only=True)
    class Arguments:
        """The thesis's values, at its best depth.

        Attributes:
            stem: the one that is estimated.
            sample_rate: in Hz.
            audio_channels: of mix and stem.
            segment_samples: length of a chunk; with attention over frequencies the only one there is.
            n_fft: samples per frame, under a Hann window.
            hop: samples from frame to frame.
            window_trim: the window is that of n_fft + 2·window_trim samples without its ends, which are so
                close to zero that the inverse would be ill-conditioned.
            layers: over time.
            heads: of attention over time and of the phase branch, a divisor of n_fft/2 + 1.
            attention: over time alone; over time and over frequencies in parallel, their masks averaged
                with learnt weights; or over frequencies after time, with residual connections.
            frequency_layers: over frequencies.
            frequency_heads: of attention over frequencies, a divisor of the number of frames.
            hidden: width of the feed-forward parts.
            dropout: while training.
            rmse: a feature per frame.
            zcr: zero crossing rate, a feature per frame.
            encoder: folder of a self-supervised encoder whose features are used too.
            encoder_layers: which of them: the last alone, or all, summed with learnt weights.
            encoder_depth: how many it has, its convolutions included.
            encoder_width: of its features.
            projection: a linear layer before the encoders even where there are no additional features.
            phase: estimate the phase too, by an encoder of its own.
            phase_layers: of that encoder.
        """

        stem: str = "vocals"
        sample_rate: int = 16_000
        audio_channels: int = 2
        segment_samples: int = 96_000
        n_fft: int = 2048
        hop: int = 1024
        window_trim: int = 5
        layers: int = 2
        heads: int = 5
        attention: Literal["time", "parallel", "consecutive"] = "time"
        frequency_layers: int = 2
        frequency_heads: int = 2
        hidden: int = 2048
        dropout: float = 0.1
        rmse: bool = False
        zcr: bool = False
        encoder: str | None = None
        encoder_layers: Literal["last", "all"] = "all"
        encoder_depth: int = 13
        encoder_width: int = 768
        projection: bool = False
        phase: bool = False
        phase_layers: int = 2

        def __post_init__(self) -> None:
            if self.attention not in ("time", "parallel", "consecutive"):
                raise StemsplitError(f"attention is time, parallel or consecutive, not {self.attention}")
            if self.encoder_layers not in ("last", "all"):
                raise StemsplitError(f"encoder_layers is last or all, not {self.encoder_layers}")
            if self.bins % self.heads:
                raise StemsplitError(f"{self.heads} heads don't divide {self.bins} frequencies")
            if self.over_frequencies and self.frames % self.frequency_heads:
                raise StemsplitError(f"{self.frequency_heads} heads don't divide {self.frames} frames")

        @property
        def bins(self) -> int:
            """F."""
            return self.n_fft // 2 + 1

        @property
        def frames(self) -> int:
            """Of a chunk."""
            return self.segment_samples // self.hop + 1

        @property
        def over_frequencies(self) -> bool:
            """Whether there is attention over frequencies, whose features are the frames."""
            return self.attention != "time"

        @property
        def additional(self) -> int:
            """Features per frame beside the magnitude."""
            return self.rmse + self.zcr + (self.encoder_width if self.encoder else 0)

    def __init__(self, arguments: Arguments) -> None:
        a = arguments
        super().__init__(
            a,
            stems=(a.stem,),
            sample_rate=a.sample_rate,
            channels=a.audio_channels,
            segment_samples=a.segment_samples,
            transform=Transform(a.n_fft, a.hop, trim=a.window_trim, reflect=False),
        )
        self.over_time = encoder(a.bins, a.layers, a.heads, a.hidden, a.dropout)
        if a.over_frequencies:
            self.over_frequencies = encoder(
                a.frames, a.frequency_layers, a.frequency_heads, a.hidden, a.dropout
            )
        if a.attention == "parallel":
            self.fusion = nn.Parameter(torch.ones(2))
        if a.additional or a.projection:
            self.projection = nn.Linear(a.bins + a.additional, a.bins)
        if a.encoder and a.encoder_layers == "all":
            self.layer_sum = LayerSum(a.encoder_depth)
        if a.phase:
            self.over_phase = encoder(a.bins, a.phase_layers, a.heads, a.hidden, a.dropout)
        self._loaded: tuple[nn.Module, ...] = ()  # in a tuple: its weights are no part of ours

    def spectrograms(self, mix: Tensor) -> Tensor:
        """[B, C, T] -> complex [B, 1, C, F, frames], the frames being a whole chunk's where that is fixed.

        Raises:
            StemsplitError: there are more frames than attention over frequencies has features.
        """
        longest = self.longest_segment_samples()
        if longest is not None and mix.shape[-1] > longest:
            raise StemsplitError(f"the network takes {longest} samples, not {mix.shape[-1]}")
        mix = mix if longest is None else F.pad(mix, (0, longest - mix.shape[-1]))
        z = self.transform.analyse(mix).flatten(0, 1).transpose(1, 2)
        magnitude = z.abs()
        stem = magnitude * self._mask(self._features(mix.flatten(0, 1), magnitude))
        phase = z.angle()
        if self.arguments.phase:
            phase = self.over_phase(phase + positions(phase))
        estimate = torch.polar(stem.float(), phase.float()).transpose(1, 2)
        return estimate.reshape(-1, 1, self.channels, *estimate.shape[1:])

    def _mask(self, x: Tensor) -> Tensor:
        """[N, frames, F] -> [N, frames, F], between 0 and 1."""
        timed: Tensor = self.over_time(x + positions(x))
        match self.arguments.attention:
            case "parallel":
                masks = torch.stack([timed.sigmoid(), self._over_frequencies(x).sigmoid()], dim=-1)
                return masks @ self.fusion.softmax(0)
            case "consecutive":
                timed = timed + x
                return (timed + self._over_frequencies(timed)).sigmoid()
            case _:
                return timed.sigmoid()

    def _over_frequencies(self, x: Tensor) -> Tensor:
        """Attention over frequencies, which has no positions: [N, frames, F] -> [N, frames, F]."""
        y: Tensor = self.over_frequencies(x.transpose(1, 2))
        return y.transpose(1, 2)

    def _features(self, audio: Tensor, magnitude: Tensor) -> Tensor:
        """The magnitude and whatever else is known of each frame, brought to the magnitude's width.

        Args:
            audio: [N, T].
            magnitude: [N, frames, F].

        Returns:
            [N, frames, F].
        """
        a = self.arguments
        if not (a.additional or a.projection):
            return magnitude
        padded = F.pad(audio, (a.n_fft // 2, a.n_fft // 2))
        frames = padded.unfold(-1, a.n_fft, a.hop)
        known = [magnitude]
        if a.rmse:
            known.append(rmse(frames)[..., None])
        if a.zcr:
            known.append(zero_crossing_rate(frames)[..., None])
        if a.encoder:
            known.append(self._encoded(padded, frames.shape[1]))
        y: Tensor = self.projection(torch.cat(known, dim=-1))
        return y

    def _encoded(self, audio: Tensor, frames: int) -> Tensor:
        """The self-supervised encoder's features: [N, T] -> [N, frames, encoder_width].

        Raises:
            StemsplitError: the encoder isn't of the shape that the network was made for.
        """
        a = self.arguments
        if not self._loaded:
            self._loaded = (load_encoder(a.encoder),)
        states = hidden_states(self._loaded[0].to(audio.device), audio, frames)
        if states.shape[-1] != a.encoder_width:
            raise StemsplitError(f"the encoder's features are {states.shape[-1]} wide, not {a.encoder_width}")
        encoded: Tensor = self.layer_sum(states) if a.encoder_layers == "all" else states[-1]
        return encoded

    def longest_segment_samples(self) -> int | None:
        """A chunk with attention over frequencies, whose features are the chunk's frames."""
        return self.arguments.segment_samples if self.arguments.over_frequencies else None
