"""Classical separators without weights, as baselines: repetition, factorisation and independent components.

| family | paper |
|---|---|
| `repet` | Rafii, Pardo: REpeating Pattern Extraction Technique, 2013 |
| `repet_sim` | Rafii, Pardo: Online REPET-SIM for real-time speech enhancement, 2013 |
| `nmf` | Lee, Seung: Algorithms for non-negative matrix factorization, 2001 (Kullback-Leibler) |
| `ica` | Comon: Independent component analysis, 1994, of two channels |

The stems of each sum to the mix.

Legend: `B` batch, `S` stems, `C` channels, `F` bins, `T` samples, `K` components.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from stemsplit.models.network import Network

TINY = 1e-12  # keeps 0/0 of silence finite


@dataclass(frozen=True)
class BaselineArguments:
    """Settings of every baseline; independent component analysis has no others.

    Attributes:
        sample_rate: in Hz.
        segment_s: length of a chunk, in s.
    """

    sample_rate: int = 44100
    segment_s: float = 30.0


@dataclass(frozen=True)
class RepetArguments(BaselineArguments):
    """Settings of REPET.

    Attributes:
        fft: window of the STFT in samples; the hop is a quarter.
        shortest_s: shortest period of the accompaniment that is looked for, in s.
        longest_s: longest one.
        highpass_hz: voices have nothing below.
    """

    fft: int = 2048
    shortest_s: float = 0.8
    longest_s: float = 8.0
    highpass_hz: float = 100.0


@dataclass(frozen=True)
class RepetSimArguments(BaselineArguments):
    """Settings of REPET-SIM.

    Attributes:
        fft: window of the STFT in samples; the hop is half.
        buffer_s: past in which similar frames are looked for, in s.
        distance_s: least distance between two frames that count as similar, in s. The paper has 1 s; half
            of it gives the median twice as many frames.
        highpass_hz: voices have nothing below.
    """

    fft: int = 2048
    buffer_s: float = 10.0
    distance_s: float = 0.5
    highpass_hz: float = 100.0


@dataclass(frozen=True)
class NMFArguments(BaselineArguments):
    """Settings of the factorisation.

    Attributes:
        fft: window of the STFT in samples; the hop is half.
        components: K, spectra that the mix is made of.
        iterations: multiplicative updates.
    """

    fft: int = 2048
    components: int = 24
    iterations: int = 100


class Masking(Network):
    """Separator by two masks on one STFT, of which the second is what the first leaves.

    Args:
        arguments: of the family.
        stems: names of the two stems.
        hop: samples from frame to frame.
    """

    def __init__(
        self, arguments: RepetArguments | RepetSimArguments | NMFArguments, stems: tuple[str, str], hop: int
    ) -> None:
        a = arguments
        segment = int(a.segment_s * a.sample_rate)
        super().__init__(a, stems=stems, sample_rate=a.sample_rate, channels=2, segment_samples=segment)
        self.hop = hop
        self.register_buffer("window", torch.hann_window(a.fft), persistent=False)

    window: Tensor

    def mask(self, magnitude: Tensor) -> Tensor:
        """Return the first stem's mask of one track: [C, F, frames] -> the same or [1, F, frames]."""
        raise TypeError(f"{type(self).__name__} has no mask")

    def padded_samples(self, samples: int) -> int:
        """Return P(n): the chunk and all of its context."""
        return samples + 2 * self.context_samples

    def estimate(self, mix: Tensor) -> Tensor:
        """[B, 2, T] -> [B, S, 2, T]."""
        fft, samples = len(self.window), mix.shape[-1]
        # Padded with zeros: a reflection needs more samples than a short track has.
        z = torch.stft(
            mix.flatten(0, 1), fft, self.hop, window=self.window, pad_mode="constant", return_complex=True
        )
        z = z.unflatten(0, mix.shape[:2])  # [B, C, F, frames]
        first = torch.stack([self.mask(one.abs()) * one for one in z])  # a track has a period of its own
        audio = torch.istft(first.flatten(0, 1), fft, self.hop, window=self.window, length=samples)
        audio = audio.view_as(mix)
        return torch.stack([audio, mix - audio], dim=1)[:, list(self.kept)]

    def repeated(self, background: Tensor, magnitude: Tensor, highpass_hz: float) -> Tensor:
        """Return the mask of the voice, given magnitudes of what repeats: [C, F, frames] all."""
        mask = 1 - torch.minimum(background, magnitude) / (magnitude + TINY)
        hz = torch.arange(mask.shape[1], device=mask.device) * self.sample_rate / len(self.window)
        return mask * (hz >= highpass_hz)[:, None]


class Repet(Masking):
    """The accompaniment repeats with one period in a chunk; the voice is what doesn't."""

    Arguments = RepetArguments
    arguments: RepetArguments
    AS_GOOD = 0.9  # of the largest autocorrelation

    def __init__(self, arguments: RepetArguments) -> None:
        super().__init__(arguments, ("vocals", "other"), arguments.fft // 4)

    def mask(self, magnitude: Tensor) -> Tensor:
        """Return the mask of the voice: [C, F, frames] -> [C, F, frames]."""
        channels, bins, frames = magnitude.shape
        period = self.period(magnitude.square().mean(0))
        padded = F.pad(magnitude, (0, -frames % period), value=float("nan"))
        turns = padded.view(channels, bins, -1, period)  # [C, F, repetitions, period]
        model = turns.nanmedian(2, keepdim=True).values.expand_as(turns).flatten(2)[..., :frames]
        return self.repeated(model, magnitude, self.arguments.highpass_hz)

    def period(self, power: Tensor) -> int:
        """Return the frames of a repetition, at most a third of all: the maximum of the beat spectrum.

        Args:
            power: [F, frames].
        """
        a, frames = self.arguments, power.shape[-1]
        if frames < 3:
            return 1
        least, most = (int(s * a.sample_rate / self.hop) for s in (a.shortest_s, a.longest_s))
        most = max(1, min(most, frames // 3))
        least = max(1, min(least, most))
        # Autocorrelation of every bin by its transform, without the bias to short lags; the mean over bins
        spectrum = torch.fft.rfft(power - power.mean(1, keepdim=True), 2 * frames).abs().square()
        beats = torch.fft.irfft(spectrum, 2 * frames)[:, :frames].mean(0)  # [lags]
        beats = beats / torch.arange(frames, 0, -1, device=beats.device)
        best = least + int(beats[least : most + 1].argmax())
        # Every multiple of the period is one too; the shortest has the most repetitions.
        parts = (round(best / k) for k in range(best // least, 0, -1))
        return next(lag for lag in parts if lag == best or beats[lag] >= self.AS_GOOD * beats[best])


class RepetSim(Masking):
    """The accompaniment of a frame was heard before, in the most similar frames of the last seconds."""

    Arguments = RepetSimArguments
    arguments: RepetSimArguments
    BLOCK = 64  # frames at once, to bound the memory

    def __init__(self, arguments: RepetSimArguments) -> None:
        a = arguments
        super().__init__(a, ("vocals", "other"), a.fft // 2)
        self.buffer = max(1, int(a.buffer_s * a.sample_rate / self.hop))
        self.distance = max(1, int(a.distance_s * a.sample_rate / self.hop))
        self.context_samples = self.buffer * self.hop

    def mask(self, magnitude: Tensor) -> Tensor:
        """Return the mask of the voice: [C, F, frames] -> [C, F, frames]."""
        rows = F.pad(magnitude.flatten(0, 1).T, (0, 0, self.buffer - 1, 0))  # [buffer - 1 + frames, C·F]
        unit = F.normalize(rows, dim=1)
        models = [
            self._model(rows, unit, start, min(start + self.BLOCK, magnitude.shape[-1]))
            for start in range(0, magnitude.shape[-1], self.BLOCK)
        ]
        background = torch.cat(models).T.view_as(magnitude)
        return self.repeated(background, magnitude, self.arguments.highpass_hz)

    def _model(self, rows: Tensor, unit: Tensor, start: int, stop: int) -> Tensor:
        """Return the medians of the frames similar to each of `start` … `stop`, [frames, C·F]."""
        last = self.buffer - 1
        heard = unit[start : stop + last]  # the buffers of all these frames
        cosines = unit[start + last : stop + last] @ heard.T
        ahead = torch.arange(stop - start, device=rows.device)[:, None]
        lags = ahead + torch.arange(self.buffer, device=rows.device)  # [frames, buffer], within `heard`
        similar = cosines.gather(1, lags)
        # Of frames closer to each other than the distance, the most similar one counts.
        best = F.max_pool1d(similar[:, None], 2 * self.distance + 1, 1, self.distance)[:, 0]
        similar = torch.where((similar == best) & (similar > 0), similar, -1)
        count = min(self.buffer, 1 + self.buffer // self.distance)
        value, place = similar.topk(count, dim=1)
        chosen = rows[start + lags.gather(1, place)]  # [frames, count, C·F]
        chosen = torch.where((value > 0)[..., None], chosen, torch.nan)
        return chosen.nanmedian(1).values.nan_to_num(0)


class NMF(Masking):
    """The spectrogram is a sum of spectra with activations; drums are the components that sound briefly."""

    Arguments = NMFArguments
    arguments: NMFArguments

    def __init__(self, arguments: NMFArguments) -> None:
        super().__init__(arguments, ("drums", "other"), arguments.fft // 2)

    def mask(self, magnitude: Tensor) -> Tensor:
        """Return the drums' mask: [C, F, frames] -> [1, F, frames]."""
        spectra, activations = self.factors(magnitude.mean(0))
        drums = sparseness(activations) > sparseness(spectra.T)  # [K]
        part, whole = spectra[:, drums] @ activations[drums], spectra @ activations
        return (part / (whole + TINY))[None]

    def factors(self, v: Tensor) -> tuple[Tensor, Tensor]:
        """Return W [F, K] and H [K, frames], whose product diverges least from v.

        The divergence is Σ v log(v/WH) - v + WH.
        """
        a = self.arguments
        random = torch.Generator().manual_seed(0)
        w = torch.rand(len(v), a.components, generator=random).to(v) + 0.1
        h = torch.rand(a.components, v.shape[1], generator=random).to(v) + 0.1
        h = h * v.mean()
        for _ in range(a.iterations):
            w = w * ((v / (w @ h + TINY)) @ h.T) / (h.sum(1) + TINY)
            scale = w.sum(0) + TINY
            w, h = w / scale, h * scale[:, None]
            h = h * (w.T @ (v / (w @ h + TINY)))
        return w, h


def sparseness(x: Tensor) -> Tensor:
    """Return Hoyer's measure (√n - Σ|x|/√Σx²)/(√n - 1) of each row, 0 for equal and 1 for single values."""
    root = math.sqrt(max(x.shape[1], 2))
    ratio = x.abs().sum(1) / (x.square().sum(1).sqrt() + TINY)
    return (root - ratio) / (root - 1)


class ICA(Network):
    """Two sources that are mixed into two channels with different weights; the first is the one further left.

    After whitening, the sources are a rotation of the channels: that with the largest Σ kurtosis².
    """

    Arguments = BaselineArguments
    arguments: BaselineArguments
    ANGLES = 4096  # of a quarter turn; the error of half a step is 74 dB below
    LEAST = 1e-8  # share of the power below which a direction is empty

    def __init__(self, arguments: BaselineArguments) -> None:
        a = arguments
        segment = int(a.segment_s * a.sample_rate)
        stems = ("source_1", "source_2")
        super().__init__(a, stems=stems, sample_rate=a.sample_rate, channels=2, segment_samples=segment)

    def estimate(self, mix: Tensor) -> Tensor:
        """[B, 2, T] -> [B, S, 2, T]."""
        with torch.autocast(mix.device.type, enabled=False):
            return torch.stack([self._images(one) for one in mix])[:, list(self.kept)]

    def _images(self, mix: Tensor) -> Tensor:
        """Return the sources as they are in the channels: [2, T] -> [2, 2, T]."""
        power, axes = torch.linalg.eigh((mix @ mix.T / mix.shape[1]).double())
        deviation = power.clamp_min(0).sqrt()
        inverse = torch.where(power > self.LEAST * power.sum(), 1 / deviation, 0)
        whitening = inverse[:, None] * axes.T
        angle = self._angle((whitening.to(mix) @ mix).double())
        cos, sin = angle.cos(), angle.sin()
        rotation = torch.stack([torch.stack([cos, sin]), torch.stack([-sin, cos])])
        mixing = axes * deviation @ rotation.T  # a column per source
        left = mixing[0].square() / (mixing.square().sum(0) + TINY)
        order = left.argsort(descending=True, stable=True)
        sources = (rotation @ whitening)[order].to(mix) @ mix
        images: Tensor = mixing.T[order].to(mix)[:, :, None] * sources[:, None]
        return images

    def _angle(self, white: Tensor) -> Tensor:
        """Return the rotation that makes two white signals most independent, in [0, π/2)."""
        x, y = white
        moments = [(x ** (4 - i) * y**i).mean() for i in range(5)]
        steps = torch.arange(self.ANGLES, dtype=white.dtype, device=white.device)
        angles = steps * torch.pi / 2 / self.ANGLES

        def kurtosis(c: Tensor, s: Tensor) -> Tensor:  # of c·x + s·y, by the binomial theorem
            terms = [math.comb(4, i) * c ** (4 - i) * s**i * m for i, m in enumerate(moments)]
            return torch.stack(terms).sum(0) - 3

        cos, sin = angles.cos(), angles.sin()
        best = int((kurtosis(cos, sin).square() + kurtosis(-sin, cos).square()).argmax())
        return angles[best]
