"""A track's outputs on their way to their final names: written aside, then published together.

Every file grows as a part beside its place (see `stemsplit.files`). The final names appear only once all of
the track's files are complete; two processes that want the same file are kept apart.
"""

import math
import os
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from itertools import takewhile
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from stemsplit.audio.tags import Tags
from stemsplit.audio.writer import Writer, open_writer
from stemsplit.errors import OutputError, ResourceError
from stemsplit.files import PartFile, os_errors, part_of, remove
from stemsplit.settings import OutputSettings

Audio = NDArray[np.float32]
LIMIT = 1 - 2.0**-15  # the largest sample that every integer format can hold
BLOCK_SAMPLES = 1 << 16


def scratch_of(path: Path) -> Path:
    """Where the samples of `path` wait in float32 until the track's peak is known."""
    return path.with_name(f".{path.name}.f32.part")


@contextmanager
def _as_final(path: Path) -> Iterator[None]:
    """Give errors about the part of `path` its final name."""
    try:
        yield
    except OutputError as error:
        raise OutputError(path, error.reason, hint=error.hint) from None
    except ResourceError as error:
        reason = error.reason.replace(os.fspath(part_of(path)), os.fspath(path))
        raise ResourceError(reason, hint=error.hint) from None


class TrackFiles:
    """The files of one track: `open`, `write`, `publish`; and `close`, which removes what isn't published.

    Args:
        files: the final path of each output, in the order of the blocks' first axis.
        sample_rate: of the outputs, in Hz.
        channels: of the outputs.
        settings: format, and what to do about peaks.
    """

    def __init__(
        self,
        files: Mapping[str, Path],
        sample_rate: int,
        channels: int,
        settings: OutputSettings,
    ) -> None:
        self.files, self.sample_rate, self.channels = dict(files), sample_rate, channels
        self.settings, self.tags = settings, dict[str, Tags]()
        self.peak, self.frames, self.gain = 0.0, 0, 1.0
        # An integer format can't be written before the peak of the whole track is known.
        self.held = settings.clip == "common" and not settings.is_float
        self.parts: list[PartFile] = []
        self.writers: list[Writer] = []
        self.scratch: list[BinaryIO] = []
        self.cleanup = ExitStack()
        # Known before any track of a batch makes its folders: of those in common the last track takes care.
        self.new_folders = {path: _missing_folders(path) for path in self.files.values()}

    @property
    def gain_db(self) -> float:
        """The gain that all outputs have in common; known once they are published."""
        return 20 * math.log10(self.gain)

    def open(self, tags: Mapping[str, Tags]) -> None:
        """Make the part files.

        Args:
            tags: to be written, by output.

        Raises:
            OutputError: they can't be made, or another process is making them.
        """
        self.tags.update(tags)
        for path in self.files.values():
            for folder in self.new_folders[path]:
                self.cleanup.callback(_remove_if_empty, folder)
            part = PartFile(path)
            self.parts.append(part)
            self.cleanup.callback(part.discard)
            self.cleanup.callback(remove, scratch_of(path))
        if self.held:
            self.scratch = [self._scratch(path) for path in self.files.values()]
        else:
            self.writers = [self._writer(name) for name in self.files]

    def _writer(self, name: str) -> Writer:
        with _as_final(self.files[name]):
            writer = open_writer(
                part_of(self.files[name]),
                self.sample_rate,
                self.channels,
                self.settings,
                frames=self.frames if self.held else None,
                tags=self.tags.get(name),
            )
        self.cleanup.callback(writer.abort)
        return writer

    def _scratch(self, path: Path) -> BinaryIO:
        with os_errors(path):
            handle = open(scratch_of(path), "w+b")
        self.cleanup.callback(_let_go, handle)
        return handle

    def write(self, block: Audio) -> None:
        """Append [O, C, n].

        Raises:
            ResourceError: the disk is full.
            OutputError: it can't be written for another reason.
        """
        self.frames += block.shape[-1]
        if block.size:
            self.peak = max(self.peak, float(np.abs(block).max()))
        for writer, path, samples in zip(self.writers, self.files.values(), block, strict=False):
            with _as_final(path):
                writer.write(samples)
        for handle, path, samples in zip(self.scratch, self.files.values(), block, strict=False):
            with os_errors(path):
                handle.write(np.ascontiguousarray(samples.T).tobytes())
                handle.flush()  # a full disk is to show here

    def publish(self) -> None:
        """Complete all files, then give them their final names."""
        if self.held:
            self.gain = min(1.0, LIMIT / self.peak) if self.peak > 0 else 1.0
            for name, handle in zip(self.files, self.scratch, strict=True):
                self._encode(name, handle)
        for writer, path in zip(self.writers, self.files.values(), strict=False):
            with _as_final(path):
                writer.close()
        for part in self.parts:
            part.publish()
        self.close()

    def _encode(self, name: str, handle: BinaryIO) -> None:
        writer = self._writer(name)
        handle.seek(0)
        with _as_final(self.files[name]):
            while data := handle.read(BLOCK_SAMPLES * self.channels * 4):
                samples = np.frombuffer(data, np.float32).reshape(-1, self.channels).T
                writer.write(samples if self.gain == 1 else samples * np.float32(self.gain))
            writer.close()

    def close(self) -> None:
        """Remove whatever isn't published."""
        self.cleanup.close()


def _missing_folders(path: Path) -> list[Path]:
    """Return the folders above `path` that have yet to be made, outermost first."""
    return [*takewhile(lambda folder: not os.path.exists(folder), path.parents)][::-1]


def _let_go(handle: BinaryIO) -> None:
    # Ignore a failed flush on a full disk: the file is being discarded.
    with suppress(OSError):
        handle.close()


def _remove_if_empty(folder: Path) -> None:
    with suppress(OSError):
        folder.rmdir()
