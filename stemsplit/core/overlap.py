"""Cutting a stream into overlapping chunks (`Split`) and fading them together again (`Merge`).

The pair knows nothing about models. Chunk k covers samples [k·stride, min(k·stride + segment, length)) and
carries `context` more samples on each side: real audio, zeros only beyond the ends of the track. `Merge` adds
the chunks up under triangular weights and divides by the weights' sum, which is a linear crossfade.

Both hold a bounded window, whatever the length of the stream.
"""

from collections import deque
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor


class Chunk(NamedTuple):
    """`samples` of a stream from sample `start` on, with context around them.

    `audio` is [C, context + samples + context].
    """

    start: int
    samples: int
    audio: Tensor


def stride_samples(segment: int, overlap: float) -> int:
    """The distance between the starts of two chunks of `segment` samples sharing the fraction `overlap`."""
    return max(1, int((1 - overlap) * segment))


def crossfade_weights(segment: int, device: torch.device | None = None) -> Tensor:
    """Triangular weights 1 … L//2, L − L//2 … 1 over their maximum.

    Args:
        segment: L, the length of a full chunk. A shorter one uses the first of the weights.
        device: where to put them.

    Returns:
        [L], in (0, 1].
    """
    half = segment // 2
    rise = torch.arange(1, half + 1, dtype=torch.float32, device=device)
    fall = torch.arange(segment - half, 0, -1, dtype=torch.float32, device=device)
    weights = torch.cat([rise, fall])
    return weights / weights.max()


class Split:
    """Cuts a stream into chunks as soon as all of a chunk's context has arrived.

    Args:
        segment: samples of a full chunk.
        stride: samples from one chunk's start to the next one's.
        context: samples of real audio wanted on each side of a chunk.
        channels: of the stream.
        lead: zeros that count as the beginning of the track (a delay, for time-shifted passes).
    """

    def __init__(self, segment: int, stride: int, context: int, channels: int, lead: int = 0) -> None:
        self.segment, self.stride, self.context = segment, stride, context
        self.window = torch.zeros(channels, context + lead)  # starts `context` samples before the track
        self.window_start = -context
        self.next_start = 0

    @property
    def received(self) -> int:
        """How many samples of the track have arrived, the lead included."""
        return self.window_start + self.window.shape[-1]

    def push(self, block: Tensor) -> Iterator[Chunk]:
        """Take the next samples of the stream, [C, any], and yield the chunks that they complete."""
        self.window = torch.cat([self.window, block], dim=-1)
        while self.next_start + self.segment + self.context <= self.received:
            yield self._cut(self.segment)

    def finish(self) -> Iterator[Chunk]:
        """Yield the chunks that were waiting for audio beyond the end of the track."""
        end = self.received
        self.window = torch.nn.functional.pad(self.window, (0, self.segment + self.context))
        while self.next_start < end:
            yield self._cut(min(self.segment, end - self.next_start))

    def _cut(self, samples: int) -> Chunk:
        start = self.next_start
        self._forget(start - self.context)
        self.next_start += self.stride
        return Chunk(start, samples, self.window[:, : samples + 2 * self.context])

    def _forget(self, until: int) -> None:
        # A fresh tensor, so that the audio before `until` is really given back.
        if until > self.window_start:
            self.window = self.window[:, until - self.window_start :].clone()
            self.window_start = until


class Merge:
    """Adds overlapping chunks up and gives back what no later chunk can change.

    Args:
        segment: samples of a full chunk.
        stride: samples from one chunk's start to the next one's.
        shape: of the chunks without their last axis, such as (S, C).
    """

    def __init__(self, segment: int, stride: int, shape: tuple[int, ...]) -> None:
        self.stride = stride
        self.weights = crossfade_weights(segment)
        self.sum = torch.zeros(*shape, 0)  # the weighted sum from `start` on, and the weights' own
        self.weight_sum = torch.zeros(0)
        self.start = 0

    def push(self, start: int, samples: Tensor) -> Tensor:
        """Add the chunk that begins at `start`; chunks come in order.

        Args:
            start: the chunk's first sample.
            samples: [..., n], n at most the segment.

        Returns:
            [..., m], the samples from the last returned one up to the start of the next chunk.
        """
        length = samples.shape[-1]
        weights = self.weights[:length]
        offset = start - self.start
        missing = max(0, offset + length - self.sum.shape[-1])
        self.sum = torch.nn.functional.pad(self.sum, (0, missing))
        self.weight_sum = torch.nn.functional.pad(self.weight_sum, (0, missing))
        self.sum[..., offset : offset + length] += weights * samples
        self.weight_sum[offset : offset + length] += weights
        return self._take(offset + self.stride)

    def finish(self) -> Tensor:
        """What is left, [..., m]."""
        return self._take(self.sum.shape[-1])

    def _take(self, count: int) -> Tensor:
        count = min(count, self.sum.shape[-1])
        done = self.sum[..., :count] / self.weight_sum[:count]
        self.sum = self.sum[..., count:].clone()
        self.weight_sum = self.weight_sum[count:].clone()
        self.start += count
        return done


class Fifo:
    """A queue of samples along the last axis: blocks of any size in, counts of any size out.

    Args:
        skip: drop this many of the first samples.
    """

    def __init__(self, skip: int = 0) -> None:
        self.skip = skip
        self.blocks: deque[Tensor] = deque()
        self.samples = 0

    def push(self, block: Tensor) -> None:
        """Append [..., n]."""
        dropped = min(self.skip, block.shape[-1])
        self.skip -= dropped
        if dropped < block.shape[-1]:
            self.blocks.append(block[..., dropped:])
            self.samples += block.shape[-1] - dropped

    def pop(self, count: int) -> Tensor:
        """The oldest `count` samples, [..., count]; 0 < count ≤ samples."""
        self.samples -= count
        parts = []
        while count > 0:
            block = self.blocks.popleft()
            parts.append(block[..., :count])
            if count < block.shape[-1]:
                self.blocks.appendleft(block[..., count:])
            count -= parts[-1].shape[-1]
        return torch.cat(parts, dim=-1)
