"""Base class of the decoders, and the description of an audio stream that they give."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
import numpy.typing as npt

from stemsplit.errors import InputError

Array = npt.NDArray[np.float32]

GET_AGAIN_HINT = "get the file again, or export it again"
REPAIR_HINT = "get the file again, or save what is left of it: ffmpeg -i FILE repaired.flac"


@dataclass(frozen=True)
class AudioInfo:
    """Description of one audio stream, as its file declares it.

    Attributes:
        path: the file, under its name in errors.
        sample_rate: in Hz.
        channels: number of channels.
        frames: declared samples per channel, None if the file declares none; the true number may differ.
        container: such as "wav", "mp3" or "mov".
        codec: such as "pcm_16", "mp3" or "aac".
        layout: FFmpeg's name of the loudspeakers ("stereo", "5.1(side)"), None if unknown.
        stream: index of the audio stream in the file, from 0.
        streams: number of audio streams in the file.
        estimated: whether `frames` is inexact: computed from a bit rate, rounded, or off by a packet.
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
        """Declared length in seconds, None if none is declared."""
        return None if self.frames is None else self.frames / self.sample_rate


class Decoder(ABC):
    """Decoder of one audio stream, from its start or from the position of `seek`.

    Attributes:
        info: description of the stream, as the file declares it.
        notices: remarks for the user, such as a wrong length in the header; complete after the last piece.
    """

    info: AudioInfo
    notices: list[str]

    def seek(self, frame: int) -> int:
        """Move towards sample `frame` before the first piece is read; return the position, at most `frame`.

        By default it stays at the start: for most codecs, only decoding counts samples exactly.
        """
        return 0

    @abstractmethod
    def pieces(self) -> Iterator[Array]:
        """Yield the audio from the position on, in order: float32 [C, n], n depends on the codec.

        Raises:
            InputError: the audio is damaged or cut short.
        """

    @abstractmethod
    def close(self) -> None:
        """Close the file."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def damaged(path: Path, at_s: float, detail: str) -> InputError:
    """Return the error for a file whose audio can't be decoded at `at_s` seconds."""
    return InputError(path, f"damaged at {at_s:.1f} s ({detail})", hint=REPAIR_HINT)
