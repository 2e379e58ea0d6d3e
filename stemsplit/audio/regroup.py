"""Cut a stream of blocks of any length into blocks of one length."""

from collections.abc import Iterator

import numpy as np

from stemsplit.audio.decoding import Array


class Regrouper:
    """Cutter of blocks [C, n] into blocks of `size` samples; it holds back samples that don't fill one."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._held: list[Array] = []
        self._count = 0

    def push(self, block: Array) -> Iterator[Array]:
        """Take a block [C, n]; yield the blocks [C, size] that are full now."""
        self._held.append(block)
        self._count += block.shape[1]
        if self._count >= self._size:
            joined = np.concatenate(self._held, axis=1)  # [C, count]
            whole = self._count - self._count % self._size
            # a copy, because a view would keep all of `joined` in memory
            self._held, self._count = [joined[:, whole:].copy()], self._count - whole
            for start in range(0, whole, self._size):
                yield joined[:, start : start + self._size]

    def finish(self) -> Iterator[Array]:
        """Yield the last, shorter block, if any samples are left."""
        if self._count:
            yield np.concatenate(self._held, axis=1)
            self._held, self._count = [], 0
