"""Check the jobs of a run before the model is loaded: which are ready, done already, or impossible.

Every output has a fingerprint in its tags, by which a later run sees that the output is done.
"""

import logging
import os
import shutil
import stat
from collections.abc import Collection, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import gettempdir
from typing import TypeVar

from stemsplit.audio.content import content_of
from stemsplit.audio.encoding import check_encodable
from stemsplit.audio.film import Film, film_of, settings_for
from stemsplit.audio.reader import probe
from stemsplit.audio.tags import read_settings
from stemsplit.errors import OutputError, ResourceError
from stemsplit.formats import BIT_DEPTHS, FORMATS, suffix_of
from stemsplit.outcome import Failure
from stemsplit.separation.files import sweep_claimed
from stemsplit.separation.fingerprint import Fingerprint
from stemsplit.separation.inputs import Input
from stemsplit.separation.outputs import Output
from stemsplit.separation.plan import Job
from stemsplit.separation.report import TrackResult
from stemsplit.separation.source import FileSource, Shape, output_shape
from stemsplit.settings import BatchSettings, OutputSettings
from stemsplit.urls import Place, Url, check_writable, exists, place_of

log = logging.getLogger(__name__)
AnyPlace = TypeVar("AnyPlace", Path, Url, Place)
UNCOMPARABLE = "made by a model of this name; a model without `identity` can't be told from another one"
SCRATCH_BYTES = 4  # bytes of a float32 sample in a temporary file


def is_done(
    job: Job, outputs: Sequence[Output], fingerprint: Fingerprint, stream: int | None, local: Input | None
) -> bool:
    """Tell whether all outputs of a job exist, made from the same recording with the same model and settings.

    Args:
        job: the input and the paths of its outputs.
        outputs: the outputs of every track.
        fingerprint: model and settings.
        stream: index of the input's audio stream; None takes the one that FFmpeg prefers.
        local: the input, or its copy on this machine; None if there is none yet.

    Raises:
        OutputError: an output exists that was made from another recording or with others.
    """
    present = [path for path in job.outputs if exists(path)]
    content = content_of(local.path, stream) if present and local is not None else None
    for path in sorted(present):
        held = [output for output in outputs if job.files[output.name] == path]
        if difference := fingerprint.difference(read_settings(path), held, content):
            raise OutputError(
                path, f"exists, and {difference}", hint="-y overwrites it, --if-exists rename keeps both"
            )
    return len(present) == len(job.outputs)


def renamed(job: Job, root: Place) -> Job:
    """Return the job with the lowest number in its folder's or files' names under which nothing exists.

    Args:
        job: the input and the paths of its outputs.
        root: the output folder, which stays as it is.
    """
    number, found = 2, job
    # If the track has a folder of its own, the folder gets the number, otherwise the file.
    own_folder = all(
        path.name == name + suffix_of(path.name) and path.parent != root for name, path in job.files.items()
    )
    while any(exists(path) for path in found.paths):
        files = {name: _numbered(path, own_folder, number) for name, path in job.files.items()}
        project = job.project and _numbered(job.project, own_folder, number)
        found, number = Job(job.input, files, project), number + 1
    return found


def _numbered(path: AnyPlace, own_folder: bool, number: int) -> AnyPlace:
    if own_folder:
        return path.parent.with_name(f"{path.parent.name} ({number})") / path.name
    suffix = suffix_of(path.name)
    return path.with_name(f"{path.name.removesuffix(suffix)} ({number}){suffix}")


@dataclass(frozen=True)
class Ready:
    """A job that is ready to be done.

    Attributes:
        job: the input and the paths of its outputs.
        source: the input by its header.
        shape: of the outputs.
        output: their format.
        film: the film that the output is the sound of, with --mux.
    """

    job: Job
    source: FileSource
    shape: Shape
    output: OutputSettings
    film: Film | None = None


def known(
    job: Job, outputs: Sequence[Output], fingerprint: Fingerprint, batch: BatchSettings
) -> TrackResult | Job:
    """Return the result of a job that is done or impossible, as far as its outputs tell; else the job."""
    try:
        return finished(job, outputs, fingerprint, batch) or job
    except OutputError as error:
        return TrackResult(str(job.input), "failed", error=Failure.of(error))


def finished(
    job: Job,
    outputs: Sequence[Output],
    fingerprint: Fingerprint,
    batch: BatchSettings,
    local: Input | None = None,
) -> TrackResult | None:
    """Return the result of a job whose outputs exist already, None if there is something to do.

    Args:
        job: the input and the paths of its outputs.
        outputs: the outputs of every track.
        fingerprint: model and settings.
        batch: the rule for existing files, and the stream that is read.
        local: the copy of an input at an address; without one, only model and settings are compared.

    Raises:
        OutputError: they exist, which the settings don't allow, or were made from another recording or with
            other settings.
    """
    if batch.if_exists == "error":
        for path in job.paths:
            if exists(path):
                raise OutputError(path, "exists", hint="-y overwrites it")
    here = job.input if local is None and job.input.url is None else local
    if batch.if_exists == "skip" and is_done(job, outputs, fingerprint, batch.audio_stream, here):
        # a process may have been killed just after it had published the files
        sweep_claimed(path for path in job.outputs if isinstance(path, Path))
        places = {stem: str(path) for stem, path in job.files.items()}
        note = None if fingerprint.comparable else UNCOMPARABLE
        return TrackResult(str(job.input), "skipped", places, note=note)
    return None


def refuse_foreign(job: Job) -> None:
    """Refuse to overwrite files that this program hasn't made, where the inputs aren't all known.

    Raises:
        OutputError: there is one.
    """
    for path in job.outputs:
        if exists(path) and read_settings(path) is None:
            hint = "remove it, or choose another folder with -o"
            raise OutputError(path, "exists, and it was not made by stemsplit", hint=hint)


def survey(
    job: Job,
    outputs: Sequence[Output],
    fingerprint: Fingerprint,
    batch: BatchSettings,
    output: OutputSettings,
    local: Input | None = None,
) -> Ready | TrackResult:
    """Check a job's input and the files that exist under its outputs' names.

    Args:
        job: an input and the paths of its outputs.
        outputs: the outputs of every track.
        fingerprint: model and settings of this run.
        batch: the rule for existing files, and the range of every track.
        output: the format.
        local: the copy of an input at an address.

    Returns:
        The job, with other paths if it was renamed; or its result, if it is done already or can't be done.
    """
    name = str(job.input)
    try:
        ready = examine(job, batch, output, local)
        if (result := finished(job, outputs, fingerprint, batch, local)) is not None:
            return result
        if batch.if_exists == "rename":
            job = renamed(job, place_of(batch.output))
        _check_places(job)
    except Exception as error:
        log.debug("%s", name, exc_info=error)
        return TrackResult(name, "failed", error=Failure.of(error))
    return replace(ready, job=job)


def _check_places(job: Job) -> None:
    local = [path for path in job.paths if isinstance(path, Path)]
    for path in local:
        if os.path.isdir(path):
            raise OutputError(path, "is a folder")
    for folder in {path.parent: None for path in local}:
        check_folder(folder)


def check_folder(folder: Place) -> None:
    """Check that files can be written to a folder, or that the folder can be created.

    Raises:
        OutputError: they can't, or it can't.
    """
    if isinstance(folder, Url):
        check_writable(folder)
        return
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
    """Return a failure for a job that would overwrite an input (given by real paths), or else `found`."""
    if isinstance(found, Ready):
        for path in found.job.paths:
            if isinstance(path, Path) and path.exists() and os.path.realpath(path) in inputs:
                error = OutputError(
                    path, "is an input", hint="choose another folder with -o, or a --template"
                )
                return TrackResult(str(found.job.input), "failed", error=Failure.of(error))
    return found


def examine(job: Job, batch: BatchSettings, output: OutputSettings, local: Input | None = None) -> Ready:
    """Read the header of an input, or of its local copy, and check that its outputs can be encoded.

    Raises:
        InputError: it can't be read, ends before the start, or is no video and --mux is set.
        SettingsError: the format can't hold it.
    """
    entry = local or job.input
    if entry.failure is not None:
        raise entry.failure
    info = probe(entry.path, stream=batch.audio_stream, name=str(entry))
    source = FileSource(entry.path, info, batch.start_s, batch.end_s)
    if source.duration_s == 0:  # the start lies behind the declared end, which may be wrong
        with closing(source.blocks()) as blocks:
            next(blocks, None)
    film = film_of(entry.path, entry.suffix, info.stream) if batch.mux else None
    if film is not None:
        output = settings_for(film, output)
    shape = output_shape(source, output)
    check_encodable(output.format, shape.sample_rate, shape.channels, output.bit_depth)
    return Ready(job, source, shape, output, film)


def check_room(ready: Sequence[Ready], output: OutputSettings, root: Place, spooled: int = 0) -> None:
    """Check that the disks have room for outputs and temporary files, as far as lengths are known.

    Args:
        ready: the jobs to be done.
        output: the format.
        root: the output folder.
        spooled: the number of stems in temporary files while a track is separated.

    Raises:
        ResourceError: a disk has too little room.
    """
    sample_bytes = BIT_DEPTHS[output.bit_depth] // 8
    needed, largest, waiting = 0.0, 0.0, 0.0
    # All outputs stay; scratch and spool files exist for one track at a time, so the largest counts.
    for one in ready:
        seconds, source = one.source.duration_s or 0, one.source
        samples = seconds * one.shape.sample_rate * one.shape.channels
        needed += samples * len(one.job.files) * sample_bytes
        largest = max(largest, samples * len(one.job.files) * SCRATCH_BYTES)
        stem_samples = seconds * source.sample_rate * min(2, source.channels)
        waiting = max(waiting, spooled * stem_samples * SCRATCH_BYTES)
    if not FORMATS[output.format].is_pcm:  # the size of compressed files isn't known beforehand
        needed = largest = 0.0
    if isinstance(root, Url):  # outputs wait in the temporary folder, one track at a time
        root, needed = Path(gettempdir()), 0.0
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
    # Some network file systems report a size of 0: then there is nothing to check.
    if size and disk.total and size > disk.free:
        raise ResourceError(
            f"{folder}: {_size_shown(size)} are needed and {_size_shown(disk.free)} are free", hint=hint
        )


def _size_shown(size: float) -> str:
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.1f} MB"
