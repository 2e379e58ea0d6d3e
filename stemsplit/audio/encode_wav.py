"""WAV files: the header is corrected at the end, and becomes RF64 where the sizes outgrow 32 bits."""

from stemsplit.audio.sink import Sink
from stemsplit.audio.source import Array
from stemsplit.audio.tags import Tags, id3_chunk
from stemsplit.audio.wavstream import pcm_bytes, wav_header

# the audio bytes from which room for RF64's sizes is kept, well below the 2^32 that needs it
_ROOM_FROM_BYTES = 1 << 31
_MOST_SAMPLE_BYTES = 4


class WavEncoder:
    """Samples [C, n] in, one WAV file out.

    Args:
        sink: the file.
        sample_rate: in Hz.
        channels: how many.
        bit_depth: as in `OutputSettings`.
        frames: how many samples per channel are expected, None for any number.
        tags: go behind the audio.
    """

    def __init__(
        self, sink: Sink, sample_rate: int, channels: int, bit_depth: str, frames: int | None, tags: Tags
    ) -> None:
        self._sink, self._rate, self._channels, self._depth = sink, sample_rate, channels, bit_depth
        self._reserve = frames is None or frames * channels * _MOST_SAMPLE_BYTES >= _ROOM_FROM_BYTES
        self._trailer = id3_chunk(tags, "<")
        self._frames = self._bytes = 0
        sink.write(self._header())

    def write(self, block: Array) -> None:
        """Append a block [C, n]."""
        data = pcm_bytes(block, self._depth)
        self._frames += block.shape[1]
        self._bytes += len(data)
        self._sink.write(data)

    def finish(self) -> None:
        """Pad, append the tags, and write the header again with the true sizes."""
        self._sink.write(bytes(self._bytes % 2) + self._trailer)
        self._sink.seek(0)
        self._sink.write(self._header())

    def abandon(self) -> None:
        """There is nothing to let go of."""

    def _header(self) -> bytes:
        return wav_header(
            self._rate,
            self._channels,
            self._depth,
            self._frames,
            trailing_bytes=len(self._trailer),
            reserve=self._reserve,
        )
