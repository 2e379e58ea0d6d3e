"""Separate tracks of more than two channels: each pair of loudspeakers and each single one by itself."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from stemsplit.core.overlap import Fifo
from stemsplit.separation.source import Audio, Source


@dataclass(frozen=True)
class ChannelGroup:
    """Some channels of a source, as a source by themselves."""

    source: Source
    indices: tuple[int, ...]
    layout: str | None = None
    notices: Sequence[str] = ()

    @property
    def sample_rate(self) -> int:
        """The sample rate in Hz."""
        return self.source.sample_rate

    @property
    def channels(self) -> int:
        """The number of audio channels."""
        return len(self.indices)

    def blocks(self) -> Iterator[Audio]:
        """Read the source anew and yield the group's channels, [C, any]."""
        for block in self.source.blocks():
            yield block[list(self.indices)]


def separate_each(
    source: Source,
    groups: Sequence[tuple[int, ...]],
    separate: Callable[[ChannelGroup], Iterator[Audio]],
) -> Iterator[Audio]:
    """Separate groups of a source's channels in step, each by itself.

    Args:
        source: the audio.
        groups: indices of the source's channels; each channel is in one group.
        separate: yields the outputs of a group, [O, C, n] each.

    Yields:
        Consecutive blocks of the outputs, [O, C, n], with the source's channels.
    """
    streams = [separate(ChannelGroup(source, group)) for group in groups]
    queues = [Fifo() for _ in groups]
    order = np.argsort([index for group in groups for index in group])  # to the source's order of channels
    while True:
        for stream, queue in zip(streams, queues, strict=True):
            while not queue.samples and (block := next(stream, None)) is not None:
                queue.push(torch.from_numpy(block))
        if not (count := min(queue.samples for queue in queues)):
            return
        joined = np.concatenate([queue.pop(count).numpy() for queue in queues], axis=1)  # [O, C, n]
        yield joined[:, order]
