"""`stemsplit train`: train and fine-tune models, and find mislabelled stems in the data first."""

import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from stemsplit.cli import progress
from stemsplit.cli.failures import USAGE, require_stdout, say, usage_error
from stemsplit.cli.options import PROGRESS, choose_best, setting
from stemsplit.events import Callback, Event, TrackStart
from stemsplit.fields import collect
from stemsplit.outcome import SCHEMA, Failure, exit_code
from stemsplit.settings import Request

if TYPE_CHECKING:
    from stemsplit.training.progress import Footprint
    from stemsplit.training.quality import CheckedSong, Quality

    Rated = tuple[CheckedSong, Quality]

HELP = {"help_option_names": ["-h", "--help"]}


@click.group(
    params=[
        click.Option(["--config"], metavar="FILE", help="YAML file that describes the training."),
        click.Option(
            ["--set", "overrides"],
            metavar="A.B=VALUE",
            multiple=True,
            help="Change a value of the file (repeatable).",
        ),
        click.Option(["--resume"], is_flag=True, help="Continue from the run's last checkpoint."),
        click.Option(["--fresh"], is_flag=True, help="Start again in a folder that holds a run."),
        click.Option(["-n", "--dry-run"], is_flag=True, help="Train one step and keep nothing."),
        click.Option(
            ["--init", "recipe"],
            metavar="RECIPE",
            help="Print a commented file to start from; list prints the names.",
        ),
        PROGRESS,
    ],
    invoke_without_command=True,
    context_settings=HELP,
)
@click.pass_context
def train(
    ctx: click.Context,
    config: str | None,
    overrides: tuple[str, ...],
    resume: bool,
    fresh: bool,
    dry_run: bool,
    recipe: str | None,
    style: str,
) -> None:
    """Train or fine-tune a model on your own multitracks; needs pip install 'stemsplit-cli[train]'.

    \b
    stemsplit train --init list
    stemsplit train --init fine-tune > mine.yaml
    stemsplit train check-data songs/
    stemsplit train --config mine.yaml --dry-run
    stemsplit train --config mine.yaml --set optim.lr=5e-5
    stemsplit train --config mine.yaml --resume
    stemsplit song.mp3 -m runs/fine-tune
    """
    if ctx.invoked_subcommand is not None:
        return
    if recipe is None and config is None:
        click.echo(ctx.get_help(), err=True)
        ctx.exit(USAGE)
    if resume and fresh:
        raise usage_error("--resume and --fresh exclude each other")
    if recipe is not None:
        _print_recipe(recipe)
    if config is not None:
        _train(Path(config), overrides, resume, fresh, dry_run, style)


def _print_recipe(name: str) -> None:
    from stemsplit.training.recipes import recipe_names, recipe_text

    click.echo("\n".join(recipe_names()) if name == "list" else recipe_text(name), nl=name == "list")


def _train(
    path: Path, overrides: Sequence[str], resume: bool, fresh: bool, dry_run: bool, style: str
) -> None:
    from stemsplit.training.configfile import read_config

    file = read_config(path, overrides)  # reports errors before any slow import
    _require_extra()
    from stemsplit.training import run

    with _display(style) as callback:
        if dry_run:
            run.dry_run(file, callback)
            click.echo("one step trained; nothing was kept (--dry-run)", err=True)
        else:
            run.train(file, resume=resume, fresh=fresh, callback=callback)


def _require_extra() -> None:
    from importlib.util import find_spec

    from stemsplit.errors import StemsplitError

    missing = [name for name in ("lightning", "tensorboard") if find_spec(name) is None]
    if missing:
        hint = "pip install 'stemsplit-cli[train]'"
        raise StemsplitError(f"training needs {' and '.join(missing)}", hint=hint)


# ---------------------------------------------------------------- progress


@contextmanager
def _display(style: str) -> Iterator[Callback]:
    """Yield a callback that shows the events of training in the given style."""
    if style == "auto":
        style = "bar" if sys.stderr.isatty() else "plain"
    if style == "bar":
        with _Bar() as bar:
            yield bar
    elif style == "plain":
        yield _plain
    else:
        with progress.display(style) as callback:
            yield callback


def _plain(event: Event) -> None:
    if (line := describe(event)) is not None:
        click.echo(line, err=True)


def describe(event: Event) -> str | None:
    """Return an event as a line of a log; None for events that only a bar shows."""
    from stemsplit.training.progress import Finished, Footprint, Trained, Validated

    match event:
        case Footprint():
            return _memory(event)
        case Trained() if event.step % (event.steps // event.epochs) == 0:
            left = progress.duration(event.eta_s)
            return f"{_title(event)}epoch {event.epoch}/{event.epochs}: loss {event.loss:.4g}, {left} left"
        case Validated():
            return _title(event) + _scores(event)
        case Finished():
            best = "" if event.best is None else f", best {event.best:.2f} {event.unit}".rstrip()
            return f"{event.folder}: {event.step} steps done{best}; stemsplit SONG -m {event.folder}"
    return progress.describe(event)


def _memory(event: "Footprint") -> str:
    """Return a table of the memory that a step needs."""
    each = f"{event.samples} x {_megabytes(event.activations)}"
    rows = [
        ("parameters", event.parameters, f"{event.of:,} weights, {event.trained:,} of them trained"),
        ("gradients", event.gradients, ""),
        ("optimiser", event.optimizer, ""),
        ("averages", event.averages, ""),
        ("activations", event.samples * event.activations, each),
        ("in all", event.total, "beside what the device's libraries take"),
    ]
    lines = [f"  {name:<12}{_megabytes(size):>10}  {note}".rstrip() for name, size, note in rows if size]
    head = f"memory of a step on each device ({event.precision}, measured for one sample on the CPU):"
    return "\n".join([head, *lines])


def _megabytes(size: int) -> str:
    return f"{size / 1e6:,.0f} MB"


def _title(event: Any) -> str:
    return f"{event.name}: " if event.name else ""


def _scores(event: Any) -> str:
    """Return the validation scores of the best weights, as a line."""
    known = {name: row for name, row in event.scores.items() if row["mean"] is not None}
    if not known:
        return f"validation after {event.step} steps: no song has these stems"
    name = max(known, key=lambda one: known[one]["mean"])
    stems = [f"{stem} {score:.2f}" for stem, score in known[name].items() if score is not None]
    mark = " (best so far)" if event.improved else f" (best {event.best:.2f})"
    scores = f"{', '.join(stems)} {event.unit}".rstrip()
    return f"validation after {event.step} steps: {scores} with {name} weights{mark}"


class _Bar:
    """One bar for all steps of a run, with a line above it for every other event."""

    def __enter__(self) -> "_Bar":
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn

        console = Console(stderr=True, no_color=click.get_current_context().color is False)
        columns = (
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            TextColumn("{task.fields[state]}", markup=False),
        )
        self.progress = Progress(*columns, console=console, transient=True)
        self.task = self.progress.add_task("preparing", total=None, state="")
        self.progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.progress.stop()

    def __call__(self, event: Event) -> None:
        from stemsplit.training.progress import Preparing, Trained

        match event:
            case Preparing():
                count = f"{event.number}/{event.count}"
                self._show("preparing", event.number, event.count, f"{count} {event.name}")
            case Trained():
                title = f"{_title(event)}epoch {event.epoch}/{event.epochs}"
                state = f"loss {event.loss:.4g}, {progress.duration(event.eta_s)} left"
                self._show(title, event.step, event.steps, state)
        if (line := describe(event)) is not None:
            self.progress.console.print(line, markup=False, highlight=False, soft_wrap=True)

    def _show(self, title: str, done: int, total: int, state: str) -> None:
        self.progress.update(self.task, description=title, completed=done, total=total, state=state)


# ---------------------------------------------------------------- check-data


@train.command(
    "check-data",
    params=[
        click.Argument(["folder"], metavar="DIR"),
        setting("model"),
        setting("device"),
        click.Option(
            ["--only"], metavar="GLOB", multiple=True, help="Only tracks whose name matches (repeatable)."
        ),
        click.Option(["--json", "as_json"], is_flag=True, help="Print JSON."),
    ],
    context_settings=HELP,
)
@click.pass_context
def check_data(
    ctx: click.Context, /, folder: str, only: Sequence[str], as_json: bool, **options: Any
) -> None:
    """Find mislabelled stems: separate every stem, and check that it comes out under its own name.

    The table shows for how much of a song each stem sounds, and for how much of that time the model finds it
    in each of its outputs. A clean song has 100 % on the diagonal and 0 % elsewhere.

    \b
    stemsplit train check-data songs/
    stemsplit train check-data musdb18hq/train -m htdemucs_ft --json
    """
    if not (folder and Path(folder).expanduser().exists()):
        raise usage_error(f"{folder or repr(folder)}: no such file or folder")
    require_stdout()
    for reason in choose_best(options):
        click.echo(f"note: {reason}", err=True)
    found = list(_checked(folder, only, collect(options, Request)))
    rated = [(song, song.quality) for song in found if song.quality is not None]
    if as_json:
        tracks = [*map(_entry, rated), *_failures(found)]
        click.echo(json.dumps({"schema": SCHEMA, "tracks": tracks}, indent=2))
    elif rated:
        _print_verdict(rated)
    ctx.exit(exit_code([Failure.of(song.error) if song.error else None for song in found]))


def _checked(folder: str, only: Sequence[str], request: Request) -> "Iterator[CheckedSong]":
    """Check the songs, and print progress and failures."""
    from stemsplit.training.quality import check_songs

    with progress.display(None) as show:

        def tell(event: Event) -> bool | None:
            if not isinstance(event, TrackStart):
                return show(event)
            click.echo(f"[{event.index}/{event.count}] {event.input}", err=True)
            return None

        model, compute = request.model.model, request.compute
        for song in check_songs(folder, model, only=only, compute=compute, callback=tell):
            if song.error:
                say(str(song.error), song.error.hint)
            yield song


def _print_verdict(rated: "Sequence[Rated]") -> None:
    _print_table(rated)
    doubtful = [song for song, quality in rated if quality.doubts()]
    click.echo(f"\n{len(doubtful)} of {len(rated)} songs are in doubt" + (":" if doubtful else ""))
    for song, quality in rated:
        for sentence in (*quality.doubts(), *(f"note: {problem}" for problem in song.problems)):
            click.echo(f"{song.name}: {sentence}")


def _failures(found: "Sequence[CheckedSong]") -> list[dict[str, str]]:
    return [{"name": song.name, "error": str(song.error)} for song in found if song.error]


def _entry(rated: "Rated") -> dict[str, Any]:
    song, quality = rated
    matrix = [[None if share != share else share for share in row] for row in quality.matrix.tolist()]
    return {
        "name": song.name,
        "active": dict(zip(quality.stems, quality.active.tolist(), strict=True)),
        "found": {
            stem: dict(zip(quality.stems, row, strict=True))
            for stem, row in zip(quality.stems, matrix, strict=True)
        },
        "doubts": quality.doubts(),
        "problems": list(song.problems),
    }


def _print_table(rated: "Sequence[Rated]") -> None:
    stems = list(dict.fromkeys(stem for _, quality in rated for stem in quality.stems))
    width = max((len(song.name) for song, _ in rated), default=4)
    click.echo(f"{'SONG':<{width}}  {'STEM':<8}  {'SOUNDS':>6}  " + "  ".join(f"{s:>7}" for s in stems))
    for song, quality in rated:
        for stem, share, row in zip(quality.stems, quality.active, quality.matrix, strict=True):
            cells = dict(zip(quality.stems, row.tolist(), strict=True))
            shares = "  ".join(f"{_percent(cells.get(other)):>7}" for other in stems)
            click.echo(f"{song.name:<{width}}  {stem:<8}  {_percent(float(share)):>6}  {shares}")


def _percent(share: float | None) -> str:
    return "" if share is None or share != share else f"{share:.0%}"
