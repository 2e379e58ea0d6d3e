"""Find the input files of a run: those that are given, and those in folders and at addresses.

Nothing here reads audio.
"""

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatch
from itertools import chain, islice
from pathlib import Path, PurePosixPath
from urllib.parse import urlsplit

from stemsplit.errors import InputError, SettingsError, StemsplitError
from stemsplit.fields import require, require_a
from stemsplit.listing import AUDIO_SUFFIXES, is_hidden
from stemsplit.settings import Request
from stemsplit.urls import Place, Url, is_folder, is_url, is_web, name_of, place_of, shown, walk

HERE = PurePosixPath(".")  # folder of a file that is given by itself
MOST_PLANNED = 10_000  # inputs that are checked before the work begins; more are while it goes on
MOST_SUFFIXES = 5  # that the notice about files that are left out lists


@dataclass(frozen=True)
class Input:
    """A file to separate.

    Attributes:
        path: the file.
        folder: its folder relative to the folder that was given; "." for a file given by itself.
        label: its name if the path is that of a temporary file, or its address without secrets.
        failure: the error if it is known already that it can't be read; the input fails at its turn.
        url: its address if it isn't a file of this machine; the path is then the one in its store.
        listed: True if it was found in a folder rather than given.
    """

    path: Path
    folder: PurePosixPath = HERE
    label: str | None = None
    failure: StemsplitError | None = None
    url: str | None = None
    listed: bool = False

    @property
    def name(self) -> str:
        """Name of the input without its suffix, for the outputs' paths."""
        return self._named.stem

    @property
    def suffix(self) -> str:
        """Suffix of the input without the dot."""
        return self._named.suffix.lstrip(".")

    @property
    def _named(self) -> Path:
        return Path(name_of(self.url)) if self.url else Path(self.label) if self.label else self.path

    @property
    def identity(self) -> str:
        """Text that two inputs have in common if they are the same file."""
        return self.url or os.path.abspath(self.path)

    def __str__(self) -> str:
        return self.label or os.fspath(self.path)


@dataclass
class Found:
    """Inputs that were found, and files and links that were left out.

    Attributes:
        inputs: every file once, and each unreadable folder as an input that fails; at most `MOST_PLANNED`.
        more: yields further inputs while they are being listed; None if there are none.
        left_out: number of files in folders without an audio suffix, by their suffixes.
        links: links to folders, which aren't followed.
    """

    inputs: list[Input] = field(default_factory=list)
    more: Iterator[Input] | None = None
    left_out: Counter[str] = field(default_factory=Counter)
    links: list[Path] = field(default_factory=list)

    def notices(self) -> list[str]:
        """Return a sentence about files that were left out and one about links, if there are any."""
        notices = []
        if self.left_out:
            shown = ", ".join(suffix for suffix, _ in self.left_out.most_common(MOST_SUFFIXES))
            more = ", …" if len(self.left_out) > MOST_SUFFIXES else ""
            notices.append(
                f"left out {_counted(self.left_out.total(), 'file')} without an audio suffix"
                f" ({shown}{more}); --include GLOB takes them"
            )
        if self.links:
            notices.append(
                f"left out {_counted(len(self.links), 'linked folder')}, such as {self.links[0]};"
                " a link is followed where it is itself an INPUT"
            )
        return notices


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}" + ("" if count == 1 else "s")


def find(inputs: str | Path | Iterable[str | Path | Input], request: Request) -> Found:
    """Return the files to separate: those that are given, and those in folders.

    Raises:
        SettingsError: an input is no path, or empty text.
    """
    require_a("request", request, Request)
    batch = request.batch
    paths: Iterable[object] = [inputs]
    if isinstance(inputs, Iterable) and not isinstance(inputs, str):
        paths = inputs
    return collect(
        [path if isinstance(path, (Input, Path)) else _given(path) for path in paths],
        include=batch.include,
        exclude=batch.exclude,
        output=place_of(batch.output),
    )


def _given(text: object) -> Place | Input:
    if not isinstance(text, str):
        raise SettingsError(f"inputs {text!r}: must be a path, or a list of paths", setting="inputs")
    require(text != "", "inputs", "one of them is empty", "")
    return input_at(text) if is_url(text) else place_of(text)


def collect(
    paths: Iterable[Place | Input],
    *,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    output: Place | None = None,
) -> Found:
    """Return all files, those in folders sorted and at any depth, every file once.

    Beyond `MOST_PLANNED` files the listing goes on while the first ones are worked on.

    Args:
        paths: files and folders; an `Input`, such as a stream, is taken as it is.
        include: glob patterns; a file in a folder must match one of them, if there are any.
        exclude: glob patterns; files and folders in a folder must match none of them.
        output: the output folder, which isn't searched if it lies in one of the folders.
    """
    found = Found()
    chosen = _Chosen(include, exclude, found.left_out)
    entries = _once(entry for path in paths for entry in _entries(path, chosen, output, found))
    found.inputs = list(islice(entries, MOST_PLANNED))
    if (further := next(entries, None)) is not None:
        found.more = chain([further], entries)
    return found


def _once(entries: Iterable[Input]) -> Iterator[Input]:
    """Yield every input once; hashes take little memory for millions of them."""
    seen = set[int]()
    for entry in entries:
        if (key := hash(entry.identity)) not in seen:
            seen.add(key)
            yield entry


def _entries(path: Place | Input, chosen: "_Chosen", output: Place | None, found: Found) -> Iterator[Input]:
    if isinstance(path, Input) and path.url is not None and path.failure is None:
        yield from _addresses(path.url, chosen, output)
    elif isinstance(path, Input):
        yield path
    elif isinstance(path, Url):
        yield from _addresses(str(path), chosen, output)
    # os.path and not pathlib, whose is_dir raises for a path that is too long or not permitted.
    elif os.path.isdir(path):
        yield from _walk(path, chosen, output, found)
    else:
        yield Input(path)


@dataclass(frozen=True)
class _Chosen:
    """Rules for the files of a folder, and a count of those without an audio suffix."""

    include: Sequence[str]
    exclude: Sequence[str]
    left_out: Counter[str]

    def has(self, place: PurePosixPath) -> bool:
        """Return whether the file at `place` below the folder is taken."""
        if is_hidden(place.name) or _matches(place, self.exclude):
            return False
        if self.include:
            return _matches(place, self.include)
        if not _has_audio_suffix(place.name):
            self.left_out[place.suffix.lower() or "no suffix"] += 1
            return False
        return True


def input_at(url: str, folder: PurePosixPath = HERE) -> Input:
    """Return the input at an address."""
    place = urlsplit(url).path if is_web(url) else url.partition("://")[2]
    return Input(Path("/", place), folder, label=shown(url), url=url)


def _addresses(url: str, chosen: _Chosen, output: Place | None) -> Iterator[Input]:
    """Yield the file at an address, or the files below it; `output` isn't searched."""
    try:
        if not is_folder(url):
            yield input_at(url)
            return
        root = url.rstrip("/")
        for found in walk(root):
            place = PurePosixPath(found.removeprefix(root).lstrip("/"))
            above = [place.parent, *place.parent.parents][:-1]
            if any(is_hidden(one.name) or _matches(one, chosen.exclude) for one in above):
                continue
            if output is not None and str(output) != root and found.startswith(f"{output}/"):
                continue
            if chosen.has(place):
                yield input_at(found, place.parent)
    except InputError as error:
        yield replace(input_at(url), failure=error)


def _walk(root: Path, chosen: _Chosen, output: Place | None, found: Found) -> Iterator[Input]:
    """Yield the inputs in and below `root`; add to `found` what is left out."""
    skipped = os.path.realpath(output) if isinstance(output, Path) else None
    if skipped == os.path.realpath(root):
        skipped = None
    unreadable: list[OSError] = []
    for folder, below, files in os.walk(root, onerror=unreadable.append):
        here = Path(folder)
        place = PurePosixPath(here.relative_to(root).as_posix())
        yield from (_unreadable(root, error) for error in unreadable)
        unreadable.clear()
        below[:] = sorted(
            name
            for name in below
            if not is_hidden(name)
            and not _matches(place / name, chosen.exclude)
            and os.path.realpath(here / name) != skipped
        )
        found.links += [here / name for name in below if os.path.islink(here / name)]
        named = (file for file in sorted(files) if chosen.has(place / file))
        yield from (Input(here / file, place, listed=True) for file in named)
    yield from (_unreadable(root, error) for error in unreadable)


def _unreadable(root: Path, error: OSError) -> Input:
    """Return an input that fails, for a folder that can't be listed."""
    denied = isinstance(error, PermissionError)
    reason = "no permission to read this folder" if denied else error.strerror or str(error)
    path = Path(error.filename)
    failure = InputError(path, reason, hint="its owner can allow it: chmod +rx" if denied else None)
    return Input(path, PurePosixPath(path.relative_to(root).as_posix()), failure=failure)


def _matches(path: PurePosixPath, patterns: Sequence[str]) -> bool:
    return any(fnmatch(path.as_posix(), p) or fnmatch(path.name, p) for p in patterns)


def _has_audio_suffix(name: str) -> bool:
    return PurePosixPath(name).suffix.lower() in AUDIO_SUFFIXES
