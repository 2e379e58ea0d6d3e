"""Run the separation of files: check all that is cheap first, then load the models once for all tracks.

`separate_files` is the Python call of `stemsplit separate`. The way of a run: `find` (inputs), `prepare`
(flow, outputs, plan), `Session.run` (jobs, then batch), `Session.report`.
"""

import os
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import chain
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from stemsplit.audio.encoding import check_encodable
from stemsplit.cluster import Ray, make_ray
from stemsplit.core.devices import check_device
from stemsplit.engines import Engine, Threads, check_call
from stemsplit.errors import SettingsError
from stemsplit.events import Callback, End, Notice, Start, emit
from stemsplit.formats import find_format
from stemsplit.hub.access import Access
from stemsplit.hub.describe import describe_model
from stemsplit.hub.recipes import Recipe, Step
from stemsplit.separation.fingerprint import Fingerprint, fingerprint_of
from stemsplit.separation.flow import Flow, resolve
from stemsplit.separation.inputs import Found, Input, find
from stemsplit.separation.jobs import Ready, check_folder, check_room, known, refuse_overwriting, survey
from stemsplit.separation.outputs import Output, plan_outputs
from stemsplit.separation.plan import Job, Layout, Plan, plan_jobs, stream_jobs, take_shard, template_of
from stemsplit.separation.project import add_project
from stemsplit.separation.report import STATUSES, Report, ReportStream, TrackResult, announce
from stemsplit.separation.stem_file import plan_streams
from stemsplit.separation.tuned import tuned
from stemsplit.settings import DEFAULT_REQUEST, Request
from stemsplit.urls import Url, place_of

if TYPE_CHECKING:
    from stemsplit.core.separable import Separable
    from stemsplit.separation.batch import TrackWorker
    from stemsplit.separation.runner import Runner


@dataclass
class Session:
    """A run that has passed all cheap checks.

    Attributes:
        request: the settings.
        flow: the resolved models.
        outputs: the outputs of every track.
        plan: the jobs.
        fingerprint: model and settings, by which existing outputs are recognised.
        samples: some of the inputs, which the nodes of a cluster must see.
        started: the time when the run began, of `time.monotonic`, in seconds.
        device: the device; empty until the models are loaded.
    """

    request: Request
    flow: Flow
    outputs: tuple[Output, ...]
    plan: Plan
    fingerprint: Fingerprint
    samples: tuple[Input, ...] = ()
    started: float = field(default_factory=monotonic)
    device: str = ""

    def load(self, callback: Callback | None = None, *, jobs: int = 1) -> "Runner":
        """Load the models that all tracks go through, for `jobs` of them at once.

        Raises:
            ModelUnavailableError: a model can't be had.
            DeviceError: the device isn't there.
            Cancelled: the callback returned False.
        """
        # Importing torch takes seconds, so it waits until the cheap checks have passed.
        from stemsplit.separation.runner import load_runner

        runner = load_runner(self.flow.narrow(self.outputs), self.request, callback, jobs=jobs)
        self.device = runner.device
        emit(callback, Start(self.plan.total, self.flow.name, self.device))
        return runner

    def survey(self, *, addresses: bool = False) -> Iterator[Ready | Job | TrackResult]:
        """Yield for every job that it is ready, or its result if nothing is to be computed.

        Inputs at addresses aren't examined before it is their turn; with `addresses`, the outputs are.
        """
        batch, output = self.request.batch, self.request.output
        inputs = {os.path.realpath(job.input.path) for job in self.plan.jobs}
        for job in self.plan.jobs if self.plan.stream is None else self.plan.stream:
            if job.is_remote and job.input.failure is None:
                yield known(job, self.outputs, self.fingerprint, batch) if addresses else job
            else:
                yield refuse_overwriting(survey(job, self.outputs, self.fingerprint, batch, output), inputs)

    def check_room(self, ready: Sequence[Ready]) -> None:
        """Check that the disk has room for the outputs of the jobs that are ready.

        Raises:
            ResourceError: it has too little.
        """
        if ready:
            stems = sum(len(run.stems) for run in self.flow.narrow(self.outputs).runs.values())
            spooled = stems * self.request.jobs if self.request.combination.sequential else 0
            check_room(ready, self.request.output, place_of(self.request.batch.output), spooled)

    def check_settings(self) -> None:
        """Refuse settings that `load` would refuse, as far as that is known without the weights.

        Raises:
            SettingsError: the models or the device don't support one.
        """
        compute = self.request.compute
        typed = compute.precision != "auto" or compute.compile or self.request.model.model_options
        if typed and self.request.engine.address is None:  # another machine may have another device
            from stemsplit.separation.runner import check_settings

            check_settings(self.flow.narrow(self.outputs), self.request)

    def run(
        self, callback: Callback | None = None, engine: Engine | None = None
    ) -> Generator[TrackResult, None, None]:
        """Do the jobs. The models are loaded only if a job needs them.

        Args:
            callback: receives events; returning False cancels.
            engine: carries the tracks to workers that load the models themselves, such as
                `engines.Processes`; None for threads of this process, which share the models.

        Yields:
            First the results of the jobs that need no computing, then those of the others; each in order.

        Raises:
            ResourceError: the disk has too little room.
            Others: as `load`.
        """
        if self.plan.stream is not None:  # too many to look at all of them first
            yield from self._compute(self.plan.stream, None, engine, callback)
            return
        batch, work = self.request.batch, list[Ready | Job]()
        for job, found in zip(self.plan.jobs, self.survey(), strict=True):
            if not isinstance(found, TrackResult):
                work.append(found)
                continue
            add_project(found.status, job)
            announce(found, callback)
            yield found
            if found.status == "failed" and batch.fail_fast:
                return
        self.check_room([one for one in work if isinstance(one, Ready)])
        if work:
            yield from self._compute(work, len(work), engine, callback)

    def _compute(
        self,
        work: Iterable[Ready | Job],
        total: int | None,
        engine: Engine | None,
        callback: Callback | None,
    ) -> Iterator[TrackResult]:
        from stemsplit.separation.batch import Item, items_of, results_of

        items: Iterable[Item] = items_of(work, total)
        with ExitStack() as stack:
            # Locks hold on one machine only, and not at addresses.
            claiming = isinstance(engine, Ray) or isinstance(place_of(self.request.batch.output), Url)
            run = uuid4().hex if claiming else None
            jobs = min(self.request.jobs, total or self.request.jobs)
            engine, make = self._workers(engine, run, jobs, callback, stack)
            while items:
                taken = list[Item]()
                for item, (result, device) in results_of(engine, make, items, run, callback):
                    self.device = device or self.device
                    if result is None:
                        taken.append(item._replace(waits=True))
                        continue
                    yield result
                    if result.status == "failed" and self.request.batch.fail_fast:
                        return
                items = taken
                if taken:
                    what = f"another run has {len(taken)} of the tracks: they come last"
                    emit(callback, Notice(what))

    def _workers(
        self, engine: Engine | None, run: str | None, jobs: int, callback: Callback | None, stack: ExitStack
    ) -> "tuple[Engine, Callable[[], TrackWorker]]":
        """Return the engine and the factory of its workers, which the stack closes."""
        from stemsplit.separation.batch import TrackWorker, WorkerFactory

        request = self.request
        if engine is None:  # two threads more, for a track that is measured and one that is published
            runner = self.load(callback, jobs=jobs)
            shared = TrackWorker(runner, self.outputs, self.fingerprint, request, jobs, run)
            stack.enter_context(closing(shared))
            return Threads(jobs + 2), lambda: shared
        flow = self.flow.narrow(self.outputs)
        if isinstance(engine, Ray):
            from stemsplit.separation.nodes import check_nodes

            stack.enter_context(engine.connected())
            root, access = place_of(request.batch.output), Access.of(request.model)
            paths = [entry.path for entry in self.samples if entry.url is None and not entry.failure]
            check_nodes(engine, [*flow.runs.values()], paths, root, access=access, callback=callback)
        self.device = request.compute.device
        emit(callback, Start(self.plan.total, self.flow.name, self.device))
        return engine, WorkerFactory(flow, self.outputs, self.fingerprint, request, run)

    def head(self) -> dict[str, Any]:
        """Return what the report says about the whole run; the device is known after the first result."""
        return self._report(()).head()

    def report(self, results: Sequence[TrackResult], callback: Callback | None = None) -> Report:
        """Return the report, with the results in the order of the jobs, and emit the `End` event."""
        # Of a stream nothing was known before the work, so that its results are in order already.
        order = {str(job.input): place for place, job in enumerate(self.plan.jobs)}
        report = self._report(tuple(sorted(results, key=lambda result: order.get(result.input, 0))))
        done, skipped, failed = (report.count(status) for status in STATUSES)
        emit(callback, End(done, skipped, failed, report.wall_s))
        return report

    def _report(self, tracks: tuple[TrackResult, ...]) -> Report:
        made = self.fingerprint
        wall_s = monotonic() - self.started
        return Report(
            made.model, made.sha256, made.license, made.source, self.device, made.settings, tracks, wall_s
        )


def prepare(
    found: Found,
    request: Request,
    *,
    model: "str | Path | Separable | Recipe | None" = None,
    to_stream: bool = False,
    callback: Callback | None = None,
) -> Session:
    """Check everything that can be checked without decoding audio or loading a model.

    Args:
        found: from `find`.
        request: the settings.
        model: a model in place of the one that the request names.
        to_stream: the output goes to a stream instead of the folder: there must be one input and one output.
        callback: receives notices, and the events of a download; `hf:` models are fetched to be described.

    Raises:
        SettingsError: an unknown model, stem, format or template, or no input at all.
        OutputError: the output folder can't be written.
        ResourceError: the disk has too little room.
    """
    form = find_format(request.output.format)
    template = template_of(request.batch.template, form, request.batch.mux)
    if request.engine.address is None:  # another machine may have the device
        check_device(request.compute.device)
    flow = _resolve(request, request.model.model if model is None else model, callback)
    request = tuned(request, flow, callback)
    if form.together:
        outputs = plan_streams(flow.stems, request.stems, flow.divided, form)
    else:
        outputs = plan_outputs(flow.stems, request.stems, flow.divided)
    if not found.inputs:
        hint = next(iter(found.notices()), "--include picks files by name")
        raise SettingsError("no audio file found in what was given", hint=hint)
    rate, channels = request.output.sample_rate, request.output.channels
    if rate != "keep":
        check_encodable(request.output.format, rate, channels if channels in (1, 2) else 1)
    if request.batch.mux:
        _require_one(len(outputs), "--mux", "outputs of a track, and the sound of a video", _ONE_STEM)
    root = place_of(request.batch.output)
    if request.batch.project and isinstance(root, Url):
        raise SettingsError(f"--project {request.batch.project}: needs a folder", setting="--project")
    plan = _plan(
        found,
        Layout(
            [output.name for output in outputs],
            root,
            template,
            None if request.batch.mux else form.extension,
            flow.name,
            together=form.together,
            project=request.batch.project,
        ),
        request.batch.shard,
        lambda notice: emit(callback, Notice(notice)),
    )
    if to_stream:
        count = len(found.inputs) if plan.total is None else plan.total
        _require_one(count, "-o -", "inputs, and a stream", "one INPUT")
        hint = f"-f wav: {form.name} holds the mix, too" if form.together else _ONE_STEM
        _require_one(len(outputs), "-o -", "outputs of a track, and a stream", hint)
    else:
        check_folder(root)
    remarks = () if plan.stream else found.notices()
    for notice in (*flow.remarks(outputs), *remarks, *plan.notices):
        emit(callback, Notice(notice))
    samples = (*found.inputs[:1], *found.inputs[-1:])
    return Session(request, flow, outputs, plan, fingerprint_of(flow, request), samples)


def _plan(found: Found, layout: Layout, shard: tuple[int, int], notify: Callable[[str], None]) -> Plan:
    """Plan all jobs, or the first ones and the others while the work goes on."""
    if found.more is None:
        plan = plan_jobs(found.inputs, layout)
        return replace(plan, jobs=tuple(take_shard(plan.jobs, shard)))

    def stream() -> Iterator[Job]:
        yield from stream_jobs(chain(found.inputs, found.more or ()), layout, notify)
        for notice in found.notices():  # complete after the listing
            notify(notice)

    return Plan((), stream=take_shard(stream(), shard))


def _resolve(request: Request, model: Any, callback: Callback | None) -> Flow:
    """Return the flow of the models that are asked for.

    Raises:
        SettingsError: the weights don't fit the ensemble, or the stems have no names of their own.
        Others: as `describe_model`.
    """
    combination, models = request.combination, (model, *request.combination.others)
    first = Step(models, blend=combination.blend, weights=combination.weights)
    recipe = Recipe((first, *(Step((model,), input=stem) for stem, model in combination.then)))
    describe = partial(describe_model, access=Access.of(request.model), callback=callback)
    return resolve(recipe, describe)


_ONE_STEM = "one stem with -s, or --karaoke"


def _require_one(count: int, flag: str, what: str, hint: str) -> None:
    if count != 1:
        raise SettingsError(f"{flag}: there are {count} {what} holds one", hint=f"choose {hint}")


def separate_files(
    inputs: "str | Path | Iterable[str | Path | Input] | Found",
    request: Request = DEFAULT_REQUEST,
    *,
    model: "str | Path | Separable | Recipe | None" = None,
    engine: Engine | None = None,
    stream: ReportStream | None = None,
    interrupted: Callable[[Report], None] | None = None,
    callback: Callback | None = None,
) -> Report:
    """Separate files and folders into files, as the command does.

        report = separate_files(["album/"], Request(output=OutputSettings(format="flac")))
        report.exit_code, [track.outputs for track in report.tracks]

    A track that fails is recorded in the report, and the others go on. Tracks whose outputs exist already,
    made from the same recording with the same model and settings, are skipped, so that the same call again
    resumes an interrupted one.

    Args:
        inputs: files, folders that are searched for files, or the result of `find`.
        request: the settings.
        model: a model in place of the one that the request names.
        engine: carries the tracks to workers, such as `engines.Processes`; None for the one that the request
            names.
        stream: writes the results into a file while the run goes on.
        interrupted: called with the report of the finished tracks if the run is interrupted, or breaks off.
        callback: receives events; returning False cancels.

    Returns:
        The result of every track.

    Raises:
        SettingsError: an unknown model, stem, format or template, or no input at all.
        OutputError: the output folder can't be written.
        ResourceError: the disk has too little room.
        ModelUnavailableError: a model can't be had.
        DeviceError: the device isn't there.
        Cancelled: the callback returned False. Finished tracks stay.
    """
    check_call(engine, callback)
    found = inputs if isinstance(inputs, Found) else find(inputs, request)
    session = prepare(found, request, model=model, callback=callback)
    engine = engine or make_ray(request.engine, request.compute.device)
    results = list[TrackResult]()
    try:
        with closing(session.run(callback, engine)) as running:
            for result in stream.record(session.head, running) if stream else running:
                results.append(result)
    except BaseException as error:
        if interrupted is not None and (results or not isinstance(error, Exception)):
            interrupted(session.report(results))
        raise
    report = session.report(results, callback)
    if stream:
        stream.end(report)
    return report
