"""Changing the sample rate of a stream: soxr at its high quality, in place to the fraction of a sample."""

import numpy as np
import soxr

from stemsplit.audio.decoding import Array

_QUALITY = "HQ"


def resampled_frames(frames: int, from_hz: int, to_hz: int) -> int:
    """Return the number of samples that `frames` become: ceil(frames · to / from).

    Rounding up makes a round trip lossless in length: there and back gives at least the samples that went in.
    """
    return -(-frames * to_hz // from_hz)


class Resampler:
    """One stream [C, n] on its way from one rate to another. Equal rates pass through untouched.

    The filter's delay is compensated: sample i of the input lies at i · to / from of the output. However the
    input is cut into blocks, the joined output is the same, bit for bit.
    """

    def __init__(self, channels: int, from_hz: int, to_hz: int) -> None:
        self._channels, self._from_hz, self._to_hz = channels, from_hz, to_hz
        self._taken = self._given = 0
        self._stream = None
        if from_hz != to_hz:
            self._stream = soxr.ResampleStream(from_hz, to_hz, channels, dtype="float32", quality=_QUALITY)

    def push(self, block: Array) -> Array:
        """Take the next block [C, n]; return what is ready, [C, m], m may be 0."""
        self._taken += block.shape[1]
        ready = block if self._stream is None else self._convert(block)
        self._given += ready.shape[1]
        return ready

    def finish(self, frames: int | None = None) -> Array:
        """End the input and return what is left, [C, m].

        Args:
            frames: cut or fill with zeros to this many samples over the whole stream; None is
                `resampled_frames` of the input.

        Raises:
            ValueError: more samples than `frames` are given already.
        """
        if frames is None:
            frames = resampled_frames(self._taken, self._from_hz, self._to_hz)
        rest = np.zeros((self._channels, 0), np.float32) if self._stream is None else self._flush()
        wanted = frames - self._given
        if wanted < 0:
            raise ValueError(f"{frames} samples wanted, {self._given} already given")
        self._given = frames
        return np.pad(rest[:, :wanted], ((0, 0), (0, max(0, wanted - rest.shape[1]))))

    def _flush(self) -> Array:
        # soxr rounds the length to the nearest; silence behind the end lets it round up
        silence = np.zeros((self._channels, self._from_hz // self._to_hz + 1), np.float32)
        return self._convert(silence, last=True)

    def _convert(self, block: Array, *, last: bool = False) -> Array:
        if self._stream is None:
            return block
        interleaved = np.ascontiguousarray(block.T, dtype=np.float32)
        return np.ascontiguousarray(self._stream.resample_chunk(interleaved, last=last).T)


def resample(array: Array, from_hz: int, to_hz: int, frames: int | None = None) -> Array:
    """A whole array [C, T] at another rate, [C, ceil(T · to / from)], or `frames` long where given."""
    stream = Resampler(array.shape[0], from_hz, to_hz)
    return np.concatenate([stream.push(array), stream.finish(frames)], axis=1)
