"""Encoder of FFmpeg's libraries (PyAV): FLAC, MP3, Opus, AAC, ALAC, AIFF, and files of several streams."""

from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import av
import numpy as np
from av.stream import Disposition

from stemsplit.audio.decoding import Array
from stemsplit.audio.regroup import Regrouper
from stemsplit.audio.sink import Sink
from stemsplit.audio.tags import Tags
from stemsplit.audio.tags.covers import attach_cover, attach_file
from stemsplit.audio.tags.mp4 import append_to_moov
from stemsplit.audio.tags.stem_box import stem_box
from stemsplit.audio.tags.vorbis import picture_comment
from stemsplit.audio.wav import quantise
from stemsplit.formats import BIT_DEPTHS, FORMATS, Format
from stemsplit.settings import OutputSettings

# Samples per packet for codecs without a frame size (PCM)
_PCM_PACKET = 4096


class AvEncoder:
    """Encoder of samples [S·C, n] into one file with S streams, in any format but WAV and Ogg Vorbis.

    Args:
        sink: the file.
        sample_rate: in Hz.
        channels: C.
        settings: format, bit depth and bit rate.
        tags: written if the format supports them.
        layout: FFmpeg's name of the loudspeakers, None for the usual layout.
        stems: names of the streams after the first one, which is the mixture.
        form: a row in place of the one that the settings name.

    Raises:
        FFmpegError: the encoder doesn't support this sample rate or these channels.
    """

    def __init__(
        self,
        sink: Sink,
        sample_rate: int,
        channels: int,
        settings: OutputSettings,
        tags: Tags,
        layout: str | None = None,
        stems: Sequence[str] = (),
        form: Format | None = None,
    ) -> None:
        self._layout = layout or _layout(channels)
        self._format, self._encoding = form or FORMATS[settings.format], settings.encoding
        takes_float = settings.bits_per_s is not None or settings.is_float
        self._bits = 0 if takes_float else BIT_DEPTHS[settings.bit_depth]
        self._sink, self._rate, self._channels = sink, sample_rate, channels
        self._tags, self._stems = tags, stems
        options = {key: value.format(rate=sample_rate) for key, value in self._format.options.items()}
        self._container = av.open(sink, "w", format=self._format.container, options=options)
        self._streams = [self._add_stream(settings.bits_per_s) for _ in range(1 + len(stems))]
        self._name_streams()
        self._start(tags)
        self._packets = Regrouper(self._streams[0].codec_context.frame_size or _PCM_PACKET)
        self._position = 0

    def _add_stream(self, bits_per_s: int | None) -> Any:
        stream: Any = self._container.add_stream(
            self._encoding.codec, rate=self._rate, options=dict(self._encoding.options)
        )
        context = stream.codec_context
        context.layout = self._layout
        context.format = self._encoding.sample_format
        context.time_base = Fraction(1, self._rate)
        if bits_per_s is not None:
            context.bit_rate = self._format.nearest_bitrate(bits_per_s, self._rate, self._channels)
        return stream

    def _name_streams(self) -> None:
        """Name the stems, and make players choose the mixture, which stays without a name."""
        key = "handler_name" if self._format.tagging == "boxes" else "title"
        for stream, name in zip(self._streams[1:], self._stems, strict=True):
            stream.metadata[key] = name
            stream.disposition = Disposition(0)
        if self._stems:
            self._streams[0].disposition = Disposition.default

    def _start(self, tags: Tags) -> None:
        """Write the header, with the tags that FFmpeg's muxer can write."""
        tagging = self._format.tagging
        if tagging != "chunk":
            self._container.metadata.update(tags.metadata(self._format.native_tags))
        if tagging == "comment" and tags.cover is not None:
            self._container.metadata.update(picture_comment(tags.cover))
        if tagging == "attachment" and tags.cover is not None:
            attach_file(self._container, tags.cover)
        picture = attach_cover(self._container, tags.cover) if tagging == "picture" else None
        self._container.start_encoding()
        if picture is not None:
            self._container.mux(picture)

    def write(self, block: Array) -> None:
        """Encode the next block [S·C, n]."""
        for samples in self._packets.push(block):
            self._encode(samples)

    def finish(self) -> None:
        """Encode the remaining samples and complete the file."""
        for samples in self._packets.finish():
            self._encode(samples)
        for stream in self._streams:
            self._container.mux(stream.encode(None))
        self._conclude()
        self._sink.check()  # the steps below read the file back, which needs every byte in it
        if self._format.tagging == "boxes":
            append_to_moov(self._sink, (b"udta", b"meta", b"ilst"), self._tags.mp4_boxes())
            if self._stems:
                append_to_moov(self._sink, (b"udta",), stem_box(self._stems))
        elif self._format.tagging == "chunk":
            _append_chunk(self._sink, self._tags.id3_chunk(">"))

    def _conclude(self) -> None:
        self._container.close()

    def abandon(self) -> None:
        """Close the encoder; the file stays incomplete."""
        self._container.close()

    def _encode(self, samples: Array) -> None:
        """Encode samples of all streams, [S·C, n]."""
        for stream, own in zip(self._streams, np.split(samples, len(self._streams)), strict=True):  # [C, n]
            frame = av.AudioFrame.from_ndarray(
                self._pack(own), format=self._encoding.sample_format, layout=self._layout
            )
            frame.sample_rate = self._rate
            frame.time_base = Fraction(1, self._rate)
            frame.pts = self._position
            self._container.mux(stream.encode(frame))
        self._position += samples.shape[1]

    def _pack(self, samples: Array) -> Any:
        """Convert float [C, n] to the sample format: integers left-justified, packed formats interleaved."""
        packed: Any = samples
        if self._bits == 16:
            packed = quantise(samples, 16).astype(np.int16)
        elif self._bits == 24:
            packed = quantise(samples, 24).astype(np.int32) << 8  # s32, whose 8 lowest bits stay 0
        if not self._encoding.sample_format.endswith("p"):
            packed = packed.T.reshape(1, -1)  # [C, n] -> [1, n·C]
        return np.ascontiguousarray(packed)


def _layout(channels: int) -> str:
    return {1: "mono", 2: "stereo", 6: "5.1", 8: "7.1"}.get(channels) or f"{channels} channels"


def _append_chunk(sink: Sink, chunk: bytes) -> None:
    """Append a chunk to an AIFF file, and enlarge its FORM chunk by it."""
    size = sink.seek(0, 2)
    sink.write(chunk)
    sink.seek(4)
    sink.write((size + len(chunk) - 8).to_bytes(4, "big"))  # without FORM's own 8-byte header
