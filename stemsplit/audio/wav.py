"""WAV: header, PCM samples, and two writers, one for a file and one for a pipe, which can't be rewound."""

import struct
from typing import BinaryIO

import numpy as np

from stemsplit.audio.channels import wav_mask
from stemsplit.audio.decoding import Array
from stemsplit.audio.sink import Sink
from stemsplit.audio.tags import Tags
from stemsplit.formats import BIT_DEPTHS, BitDepth

# RIFF sizes have 32 bits; this one stands for "unknown", and in RF64 for "see ds64"
UNKNOWN_SIZE = 0xFFFF_FFFF
_PCM, _FLOAT, _EXTENSIBLE = 1, 3, 0xFFFE  # format tags (WAVE_FORMAT_…)
GUID_TAIL = bytes.fromhex("000000001000800000aa00389b71")  # after a format tag, makes KSDATAFORMAT's GUID
# From this expected length on, room for RF64's sizes is reserved; they are needed from 2^32 bytes on
_RESERVE_FROM_BYTES = 1 << 31
_MAX_SAMPLE_BYTES = 4


def wav_header(
    sample_rate: int,
    channels: int,
    bit_depth: BitDepth,
    frames: int | None,
    *,
    trailing_bytes: int = 0,
    reserve: bool = False,
    layout: str | None = None,
) -> bytes:
    """Return the bytes of a WAV file before the first sample.

    32-bit float has format tag 3, an 18-byte `fmt ` and a `fact` chunk: the only header for float audio that
    sox and FFmpeg both accept without a warning. More than two channels have a mask of their loudspeakers
    (WAVE_FORMAT_EXTENSIBLE). Above 4 GiB the header is RF64 (EBU Tech 3306).

    Args:
        sample_rate: in Hz.
        channels: number of channels.
        bit_depth: "16", "24" or "32f".
        frames: samples per channel; None writes sizes that mean "until the end of the stream".
        trailing_bytes: length of the chunks that follow the audio.
        reserve: reserve room for RF64's sizes, so that the header has the same length for any `frames`.
        layout: FFmpeg's name of the loudspeakers, None for the usual layout.
    """
    frame_bytes = channels * BIT_DEPTHS[bit_depth] // 8
    data_bytes = None if frames is None else frames * frame_bytes
    body = _format_chunk(sample_rate, channels, bit_depth, layout)
    if bit_depth == "32f":
        count = UNKNOWN_SIZE if frames is None else min(frames, UNKNOWN_SIZE)
        body += struct.pack("<4sII", b"fact", 4, count)
    if data_bytes is None or frames is None:
        room = _junk() if reserve else b""
        return struct.pack("<4sI4s", b"RIFF", UNKNOWN_SIZE, b"WAVE") + room + body + _data_chunk(UNKNOWN_SIZE)
    padded = data_bytes + data_bytes % 2  # RIFF aligns chunks to 16 bits
    size = 4 + (len(_junk()) if reserve else 0) + len(body) + 8 + padded + trailing_bytes
    if size < UNKNOWN_SIZE:
        room = _junk() if reserve else b""
        return struct.pack("<4sI4s", b"RIFF", size, b"WAVE") + room + body + _data_chunk(data_bytes)
    size += 0 if reserve else len(_junk())  # ds64, which takes the place of the reserved room
    wide = struct.pack("<4sIQQQI", b"ds64", 28, size, data_bytes, frames, 0)
    return struct.pack("<4sI4s", b"RF64", UNKNOWN_SIZE, b"WAVE") + wide + body + _data_chunk(UNKNOWN_SIZE)


def _format_chunk(sample_rate: int, channels: int, bit_depth: BitDepth, layout: str | None) -> bytes:
    bits = BIT_DEPTHS[bit_depth]
    frame_bytes = channels * bits // 8
    tag = _FLOAT if bit_depth == "32f" else _PCM
    wide = channels > 2
    shown = _EXTENSIBLE if wide else tag
    fields = struct.pack(
        "<HHIIHH", shown, channels, sample_rate, sample_rate * frame_bytes, frame_bytes, bits
    )
    if wide:
        fields += struct.pack("<HHIH", 22, bits, wav_mask(channels, layout), tag) + GUID_TAIL
    elif tag == _FLOAT:
        fields += struct.pack("<H", 0)
    return struct.pack("<4sI", b"fmt ", len(fields)) + fields


def _junk() -> bytes:
    """Return a chunk that readers skip, as long as `ds64`."""
    return struct.pack("<4sI28x", b"JUNK", 28)


def _data_chunk(size: int) -> bytes:
    return struct.pack("<4sI", b"data", size)


def pcm_bytes(block: Array, bit_depth: BitDepth) -> bytes:
    """Return a block [C, n] as the bytes of its interleaved little-endian samples."""
    interleaved = np.ascontiguousarray(block.T)  # [C, n] -> [n, C]
    if bit_depth == "32f":
        return interleaved.astype("<f4", copy=False).tobytes()
    if bit_depth == "16":
        return quantise(interleaved, 16).astype("<i2").tobytes()
    octets = quantise(interleaved, 24).astype("<i4").reshape(-1, 1).view(np.uint8)  # [n·C, 4 bytes]
    return octets[:, :3].tobytes()  # the fourth, highest byte only repeats the sign


def quantise(samples: Array, bits: int) -> Array:
    """Return samples rounded to `bits`-bit integers (but as float32): x · 2^(bits-1), clamped to the range.

    There is no dither, so that PCM is written back bit for bit as it was read.
    """
    full = 2.0 ** (bits - 1)
    rounded: Array = np.clip(np.rint(samples * np.float32(full)), -full, full - 1)
    return rounded


class WavEncoder:
    """Encoder of samples [C, n] into one WAV file.

    The header is corrected at the end, and becomes RF64 if a size needs more than 32 bits.

    Args:
        sink: the file.
        sample_rate: in Hz.
        channels: C.
        bit_depth: as in `OutputSettings`.
        frames: expected number of samples per channel, None if unknown.
        tags: written behind the audio.
        layout: FFmpeg's name of the loudspeakers, None for the usual layout.
    """

    def __init__(
        self,
        sink: Sink,
        sample_rate: int,
        channels: int,
        bit_depth: BitDepth,
        frames: int | None,
        tags: Tags,
        layout: str | None = None,
    ) -> None:
        self._layout = layout
        self._sink, self._rate, self._channels, self._depth = sink, sample_rate, channels, bit_depth
        self._reserve = frames is None or frames * channels * _MAX_SAMPLE_BYTES >= _RESERVE_FROM_BYTES
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
        """Pad the audio chunk, append the tags, and rewrite the header with the true sizes."""
        self._sink.write(bytes(self._bytes % 2) + self._trailer)
        self._sink.seek(0)
        self._sink.write(self._header())

    def abandon(self) -> None:
        """Do nothing: the encoder holds no resources."""

    def _header(self) -> bytes:
        return wav_header(
            self._rate,
            self._channels,
            self._depth,
            self._frames,
            trailing_bytes=len(self._trailer),
            reserve=self._reserve,
            layout=self._layout,
        )


class WavStream:
    """Writer of 32-bit float WAV into a pipe or any other binary stream.

    Args:
        file: the stream; it is neither closed nor rewound.
        sample_rate: in Hz.
        channels: C.
        frames: number of samples per channel if known, which makes the header's sizes exact.
        layout: FFmpeg's name of the loudspeakers, None for the usual layout.
    """

    def __init__(
        self,
        file: BinaryIO,
        sample_rate: int,
        channels: int,
        frames: int | None = None,
        layout: str | None = None,
    ) -> None:
        self._file = file
        self._left = frames
        file.write(wav_header(sample_rate, channels, "32f", frames, layout=layout))

    def write(self, block: Array) -> None:
        """Append a block [C, n].

        Raises:
            ValueError: there are more samples than `frames`.
            BrokenPipeError: the reader has closed the pipe.
        """
        if self._left is not None:
            self._left -= block.shape[1]
            if self._left < 0:
                raise ValueError("more samples than the header announces")
        self._file.write(pcm_bytes(block, "32f"))

    def close(self) -> None:
        """Flush, and check the number of samples.

        Raises:
            ValueError: there were fewer samples than `frames`.
        """
        self._file.flush()
        if self._left:
            raise ValueError(f"{self._left} samples fewer than the header announces")
