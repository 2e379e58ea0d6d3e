"""Tracks of more than two channels, whose pairs of loudspeakers and single ones are separated one by one."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from stemsplit.core.overlap import Fifo
from stemsplit.separation.source import Audio, Source

Separate = Callable[[Source, Callable[[float], None]], Iterator[Audio]]


@dataclass(frozen=True)
class Picked:
    """Some channels of a source."""

    source: Source
    indices: tuple[int, ...]
    layout: str | None = None
    notices: Sequence[str] = ()

    @property
    def sample_rate(self) -> int:
        """In Hz."""
        return self.source.sample_rate

    @property
    def channels(self) -> int:
        """Audio channels."""
        return len(self.indices)

    def blocks(self) -> Iterator[Audio]:
        """Decoded anew each time."""
        for block in self.source.blocks():
            yield block[list(self.indices)]


def separate_each(
    source: Source,
    groups: Sequence[tuple[int, ...]],
    separate: Separate,
    progress: Callable[[float], None] | None = None,
) -> Iterator[Audio]:
    """Separate groups of a source's channels in step, each by itself.

    Args:
        source: the audio.
        groups: indices of its channels, each in one group.
        separate: yields the outputs [O, C, n] of a source, and tells the seconds that it has separated.
        progress: called with the seconds of audio separated, the mean over all groups.

    Yields:
        [O, C, n] with the source's channels, consecutive.
    """
    done = [0.0] * len(groups)

    def share(index: int) -> Callable[[float], None]:
        def tell(done_s: float) -> None:
            done[index] = done_s
            if progress is not None:
                progress(sum(done) / len(done))

        return tell

    streams = [separate(Picked(source, group), share(index)) for index, group in enumerate(groups)]
    queues = [Fifo() for _ in groups]
    order = np.argsort([index for group in groups for index in group])
    while True:
        for stream, queue in zip(streams, queues, strict=True):
            while not queue.samples and (block := next(stream, None)) is not None:
                queue.push(torch.from_numpy(block))
        if not (count := min(queue.samples for queue in queues)):
            return
        joined = np.concatenate([queue.pop(count).numpy() for queue in queues], axis=1)  # [O, C, n]
        yield joined[:, order]
