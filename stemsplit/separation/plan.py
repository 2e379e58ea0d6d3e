"""From the command's inputs to jobs: which files, under which names, written where.

Nothing here reads audio. No two jobs of a plan write the same file, and nothing is written outside the output
folder, whatever the inputs are called.
"""

import os
import string
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatch
from pathlib import Path, PurePosixPath

from stemsplit.errors import InputError, SettingsError, StemsplitError
from stemsplit.listing import AUDIO_SUFFIXES, is_hidden

FIELDS = ("dir", "name", "stem", "ext", "model", "parent")
# Of a track's name in a path; file systems end at 255 with stem, suffix and part mark.
LONGEST_NAME_BYTES = 200
MOST_SUFFIXES = 5  # in the notice about files that are left out


@dataclass(frozen=True)
class Input:
    """A file to separate.

    Attributes:
        path: the file.
        folder: its place below the folder that was given, "." for a file by itself.
        label: what to call it, where the path is a temporary one.
        failure: why it can't be had, known already; such an input fails when its turn comes.
    """

    path: Path
    folder: PurePosixPath = PurePosixPath(".")
    label: str | None = None
    failure: StemsplitError | None = None

    @property
    def name(self) -> str:
        """The name of its outputs' folder."""
        return Path(self.label).stem if self.label else self.path.stem

    @property
    def suffix(self) -> str:
        """The suffix without its dot."""
        return (Path(self.label) if self.label else self.path).suffix.lstrip(".")

    def __str__(self) -> str:
        return self.label or os.fspath(self.path)


@dataclass(frozen=True)
class Job:
    """An input and where each of its outputs goes."""

    input: Input
    files: dict[str, Path]


@dataclass(frozen=True)
class Plan:
    """Jobs that don't get in each other's way, and what a person should know about them."""

    jobs: tuple[Job, ...]
    notices: tuple[str, ...]


@dataclass
class Found:
    """Inputs that were found, and what was left out.

    Attributes:
        inputs: every file once, and what can't be read as an input that fails.
        left_out: names of files in folders whose suffix is no audio's.
        links: links to folders, which aren't followed.
    """

    inputs: list[Input] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)
    links: list[Path] = field(default_factory=list)

    def notices(self) -> list[str]:
        """Return a sentence for each kind of thing that was left out."""
        told = []
        if self.left_out:
            suffixes = Counter(PurePosixPath(name).suffix.lower() or "no suffix" for name in self.left_out)
            shown = ", ".join(suffix for suffix, _ in suffixes.most_common(MOST_SUFFIXES))
            more = ", …" if len(suffixes) > MOST_SUFFIXES else ""
            told.append(
                f"left out {_counted(len(self.left_out), 'file')} without an audio suffix"
                f" ({shown}{more}); --include GLOB takes them"
            )
        if self.links:
            told.append(
                f"left out {_counted(len(self.links), 'linked folder')}, such as {self.links[0]};"
                " a link is followed where it is itself an INPUT"
            )
        return told


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}" + ("" if count == 1 else "s")


def collect(
    paths: Iterable[Path | Input],
    *,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    output: Path | None = None,
) -> Found:
    """Expand folders, recursively and sorted; every file once.

    Args:
        paths: files and folders; inputs, such as streams, are taken as they are.
        include: glob patterns; a file in a folder must match one of them, if there are any.
        exclude: glob patterns; a file or folder in a folder must match none.
        output: the output folder, which is not searched when it lies in one of the folders.
    """
    found, once = Found(), dict[str, Input]()
    for path in paths:
        if isinstance(path, Input):
            entries: Iterable[Input] = [path]
        else:
            # pathlib's own questions raise where a path is too long, or may not be looked at
            entries = _walk(path, include, exclude, output, found) if os.path.isdir(path) else [Input(path)]
        for entry in entries:
            once.setdefault(os.path.abspath(entry.path), entry)
    found.inputs = list(once.values())
    return found


def _walk(
    root: Path, include: Sequence[str], exclude: Sequence[str], output: Path | None, found: Found
) -> Iterable[Input]:
    shunned = os.path.realpath(output) if output is not None else None
    if shunned == os.path.realpath(root):
        shunned = None
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
            and not _matches(place / name, exclude)
            and os.path.realpath(here / name) != shunned
        )
        found.links += [here / name for name in below if os.path.islink(here / name)]
        for file in sorted(files):
            if is_hidden(file) or _matches(place / file, exclude):
                continue
            if _matches(place / file, include) if include else _has_audio_suffix(file):
                yield Input(here / file, place)
            elif not include:
                found.left_out.append(file)
    yield from (_unreadable(root, error) for error in unreadable)


def _unreadable(root: Path, error: OSError) -> Input:
    """Return a folder that can't be listed, as an input that fails."""
    denied = isinstance(error, PermissionError)
    reason = "no permission to read this folder" if denied else error.strerror or str(error)
    path = Path(error.filename)
    failure = InputError(path, reason, hint="its owner can allow it: chmod +rx" if denied else None)
    return Input(path, PurePosixPath(path.relative_to(root).as_posix()), failure=failure)


def _matches(path: PurePosixPath, patterns: Sequence[str]) -> bool:
    return any(fnmatch(path.as_posix(), p) or fnmatch(path.name, p) for p in patterns)


def _has_audio_suffix(name: str) -> bool:
    return PurePosixPath(name).suffix.lower() in AUDIO_SUFFIXES


def take_shard(inputs: Sequence[Input], shard: tuple[int, int]) -> list[Input]:
    """Every n-th input from the i-th on, for `shard` (i, n)."""
    index, count = shard
    return list(inputs[index - 1 :: count])


def plan_jobs(
    inputs: Sequence[Input], outputs: Sequence[str], *, root: Path, template: str, ext: str, model: str
) -> Plan:
    """Give every output of every input a path of its own below `root`.

    Args:
        inputs: from `collect`.
        outputs: names of a track's outputs.
        root: the output folder.
        template: of the path below it, with the fields of `FIELDS`.
        ext: the suffix of the format.
        model: the model's name.

    Raises:
        SettingsError: the template has an unknown field, leaves the folder or gives two outputs one path.
    """
    check_template(template)
    names, notices = _distinct_names([entry for entry in inputs if entry.failure is None])
    jobs, free = [], iter(names)
    for entry in inputs:
        if entry.failure is not None:  # it takes no name from an input that can be had
            jobs.append(Job(entry, {}))
            continue
        fields = {
            "dir": _clean_folder(entry.folder),
            "name": next(free),
            "ext": ext,
            "model": _clean(model),
            "parent": _clean(Path(os.path.abspath(entry.path)).parent.name or "root"),
        }
        files = {o: root / expand(template, fields | {"stem": o}) for o in outputs}
        jobs.append(Job(entry, files))
    _check_collisions(jobs, template, root)
    return Plan(tuple(jobs), tuple(notices))


def check_template(template: str) -> None:
    """See that a template can be expanded and stays below the output folder.

    Raises:
        SettingsError: it can't, or doesn't.
    """
    try:
        parts = list(string.Formatter().parse(template))
    except ValueError as error:
        raise SettingsError(f"--template {template}: {error}", setting="--template") from None
    for _, name, spec, conversion in parts:
        if name is not None and (name not in FIELDS or spec or conversion):
            raise SettingsError(
                f"--template {template}: no field {{{name}}}",
                setting="--template",
                hint="there is " + ", ".join(f"{{{f}}}" for f in FIELDS),
            )
    path = PurePosixPath(template)
    if path.is_absolute() or ".." in path.parts or not path.name or template.endswith("/"):
        raise SettingsError(
            f"--template {template}: must be the path of a file below the output folder", setting="--template"
        )


def expand(template: str, fields: dict[str, str]) -> PurePosixPath:
    """A template with its fields filled in; a folder that comes out empty is left out."""
    return PurePosixPath(
        *(part for part in template.format_map(fields).split("/") if part not in ("", ".", ".."))
    )


def _distinct_names(inputs: Sequence[Input]) -> tuple[list[str], list[str]]:
    """Names that differ within a folder even where case and Unicode form don't count, and notices."""
    plain = [(entry.folder, _clean(entry.name)) for entry in inputs]
    counts = Counter(_key(place) for place in plain)
    taken, names, notices = {key for key, n in counts.items() if n == 1}, [], []
    for entry, (folder, name) in zip(inputs, plain, strict=True):
        if counts[_key((folder, name))] > 1:
            name = _free_name(folder, f"{name}_{entry.suffix}" if entry.suffix else name, taken)
            notices.append(f"{entry}: another input has the same name; its outputs are called {name}")
        names.append(name)
    return names, notices


def _free_name(folder: PurePosixPath, name: str, taken: set[str]) -> str:
    candidate, number = name, 2
    while _key((folder, candidate)) in taken:
        candidate, number = f"{name}_{number}", number + 1
    taken.add(_key((folder, candidate)))
    return candidate


def _key(place: object) -> str:
    folder, name = place if isinstance(place, tuple) else (place, "")
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", f"{folder}/{name}").casefold())


def _clean(name: str) -> str:
    """`name` as one component of a path: no separator or control character, not `.` or `..`, not too long."""
    # Only ASCII's control characters: in Latin-1 the others are bytes of names that were written as UTF-8.
    cleaned = "".join("_" if c in "/\\\x7f" or c < " " else c for c in name)[:LONGEST_NAME_BYTES]
    while len(os.fsencode(cleaned)) > LONGEST_NAME_BYTES:
        cleaned = cleaned[:-1]
    return "_" if cleaned.strip(". ") == "" else cleaned


def _clean_folder(folder: PurePosixPath) -> str:
    return "/".join(_clean(part) for part in folder.parts)


def _check_collisions(jobs: Sequence[Job], template: str, root: Path) -> None:
    seen: dict[str, str] = {}
    for job in jobs:
        for name, path in job.files.items():
            what = f"{name} of {job.input}"
            if (other := seen.setdefault(_key(path), what)) != what:
                raise SettingsError(
                    f"--template {template}: {other} and {what} would be the same file",
                    setting="--template",
                    hint="use {dir}, {name} and {stem} in it",
                )
    folders = {_key(parent) for job in jobs for path in job.files.values() for parent in path.parents}
    folders.add(_key(root))
    for job in jobs:
        for path in job.files.values():
            if _key(path) in folders:
                raise SettingsError(
                    f"--template {template}: {path} would be both a file and a folder", setting="--template"
                )
