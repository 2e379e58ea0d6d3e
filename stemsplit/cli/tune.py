"""`stemsplit tune`: find out how a model computes fastest on this machine, for later runs."""

import json
from dataclasses import asdict
from math import floor
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from stemsplit.cli import progress
from stemsplit.cli.failures import usage_error
from stemsplit.cli.options import PROGRESS, choose_best, flag, setting
from stemsplit.events import Notice
from stemsplit.fields import collect
from stemsplit.outcome import SCHEMA
from stemsplit.settings import MIN_AGREEMENT_DB, Request

if TYPE_CHECKING:
    from stemsplit.separation.tuned import Record
    from stemsplit.separation.tuning import Timed


@click.command(
    params=[
        click.Argument(["name"], required=False, metavar="[MODEL]"),
        *map(setting, ("model", "device")),
        flag(
            "--min-agreement",
            type=float,
            metavar="DB",
            default=MIN_AGREEMENT_DB,
            help="Only choose what agrees so well with plain fp32; 50 allows bf16 for HT Demucs.",
        ),
        *map(setting, ("offline", "trust_first", "license")),
        PROGRESS,
        click.Option(["--json", "as_json"], is_flag=True, help="Print the record as JSON."),
    ],
    context_settings={"help_option_names": ["-h", "--help"]},
)
def tune(name: str | None, min_agreement: float, as_json: bool, style: str, **options: Any) -> None:
    """Find out how a model computes fastest on this machine, and record it for later runs.

    Noise is computed in every precision that the model supports here, with all cores and with half of them,
    and in batches; on a GPU also channels last and compiled. Where no option says otherwise, `separate` then
    uses the fastest that agrees with plain fp32, until torch or the machine changes. It takes as long as some
    thirty chunks: let nothing else run meanwhile.

    \b
    stemsplit tune
    stemsplit tune htdemucs_ft --min-agreement 50
    stemsplit song.mp3 -m htdemucs_ft --no-tuned
    """
    source = click.get_current_context().get_parameter_source("model")
    if name is not None and source is ParameterSource.COMMANDLINE:
        raise usage_error(f"MODEL {name} and --model exclude each other")
    options["model"] = options["model"] if name is None else name
    reasons = choose_best(options)
    request = collect(options, Request)
    from stemsplit.core.devices import check_device
    from stemsplit.core.memory import share_memory
    from stemsplit.separation.tuned import agreement
    from stemsplit.separation.tuning import tune as measure

    check_device(request.compute.device)
    share_memory()  # as `separate` does
    timed = list["Timed"]()
    with progress.display(style) as show:
        for reason in reasons:
            show(Notice(reason))

        def report(one: "Timed") -> None:
            timed.append(one)
            show(Notice(f"{one.choice}: {one.chunk_s:.2f} s a chunk, {agreement(one.agreement_db)}"))

        record = measure(
            request.model,
            request.compute.device,
            min_agreement_db=min_agreement,
            report=report,
            callback=show,
        )
    found = {"schema": SCHEMA, **asdict(record)}
    click.echo(json.dumps(found, indent=2) if as_json else _conclusion(record, timed, min_agreement))


def _conclusion(record: "Record", timed: "list[Timed]", min_agreement: float) -> str:
    """Return what was found, and what a lower limit would allow."""
    from stemsplit.separation.tuned import agreement

    gain = record.before_s / record.chunk_s
    how = f"{record.choice}, {gain:.2f} × as fast as before" if gain > 1 else "nothing is faster than before"
    lines = [f"{record.model} on {record.device}: {how}, {agreement(record.agreement_db)}"]
    excluded = [one for one in timed if one.agreement_db < min_agreement and one.chunk_s < record.chunk_s]
    for one in sorted(excluded, key=lambda one: one.chunk_s)[:1]:
        limit = floor(one.agreement_db)
        lines.append(f"{one.choice} takes {one.chunk_s:.2f} s a chunk; --min-agreement {limit} allows it")
    return "\n".join(lines)
