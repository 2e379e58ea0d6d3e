"""Sources of audio, from a file or an array, and the rate and channels of the outputs.

A source is read in blocks, from its beginning, as often as needed: once to measure it and once to separate
it.
"""

from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from stemsplit.audio.input_file import InputFile
from stemsplit.audio.reader import AudioInfo, open_audio
from stemsplit.audio.tags import Tags, read_tags
from stemsplit.formats import find_format
from stemsplit.settings import OutputSettings

Audio = NDArray[np.float32]


class Source(Protocol):
    """Audio that can be read from its beginning as often as needed."""

    @property
    def sample_rate(self) -> int:
        """The sample rate in Hz."""
        ...

    @property
    def channels(self) -> int:
        """The number of audio channels."""
        ...

    @property
    def layout(self) -> str | None:
        """The channel layout (loudspeakers); None if unknown."""
        ...

    @property
    def notices(self) -> Sequence[str]:
        """Notices about the audio; complete once it was read to its end."""
        ...

    def blocks(self) -> Iterator[Audio]:
        """Yield consecutive blocks, [C, any]."""
        ...


@dataclass(frozen=True)
class ArraySource:
    """Audio in memory, [C, T]."""

    audio: Audio
    sample_rate: int
    layout: str | None = None
    notices: Sequence[str] = ()

    @property
    def channels(self) -> int:
        """The number of audio channels."""
        return len(self.audio)

    @property
    def duration_s(self) -> float:
        """The length in seconds."""
        return float(self.audio.shape[-1] / self.sample_rate)

    def blocks(self) -> Iterator[Audio]:
        """Yield the whole array as one block, [C, T]."""
        yield self.audio


@dataclass(frozen=True)
class FileSource:
    """A range of an audio file.

    Attributes:
        path: the file.
        info: rate, channels and length from its header.
        start_s, end_s: the range in seconds; None for the file's beginning and end.
        notices: notices of the readings so far.
        file: the open file; None to open it for every reading.
    """

    path: Path
    info: AudioInfo
    start_s: float | None = None
    end_s: float | None = None
    notices: list[str] = field(default_factory=list, compare=False)
    file: InputFile | None = field(default=None, compare=False)

    @property
    def sample_rate(self) -> int:
        """The sample rate in Hz."""
        return self.info.sample_rate

    @property
    def channels(self) -> int:
        """The number of audio channels."""
        return self.info.channels

    @property
    def layout(self) -> str | None:
        """The channel layout (loudspeakers); None if the file doesn't declare it."""
        return self.info.layout

    @property
    def duration_s(self) -> float | None:
        """The length of the range in seconds; None if the file doesn't declare its length."""
        whole_s = self.info.duration_s
        if whole_s is None:
            return None
        return max(0.0, min(whole_s, self.end_s or whole_s) - (self.start_s or 0))

    @contextmanager
    def opened(self) -> Iterator["FileSource"]:
        """Open the file once for all readings in the `with` block.

        Raises:
            InputError: it can't be opened.
        """
        with InputFile(self.path, self.info.path) as file:
            yield replace(self, file=file)

    def tags(self) -> Tags:
        """Return the tags of the file and of the audio stream that is read."""
        return read_tags(self.file or self.path, stream=self.info.stream, name=self.info.path)

    def blocks(self) -> Generator[Audio, None, None]:
        """Decode the range and yield its blocks, [C, any]."""
        with open_audio(
            self.file or self.path,
            stream=self.info.stream,
            start_s=self.start_s,
            end_s=self.end_s,
            name=self.info.path,
        ) as reader:
            yield from reader.blocks()
            self.notices.extend(notice for notice in reader.notices if notice not in self.notices)


@dataclass(frozen=True)
class Shape:
    """Sample rate in Hz and channels of the outputs, and the channel layout of more than two channels."""

    sample_rate: int
    channels: int
    layout: str | None = None


def output_shape(source: Source, settings: OutputSettings) -> Shape:
    """Return the rate and channels that are asked for, or those of the source.

    To keep the rate means the nearest one that the format can hold, to keep the channels at most two. DJ
    programs expect stereo in a stem file.
    """
    form, rate, channels = find_format(settings.format), settings.sample_rate, settings.channels
    if rate == "keep":
        rate = form.nearest_rate(source.sample_rate)
    if channels == "each":
        return Shape(rate, source.channels, source.layout if source.channels > 2 else None)
    kept = 2 if form.slots else min(2, source.channels)
    return Shape(rate, kept if channels == "keep" else channels)
