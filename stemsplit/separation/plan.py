"""Plan the jobs of a run: find the input files, and give each output a path of its own.

Nothing here reads audio. No two jobs of a plan write the same file, and no path leaves the output folder,
whatever the names of the inputs are. `run` checks and does the jobs.
"""

import os
import string
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatch
from pathlib import Path, PurePosixPath

from stemsplit.errors import InputError, SettingsError, StemsplitError
from stemsplit.formats import Format
from stemsplit.listing import AUDIO_SUFFIXES, is_hidden
from stemsplit.settings import TEMPLATE, TEMPLATE_TOGETHER

FIELDS = ("dir", "name", "stem", "Stem", "ext", "model", "parent")
# Limit of a track's name in a path: file systems allow 255 bytes, with the stem, the suffix and `.part`.
LONGEST_NAME_BYTES = 200
MOST_SUFFIXES = 5  # that the notice about files that are left out lists


@dataclass(frozen=True)
class Input:
    """A file to separate.

    Attributes:
        path: the file.
        folder: its folder relative to the folder that was given; "." for a file given by itself.
        label: its name if the path is that of a temporary file.
        failure: the error if it is known already that it can't be read; the input fails at its turn.
    """

    path: Path
    folder: PurePosixPath = PurePosixPath(".")
    label: str | None = None
    failure: StemsplitError | None = None

    @property
    def name(self) -> str:
        """Name of the input without its suffix, for the outputs' paths."""
        return Path(self.label).stem if self.label else self.path.stem

    @property
    def suffix(self) -> str:
        """Suffix of the input without the dot."""
        return (Path(self.label) if self.label else self.path).suffix.lstrip(".")

    def __str__(self) -> str:
        return self.label or os.fspath(self.path)


@dataclass(frozen=True)
class Job:
    """An input, the path of each of its outputs, and that of the project for a DAW that names them."""

    input: Input
    files: dict[str, Path]
    project: Path | None = None

    @property
    def named(self) -> list[tuple[str, Path]]:
        """The outputs and the project, each with its path."""
        return [*self.files.items(), *([("the project", self.project)] if self.project else [])]

    @property
    def paths(self) -> tuple[Path, ...]:
        """All files of the job, each once."""
        return tuple(dict.fromkeys(path for _, path in self.named))


@dataclass(frozen=True)
class Plan:
    """Jobs that don't write the same files, and notices about names that were changed for that."""

    jobs: tuple[Job, ...]
    notices: tuple[str, ...]


@dataclass
class Found:
    """Inputs that were found, and files and links that were left out.

    Attributes:
        inputs: every file once, and each unreadable folder as an input that fails.
        left_out: names of files in folders without an audio suffix.
        links: links to folders, which aren't followed.
    """

    inputs: list[Input] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)
    links: list[Path] = field(default_factory=list)

    def notices(self) -> list[str]:
        """Return a sentence about files that were left out and one about links, if there are any."""
        notices = []
        if self.left_out:
            suffixes = Counter(PurePosixPath(name).suffix.lower() or "no suffix" for name in self.left_out)
            shown = ", ".join(suffix for suffix, _ in suffixes.most_common(MOST_SUFFIXES))
            more = ", …" if len(suffixes) > MOST_SUFFIXES else ""
            notices.append(
                f"left out {_counted(len(self.left_out), 'file')} without an audio suffix"
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


def collect(
    paths: Iterable[Path | Input],
    *,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    output: Path | None = None,
) -> Found:
    """Return all files, those in folders sorted and at any depth, every file once.

    Args:
        paths: files and folders; an `Input`, such as a stream, is taken as it is.
        include: glob patterns; a file in a folder must match one of them, if there are any.
        exclude: glob patterns; files and folders in a folder must match none of them.
        output: the output folder, which isn't searched if it lies in one of the folders.
    """
    found, by_path = Found(), dict[str, Input]()
    for path in paths:
        if isinstance(path, Input):
            entries: Iterable[Input] = [path]
        else:
            # os.path and not pathlib, whose is_dir raises for a path that is too long or not permitted.
            entries = _walk(path, include, exclude, output, found) if os.path.isdir(path) else [Input(path)]
        for entry in entries:
            by_path.setdefault(os.path.abspath(entry.path), entry)
    found.inputs = list(by_path.values())
    return found


def _walk(
    root: Path, include: Sequence[str], exclude: Sequence[str], output: Path | None, found: Found
) -> Iterable[Input]:
    """Yield the inputs in and below `root`; add to `found` what is left out."""
    skipped = os.path.realpath(output) if output is not None else None
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
            and not _matches(place / name, exclude)
            and os.path.realpath(here / name) != skipped
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


def take_shard(inputs: Sequence[Input], shard: tuple[int, int]) -> list[Input]:
    """Return every n-th input from the i-th on, for a shard (i, n)."""
    index, count = shard
    return list(inputs[index - 1 :: count])


def plan_jobs(
    inputs: Sequence[Input],
    outputs: Sequence[str],
    *,
    root: Path,
    template: str,
    ext: str | None,
    model: str,
    together: bool = False,
    project: str | None = None,
) -> Plan:
    """Give every output of every input a path of its own below `root`.

    Args:
        inputs: from `collect`.
        outputs: names of a track's outputs.
        root: the output folder.
        template: the path below the output folder, with the fields of `FIELDS`.
        ext: the suffix of the format; None for that of the input.
        model: the model's name.
        together: whether all outputs of an input have one path.
        project: the suffix of a project beside the outputs of each input; None for none.

    Raises:
        SettingsError: the template has an unknown field, leaves the output folder, or gives two outputs one
        path.
    """
    check_template(template)
    names, notices = _distinct_names([entry for entry in inputs if entry.failure is None])
    jobs, free = [], iter(names)
    for entry in inputs:
        if entry.failure is not None:  # so that it doesn't take the name of an input that can be read
            jobs.append(Job(entry, {}))
            continue
        fields = {
            "dir": _clean_folder(entry.folder),
            "name": next(free),
            "ext": ext or entry.suffix,
            "model": _clean(model),
            "parent": _clean(Path(os.path.abspath(entry.path)).parent.name or "root"),
        }
        files = {o: root / expand(template, fields | {"stem": o, "Stem": _capital(o)}) for o in outputs}
        jobs.append(Job(entry, files, _project_path(files, fields["name"], project)))
    _check_collisions(jobs, template, root, together)
    return Plan(tuple(jobs), tuple(notices))


def _capital(stem: str) -> str:
    """Return a stem's name as Ultimate Vocal Remover and audio-separator write it, such as `No Reverb`."""
    return "Instrumental" if stem == "no_vocals" else stem.replace("_", " ").title()


def _project_path(files: Mapping[str, Path], name: str, suffix: str | None) -> Path | None:
    """Return the path of a project in the innermost folder that has all files."""
    if suffix is None:
        return None
    return Path(os.path.commonpath([path.parent for path in files.values()]), f"{name}.{suffix}")


def template_of(given: str | None, form: Format) -> str:
    """Return the template of a format's files, checked.

    Args:
        given: the template that is asked for; None for the default.
        form: the format.

    Raises:
        SettingsError: it can't be expanded, or leaves the output folder; or it names a stem, and the files of
            the format hold all of them.
    """
    template = given or (TEMPLATE_TOGETHER if form.together else TEMPLATE)
    check_template(template)
    if form.together and "{stem}" in template.lower():
        raise SettingsError(
            f"--template {template}: a {form.name} file holds all stems of a track",
            setting="--template",
            hint=f"leave {{stem}} out, as in {TEMPLATE_TOGETHER}",
        )
    return template


def check_template(template: str) -> None:
    """Check that a template can be expanded and stays below the output folder.

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
    """Return a template with its fields filled in, without folders that come out empty."""
    return PurePosixPath(
        *(part for part in template.format_map(fields).split("/") if part not in ("", ".", ".."))
    )


def _distinct_names(inputs: Sequence[Input]) -> tuple[list[str], list[str]]:
    """Return a name for each input, and notices about changed names.

    Within a folder the names differ even on file systems that ignore case and Unicode normalisation.
    """
    plain = [(entry.folder, _clean(entry.name)) for entry in inputs]
    counts = Counter(_comparable(place) for place in plain)
    # Names that occur once keep their form; the others get the suffix of their file, then numbers.
    taken, names, notices = {key for key, n in counts.items() if n == 1}, [], []
    for entry, (folder, name) in zip(inputs, plain, strict=True):
        if counts[_comparable((folder, name))] > 1:
            name = _free_name(folder, f"{name}_{entry.suffix}" if entry.suffix else name, taken)
            notices.append(f"{entry}: another input has the same name; its outputs are called {name}")
        names.append(name)
    return names, notices


def _free_name(folder: PurePosixPath, name: str, taken: set[str]) -> str:
    candidate, number = name, 2
    while _comparable((folder, candidate)) in taken:
        candidate, number = f"{name}_{number}", number + 1
    taken.add(_comparable((folder, candidate)))
    return candidate


def _comparable(place: object) -> str:
    """Return a path in a form that is equal for paths that some file system can't tell apart."""
    folder, name = place if isinstance(place, tuple) else (place, "")
    # Case folding can break the normal form, so it is normalised again.
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", f"{folder}/{name}").casefold())


def _clean(name: str) -> str:
    """Return `name` as one component of a path: no separator or control character, no `..`, not too long."""
    # Only the control characters of ASCII: those of Latin-1 may be bytes of names that are UTF-8.
    cleaned = "".join("_" if c in "/\\\x7f" or c < " " else c for c in name)[:LONGEST_NAME_BYTES]
    while len(os.fsencode(cleaned)) > LONGEST_NAME_BYTES:
        cleaned = cleaned[:-1]
    return "_" if cleaned.strip(". ") == "" else cleaned


def _clean_folder(folder: PurePosixPath) -> str:
    return "/".join(_clean(part) for part in folder.parts)


def _check_collisions(jobs: Sequence[Job], template: str, root: Path, together: bool) -> None:
    seen: dict[str, str] = {}
    for job in jobs:
        for name, path in job.named:
            what = str(job.input) if together else f"{name} of {job.input}"
            if (other := seen.setdefault(_comparable(path), what)) != what:
                raise SettingsError(
                    f"--template {template}: {other} and {what} would be the same file",
                    setting="--template",
                    hint=f"use {{dir}}{'' if together else ', {stem}'} and {{name}} in it",
                )
    folders = {_comparable(parent) for job in jobs for path in job.paths for parent in path.parents}
    folders.add(_comparable(root))
    for job in jobs:
        for path in job.paths:
            if _comparable(path) in folders:
                raise SettingsError(
                    f"--template {template}: {path} would be both a file and a folder", setting="--template"
                )
