"""Spectra of the windows of long signals, computed by a few threads in bounded memory, for `bsseval`."""

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

_MAX_THREADS = 4
# Windows in memory at a time, of all threads together, and bins that are processed together: many windows
# make large matrix products, few bins stay in the processor's cache.
_MAX_WINDOWS, BINS = 24, 128


class ThreadPool:
    """Threads that run one torch operation each, for work of many small operations.

    When torch shares an operation among its own threads, each operation waits for the slowest of them; that
    is long if other processes use the cores.
    """

    def __init__(self, count: int) -> None:
        self.count = count
        self._pool = ThreadPoolExecutor(count, initializer=torch.set_num_threads, initargs=(1,))

    def map(self, work: Callable[[T], Tensor], items: Iterable[T]) -> Iterator[Tensor]:
        """Yield the results of `work` for every item, in order."""
        return self._pool.map(work, items)

    def close(self) -> None:
        """Wait for the threads to end."""
        self._pool.shutdown()


@contextmanager
def thread_pool() -> Iterator[ThreadPool]:
    """Open a pool of as many threads as torch would use, at most 4; torch itself uses one meanwhile."""
    count = min(torch.get_num_threads(), _MAX_THREADS)
    with threads(1):
        pool = ThreadPool(count)
        try:
            yield pool
        finally:
            pool.close()


def padded(signals: Tensor, samples: int) -> Tensor:
    """Return signals [..., n] with zeros behind them, [..., samples]."""
    return pad(signals, (0, samples - signals.shape[-1]))


def transform_size(least: int) -> int:
    """Return the smallest even 2^a·3^b·5^c that is at least `least`; FFTs of such sizes are fast."""
    odd = [3**b * 5**c for b in range(8) for c in range(6)]
    # for each odd factor o the least a ≥ 1 with o·2^a ≥ least
    sizes: list[int] = [o << max(1, (-(-least // o) - 1).bit_length()) for o in odd]
    return min(sizes)


def by_bins(group: Sequence[Tensor]) -> Iterator[tuple[slice, Tensor]]:
    """Yield slices of the bins of n spectra [P, bins], and the values in them, [some bins, P, n]."""
    for start in range(0, group[0].shape[-1], BINS):
        bins = slice(start, start + BINS)
        yield bins, torch.stack([spectra[:, bins].T for spectra in group], -1)  # [some bins, P, n]


class Windows:
    """The consecutive windows of P signals of T samples, the last perhaps shorter, and their spectra.

    Args:
        signals: tensors [P', T], which have P rows together.
        window: length of a window in samples.
        size: length of the transform in samples, at least `window`.
        pool: the threads that compute.
    """

    def __init__(self, signals: Sequence[Tensor], window: int, size: int, pool: ThreadPool) -> None:
        self.size, self.signals = size, sum(len(x) for x in signals)
        self._pieces = list(zip(*(x.split(window, -1) for x in signals), strict=True))
        self._pool, self._kept = pool, dict[int, list[Tensor]]()
        count = len(self._pieces)
        share = -(-min(count, _MAX_WINDOWS) // pool.count)
        self._groups = [range(i, min(i + share, count)) for i in range(0, count, share)]

    def __len__(self) -> int:
        return len(self._pieces)

    def map(self, work: Callable[[Sequence[Tensor]], Tensor]) -> Iterator[Tensor]:
        """Yield the results of `work` for lists of consecutive spectra, [P, bins] complex128 each, in order.

        The spectra of signals of few windows are kept, so that a second call doesn't transform them again.
        """
        return self._pool.map(lambda group: work(self._spectra(group)), self._groups)

    def _spectra(self, group: range) -> list[Tensor]:
        if group.start in self._kept:
            return self._kept[group.start]
        samples = torch.zeros(self.signals, self.size, dtype=torch.float64)
        spectra = [torch.fft.rfft(self._filled(samples, self._pieces[i])) for i in group]  # [P, bins] each
        if len(self) <= _MAX_WINDOWS:
            self._kept[group.start] = spectra
        return spectra

    def _filled(self, samples: Tensor, pieces: Sequence[Tensor]) -> Tensor:
        """Write the pieces of a window, and zeros behind them, to `samples` [P, size], and return it."""
        first, length = 0, pieces[0].shape[1]
        for piece in pieces:
            samples[first : first + len(piece), :length] = piece
            first += len(piece)
        samples[:, length:] = 0
        return samples

    def seams(self, reach: int) -> tuple[Tensor, Tensor]:
        """Return the samples before and behind each of the n seams of windows, [P, n, reach] float64 each."""
        pairs = list(itertools.pairwise(self._pieces))
        before = [torch.cat([x[:, -reach:] for x in piece]) for piece, _ in pairs]
        behind = [torch.cat([padded(x[:, :reach], reach) for x in piece]) for _, piece in pairs]
        return torch.stack(before, 1).double(), torch.stack(behind, 1).double()  # [P, n, reach]
