"""Check the jobs of a run before the model is loaded: which are ready, done already, or impossible.

Every output has model and settings as a line of JSON in its tags; by them a later run sees that the output is
done. The version of stemsplit is recorded there but not compared.
"""

import json
import logging
import os
import shutil
import stat
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
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
from stemsplit.separation.files import sweep_claimed
from stemsplit.separation.flow import Flow
from stemsplit.separation.inputs import Input
from stemsplit.separation.outputs import Output
from stemsplit.separation.plan import Job
from stemsplit.separation.report import TrackResult
from stemsplit.separation.source import FileSource, Shape, output_shape
from stemsplit.settings import BatchSettings, OutputSettings, Request
from stemsplit.urls import Place, Url, check_writable, exists

log = logging.getLogger(__name__)
SCRATCH_BYTES = 4  # bytes of a float32 sample in a temporary file


@dataclass(frozen=True)
class Fingerprint:
    """The model's name and digest, and every setting that changes the samples of an output.

    Attributes:
        model, sha256: name and digest of the model or recipe.
        settings: the settings.
        license, source: of the model's weights; they are written with the rest, and compared with nothing.
    """

    model: str
    sha256: str | None
    settings: Mapping[str, Any]
    license: str = ""
    source: str = ""

    def tag(self, output: Output) -> str:
        """Return the line of JSON that is written to the tags of `output`."""
        content = {
            "version": __version__,
            "model": self.model,
            "sha256": self.sha256,
            "license": self.license,
            "source": self.source,
            "output": str(output.sum),
            "settings": dict(self.settings),
        }
        return json.dumps(content, sort_keys=True, separators=(",", ":"))

    def difference(self, tag: str | None, output: Output) -> str | None:
        """Return how a file with `tag` differs from `output` made now, as a clause; None if it doesn't."""
        try:
            content = json.loads(tag or "")
            then = {"model": content["model"], "sha256": content["sha256"], "content": content["output"]}
            then |= content["settings"]
        except (ValueError, TypeError, KeyError):
            return "it was not made by stemsplit"
        now = {"model": self.model, "sha256": self.sha256, "content": str(output.sum)} | dict(self.settings)
        # The registry has only the beginning of some digests: compare what both have.
        if then["sha256"] and now["sha256"] and _same_hash(then["sha256"], now["sha256"]):
            then["sha256"] = now["sha256"]
        for key in sorted({*now, *then}):
            if now.get(key) != then.get(key):
                return f"{key} was {_shown(then.get(key))} and is now {_shown(now.get(key))}"
        return None


def fingerprint_of(flow: Flow, request: Request) -> Fingerprint:
    """Return the fingerprint of a run: every setting that changes the samples of an output."""
    batch, combination = request.batch, request.combination
    combined: dict[str, Any] = {"recipe": flow.structure} if flow.combined else {}
    if combination.others:
        combined |= {"blend": combination.blend, "weights": combination.weights}
    if combination.then:
        combined["then"] = [list(pair) for pair in combination.then]
    # The batch size changes no samples.
    settings: dict[str, Any] = {
        **combined,
        **{key: value for key, value in asdict(request.chunks).items() if key not in ("batch_size", "tta")},
        **({"tta": True} if request.chunks.tta else {}),
        **({"model_options": dict(request.model.model_options)} if request.model.model_options else {}),
        **asdict(request.output),
        "segment_s": request.model.segment_s,
        "precision": request.compute.precision,
        "reduced": request.compute.reduced,
        "start_s": batch.start_s,
        "end_s": batch.end_s,
        "audio_stream": batch.audio_stream,
    }
    models = [run.about for run in flow.runs.values()]
    license = " and ".join(dict.fromkeys(about.license for about in models))
    source = " ".join(dict.fromkeys(about.source for about in models if about.source))
    return Fingerprint(flow.name, flow.sha256, settings, license, source)


def _same_hash(one: str, other: str) -> bool:
    return one.startswith(other) or other.startswith(one)


def _shown(value: object) -> str:
    return "the default" if value is None else str(value)


def is_done(job: Job, outputs: Sequence[Output], fingerprint: Fingerprint) -> bool:
    """Tell whether all outputs of a job exist, made with the same model and settings.

    Raises:
        OutputError: an output exists that was made with others.
    """
    present = [output for output in outputs if exists(job.files[output.name])]
    for output in present:
        path = job.files[output.name]
        if difference := fingerprint.difference(read_settings(path), output):
            raise OutputError(
                path, f"exists, and {difference}", hint="-y overwrites it, --if-exists rename keeps both"
            )
    return len(present) == len(job.files)


def renamed(job: Job) -> Job:
    """Return the job with the lowest number in its folder's or files' names under which nothing exists."""
    number, files = 2, job.files
    while any(exists(path) for path in files.values()):
        files = {name: _numbered(path, name, number) for name, path in job.files.items()}
        number += 1
    return Job(job.input, files)


def _numbered(path: Place, output: str, number: int) -> Place:
    # If the track has a folder of its own, the folder gets the number, otherwise the file.
    if path.stem == output:
        return path.parent.with_name(f"{path.parent.name} ({number})") / path.name
    return path.with_name(f"{path.stem} ({number}){path.suffix}")


@dataclass(frozen=True)
class Ready:
    """A job that is ready to be done, the source by its header, and the shape of the outputs."""

    job: Job
    source: FileSource
    shape: Shape


def known(
    job: Job, outputs: Sequence[Output], fingerprint: Fingerprint, batch: BatchSettings
) -> TrackResult | Job:
    """Return the result of a job that is done or impossible, as far as its outputs tell; else the job."""
    try:
        return finished(job, outputs, fingerprint, batch) or job
    except OutputError as error:
        return TrackResult(str(job.input), "failed", error=Failure.of(error))


def finished(
    job: Job, outputs: Sequence[Output], fingerprint: Fingerprint, batch: BatchSettings
) -> TrackResult | None:
    """Return the result of a job whose outputs exist already, None if there is something to do.

    Raises:
        OutputError: they exist, which the settings don't allow, or were made with others.
    """
    if batch.if_exists == "error":
        for path in job.files.values():
            if exists(path):
                raise OutputError(path, "exists", hint="-y overwrites it")
    if batch.if_exists == "skip" and is_done(job, outputs, fingerprint):
        # a process may have been killed just after it had published the files
        sweep_claimed(path for path in job.files.values() if isinstance(path, Path))
        return TrackResult(str(job.input), "skipped", {stem: str(path) for stem, path in job.files.items()})
    return None


def refuse_foreign(job: Job) -> None:
    """Refuse to overwrite files that this program hasn't made, where the inputs aren't all known.

    Raises:
        OutputError: there is one.
    """
    for path in job.files.values():
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
        source, shape = examine(local or job.input, batch, output)
        if (result := finished(job, outputs, fingerprint, batch)) is not None:
            return result
        if batch.if_exists == "rename":
            job = replace(job, files=renamed(job).files)
        _check_places(job)
    except Exception as error:
        log.debug("%s", name, exc_info=error)
        return TrackResult(name, "failed", error=Failure.of(error))
    return Ready(job, source, shape)


def _check_places(job: Job) -> None:
    local = [path for path in job.files.values() if isinstance(path, Path)]
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
        for path in found.job.files.values():
            if isinstance(path, Path) and os.path.realpath(path) in inputs:
                error = OutputError(
                    path, "is an input", hint="choose another folder with -o, or a --template"
                )
                return TrackResult(str(found.job.input), "failed", error=Failure.of(error))
    return found


def examine(entry: Input, batch: BatchSettings, output: OutputSettings) -> tuple[FileSource, Shape]:
    """Read the header of an input, and check that its outputs can be encoded.

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
