"""The songs and stems that the page shows: what lies in the folders that were named, and nothing else.

Everything has an id, and requests name ids, never paths. A file is only opened if its real path, with all
links followed, is inside a folder or is a file that was named on the command line.
"""

import os
import re
import threading
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path

from stemsplit.audio.tags import read_settings
from stemsplit.listing import AUDIO_SUFFIXES, is_hidden
from stemsplit.stems import ACCOMPANIMENTS, canonical
from stemsplit.web.answers import ApiError

MOST_FOLDERS = 5000  # that are searched; more would keep a browser waiting
MIXTURES = frozenset({"mixture", "mix", "original"})
STEMS = ACCOMPANIMENTS | {
    *("vocals", "drums", "bass", "other", "guitar", "piano", "lead", "backing", "speech", "music", "effects"),
    *("kick", "snare", "toms", "hihat", "ride", "crash", "strings", "brass", "synth", "noise", "restored"),
}
_NUMBERED = re.compile(r" \((\d+)\)$")


def id_of(path: Path) -> str:
    """Return the id of a file or folder, the same in every run."""
    return blake2b(os.fsencode(os.path.abspath(path)), digest_size=9).hexdigest()


@dataclass(frozen=True)
class Stem:
    """A file of one stem."""

    path: Path

    @property
    def id(self) -> str:
        """Its id."""
        return id_of(self.path)

    @property
    def name(self) -> str:
        """Its canonical name."""
        return canonical(self.path.stem)


@dataclass(frozen=True)
class Result:
    """A folder of stems that belong together.

    Attributes:
        folder: the folder.
        stems: its stems.
        mixture: the file of the mixture that lies beside them, if one does.
    """

    folder: Path
    stems: tuple[Stem, ...]
    mixture: Path | None = None

    @property
    def id(self) -> str:
        """Its id."""
        return id_of(self.folder)


@dataclass
class Song:
    """A song: its original, where that is known, and the results of separating it.

    Attributes:
        name: the name without suffix.
        place: the folder in which its results or its file lie.
        source: the original file.
        results: the results, the first one first.
    """

    name: str
    place: Path
    source: Path | None = None
    results: list[Result] = field(default_factory=list)

    @property
    def id(self) -> str:
        """Its id."""
        return id_of(self.place / self.name)


class Library:
    """The songs in some files and folders.

    Attributes:
        roots: files and folders, with links followed.
        output: the folder of new stems, which is one of them.

    Args:
        paths: files and folders.
        output: the folder of new stems.
    """

    def __init__(self, paths: Iterable[Path], output: Path) -> None:
        self.output = Path(os.path.abspath(output))
        self._paths = list(dict.fromkeys(Path(os.path.abspath(path)) for path in (*paths, self.output)))
        self.roots = [Path(os.path.realpath(path)) for path in self._paths]
        self._added: dict[str, tuple[str, Path]] = {}  # id of an upload: its name, its file
        self._links: dict[Path, Path] = {}  # folder of a result: the file that was separated
        self._made: dict[tuple[Path, int], bool] = {}
        self._files: dict[str, Path] = {}
        self._songs: dict[str, Song] = {}
        self._lock = threading.Lock()
        self.complete = True

    # ------------------------------------------------------------ look up

    def songs(self) -> list[Song]:
        """Search the folders again, and return all songs by name."""
        with self._lock:
            found: dict[tuple[Path, str], Song] = {}
            originals: list[tuple[str, Path, Path]] = []  # name, file, place
            self.complete = True
            for path in self._paths:
                self._search(path, found, originals)
            originals += [(name, path, self.output) for name, path in self._added.values()]
            for original in originals:  # once all results are known, to which they may belong
                _add_source(*original, found)
            songs = sorted(found.values(), key=lambda song: (song.name.casefold(), str(song.place)))
            self._songs = {song.id: song for song in songs}
            self._files = {id_of(path): path for song in songs for path in _files_of(song)}
            return songs

    def song(self, id: str) -> Song:
        """Return the song with an id.

        Raises:
            ApiError: there is none (404).
        """
        if id not in self._songs:
            self.songs()
        if id not in self._songs:
            raise ApiError(404, "no such song")
        return self._songs[id]

    def result(self, id: str) -> Result:
        """Return the result with an id.

        Raises:
            ApiError: there is none (404).
        """
        for again in (False, True):
            songs = self.songs() if again else list(self._songs.values())
            for song in songs:
                for result in song.results:
                    if result.id == id:
                        return result
        raise ApiError(404, "no such result")

    def file(self, id: str) -> Path:
        """Return the real path of the stem or original with an id.

        Raises:
            ApiError: there is none (404), or it isn't inside any more (403).
        """
        if id not in self._files:
            self.songs()
        if id not in self._files:
            raise ApiError(404, "no such file")
        return self.inside(self._files[id])

    def inside(self, path: Path) -> Path:
        """Return the real path of a file that may be read.

        Raises:
            ApiError: it is outside of everything that was named (403), or not there (404).
        """
        try:
            real = Path(os.path.realpath(path))
            if not self._is_inside(real):
                raise ApiError(403, "outside of the folders that were named on the command line")
            if not real.is_file():
                raise ApiError(404, "no such file")
        except (OSError, ValueError):
            raise ApiError(404, "no such file") from None
        return real

    # ------------------------------------------------------------ grow

    def add(self, name: str, path: Path) -> None:
        """Add an uploaded song; its file may then be read."""
        with self._lock:
            real = Path(os.path.realpath(path))
            self._added[id_of(path)] = name, real
            self.roots.append(real)

    def forget(self, path: Path) -> None:
        """Remove an uploaded song."""
        with self._lock:
            self._added.pop(id_of(path), None)
            real = Path(os.path.realpath(path))
            self.roots = [root for root in self.roots if root != real]
            self._links = {folder: source for folder, source in self._links.items() if source != path}

    def link(self, folder: Path, source: Path) -> None:
        """Note that the stems in a folder were made from a file."""
        with self._lock:
            self._links[Path(os.path.abspath(folder))] = source

    # ------------------------------------------------------------ search

    def _is_inside(self, real: Path) -> bool:
        return any(real == root or root in real.parents for root in list(self.roots))

    def _search(
        self, path: Path, found: dict[tuple[Path, str], Song], originals: list[tuple[str, Path, Path]]
    ) -> None:
        if path.is_file():
            originals.append((path.stem, path, self.output))
            return
        for folder, files in self._walk(path):
            if self._is_result(files):
                self._add_result(folder, files, found)
            else:
                originals += [(file.stem, file, folder) for file in files]

    def _walk(self, root: Path) -> Iterator[tuple[Path, list[Path]]]:
        for count, (folder, below, names) in enumerate(os.walk(root)):
            if count >= MOST_FOLDERS:
                self.complete = False
                return
            below[:] = sorted(name for name in below if not is_hidden(name))
            paths = (Path(folder, name) for name in sorted(names) if _is_audio(name))
            if files := [path for path in paths if self._is_inside(Path(os.path.realpath(path)))]:
                yield Path(folder), files

    def _is_result(self, files: Sequence[Path]) -> bool:
        """Return whether files are stems of one song, by their names or else by the tag of the first."""
        names = {canonical(path.stem) for path in files}
        if any(name in STEMS or name.startswith("no_") for name in names):
            return True
        key = files[0], _changed(files[0])
        if key not in self._made:
            self._made[key] = read_settings(files[0]) is not None
        return self._made[key]

    def _add_result(self, folder: Path, files: list[Path], found: dict[tuple[Path, str], Song]) -> None:
        mixture = next((path for path in files if canonical(path.stem) in MIXTURES), None)
        stems = tuple(Stem(path) for path in files if path != mixture)
        if not stems:
            return
        name = _NUMBERED.sub("", folder.name)
        song = found.setdefault((folder.parent, name), Song(name, folder.parent))
        song.results.append(Result(folder, stems, mixture))
        song.source = song.source or self._links.get(folder) or mixture


def _add_source(name: str, path: Path, place: Path, found: dict[tuple[Path, str], Song]) -> None:
    """Add an original: to the song of that name whose stems are there already, or as a new one."""
    for song in found.values():
        if song.name == name and song.source in (None, path):
            song.source = path
            return
    key = place, name
    if key in found:  # the same name in another format
        key = place, path.name
    found.setdefault(key, Song(key[1], place, path))


def _files_of(song: Song) -> Iterator[Path]:
    if song.source is not None:
        yield song.source
    for result in song.results:
        yield from (stem.path for stem in result.stems)
        if result.mixture is not None:
            yield result.mixture


def _is_audio(name: str) -> bool:
    return not is_hidden(name) and os.path.splitext(name)[1].lower() in AUDIO_SUFFIXES


def _changed(path: Path) -> int:
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return 0
