"""`stemsplit separate`: inputs and options in, stems in a folder or on stdout."""

import importlib
import json
import sys
import threading
from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from stemsplit.cli import progress
from stemsplit.cli.failures import usage_error
from stemsplit.cli.options import Bitrate, Comma, Keep, Mix, Shard, Time, flag, given, setting
from stemsplit.settings import (
    QUALITIES,
    BatchSettings,
    ChunkSettings,
    ComputeSettings,
    ModelSettings,
    OutputSettings,
    StemSettings,
)

if TYPE_CHECKING:
    from stemsplit.separation.plan import Input
    from stemsplit.separation.report import Report
    from stemsplit.separation.session import Request, Session

STDIN = "-"


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("inputs", nargs=-1, metavar="INPUT...")
@setting(
    "-o",
    "--output",
    of=BatchSettings,
    field="output",
    metavar="DIR|-",
    help="Folder to write into, or - for stdout.",
)
@setting(
    "-m",
    "--model",
    of=ModelSettings,
    field="model",
    metavar="NAME|PATH",
    help="A model's name, a file, a folder, or hf:OWNER/REPO.",
)
@setting(
    "-s",
    "--stem",
    "stem",
    of=StemSettings,
    field="stems",
    type=Comma(),
    multiple=True,
    help="Only this stem; a list, or repeated. [default: all]",
)
@flag("--rest", is_flag=True, help="Also no_STEM, the mix without the stem.")
@flag("--mix", type=Mix(), multiple=True, help="Also a sum of stems under a name of its own.")
@flag("--karaoke", is_flag=True, help="Only `instrumental`, everything but the vocals.")
@setting(
    "-f",
    "--format",
    "format_",
    of=OutputSettings,
    field="format",
    help="wav, flac, mp3, ogg, opus, m4a, alac or aiff.",
)
@setting(
    "--bit-depth", of=OutputSettings, field="bit_depth", metavar="16|24|32f", help="Of lossless formats."
)
@flag("--bitrate", type=Bitrate(), help="Of lossy formats, such as 192k. [default: the format's own]")
@setting("--sample-rate", of=OutputSettings, field="sample_rate", type=Keep(), help="Of the outputs, in Hz.")
@setting("--channels", of=OutputSettings, field="channels", type=Keep(), help="Of the outputs, 1 or 2.")
@flag("--tags/--no-tags", help="Copy title, artist, cover and so on. [default: tags]")
@setting(
    "--clip",
    of=OutputSettings,
    field="clip",
    metavar="common|none|clamp",
    help="Against clipping: one gain for all stems of a track, nothing, or clamping.",
)
@setting(
    "--template",
    of=BatchSettings,
    field="template",
    help="Path of an output below the folder; also {model}, {parent}.",
)
@setting(
    "--if-exists",
    of=BatchSettings,
    field="if_exists",
    type=click.Choice(["skip", "overwrite", "rename", "error"]),
    help="Finished outputs made with the same settings are skipped.",
)
@click.option("-y", "overwrite", is_flag=True, help="Short for --if-exists overwrite.")
@flag("--from-file", metavar="LIST|-", help="Read inputs from a file, one per line.")
@click.option("-0", "null", is_flag=True, help="The list is separated by NUL, as from find -print0.")
@flag("--include", multiple=True, metavar="GLOB", help="Of folders, only files that match.")
@flag("--exclude", multiple=True, metavar="GLOB", help="Of folders, no files that match.")
@flag("--start", type=Time(), help="Begin there: seconds, M:SS or H:MM:SS.")
@flag("--end", type=Time(), help="End there.")
@flag("--duration", type=Time(), help="End that much after the start.")
@flag(
    "--audio-stream",
    type=click.IntRange(0),
    metavar="N",
    help="Of a container with several audio streams, from 0.",
)
@flag("--input-name", metavar="NAME", help="What stdin is called in the outputs' paths. [default: stdin]")
@setting(
    "-d",
    "--device",
    of=ComputeSettings,
    field="device",
    metavar="auto|cpu|cuda[:N]|mps",
    help="What to compute on.",
)
@setting(
    "--precision",
    of=ComputeSettings,
    field="precision",
    type=click.Choice(["auto", "fp32", "bf16", "fp16"]),
    help="Of the arithmetic.",
)
@setting(
    "--threads", of=ComputeSettings, field="threads", type=int, help="CPU threads. [default: one per core]"
)
@flag(
    "--quality",
    type=click.Choice(["fast", "balanced", "best"]),
    help="Preset for what isn't given: less or more overlap and shifts.",
)
@setting(
    "--segment",
    of=ModelSettings,
    field="segment_s",
    type=float,
    metavar="S",
    help="Chunk length in seconds. [default: the model's own]",
)
@setting(
    "--overlap",
    of=ChunkSettings,
    field="overlap",
    type=float,
    metavar="F",
    help="Fraction that neighbouring chunks share, in [0, 1).",
)
@setting(
    "--shifts",
    of=ChunkSettings,
    field="shifts",
    type=int,
    metavar="N",
    help="Average over N randomly delayed passes. [default: 0]",
)
@setting("--seed", of=ChunkSettings, field="seed", type=int, help="Of the delays. [default: 0]")
@flag("--batch-size", metavar="auto|N", help="Chunks computed at once. [default: auto]")
@flag("-j", "--jobs", type=click.IntRange(1), metavar="N", help="Tracks computed at once. [default: 1]")
@flag("--shard", type=Shard(), help="Only every N-th track from the I-th on, for job arrays.")
@flag("--fail-fast", is_flag=True, help="Stop at the first track that fails.")
@flag("--offline", is_flag=True, help="Never open a connection.")
@click.option("-n", "--dry-run", is_flag=True, help="Print what would be done.")
@flag(
    "--progress",
    "how",
    type=click.Choice(progress.STYLES),
    help="How to show progress on stderr. [default: auto]",
)
@click.option("--json", "as_json", is_flag=True, help="Print the report on stdout as JSON.")
@flag("--report", metavar="FILE", help="Write the report into a file as JSON.")
@click.option("-P", "--print-paths", is_flag=True, help="Print the finished paths on stdout.")
@click.option("--print0", is_flag=True, help="The same, separated by NUL.")
@flag("--color", type=click.Choice(["auto", "always", "never"]), help="Colours on stderr. [default: auto]")
@click.option("--debug", is_flag=True, help="Show a traceback when something fails.")
@click.pass_context
def separate(ctx: click.Context, /, **options: Any) -> None:
    """Separate INPUTs (files, folders, or - for stdin) into stems.

    \b
    stemsplit song.mp3
    stemsplit album/ -o out -f flac --karaoke
    ffmpeg -v error -i talk.mkv -f wav - | stemsplit - -s vocals -o - > vocals.wav
    """
    progress.set_color(options["color"])
    with ExitStack() as stack:
        ctx.exit(_run(options, stack))


def _run(options: dict[str, Any], stack: ExitStack) -> int:
    from stemsplit.core.devices import check_device
    from stemsplit.separation.plan import check_template

    to_stdout = options["output"] == "-"
    _check_streams(options, to_stdout)
    request = _request(options)
    check_template(request.batch.template)
    check_device(request.compute.device)
    # The slowest import runs while the inputs are looked for and the plan is made.
    threading.Thread(target=importlib.import_module, args=("torch",), daemon=True).start()

    from stemsplit.separation.session import prepare
    from stemsplit.separation.stream import write_stream

    inputs = _inputs(options, request, stack)
    session = prepare(inputs, request, alone=to_stdout)
    if options["dry_run"]:
        return _show_plan(session, options["as_json"])
    with progress.display(options["how"]) as callback:
        if to_stdout:
            write_stream(session, sys.stdout.buffer, callback)
            return 0
        results = []
        for result in session.run(callback):
            results.append(result)
            _print_paths(options, result.outputs.values())
        report = session.report(results, callback)
    return _conclude(report, options)


def _check_streams(options: dict[str, Any], to_stdout: bool) -> None:
    """Stdout carries one kind of data, and a terminal is no place for audio."""
    paths = options["print_paths"] or options["print0"]
    if to_stdout + options["as_json"] + paths > 1:
        raise usage_error(
            "-o -, --json and --print-paths all want stdout", hint="take one; --report FILE is free"
        )
    if to_stdout and sys.stdout.isatty():
        raise usage_error("-o -: stdout is a terminal", hint="pipe it into a program or a file")


def _request(options: dict[str, Any]) -> "Request":
    """The settings that the options mean; what isn't given keeps its default."""
    from stemsplit.separation.session import Request

    preset = QUALITIES[options["quality"] or "balanced"]
    start, end = options["start"], options["end"]
    if options["duration"] is not None:
        if end is not None:
            raise usage_error("--end and --duration exclude each other")
        end = (start or 0) + options["duration"]
    cut = {name: options[name] for name in ("overlap", "shifts", "seed") if options[name] is not None}
    cut = {**preset.chunks, **cut}
    if options["batch_size"] not in (None, "auto"):
        cut["batch_size"] = _count("--batch-size", options["batch_size"])
    stems = tuple(dict.fromkeys(name for group in options["stem"] for name in group))
    exists = "overwrite" if options["overwrite"] else options["if_exists"]
    return Request(
        model=given(
            ModelSettings, model=options["model"], segment_s=options["segment"], offline=options["offline"]
        ),
        compute=given(
            ComputeSettings,
            device=options["device"],
            precision=options["precision"],
            reduced=preset.reduced,
            threads=options["threads"],
        ),
        chunks=ChunkSettings(**cut) if cut else None,
        stems=given(
            StemSettings,
            stems=stems or None,
            rest=options["rest"],
            mixes=tuple(options["mix"]) or None,
            karaoke=options["karaoke"],
        ),
        batch=given(
            BatchSettings,
            output=options["output"],
            template=options["template"],
            if_exists=exists,
            fail_fast=options["fail_fast"],
            shard=options["shard"],
            start_s=start,
            end_s=end,
            audio_stream=options["audio_stream"],
        ),
        output=given(OutputSettings, **_output_options(options)),
        jobs=options["jobs"] or 1,
    )


def _output_options(options: dict[str, Any]) -> dict[str, Any]:
    depth = options["bit_depth"]
    if options["output"] == "-" and depth is None and options["format_"] in (None, "wav"):
        depth = "32f"
    return {
        "format": options["format_"],
        "bit_depth": depth,
        "bitrate": options["bitrate"],
        "sample_rate": options["sample_rate"],
        "channels": options["channels"],
        "tags": options["tags"],
        "clip": options["clip"],
    }


def _count(name: str, text: str) -> int:
    if not text.isdecimal():
        raise usage_error(f"{name} {text}: must be auto or a number")
    return int(text)


def _inputs(options: dict[str, Any], request: "Request", stack: ExitStack) -> "list[Input]":
    """Everything that is to be separated; streams are spooled into temporary files."""
    from stemsplit.audio.spool import is_pipe
    from stemsplit.separation.plan import collect

    names = [*options["inputs"], *_listed(options["from_file"], options["null"])]
    if not names and not options["from_file"]:
        raise usage_error("no INPUT", hint="stemsplit separate --help shows how")
    if STDIN in names and (options["from_file"] == STDIN or names.count(STDIN) > 1):
        raise usage_error("stdin can be read once only")
    streams = [name for name in names if name == STDIN or is_pipe(name)]
    spooled = [_spooled(name, options["input_name"], stack) for name in streams]
    paths = [Path(name) for name in names if name not in streams]
    output = Path(request.batch.output)
    files = collect(paths, include=options["include"], exclude=options["exclude"], output=output)
    return [*spooled, *files]


def _spooled(name: str, stdin_name: str | None, stack: ExitStack) -> "Input":
    """A stream's copy in a temporary file, which lives as long as `stack`."""
    from stemsplit.audio.spool import spool
    from stemsplit.separation.plan import Input

    source, label = (sys.stdin.buffer, stdin_name or "stdin") if name == STDIN else (name, name)
    return Input(stack.enter_context(spool(source, label)), label=label)


def _listed(source: str | None, null: bool) -> list[str]:
    """The lines of `--from-file`."""
    if source is None:
        return []
    try:
        data = sys.stdin.buffer.read() if source == STDIN else Path(source).read_bytes()
    except OSError as error:
        raise usage_error(f"--from-file {source}: {error.strerror}") from None
    entries = data.split(b"\0") if null else data.splitlines()
    return [
        entry.decode(sys.getfilesystemencoding(), "surrogateescape") for entry in entries if entry.strip()
    ]


def _show_plan(session: "Session", as_json: bool) -> int:
    """`--dry-run`: every input and what would be written."""
    jobs = [
        (str(job.input), {name: str(path) for name, path in job.files.items()}) for job in session.plan.jobs
    ]
    if as_json:
        planned = [{"input": name, "outputs": files} for name, files in jobs]
        click.echo(json.dumps({"schema": 1, "model": session.model.name, "jobs": planned}, indent=2))
        return 0
    for notice in session.plan.notices:
        click.echo(f"note: {notice}", err=True)
    for name, files in jobs:
        click.echo(f"{name} -> {', '.join(files.values())}", err=True)
    click.echo(f"{len(jobs)} to do with {session.model.name}; nothing was done (--dry-run)", err=True)
    return 0


def _print_paths(options: dict[str, Any], paths: Iterable[str]) -> None:
    if options["print0"] or options["print_paths"]:
        end = "\0" if options["print0"] else "\n"
        click.echo("".join(path + end for path in paths), nl=False)
        sys.stdout.flush()


def _conclude(report: "Report", options: dict[str, Any]) -> int:
    """Write the report where it was asked for, and the last lines."""
    text = json.dumps(report.as_dict(), indent=2, ensure_ascii=False)
    if options["report"]:
        try:
            Path(options["report"]).write_text(text + "\n", encoding="utf-8")
        except OSError as error:
            raise usage_error(f"--report {options['report']}: {error.strerror}") from None
    if options["as_json"]:
        click.echo(text)
    progress.summarise(report)
    return report.exit_code
