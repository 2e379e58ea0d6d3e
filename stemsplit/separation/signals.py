"""Named signals that are computed block by block and read in step, in memory or from temporary files.

`track` builds the signals of a recipe from its models: the mix, every model's stems and their blends.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from stemsplit.core.overlap import Fifo
from stemsplit.errors import ResourceError
from stemsplit.separation.outputs import Sum, mix_down
from stemsplit.separation.source import Audio

_BLOCK = 1 << 16  # samples that are read from a spool at a time


@dataclass
class SignalGroup:
    """Signals that are computed together, such as the stems of one model.

    Attributes:
        names: the names of the S signals.
        blocks: [S, C, n] each, a row for every name.
        finished: True after the last block.
        queues: the queues of the readers of each signal.
    """

    names: tuple[str, ...]
    blocks: Iterator[Audio]
    finished: bool = False
    queues: dict[str, list[Fifo]] = field(default_factory=dict)

    def queue(self, name: str) -> Fifo:
        """Return a new queue of a signal's samples [C, n]; ask for it before the first block is computed."""
        self.queues.setdefault(name, []).append(queue := Fifo())
        return queue

    def advance(self) -> None:
        """Compute the next block and push it to the readers' queues."""
        block = next(self.blocks, None)
        if block is None:
            self.finished = True
            return
        for name, samples in zip(self.names, torch.from_numpy(block), strict=True):
            for queue in self.queues.get(name, ()):
                queue.push(samples)


class Signals:
    """Named signals of one length. Each is computed once for all its readers, and only if it is read.

    Call `read` for all readers before one of them is advanced. Samples that one reader has consumed and
    another has not are held in memory, so readers should advance in step, as the sums of one `read` do.

    Args:
        make: returns the group of signals that a name belongs to; it may read other signals.
    """

    def __init__(self, make: Callable[[str, "Signals"], SignalGroup]) -> None:
        self._make = make
        self._groups = dict[str, SignalGroup]()

    def read(self, sums: Sequence[Sum]) -> Iterator[Audio]:
        """Return the blocks of K sums of signals, [K, C, n] each."""
        names = dict.fromkeys(name for total in sums for name in total.terms)
        return self._read(sums, {name: (self._group(name), self._group(name).queue(name)) for name in names})

    def _group(self, name: str) -> SignalGroup:
        if name not in self._groups:
            group = self._make(name, self)
            self._groups.update(dict.fromkeys(group.names, group))
        return self._groups[name]

    @staticmethod
    def _read(sums: Sequence[Sum], queues: Mapping[str, tuple[SignalGroup, Fifo]]) -> Iterator[Audio]:
        while True:
            for group, queue in queues.values():
                while not queue.samples and not group.finished:
                    group.advance()
            if not (count := min(queue.samples for _, queue in queues.values())):
                return
            yield mix_down(sums, {name: queue.pop(count).numpy() for name, (_, queue) in queues.items()})


@dataclass(frozen=True)
class Spool:
    """Signals in a temporary file of float32 samples, interleaved as [n, S, C]."""

    path: Path
    names: tuple[str, ...]
    channels: int

    def write(self, blocks: Iterable[Audio]) -> None:
        """Write blocks [S, C, n].

        Raises:
            ResourceError: the disk is full.
        """
        try:
            with open(self.path, "wb") as file:
                for block in blocks:
                    file.write(np.ascontiguousarray(block.transpose(2, 0, 1)).tobytes())  # [n, S, C]
        except OSError as error:
            with suppress(OSError):
                self.path.unlink()
            raise ResourceError(
                f"{self.path.parent}: stems that wait for the next model don't fit ({error.strerror})",
                hint="TMPDIR names another folder for temporary files",
            ) from None

    def blocks(self) -> Iterator[Audio]:
        """Yield the blocks of the file, [S, C, n] each."""
        width = len(self.names) * self.channels
        with open(self.path, "rb") as file:
            while len(frames := np.fromfile(file, np.float32, _BLOCK * width)):
                interleaved = frames.reshape(-1, len(self.names), self.channels)  # [n, S, C]
                yield interleaved.transpose(1, 2, 0)  # [S, C, n]

    def read(self) -> SignalGroup:
        """Return the signals of the file as a group."""
        return SignalGroup(self.names, self.blocks())
