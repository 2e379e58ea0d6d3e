"""Signals that are made block by block and read in step, in bounded memory or by way of the disk."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from stemsplit.core.overlap import Fifo
from stemsplit.errors import ResourceError
from stemsplit.separation.outputs import Terms, mix_down
from stemsplit.separation.source import Audio

_BLOCK = 1 << 16  # samples that are read from a spool at once


@dataclass
class Made:
    """Signals that are made together.

    Attributes:
        names: of the signals.
        blocks: [S, C, n] each, a row for every name.
    """

    names: tuple[str, ...]
    blocks: Iterator[Audio]
    over: bool = False
    queues: dict[str, list[Fifo]] = field(default_factory=dict)

    def queue(self, name: str) -> Fifo:
        """Return a new queue of a signal's samples [C, n]; made before the first block is."""
        self.queues.setdefault(name, []).append(queue := Fifo())
        return queue

    def advance(self) -> None:
        """Make the next block."""
        block = next(self.blocks, None)
        if block is None:
            self.over = True
            return
        for name, samples in zip(self.names, torch.from_numpy(block), strict=True):
            for queue in self.queues.get(name, ()):
                queue.push(samples)


class Signals:
    """Named signals of one length. Each is made once, whoever reads it, and only if somebody reads it.

    Readers are asked for before the first of them is read. What one has read and another hasn't is held in
    memory: they are to be read in step, as `read` does with its sums.

    Args:
        make: makes the signal of a name and those that come with it; may read others of these signals.
    """

    def __init__(self, make: Callable[[str, "Signals"], Made]) -> None:
        self._make = make
        self._made = dict[str, Made]()

    def read(self, sums: Sequence[Terms]) -> Iterator[Audio]:
        """Return the blocks of K sums, [K, C, n] each."""
        names = dict.fromkeys(name for total in sums for name in (*total.plus, *total.minus))
        return self._read(sums, {name: (self._of(name), self._of(name).queue(name)) for name in names})

    def _of(self, name: str) -> Made:
        if name not in self._made:
            made = self._make(name, self)
            self._made.update(dict.fromkeys(made.names, made))
        return self._made[name]

    @staticmethod
    def _read(sums: Sequence[Terms], queues: Mapping[str, tuple[Made, Fifo]]) -> Iterator[Audio]:
        while True:
            for made, queue in queues.values():
                while not queue.samples and not made.over:
                    made.advance()
            if not (count := min(queue.samples for _, queue in queues.values())):
                return
            yield mix_down(sums, {name: queue.pop(count).numpy() for name, (_, queue) in queues.items()})


@dataclass(frozen=True)
class Spool:
    """Signals that were written to a file of float32 samples: interleaved frames of all signals' channels."""

    path: Path
    names: tuple[str, ...]
    channels: int

    def write(self, blocks: Iterable[Audio]) -> None:
        """Write [S, C, n] each.

        Raises:
            ResourceError: the disk is full.
        """
        try:
            with open(self.path, "wb") as file:
                for block in blocks:  # [S, C, n] -> [n, S, C]
                    file.write(np.ascontiguousarray(block.transpose(2, 0, 1)).tobytes())
        except OSError as error:
            with suppress(OSError):
                self.path.unlink()
            raise ResourceError(
                f"{self.path.parent}: stems that wait for the next model don't fit ({error.strerror})",
                hint="TMPDIR names another folder for temporary files",
            ) from None

    def blocks(self) -> Iterator[Audio]:
        """Read what was written, [S, C, n] each."""
        width = len(self.names) * self.channels
        with open(self.path, "rb") as file:
            while len(frames := np.fromfile(file, np.float32, _BLOCK * width)):
                yield frames.reshape(-1, len(self.names), self.channels).transpose(
                    1, 2, 0
                )  # [n, S, C] -> [S, C, n]

    def read(self) -> Made:
        """Return its signals."""
        return Made(self.names, self.blocks())
