"""Cut a stream into overlapping chunks (`Split`) and crossfade their outputs (`Merge`).

Neither knows about models. Chunk k covers samples [k·stride, min(k·stride + segment, length)) and
carries `context` more samples on each side: real audio, zeros only beyond the ends of the track. `Merge` adds
the chunks up under weights and divides by the weights' sum; triangular weights make a linear crossfade.

Both hold a bounded window, whatever the stream's length.
"""

from collections import deque
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from stemsplit.chunking import Window

TINY = 1e-12  # the least sum of weights to divide by


class Chunk(NamedTuple):
    """A stretch of a stream, with context on both sides.

    Attributes:
        start: first sample of the stretch, without its context.
        samples: length of the stretch.
        audio: [C, context + samples + context].
    """

    start: int
    samples: int
    audio: Tensor


def stride_samples(segment: int, overlap: float) -> int:
    """Return the hop between chunks of `segment` samples that share the fraction `overlap` with the next."""
    return max(1, int((1 - overlap) * segment))


def crossfade_weights(segment: int, device: torch.device | None = None) -> Tensor:
    """Return the crossfade's triangular weights: 1 … L//2, L − L//2 … 1, divided by their maximum.

    Args:
        segment: L, samples of a full chunk. A shorter chunk takes the first of the weights.
        device: of the result.

    Returns:
        [L], in (0, 1].
    """
    half = segment // 2
    rise = torch.arange(1, half + 1, dtype=torch.float32, device=device)
    fall = torch.arange(segment - half, 0, -1, dtype=torch.float32, device=device)
    weights = torch.cat([rise, fall])  # [L]
    return weights / weights.max()


def hann_weights(samples: int) -> Tensor:
    """Return the symmetric Hann window of a chunk of `samples`, [n] in [0, 1]."""
    return torch.hann_window(samples, periodic=False)


class Split:
    """Cut a stream into chunks, each as soon as its context has arrived.

    Args:
        segment: samples of a full chunk.
        stride: samples from one chunk's start to the next one's.
        context: samples of real audio on each side of a chunk.
        channels: of the stream.
        lead: samples of silence to put before the track, of which the chunks are cut too.
    """

    def __init__(self, segment: int, stride: int, context: int, channels: int, lead: int = 0) -> None:
        self.segment, self.stride, self.context = segment, stride, context
        self.window = torch.zeros(channels, context + lead)  # [C, ·], from `context` samples before the track
        self.window_start = -context
        self.next_start = 0

    @property
    def received(self) -> int:
        """Number of samples of the track that have arrived, the lead included."""
        return self.window_start + self.window.shape[-1]

    def push(self, block: Tensor) -> Iterator[Chunk]:
        """Take the next samples of the stream, [C, any], and yield the chunks that they complete."""
        self.window = torch.cat([self.window, block], dim=-1)  # [C, window + n]
        while self.next_start + self.segment + self.context <= self.received:
            yield self._cut(self.segment)

    def finish(self, tail: int = 0) -> Iterator[Chunk]:
        """Yield the chunks that waited for audio beyond the end of the track, with zeros for it.

        Args:
            tail: samples of silence after the track, of which the chunks are cut too.
        """
        self.window = torch.nn.functional.pad(self.window, (0, tail))
        end = self.received
        self.window = torch.nn.functional.pad(self.window, (0, self.segment + self.context))
        while self.next_start < end:
            yield self._cut(min(self.segment, end - self.next_start))

    def _cut(self, samples: int) -> Chunk:
        start = self.next_start
        self._drop(start - self.context)
        self.next_start += self.stride
        return Chunk(start, samples, self.window[:, : samples + 2 * self.context])

    def _drop(self, until: int) -> None:
        # A copy: a view would keep the memory of the audio before `until`.
        if until > self.window_start:
            self.window = self.window[:, until - self.window_start :].clone()
            self.window_start = until


class Merge:
    """Crossfade overlapping chunks, and return every sample once no later chunk can change it.

    Args:
        segment: samples of a full chunk.
        stride: samples from one chunk's start to the next one's.
        shape: of a chunk without its last axis, such as (S, C).
        window: weights of a chunk's samples.
    """

    def __init__(self, segment: int, stride: int, shape: tuple[int, ...], window: Window = "linear") -> None:
        self.stride, self.window = stride, window
        self.full = crossfade_weights(segment) if window == "linear" else hann_weights(segment)
        self.sum = torch.zeros(*shape, 0)  # [..., n]: Σ w·x of the samples from `start` on
        self.weight_sum = torch.zeros(0)  # [n]: Σ w
        self.start = 0

    def push(self, start: int, samples: Tensor) -> Tensor:
        """Add the chunk that begins at `start`; chunks come in order.

        Args:
            start: the chunk's first sample.
            samples: [..., n], n at most the segment.

        Returns:
            [..., m], the samples from the last returned one to before the start of the next chunk.
        """
        length = samples.shape[-1]
        weights = self._weights(length)
        offset = start - self.start
        missing = max(0, offset + length - self.sum.shape[-1])
        self.sum = torch.nn.functional.pad(self.sum, (0, missing))
        self.weight_sum = torch.nn.functional.pad(self.weight_sum, (0, missing))
        self.sum[..., offset : offset + length] += weights * samples
        self.weight_sum[offset : offset + length] += weights
        return self._take(offset + self.stride)

    def finish(self) -> Tensor:
        """Return the samples that are left, [..., m]."""
        return self._take(self.sum.shape[-1])

    def _weights(self, length: int) -> Tensor:
        """Return the weights of a chunk of `length` samples, [n]."""
        if self.window == "hann" and length < len(self.full):
            return hann_weights(length)
        return self.full[:length]

    def _take(self, count: int) -> Tensor:
        count = min(count, self.sum.shape[-1])
        # x = Σ w·x / Σ w; a Hann window is 0 at the very first sample, where nothing else covers it
        done = self.sum[..., :count] / self.weight_sum[:count].clamp_min(TINY)
        self.sum = self.sum[..., count:].clone()  # a copy, which frees the memory of what is done
        self.weight_sum = self.weight_sum[count:].clone()
        self.start += count
        return done


class Fifo:
    """A queue of samples along the last axis: push blocks of any length, pop any number of samples.

    Args:
        skip: number of samples to drop from the start of the stream.
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
        """Return the oldest `count` samples, [..., count]; 0 < count ≤ samples."""
        self.samples -= count
        parts = []
        while count > 0:
            block = self.blocks.popleft()
            parts.append(block[..., :count])
            if count < block.shape[-1]:
                self.blocks.appendleft(block[..., count:])
            count -= parts[-1].shape[-1]
        return torch.cat(parts, dim=-1)  # [..., count]
