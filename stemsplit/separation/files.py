"""Write the output files of a track under temporary names, and publish them together once all are complete.

Each file is written as a part file beside its final path (see `stemsplit.files`). The part file is locked, so
that two processes don't write the same file.
"""

import math
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from itertools import groupby, takewhile
from pathlib import Path
from typing import BinaryIO
from uuid import uuid4

import numpy as np
from numpy.typing import NDArray

from stemsplit.audio.film import Film
from stemsplit.audio.tags import Tags
from stemsplit.audio.writer import Writer, open_writer
from stemsplit.claims import Claims, Taken, claim_of
from stemsplit.errors import OutputError, ResourceError
from stemsplit.files import PartFile, os_errors, part_of, remove
from stemsplit.formats import FORMATS
from stemsplit.settings import OutputSettings

Audio = NDArray[np.float32]
LIMIT = 1 - 2.0**-15  # the largest sample that every integer format (16 bits and more) can hold
BLOCK_SAMPLES = 1 << 16  # frames that are read from a scratch file at a time


def scratch_of(path: Path) -> Path:
    """Return the scratch file in which the samples of `path` wait until the peak of the track is known."""
    return path.with_name(f".{path.name}.f32.part")


@contextmanager
def _as_final(path: Path) -> Iterator[None]:
    """Make errors about the part file of `path` name `path` instead."""
    try:
        yield
    except OutputError as error:
        raise OutputError(path, error.reason, hint=error.hint) from None
    except ResourceError as error:
        reason = error.reason.replace(os.fspath(part_of(path)), os.fspath(path))
        raise ResourceError(reason, hint=error.hint) from None


def clipped(samples: Audio, settings: OutputSettings) -> Audio:
    """Return samples of any shape without peaks above full scale if the settings cut them off."""
    return np.clip(samples, -1, 1) if settings.clip == "clamp" and settings.is_float else samples


class TrackFiles:
    """The output files of one track: call `open`, `write` for each block, `publish`, and always `close`.

    With a common gain and an integer format the samples are written to float32 scratch files first, and
    encoded in `publish` once the peak of all outputs is known.

    Args:
        files: the final path of each output, in the order of the blocks' first axis. Outputs of one path,
            which are neighbours, become the streams of one file.
        sample_rate: rate of the outputs in Hz.
        channels: channels of the outputs.
        settings: the format, and how clipping is avoided.
        layout: the channel layout of more than two channels.
        new_folders: for each file the folders to create, which are removed again if they stay empty; None for
            those that are missing now. In a batch they are found before any track creates one, so that the
            last track removes the folders that the tracks have in common.
        film: the film whose sound the only output is; None for files of sound.
    """

    def __init__(
        self,
        files: Mapping[str, Path],
        sample_rate: int,
        channels: int,
        settings: OutputSettings,
        layout: str | None = None,
        new_folders: Mapping[Path, Sequence[Path]] | None = None,
        film: Film | None = None,
    ) -> None:
        self.layout, self.film = layout, film
        self.files, self.sample_rate, self.channels = dict(files), sample_rate, channels
        self.outputs_of = {path: [*names] for path, names in groupby(self.files, self.files.__getitem__)}
        self.settings, self.tags = settings, dict[str, Tags]()
        self.peak, self.frames, self.gain = 0.0, 0, 1.0
        # Samples can't be quantised before the common gain, thus the peak of the whole track, is known.
        self.needs_peak = settings.clip == "common" and not settings.is_float
        self.parts: list[PartFile] = []
        self.writers: list[Writer] = []
        self.scratch: list[BinaryIO] = []
        self.cleanup = ExitStack()
        self.new_folders = new_folders or {path: missing_folders(path) for path in self.files.values()}

    @property
    def gain_db(self) -> float:
        """The gain that all outputs have in common, in dB; known once they are published."""
        return 20 * math.log10(self.gain)

    @property
    def other_bitrate(self) -> str | None:
        """A notice if the encoder doesn't take the bit rate that is asked for."""
        asked, form = self.settings.bitrate, FORMATS[self.settings.format]
        if asked is None or (real := form.nearest_bitrate(asked, self.sample_rate, self.channels)) == asked:
            return None
        kind = f"{'mono ' if self.channels == 1 else ''}{form.name} at {self.sample_rate} Hz"
        nearest = f"{real / 1000:g}k, the nearest that its encoder takes"
        return f"--bitrate {asked / 1000:g}k: {kind} gets {nearest}"

    def open(self, tags: Mapping[str, Tags]) -> None:
        """Create the part files.

        Args:
            tags: the tags to write, by output; a file of several outputs has those of the first.

        Raises:
            OutputError: a file can't be created, or another process is writing it.
        """
        self.tags.update(tags)
        for path in self.outputs_of:
            for folder in self.new_folders[path]:
                self.cleanup.callback(remove_if_empty, folder)
            part = PartFile(path)
            self.parts.append(part)
            self.cleanup.callback(part.discard)
            self.cleanup.callback(remove, scratch_of(path))
        if self.needs_peak:
            self.scratch = [self._scratch(path) for path in self.outputs_of]
        else:
            self.writers = [self._writer(path) for path in self.outputs_of]

    def _writer(self, path: Path) -> Writer:
        first, *more = self.outputs_of[path]
        with _as_final(path):
            writer = open_writer(
                part_of(path),
                self.sample_rate,
                self.channels,
                self.settings,
                frames=self.frames if self.needs_peak else None,
                tags=self.tags.get(first),
                layout=self.layout,
                stems=more,
                film=self.film,
            )
        self.cleanup.callback(writer.abort)
        return writer

    def _scratch(self, path: Path) -> BinaryIO:
        with os_errors(path):
            handle = open(scratch_of(path), "w+b")
        self.cleanup.callback(_close_quietly, handle)
        return handle

    def write(self, block: Audio) -> None:
        """Append a block of the O outputs, [O, C, n].

        Raises:
            ResourceError: the disk is full.
            OutputError: a file can't be written for another reason.
        """
        self.frames += block.shape[-1]
        if block.size:
            self.peak = max(self.peak, float(np.abs(block).max()))
        ends = np.cumsum([len(names) for names in self.outputs_of.values()])
        # One array for each file, of its S streams: [S, C, n] -> [S·C, n]
        parts = [
            part.reshape(len(part) * self.channels, block.shape[-1]) for part in np.split(block, ends[:-1])
        ]
        for writer, path, samples in zip(self.writers, self.outputs_of, parts, strict=False):
            with _as_final(path):
                writer.write(clipped(samples, self.settings))
        for handle, path, samples in zip(self.scratch, self.outputs_of, parts, strict=False):
            with os_errors(path):
                handle.write(np.ascontiguousarray(samples.T).tobytes())  # [n, S·C]
                handle.flush()  # so that a full disk raises here, where the path is known

    def publish(self) -> None:
        """Complete all files, then give them their final names."""
        if self.needs_peak:
            # One gain for all outputs, so that they still add up to the (scaled) mix.
            self.gain = min(1.0, LIMIT / self.peak) if self.peak > 0 else 1.0
            for path, handle in zip(self.outputs_of, self.scratch, strict=True):
                self._encode(path, handle)
        for writer, path in zip(self.writers, self.outputs_of, strict=False):
            with _as_final(path):
                writer.close()
        for part in self.parts:
            part.publish()
        self.close()

    def _encode(self, path: Path, handle: BinaryIO) -> None:
        writer = self._writer(path)
        handle.seek(0)
        with _as_final(path):
            while data := handle.read(BLOCK_SAMPLES * writer.channels * 4):
                samples = np.frombuffer(data, np.float32).reshape(-1, writer.channels).T  # [S·C, n]
                writer.write(samples if self.gain == 1 else samples * np.float32(self.gain))
            writer.close()

    def close(self) -> None:
        """Remove all files and folders that aren't published."""
        self.cleanup.close()


def sweep(paths: Iterable[Path]) -> None:
    """Remove the temporary files that killed processes left beside some outputs."""
    for path in paths:
        if os.path.exists(scratch_of(path)) or os.path.exists(part_of(path)):
            with suppress(OutputError):  # another process writes it
                PartFile(path).discard()
                remove(scratch_of(path))


def sweep_claimed(paths: Iterable[Path], run: str | None = None) -> None:
    """Do the same under claims, which are removed too; nothing is done if another run has one of them.

    Args:
        paths: the outputs.
        run: name of the run in claims, whose own claims are removed as well; None for a new one.
    """
    left = [p for p in paths if any(map(os.path.exists, (claim_of(p), scratch_of(p), part_of(p))))]
    if left:
        with suppress(Taken, OutputError), closing(Claims(run or uuid4().hex)) as claims, claims.held(left):
            sweep(left)


def missing_folders(path: Path) -> list[Path]:
    """Return the folders above `path` that don't exist, outermost first."""
    return [*takewhile(lambda folder: not os.path.exists(folder), path.parents)][::-1]


def _close_quietly(handle: BinaryIO) -> None:
    # Ignore a failed flush on a full disk: the file is being discarded.
    with suppress(OSError):
        handle.close()


def remove_if_empty(folder: Path) -> None:
    """Remove a folder unless it has files."""
    with suppress(OSError):
        folder.rmdir()
