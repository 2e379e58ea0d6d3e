"""Every other file, read by FFmpeg's libraries (PyAV): compressed, within video, several audio streams."""

import errno
from collections import deque
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import av
import numpy as np

from stemsplit.audio.source import Array, AudioInfo, cut_short, damaged
from stemsplit.errors import InputError

# Demuxers of media files. Playlists and scripts (hls, concat, dash …) stay out: they would open further
# files and connections that nobody asked for.
_DEMUXERS = (
    "aac ac3 ac4 aiff amr ape asf au avi caf dsf dts dtshd eac3 flac flv iff loas matroska mlp mov mp3 mpc "
    "mpc8 mpeg mpegts mxf nut ogg oma qcp rm sox tak truehd tta voc w64 wav wtv wv xwma"
).replace(" ", ",")
_OPTIONS = {"protocol_whitelist": "file", "format_whitelist": _DEMUXERS}

# containers whose declared length comes from an index or a sample count, and by how much it may be off
_COUNTED = {"mov", "ogg", "flac", "wv", "tta", "ape", "tak", "dsf"}
_SLACK_S = 0.1
# containers that know every packet's size beforehand
_INDEXED = {"mov", "matroska"}
# streams without an index, that may begin and end in the middle of a packet
_CONTINUOUS = {"mp3", "aac", "loas", "ac3", "eac3", "dts", "mpegts", "mpeg", "mlp", "truehd", "ac4"}
_TAG_MAGIC = (b"ID3", b"TAG", b"APETAGEX")
# encoders fill their last packets by less than this
_PADDING_S = 0.2
_PROTECTED = {"drms", "drmi", "enca", "aavd"}

_SCALE = {"u8": 2.0**-7, "s16": 2.0**-15, "s32": 2.0**-31, "s64": 2.0**-63, "flt": 1.0, "dbl": 1.0}


class AvDecoder:
    """One audio stream of a file opened by FFmpeg's libraries.

    Args:
        path: the file.
        name: what errors call it.
        stream: which audio stream, from 0; None is the one that FFmpeg would take.

    Raises:
        InputError: no audio, no such stream, protected, or no decoder for it.
    """

    def __init__(self, path: Path, name: Path, stream: int | None = None) -> None:
        self._container = open_container(path, name)
        try:
            self._stream = _choose(self._container, name, stream)
            self.info = _describe(self._container, self._stream, name)
        except BaseException:
            self._container.close()
            raise
        self._done = self._packets_end = 0
        self._last = 0, 0

    def seek(self, frame: int) -> int:
        """Stay at the start: only decoding counts samples exactly."""
        return 0

    def pieces(self) -> Iterator[Array]:
        """The audio from the first sample on, [C, n]; see `Decoder`."""
        held: deque[Array] = deque()
        held_frames = 0
        for piece in self._decoded():
            held.append(piece)
            held_frames += piece.shape[1]
            while held_frames - held[0].shape[1] >= _PADDING_S * self.info.sample_rate:
                held_frames -= held[0].shape[1]
                yield held.popleft()
        self._require_whole()
        rest = np.concatenate([*held, np.zeros((self.info.channels, 0), np.float32)], axis=1)
        yield rest[:, : max(0, held_frames - self._padding())]

    def _decoded(self) -> Iterator[Array]:
        """Every frame's samples. A bad packet is an error, save at the ends of a stream without an index."""
        failure: InputError | None = None
        for packet in self._packets():
            if failure is not None and packet.size:
                raise failure
            try:
                frames = packet.decode()
            except (av.error.FFmpegError, MemoryError):
                if not self._forgivable(packet):
                    failure = self._damaged("undecodable packet")
                continue
            if packet.is_corrupt and self.info.container in _INDEXED:
                raise self._damaged("packet incomplete")
            for frame in frames:
                yield self._samples(frame)
        if failure is not None and not self._continuous:
            raise failure

    def _forgivable(self, packet: Any) -> bool:
        """Whether a bad packet is the tail of a frame at a stream's start, or a tag between joined files."""
        return self._continuous and (not self._done or bytes(packet)[:8].startswith(_TAG_MAGIC))

    def _packets(self) -> Iterator[Any]:
        try:
            for packet in self._container.demux(self._stream):
                if packet.pts is not None and packet.duration:
                    self._packets_end = max(self._packets_end, packet.pts + packet.duration)
                yield packet
        except (av.error.FFmpegError, MemoryError) as error:
            raise self._damaged(getattr(error, "strerror", None) or "out of memory") from None
        except IndexError:
            # PyAV knows the streams that FFmpeg found at the start, and FFmpeg goes on finding
            raise self._damaged("another stream begins on the way") from None

    def _samples(self, frame: Any) -> Array:
        info = self.info
        if frame.sample_rate != info.sample_rate or len(frame.layout.channels) != info.channels:
            raise self._damaged("its sample rate or channels change on the way")
        samples = to_float(frame)
        self._done += samples.shape[1]
        if frame.pts is not None:
            self._last = frame.pts, samples.shape[1]
        return samples

    @property
    def _continuous(self) -> bool:
        return self.info.container in _CONTINUOUS

    def _require_whole(self) -> None:
        declared = self.info.frames if self.info.container in _COUNTED else None
        if declared is not None and self._done < declared - _SLACK_S * self.info.sample_rate:
            raise cut_short(self.info.path, self._done, declared)

    def _padding(self) -> int:
        """Samples at the end that an encoder added to fill its last packets, where the file tells."""
        info = self.info
        noted = info.container == "mov" and _gapless_count(self._container.metadata) is not None
        if info.frames is not None and (noted or info.container == "ogg"):
            return self._believable(Fraction(self._done - info.frames, info.sample_rate))
        if info.container != "mov":
            return 0
        pts, samples = self._last
        excess = (pts - self._packets_end) * self._stream.time_base
        return self._believable(excess + Fraction(samples, info.sample_rate))

    def _believable(self, excess_s: Fraction) -> int:
        return round(excess_s * self.info.sample_rate) if 0 < excess_s < _PADDING_S else 0

    def _damaged(self, detail: str) -> InputError:
        return damaged(self.info.path, self._done / self.info.sample_rate, detail)

    def close(self) -> None:
        """Close the file."""
        self._container.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def open_container(path: Path, name: Path) -> Any:
    """A media file as a PyAV container; only this one file is ever opened.

    Raises:
        InputError: FFmpeg doesn't know the file, or can't read it.
    """
    try:
        return av.open(f"file:{path}", "r", container_options=dict(_OPTIONS), metadata_errors="replace")
    except (av.error.FFmpegError, MemoryError, UnicodeError) as error:
        # an unlisted demuxer is refused as an invalid argument
        unlisted = getattr(error, "errno", None) == errno.EINVAL
        detail = None if unlisted else getattr(error, "strerror", None)
        raise InputError(
            name,
            f"not an audio file ({detail or 'no audio format'})",
            hint="is it the right file, and was all of it downloaded?",
        ) from None


def _choose(container: Any, name: Path, stream: int | None) -> Any:
    streams = container.streams.audio
    if not streams:
        raise InputError(name, "has no audio stream", hint="it holds pictures or data only")
    if stream is not None and not 0 <= stream < len(streams):
        known = "only stream 0" if len(streams) == 1 else f"streams 0 to {len(streams) - 1}"
        raise InputError(name, f"has no audio stream {stream}", hint=f"it has {known} (--audio-stream)")
    chosen = (container.streams.best("audio") or streams[0]) if stream is None else streams[stream]
    context = chosen.codec_context
    if context is not None and context.codec_tag in _PROTECTED:
        raise InputError(
            name,
            "protected by DRM",
            hint="only its shop's player can decode it",
        )
    if context is None:
        raise InputError(name, "has audio in a codec that can't be decoded here")
    return chosen


def _describe(container: Any, stream: Any, name: Path) -> AudioInfo:
    context = stream.codec_context
    if not context.sample_rate or not context.channels:
        raise InputError(name, "damaged (no sample rate or channels in its header)")
    audio = list(container.streams.audio)
    return AudioInfo(
        path=name,
        sample_rate=context.sample_rate,
        channels=context.channels,
        frames=_declared_frames(container, stream),
        container=container.format.name.partition(",")[0],
        codec=context.codec.canonical_name,
        layout=context.layout.name,
        stream=audio.index(stream),
        streams=len(audio),
        estimated=not _is_exact(container, stream),
    )


def _is_exact(container: Any, stream: Any) -> bool:
    """Whether the declared length is one that decoding gives: an MP4 index counts samples of these codecs."""
    context, counts = stream.codec_context, container.format.name.startswith("mov")
    per_sample = counts and stream.duration and stream.time_base * context.sample_rate == 1
    known = context.codec.canonical_name.startswith(("aac", "alac", "pcm_"))
    return bool(per_sample and known and _gapless_fits(container.metadata, stream.duration))


def _declared_frames(container: Any, stream: Any) -> int | None:
    counted = _gapless_count(container.metadata)
    if counted is not None:
        return counted
    rate = stream.codec_context.sample_rate
    if stream.duration:
        return round(Fraction(stream.duration * stream.time_base * rate)) - _opus_pre_skip(container, stream)
    if container.duration:
        return round(Fraction(container.duration * rate, av.time_base))
    return None


def _opus_pre_skip(container: Any, stream: Any) -> int:
    """Samples that an Ogg page count includes and nobody hears (RFC 7845 §5.1)."""
    header = stream.codec_context.extradata or b""
    opus_in_ogg = container.format.name == "ogg" and header.startswith(b"OpusHead")
    return int.from_bytes(header[10:12], "little") if opus_in_ogg else 0


def _gapless_count(metadata: dict[str, str]) -> int | None:
    """The true sample count in iTunes' gapless note: hexadecimal fields, of which the fourth is the count."""
    fields = metadata.get("iTunSMPB", "").split()
    try:
        return int(fields[3], 16) or None
    except (IndexError, ValueError):
        return None


def _gapless_fits(metadata: dict[str, str], duration: int) -> bool:
    """Whether priming, padding and count of iTunes' note, if there is one, make up the stream's duration."""
    fields = metadata.get("iTunSMPB", "").split()
    try:
        return not fields or sum(int(field, 16) for field in fields[1:4]) == duration
    except ValueError:
        return False


def to_float(frame: Any) -> Array:
    """An audio frame of any sample format as float32 [C, n], full scale at 1."""
    samples = frame.to_ndarray()
    if not frame.format.is_planar:
        samples = samples.reshape(-1, len(frame.layout.channels)).T
    kind = frame.format.name.removesuffix("p")
    scaled = np.ascontiguousarray(samples, dtype=np.float32)
    if kind == "u8":
        scaled -= 128
    return scaled if _SCALE[kind] == 1 else scaled * np.float32(_SCALE[kind])
