"""`stemsplit separate`: separate inputs into stems, in a folder or on stdout."""

import codecs
import gc
import importlib
import json
import os
import sys
import threading
from collections.abc import Iterable
from contextlib import ExitStack, suppress
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from stemsplit.cli import progress
from stemsplit.cli.failures import STDOUT, one_line, require_stdout, require_writable, say, usage_error
from stemsplit.cli.options import choose_best
from stemsplit.cli.separate_options import NOTICES, OPTIONS, Sectioned
from stemsplit.events import Callback, Event, Notice, TrackDone
from stemsplit.fields import collect
from stemsplit.files import os_errors, write_named
from stemsplit.formats import FORMATS
from stemsplit.outcome import SCHEMA, exit_code
from stemsplit.settings import LAYOUTS, QUALITIES, Request

if TYPE_CHECKING:
    from stemsplit.separation.inputs import Input
    from stemsplit.separation.jobs import Ready
    from stemsplit.separation.plan import Job
    from stemsplit.separation.report import Report, ReportStream, TrackResult
    from stemsplit.separation.run import Session

STDIN = "-"
KARAOKE_LEAD = "karaoke_lead"  # the registry's recipe that takes the lead voice away
LINES = ".jsonl"  # suffix of a report that is written while the run goes on


@click.command(
    cls=Sectioned,
    params=[click.Argument(["inputs"], nargs=-1, metavar="INPUT..."), *OPTIONS],
    context_settings={"help_option_names": ["-h", "--help"]},
)
@click.pass_context
def separate(ctx: click.Context, /, **options: Any) -> None:
    """Separate INPUTs (files, folders, or - for stdin) into stems.

    \b
    stemsplit song.mp3
    stemsplit song.mp3 -s vocals --rest
    stemsplit album/ -o out -f flac --karaoke
    ffmpeg -v error -i talk.mkv -f wav - | stemsplit - -s vocals -o - > vocals.wav
    """
    progress.set_color(options["color"])
    with ExitStack() as stack:
        ctx.exit(_run(options, stack, ctx.meta[NOTICES]))


def _run(options: dict[str, Any], stack: ExitStack, notices: Iterable[str]) -> int:
    from stemsplit.core.devices import check_device
    from stemsplit.core.memory import share_memory
    from stemsplit.separation.plan import template_of

    os.getcwd()  # raises if the working folder was removed: torch can't be imported there
    share_memory()
    to_stdout = options["output"] == STDOUT
    _check_streams(options, to_stdout)
    if options["report"] == STDOUT:
        options |= {"as_json": True, "report": None}
    require_writable("--report", options["report"])
    notices = [*notices, *choose_best(options)]
    request = _request(options)
    template_of(request.batch.template, FORMATS[request.output.format])
    if request.engine.address is None:  # another machine may have the device
        check_device(request.compute.device)
    # Import torch, which takes longest, while the inputs are collected and the plan is made.
    threading.Thread(target=_import_torch, daemon=True).start()

    from stemsplit.separation.inputs import find
    from stemsplit.separation.pipe import write_stream
    from stemsplit.separation.run import prepare, separate_files

    found = find(_inputs(options, stack), request)
    _check_report(options["report"], found.inputs)
    with progress.display(options["style"]) as show:
        for notice in notices:
            show(Notice(notice))
        if options["dry_run"] or to_stdout:
            session = prepare(found, request, to_stream=to_stdout, callback=show)
            if options["dry_run"]:
                return _show_plan(session, options["as_json"])
            result = write_stream(session, sys.stdout.buffer, show)
            _write_report(_reported(session, result, options["report"], show), options["report"])
            return 0

        def tell(event: Event) -> bool | None:
            if isinstance(event, TrackDone):
                _print_paths(options, event.outputs.values())
            return show(event)

        report = separate_files(
            found,
            request,
            stream=_stream(options["report"]),
            interrupted=lambda report: _write_report(report, options["report"]),
            callback=tell,
        )
    return _conclude(report, options)


def _stream(report: str | None) -> "ReportStream | None":
    from stemsplit.separation.report import ReportStream

    return ReportStream(Path(report)) if report and report.endswith(LINES) else None


def _import_torch() -> None:
    """Import torch, without collecting garbage again and again among its objects, which all stay."""
    if "torch" in sys.modules:
        return
    gc.disable()
    try:
        # Ignore errors: the thread that needs torch gets the same one, and reports it.
        with suppress(Exception):
            importlib.import_module("torch")
        gc.freeze()  # later collections pass over them
    finally:
        gc.enable()


def _check_streams(options: dict[str, Any], to_stdout: bool) -> None:
    """Refuse two kinds of data on stdout, and audio on a terminal."""
    kinds = {
        "-o -": to_stdout,
        "--report -": options["report"] == STDOUT,
        "--json": options["as_json"] and options["report"] != STDOUT,  # which is the same
        "--print-paths": options["print_paths"] or options["print0"],
    }
    used = [words for words, wanted in kinds.items() if wanted]
    if len(used) > 1:
        raise usage_error(
            f"{' and '.join(used)} write to stdout",
            hint="use one of them; --report FILE writes the report into a file",
        )
    if to_stdout and sys.stdout.isatty():
        raise usage_error("-o -: stdout is a terminal", hint="pipe it into a program or a file")
    if used:
        require_stdout()


def _check_report(report: str | None, inputs: "list[Input]") -> None:
    """Refuse to write the report over an input."""
    files = (entry.path for entry in inputs if entry.url is None)
    if report is not None and os.path.realpath(report) in map(os.path.realpath, files):
        raise usage_error(f"--report {report}: is an input")


def _request(options: dict[str, Any]) -> Request:
    """Return the settings that the options ask for."""
    if options["engine"] == "ray":
        if options["output"] == STDOUT:
            raise usage_error("-o -: --engine ray writes files")
        if options["jobs"]:
            raise usage_error(f"--jobs {options['jobs']}: --engine ray has --workers")
    if options["mux"] and options["format"] == "wav":
        hint = "without -f it is the usual one of the film's kind; -f flac and -f alac lose nothing"
        raise usage_error("--mux -f wav: a film's sound is written as another format", hint=hint)
    first, *others = options["model"] or (None,)
    if not others:
        for name in ("blend", "weights"):
            if options[name] is not None:
                raise usage_error(f"--{name}: needs several models", hint="repeat -m")
    changed: dict[str, Any] = {"model": first, "others": tuple(others), "end_s": _end(options)}
    if options["karaoke_lead"]:
        changed |= {"model": KARAOKE_LEAD, "stems": ("karaoke",)}
    if options["layout"]:
        changed["template"] = LAYOUTS[options["layout"]]
    if options["overwrite"]:
        changed["if_exists"] = "overwrite"
    if options["output"] == STDOUT and options["bit_depth"] is None and options["format"] in (None, "wav"):
        changed["bit_depth"] = "32f"
    return collect({**options, **changed}, Request, QUALITIES[options["quality"]])


def _end(options: dict[str, Any]) -> float | None:
    """Return the end to separate up to, in seconds, if `--end` or `--duration` is given."""
    if options["duration"] is None:
        end: float | None = options["end_s"]
        return end
    if options["duration"] == 0:
        raise usage_error("--duration 0: must be positive")
    return float((options["start_s"] or 0) + options["duration"])


def _inputs(options: dict[str, Any], stack: ExitStack) -> "list[Path | Input]":
    """Return the inputs; stdin and pipes are spooled into temporary files."""
    from stemsplit.audio.spool import is_pipe
    from stemsplit.separation.inputs import input_at
    from stemsplit.urls import is_url, place_of

    names = [*options["inputs"], *_listed(options["from_file"], options["null"])]
    if not names and not options["from_file"]:
        raise usage_error("no INPUT", hint="stemsplit separate --help shows how")
    if "" in names:
        raise usage_error("an INPUT is empty", hint="is a variable in a script not set?")
    if STDIN in names and (options["from_file"] == STDIN or names.count(STDIN) > 1):
        raise usage_error("stdin can be read only once")
    if options["dry_run"]:
        _check_model_name(options["inputs"])

    def made(name: str) -> "Path | Input":
        if name == STDIN or is_pipe(name):
            return _spooled(name, options["input_name"], stack)
        return input_at(name) if is_url(name) else Path(place_of(name))

    return [made(name) for name in names]


def _check_model_name(inputs: Iterable[str]) -> None:
    """Refuse the name of a model as an input of a dry run: in demucs, -n chooses the model."""
    from stemsplit.hub.registry import is_known

    for name in inputs:
        if is_known(name) and not os.path.exists(name):
            raise usage_error(f"-n {name}: -n is --dry-run", hint=f"did you mean -m {name}?")


def _spooled(name: str, stdin_name: str, stack: ExitStack) -> "Input":
    """Copy a stream into a temporary file, which is deleted when `stack` closes."""
    from stemsplit.audio.spool import spool
    from stemsplit.errors import StemsplitError
    from stemsplit.separation.inputs import Input

    source, label = (sys.stdin.buffer, stdin_name) if name == STDIN else (name, name)
    try:
        return Input(stack.enter_context(spool(source, label)), label=label)
    except StemsplitError as error:  # fails this input, not the others
        return Input(Path(name), label=label, failure=error)


def _listed(source: str | None, null: bool) -> list[str]:
    """Return the entries of the list that `--from-file` names."""
    if source is None:
        return []
    try:
        data = sys.stdin.buffer.read() if source == STDIN else Path(source).read_bytes()
    except OSError as error:
        raise usage_error(f"--from-file {source}: {error.strerror}") from None
    if b"\0" in data and not null:
        raise usage_error(
            f"--from-file {source}: is no list of lines", hint="-0 reads a list that find -print0 wrote"
        )
    data = data.removeprefix(codecs.BOM_UTF8)
    entries = data.split(b"\0") if null else data.splitlines()
    found = [
        entry.decode(sys.getfilesystemencoding(), "surrogateescape") for entry in entries if entry.strip()
    ]
    return found if null else [name for name in found if not _is_comment(name)]


def _is_comment(line: str) -> bool:
    """Return whether a line of a list is a comment, as in M3U playlists: no file has that name."""
    return line.startswith("#") and not os.path.lexists(line)


def _show_plan(session: "Session", as_json: bool) -> int:
    """Print the plan for `--dry-run`; return the exit code that the run would have.

    Raises:
        ResourceError: the disk has too little room.
        SettingsError: the models or the device don't support a setting.
    """
    from stemsplit.separation.jobs import Ready
    from stemsplit.separation.report import TrackResult

    found = list(session.survey(addresses=True))
    if as_json:
        jobs = [_planned(one) for one in found]
        click.echo(json.dumps({"schema": SCHEMA, "model": session.flow.name, "jobs": jobs}, indent=2))
    else:
        for one in found:
            _show_planned(one)
        count = sum(not isinstance(one, TrackResult) for one in found)
        click.echo(f"{count} to do with {session.flow.name}; nothing was done (--dry-run)", err=True)
    if not all(isinstance(one, TrackResult) for one in found):
        session.check_settings()
    session.check_room([one for one in found if isinstance(one, Ready)])
    return exit_code([one.error if isinstance(one, TrackResult) else None for one in found])


def _show_planned(found: "Ready | Job | TrackResult") -> None:
    job = _planned(found)
    if job["error"]:
        say(f"{job['input']}: {job['error']['message']}", job["error"]["hint"])
    elif job["status"] == "skipped":
        click.echo(one_line(f"{job['input']}: done already"), err=True)
    else:
        click.echo(
            one_line(f"{job['input']} -> {', '.join(dict.fromkeys(job['outputs'].values()))}"), err=True
        )


def _planned(found: "Ready | Job | TrackResult") -> dict[str, Any]:
    from stemsplit.separation.plan import Job
    from stemsplit.separation.report import TrackResult

    if isinstance(found, TrackResult):
        error = found.error and asdict(found.error)
        return {
            "input": found.input,
            "status": found.status,
            "outputs": dict(found.outputs),
            "error": error,
        }
    job = found if isinstance(found, Job) else found.job
    outputs = {name: str(path) for name, path in job.files.items()}
    return {"input": str(job.input), "status": "ready", "outputs": outputs, "error": None}


def _print_paths(options: dict[str, Any], paths: Iterable[str]) -> None:
    if options["print0"] or options["print_paths"]:
        end = "\0" if options["print0"] else "\n"
        sys.stdout.buffer.write(b"".join(os.fsencode(path + end) for path in dict.fromkeys(paths)))
        sys.stdout.flush()


def _conclude(report: "Report", options: dict[str, Any]) -> int:
    """Write the report as the options ask, print the summary, and return the exit code."""
    try:
        if options["as_json"]:
            click.echo(progress.json_text(report.as_dict(), sys.stdout.encoding, indent=2))
        progress.summarise(report)
    finally:  # also if the reader of stdout is gone
        _write_report(report, options["report"])
    return report.exit_code


def _write_report(report: "Report", file: str | None) -> None:
    """Write the report into a file, unless it was written while the run went on."""
    if file and not file.endswith(LINES):
        text = progress.json_text(report.as_dict(), "utf-8", indent=2)
        with os_errors(Path(file)):
            write_named(file, f"{text}\n".encode())


def _reported(session: "Session", result: "TrackResult", file: str | None, show: Callback) -> "Report":
    """Return the report of a run with one track, which is written at once if it is one of lines."""
    stream = _stream(file)
    results = stream.record(session.head, [result]) if stream else [result]
    report = session.report(list(results), show)
    if stream:
        stream.end(report)
    return report
