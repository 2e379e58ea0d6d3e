"""`stemsplit models`: list, describe, download, check, add, convert and export models."""

import json
import os
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal

import click

from stemsplit.cli import progress
from stemsplit.cli.failures import one_line, say, usage_error
from stemsplit.cli.options import PROGRESS, setting
from stemsplit.errors import StemsplitError

if TYPE_CHECKING:
    from stemsplit.hub.access import Access
    from stemsplit.hub.importing import Imported

LIST_SCHEMA = 3
HELP = {"help_option_names": ["-h", "--help"]}
as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


@click.group(context_settings=HELP)
def models() -> None:
    """List, describe, download, check, add, import, convert and export models.

    \b
    stemsplit models list --stem vocals
    stemsplit models info htdemucs
    stemsplit models download htdemucs_ft
    """


@models.command("list", context_settings=HELP)
@click.argument("words", nargs=-1, metavar="[WORD]...")
@click.option("--stem", metavar="NAME", help="Only models with this stem, sorted by its published score.")
@click.option("--task", metavar="NAME", help="Only models for this: vocals, karaoke, dereverb and others.")
@click.option("--family", metavar="NAME", help="Only models of this network family.")
@click.option("--license", metavar="NAME", help="Only models under this licence; permissive for all such.")
@click.option("--by", "metric", metavar="METRIC", help="Sort by the published score in this metric.")
@click.option("--cached", is_flag=True, help="Only models that are downloaded.")
@click.option("--all", "every", is_flag=True, help="Also all models that other programs name.")
@as_json
def list_(as_json: bool, **options: Any) -> None:
    """List models with stems, size, licence and published score.

    Without words or options, these are the models of this program's registry. Words and options search in
    all that are known by name: several hundred checkpoints of other programs and their authors. The scores
    of a list are of one metric and one test set: cSDR is museval's median of medians, uSDR the mean over
    songs, in dB.

    \b
    stemsplit models list --stem vocals
    stemsplit models list dereverb --license permissive
    stemsplit models list --json | jq -r '.models[].name'
    """
    from stemsplit.cli.model_table import entry_of, print_table
    from stemsplit.hub.choose import Choice, choose
    from stemsplit.hub.registry import all_models

    choice = Choice(**options)
    specs = choose(replace(choice, every=True) if as_json else choice)
    if as_json:
        click.echo(json.dumps({"schema": LIST_SCHEMA, "models": [entry_of(s) for s in specs]}, indent=2))
        return
    if not specs:
        asked = " ".join(choice.words) or "these options"
        click.echo(one_line(f"no model matches {asked}; stemsplit models list --all shows all"), err=True)
        return
    by_task = choice.narrow and choice.stem is None and choice.metric is None
    for line in print_table(specs, choice, by_task=by_task):
        click.echo(line)
    if not choice.narrow:
        click.echo(
            f"\n{len(all_models()) - len(specs)} more that other programs name: --all, or words to find"
        )


@models.command(context_settings=HELP)
@click.argument("name")
@as_json
def info(name: str, as_json: bool) -> None:
    """Show everything that is known about a model: licence, scores, paper, files and hashes.

    \b
    stemsplit models info htdemucs
    """
    from stemsplit.cli.model_table import entry_of, lines_of
    from stemsplit.hub.registry import find_model

    entry = entry_of(find_model(name))
    if as_json:
        click.echo(json.dumps(entry, indent=2))
        return
    for line in lines_of(entry):
        click.echo(line)


@models.command(
    params=[
        click.Argument(["names"], nargs=-1, required=True, metavar="NAME..."),
        click.Option(
            ["--stem", "stems"], multiple=True, metavar="NAME", help="Only what this stem needs (repeatable)."
        ),
        *(setting(name) for name in ("offline", "trust_first", "license")),
        PROGRESS,
    ],
    context_settings=HELP,
)
def download(names: tuple[str, ...], stems: tuple[str, ...], style: str, **conditions: Any) -> None:
    """Download models now, so that separating needs no connection; damaged files are replaced.

    \b
    stemsplit models download htdemucs htdemucs_ft
    """
    from stemsplit.hub.manage import download_model

    access = _access(conditions)
    with progress.display(style) as callback:
        for name in names:
            paths = download_model(name, access, stems=stems or None, callback=callback)
            for path in map(str, paths) if paths else ["needs no download"]:
                click.echo(f"{name}: {path}", err=True)


@models.command(context_settings=HELP)
@click.argument("names", nargs=-1, required=True, metavar="NAME...")
@click.pass_context
def verify(ctx: click.Context, names: tuple[str, ...]) -> None:
    """Hash the files of downloaded models again, and compare with the registry.

    \b
    stemsplit models verify htdemucs
    """
    from stemsplit.hub.manage import verify

    codes = [0]
    for name in names:
        try:
            checked = verify(name)
        except StemsplitError as error:
            say(str(error), error.hint)
            codes.append(error.code)
            continue
        for file in checked:
            verdict = "unknown hash" if file.expected is None else "good" if file.good else "DAMAGED"
            click.echo(f"{file.path}: {verdict}", err=True)
            codes.append(0 if file.good else 4)
    ctx.exit(max(codes))


@models.command(context_settings=HELP)
@click.argument("name")
def path(name: str) -> None:
    """Print the paths of a model's files on this machine.

    \b
    stemsplit models path htdemucs
    """
    from stemsplit.hub.manage import model_path

    for file in model_path(name):
        click.echo(str(file))


@models.command(context_settings=HELP)
@click.argument("name")
@click.argument("source", metavar="PATH|URL")
@click.option("--sha256", metavar="HASH", help="The file's sha256; required for a URL.")
@click.option("--config", metavar="FILE", help="The YAML file published with a community checkpoint.")
@click.option("--license", default="unknown", show_default=True, help="Licence of the weights.")
@click.option("--replace", is_flag=True, help="Replace your entry of that name.")
def add(name: str, source: str, sha256: str | None, config: str | None, license: str, replace: bool) -> None:
    """Give a checkpoint of your own a name, in your registry file.

    \b
    stemsplit models add mine runs/x/model.safetensors
    """
    from stemsplit.hub.manage import add_model

    spec = add_model(name, source, sha256=sha256, config=config, license=license, replace=replace)
    click.echo(f"added {spec.name} ({' '.join(spec.all_stems)})", err=True)


@models.command(
    "import",
    params=[
        click.Argument(["source"], metavar="DIR|FILE|URL"),
        click.Option(["--name"], metavar="NAME", help="The model's name for -m, rather than the file's."),
        click.Option(["--config"], metavar="FILE", help="The YAML file published with the checkpoint."),
        click.Option(["--replace"], is_flag=True, help="Replace your entries of these names."),
        *(setting(name) for name in ("offline", "trust_first")),
        PROGRESS,
    ],
    context_settings=HELP,
)
@click.pass_context
def import_(
    ctx: click.Context, /, source: str, name: str | None, config: str | None, replace: bool, **options: Any
) -> None:
    """Give names to the checkpoints in the folders of UVR or MSST, or to a single one.

    The weights stay where they are. The network is found by the YAML file of a checkpoint, by UVR's tables or
    by the file's hash.

    \b
    stemsplit models import ~/ultimatevocalremovergui/models
    stemsplit models import downloads/karaoke.ckpt --config downloads/karaoke.yaml
    """
    from stemsplit.hub.importing import import_models

    style = options.pop("style")
    with progress.display(style) as callback:
        found = import_models(
            source, name=name, config=config, access=_access(options), replace=replace, callback=callback
        )
        codes = [_told(one) for one in found]
    failed = sum(code != 0 for code in codes)
    ctx.exit(0 if not failed else 3 if failed < len(codes) else max(codes))


def _told(one: "Imported") -> int:
    """Print the result of an import; return its exit code."""
    if one.error is not None or one.spec is None:
        named = str(one.path) in str(one.error)
        say(str(one.error) if named else f"{one.path}: {one.error}", one.error.hint if one.error else None)
        return one.error.code if one.error is not None else 1
    spec = one.spec
    click.echo(
        f"{spec.name}: {spec.family} ({' '.join(spec.all_stems)}), licence {spec.license}, "
        f"verification: {one.verification}",
        err=True,
    )
    return 0


def _access(options: Mapping[str, Any]) -> "Access":
    """Return the conditions of downloads that options state."""
    from stemsplit.hub.access import Access
    from stemsplit.settings import ModelSettings

    given = {key: value for key, value in options.items() if value is not None}
    return Access.of(ModelSettings(**given))


@models.command(context_settings=HELP)
@click.argument("names", nargs=-1, required=True, metavar="NAME...")
def remove(names: tuple[str, ...]) -> None:
    """Delete the downloaded files of models, and entries of your own.

    \b
    stemsplit models remove htdemucs_ft
    """
    from stemsplit.hub.manage import remove_model

    for name in names:
        click.echo(f"{name}: {remove_model(name) / 1e6:.1f} MB freed", err=True)


@models.command(context_settings=HELP)
@click.argument("source", metavar="IN")
@click.argument("target", metavar="OUT.safetensors")
@click.option("--half", is_flag=True, help="Store weights in half precision: half the size.")
@click.option("--replace", is_flag=True, help="Replace the file if it exists.")
def convert(source: str, target: str, half: bool, replace: bool) -> None:
    """Convert a legacy checkpoint (.th, .pt, .ckpt) to safetensors, without running code from it.

    \b
    stemsplit models convert 955717e8-8726e21a.th htdemucs.safetensors
    stemsplit models convert htdemucs.safetensors small.safetensors --half
    """
    if not target.endswith(".safetensors"):
        raise usage_error(f"{target}: must end in .safetensors")
    _require_new(target, replace)
    from stemsplit.hub.checkpoints import convert

    package, shown = convert(source, target, half=half), ""
    if half:
        from stemsplit.hub.agreement import agreement_of_half_db

        shown = f" (agrees to {agreement_of_half_db(package):.1f} dB on noise)"
    click.echo(f"{source} -> {target}{shown}", err=True)


def _require_new(target: str, replace: bool) -> None:
    """Refuse to write over a file unless that is asked for.

    Raises:
        SettingsError: the file exists.
    """
    if not replace and os.path.lexists(target):
        raise usage_error(f"{target}: exists", hint="--replace writes over it")


@models.command(
    params=[
        click.Argument(["name"], metavar="NAME"),
        click.Argument(["target"], metavar="OUT.onnx"),
        click.Option(["--half"], is_flag=True, help="Store weights in half precision: half the size."),
        click.Option(
            ["--stft"],
            type=click.Choice(["inside", "outside"]),
            default="inside",
            show_default=True,
            help="Whether the file computes the STFT and its inverse, or the program that runs it.",
        ),
        setting("segment_s"),
        setting("offline"),
        click.Option(["--replace"], is_flag=True, help="Replace the file if it exists."),
        PROGRESS,
    ],
    context_settings=HELP,
)
def export(
    name: str,
    target: str,
    half: bool,
    replace: bool,
    stft: Literal["inside", "outside"],
    segment_s: float | None,
    offline: bool | None,
    style: str,
) -> None:
    """Write a model as an ONNX file for other programs, and compare its output with the model's.

    \b
    stemsplit models export htdemucs htdemucs.onnx --half
    """
    if not target.endswith(".onnx"):
        raise usage_error(f"{target}: must end in .onnx")
    _require_new(target, replace)
    from stemsplit.hub.onnx_export import export_onnx

    with progress.display(style) as callback:
        done = export_onnx(
            name,
            target,
            half=half,
            stft=stft,
            segment_s=segment_s,
            offline=bool(offline),
            callback=callback,
        )
    click.echo(f"{name} -> {target} (agrees to {done.agreement_db:.1f} dB, {done.measured_with})", err=True)
