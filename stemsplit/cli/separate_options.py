"""The options of `stemsplit separate`, in the sections of its help."""

from collections.abc import Callable
from typing import Any

import click

from stemsplit.cli.options import Bitrate, Comma, Keep, Mix, Model, Numbers, Shard, Time, Whole, flag, setting
from stemsplit.cli.progress import STYLES
from stemsplit.formats import BIT_DEPTHS, FORMATS, either
from stemsplit.settings import (
    BLENDS,
    DEFAULT_OVERLAP,
    MOST_OVERLAP,
    QUALITIES,
    BatchSettings,
    ChunkSettings,
    ComputeSettings,
    EnsembleSettings,
    ModelSettings,
    OutputSettings,
    StemSettings,
)


def _options(*decorators: Callable[[Any], Any]) -> list[click.Parameter]:
    def holder() -> None: ...

    for decorate in decorators:
        decorate(holder)
    found: list[click.Parameter] = holder.__dict__["__click_params__"]
    return found


_WHAT = _options(
    setting(
        "-m",
        "--model",
        of=ModelSettings,
        field="model",
        type=Model(),
        multiple=True,
        metavar="NAME|PATH",
        help="Model: a name, a file, a folder, or hf:OWNER/REPO. Several are blended, as an ensemble."
        f" [default: {ModelSettings.model}]",
    ),
    setting(
        "--blend",
        of=EnsembleSettings,
        field="blend",
        type=click.Choice(BLENDS),
        metavar="HOW",
        help=f"How to blend the models of an ensemble: {', '.join(BLENDS)}.",
    ),
    flag(
        "--weights", type=Numbers(), metavar="W,W,...", help="Weight of each model, for avg_wave and avg_fft."
    ),
    setting(
        "-s",
        "--stem",
        "stem",
        of=StemSettings,
        field="stems",
        type=Comma(),
        multiple=True,
        help="Only this stem; a list, or repeated. [default: all]",
    ),
    flag("--rest", is_flag=True, help="Also no_STEM, the mix without the stem."),
    flag("--mix", type=Mix(), multiple=True, help="Also a sum of stems under a name of its own."),
    flag("--karaoke", is_flag=True, help="Only `instrumental`, everything but the vocals."),
    flag(
        "--quality",
        type=click.Choice(list(QUALITIES)),
        help="Preset: quicker, or better and slower. [default: balanced]",
    ),
)

_INPUT = _options(
    flag("--start", type=Time(), help="Begin there: seconds, M:SS or H:MM:SS."),
    flag("--end", type=Time(), help="End there."),
    flag("--duration", type=Time(), help="End that much after the start."),
    flag(
        "--audio-stream",
        type=Whole(0),
        metavar="N",
        help="Of a film or other file with several, counted from 0. [default: the file's main one]",
    ),
    flag("--include", multiple=True, metavar="GLOB", help="Of folders, only files that match."),
    flag("--exclude", multiple=True, metavar="GLOB", help="Of folders, nothing that matches."),
    flag("--from-file", metavar="LIST|-", help="Read inputs from a file, one per line."),
    click.option("-0", "null", is_flag=True, help="The list is separated by NUL, as from find -print0."),
    flag("--input-name", metavar="NAME", help="What stdin is called in the outputs' paths. [default: stdin]"),
    flag("--shard", type=Shard(), help="Only every N-th track from the I-th on, for job arrays."),
)

_OUTPUT = _options(
    setting(
        "-o",
        "--output",
        of=BatchSettings,
        field="output",
        metavar="DIR|-",
        help="Folder to write into, or - for stdout.",
    ),
    setting(
        "-f",
        "--format",
        "format_",
        of=OutputSettings,
        field="format",
        metavar="NAME",
        help=f"{either(FORMATS)}.",
    ),
    setting(
        "--bit-depth",
        of=OutputSettings,
        field="bit_depth",
        metavar="|".join(BIT_DEPTHS),
        help="Of lossless formats.",
    ),
    flag("--bitrate", type=Bitrate(), help="Of lossy formats, such as 192k. [default: the format's own]"),
    setting(
        "--sample-rate",
        of=OutputSettings,
        field="sample_rate",
        type=Keep(),
        metavar="keep|HZ",
        help="Of the outputs.",
    ),
    setting(
        "--channels",
        of=OutputSettings,
        field="channels",
        type=Keep(),
        metavar="keep|1|2",
        help="Of the outputs.",
    ),
    setting(
        "--clip",
        of=OutputSettings,
        field="clip",
        metavar="common|none|clamp",
        help="Against clipping: one gain for all stems of a track, nothing, or clamping.",
    ),
    flag("--tags/--no-tags", help="Copy title, artist, cover and so on. [default: tags]"),
    setting(
        "--template",
        of=BatchSettings,
        field="template",
        metavar="PATH",
        help="Of an output below the folder; also {model}, {parent}.",
    ),
    setting(
        "--if-exists",
        of=BatchSettings,
        field="if_exists",
        type=click.Choice(["skip", "overwrite", "rename", "error"]),
        help="What to do about outputs that are there; skip passes over those made with the same settings.",
    ),
    click.option("-y", "overwrite", is_flag=True, help="Short for --if-exists overwrite."),
)

_COMPUTE = _options(
    setting(
        "-d",
        "--device",
        of=ComputeSettings,
        field="device",
        metavar="auto|cpu|cuda[:N]|mps",
        help="What to compute on.",
    ),
    setting(
        "--threads",
        of=ComputeSettings,
        field="threads",
        type=int,
        metavar="N",
        help="CPU threads. [default: as many as PyTorch chooses, about one per core]",
    ),
    flag("-j", "--jobs", type=Whole(1), metavar="N", help="Tracks computed at once. [default: 1]"),
    flag("--batch-size", metavar="auto|N", help="Chunks computed at once. [default: auto]"),
    setting(
        "--segment",
        of=ModelSettings,
        field="segment_s",
        type=float,
        metavar="S",
        help="Chunk length in seconds; shorter takes less memory. [default: the model's own]",
    ),
    setting(
        "--overlap",
        of=ChunkSettings,
        field="overlap",
        type=float,
        metavar="F",
        help=f"Fraction that neighbouring chunks share, up to {MOST_OVERLAP}."
        f" [default: the model's own, or {DEFAULT_OVERLAP}]",
    ),
    setting(
        "--shifts",
        of=ChunkSettings,
        field="shifts",
        type=int,
        metavar="N",
        help="Average over N randomly delayed passes. [default: 0]",
    ),
    setting(
        "--seed", of=ChunkSettings, field="seed", type=int, metavar="N", help="Of the delays. [default: 0]"
    ),
    setting(
        "--precision",
        of=ComputeSettings,
        field="precision",
        type=click.Choice(["auto", "fp32", "bf16", "fp16"]),
        help="Of the arithmetic.",
    ),
    setting(
        "--compile",
        of=ComputeSettings,
        field="compile",
        is_flag=True,
        help="Let torch.compile rewrite the model, on a GPU: minutes at first, faster chunks then.",
    ),
)

_RUN = _options(
    click.option("-n", "--dry-run", is_flag=True, help="Print what would be done."),
    flag("--fail-fast", is_flag=True, help="Stop at the first track that fails."),
    flag("--offline", is_flag=True, help="Never open a connection."),
    flag(
        "--progress",
        "how",
        type=click.Choice(STYLES),
        help="How to show progress on stderr. [default: auto]",
    ),
    flag("--color", type=click.Choice(["auto", "always", "never"]), help="On stderr. [default: auto]"),
    click.option("--json", "as_json", is_flag=True, help="Print the report on stdout as JSON."),
    flag("--report", metavar="FILE", help="Write the report into a file as JSON."),
    click.option("-P", "--print-paths", is_flag=True, help="Print the finished paths on stdout."),
    click.option("--print0", is_flag=True, help="The same, separated by NUL."),
    click.option("--debug", is_flag=True, help="Show a traceback when something fails."),
)

SECTIONS = {
    "What to separate into": _WHAT,
    "Input": _INPUT,
    "Output": _OUTPUT,
    "Computing": _COMPUTE,
    "The run": _RUN,
}
OPTIONS = [option for section in SECTIONS.values() for option in section]


class Sectioned(click.Command):
    """A command whose help shows its options in `SECTIONS`."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """One list per section; whatever stands in none comes last."""
        rest = [param for param in self.get_params(ctx) if param not in OPTIONS]
        for title, options in {**SECTIONS, "Other": rest}.items():
            records = [record for option in options if (record := option.get_help_record(ctx))]
            if records:
                with formatter.section(title):
                    formatter.write_dl(records)
