"""Ogg Vorbis, encoded by libsndfile: FFmpeg's own Vorbis encoder is no match for it."""

from collections.abc import Mapping

import numpy as np
import soundfile

from stemsplit.audio.decoding import Array
from stemsplit.audio.regroup import Regrouper
from stemsplit.audio.sink import Sink
from stemsplit.audio.tags import Tags
from stemsplit.audio.tags.vorbis import CommentRewriter, picture_comment
from stemsplit.formats import FORMATS
from stemsplit.settings import OutputSettings

# libvorbis's nominal bit rates of stereo at 44.1 kHz for its qualities 0, 0.1 … 1
_KBIT_PER_S = (64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 500)
# the encoder's choice of windows depends on how much it is given at once
_PACKET = 4096


class OggEncoder:
    """Samples [C, n] in, one Ogg Vorbis file out.

    Args:
        sink: the file.
        sample_rate: in Hz.
        channels: how many.
        settings: the bit rate; the encoder's quality that comes to it is taken.
        tags: become its comments, the cover too.
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
            subtype=fmt.encoding(settings.bit_depth).codec,
            compression_level=1 - vorbis_quality(settings.bits_per_s or 0),
        )

    def write(self, block: Array) -> None:
        """Encode the next block [C, n]."""
        for samples in self._packets.push(block):
            self._file.write(np.ascontiguousarray(samples.T))

    def finish(self) -> None:
        """Encode what the codec holds, and complete the file."""
        for samples in self._packets.finish():
            self._file.write(np.ascontiguousarray(samples.T))
        self._file.close()

    def abandon(self) -> None:
        """Let go of the encoder."""
        self._file.close()


def vorbis_quality(bits_per_s: int) -> float:
    """The quality of libvorbis, from 0 to 1, whose nominal bit rate of stereo at 44.1 kHz this is."""
    return float(np.interp(bits_per_s / 1000, _KBIT_PER_S, np.linspace(0, 1, len(_KBIT_PER_S))))


def _comments(tags: Tags, native: Mapping[str, str]) -> dict[str, str]:
    comments = tags.metadata(native)
    return comments if tags.cover is None else {**comments, **picture_comment(tags.cover)}
