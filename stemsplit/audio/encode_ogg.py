"""Encoder of Ogg Vorbis by libsndfile (libvorbis), because FFmpeg's own Vorbis encoder is experimental."""

from collections.abc import Mapping

import numpy as np
import soundfile

from stemsplit.audio.decoding import Array
from stemsplit.audio.regroup import Regrouper
from stemsplit.audio.sink import Sink
from stemsplit.audio.tags import Tags
from stemsplit.audio.tags.vorbis import CommentRewriter, picture_comment
from stemsplit.formats import FORMATS, VORBIS_KBIT_PER_S
from stemsplit.settings import OutputSettings

# Packets of one length, because libvorbis' choice of windows depends on how much it is given at once
_PACKET = 4096


class OggEncoder:
    """Encoder of samples [C, n] into one Ogg Vorbis file.

    Args:
        sink: the file.
        sample_rate: in Hz.
        channels: C.
        settings: the bit rate, which is converted to the encoder's quality.
        tags: written as Vorbis comments, the cover too.
    """

    def __init__(
        self, sink: Sink, sample_rate: int, channels: int, settings: OutputSettings, tags: Tags
    ) -> None:
        fmt = FORMATS[settings.format]
        self._packets = Regrouper(_PACKET)
        self._file = soundfile.SoundFile(
            CommentRewriter(sink, _comments(tags, fmt.native_tags)),
            "w",
            samplerate=sample_rate,
            channels=channels,
            format=fmt.container,
            subtype=settings.encoding.codec,
            # libsndfile takes the quality as 1 - compression_level
            compression_level=1 - vorbis_quality(settings.bits_per_s or 0),
        )

    def write(self, block: Array) -> None:
        """Encode the next block [C, n]."""
        for samples in self._packets.push(block):
            self._file.write(np.ascontiguousarray(samples.T))  # [C, n] -> [n, C]

    def finish(self) -> None:
        """Encode the remaining samples and complete the file."""
        for samples in self._packets.finish():
            self._file.write(np.ascontiguousarray(samples.T))  # [C, n] -> [n, C]
        self._file.close()

    def abandon(self) -> None:
        """Close the encoder; the file stays incomplete."""
        self._file.close()


def vorbis_quality(bits_per_s: int) -> float:
    """Return the quality of libvorbis, 0 to 1, with this nominal bit rate for stereo at 44.1 kHz."""
    qualities = np.linspace(0, 1, len(VORBIS_KBIT_PER_S))
    return float(np.interp(bits_per_s / 1000, VORBIS_KBIT_PER_S, qualities))


def _comments(tags: Tags, native: Mapping[str, str]) -> dict[str, str]:
    comments = tags.metadata(native)
    return comments if tags.cover is None else {**comments, **picture_comment(tags.cover)}
