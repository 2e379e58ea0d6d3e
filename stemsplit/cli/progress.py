"""Progress and the summary of a run on stderr, for people and for programs."""

import codecs
import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

from stemsplit import events
from stemsplit.cli.failures import one_line, say
from stemsplit.events import Callback, Event

if TYPE_CHECKING:
    from stemsplit.separation.report import Report

STYLES = ("auto", "bar", "plain", "json", "none")


def set_color(choice: str | None) -> None:
    """Switch colours on stderr on or off, by the option, NO_COLOR, FORCE_COLOR or the terminal."""
    context = click.get_current_context()
    if choice in ("always", "never"):
        context.color = choice == "always"
    elif os.environ.get("NO_COLOR"):
        context.color = False
    elif os.environ.get("FORCE_COLOR"):
        context.color = True


@contextmanager
def display(style: str | None) -> Iterator[Callback]:
    """Yield a callback that shows events; the style auto is a bar on a terminal, plain lines elsewhere."""
    if style in (None, "auto"):
        style = "bar" if sys.stderr.isatty() else "plain"
    if style == "bar":
        with _Bars() as bars:
            yield bars
    else:
        yield {"plain": _plain, "json": _json, "none": _nothing}[str(style)]


def _nothing(event: Event) -> None:
    pass


def _json(event: Event) -> None:
    click.echo(json_text(event.as_dict(), sys.stderr.encoding), err=True)


def json_text(content: dict[str, Any], encoding: str, *, indent: int | None = None) -> str:
    """Return JSON; in ASCII if `encoding` isn't UTF-8, which JSON needs, or a file name isn't valid text."""
    text = json.dumps(content, indent=indent, ensure_ascii=codecs.lookup(encoding).name != "utf-8")
    try:
        text.encode()
    except UnicodeEncodeError:
        return json.dumps(content, indent=indent)
    return text


def _plain(event: Event) -> None:
    """Print a line for events that belong in a log."""
    if (line := describe(event)) is not None:
        click.echo(one_line(line), err=True)


def describe(event: Event) -> str | None:
    """Return an event as a line; None for events that only a bar shows."""
    match event:
        case events.Notice(message, None):
            return f"note: {message}"
        case events.Notice(message, name):
            return f"note: {name}: {message}"
        case events.TrackDone(name, "skipped", _, _):
            return f"skipped {name} (done already)"
        case events.TrackDone(name, _, outputs, wall_s) if not outputs:
            return f"{name} ({duration(wall_s)})"
        case events.TrackDone(name, _, outputs, wall_s):
            return f"{name} -> {_common(list(dict.fromkeys(outputs.values())))} ({duration(wall_s)})"
    return None


def _common(paths: list[str]) -> str:
    """Return one path, or several in braces behind their folder: `stems/song/{drums,bass}.wav`."""
    folders, endings = (
        {os.path.dirname(path) for path in paths},
        {os.path.splitext(path)[1] for path in paths},
    )
    if len(paths) == 1 or len(folders) > 1 or len(endings) > 1:
        return ", ".join(paths)
    names = ",".join(os.path.splitext(os.path.basename(path))[0] for path in paths)
    return os.path.join(folders.pop(), f"{{{names}}}{endings.pop()}")


class _Bars:
    """Bars by rich: one per track at work, one per download."""

    def __enter__(self) -> "_Bars":
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn

        console = Console(stderr=True, no_color=click.get_current_context().color is False)
        self.progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            TextColumn("{task.fields[state]}", markup=False),
            console=console,
            transient=True,
        )
        self.tasks: dict[str, Any] = {}
        self.progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.progress.stop()

    def __call__(self, event: Event) -> None:
        match event:
            case events.Download(name, done, total):
                self._show(name, f"downloading {name}", done, total, _bytes(done, total))
                if done == total:
                    self._drop(name)
            case events.TrackStart(name, index, count, duration_s):
                self._show(name, f"[{index}/{count or '?'}] {one_line(_short(name))}", 0, duration_s, "")
            case events.Progress(name, done_s, total_s, eta_s):
                self._show(name, None, done_s, total_s, self._speed(name, done_s, eta_s))
            case events.TrackDone(name) | events.TrackFailed(name):
                self._drop(name)
        if (line := describe(event)) is not None:
            self.progress.console.print(one_line(line), markup=False, highlight=False, soft_wrap=True)

    def _show(self, key: str, title: str | None, done: float, total: float | None, state: str) -> None:
        if key not in self.tasks:
            self.tasks[key] = self.progress.add_task(title or key, total=total, state=state)
        self.progress.update(self.tasks[key], completed=done, total=total, state=state)

    def _speed(self, key: str, done_s: float, eta_s: float | None) -> str:
        elapsed = self.progress.tasks[self.progress.task_ids.index(self.tasks[key])].elapsed or 0
        speed = f"{done_s / elapsed:.1f}x" if elapsed else ""
        return speed if eta_s is None else f"{speed}, {duration(eta_s)} left"

    def _drop(self, key: str) -> None:
        if key in self.tasks:
            self.progress.remove_task(self.tasks.pop(key))


def _short(name: str, width: int = 40) -> str:
    return name if len(name) <= width else "…" + name[1 - width :]


def _bytes(done: int, total: int | None) -> str:
    return f"{done / 1e6:.1f} MB" if total is None else f"{done / 1e6:.1f} of {total / 1e6:.1f} MB"


def duration(seconds: float) -> str:
    """Return 252.3 as "4m12s"; below ten seconds with one decimal."""
    if seconds < 9.95:
        return f"{seconds:.1f}s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    parts = [(hours, "h"), (minutes, "m"), (rest, "s")]
    first = next((i for i, (value, _) in enumerate(parts) if value), 2)
    return "".join(
        f"{value:02d}{unit}" if i > first else f"{value}{unit}"
        for i, (value, unit) in enumerate(parts)
        if i >= first
    )


def summarise(report: "Report") -> None:
    """Print the totals of a run, then a line per failure."""
    counts = ", ".join(f"{report.count(status)} {status}" for status in ("done", "skipped", "failed"))
    speed = f" ({report.realtime:.1f}x realtime)" if report.realtime else ""
    click.echo(f"{counts} in {duration(report.wall_s)}{speed}", err=True)
    for track in report.tracks:
        if track.error:
            say(f"{track.input}: {track.error.message}", track.error.hint)
