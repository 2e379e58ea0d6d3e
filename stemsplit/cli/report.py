"""`stemsplit report`: work with the reports of runs."""

import json

import click

from stemsplit.cli import progress
from stemsplit.cli.failures import require_stdout, usage_error
from stemsplit.errors import InputError


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def report() -> None:
    """Work with the reports that --report writes.

    \b
    stemsplit report join a.json b.jsonl > all.json
    """


@report.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("files", nargs=-1, metavar="FILE...")
def join(files: tuple[str, ...]) -> None:
    """Join the reports of shards, machines and repeated runs, and print one as JSON.

    FILEs are JSON or JSON Lines. Of a track in several of them the last result counts.

    \b
    stemsplit report join shard-*.json > all.json
    stemsplit report join run.jsonl | jq -r '.tracks[]|select(.status=="failed")|.input'
    """
    from stemsplit.separation.joining import join_reports

    if not files:
        raise usage_error("no FILE", hint="stemsplit report join --help shows how")
    require_stdout()
    try:
        joined = join_reports(files)
    except InputError as error:
        raise usage_error(str(error), error.hint) from None
    click.echo(json.dumps(joined, indent=2))
    counts, wall_s = joined["summary"], joined["summary"]["wall_s"]
    click.echo(
        f"{counts['done']} done, {counts['skipped']} skipped, {counts['failed']} failed"
        f" in {progress.duration(wall_s)}",
        err=True,
    )
