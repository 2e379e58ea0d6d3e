"""Decoder that uses libsndfile: uncompressed files, FLAC and Vorbis, with exact counts and fast opening.

Vorbis is always read from its start, because libsndfile seeks to the wrong sample within a file's last page.
FFmpeg can't replace it: it drops up to a short block at the end of a Vorbis stream. Opus and MP3 are left to
FFmpeg: libsndfile takes twice as long for Opus, and its MP3 decoder prints warnings to stderr.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from stemsplit.audio.decoding import Array, AudioInfo, Decoder, damaged
from stemsplit.audio.input_file import FileRange
from stemsplit.audio.truncation.chunks import DataChunk
from stemsplit.audio.wav import GUID_TAIL
from stemsplit.errors import InputError

_CODECS = {"PCM_S8", "PCM_U8", "PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE", "ULAW", "ALAW", "VORBIS"}
_SAMPLE_BYTES = {"PCM_16": 2, "PCM_24": 3, "PCM_32": 4, "FLOAT": 4, "DOUBLE": 8}
_PIECE = 65536
# Beginning of a file that has its format, a chunk of at most 64 bytes
_HEADER_BYTES = 4096
# Subtypes by format tag that libsndfile takes for integers in a W64 with an extensible header
_W64_SUBTYPES = {3: "FLOAT", 6: "ALAW", 7: "ULAW"}
# libsndfile reports the largest integer as the length of a FLAC stream that declares none
_ENDLESS = 1 << 60
# Index of each channel of FFmpeg's layout in Vorbis' channel order (Vorbis I §4.3.9)
_VORBIS_ORDER = {
    3: ("3.0", [0, 2, 1]),
    4: ("quad", [0, 1, 2, 3]),
    5: ("5.0", [0, 2, 1, 3, 4]),
    6: ("5.1", [0, 2, 1, 5, 3, 4]),
    7: ("6.1", [0, 2, 1, 6, 5, 3, 4]),
    8: ("7.1", [0, 2, 1, 7, 5, 6, 3, 4]),
}


def recognise(head: bytes) -> bool:
    """Return whether to try this decoder on a file that begins with these 40 bytes."""
    form = head[8:12]
    return (
        head[:4] in (b"fLaC", b"caff", b".snd")
        or (head[:4] in (b"RIFF", b"RF64") and form == b"WAVE")
        or (head[:4] == b"FORM" and form in (b"AIFF", b"AIFC"))
        or (head[:4] == b"OggS" and head[28:35] == b"\x01vorbis")
        or (head[:4] == b"riff" and head[24:28] == b"wave")  # Sony Wave64, whose ids are GUIDs
    )


class UnsuitableError(Exception):
    """Raised when libsndfile can't decode a file that another decoder may read."""


class SndfileDecoder(Decoder):
    """Decoder of a file opened by libsndfile.

    Args:
        source: the file, or a byte range of one.
        name: the file's name in errors.
        data: the bytes of its samples, None for FLAC and Ogg.

    Raises:
        UnsuitableError: libsndfile doesn't know the file, or another decoder reads it better.
    """

    def __init__(self, source: FileRange, name: Path, data: DataChunk | None = None) -> None:
        self.notices: list[str] = []
        self._source = source
        self._file = _open(source)
        try:
            container = self._file.format
            if data is not None:
                self._read_as_raw(data)
            self._require_suitable(container)
        except BaseException:
            self._file.close()
            raise
        self._position = 0
        codec = self._file.subtype
        layout: str | None = None
        self._order: list[int] | None = None
        if codec == "VORBIS" and self._file.channels in _VORBIS_ORDER:
            layout, self._order = _VORBIS_ORDER[self._file.channels]
        self.info = AudioInfo(
            path=name,
            sample_rate=self._file.samplerate,
            channels=self._file.channels,
            frames=self._file.frames,
            container=container.lower(),
            codec=codec.lower(),
            layout=layout,
        )

    def _read_as_raw(self, data: DataChunk) -> None:
        """Reopen the samples without the header if libsndfile takes a wrong length or subtype from it."""
        file = self._file
        subtype = self._w64_subtype(data) or file.subtype
        frames = data.length // (_SAMPLE_BYTES.get(subtype, 1) * file.channels)
        if subtype not in _CODECS or (file.frames, file.subtype) == (frames, subtype):
            return
        # "FILE" is the container's own byte order
        big = file.endian == "BIG" or (file.endian == "FILE" and file.format in ("AIFF", "CAF", "AU"))
        self._source = self._source.part(data.start, data.start + data.length)
        self._file = soundfile.SoundFile(
            self._source,
            format="RAW",
            samplerate=file.samplerate,
            channels=file.channels,
            subtype=subtype,
            endian="BIG" if big else "LITTLE",
        )
        file.close()

    def _w64_subtype(self, data: DataChunk) -> str | None:
        """Return the subtype in a W64's extensible header, which libsndfile ignores; None if it's right."""
        if self._file.format != "W64" or self._file.subtype not in ("PCM_32", "PCM_U8"):
            return None
        header = self._source.part(0, min(data.start, _HEADER_BYTES)).read()
        at = header.find(GUID_TAIL) - 2  # the format tag that the GUID begins with
        return _W64_SUBTYPES.get(int.from_bytes(header[at : at + 2], "little")) if at >= 0 else None

    def _require_suitable(self, container: str) -> None:
        file = self._file
        known = container == "FLAC" or file.subtype in _CODECS
        if not known or not file.seekable() or not 0 <= file.frames < _ENDLESS:
            raise UnsuitableError(f"{container} {file.subtype}")

    def seek(self, frame: int) -> int:
        """Move to sample `frame`, at most to the end; return the new position."""
        if self._file.subtype == "VORBIS":
            return 0
        target = min(frame, self._file.frames)
        try:
            self._position = self._file.seek(target) if target else 0
        except soundfile.SoundFileError as error:
            raise self._damaged(target, str(error)) from None
        return self._position

    def pieces(self) -> Iterator[Array]:
        """Yield the audio from the position on, [C, n]; see `Decoder`."""
        position = self._position
        while True:
            try:
                block = self._file.read(_PIECE, dtype="float32", always_2d=True)
            except soundfile.SoundFileError as error:
                self._source.raise_interruption()
                raise self._damaged(position, str(error)) from None
            self._source.raise_interruption()
            if not len(block):
                break
            position += len(block)
            piece = block.T if self._order is None else block.T[self._order]  # [n, C] -> [C, n]
            yield np.ascontiguousarray(piece)
        if position < self._file.frames or self._source.failure:
            raise self._damaged(position, f"{self._file.frames} samples declared, {position} there")

    def _damaged(self, position: int, detail: str) -> InputError:
        if self._source.failure is not None:
            detail = self._source.failure.strerror or detail
        detail = detail.strip().removeprefix("Error : ").rstrip(".")  # libsndfile's own decoration
        return damaged(self.info.path, position / self.info.sample_rate, detail)

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def _open(source: FileRange) -> Any:
    try:
        file = soundfile.SoundFile(source)
        source.raise_interruption()
        return file
    except (soundfile.SoundFileError, TypeError) as error:
        source.raise_interruption()
        raise UnsuitableError(str(error)) from None
