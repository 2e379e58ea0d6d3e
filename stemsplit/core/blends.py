"""Ways to make one signal of several estimates of it, block by block.

Samples or STFT bins are averaged, or one of the estimates is chosen for each. The names and the STFT (Hann
window of 2048 samples, hop 1024, centred frames, zeros beyond the ends) are those of audio-separator and UVR.
Everything is computed in float64: where two estimates are nearly equally loud, rounding would decide which of
them is chosen.
"""

from collections.abc import Callable, Sequence
from typing import Protocol

import torch
from torch import Tensor

from stemsplit.errors import UnknownNameError
from stemsplit.settings import BLENDS

WINDOW, HOP = 2048, 1024

# From [M, ...] of M estimates and their weights [M] to [...].
Choice = Callable[[Tensor, Tensor], Tensor]


class Blend(Protocol):
    """Several estimates of one signal on their way to one."""

    def push(self, parts: Sequence[Tensor]) -> Tensor:
        """Take the next samples of every estimate, [C, n] each; return what is ready, [C, m]."""
        ...

    def finish(self) -> Tensor:
        """Return what is left, [C, m]."""
        ...


class WaveBlend:
    """Blends sample by sample.

    Args:
        choice: makes one value of several.
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
    """Blends the bins of the estimates' STFTs.

    Frame k is centred on sample 1024·k, so that every sample lies in two frames. Their windowed inverse
    transforms are added up and divided by the sum of the squared windows. The last frame begins where the
    signal ends, or before: audio-separator does without it, and divides what lies in one frame alone by a
    window that goes to zero, which makes a click of up to a hundred thousand times the signal.

    Args:
        choice: makes one complex value of several.
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
        self._waiting = torch.cat([self._waiting, stacked], dim=-1)
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
        sums = first + torch.cat([before[:, None], second[:, :-1]], dim=1)
        squares = self._window[:HOP].square() + self._window[HOP:].square()
        samples = (sums / squares).flatten(1)  # [C, K·HOP]
        if self._tail is None:
            samples = samples[:, HOP:]  # what lies before the first sample
        self._tail = second[:, -1]
        self._waiting = waiting[..., count * HOP :].clone()
        self._done += count
        self._given += samples.shape[-1]
        ready: Tensor = samples.float()
        return ready


def _mean(values: Tensor, weights: Tensor) -> Tensor:
    shape = (-1, *[1] * (values.dim() - 1))
    total: Tensor = (values * weights.view(shape)).sum(0) / weights.sum()
    return total


def _median(values: Tensor, weights: Tensor) -> Tensor:
    """Return the middle value or the mean of the middle two, of real and imaginary parts apart."""
    if values.is_complex():
        return torch.complex(_median(values.real, weights), _median(values.imag, weights))
    ordered, count = values.sort(dim=0).values, len(values)
    return (ordered[(count - 1) // 2] + ordered[count // 2]) / 2


def _quietest(values: Tensor, weights: Tensor) -> Tensor:
    """Return the value of the least magnitude, the first one of equals."""
    return _picked(values, values.abs().argmin(dim=0))


def _loudest(values: Tensor, weights: Tensor) -> Tensor:
    """Return the value of the greatest magnitude, the first one of equals."""
    return _picked(values, values.abs().argmax(dim=0))


def _picked(values: Tensor, indices: Tensor) -> Tensor:
    return values.gather(0, indices[None])[0]


def _last_first(choice: Choice) -> Choice:
    """Let the last one of equals be chosen, as UVR does."""
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
    """Return a new blend of as many estimates as there are weights.

    Args:
        name: one of `settings.BLENDS`.
        weights: of the estimates; only those of `settings.WEIGHTED` look at them.

    Raises:
        UnknownNameError: there is no such blend.
    """
    if name not in _CHOICES:
        raise UnknownNameError("blend", name, BLENDS)
    kind, choice = _CHOICES[name]
    return kind(choice, weights)
