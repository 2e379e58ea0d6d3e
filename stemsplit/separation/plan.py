"""Plan the jobs of a run: give each output of each input (`inputs`) a path of its own.

No two jobs of a plan write the same file, and no path leaves the output folder,
whatever the names of the inputs are. `run` checks and does the jobs.
"""

import os
import string
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby, islice
from pathlib import Path, PurePosixPath
from typing import TypeVar

from stemsplit.audio.tags import read_settings
from stemsplit.errors import SettingsError
from stemsplit.formats import Format
from stemsplit.listing import AUDIO_SUFFIXES
from stemsplit.separation.inputs import MOST_PLANNED, Input
from stemsplit.settings import TEMPLATE, TEMPLATE_TOGETHER
from stemsplit.urls import Place, Url

Part = TypeVar("Part")

FIELDS = ("dir", "name", "stem", "Stem", "ext", "model", "parent")
# Limit of a track's name in a path: file systems allow 255 bytes, with the stem, the suffix and `.part`.
LONGEST_NAME_BYTES = 200


@dataclass(frozen=True)
class Job:
    """An input, the path of each of its outputs, and that of the project for a DAW that names them."""

    input: Input
    files: dict[str, Place]
    project: Path | None = None

    @property
    def named(self) -> list[tuple[str, Place]]:
        """The outputs and the project, each with its path."""
        return [*self.files.items(), *([("the project", self.project)] if self.project else [])]

    @property
    def outputs(self) -> tuple[Place, ...]:
        """The files of the outputs, each once."""
        return tuple(dict.fromkeys(self.files.values()))

    @property
    def paths(self) -> tuple[Place, ...]:
        """All files of the job, each once."""
        return tuple(dict.fromkeys(path for _, path in self.named))

    @property
    def is_remote(self) -> bool:
        """True if the input or an output isn't a file of this machine's file systems."""
        return self.input.url is not None or any(isinstance(place, Url) for place in self.files.values())


@dataclass(frozen=True)
class Plan:
    """Jobs that don't write the same files, and notices about names that were changed for that.

    Attributes:
        jobs: the jobs; none if there are too many to plan them all before the work begins.
        notices: one sentence each.
        stream: then, yields the jobs while the inputs are being listed.
    """

    jobs: tuple[Job, ...]
    notices: tuple[str, ...] = ()
    stream: Iterator[Job] | None = None

    @property
    def total(self) -> int | None:
        """Number of jobs; None if it isn't known yet."""
        return len(self.jobs) if self.stream is None else None


def take_shard(all_of_them: Iterable[Part], shard: tuple[int, int]) -> Iterator[Part]:
    """Return every n-th input or job from the i-th on, for a shard (i, n)."""
    index, count = shard
    return islice(all_of_them, index - 1, None, count)


@dataclass(frozen=True)
class Layout:
    """Paths of the outputs of all tracks.

    Attributes:
        outputs: names of a track's outputs.
        root: the output folder.
        template: the path below the output folder, with the fields of `FIELDS`.
        ext: the suffix of the format; None for that of the input.
        model: the model's name.
        together: whether all outputs of an input have one path.
        project: the suffix of a project beside the outputs of each input; None for none.
    """

    outputs: Sequence[str]
    root: Place
    template: str
    ext: str | None
    model: str
    together: bool = False
    project: str | None = None

    def job(self, entry: Input, name: str) -> Job:
        """Return the job of an input whose outputs are called `name`."""
        fields = {
            "dir": _clean_folder(entry.folder),
            "name": name,
            "ext": self.ext or entry.suffix,
            "model": _clean(self.model),
            "parent": _clean(Path(os.path.abspath(entry.path)).parent.name or "root"),
        }
        files = {
            output: self.root / expand(self.template, fields | {"stem": output, "Stem": _capital(output)})
            for output in self.outputs
        }
        return Job(entry, files, self._project_of(files, name))

    def _project_of(self, files: Mapping[str, Place], name: str) -> Path | None:
        """Return the path of a project in the innermost folder that has all files."""
        if self.project is None:
            return None
        return Path(os.path.commonpath([path.parent for path in files.values()]), f"{name}.{self.project}")


def _capital(stem: str) -> str:
    """Return a stem's name as Ultimate Vocal Remover and audio-separator write it, such as `No Reverb`."""
    return "Instrumental" if stem == "no_vocals" else stem.replace("_", " ").title()


def plan_jobs(inputs: Sequence[Input], layout: Layout) -> Plan:
    """Give every output of every input a path of its own.

    Raises:
        SettingsError: the template has an unknown field, leaves the output folder, or gives two outputs one
        path.
    """
    check_template(layout.template)
    names, notices = _distinct_names([entry for entry in inputs if entry.failure is None], set())
    free = iter(names)
    # An input that can't be read doesn't take the name of one that can.
    jobs = [Job(entry, {}) if entry.failure else layout.job(entry, next(free)) for entry in inputs]
    if own := _made_before(jobs, layout.root):
        plan = plan_jobs([entry for entry in inputs if entry not in own], layout)
        what = f"left out {len(own)} files that an earlier run made of these inputs, such as {own[0]}"
        return replace(plan, notices=(*plan.notices, what))
    _check_collisions(jobs, layout)
    return Plan(tuple(jobs), tuple(notices))


def _made_before(jobs: Sequence[Job], root: Place) -> list[Input]:
    """Return the inputs in the output folder, which was searched with others, that this program has made."""
    if isinstance(root, Url):
        return []
    output = Path(os.path.abspath(root))
    listed = [job.input for job in jobs if job.input.listed and job.input.url is None]
    return [
        entry
        for entry in listed
        if output in (place := Path(os.path.abspath(entry.path))).parents
        and output.is_relative_to(place.parents[len(entry.folder.parts)])
        and read_settings(entry.path) is not None
    ]


def stream_jobs(inputs: Iterable[Input], layout: Layout, notify: Callable[[str], None]) -> Iterator[Job]:
    """Yield jobs while their inputs are being listed, as `plan_jobs` gives them folder by folder.

    Only hashes of the paths are kept. An output that would have the path of another one fails its job.

    Args:
        inputs: sorted by folder.
        layout: the paths of the outputs.
        notify: called with a sentence about every name that was changed.
    """
    taken, paths = set[int](), set[int]()
    for _, run in groupby(inputs, key=lambda entry: entry.folder):
        while entries := list(islice(run, MOST_PLANNED)):
            names, notices = _distinct_names([entry for entry in entries if entry.failure is None], taken)
            for notice in notices:
                notify(notice)
            free = iter(names)
            for entry in entries:
                job = Job(entry, {}) if entry.failure else layout.job(entry, next(free))
                keys = [hash(_comparable(path)) for path in job.paths]
                meet = not layout.together and len({*keys}) < len(job.named)
                if meet or not paths.isdisjoint(keys):
                    what = f"--template {layout.template}: another track's outputs have the same path"
                    hint = "use {dir}, {name} and {stem} in it"
                    failure = SettingsError(what, setting="--template", hint=hint)
                    job = Job(replace(entry, failure=failure), {})
                paths.update(keys[:1])
                yield job


def template_of(given: str | None, form: Format, mux: bool = False) -> str:
    """Return the template of a format's files, checked.

    Args:
        given: the template that is asked for; None for the default.
        form: the format.
        mux: whether the files are films, whose suffixes are those of the inputs.

    Raises:
        SettingsError: it can't be expanded, or leaves the output folder; it ends in the suffix of another
            format; or it names a stem, and the files of the format hold all of them.
    """
    template = given or (TEMPLATE_TOGETHER if form.together else TEMPLATE)
    check_template(template)
    suffix = PurePosixPath(template).suffix
    if suffix.lower() in AUDIO_SUFFIXES and not template.lower().endswith(f".{form.extension}") and not mux:
        what = f"--template {template}: ends in {suffix}, but the files are {form.name}"
        hint = f"-f chooses the format; {{ext}} stands for its suffix, {form.extension}"
        raise SettingsError(what, setting="--template", hint=hint)
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


def _distinct_names(inputs: Sequence[Input], taken: set[int]) -> tuple[list[str], list[str]]:
    """Return a name for each input, and notices about changed names.

    Within a folder the names differ even on file systems that ignore case and Unicode normalisation.

    Args:
        inputs: the inputs.
        taken: hashes of the names that earlier inputs have; those of these inputs are added.
    """
    plain = [(entry.folder, _clean(entry.name)) for entry in inputs]
    counts = Counter(map(_key, plain))
    counts.update(counts.keys() & taken)
    # Names that occur once keep their form; the others get the suffix of their file, then numbers.
    taken |= {key for key, n in counts.items() if n == 1}
    names, notices = list[str](), list[str]()
    for entry, (folder, name) in zip(inputs, plain, strict=True):
        if counts[_key((folder, name))] > 1:
            name = _free_name(folder, f"{name}_{entry.suffix}" if entry.suffix else name, taken)
            notices.append(f"{entry}: another input has the same name; its outputs are called {name}")
        names.append(name)
    return names, notices


def _free_name(folder: PurePosixPath, name: str, taken: set[int]) -> str:
    candidate, number = name, 2
    while _key((folder, candidate)) in taken:
        candidate, number = f"{name}_{number}", number + 1
    taken.add(_key((folder, candidate)))
    return candidate


def _key(place: tuple[PurePosixPath, str]) -> int:
    return hash(_comparable(place))


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


def _check_collisions(jobs: Sequence[Job], layout: Layout) -> None:
    seen: dict[str, str] = {}
    template, together = layout.template, layout.together
    for job in jobs:
        for name, path in job.named:
            what = str(job.input) if together else f"{name} of {job.input}"
            if (other := seen.setdefault(_comparable(path), what)) != what:
                raise SettingsError(
                    f"--template {template}: {other} and {what} would be the same file",
                    setting="--template",
                    hint=f"use {{dir}}{'' if together else ', {stem}'} and {{name}} in it",
                )
    holders = {path.parent for job in jobs for path in job.paths}
    folders = {_comparable(folder) for folder in {above for one in holders for above in (one, *one.parents)}}
    folders.add(_comparable(layout.root))
    for job in jobs if seen.keys() & folders else ():
        for path in job.paths:
            if _comparable(path) in folders:
                raise SettingsError(
                    f"--template {template}: {path} would be both a file and a folder", setting="--template"
                )
