"""The options of `stemsplit separate`, in the order and the sections of its help."""

from itertools import chain
from typing import TypeAlias

import click

from stemsplit.cli.exclusive import settle
from stemsplit.cli.habits import translate
from stemsplit.cli.options import PROGRESS, flag, option_fields, setting
from stemsplit.engine_settings import EngineSettings
from stemsplit.fields import seconds
from stemsplit.settings import (
    DEFAULT_QUALITY,
    LAYOUTS,
    QUALITIES,
    BatchSettings,
    CombinationSettings,
    OutputSettings,
    Request,
    StemSettings,
)

NOTICES = "stemsplit.notices"  # key in the context's `meta`

# a field's name, an option that fills no field, or a class for those of its fields that aren't listed
Entry: TypeAlias = str | type | click.Option
_ORDER: dict[str, list[Entry]] = {
    "Models and stems": [
        setting("model", note="Several are blended, as an ensemble.", multiple=True),
        CombinationSettings,
        StemSettings,
        flag(
            "--karaoke-lead",
            is_flag=True,
            help="Only write `karaoke`, everything but the lead voice, with the model karaoke_lead.",
        ),
        flag(
            "--quality",
            type=click.Choice(list(QUALITIES)),
            default=DEFAULT_QUALITY,
            help="Preset of overlap, shifts and precision: faster, or better and slower.",
        ),
    ],
    "Input": [
        "start_s",
        "end_s",
        flag("--duration", type=seconds, metavar="TIME", help="Length to separate, instead of --end."),
        BatchSettings,
        flag(
            "--from-file",
            metavar="LIST|-",
            help="Read inputs from a file, one per line; # begins a comment unless a file has that name.",
        ),
        click.Option(
            ["-0", "null"],
            is_flag=True,
            help="The list is separated by NUL, as find -print0 writes it; it has no comments.",
        ),
        flag("--input-name", metavar="NAME", default="stdin", help="Name of stdin in the outputs' paths."),
        "shard",
    ],
    "Output": [
        "output",
        *("format", "bit_depth", "bitrate", "sample_rate", "channels", "clip"),
        OutputSettings,
        *("project", "mux"),
        "template",
        flag(
            "--layout",
            type=click.Choice(list(LAYOUTS)),
            help="Name the files as other programs do, in place of --template.",
        ),
        "if_exists",
        click.Option(["-y", "overwrite"], is_flag=True, help="Short for --if-exists overwrite."),
    ],
    "Computing": [
        *("device", "threads", "jobs", "batch_size", "segment_s", "overlap", "shifts", "tta", "seed"),
        "model_options",
        "sequential",
        EngineSettings,
        Request,
    ],
    "The run": [
        click.Option(["-n", "--dry-run"], is_flag=True, help="Print what would be done."),
        "fail_fast",
        *("offline", "trust_first", "license"),
        PROGRESS,
        flag(
            "--color",
            type=click.Choice(["auto", "always", "never"]),
            default="auto",
            help="Colours on stderr.",
        ),
        click.Option(["--json", "as_json"], is_flag=True, help="Print the report on stdout as JSON."),
        flag(
            "--report",
            metavar="FILE|-",
            help="Write the report as JSON at the end; a FILE whose name ends in .jsonl gets a line per "
            "track while the run goes on; - is --json.",
        ),
        click.Option(["-P", "--print-paths"], is_flag=True, help="Print the finished paths on stdout."),
        click.Option(["--print0"], is_flag=True, help="Print the finished paths, separated by NUL."),
        click.Option(["--debug"], is_flag=True, help="Show a traceback when something fails."),
    ],
}


def _sections() -> dict[str, list[click.Parameter]]:
    """Return the options by section; every field has one option."""
    entries = [entry for order in _ORDER.values() for entry in order]
    placed = {entry.name if isinstance(entry, click.Option) else entry for entry in entries}

    def made(entry: Entry) -> list[click.Parameter]:
        if isinstance(entry, click.Option):
            return [entry]
        if isinstance(entry, str):
            return [setting(entry)]
        left = [name for name in option_fields(entry) if name not in placed]
        placed.update(left)
        return [setting(name) for name in left]

    return {title: list(chain.from_iterable(map(made, order))) for title, order in _ORDER.items()}


SECTIONS = _sections()
OPTIONS = [option for section in SECTIONS.values() for option in section]


class Sectioned(click.Command):
    """A command whose help shows its options in `SECTIONS`, and that knows the words of other programs."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse arguments after their translation; put the notices about it into `ctx.meta[NOTICES]`.

        Raises:
            SettingsError: a word has no counterpart here, or two options exclude each other.
        """
        options = [one for one in self.get_params(ctx) if isinstance(one, click.Option)]
        own = {name: not one.is_flag for one in options for name in (*one.opts, *one.secondary_opts)}
        args, ctx.meta[NOTICES] = translate(args, own)
        left = super().parse_args(ctx, args)
        if not ctx.resilient_parsing:  # of a completion
            settle(ctx)
        return left

    def sections(self, ctx: click.Context) -> dict[str, list[click.Parameter]]:
        """Return the options by section; last, under "Other", those that belong to none."""
        others = (one for one in self.get_params(ctx) if isinstance(one, click.Option))
        return {**SECTIONS, "Other": [one for one in others if one not in OPTIONS]}

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write one list of options per section."""
        for title, options in self.sections(ctx).items():
            records = [record for option in options if (record := option.get_help_record(ctx))]
            if records:
                with formatter.section(title):
                    formatter.write_dl(records)
