"""Masking Transformer: attention over the frames of the mix's magnitude spectrogram.

Porcelli, thesis at the Politecnico di Torino, 2024; sections and equations below are the thesis's.
Transformer encoders estimate a mask between 0 and 1 for the magnitude; the phase is the mix's. The arguments
select every variant that the thesis compares.

Legend: `B` batch, `C` channels, `F` bins, `T` samples, `N` = B·C audio channels.
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

PERIOD = 10_000.0  # 2π times this bounds the wavelengths of the position sinusoids, in frames


def positions(x: Tensor) -> Tensor:
    """Return sines and cosines of the frame number, alternating, at rates from 1 down to 1/PERIOD.

    Args:
        x: features to add them to, [..., frames, width]; the width may be odd.

    Returns:
        [frames, width].
    """
    frames, width = x.shape[-2:]
    rates = PERIOD ** -(torch.arange(0, width, 2, device=x.device) / width)  # [⌈width/2⌉]
    phase = torch.outer(torch.arange(frames, device=x.device), rates)  # [frames, ⌈width/2⌉]
    return torch.stack([phase.sin(), phase.cos()], dim=-1).flatten(1)[:, :width]  # [frames, width]


def encoder(width: int, layers: int, heads: int, hidden: int, dropout: float) -> nn.Sequential:
    """Build an encoder of post-norm Transformer layers (Vaswani et al. 2017)."""
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
    """Return the root mean square of each frame (equation 2.5): [..., n] -> [...]."""
    return frames.square().mean(-1).sqrt()


def zero_crossing_rate(frames: Tensor) -> Tensor:
    """Return the fraction of adjacent samples with a product ≤ 0 (section 2.2.2): [..., n] -> [...]."""
    crossings = frames[..., 1:] * frames[..., :-1] <= 0
    return crossings.sum(-1) / frames.shape[-1]


class MaskTransformer(SpectralNetwork):
    """A network for one stem, which separates each audio channel by itself."""

    @dataclass(frozen=True, kw_only=True)
    class Arguments:
        """Arguments; the defaults are the thesis's, at its best depth.

        Attributes:
            stem: that is estimated.
            sample_rate: in Hz.
            audio_channels: of mix and stem.
            segment_samples: length of a chunk, fixed if there is attention over frequencies.
            n_fft: samples per frame, under a Hann window.
            hop: samples from frame to frame.
            window_trim: samples to cut off both ends of a window of n_fft + 2·window_trim samples, for the
                inverse transform would be ill-conditioned by values so close to zero.
            layers: over time.
            heads: of attention over time and of the phase branch, a divisor of n_fft/2 + 1.
            attention: over time only; over time and over frequencies in parallel, both masks averaged with
                learnt weights; or over frequencies after time, with residual connections.
            frequency_layers: over frequencies.
            frequency_heads: of attention over frequencies, a divisor of the number of frames.
            hidden: width of the feed-forward parts.
            dropout: in training.
            rmse: use the root mean square as a feature of every frame.
            zcr: use the zero-crossing rate as a feature of every frame.
            encoder: folder of a self-supervised encoder whose features are used, too.
            encoder_layers: the last layer of that encoder, or all, summed with learnt weights.
            encoder_depth: number of its layers, the convolutions counted as one.
            encoder_width: width of its features.
            projection: use a linear layer before the encoders even without additional features.
            phase: estimate the phase, too, with another encoder.
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
            """Number of bins, F."""
            return self.n_fft // 2 + 1

        @property
        def frames(self) -> int:
            """Number of frames of a chunk."""
            return self.segment_samples // self.hop + 1

        @property
        def over_frequencies(self) -> bool:
            """True if there is attention over frequencies; its features are the frames."""
            return self.attention != "time"

        @property
        def additional(self) -> int:
            """Number of features per frame besides the magnitude."""
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
        # In a tuple, so that the encoder's weights aren't among this network's.
        self._loaded: tuple[nn.Module, ...] = ()

    def spectrograms(self, mix: Tensor) -> Tensor:
        """[B, C, T] -> complex [B, 1, C, F, frames]; if the chunk's length is fixed, T is filled up to it.

        Raises:
            StemsplitError: T exceeds the fixed length.
        """
        longest = self.longest_segment_samples()
        if longest is not None and mix.shape[-1] > longest:
            raise StemsplitError(f"the network takes {longest} samples, not {mix.shape[-1]}")
        mix = mix if longest is None else F.pad(mix, (0, longest - mix.shape[-1]))
        z = self.transform.analyse(mix).flatten(0, 1).transpose(1, 2)  # [N, frames, F]
        magnitude = z.abs()
        stem = magnitude * self._mask(self._features(mix.flatten(0, 1), magnitude))  # [N, frames, F]
        phase = z.angle()
        if self.arguments.phase:
            phase = self.over_phase(phase + positions(phase))
        estimate = torch.polar(stem.float(), phase.float()).transpose(1, 2)  # [N, F, frames]
        return estimate.reshape(-1, 1, self.channels, *estimate.shape[1:])  # [B, 1, C, F, frames]

    def _mask(self, x: Tensor) -> Tensor:
        """Estimate the mask: [N, frames, F] -> [N, frames, F], between 0 and 1."""
        timed: Tensor = self.over_time(x + positions(x))
        match self.arguments.attention:
            case "parallel":
                masks = torch.stack([timed.sigmoid(), self._over_frequencies(x).sigmoid()], dim=-1)
                return masks @ self.fusion.softmax(0)  # [N, frames, F, 2] @ [2] -> [N, frames, F]
            case "consecutive":
                timed = timed + x
                return (timed + self._over_frequencies(timed)).sigmoid()
            case _:
                return timed.sigmoid()

    def _over_frequencies(self, x: Tensor) -> Tensor:
        """Attend over frequencies, without positions: [N, frames, F] -> [N, frames, F]."""
        y: Tensor = self.over_frequencies(x.transpose(1, 2))  # [N, F, frames]
        return y.transpose(1, 2)  # [N, frames, F]

    def _features(self, audio: Tensor, magnitude: Tensor) -> Tensor:
        """Project the magnitude and the additional features of every frame to the magnitude's width.

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
        frames = padded.unfold(-1, a.n_fft, a.hop)  # [N, frames, n_fft]
        features = [magnitude]
        if a.rmse:
            features.append(rmse(frames)[..., None])  # [N, frames, 1]
        if a.zcr:
            features.append(zero_crossing_rate(frames)[..., None])  # [N, frames, 1]
        if a.encoder:
            features.append(self._encoded(padded, frames.shape[1]))  # [N, frames, encoder_width]
        y: Tensor = self.projection(torch.cat(features, dim=-1))  # [N, frames, F]
        return y

    def _encoded(self, audio: Tensor, frames: int) -> Tensor:
        """Return the self-supervised encoder's features: [N, T] -> [N, frames, encoder_width].

        Raises:
            StemsplitError: the encoder has another width or number of layers than the arguments say.
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
        """Return the fixed length of a chunk if there is attention over frequencies; None without."""
        return self.arguments.segment_samples if self.arguments.over_frequencies else None
