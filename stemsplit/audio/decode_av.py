"""Every other file, read by FFmpeg's libraries (PyAV): compressed, within video, several audio streams."""

import ctypes
import errno
from collections import deque
from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np

from stemsplit.audio.channels import UNKNOWN, convert_channels, layout_name
from stemsplit.audio.containers import CONTAINERS, container_facts, container_name
from stemsplit.audio.decoding import Array, AudioInfo, Decoder, damaged
from stemsplit.audio.input_file import FileRange
from stemsplit.audio.resample import Resampler
from stemsplit.audio.truncation import claimed_samples
from stemsplit.audio.truncation.frames import is_incomplete
from stemsplit.errors import InputError, StemsplitError

_OPTIONS = {"protocol_whitelist": "file", "format_whitelist": ",".join(CONTAINERS)}

_TAG_MAGIC = (b"ID3", b"TAG", b"APETAGEX")
# encoders fill their last packets by less than this
_PADDING_S = 0.2
_PROTECTED = {"drms", "drmi", "enca", "aavd"}

# codecs that always tell where their channels lie
_STATING = {"aac", "opus"}
# PyAV 18.1 reads the pointers of planar channels beyond their end from this many on, and crashes
_UNSAFE_PLANES = 8

_SCALE = {"u8": 2.0**-7, "s16": 2.0**-15, "s32": 2.0**-31, "s64": 2.0**-63, "flt": 1.0, "dbl": 1.0}


class AvDecoder(Decoder):
    """One audio stream of a file opened by FFmpeg's libraries.

    Args:
        source: the file, or a stretch of one.
        name: what errors call it.
        stream: which audio stream, from 0; None is the one that FFmpeg would take.
        declared: samples that the file declares, where the caller knows better than FFmpeg.

    Raises:
        InputError: no audio, no such stream, protected, or no decoder for it.
    """

    def __init__(
        self, source: FileRange, name: Path, stream: int | None = None, declared: int | None = None
    ) -> None:
        self.notices: list[str] = []
        self._source = source
        self._container = open_container(source, name)
        try:
            self._stream = _choose(self._container, name, stream)
            self.info = _describe(self._container, self._stream, name)
            if declared is not None:
                self.info = replace(self.info, frames=declared)
        except BaseException:
            self._container.close()
            raise
        self._facts = CONTAINERS[self.info.container]
        self._changed = False
        self._done = self._packets_end = 0
        self._last = 0, 0
        self._shape = self.info.sample_rate, self.info.channels
        self._resampler = self._new_resampler()

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
        for packet in self._whole_packets():
            if failure is not None and packet.size:
                raise failure
            try:
                frames = packet.decode()
            except (av.error.FFmpegError, MemoryError):
                if not self._forgivable(packet):
                    failure = self._damaged("undecodable packet")
                continue
            if packet.is_corrupt and self._facts.indexed:
                raise self._damaged("packet incomplete")
            for frame in frames:
                yield from self._samples(frame)
        yield self._counted(self._resampler.finish())
        if failure is not None and not self._facts.continuous:
            raise failure

    def _forgivable(self, packet: Any) -> bool:
        """Return whether a bad packet is no audio: a frame's tail at the start, a tag, or behind the end."""
        if not self._facts.continuous:
            return self._complete
        return not self._done or bytes(packet)[:8].startswith(_TAG_MAGIC)

    def _whole_packets(self) -> Iterator[Any]:
        """Yield all packets but the last one of a stream without an index that ends within a frame."""
        if not self._facts.continuous:
            yield from self._packets()
            return
        held = None
        for packet in self._packets():
            if held is not None and not packet.size and self._ends_within(held):
                held = None
            if held is not None:
                yield held
            held = packet
        if held is not None:
            yield held

    def _ends_within(self, packet: Any) -> bool:
        if not is_incomplete(bytes(packet), self.info.codec):
            return False
        self.notices.append("ends within a frame, which is left out: a part may be missing")
        return True

    def _packets(self) -> Iterator[Any]:
        try:
            for packet in self._container.demux(self._stream):
                if packet.pts is not None and packet.duration:
                    self._packets_end = max(self._packets_end, packet.pts + packet.duration)
                if self.info.codec == "opus" and self._facts.mistakes_skip:
                    _correct_skip(packet, _opus_pre_skip(self._stream))
                yield packet
            if self._source.failure is not None and not self._complete:
                raise self._damaged("can't be read")
        except (av.error.FFmpegError, MemoryError) as error:
            if self._complete:
                return  # whatever follows the last sample, such as a tag
            raise self._damaged(getattr(error, "strerror", None) or "out of memory") from None
        except IndexError:
            # PyAV knows the streams that FFmpeg found at the start, and FFmpeg goes on finding
            raise self._damaged("another stream begins on the way") from None

    def _samples(self, frame: Any) -> Iterator[Array]:
        """Yield a frame's samples at the rate and with the channels of the file's first frame."""
        layout = _safe(frame.layout)
        samples = to_float(frame)
        if (frame.sample_rate, layout.nb_channels) != self._shape:
            yield from self._change_to(frame.sample_rate, layout.nb_channels)
        if layout.nb_channels != self.info.channels:
            try:
                samples = convert_channels(samples, self.info.channels, layout_name(layout))
            except StemsplitError:
                change = f"{self.info.channels} channels become {layout.nb_channels}"
                raise self._damaged(f"{change} on the way") from None
        yield self._counted(self._resampler.push(samples))
        if frame.pts is not None:
            self._last = frame.pts, frame.samples

    def _change_to(self, sample_rate: int, channels: int) -> Iterator[Array]:
        """Go on with another rate or other channels, as joined files have them."""
        yield self._counted(self._resampler.finish())
        if not self._changed:
            self._changed = True
            self.notices.append(
                f"changes its sample rate or channels at {self._done / self.info.sample_rate:.1f} s; "
                f"read on as {self.info.sample_rate} Hz, {self.info.channels} channels"
            )
        self._shape = sample_rate, channels
        self._resampler = self._new_resampler()

    def _new_resampler(self) -> Resampler:
        return Resampler(self.info.channels, self._shape[0], self.info.sample_rate)

    def _counted(self, samples: Array) -> Array:
        self._done += samples.shape[1]
        return samples

    @property
    def _complete(self) -> bool:
        """Return whether every sample that the container counts is there."""
        return self._facts.length != "estimate" and self._done == self.info.frames

    def _require_whole(self) -> None:
        """Compare what was read with what was declared.

        The declared number of an MP4 or Ogg stream counts the encoder's padding or not, so that only a lack
        is a wrong claim there.
        """
        info = self.info
        if info.frames is None or self._facts.length == "estimate":
            return
        noted = self._facts.length == "note"
        claim = claimed_samples(info.frames, self._done, info.sample_rate, ends_on_frame=noted)
        notice = claim.check(info.path)
        if notice and (noted or claim.declared - claim.present > claim.slack):
            self.notices.append(notice)

    def _padding(self) -> int:
        """Samples at the end that an encoder added to fill its last packets, where the file tells."""
        info = self.info
        noted = info.frames is not None and info.frames == _gapless_count(self._container)
        if info.frames is not None and (noted or self._facts.padding == "count"):
            return self._believable(Fraction(self._done - info.frames, info.sample_rate))
        if self._facts.padding != "end":
            return 0
        pts, samples = self._last
        excess = (pts - self._packets_end) * self._stream.time_base
        return self._believable(excess + Fraction(samples, info.sample_rate))

    def _believable(self, excess_s: Fraction) -> int:
        return round(excess_s * self.info.sample_rate) if 0 < excess_s < _PADDING_S else 0

    def _damaged(self, detail: str) -> InputError:
        if self._source.failure is not None:
            detail = self._source.failure.strerror or detail
        return damaged(self.info.path, self._done / self.info.sample_rate, detail)

    def close(self) -> None:
        """Close the file."""
        self._container.close()


def open_container(source: FileRange, name: Path) -> Any:
    """Open a media file, from its start, as a PyAV container; only this one file is ever opened.

    Raises:
        InputError: FFmpeg doesn't know the file, or can't read it.
    """
    try:
        return av.open(source, "r", container_options=dict(_OPTIONS), metadata_errors="replace")
    except (av.error.FFmpegError, MemoryError, UnicodeError) as error:
        # an unlisted demuxer is refused as an invalid argument
        unlisted = getattr(error, "errno", None) == errno.EINVAL
        said = source.failure or (None if unlisted else error)
        detail = getattr(said, "strerror", None)
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
    layout = _safe(context.layout)
    if not context.sample_rate or not layout.nb_channels:
        raise InputError(name, "damaged (no sample rate or channels in its header)")
    audio = list(container.streams.audio)
    return AudioInfo(
        path=name,
        sample_rate=context.sample_rate,
        channels=layout.nb_channels,
        frames=_declared_frames(container, stream),
        container=container_name(container),
        codec=context.codec.canonical_name,
        layout=layout_name(layout) or (UNKNOWN if context.codec.canonical_name in _STATING else None),
        stream=audio.index(stream),
        streams=len(audio),
        estimated=not _is_exact(container, stream),
    )


def _is_exact(container: Any, stream: Any) -> bool:
    """Return whether decoding gives the declared length: an MP4 index counts samples of these codecs."""
    context, counts = stream.codec_context, container_facts(container).gapless
    per_sample = counts and stream.duration and stream.time_base * context.sample_rate == 1
    known = context.codec.canonical_name.startswith(("aac", "alac", "pcm_"))
    return bool(per_sample and known and _gapless_fits(container.metadata, stream.duration))


def _safe(layout: Any) -> Any:
    """Return the layout, kept alive forever where PyAV would free it twice.

    PyAV 18.1 copies a layout without the list of channels that an unusual order needs, such as
    FL FR FC LFE SL SR BC in a MOV; both owners free the list, and the process dies.
    """
    if "channels (" in layout.name:
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(layout))
    return layout


def _declared_frames(container: Any, stream: Any) -> int | None:
    counted = _gapless_count(container)
    rate = stream.codec_context.sample_rate
    if stream.duration:
        declared = round(Fraction(stream.duration * stream.time_base * rate))
        # the note is often copied to a file that was cut out of another
        if counted is not None and abs(declared - counted) < _PADDING_S * rate:
            return counted
        # an Ogg page's count includes what is skipped
        return declared - (_opus_pre_skip(stream) if container_facts(container).counts_skip else 0)
    if container.duration:
        return round(Fraction(container.duration * rate, av.time_base))
    return None


def _opus_pre_skip(stream: Any) -> int:
    """Return the samples at an Opus stream's start that nobody hears (RFC 7845 §5.1)."""
    header = stream.codec_context.extradata or b""
    return int.from_bytes(header[10:12], "little") if header.startswith(b"OpusHead") else 0


def _correct_skip(packet: Any, pre_skip: int) -> None:
    """Have the decoder leave out `pre_skip` samples, which FFmpeg 8 counts at the rate before encoding."""
    if packet.size and packet.has_sidedata("skip_samples"):
        skip = packet.get_sidedata("skip_samples")
        content = bytes(skip)  # two little-endian counts, for the start and the end, and two reasons
        if any(content[:4]):
            skip.update(pre_skip.to_bytes(4, "little") + content[4:])
            packet.set_sidedata(skip)


def _gapless_count(container: Any) -> int | None:
    """Return the sample count in iTunes' gapless note of an MP4, the fourth of its hexadecimal fields."""
    if not container_facts(container).gapless:
        return None
    fields = container.metadata.get("iTunSMPB", "").split()
    try:
        return int(fields[3], 16) or None
    except (IndexError, ValueError):
        return None


def _gapless_fits(metadata: dict[str, str], duration: int) -> bool:
    """Return whether priming, padding and count of iTunes' note, if any, make up the stream's duration."""
    fields = metadata.get("iTunSMPB", "").split()
    try:
        return not fields or sum(int(field, 16) for field in fields[1:4]) == duration
    except ValueError:
        return False


def to_float(frame: Any) -> Array:
    """Return an audio frame of any sample format as float32 [C, n], full scale at 1."""
    channels = _safe(frame.layout).nb_channels
    if frame.format.is_planar and channels >= _UNSAFE_PLANES:
        (frame,) = av.AudioResampler(format=frame.format.packed, layout=frame.layout).resample(frame)
    samples = frame.to_ndarray()
    if not frame.format.is_planar:
        samples = samples.reshape(-1, channels).T  # [1, n·C] -> [C, n]
    kind = frame.format.name.removesuffix("p")
    scaled = np.ascontiguousarray(samples, dtype=np.float32)
    if kind == "u8":
        scaled -= 128
    return scaled if _SCALE[kind] == 1 else scaled * np.float32(_SCALE[kind])
