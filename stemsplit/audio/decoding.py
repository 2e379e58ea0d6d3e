"""The base of the decoders: a description of the audio, and a stream of its pieces."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
import numpy.typing as npt

from stemsplit.errors import InputError

Array = npt.NDArray[np.float32]

AGAIN = "get the file again, or export it again"
REPAIR = "get the file again, or save what is left of it: ffmpeg -i FILE repaired.flac"


@dataclass(frozen=True)
class AudioInfo:
    """A file's description of one of its audio streams.

    Attributes:
        path: the file, under the name that errors give it.
        sample_rate: in Hz.
        channels: how many.
        frames: samples per channel that it declares, None where it declares none; only reading counts.
        container: such as "wav", "mp3" or "mov".
        codec: such as "pcm_16", "mp3" or "aac".
        layout: the loudspeakers in FFmpeg's words ("stereo", "5.1(side)"), None where nothing tells.
        stream: which of the file's audio streams, from 0.
        streams: how many audio streams the file has.
        estimated: whether `frames` is no exact count: worked out from a bit rate, rounded or off by a packet.
    """

    path: Path
    sample_rate: int
    channels: int
    frames: int | None
    container: str
    codec: str
    layout: str | None = None
    stream: int = 0
    streams: int = 1
    estimated: bool = False

    @property
    def duration_s(self) -> float | None:
        """The declared length in seconds, None where none is declared."""
        return None if self.frames is None else self.frames / self.sample_rate


class Decoder(ABC):
    """A file being decoded from its first sample, or from the one that was sought.

    Attributes:
        info: what the file declares.
        notices: what a person should know about it; complete once all pieces are taken.
    """

    info: AudioInfo
    notices: list[str]

    def seek(self, frame: int) -> int:
        """Move towards `frame` before the first piece is taken; return where that led, at most `frame`.

        By default that is the start: of most codecs, only decoding counts samples exactly.
        """
        return 0

    @abstractmethod
    def pieces(self) -> Iterator[Array]:
        """Yield the audio from the position on, in order, [C, n] with n as the codec pleases.

        Raises:
            InputError: the audio is damaged, or ends before it should.
        """

    @abstractmethod
    def close(self) -> None:
        """Let go of the file."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def damaged(path: Path, at_s: float, detail: str) -> InputError:
    """Return the error of a file whose audio can't be decoded at `at_s` seconds."""
    return InputError(path, f"damaged at {at_s:.1f} s ({detail})", hint=REPAIR)
