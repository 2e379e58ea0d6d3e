"""`stemsplit evaluate`: score models, or stems against references, as tables, JSON or CSV."""

import json
import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import chain
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from stemsplit.cli import progress
from stemsplit.cli.failures import require_stdout, require_writable, say, usage_error
from stemsplit.cli.options import PROGRESS, choose_best, flag, setting
from stemsplit.cluster import make_ray
from stemsplit.engine_settings import EngineSettings
from stemsplit.errors import InputError
from stemsplit.events import Callback, Notice
from stemsplit.fields import collect, names
from stemsplit.files import write_named
from stemsplit.settings import DEFAULT_DEVICE, ModelSettings, Request

if TYPE_CHECKING:
    from stemsplit.evaluation.outcome import Outcome
    from stemsplit.evaluation.results import Evaluation, Row
    from stemsplit.evaluation.table import Metric

# Options that a comparison of files hasn't.
SEPARATION = ("members", "device", "precision", "threads", "segment_s", "overlap", "shifts")


@click.command(
    params=[
        click.Argument(["folders"], nargs=-1, metavar="[REF EST]"),
        flag("--dataset", metavar="DIR", help="Separate and score every track of this data set."),
        setting("model", note="Repeat it to compare models.", multiple=True),
        flag("--members", is_flag=True, help="Also score the members of the first model, an ensemble."),
        flag(
            "--oracle",
            "oracles",
            type=click.Choice(["irm", "mixphase"]),
            multiple=True,
            help="Also score an ideal ratio mask, or true magnitudes with the mixture's phase (repeatable).",
        ),
        flag("--only", metavar="GLOB", multiple=True, help="Only tracks whose name matches (repeatable)."),
        flag(
            "--metric",
            "metrics",
            metavar="NAME,...",
            multiple=True,
            type=names,
            help="Compute these metrics in place of the usual ones, such as sdr,bleedless,fullness.",
        ),
        flag("--bss/--no-bss", default=True, help="Also cSDR, ISR, SIR and SAR, the slowest metrics."),
        flag("--fresh", is_flag=True, help="Score again, ignoring earlier scores."),
        *map(setting, ("device", "precision", "threads", "segment_s", "overlap", "shifts")),
        setting("jobs", note="Each is a process."),
        *map(setting, ("engine", "address", "workers", "worker_cpus", "worker_gpus")),
        setting("offline"),
        PROGRESS,
        click.Option(["--json", "as_json"], is_flag=True, help="Print the scores as JSON."),
        flag("--csv", "csv_file", metavar="FILE", help="Also write the scores into a file as CSV."),
        flag("--html", "html_file", metavar="FILE", help="Also write a page with plots and all scores."),
    ],
    context_settings={"help_option_names": ["-h", "--help"]},
)
@click.pass_context
def evaluate(ctx: click.Context, /, **options: Any) -> None:
    """Score a model on a data set, or files against references.

    A data set is a folder of tracks, each a folder of stems (MUSDB18-HQ, MoisesDB and the like), of .stem.mp4
    files, or a manifest. REF and EST are a track's folder each, or folders of such folders. The mixture is
    always scored too, as the estimate of every stem. Tracks that were scored before aren't scored again.

    uSDR and SI-SDR are means over tracks; cSDR, ISR, SIR and SAR (BSS Eval 4) and the median SDR are medians.
    They can't be compared with each other. --metric also takes sdr, k_sdr, l1_freq, log_wmse, aura_stft,
    aura_mrstft, l1_snr, bleedless, fullness, bleedless_mr and fullness_mr, which are means as in msst.

    \b
    stemsplit evaluate --dataset musdb18hq/test -m htdemucs_ft --oracle irm
    stemsplit evaluate --dataset songs/ --only '7.*' -m runs/fine-tune -m classic --csv scores.csv
    stemsplit evaluate songs/ stems/ --metric bleedless,fullness
    stemsplit evaluate songs/ stems/ --json | jq .summary.stems.vocals.csdr
    """
    typed = {name for name in options if ctx.get_parameter_source(name) is ParameterSource.COMMANDLINE}
    if options["folders"]:  # the environment's model and data set don't apply
        options |= dict.fromkeys({"model", "dataset"} - typed)
    _check(options)
    if options["folders"]:
        _refuse_separation(ctx.command, typed)
    require_stdout()
    ctx.exit(_run(options))


def _check(options: Mapping[str, Any]) -> None:
    """Check the arguments before any slow import."""
    count = len(options["folders"])
    if options["dataset"] and count:
        raise usage_error("--dataset DIR and REF EST exclude each other")
    if not options["dataset"] and count != 2:
        hint = "stemsplit evaluate --dataset DIR -m MODEL, or stemsplit evaluate REF EST"
        raise usage_error("give a data set, or two folders to compare", hint)
    if count and options["model"]:
        raise usage_error("--model separates a --dataset; REF and EST are compared as they are")
    require_writable("--csv", options["csv_file"])
    require_writable("--html", options["html_file"])
    files = [os.path.realpath(file) for file in (options["csv_file"], options["html_file"]) if file]
    if len(files) > len(set(files)):
        raise usage_error(f"--csv and --html would write the same file, {options['csv_file']}")


def _refuse_separation(command: click.Command, typed: Collection[str]) -> None:
    """Refuse typed options that only a separation has; the environment's are for other runs."""
    for option in command.params:
        if option.name in typed and option.name in SEPARATION:
            raise usage_error(
                f"{max(option.opts, key=len)} is for a --dataset; REF and EST are compared as they are"
            )


def _run(options: dict[str, Any]) -> int:
    reasons = choose_best(options)
    with progress.display(options["style"]) as callback:
        for reason in reasons:
            callback(Notice(reason))
        evaluation = _evaluated(options, callback)
    if options["as_json"]:
        click.echo(json.dumps(evaluation.as_dict(), indent=2))
    else:
        _print(evaluation)
    for outcome in evaluation.outcomes:
        if failure := outcome.failure:
            named = failure.message.startswith(f"{outcome.name}: ")
            say(failure.message if named else f"{outcome.name}: {failure.message}", failure.hint)
    if options["csv_file"]:
        content = evaluation.as_csv().encode("utf-8", "surrogateescape")  # keeps the bytes of tracks' names
        write_named(options["csv_file"], content)
    if options["html_file"]:
        from stemsplit.evaluation.page import as_html

        write_named(options["html_file"], as_html(evaluation).encode("utf-8", "surrogateescape"))
    return evaluation.exit_code


def _evaluated(options: Mapping[str, Any], callback: Callback) -> "Evaluation":
    """Run the evaluation that the options ask for."""
    from stemsplit.api import evaluate as score

    reference, estimates = options["folders"] or (options["dataset"], None)
    try:
        return score(
            reference,
            estimates=estimates,
            oracles=options["oracles"],
            only=options["only"],
            metrics=list(chain.from_iterable(options["metrics"])) or None,
            bss=options["bss"],
            jobs=options["jobs"] or Request.jobs,
            engine=make_ray(collect(options, EngineSettings), options["device"] or DEFAULT_DEVICE),
            fresh=bool(options["fresh"]),
            callback=callback,
            **({} if estimates else _separation(options)),
        )
    except InputError as error:
        raise usage_error(str(error), error.hint) from None


def _separation(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the models and their settings, as arguments of `stemsplit.evaluate`."""
    models = [collect({"model": name}, ModelSettings).model for name in options["model"] or (None,)]
    request = collect({**options, "model": models[0]}, Request)
    return {
        "models": models,
        "members": bool(options["members"]),
        "segment_s": request.model.segment_s,
        "chunks": request.chunks,
        "compute": request.compute,
        "offline": request.model.offline,
    }


# ---------------------------------------------------------------- tables


def _print(evaluation: "Evaluation") -> None:
    scored = [outcome for outcome in evaluation.outcomes if outcome.scores]
    if not scored:
        return
    click.echo("\n".join(_tables(evaluation, [outcome.name for outcome in scored])))
    if verdict := _verdict(evaluation):
        click.echo("\n" + "\n".join(verdict))
    remarks = [f"{outcome.name}: {remark}" for outcome in scored for remark in _remarks(outcome)]
    if remarks:
        click.echo("\n" + "\n".join(remarks))


def _remarks(outcome: "Outcome") -> Iterator[str]:
    """Yield the findings about a track's estimates, then its notes."""
    if outcome.scores is None:
        return
    for finding in outcome.scores.findings:
        cost = "" if finding.cost_db is None else f" (costs {finding.cost_db:.1f} dB)"
        yield f"{finding.stem} {finding.message}{cost}"
    yield from (f"note: {note}" for note in outcome.scores.notes)


def _tables(evaluation: "Evaluation", tracks: Sequence[str]) -> list[str]:
    """Return the lines of the table of all tracks, with the summary below."""
    summary = list(evaluation.summary_rows())
    if len(tracks) == 1:  # the summary of one track is that track, with a mean over its stems
        return _table([replace(row, track=tracks[0]) for row in summary], set())
    rows = list(evaluation.track_rows())
    methods = [row.method for row in summary]
    breaks = {len(rows) + i for i in range(len(summary)) if i == 0 or methods[i] != methods[i - 1]}
    return [*_table([*rows, *summary], breaks), "", *_explained(summary, len(tracks))]


def _verdict(evaluation: "Evaluation") -> list[str]:
    """Return the table that says whether the first of several models pays; empty for a single one."""
    from stemsplit.evaluation.verdict import HEADS

    rows = [gain.cells for gain in evaluation.verdict()]
    if not rows:
        return []
    cells = [tuple(map(str.upper, HEADS)), *rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = ["  ".join(map(str.ljust, line, widths)).rstrip() for line in cells]
    return [f"Does {evaluation.method} pay, beside the best other model of each stem?", *lines]


def _explained(summary: "Sequence[Row]", count: int) -> list[str]:
    """Return the sentence that says how each metric was averaged over the tracks."""
    titles: dict[str, list[str]] = {}
    for metric in _shown(summary).values():
        titles.setdefault(metric.over_songs, []).append(metric.title)
    sentences = [f"{', '.join(own)}: {kind} over {count} tracks" for kind, own in titles.items()]
    return [f"{'; '.join(sentences)}. Different metrics don't compare."]


def _shown(rows: "Sequence[Row]") -> "dict[str, Metric]":
    """Return the metrics that at least one row has."""
    from stemsplit.evaluation.table import METRICS

    return {name: metric for name, metric in METRICS.items() if any(name in row.metrics for row in rows)}


def _table(rows: "Sequence[Row]", breaks: set[int]) -> list[str]:
    """Return the lines of a table, with an empty line before the rows numbered `breaks`."""
    metrics = _shown(rows)
    cells = [("TRACK", "METHOD", "STEM", *(metric.title for metric in metrics.values()))]
    for row in rows:
        values = (_number(row.metrics.get(name), metric.unit) for name, metric in metrics.items())
        cells.append((row.track or "all", row.method, row.stem, *values))
    widths = [max(len(line[i]) for line in cells) for i in range(len(cells[0]))]
    lines = []
    for number, line in enumerate(cells):
        names = [cell.ljust(width) for cell, width in zip(line[:3], widths[:3], strict=True)]
        numbers = [cell.rjust(width) for cell, width in zip(line[3:], widths[3:], strict=True)]
        lines += [""] if number - 1 in breaks else []
        lines.append("  ".join([*names, *numbers]).rstrip())
    return lines


def _number(value: float | None, unit: str) -> str:
    """Format a score; beyond 100 dB, where only rounding errors are left, as a bound."""
    if value is None or value != value:
        return "-"
    return f"{value:.2f}" if abs(value) < 100 or not unit else ">99" if value > 0 else "<-99"
