"""Write a film again with another sound: its video, subtitles, pictures, chapters and tags are copied."""

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.stream import Disposition

from stemsplit.audio.decode_av import open_container
from stemsplit.audio.decoding import Array
from stemsplit.audio.encode_av import AvEncoder
from stemsplit.audio.input_file import InputFile
from stemsplit.audio.sink import Sink
from stemsplit.audio.tags import Tags
from stemsplit.audio.tags.covers import is_picture, read_pictures
from stemsplit.errors import InputError
from stemsplit.formats import FORMATS, Format, OutputFormat, either
from stemsplit.settings import OutputSettings

_COPIED = ("video", "subtitle", "attachment")
# Timestamps are rounded, in Matroska to 1 ms; only more than this is a gap between them
_GAP_S = Fraction(1, 20)
# Samples of silence that are written at once
_SILENCE = 65536


@dataclass(frozen=True)
class _Container:
    """The muxer of a film's suffix in FFmpeg, and formats that its sound can have, the usual one first."""

    muxer: str
    formats: Sequence[OutputFormat]


_MP4 = _Container("mp4", ("m4a", "alac", "mp3", "flac", "opus"))
CONTAINERS: Mapping[str, _Container] = {
    "mp4": _MP4,
    "m4v": _MP4,
    "mov": _Container("mov", ("m4a", "alac")),
    "mkv": _Container("matroska", ("flac", "m4a", "alac", "mp3", "opus")),
    "webm": _Container("webm", ("opus",)),
}


@dataclass(frozen=True)
class Film:
    """A file with video.

    Attributes:
        path: the file.
        suffix: of its name, a key of `CONTAINERS`.
        stream: index of the audio stream whose place in time the new sound takes, from 0.
    """

    path: Path
    suffix: str
    stream: int

    @property
    def form(self) -> Mapping[str, Any]:
        """Facts about an output format that the film's container changes."""
        container = CONTAINERS[self.suffix]
        mp4 = FORMATS["m4a"]
        if container.muxer in ("mp4", "mov"):
            return {"container": container.muxer, "tagging": "boxes", "options": mp4.options}
        return {"container": container.muxer, "tagging": "comment", "options": {}}


def film_of(path: Path, suffix: str, stream: int) -> Film:
    """Return the film in a file.

    Args:
        path: the file.
        suffix: of its name, without the dot.
        stream: index of the audio stream, from 0.

    Raises:
        InputError: it has no video, or can't be written again.
    """
    if suffix.lower() not in CONTAINERS:
        raise InputError(path, f"--mux writes {either(CONTAINERS)} files, not this one")
    with InputFile(path) as file, open_container(file.view(), path) as container:
        if not any(_is_film(one) for one in container.streams.video):
            raise InputError(path, "--mux: has no video")
    return Film(path, suffix.lower(), stream)


def settings_for(film: Film, settings: OutputSettings) -> OutputSettings:
    """Return the settings of a film's sound: WAV, the default format, becomes the container's usual one.

    Raises:
        InputError: the container can't hold the format.
    """
    formats = CONTAINERS[film.suffix].formats
    if settings.format == "wav":
        depth = "24" if settings.bit_depth == "32f" else settings.bit_depth
        return replace(settings, format=formats[0], bit_depth=depth)
    if settings.format not in formats:
        raise InputError(film.path, f"--mux: its sound can be {either(formats)}, not {settings.format}")
    return settings


class FilmEncoder(AvEncoder):
    """Encoder of the sound of a film [C, n]; the film's packets are copied as far as the sound goes.

    Args:
        sink: the file.
        sample_rate: in Hz.
        channels: C.
        settings: format, bit depth and bit rate of the sound.
        tags: the record of the settings; the other tags are the film's.
        film: what is copied.

    Raises:
        InputError: the film can't be opened.
        FFmpegError: the container can't hold the sound, or what is copied.
    """

    def __init__(
        self,
        sink: Sink,
        sample_rate: int,
        channels: int,
        settings: OutputSettings,
        tags: Tags,
        film: Film,
    ) -> None:
        timing = _timing(film)
        self._path, self._sound = film.path, film.stream
        with ExitStack() as stack:
            file = stack.enter_context(InputFile(film.path))
            self._film = stack.enter_context(open_container(file.view(), film.path))
            self._targets: dict[int, Any] = {}
            form: Format = replace(FORMATS[settings.format], **film.form)
            super().__init__(sink, sample_rate, channels, settings, replace(tags, cover=None), form=form)
            self._open = stack.pop_all()
        self._position = round(timing.begin_s * sample_rate)
        self._gaps = deque((round(at * sample_rate), round(gap * sample_rate)) for at, gap in timing.gaps)
        self._written = 0
        self._waiting = self._copied()
        self._next = next(self._waiting, None)

    def _add_stream(self, bits_per_s: int | None) -> Any:
        """Add the sound behind the video and before the rest, as the first sound of the film."""
        for stream in self._film.streams.video:
            if _is_film(stream):
                self._copy(stream)
        sound = super()._add_stream(bits_per_s)
        sound.disposition = Disposition.default
        if language := self._film.streams.audio[self._sound].metadata.get("language"):
            sound.metadata["language"] = language
        for stream in self._film.streams:
            if stream.type in _COPIED and stream.type != "video":
                self._copy(stream)
        self._add_pictures()
        return sound

    def _add_pictures(self) -> None:
        """Add the film's pictures, such as a cover, that its container can hold."""
        pictures = [stream for stream in self._film.streams.video if is_picture(stream)]
        if self._container.format.name == "mp4":
            for stream in pictures:
                with suppress(ValueError):  # its format can't be in this container
                    self._copy(stream)
        elif self._container.format.name == "matroska" and pictures:
            with InputFile(self._path) as file, open_container(file.view(), self._path) as container:
                data = read_pictures(container, {stream.index for stream in pictures})
            for stream in pictures:
                if stream.index in data:
                    self._container.add_attachment(*_attachment(stream), data[stream.index])

    def _copy(self, stream: Any) -> None:
        target = self._container.add_stream_from_template(stream)
        target.metadata.update(stream.metadata)
        target.disposition = stream.disposition
        self._targets[stream.index] = target

    def _start(self, tags: Tags) -> None:
        self._container.metadata.update(self._film.metadata)
        self._container.set_chapters(self._film.chapters())
        super()._start(replace(tags, fields={}))

    def _copied(self) -> Iterator[Any]:
        """Yield the packets to copy, in the order of the film."""
        streams = [self._film.streams[index] for index in self._targets]
        for packet in self._film.demux(streams):
            if packet.size:  # an empty one marks the end of a stream
                yield packet

    def _copy_until(self, end_s: Fraction | None) -> None:
        """Copy the packets that come before a time; None copies all that are left."""
        while (packet := self._next) is not None:
            # Matroska doesn't store when to decode: the first packets of a film with B-frames have no time
            if end_s is not None and packet.dts is not None and packet.dts * packet.time_base > end_s:
                return
            packet.stream = self._targets[packet.stream.index]
            self._container.mux(packet)
            self._next = next(self._waiting, None)

    def write(self, block: Array) -> None:
        """Encode the next block [C, n], with silence where the film has a gap between the timestamps."""
        while self._gaps and self._gaps[0][0] < self._written + block.shape[1]:
            at, missing = self._gaps.popleft()
            head, block = np.split(block, [at - self._written], axis=1)
            super().write(head)
            self._written = at
            for start in range(0, missing, _SILENCE):
                super().write(np.zeros((len(block), min(_SILENCE, missing - start)), np.float32))
        super().write(block)
        self._written += block.shape[1]

    def _encode(self, samples: Array) -> None:
        super()._encode(samples)
        self._copy_until(Fraction(self._position, self._rate))

    def _conclude(self) -> None:
        self._copy_until(None)
        super()._conclude()
        self._open.close()

    def abandon(self) -> None:
        """Close encoder and film; the file stays incomplete."""
        super().abandon()
        self._open.close()


def _is_film(stream: Any) -> bool:
    """Tell a film from a picture, such as a cover."""
    return Disposition.attached_pic not in stream.disposition


def _attachment(picture: Any) -> tuple[str, str]:
    """Return file name and MIME type of a picture, as Matroska stores them."""
    codec = picture.codec_context.name
    ending, kind = {"mjpeg": ("jpg", "jpeg")}.get(codec, (codec, codec))
    return (
        picture.metadata.get("filename", f"cover.{ending}"),
        picture.metadata.get("mimetype", f"image/{kind}"),
    )


@dataclass(frozen=True)
class _Timing:
    """The film's sound in time.

    Attributes:
        begin_s: time of its first sample.
        gaps: parts of the film without sound in between: after how many seconds of sound, for how many.
    """

    begin_s: Fraction
    gaps: Sequence[tuple[Fraction, Fraction]]


def _timing(film: Film) -> _Timing:
    """Decode the film's sound to find where it begins and where its timestamps leave gaps."""
    begin: Fraction | None = None
    end = sound = Fraction(0)
    gaps = []
    with InputFile(film.path) as file, open_container(file.view(), film.path) as container:
        longest = Fraction(container.duration or 0, av.time_base)
        with suppress(av.error.FFmpegError, MemoryError, IndexError):  # damage, which the reader reports
            for frame in container.decode(audio=film.stream):
                start = end if frame.pts is None else frame.pts * frame.time_base
                if begin is None and frame.pts is not None and frame.samples:
                    begin = end = start
                if _GAP_S < start - end <= longest:
                    gaps.append((sound, start - end))
                length = Fraction(frame.samples, frame.sample_rate)
                sound, end = sound + length, start + length
    return _Timing(begin or Fraction(0), gaps)
