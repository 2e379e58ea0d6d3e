"""Write audio files block by block; renaming and removing files is left to the caller."""

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Self

import av
import numpy as np
import soundfile

from stemsplit.audio.decoding import Array
from stemsplit.audio.encode_av import AvEncoder
from stemsplit.audio.encode_ogg import OggEncoder
from stemsplit.audio.encoding import Encoder, check_encodable
from stemsplit.audio.film import Film, FilmEncoder
from stemsplit.audio.sink import Sink
from stemsplit.audio.tags import Tags
from stemsplit.audio.wav import WavEncoder
from stemsplit.errors import OutputError
from stemsplit.formats import FORMATS, OutputFormat
from stemsplit.settings import OutputSettings

__all__ = ["Writer", "open_writer"]


def open_writer(
    path: str | Path,
    sample_rate: int,
    channels: int,
    settings: OutputSettings,
    *,
    frames: int | None = None,
    tags: Tags | None = None,
    layout: str | None = None,
    fmt: OutputFormat | None = None,
    stems: Sequence[str] = (),
    film: Film | None = None,
) -> "Writer":
    """Open a new audio file at `path`, whatever its suffix, replacing an existing file.

    Args:
        path: the file.
        sample_rate: in Hz; the format must hold it (`Format.nearest_rate`).
        channels: number of channels.
        settings: format, bit depth and bit rate are used; the caller applies the others.
        frames: expected samples per channel, if known; only a hint.
        tags: written if the format supports them.
        layout: FFmpeg's name of the loudspeakers, None for the usual layout.
        fmt: a format to use instead of the one in `settings`.
        stems: names of further streams, for a format that holds several. `write` then takes the channels of
            all streams, one stream after the other.
        film: write this film again, with the audio as its sound.

    Raises:
        SettingsError: the format can't hold this audio, or this machine has no encoder for it.
        OutputError: the file can't be created.
        ResourceError: the disk is full.
    """
    chosen = settings if fmt is None else replace(settings, format=fmt)
    check_encodable(chosen.format, sample_rate, channels, chosen.bit_depth)
    sink = Sink(Path(path))
    try:
        if film is not None:
            encoder: Encoder = FilmEncoder(sink, sample_rate, channels, chosen, tags or Tags(), film)
        else:
            encoder = _encoder(sink, sample_rate, channels, chosen, frames, tags or Tags(), layout, stems)
        sink.check()
    except BaseException as error:
        sink.abandon()
        if isinstance(error, av.error.FFmpegError | soundfile.SoundFileError):
            raise _encoder_failed(sink.path, chosen.format, error) from None
        raise
    return Writer(sink, encoder, sample_rate, channels * (1 + len(stems)), chosen.format)


class Writer:
    """Writer of one audio file; a context manager that completes it, or abandons it after an exception.

    Attributes:
        path: the file.
        sample_rate: in Hz.
        channels: C, of all streams together.
        frames: samples per channel written so far.
    """

    def __init__(self, sink: Sink, encoder: Encoder, sample_rate: int, channels: int, fmt: str) -> None:
        self.path = sink.path
        self.sample_rate, self.channels, self.frames = sample_rate, channels, 0
        self._sink, self._encoder, self._fmt = sink, encoder, fmt
        self._open = True

    def write(self, block: Array) -> None:
        """Append a block [C, n] in -1 … 1. Integer formats round to the nearest and clamp, without dither.

        Raises:
            OutputError: the encoder failed, the file can't be written, or a sample isn't finite.
            ResourceError: the disk is full.
        """
        if block.ndim != 2 or block.shape[0] != self.channels:
            raise ValueError(f"a block of shape {block.shape} for {self.channels} channels")
        if not np.isfinite(block).all():
            raise OutputError(self.path, "the audio to be written has NaN or infinite samples")
        if block.shape[1]:
            self._attempt(lambda: self._encoder.write(block))
            self.frames += block.shape[1]

    def close(self) -> None:
        """Complete the file and flush it to the disk. A second call does nothing.

        Raises:
            OutputError: the encoder failed, or the file can't be written.
            ResourceError: the disk is full.
        """
        if self._open:
            self._open = False
            try:
                self._attempt(self._encoder.finish)
            except BaseException:
                self._sink.abandon()
                raise
            self._sink.close()

    def abort(self) -> None:
        """Close the file without completing it, so that the caller can remove it; never raises."""
        if self._open:
            self._open = False
            with suppress(av.error.FFmpegError, soundfile.SoundFileError, OSError):
                self._encoder.abandon()
            self._sink.abandon()

    def _attempt(self, step: Callable[[], None]) -> None:
        try:
            step()
        except (av.error.FFmpegError, soundfile.SoundFileError) as error:
            self._sink.check()  # a full disk explains the encoder's failure better than its own message
            raise _encoder_failed(self.path, self._fmt, error) from None
        self._sink.check()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self.close()
        else:
            self.abort()


def _encoder(
    sink: Sink,
    sample_rate: int,
    channels: int,
    settings: OutputSettings,
    frames: int | None,
    tags: Tags,
    layout: str | None,
    stems: Sequence[str],
) -> Encoder:
    kind = FORMATS[settings.format].encoder
    if kind == "wav":
        return WavEncoder(sink, sample_rate, channels, settings.bit_depth, frames, tags, layout)
    if kind == "vorbis":
        return OggEncoder(sink, sample_rate, channels, settings, tags)
    return AvEncoder(sink, sample_rate, channels, settings, tags, layout, stems)


def _encoder_failed(path: Path, fmt: str, error: Exception) -> OutputError:
    detail = getattr(error, "strerror", None) or str(error)
    return OutputError(path, f"the {fmt} encoder failed ({detail})")
