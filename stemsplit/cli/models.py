"""`stemsplit models`: list, describe, download, check, add and convert models."""

import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from stemsplit.cli import progress
from stemsplit.cli.failures import usage_error
from stemsplit.cli.options import PROGRESS, setting
from stemsplit.outcome import SCHEMA

if TYPE_CHECKING:
    from stemsplit.hub.entries import ModelSpec

HELP = {"help_option_names": ["-h", "--help"]}
as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


@click.group(context_settings=HELP)
def models() -> None:
    """List, describe, download, check, add and convert models.

    \b
    stemsplit models list --stem vocals
    stemsplit models info htdemucs
    stemsplit models download htdemucs_ft
    """


@models.command("list", context_settings=HELP)
@click.option("--stem", metavar="NAME", help="Sort by the published score of this stem.")
@as_json
def list_(stem: str | None, as_json: bool) -> None:
    """List all models with stems, size, licence and published score.

    Compare scores within one metric only: cSDR is museval's median of medians, uSDR the mean over songs.

    \b
    stemsplit models list --stem vocals
    stemsplit models list --json | jq -r '.models[].name'
    """
    from stemsplit.hub.registry import list_models

    specs = list_models(stem)
    if as_json:
        click.echo(json.dumps({"schema": SCHEMA, "models": [_entry(spec) for spec in specs]}, indent=2))
        return
    rows = [("NAME", "STEMS", "SIZE", "LICENCE", "SCORE", "CACHED"), *(_row(spec, stem) for spec in specs)]
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    for row in rows:
        click.echo("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def _row(spec: "ModelSpec", stem: str | None) -> tuple[str, ...]:
    score = spec.score(stem)
    published = "" if score is None or spec.scores is None else f"{score:.2f} dB {spec.scores.metric}"
    size = _size(spec)
    return (
        spec.name,
        " ".join(spec.all_stems),
        "" if size is None else "none" if size == 0 else f"{size / 1e6:.0f} MB",
        spec.license,
        published,
        "yes" if _cached(spec) else "no",
    )


def _size(spec: "ModelSpec") -> int | None:
    """Return the bytes of all files together, exact or about; None if the size of one is unknown."""
    from stemsplit.hub.registry import members

    files = [file for member in members(spec) for file in member.files]
    sizes = [file.size if file.about_mb is None else file.about_mb * 1_000_000 for file in files]
    known = [size for size in sizes if size is not None]
    return sum(known) if len(known) == len(files) else None


def _cached(spec: "ModelSpec") -> bool:
    from stemsplit.hub.manage import is_cached

    return is_cached(spec.name)


def _entry(spec: "ModelSpec") -> dict[str, Any]:
    from stemsplit.hub.registry import members

    files = [file for member in members(spec) for file in member.files]
    scores = spec.scores
    return {
        "name": spec.name,
        "family": spec.family,
        "recipe": [asdict(step) for step in spec.recipe.steps] if spec.recipe else None,
        "stems": list(spec.all_stems),
        "sample_rate": spec.sample_rate,
        "size": _size(spec),
        "license": spec.license,
        "license_note": spec.license_note,
        "paper": spec.paper,
        "note": spec.note,
        "scores": None
        if scores is None
        else {"metric": scores.metric, "data": scores.data, "all": scores.all, **scores.stems},
        "cached": _cached(spec),
        "files": [{"name": file.name, "url": file.url, "sha256": file.sha256} for file in files],
    }


@models.command(context_settings=HELP)
@click.argument("name")
@as_json
def info(name: str, as_json: bool) -> None:
    """Show everything that is known about a model: licence, scores, paper, files and hashes.

    \b
    stemsplit models info htdemucs
    """
    from stemsplit.hub.registry import find_model

    entry = _entry(find_model(name))
    if as_json:
        click.echo(json.dumps(entry, indent=2))
        return
    for key, value in entry.items():
        if value in (None, "", []):
            continue
        lines = _lines(key, value)
        click.echo(f"{key.replace('_', ' ') + ':':<14} {lines[0]}")
        for line in lines[1:]:
            click.echo(" " * 15 + line)


def _lines(key: str, value: Any) -> list[str]:
    match value:
        case dict():
            return [", ".join(f"{k} {v}" for k, v in value.items() if v is not None)]
        case [dict(), *_] if key == "recipe":
            return [_step(one) for one in value]
        case [dict(), *_]:
            return [f"{f['name']}  sha256 {f['sha256'] or 'unknown'}" for f in value]
        case list():
            return [" ".join(value)]
        case bool():
            return ["yes" if value else "no"]
        case int() if key == "size":
            return [f"{value / 1e6:.1f} MB"]
        case int() if key == "sample_rate":
            return [f"{value} Hz"]
    return str(value).strip().splitlines()


def _step(step: Mapping[str, Any]) -> str:
    name = f"{step['name']}: " if step["name"] else ""
    blend = f", blended by {step['blend']}" if len(step["models"]) > 1 else ""
    return f"{name}{' and '.join(map(str, step['models']))} on {step['input']}{blend}"


@models.command(
    params=[
        click.Argument(["names"], nargs=-1, required=True, metavar="NAME..."),
        click.Option(
            ["--stem", "stems"], multiple=True, metavar="NAME", help="Only what this stem needs (repeatable)."
        ),
        setting("offline"),
        PROGRESS,
    ],
    context_settings=HELP,
)
def download(names: tuple[str, ...], stems: tuple[str, ...], offline: bool | None, style: str) -> None:
    """Download models now, so that separating needs no connection; damaged files are replaced.

    \b
    stemsplit models download htdemucs htdemucs_ft
    """
    from stemsplit.hub.manage import download_model

    with progress.display(style) as callback:
        for name in names:
            paths = download_model(name, stems=stems or None, offline=bool(offline), callback=callback)
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

    checked = [file for name in names for file in verify(name)]
    for file in checked:
        verdict = "unknown hash" if file.expected is None else "good" if file.good else "DAMAGED"
        click.echo(f"{file.path}: {verdict}", err=True)
    ctx.exit(0 if all(file.good for file in checked) else 4)


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
def convert(source: str, target: str) -> None:
    """Convert a legacy checkpoint (.th, .pt, .ckpt) to safetensors, without running code from it.

    \b
    stemsplit models convert 955717e8-8726e21a.th htdemucs.safetensors
    """
    from stemsplit.hub.checkpoints import convert

    if not target.endswith(".safetensors"):
        raise usage_error(f"{target}: must end in .safetensors")
    convert(source, target)
    click.echo(f"{source} -> {target}", err=True)
