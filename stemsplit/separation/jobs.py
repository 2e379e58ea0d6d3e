"""The jobs of a run before the model is loaded: which are to be done, which are done already, which can't be.

Every output carries what it was made with as a line of JSON in its tags, by which it is found to be done. The
tool's version is recorded in it and not compared.
"""

import json
import logging
import os
import shutil
import stat
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import gettempdir
from typing import Any

from stemsplit import __version__
from stemsplit.audio.encoding import check_encodable
from stemsplit.audio.reader import probe
from stemsplit.audio.tags import read_settings
from stemsplit.errors import OutputError, ResourceError
from stemsplit.formats import BIT_DEPTHS, FORMATS
from stemsplit.outcome import Failure
from stemsplit.separation.outputs import Output
from stemsplit.separation.plan import Input, Job
from stemsplit.separation.report import TrackResult
from stemsplit.separation.source import FileSource, Shape, output_shape
from stemsplit.settings import BatchSettings, OutputSettings

log = logging.getLogger(__name__)
SCRATCH_BYTES = 4  # per sample that waits in float32 for the track's peak


@dataclass(frozen=True)
class Fingerprint:
    """What an output is made with: the model's name and hash, and every setting that changes its samples."""

    model: str
    sha256: str | None
    settings: Mapping[str, Any]

    def tag(self, output: Output) -> str:
        """The line that is written into the file of `output`."""
        content = {"version": __version__, "model": self.model, "sha256": self.sha256, "output": str(output)}
        return json.dumps(content | {"settings": dict(self.settings)}, sort_keys=True, separators=(",", ":"))

    def difference(self, tag: str | None, output: Output) -> str | None:
        """What sets a file with `tag` apart from `output` made now; None if nothing does."""
        try:
            content = json.loads(tag or "")
            then = {"model": content["model"], "sha256": content["sha256"], "content": content["output"]}
            then |= content["settings"]
        except (ValueError, TypeError, KeyError):
            return "it was not made by stemsplit"
        now = {"model": self.model, "sha256": self.sha256, "content": str(output)} | dict(self.settings)
        # A hash of which only the beginning is on record is compared as far as it goes.
        if then["sha256"] and now["sha256"] and _same_hash(then["sha256"], now["sha256"]):
            then["sha256"] = now["sha256"]
        for key in sorted({*now, *then}):
            if now.get(key) != then.get(key):
                return f"{key} was {_shown(then.get(key))} and is now {_shown(now.get(key))}"
        return None


def _same_hash(one: str, other: str) -> bool:
    return one.startswith(other) or other.startswith(one)


def _shown(value: object) -> str:
    return "the default" if value is None else str(value)


def is_done(job: Job, outputs: Sequence[Output], fingerprint: Fingerprint) -> bool:
    """Whether all `outputs` of a job are there, made with the same settings.

    Raises:
        OutputError: one is there that was made otherwise.
    """
    present = [output for output in outputs if os.path.exists(job.files[output.name])]
    for output in present:
        path = job.files[output.name]
        if difference := fingerprint.difference(read_settings(path), output):
            raise OutputError(
                path, f"exists, and {difference}", hint="-y overwrites it, --if-exists rename keeps both"
            )
    return len(present) == len(job.files)


def renamed(job: Job) -> Job:
    """The job with the lowest number in its folder's or files' names under which nothing exists yet."""
    number, files = 2, job.files
    while any(os.path.exists(path) for path in files.values()):
        files = {name: _numbered(path, name, number) for name, path in job.files.items()}
        number += 1
    return Job(job.input, files)


def _numbered(path: Path, output: str, number: int) -> Path:
    # Where a track has a folder of its own the folder takes the number, otherwise the file.
    if path.stem == output:
        return path.parent.with_name(f"{path.parent.name} ({number})") / path.name
    return path.with_name(f"{path.stem} ({number}){path.suffix}")


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


def refuse_overwriting(found: Ready | TrackResult, inputs: Collection[str]) -> Ready | TrackResult:
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


def check_room(ready: Sequence[Ready], output: OutputSettings, root: Path, spooled: int = 0) -> None:
    """Check that the disks have room for outputs and waiting stems, as far as their lengths are known.

    Args:
        ready: what is to be done.
        output: the format.
        root: the output folder.
        spooled: how many stems wait in temporary files while a track is separated.

    Raises:
        ResourceError: one hasn't.
    """
    sample_bytes = BIT_DEPTHS[output.bit_depth] // 8
    needed, largest, waiting = 0.0, 0.0, 0.0
    for one in ready:
        seconds, source = one.source.duration_s or 0, one.source
        samples = seconds * one.shape.sample_rate * one.shape.channels
        needed += samples * len(one.job.files) * sample_bytes
        largest = max(largest, samples * len(one.job.files) * SCRATCH_BYTES)
        heard = seconds * source.sample_rate * min(2, source.channels)
        waiting = max(waiting, spooled * heard * SCRATCH_BYTES)
    if not FORMATS[output.format].is_pcm:  # what is compressed has no length beforehand
        needed = largest = 0.0
    there = next(folder for folder in (root.absolute(), *root.absolute().parents) if os.path.exists(folder))
    temporary = Path(gettempdir())
    if os.stat(there).st_dev == os.stat(temporary).st_dev:
        _require_room(there, needed + largest + waiting)
    else:
        _require_room(there, needed + largest)
        _require_room(temporary, waiting, hint="TMPDIR names another folder for temporary files")


def _require_room(
    folder: Path, size: float, hint: str = "choose another disk with -o, or a smaller format such as -f flac"
) -> None:
    disk = shutil.disk_usage(folder)
    # A file system without a size, such as one over a network, tells nothing.
    if size and disk.total and size > disk.free:
        raise ResourceError(
            f"{folder}: {_size_shown(size)} are needed and {_size_shown(disk.free)} are free", hint=hint
        )


def _size_shown(size: float) -> str:
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.1f} MB"
