"""Blend several estimates of a signal into one, block by block.

Samples or STFT bins are averaged, or one of the estimates is chosen for each. The names and the STFT (Hann
window of 2048 samples, hop 1024, centred frames, zeros beyond the ends) are those of audio-separator and UVR.
Everything is computed in float64: in single precision, rounding would choose between two estimates that are
nearly equally loud.

Legend: `M` estimates, `C` channels, `K` frames.
"""

from collections.abc import Callable, Sequence
from typing import Protocol

import torch
from torch import Tensor

from stemsplit.blend_names import known_blend

WINDOW, HOP = 2048, 1024

# From estimates [M, ...] and their weights [M] to the blend [...].
Choice = Callable[[Tensor, Tensor], Tensor]


class Blend(Protocol):
    """A blend of several estimates, fed block by block."""

    def push(self, parts: Sequence[Tensor]) -> Tensor:
        """Take the next samples of every estimate, [C, n] each; return what is ready, [C, m]."""
        ...

    def finish(self) -> Tensor:
        """Return what is left, [C, m]."""
        ...


class WaveBlend:
    """Blend sample by sample.

    Args:
        choice: blends the values of one sample.
        weights: of the estimates.
    """

    def __init__(self, choice: Choice, weights: Sequence[float]) -> None:
        self._choice = choice
        self._weights = torch.tensor(weights, dtype=torch.float64)
        self._channels = 0

    def push(self, parts: Sequence[Tensor]) -> Tensor:
        """Take the next samples of every estimate, [C, n] each; return as many."""
        stacked = torch.stack([part.double() for part in parts])  # [M, C, n]
        self._channels = stacked.shape[1]
        return self._choice(stacked, self._weights).float()

    def finish(self) -> Tensor:
        """Return nothing: every sample was ready at once."""
        return torch.zeros(self._channels, 0)


class SpectrumBlend:
    """Blend bin by bin of the estimates' STFTs.

    Frame k is centred on sample 1024·k, so that every sample lies in two frames. Their windowed inverse
    transforms are added up and divided by the sum of the squared windows. The last frame begins where the
    signal ends, or before. audio-separator leaves it out and divides samples that lie in one frame only by a
    window that goes to zero, which makes a click of up to a hundred thousand times the signal.

    Args:
        choice: blends the complex values of one bin.
        weights: of the estimates.
    """

    def __init__(self, choice: Choice, weights: Sequence[float]) -> None:
        self._choice = choice
        self._weights = torch.tensor(weights, dtype=torch.float64)
        self._window = torch.hann_window(WINDOW, dtype=torch.float64)
        self._waiting: Tensor | None = None  # [M, C, n], from the start of the next frame on
        self._tail: Tensor | None = None  # [C, HOP], the second half of the last frame
        self._received = self._given = self._done = 0  # samples, samples, frames

    def push(self, parts: Sequence[Tensor]) -> Tensor:
        """Take the next samples of every estimate, [C, n] each; return those that no later frame changes."""
        stacked = torch.stack([part.double() for part in parts])  # [M, C, n]
        self._received += stacked.shape[-1]
        if self._waiting is None:
            self._waiting = stacked.new_zeros(*stacked.shape[:2], HOP)  # before the first sample
        self._waiting = torch.cat([self._waiting, stacked], dim=-1)  # [M, C, waiting + n]
        return self._transform((self._waiting.shape[-1] - WINDOW) // HOP + 1)

    def finish(self) -> Tensor:
        """Return what is left, [C, m]: as many samples as were taken, all in all."""
        if self._waiting is None:
            return torch.zeros(0, 0)
        left = self._received - self._given
        self._waiting = torch.nn.functional.pad(self._waiting, (0, WINDOW))
        return self._transform(self._received // HOP + 2 - self._done)[:, :left]

    def _transform(self, count: int) -> Tensor:
        """Blend the next `count` frames; return the samples up to the last one's centre, [C, n]."""
        waiting = self._waiting
        if waiting is None or count < 1:
            return torch.zeros(0 if waiting is None else waiting.shape[1], 0)
        frames = waiting[..., : (count - 1) * HOP + WINDOW].unfold(-1, WINDOW, HOP)  # [M, C, K, WINDOW]
        bins = self._choice(torch.fft.rfft(frames * self._window), self._weights)  # [C, K, WINDOW/2 + 1]
        back = torch.fft.irfft(bins, WINDOW) * self._window  # [C, K, WINDOW]
        first, second = back[..., :HOP], back[..., HOP:]  # [C, K, HOP] each
        before = back.new_zeros(len(back), HOP) if self._tail is None else self._tail
        sums = first + torch.cat([before[:, None], second[:, :-1]], dim=1)  # [C, K, HOP]
        squares = self._window[:HOP].square() + self._window[HOP:].square()
        samples = (sums / squares).flatten(1)  # [C, K·HOP]
        if self._tail is None:
            samples = samples[:, HOP:]  # without the half frame before the first sample
        self._tail = second[:, -1]
        self._waiting = waiting[..., count * HOP :].clone()
        self._done += count
        self._given += samples.shape[-1]
        ready: Tensor = samples.float()
        return ready


def _mean(values: Tensor, weights: Tensor) -> Tensor:
    factors = weights.view(-1, *[1] * (values.dim() - 1))  # [M, 1, ...]
    total: Tensor = (values * factors).sum(0) / weights.sum()  # [...]
    return total


def _median(values: Tensor, weights: Tensor) -> Tensor:
    """Return the median, of real and imaginary parts separately."""
    if values.is_complex():
        return torch.complex(_median(values.real, weights), _median(values.imag, weights))
    ordered, count = values.sort(dim=0).values, len(values)
    return (ordered[(count - 1) // 2] + ordered[count // 2]) / 2  # the mean of the middle two if M is even


def _quietest(values: Tensor, weights: Tensor) -> Tensor:
    """Return the value of least magnitude, of equal ones the first."""
    return _picked(values, values.abs().argmin(dim=0))


def _loudest(values: Tensor, weights: Tensor) -> Tensor:
    """Return the value of greatest magnitude, of equal ones the first."""
    return _picked(values, values.abs().argmax(dim=0))


def _picked(values: Tensor, indices: Tensor) -> Tensor:
    return values.gather(0, indices[None])[0]  # [M, ...] at indices [...] -> [...]


def _last_first(choice: Choice) -> Choice:
    """Choose the last of equal values instead of the first, as UVR does."""
    return lambda values, weights: choice(values.flip(0), weights)


_CHOICES: dict[str, tuple[type[WaveBlend] | type[SpectrumBlend], Choice]] = {
    "avg_wave": (WaveBlend, _mean),
    "median_wave": (WaveBlend, _median),
    "min_wave": (WaveBlend, _quietest),
    "max_wave": (WaveBlend, _loudest),
    "avg_fft": (SpectrumBlend, _mean),
    "median_fft": (SpectrumBlend, _median),
    "min_fft": (SpectrumBlend, _quietest),
    "max_fft": (SpectrumBlend, _loudest),
    "uvr_min_spec": (SpectrumBlend, _last_first(_quietest)),
    "uvr_max_spec": (SpectrumBlend, _last_first(_loudest)),
}


def make_blend(name: str, weights: Sequence[float]) -> Blend:
    """Return a blend of as many estimates as there are weights.

    Args:
        name: one of `blend_names.BLENDS`.
        weights: of the estimates; only the blends in `settings.WEIGHTED` use them.

    Raises:
        SettingsError: there is no such blend.
    """
    kind, choice = _CHOICES[known_blend(name)]
    return kind(choice, weights)
