"""Uncompressed files, FLAC and Vorbis, read by libsndfile: exact counts, and the quickest start.

Vorbis is read from its beginning, because seeking in it lands wrong within a file's last page; FFmpeg is no
choice there, because it drops up to a short block of a stream's end. Opus and MP3 are FFmpeg's work although
libsndfile reads them: its Opus takes twice as long, and its MP3 decoder writes to stderr what it stumbles on.
"""

import os
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
import soundfile

from stemsplit.audio.riff import DataChunk
from stemsplit.audio.source import Array, AudioInfo, damaged
from stemsplit.errors import InputError

_CODECS = {"PCM_S8", "PCM_U8", "PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE", "ULAW", "ALAW", "VORBIS"}
_PIECE = 65536
# libsndfile's count for a FLAC stream that declares none is the largest integer
_ENDLESS = 1 << 60


def recognise(path: Path) -> bool:
    """Whether the file's first bytes are those of a container that this decoder is the first choice for."""
    with path.open("rb") as file:
        head = file.read(40)
    form = head[8:12]
    return (
        head[:4] in (b"fLaC", b"caff")
        or (head[:4] in (b"RIFF", b"RF64") and form == b"WAVE")
        or (head[:4] == b"FORM" and form in (b"AIFF", b"AIFC"))
        or (head[:4] == b"OggS" and head[28:35] == b"\x01vorbis")
        or (head[:4] == b"riff" and head[24:28] == b"wave")
    )


class UnsuitableError(Exception):
    """This decoder isn't the one for the file; another may be."""


class SndfileDecoder:
    """A file opened by libsndfile.

    Args:
        path: the file.
        name: what errors call it.
        data: where its audio lies, None for FLAC.

    Raises:
        UnsuitableError: libsndfile doesn't know the file, or another decoder does it better.
    """

    def __init__(self, path: Path, name: Path, data: DataChunk | None) -> None:
        try:
            # the bytes of a POSIX name need not be text
            self._file = soundfile.SoundFile(str(path) if os.name == "nt" else os.fsencode(path))
        except (soundfile.SoundFileError, TypeError) as error:
            raise UnsuitableError(str(error)) from None
        try:
            self._require_suitable(data)
        except BaseException:
            self._file.close()
            raise
        self._position = 0
        self.info = AudioInfo(
            path=name,
            sample_rate=self._file.samplerate,
            channels=self._file.channels,
            frames=self._file.frames,
            container=self._file.format.lower(),
            codec=self._file.subtype.lower(),
        )

    def _require_suitable(self, data: DataChunk | None) -> None:
        file = self._file
        if not file.frames and data is not None and data.declared is None and data.present:
            raise UnsuitableError("audio behind a header that was never finished")
        known = file.format == "FLAC" or file.subtype in _CODECS
        if not known or not file.seekable() or not 0 <= file.frames < _ENDLESS:
            raise UnsuitableError(f"{file.format} {file.subtype}")

    def seek(self, frame: int) -> int:
        """Move to `frame`, or to the end where that comes first."""
        if self._file.subtype == "VORBIS":
            return 0
        target = min(frame, self._file.frames)
        try:
            self._position = self._file.seek(target) if target else 0
        except soundfile.SoundFileError as error:
            raise _damaged(self.info, target, str(error)) from None
        return self._position

    def pieces(self) -> Iterator[Array]:
        """The audio from the position on, [C, n]; see `Decoder`."""
        position = self._position
        while True:
            try:
                block = self._file.read(_PIECE, dtype="float32", always_2d=True)
            except soundfile.SoundFileError as error:
                raise _damaged(self.info, position, str(error)) from None
            if not len(block):
                break
            position += len(block)
            yield np.ascontiguousarray(block.T)
        if position < self._file.frames:
            raise _damaged(self.info, position, f"{self._file.frames} samples declared, {position} there")

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _damaged(info: AudioInfo, position: int, detail: str) -> InputError:
    detail = detail.strip().removeprefix("Error : ").rstrip(".")
    return damaged(info.path, position / info.sample_rate, detail)
