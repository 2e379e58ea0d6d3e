"""A whole run: everything cheap is checked first, then the model is loaded once for all tracks."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Any

from stemsplit.audio.encoding import check_encodable
from stemsplit.core.devices import check_device
from stemsplit.errors import SettingsError
from stemsplit.events import Callback, End, Notice, Start, emit
from stemsplit.formats import find_format
from stemsplit.hub.describe import Description, describe_model, joint_digest
from stemsplit.separation.existing import Fingerprint
from stemsplit.separation.mixes import Output, needed_stems, plan_outputs
from stemsplit.separation.plan import Found, Plan, check_template, plan_jobs, take_shard
from stemsplit.separation.report import STATUSES, Report, TrackResult, announce
from stemsplit.separation.survey import Ready, check_folder, check_room, spare, survey
from stemsplit.settings import (
    BatchSettings,
    ChunkSettings,
    ComputeSettings,
    EnsembleSettings,
    ModelSettings,
    OutputSettings,
    StemSettings,
    check_weights,
)
from stemsplit.stems import meanings

if TYPE_CHECKING:
    from stemsplit.separation.separator import Separator


@dataclass(frozen=True)
class Request:
    """All settings of a run."""

    model: ModelSettings = ModelSettings()
    ensemble: EnsembleSettings = EnsembleSettings()
    compute: ComputeSettings = ComputeSettings()
    chunks: ChunkSettings = ChunkSettings()
    stems: StemSettings = StemSettings()
    batch: BatchSettings = BatchSettings()
    output: OutputSettings = OutputSettings()
    jobs: int = 1


@dataclass
class Session:
    """A run that has passed all cheap checks. `device` is known once the model is on it."""

    request: Request
    model: Description
    outputs: tuple[Output, ...]
    plan: Plan
    fingerprint: Fingerprint
    started: float = field(default_factory=monotonic)
    device: str = ""

    def load(self, callback: Callback | None = None) -> "Separator":
        """The separator that all tracks go through.

        Raises:
            ModelUnavailableError: the model can't be had.
            DeviceError: the device isn't there.
            Cancelled: the callback returned False.
        """
        # Here torch and all that stands on it is imported, after the cheap checks.
        from stemsplit.core.compute import threads
        from stemsplit.separation.separator import Separator

        request = self.request
        with threads(1):  # the tracks are computed in another thread than this
            separator = Separator(
                (request.model.model, *request.ensemble.others),
                stems=needed_stems(self.outputs, self.model.stems),
                segment_s=request.model.segment_s,
                chunks=request.chunks,
                compute=request.compute,
                offline=request.model.offline,
                blend=request.ensemble.blend,
                weights=request.ensemble.weights,
                callback=callback,
            )
        self.device = str(separator.compute.device)
        emit(callback, Start(len(self.plan.jobs), self.model.name, self.device))
        return separator

    def survey(self) -> Iterator[Ready | TrackResult]:
        """A look at every job: ready to be done, or the result that it has without computing."""
        batch, output = self.request.batch, self.request.output
        inputs = {os.path.realpath(job.input.path) for job in self.plan.jobs}
        for job in self.plan.jobs:
            yield spare(survey(job, self.outputs, self.fingerprint, batch, output), inputs)

    def check_room(self, ready: Sequence[Ready]) -> None:
        """Check that the disk has room for the outputs of what is ready.

        Raises:
            ResourceError: it hasn't.
        """
        if ready:
            check_room(ready, self.request.output, Path(self.request.batch.output))

    def run(self, callback: Callback | None = None) -> Iterator[TrackResult]:
        """Do the jobs. The model is loaded only if one of them needs it.

        Yields:
            First the results of the jobs that need no computing, then the others'; each group in order.

        Raises:
            ResourceError: the disk has too little room.
            Others: as `load`.
        """
        batch, ready = self.request.batch, []
        for found in self.survey():
            if isinstance(found, Ready):
                ready.append(found)
                continue
            announce(found, callback)
            yield found
            if found.status == "failed" and batch.fail_fast:
                return
        self.check_room(ready)
        if ready:
            yield from self._compute(ready, callback)

    def _compute(self, ready: Sequence[Ready], callback: Callback | None) -> Iterator[TrackResult]:
        from stemsplit.separation.batch import Batch

        work = Batch(
            self.load(callback),
            self.outputs,
            self.fingerprint,
            output=self.request.output,
            callback=callback,
            workers=self.request.jobs,
        )
        for result in work.run(ready):
            yield result
            if result.status == "failed" and self.request.batch.fail_fast:
                return

    def report(self, results: Sequence[TrackResult], callback: Callback | None = None) -> Report:
        """What came of the session, in the order of its jobs; tells the `End` event."""
        order = {str(job.input): place for place, job in enumerate(self.plan.jobs)}
        report = Report(
            model=self.model.name,
            sha256=self.model.sha256,
            device=self.device,
            settings=self.fingerprint.settings,
            tracks=tuple(sorted(results, key=lambda result: order[result.input])),
            wall_s=monotonic() - self.started,
        )
        done, skipped, failed = (report.count(status) for status in STATUSES)
        emit(callback, End(done, skipped, failed, report.wall_s))
        return report


def prepare(
    found: Found, request: Request, *, alone: bool = False, callback: Callback | None = None
) -> Session:
    """Check everything that can be checked without decoding, loading or computing.

    Args:
        found: from `plan.collect`.
        request: the settings.
        alone: there must be one input and one output, which goes to a stream instead of the folder.
        callback: receives notices, and the events of a download; `hf:` models are fetched to be described.

    Raises:
        SettingsError: an unknown model, stem, format or template, or no input at all.
        OutputError: the output folder can't be written.
        ResourceError: the disk has too little room.
    """
    check_template(request.batch.template)
    check_device(request.compute.device)
    model, members = _describe(request, callback)
    outputs = plan_outputs(model.stems, request.stems)
    if not found.inputs:
        hint = next(iter(found.notices()), "--include picks files by name")
        raise SettingsError("no audio file found in what was given", hint=hint)
    rate, channels = request.output.sample_rate, request.output.channels
    if rate != "keep":
        check_encodable(request.output.format, rate, 1 if channels == "keep" else channels)
    root = Path(request.batch.output)
    plan = plan_jobs(
        take_shard(found.inputs, request.batch.shard),
        [output.name for output in outputs],
        root=root,
        template=request.batch.template,
        ext=find_format(request.output.format).extension,
        model=model.name,
    )
    if alone:
        _require_one(len(plan.jobs), "inputs", "one INPUT")
        _require_one(len(outputs), "outputs of a track", "one stem with -s, or --karaoke")
    else:
        check_folder(root)
    needed = needed_stems(outputs, model.stems) if len(members) > 1 else ()
    for notice in (*_givers(needed, members, request.ensemble.blend), *found.notices(), *plan.notices):
        emit(callback, Notice(notice))
    return Session(request, model, outputs, plan, _fingerprint(model, request))


def _describe(request: Request, callback: Callback | None) -> tuple[Description, list[Description]]:
    """Describe the model, or an ensemble as one; then each of its models.

    Raises:
        SettingsError: the weights don't fit the ensemble.
        Others: as `describe_model`.
    """
    ensemble, names = request.ensemble, (request.model.model, *request.ensemble.others)
    offline = request.model.offline
    found = [describe_model(name, offline=offline, callback=callback) for name in names]
    if len(found) == 1:
        return found[0], found
    check_weights(len(found), ensemble.blend, ensemble.weights, "models")
    stems = tuple(dict.fromkeys(stem for one in found for stem in meanings(one.stems).values()))
    digest = joint_digest([one.sha256 or "" for one in found])
    return Description("+".join(names), stems, digest), found


def _givers(stems: Sequence[str], models: Sequence[Description], blend: str) -> Iterator[str]:
    """Say which of an ensemble's models give which stems, a sentence for each group of models."""
    groups: dict[tuple[str, ...], list[str]] = {}
    for stem in stems:
        givers = tuple(one.name for one in models if stem in meanings(one.stems).values())
        groups.setdefault(givers, []).append(stem)
    for givers, given in groups.items():
        how = f", blended by {blend}" if len(givers) > 1 else ""
        yield f"{', '.join(given)}: from {' and '.join(givers)}{how}"


def _require_one(count: int, what: str, hint: str) -> None:
    if count != 1:
        raise SettingsError(f"-o -: there are {count} {what}, and a stream holds one", hint=f"choose {hint}")


def _fingerprint(model: Description, request: Request) -> Fingerprint:
    """Every setting that changes the samples of an output."""
    batch, ensemble = request.batch, request.ensemble
    blended = {"blend": ensemble.blend, "weights": ensemble.weights} if ensemble.others else {}
    settings: dict[str, Any] = {
        **blended,
        **{key: value for key, value in asdict(request.chunks).items() if key != "batch_size"},
        **asdict(request.output),
        "segment_s": request.model.segment_s,
        "precision": request.compute.precision,
        "reduced": request.compute.reduced,
        "start_s": batch.start_s,
        "end_s": batch.end_s,
        "audio_stream": batch.audio_stream,
    }
    return Fingerprint(model.name, model.sha256, settings)
