"""A look at every job before the model is loaded: which are to be done, which are done, which can't be."""

import logging
import os
import shutil
import stat
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from stemsplit.audio.encoding import check_encodable
from stemsplit.audio.reader import probe
from stemsplit.errors import OutputError, ResourceError
from stemsplit.formats import BIT_DEPTHS, FORMATS
from stemsplit.outcome import Failure
from stemsplit.separation.existing import Fingerprint, is_done, renamed
from stemsplit.separation.mixes import Output
from stemsplit.separation.plan import Input, Job
from stemsplit.separation.report import TrackResult
from stemsplit.separation.source import FileSource, Shape, output_shape
from stemsplit.settings import BatchSettings, OutputSettings

log = logging.getLogger(__name__)
SCRATCH_BYTES = 4  # per sample that waits in float32 for the track's peak


@dataclass(frozen=True)
class Ready:
    """A job that is to be done, and what its input's head says."""

    job: Job
    source: FileSource
    shape: Shape


def survey(
    job: Job,
    outputs: Sequence[Output],
    fingerprint: Fingerprint,
    batch: BatchSettings,
    output: OutputSettings,
) -> Ready | TrackResult:
    """Look at a job's input and at what stands under its outputs' names.

    Args:
        job: what is to be done.
        outputs: what is made of every track.
        fingerprint: what the outputs would be made with.
        batch: the rule for existing files, and the stretch of every track.
        output: the format.

    Returns:
        The job, perhaps under other names; or its result, if it needs no computing.
    """
    name = str(job.input)
    try:
        source, shape = examine(job.input, batch, output)
        there = [path for path in job.files.values() if os.path.exists(path)]
        if batch.if_exists == "error" and there:
            raise OutputError(there[0], "exists", hint="-y overwrites it")
        if batch.if_exists == "skip" and is_done(job, outputs, fingerprint):
            paths = {stem: str(path) for stem, path in job.files.items()}
            return TrackResult(name, "skipped", paths)
        if batch.if_exists == "rename":
            job = replace(job, files=renamed(job).files)
        _check_places(job)
    except Exception as error:
        log.debug("%s", name, exc_info=error)
        return TrackResult(name, "failed", error=Failure.of(error))
    return Ready(job, source, shape)


def _check_places(job: Job) -> None:
    for path in job.files.values():
        if os.path.isdir(path):
            raise OutputError(path, "is a folder")
    for folder in {path.parent: None for path in job.files.values()}:
        check_folder(folder)


def check_folder(folder: Path) -> None:
    """Check that files can be written into a folder, or that it can be made.

    Raises:
        OutputError: they can't, or it can't.
    """
    for place in (folder, *folder.parents):
        try:
            kind = os.stat(place).st_mode
        except (FileNotFoundError, NotADirectoryError):
            if os.path.islink(place):
                raise OutputError(place, "is a link to something that isn't there") from None
            continue
        except OSError as error:
            raise OutputError(place, error.strerror or str(error)) from None
        if not stat.S_ISDIR(kind):
            raise OutputError(place, "is a file, not a folder")
        if not os.access(place, os.W_OK | os.X_OK):
            raise OutputError(place, "no permission to write here", hint="choose another folder with -o")
        return


def spare(found: Ready | TrackResult, inputs: Collection[str]) -> Ready | TrackResult:
    """A failure where a job would replace one of the `inputs`, given by their real paths; else as found."""
    if isinstance(found, Ready):
        for path in found.job.files.values():
            if os.path.realpath(path) in inputs:
                error = OutputError(
                    path, "is an input", hint="choose another folder with -o, or a --template"
                )
                return TrackResult(str(found.job.input), "failed", error=Failure.of(error))
    return found


def examine(entry: Input, batch: BatchSettings, output: OutputSettings) -> tuple[FileSource, Shape]:
    """Read an input's head, and see that its outputs can be encoded.

    Raises:
        InputError: it can't be read.
        SettingsError: the format can't hold it.
    """
    if entry.failure is not None:
        raise entry.failure
    info = probe(entry.path, stream=batch.audio_stream, name=str(entry))
    source = FileSource(entry.path, info, batch.start_s, batch.end_s)
    shape = output_shape(source, output)
    check_encodable(output.format, shape.sample_rate, shape.channels, output.bit_depth)
    return source, shape


def check_room(ready: Sequence[Ready], output: OutputSettings, root: Path) -> None:
    """See whether the disk has room for the outputs, as far as the inputs tell their length.

    Args:
        ready: what is to be done.
        output: the format.
        root: the output folder.

    Raises:
        ResourceError: it hasn't.
    """
    sample_bytes = BIT_DEPTHS[output.bit_depth] // 8
    needed, largest = 0.0, 0.0
    for one in ready:
        samples = (one.source.duration_s or 0) * one.shape.sample_rate * one.shape.channels
        needed += samples * len(one.job.files) * sample_bytes
        largest = max(largest, samples * len(one.job.files) * SCRATCH_BYTES)
    there = next(folder for folder in (root.absolute(), *root.absolute().parents) if os.path.exists(folder))
    disk = shutil.disk_usage(there)
    # A file system without a size, such as one over a network, tells nothing.
    if FORMATS[output.format].is_pcm and disk.total and needed + largest > disk.free:
        raise ResourceError(
            f"{there}: {_shown(needed + largest)} are needed and {_shown(disk.free)} are free",
            hint="choose another disk with -o, or a smaller format such as -f flac",
        )


def _shown(size: float) -> str:
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.1f} MB"
