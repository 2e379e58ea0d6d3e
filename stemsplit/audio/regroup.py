"""Blocks of any length in, blocks of one length out."""

from collections.abc import Iterator

import numpy as np

from stemsplit.audio.decoding import Array


class Regrouper:
    """Holds back what doesn't fill a block of `size` samples yet."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._held: list[Array] = []
        self._count = 0

    def push(self, block: Array) -> Iterator[Array]:
        """Take a block [C, n]; yield the full ones, [C, size]."""
        self._held.append(block)
        self._count += block.shape[1]
        if self._count >= self._size:
            joined = np.concatenate(self._held, axis=1)
            whole = self._count - self._count % self._size
            self._held, self._count = [joined[:, whole:].copy()], self._count - whole
            for start in range(0, whole, self._size):
                yield joined[:, start : start + self._size]

    def finish(self) -> Iterator[Array]:
        """Yield what is left, [C, less than size], unless nothing is."""
        if self._count:
            yield np.concatenate(self._held, axis=1)
            self._held, self._count = [], 0
