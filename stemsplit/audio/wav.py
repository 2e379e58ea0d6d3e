"""WAV: the header, PCM samples, and its two writers, into a file and into a pipe that can't be rewound."""

import struct
from typing import BinaryIO

import numpy as np

from stemsplit.audio.decoding import Array
from stemsplit.audio.sink import Sink
from stemsplit.audio.tags import Tags
from stemsplit.formats import BIT_DEPTHS, BitDepth

# RIFF sizes are 32 bits wide; this one says "unknown", or "see ds64" in RF64
UNKNOWN = 0xFFFF_FFFF
_PCM, _FLOAT = 1, 3
# the audio bytes from which room for RF64's sizes is kept, well below the 2^32 that needs it
_ROOM_FROM_BYTES = 1 << 31
_MOST_SAMPLE_BYTES = 4


def wav_header(
    sample_rate: int,
    channels: int,
    bit_depth: BitDepth,
    frames: int | None,
    *,
    trailing_bytes: int = 0,
    reserve: bool = False,
) -> bytes:
    """Everything before the first sample.

    32-bit float has format tag 3, an 18-byte `fmt ` and a `fact` chunk: the one header of float audio that
    sox and FFmpeg both take without a word. Above 4 GiB the header is RF64 (EBU Tech 3306).

    Args:
        sample_rate: in Hz.
        channels: how many.
        bit_depth: "16", "24" or "32f".
        frames: samples per channel; None writes the sizes that mean "until the end of the stream".
        trailing_bytes: length of the chunks that follow the audio.
        reserve: keep room, so that the header of any other `frames` has the same length.
    """
    frame_bytes = channels * BIT_DEPTHS[bit_depth] // 8
    data_bytes = None if frames is None else frames * frame_bytes
    body = _format_chunk(sample_rate, channels, bit_depth)
    if bit_depth == "32f":
        body += struct.pack("<4sII", b"fact", 4, UNKNOWN if frames is None else min(frames, UNKNOWN))
    if data_bytes is None or frames is None:
        room = _junk() if reserve else b""
        return struct.pack("<4sI4s", b"RIFF", UNKNOWN, b"WAVE") + room + body + _data_chunk(UNKNOWN)
    padded = data_bytes + data_bytes % 2
    size = 4 + (len(_junk()) if reserve else 0) + len(body) + 8 + padded + trailing_bytes
    if size < UNKNOWN:
        room = _junk() if reserve else b""
        return struct.pack("<4sI4s", b"RIFF", size, b"WAVE") + room + body + _data_chunk(data_bytes)
    size += 0 if reserve else len(_junk())
    wide = struct.pack("<4sIQQQI", b"ds64", 28, size, data_bytes, frames, 0)
    return struct.pack("<4sI4s", b"RF64", UNKNOWN, b"WAVE") + wide + body + _data_chunk(UNKNOWN)


def _format_chunk(sample_rate: int, channels: int, bit_depth: BitDepth) -> bytes:
    bits = BIT_DEPTHS[bit_depth]
    frame_bytes = channels * bits // 8
    tag = _FLOAT if bit_depth == "32f" else _PCM
    fields = struct.pack("<HHIIHH", tag, channels, sample_rate, sample_rate * frame_bytes, frame_bytes, bits)
    if tag == _FLOAT:
        fields += struct.pack("<H", 0)
    return struct.pack("<4sI", b"fmt ", len(fields)) + fields


def _junk() -> bytes:
    """A chunk to be skipped, as long as `ds64`."""
    return struct.pack("<4sI28x", b"JUNK", 28)


def _data_chunk(size: int) -> bytes:
    return struct.pack("<4sI", b"data", size)


def pcm_bytes(block: Array, bit_depth: BitDepth) -> bytes:
    """A block [C, n] as interleaved little-endian samples."""
    interleaved = np.ascontiguousarray(block.T)
    if bit_depth == "32f":
        return interleaved.astype("<f4", copy=False).tobytes()
    if bit_depth == "16":
        return quantise(interleaved, 16).astype("<i2").tobytes()
    wide = quantise(interleaved, 24).astype("<i4").reshape(-1, 1).view(np.uint8)
    return wide[:, :3].tobytes()


def quantise(samples: Array, bits: int) -> Array:
    """Float samples as whole numbers of `bits` bits (still float): full scale 2^(bits-1), nearest, clamped.

    No dither: PCM that was read is written back bit for bit.
    """
    full = 2.0 ** (bits - 1)
    rounded: Array = np.clip(np.rint(samples * np.float32(full)), -full, full - 1)
    return rounded


class WavEncoder:
    """Samples [C, n] in, one WAV file out.

    The header is corrected at the end, and becomes RF64 where the sizes outgrow 32 bits.

    Args:
        sink: the file.
        sample_rate: in Hz.
        channels: how many.
        bit_depth: as in `OutputSettings`.
        frames: how many samples per channel are expected, None for any number.
        tags: go behind the audio.
    """

    def __init__(
        self, sink: Sink, sample_rate: int, channels: int, bit_depth: BitDepth, frames: int | None, tags: Tags
    ) -> None:
        self._sink, self._rate, self._channels, self._depth = sink, sample_rate, channels, bit_depth
        self._reserve = frames is None or frames * channels * _MOST_SAMPLE_BYTES >= _ROOM_FROM_BYTES
        self._trailer = tags.id3_chunk("<")
        self._frames = self._bytes = 0
        sink.write(self._header())

    def write(self, block: Array) -> None:
        """Append a block [C, n]."""
        data = pcm_bytes(block, self._depth)
        self._frames += block.shape[1]
        self._bytes += len(data)
        self._sink.write(data)

    def finish(self) -> None:
        """Pad, append the tags, and write the header again with the true sizes."""
        self._sink.write(bytes(self._bytes % 2) + self._trailer)
        self._sink.seek(0)
        self._sink.write(self._header())

    def abandon(self) -> None:
        """There is nothing to let go of."""

    def _header(self) -> bytes:
        return wav_header(
            self._rate,
            self._channels,
            self._depth,
            self._frames,
            trailing_bytes=len(self._trailer),
            reserve=self._reserve,
        )


class WavStream:
    """32-bit float WAV into a pipe or any other binary stream.

    Args:
        file: where the bytes go; it's neither closed nor sought.
        sample_rate: in Hz.
        channels: how many.
        frames: samples per channel where they're known: the sizes are then exact.
    """

    def __init__(self, file: BinaryIO, sample_rate: int, channels: int, frames: int | None = None) -> None:
        self._file = file
        self._left = frames
        file.write(wav_header(sample_rate, channels, "32f", frames))

    def write(self, block: Array) -> None:
        """Append a block [C, n].

        Raises:
            ValueError: more samples than announced.
            BrokenPipeError: the reader is gone.
        """
        if self._left is not None:
            self._left -= block.shape[1]
            if self._left < 0:
                raise ValueError("more samples than the header announces")
        self._file.write(pcm_bytes(block, "32f"))

    def close(self) -> None:
        """Flush.

        Raises:
            ValueError: fewer samples than announced.
        """
        self._file.flush()
        if self._left:
            raise ValueError(f"{self._left} samples fewer than the header announces")
