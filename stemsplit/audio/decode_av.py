"""Decoder that uses FFmpeg's libraries (PyAV): compressed audio, video files, several audio streams."""

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

from stemsplit.audio.channels import UNKNOWN_LAYOUT, convert_channels, layout_name
from stemsplit.audio.containers import CONTAINERS, container_name
from stemsplit.audio.declared_length import (
    PADDING_S,
    Gaps,
    declared_frames,
    gapless_count,
    is_exact,
    opus_pre_skip,
)
from stemsplit.audio.decoding import Array, AudioInfo, Decoder, damaged
from stemsplit.audio.input_file import FileRange
from stemsplit.audio.resample import Resampler
from stemsplit.audio.truncation import claimed_samples
from stemsplit.audio.truncation.frames import is_incomplete
from stemsplit.errors import InputError, StemsplitError

_OPTIONS = {"protocol_whitelist": "file", "format_whitelist": ",".join(CONTAINERS)}
# Of the audio that FFmpeg examines where only the tags are wanted; tags lie in headers, however long
_HEADER_BYTES = "5000"

_TAG_MAGIC = (b"ID3", b"TAG", b"APETAGEX")
# Sample entries of encrypted MP4 audio: FairPlay's two, the standard one (ISO 14496-12 §8.12), Audible's
_PROTECTED = {"drms", "drmi", "enca", "aavd"}

# Codecs that always state their loudspeakers
_STATE_LAYOUT = {"aac", "opus"}
# From this many planar channels on, PyAV 18.1 reads plane pointers beyond their end, and crashes
_UNSAFE_PLANES = 8

# Factor from each of FFmpeg's sample formats to full scale at 1
_SCALE = {"u8": 2.0**-7, "s16": 2.0**-15, "s32": 2.0**-31, "flt": 1.0, "dbl": 1.0}


class AvDecoder(Decoder):
    """One audio stream of a file opened by FFmpeg's libraries.

    Args:
        source: the file, or a byte range of one.
        name: the file's name in errors.
        stream: index of the audio stream, from 0; None takes the one that FFmpeg prefers.
        declared: declared samples per channel, if the caller knows them better than FFmpeg.

    Raises:
        InputError: there is no audio, no such stream or no decoder for it, or it is protected.
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
        self._done = 0  # samples per channel decoded so far, at info.sample_rate
        self._gaps = Gaps()
        self._packets_end = 0  # in the stream's time base
        self._last_frame = 0, 0  # its pts in the stream's time base, its samples
        self._input_format = self.info.sample_rate, self.info.channels  # of the current frame
        self._resampler = self._new_resampler()

    def pieces(self) -> Iterator[Array]:
        """Yield the audio from the first sample on, [C, n]; see `Decoder`."""
        # The padding is only known after the last packet, so the last PADDING_S seconds are held back
        held: deque[Array] = deque()
        held_frames = 0
        for piece in self._decoded():
            held.append(piece)
            held_frames += piece.shape[1]
            while held_frames - held[0].shape[1] >= PADDING_S * self.info.sample_rate:
                held_frames -= held[0].shape[1]
                yield held.popleft()
        self._require_whole()
        rest = np.concatenate([*held, np.zeros((self.info.channels, 0), np.float32)], axis=1)
        yield rest[:, : max(0, held_frames - self._padding())]

    def _decoded(self) -> Iterator[Array]:
        """Yield the samples of every frame, [C, n]; fail on a bad packet, unless it is no audio."""
        failure: InputError | None = None
        for packet in self._whole_packets():
            if failure is not None and packet.size:
                raise failure  # more audio follows, so the bad packet isn't just a cut-off end
            try:
                frames = packet.decode()
            except (av.error.FFmpegError, MemoryError):
                if not self._is_no_audio(packet):
                    failure = self._damaged("undecodable packet")
                continue
            if self._facts.gapless:
                self._gaps.add(packet, frames)
            if packet.is_corrupt and self._facts.indexed:
                raise self._damaged("packet incomplete")
            for frame in frames:
                yield from self._samples(frame)
        yield self._counted(self._resampler.finish())
        if failure is not None and not self._facts.continuous:
            raise failure

    def _is_no_audio(self, packet: Any) -> bool:
        """Return whether a bad packet holds no audio that is missing.

        That is the rest of a frame at the start of a stream, a tag, or anything after the last sample.
        """
        if not self._facts.continuous:
            return self._complete
        return not self._done or bytes(packet)[:8].startswith(_TAG_MAGIC)

    def _whole_packets(self) -> Iterator[Any]:
        """Yield all packets, without an incomplete last one if the stream has no index."""
        if not self._facts.continuous:
            yield from self._packets()
            return
        held = None
        for packet in self._packets():
            # an empty packet marks the end of the stream (PyAV's flush packet)
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
                if self.info.codec == "opus" and self._facts.miscounts_skip:
                    _correct_skip(packet, opus_pre_skip(self._stream))
                yield packet
            if self._source.failure is not None and not self._complete:
                raise self._damaged("can't be read")
        except (av.error.FFmpegError, MemoryError) as error:
            if self._complete:
                return  # all audio is there; the failure is in what follows it, such as a tag
            raise self._damaged(getattr(error, "strerror", None) or "out of memory") from None
        except IndexError:
            # FFmpeg may find further streams while demuxing; PyAV only knows those found at the start
            raise self._damaged("another stream begins on the way") from None

    def _samples(self, frame: Any) -> Iterator[Array]:
        """Yield a frame's samples, [C, n], at the rate and with the channels of the file's first frame."""
        layout = _kept_alive(frame.layout)
        samples = to_float(frame)
        if (frame.sample_rate, layout.nb_channels) != self._input_format:
            yield from self._change_to(frame.sample_rate, layout.nb_channels)
        if layout.nb_channels != self.info.channels:
            try:
                samples = convert_channels(samples, self.info.channels, layout_name(layout))
            except StemsplitError:
                change = f"{self.info.channels} channels become {layout.nb_channels}"
                raise self._damaged(f"{change} on the way") from None
        yield self._counted(self._resampler.push(samples))
        if frame.pts is not None:
            self._last_frame = frame.pts, frame.samples

    def _change_to(self, sample_rate: int, channels: int) -> Iterator[Array]:
        """Continue with another sample rate or number of channels, which concatenated files may have."""
        yield self._counted(self._resampler.finish())
        if not self._changed:
            self._changed = True
            self.notices.append(
                f"changes its sample rate or channels at {self._done / self.info.sample_rate:.1f} s; "
                f"read on as {self.info.sample_rate} Hz, {self.info.channels} channels"
            )
        self._input_format = sample_rate, channels
        self._resampler = self._new_resampler()

    def _new_resampler(self) -> Resampler:
        return Resampler(self.info.channels, self._input_format[0], self.info.sample_rate)

    def _counted(self, samples: Array) -> Array:
        self._done += samples.shape[1]
        return samples

    @property
    def _complete(self) -> bool:
        """Return whether all the samples that the container declares are decoded."""
        return self._facts.length != "estimate" and self._done == self.info.frames

    def _require_whole(self) -> None:
        """Fail if the file was cut short; add a notice if the declared length is wrong.

        In MP4 and Ogg the declared length may or may not include the encoder's padding, so there only a
        length that is too long is wrong.
        """
        info = self.info
        if info.frames is None or self._facts.length == "estimate":
            return
        in_header = self._facts.length == "header"
        declared = info.frames - round(self._gaps.total_s(self._stream.time_base) * info.sample_rate)
        claim = claimed_samples(declared, self._done, info.sample_rate, ends_on_frame=in_header)
        notice = claim.check(info.path)
        if notice and (in_header or claim.declared - claim.present > claim.slack):
            self.notices.append(notice)

    def _padding(self) -> int:
        """Return the number of samples at the end that only fill the encoder's last packets; 0 if unknown."""
        info = self.info
        gapless = info.frames is not None and info.frames == gapless_count(self._container)
        if info.frames is not None and (gapless or self._facts.padding == "count"):
            return self._plausible(Fraction(self._done - info.frames, info.sample_rate))
        if self._facts.padding != "end":
            return 0
        # the muxer shortens the last packet's duration to the samples that are to be played
        pts, samples = self._last_frame
        excess = (pts - self._packets_end) * self._stream.time_base
        return self._plausible(excess + Fraction(samples, info.sample_rate))

    def _plausible(self, excess_s: Fraction) -> int:
        return round(excess_s * self.info.sample_rate) if 0 < excess_s < PADDING_S else 0

    def _damaged(self, detail: str) -> InputError:
        if self._source.failure is not None:
            detail = self._source.failure.strerror or detail
        return damaged(self.info.path, self._done / self.info.sample_rate, detail)

    def close(self) -> None:
        """Close the file."""
        self._container.close()


def open_container(source: FileRange, name: Path, *, header_only: bool = False) -> Any:
    """Open a media file as a PyAV container; FFmpeg opens no other file or connection for it.

    Args:
        source: the file's bytes.
        name: the file in messages.
        header_only: don't examine the audio, which takes 24 of the 25 ms that a 16-bit WAV file takes.

    Raises:
        InputError: FFmpeg doesn't know the file's format, or can't read the file.
    """
    try:
        options = {**_OPTIONS, **({"probesize": _HEADER_BYTES} if header_only else {})}
        return av.open(source, "r", container_options=options, metadata_errors="replace")
    except (av.error.FFmpegError, MemoryError, UnicodeError) as error:
        # format_whitelist refuses other demuxers with EINVAL, whose text would mislead
        unlisted = getattr(error, "errno", None) == errno.EINVAL
        cause = source.failure or (None if unlisted else error)
        detail = getattr(cause, "strerror", None)
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
    if context is not None and _codec_tag(context) in _PROTECTED:
        raise InputError(
            name,
            "protected by DRM",
            hint="only its shop's player can decode it",
        )
    if context is None:
        raise InputError(name, "has audio in a codec that can't be decoded here")
    return chosen


def _codec_tag(context: Any) -> str:
    """Return the four-character code of a stream's codec, empty for a number, which some containers have."""
    try:
        return str(context.codec_tag)
    except UnicodeDecodeError:  # PyAV takes the bytes for ASCII
        return ""


def _describe(container: Any, stream: Any, name: Path) -> AudioInfo:
    context = stream.codec_context
    layout = _kept_alive(context.layout)
    if not context.sample_rate or not layout.nb_channels:
        raise InputError(name, "damaged (no sample rate or channels in its header)")
    audio, codec = list(container.streams.audio), context.codec.canonical_name
    return AudioInfo(
        path=name,
        sample_rate=context.sample_rate,
        channels=layout.nb_channels,
        frames=declared_frames(container, stream),
        container=container_name(container),
        codec=codec,
        layout=layout_name(layout) or (UNKNOWN_LAYOUT if codec in _STATE_LAYOUT else None),
        stream=audio.index(stream),
        streams=len(audio),
        estimated=not is_exact(container, stream),
    )


def _kept_alive(layout: Any) -> Any:
    """Return the layout, with an extra reference if PyAV would free it twice.

    PyAV 18.1 copies a layout without the list of channels that an unusual order needs, such as
    FL FR FC LFE SL SR BC in a MOV; both owners free the list, and the process dies.
    """
    if "channels (" in layout.name:
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(layout))
    return layout


def _correct_skip(packet: Any, pre_skip: int) -> None:
    """Make the decoder skip `pre_skip` samples; FFmpeg 8 counts them at the rate before encoding."""
    if packet.size and packet.has_sidedata("skip_samples"):
        skip = packet.get_sidedata("skip_samples")
        content = bytes(skip)  # AV_PKT_DATA_SKIP_SAMPLES: u32 at the start, u32 at the end, two reasons
        if any(content[:4]):
            skip.update(pre_skip.to_bytes(4, "little") + content[4:])
            packet.set_sidedata(skip)


def to_float(frame: Any) -> Array:
    """Return an audio frame of any sample format as float32 [C, n] in -1 … 1."""
    channels = _kept_alive(frame.layout).nb_channels
    if frame.format.is_planar and channels >= _UNSAFE_PLANES:
        (frame,) = av.AudioResampler(format=frame.format.packed, layout=frame.layout).resample(frame)
    if frame.format.name.startswith("s64"):  # for which PyAV has no array
        (frame,) = av.AudioResampler(format="dbl", layout=frame.layout).resample(frame)
    samples = frame.to_ndarray()  # planar: [C, n]; packed: [1, n·C]
    if not frame.format.is_planar:
        samples = samples.reshape(-1, channels).T  # [1, n·C] -> [C, n]
    kind = frame.format.name.removesuffix("p")
    scaled = np.ascontiguousarray(samples, dtype=np.float32)
    if kind == "u8":
        scaled -= 128  # unsigned: silence is 128
    return scaled if _SCALE[kind] == 1 else scaled * np.float32(_SCALE[kind])
