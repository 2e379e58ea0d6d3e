"""Ogg Vorbis, encoded by libsndfile: FFmpeg's own Vorbis encoder is no match for it."""

import numpy as np
import soundfile

from stemsplit.audio.decoding import Array
from stemsplit.audio.regroup import Regrouper
from stemsplit.audio.sink import Sink
from stemsplit.audio.tags import Tags
from stemsplit.audio.tags.vorbis import CommentRewriter, picture_comment

# libvorbis's nominal bit rates of stereo at 44.1 kHz for its qualities 0, 0.1 … 1
_KBIT_PER_S = (64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 500)
_COMMENT_NAMES = {"album_artist": "ALBUMARTIST", "track": "TRACKNUMBER", "disc": "DISCNUMBER"}
# the encoder's choice of windows depends on how much it is given at once
_PACKET = 4096


class OggEncoder:
    """Samples [C, n] in, one Ogg Vorbis file out.

    Args:
        sink: the file.
        sample_rate: in Hz.
        channels: how many.
        bits_per_s: of stereo; the encoder's quality that comes to it is taken.
        tags: become its comments, the cover too.
    """

    def __init__(self, sink: Sink, sample_rate: int, channels: int, bits_per_s: int, tags: Tags) -> None:
        self._packets = Regrouper(_PACKET)
        self._file = soundfile.SoundFile(
            CommentRewriter(sink, _comments(tags)),
            "w",
            samplerate=sample_rate,
            channels=channels,
            format="OGG",
            subtype="VORBIS",
            compression_level=1 - vorbis_quality(bits_per_s),
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


def _comments(tags: Tags) -> dict[str, str]:
    comments = {_COMMENT_NAMES.get(name, name): text for name, text in tags.metadata("ogg").items()}
    return comments if tags.cover is None else {**comments, **picture_comment(tags.cover)}
