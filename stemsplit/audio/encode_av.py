"""Encoders of FFmpeg's libraries (PyAV): FLAC, MP3, Opus, AAC, ALAC and AIFF."""

from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import av
import numpy as np

from stemsplit.audio.formats import Format
from stemsplit.audio.sink import Sink
from stemsplit.audio.source import Array
from stemsplit.audio.wavstream import quantise
from stemsplit.settings import OutputSettings

# samples per packet where the codec leaves the choice (PCM)
_FREE_PACKET = 4096


@dataclass(frozen=True)
class _Encoding:
    """An FFmpeg encoder, and the sample format that it's fed."""

    codec: str
    sample_format: str


_INTEGER = {
    ("flac", "16"): _Encoding("flac", "s16"),
    ("flac", "24"): _Encoding("flac", "s32"),
    ("alac", "16"): _Encoding("alac", "s16p"),
    ("alac", "24"): _Encoding("alac", "s32p"),
    ("aiff", "16"): _Encoding("pcm_s16be", "s16"),
    ("aiff", "24"): _Encoding("pcm_s24be", "s32"),
    ("aiff", "32f"): _Encoding("pcm_f32be", "flt"),
}
_LOSSY = {
    "mp3": _Encoding("libmp3lame", "fltp"),
    "opus": _Encoding("libopus", "flt"),
    "m4a": _Encoding("aac", "fltp"),
}


class AvEncoder:
    """Samples [C, n] in, one encoded file out.

    Raises:
        FFmpegError: the encoder doesn't take this rate or these channels.
    """

    def __init__(
        self,
        sink: Sink,
        sample_rate: int,
        channels: int,
        target: Format,
        settings: OutputSettings,
        metadata: dict[str, str],
    ) -> None:
        lossless = _INTEGER.get((target.name, settings.bit_depth))
        self._encoding = lossless or _LOSSY[target.name]
        self._bits = 0 if target.name in _LOSSY or settings.bit_depth == "32f" else int(settings.bit_depth)
        self._rate, self._channels = sample_rate, channels
        self._container = av.open(sink, "w", format=target.container, options=_options(target))
        self._container.metadata.update(metadata)
        self._stream = self._add_stream(settings.bits_per_s if target.name in _LOSSY else None)
        self._container.start_encoding()
        self._packet = self._stream.codec_context.frame_size or _FREE_PACKET
        self._held = np.zeros((channels, 0), np.float32)
        self._position = 0

    def _add_stream(self, bits_per_s: int | None) -> Any:
        stream: Any = self._container.add_stream(self._encoding.codec, rate=self._rate)
        context = stream.codec_context
        context.layout = _layout(self._channels)
        context.format = self._encoding.sample_format
        context.time_base = Fraction(1, self._rate)
        if bits_per_s is not None:
            context.bit_rate = bits_per_s
        return stream

    def write(self, block: Array) -> None:
        """Encode the next block [C, n]."""
        joined = np.concatenate([self._held, block], axis=1)
        whole = joined.shape[1] - joined.shape[1] % self._packet
        for start in range(0, whole, self._packet):
            self._encode(joined[:, start : start + self._packet])
        self._held = joined[:, whole:].copy()

    def finish(self) -> None:
        """Encode what is held and write the file's end."""
        if self._held.shape[1]:
            self._encode(self._held)
        self._container.mux(self._stream.encode(None))
        self._container.close()

    def abandon(self) -> None:
        """Let go of the encoder; the file stays incomplete."""
        self._container.close()

    def _encode(self, samples: Array) -> None:
        frame = av.AudioFrame.from_ndarray(
            self._pack(samples), format=self._encoding.sample_format, layout=_layout(self._channels)
        )
        frame.sample_rate = self._rate
        frame.time_base = Fraction(1, self._rate)
        frame.pts = self._position
        self._position += samples.shape[1]
        self._container.mux(self._stream.encode(frame))

    def _pack(self, samples: Array) -> Any:
        """[C, n] float as the sample format wants it: integers left-justified, packed formats interleaved."""
        packed: Any = samples
        if self._bits == 16:
            packed = quantise(samples, 16).astype(np.int16)
        elif self._bits == 24:
            packed = quantise(samples, 24).astype(np.int32) << 8
        if not self._encoding.sample_format.endswith("p"):
            packed = packed.T.reshape(1, -1)
        return np.ascontiguousarray(packed)


def _layout(channels: int) -> str:
    return {1: "mono", 2: "stereo", 6: "5.1", 8: "7.1"}.get(channels) or f"{channels} channels"


def _options(target: Format) -> dict[str, str]:
    return {"write_id3v2": "1"} if target.name == "aiff" else {}
