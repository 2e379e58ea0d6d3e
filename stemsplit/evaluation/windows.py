"""The spectra of long signals' windows, made and worked on by a few threads in bounded memory."""

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

import torch
from torch import Tensor
from torch.nn.functional import pad

from stemsplit.core.compute import threads

T = TypeVar("T")

# Threads; windows in memory at a time, of all threads together; and bins of them that are treated together:
# many windows at a time make large matrix products, few bins stay in the cache.
_THREADS, _HELD, BINS = 4, 24, 128


class Workers:
    """Some threads in each of which torch uses one, for work of many small operations.

    Operations that share their work among threads wait for the last of them every time, which is for long
    where other processes want the cores.
    """

    def __init__(self, count: int) -> None:
        self.count = count
        self._pool = ThreadPoolExecutor(count, initializer=torch.set_num_threads, initargs=(1,))

    def map(self, work: Callable[[T], Tensor], items: Iterable[T]) -> Iterator[Tensor]:
        """`work` of every item, in order."""
        return self._pool.map(work, items)

    def close(self) -> None:
        """Wait for the threads."""
        self._pool.shutdown()


@contextmanager
def workers() -> Iterator[Workers]:
    """As many workers as torch would use threads, within reason; torch keeps to one thread meanwhile."""
    count = min(torch.get_num_threads(), _THREADS)
    with threads(1):
        found = Workers(count)
        try:
            yield found
        finally:
            found.close()


def padded(signals: Tensor, samples: int) -> Tensor:
    """[…, n] with zeros behind it, […, samples]."""
    return pad(signals, (0, samples - signals.shape[-1]))


def transform_size(least: int) -> int:
    """The smallest even 2^a·3^b·5^c that is at least `least`."""
    odd = [3**b * 5**c for b in range(8) for c in range(6)]
    sizes: list[int] = [o << max(1, (-(-least // o) - 1).bit_length()) for o in odd]
    return min(sizes)


def by_bins(group: Sequence[Tensor]) -> Iterator[tuple[slice, Tensor]]:
    """Slices of the bins of n spectra [P, bins], and what is in them, [some, P, n]."""
    for start in range(0, group[0].shape[-1], BINS):
        bins = slice(start, start + BINS)
        yield bins, torch.stack([spectra[:, bins].T for spectra in group], -1)


class Windows:
    """The consecutive windows of P signals of T samples, the last perhaps shorter, and their spectra.

    Args:
        signals: some [P', T], P together.
        window: length of a window.
        size: of the transform, at least as long.
        team: who does the work.
    """

    def __init__(self, signals: Sequence[Tensor], window: int, size: int, team: Workers) -> None:
        self.size, self.signals = size, sum(len(x) for x in signals)
        self._pieces = list(zip(*(x.split(window, -1) for x in signals), strict=True))
        self._team, self._kept = team, dict[int, list[Tensor]]()
        count = len(self._pieces)
        share = -(-min(count, _HELD) // team.count)
        self._groups = [range(i, min(i + share, count)) for i in range(0, count, share)]

    def __len__(self) -> int:
        return len(self._pieces)

    def map(self, work: Callable[[Sequence[Tensor]], Tensor]) -> Iterator[Tensor]:
        """Call `work` with lists of consecutive spectra, [P, bins] complex128 each; what it makes, in order.

        Signals of few windows are transformed once only.
        """
        return self._team.map(lambda group: work(self._spectra(group)), self._groups)

    def _spectra(self, group: range) -> list[Tensor]:
        if group.start in self._kept:
            return self._kept[group.start]
        samples = torch.zeros(self.signals, self.size, dtype=torch.float64)
        found = [torch.fft.rfft(self._filled(samples, self._pieces[i])) for i in group]
        if len(self) <= _HELD:
            self._kept[group.start] = found
        return found

    def _filled(self, samples: Tensor, pieces: Sequence[Tensor]) -> Tensor:
        """`samples`, [P, size], with the pieces of a window and zeros behind them."""
        first, length = 0, pieces[0].shape[1]
        for piece in pieces:
            samples[first : first + len(piece), :length] = piece
            first += len(piece)
        samples[:, length:] = 0
        return samples

    def seams(self, reach: int) -> tuple[Tensor, Tensor]:
        """The samples before and behind each place where windows meet, [P, n, reach] float64 each."""
        pairs = list(itertools.pairwise(self._pieces))
        before = [torch.cat([x[:, -reach:] for x in piece]) for piece, _ in pairs]
        behind = [torch.cat([padded(x[:, :reach], reach) for x in piece]) for _, piece in pairs]
        return torch.stack(before, 1).double(), torch.stack(behind, 1).double()
