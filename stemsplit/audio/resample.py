"""Resample a stream with soxr at its high quality, without a delay."""

import numpy as np
import soxr

from stemsplit.audio.decoding import Array

_QUALITY = "HQ"


def resampled_frames(frames: int, from_hz: int, to_hz: int) -> int:
    """Return the number of samples that `frames` become: ceil(frames · to / from).

    Because it rounds up, converting there and back gives at least the original number of samples.
    """
    return -(-frames * to_hz // from_hz)


class Resampler:
    """Resampler of one stream of blocks [C, n]; with equal rates, samples pass through unchanged.

    The filter's delay is compensated: sample i of the input lies at i · to / from of the output. The joined
    output is the same, bit for bit, however the input is cut into blocks.

    Args:
        channels: C.
        from_hz: sample rate of the input, in Hz.
        to_hz: sample rate of the output, in Hz.
    """

    def __init__(self, channels: int, from_hz: int, to_hz: int) -> None:
        self._channels, self._from_hz, self._to_hz = channels, from_hz, to_hz
        self._taken = self._given = 0  # samples per channel of the input and of the output so far
        self._stream = None
        if from_hz != to_hz:
            self._stream = soxr.ResampleStream(from_hz, to_hz, channels, dtype="float32", quality=_QUALITY)

    def push(self, block: Array) -> Array:
        """Take the next block [C, n]; return the samples that are ready, [C, m] with m ≥ 0."""
        self._taken += block.shape[1]
        ready = block if self._stream is None else self._convert(block)
        self._given += ready.shape[1]
        return ready

    def finish(self, frames: int | None = None) -> Array:
        """Return the remaining samples after the end of the input, [C, m].

        Args:
            frames: total length of the output, to which it is cut or filled with zeros; None is
                `resampled_frames` of the input.

        Raises:
            ValueError: more than `frames` samples have been returned already.
        """
        if frames is None:
            frames = resampled_frames(self._taken, self._from_hz, self._to_hz)
        rest = np.zeros((self._channels, 0), np.float32) if self._stream is None else self._flush()
        wanted = frames - self._given
        if wanted < 0:
            raise ValueError(f"{frames} samples wanted, {self._given} already given")
        self._given = frames
        return np.pad(rest[:, :wanted], ((0, 0), (0, max(0, wanted - rest.shape[1]))))  # [C, wanted]

    def _flush(self) -> Array:
        # soxr rounds the length to the nearest; with silence appended, it can be rounded up
        silence = np.zeros((self._channels, self._from_hz // self._to_hz + 1), np.float32)
        return self._convert(silence, last=True)

    def _convert(self, block: Array, *, last: bool = False) -> Array:
        if self._stream is None:
            return block
        interleaved = np.ascontiguousarray(block.T, dtype=np.float32)  # [C, n] -> [n, C]
        return np.ascontiguousarray(self._stream.resample_chunk(interleaved, last=last).T)  # [C, m]


def resample(array: Array, from_hz: int, to_hz: int, frames: int | None = None) -> Array:
    """Return an array [C, T] at another sample rate, [C, ceil(T · to / from)] or [C, frames]."""
    stream = Resampler(array.shape[0], from_hz, to_hz)
    return np.concatenate([stream.push(array), stream.finish(frames)], axis=1)
