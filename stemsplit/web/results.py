"""Songs, results and stems, and what of them lies in one folder."""

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path

from stemsplit.stems import canonical
from stemsplit.web.sums import is_stem_name

MIXTURES = frozenset({"mixture", "mix", "original"})


def id_of(path: Path) -> str:
    """Return the id of a file or folder, the same in every run."""
    return blake2b(os.fsencode(os.path.abspath(path)), digest_size=9).hexdigest()


@dataclass(frozen=True)
class Stem:
    """A file of one stem.

    Attributes:
        path: the file.
        name: the stem's name, which no other stem of the result has.
    """

    path: Path
    name: str

    @property
    def id(self) -> str:
        """Its id."""
        return id_of(self.path)


@dataclass(frozen=True)
class Result:
    """Stems that belong together: those in a folder, or those in one format of several there.

    Attributes:
        folder: the folder.
        stems: its stems.
        mixture: the file of the mixture that lies beside them, if one does.
        format: suffix of its files, if the folder has more than one result.
        first: False for all results of a folder but one.
    """

    folder: Path
    stems: tuple[Stem, ...]
    mixture: Path | None = None
    format: str = ""
    first: bool = True

    @property
    def id(self) -> str:
        """Its id."""
        return id_of(self.folder) if self.first else f"{id_of(self.folder)}-{self.format}"

    @property
    def label(self) -> str:
        """The folder's name, with the format if that tells it from another result."""
        return f"{self.folder.name} ({self.format})" if self.format else self.folder.name


@dataclass
class Song:
    """A song: its original, where that is known, and the results of separating it.

    Attributes:
        name: the name without suffix.
        place: the folder in which its results or its file lie.
        source: the original file.
        results: the results, the first one first.
        sure: False if the source only has the right name, because there was no time to compare recordings.
    """

    name: str
    place: Path
    source: Path | None = None
    results: list[Result] = field(default_factory=list)
    sure: bool = True

    @property
    def id(self) -> str:
        """Its id: that of its first folder, or else of its file."""
        if self.results:
            return id_of(self.results[0].folder)
        return id_of(self.place / self.name if self.source is None else self.source)

    @property
    def folders(self) -> set[Path]:
        """The folders of its results."""
        return {result.folder for result in self.results}


def results_in(folder: Path, files: Sequence[Path]) -> list[Result]:
    """Return the results in a folder: one, or several if a stem is there in several formats."""
    mixtures = [path for path in files if canonical(path.stem) in MIXTURES]
    stems = [path for path in files if path not in mixtures] or list(files)
    if len(mixtures) == len(files):
        mixtures = []
    sets = list(_sets(stems))
    return [
        Result(folder, _named(each), _beside(each, mixtures), format if len(sets) > 1 else "", index == 0)
        for index, (format, each) in enumerate(sets)
    ]


def look_like_stems(files: Sequence[Path], share: float) -> bool:
    """Return whether files have names of stems: all but mixtures, or at least two and a share of them."""
    names = {canonical(path.stem) for path in files} - MIXTURES
    known = sum(is_stem_name(name, names) for name in names)
    return bool(names) and (known == len(names) or (known >= 2 and known >= share * len(names)))


def _sets(files: Sequence[Path]) -> Iterator[tuple[str, list[Path]]]:
    """Yield formats and their files, so that a stem in several formats comes in several sets.

    The format with the most files comes first, with all stems that there are in one format only.
    """
    stems = {canonical(path.stem) for path in files}
    formats = Counter(_format(path) for path in files)
    if len(stems) == len(files) or len(formats) == 1:
        yield "", list(files)
        return
    order = sorted(formats, key=lambda format: (-formats[format], format))
    taken: dict[str, str] = {}  # format of each stem in the first set
    for format in order:
        for path in files:
            if _format(path) == format:
                taken.setdefault(canonical(path.stem), format)
    yield order[0], [path for path in files if taken[canonical(path.stem)] == _format(path)]
    for format in order[1:]:
        rest = [path for path in files if format == _format(path) != taken[canonical(path.stem)]]
        if rest:
            yield format, rest


def _named(files: Sequence[Path]) -> tuple[Stem, ...]:
    """Return stems with different names: of files with one canonical name, all but one keep their own."""
    found: dict[str, Path] = {}
    for path in files:
        found[path.name if canonical(path.stem) in found else canonical(path.stem)] = path
    return tuple(Stem(path, name) for name, path in found.items())


def _beside(stems: Sequence[Path], mixtures: Sequence[Path]) -> Path | None:
    """Return the mixture of some stems: of their format, if there is one."""
    formats = {_format(path) for path in stems}
    return min(mixtures, key=lambda path: _format(path) not in formats, default=None)


def _format(path: Path) -> str:
    return path.suffix.lower().removeprefix(".")
