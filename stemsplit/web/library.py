"""The songs and stems that the page shows: what lies in the folders that were named, and nothing else.

Everything has an id, and requests name ids, never paths. A file is only opened if its real path, with all
links followed, is inside a folder or is a file that was named on the command line.
"""

import os
import threading
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from stemsplit.listing import AUDIO_SUFFIXES, is_hidden
from stemsplit.web.answers import ApiError
from stemsplit.web.matching import Matching, Original
from stemsplit.web.results import Result, Song, id_of, look_like_stems, results_in
from stemsplit.web.tagged import Tags

MOST_FOLDERS = 5000  # that are searched; more would keep a browser waiting
MOST_TAGS = 8  # files whose tags are all read to know a folder's kind: one takes a millisecond


class Library:
    """The songs in some files and folders.

    Attributes:
        roots: files and folders, with links followed.
        output: the folder of new stems, which is one of them.
        tags: reads the tags of files.

    Args:
        paths: files and folders.
        output: the folder of new stems.
    """

    def __init__(self, paths: Iterable[Path], output: Path) -> None:
        self.output = Path(os.path.abspath(output))
        self._paths = list(dict.fromkeys(Path(os.path.abspath(path)) for path in (*paths, self.output)))
        self.roots = [Path(os.path.realpath(path)) for path in self._paths]
        self.tags = Tags()
        self._added: dict[str, Original] = {}  # uploads by the ids of their files
        self._links: dict[Path, Path] = {}  # folder of a result: the file that was separated
        self._files: dict[str, Path] = {}
        self._songs: dict[str, Song] = {}
        self._past: dict[str, Song] = {}  # the last state of every song that was ever listed
        self._lock = threading.Lock()
        self.complete = True

    # ------------------------------------------------------------ look up

    def songs(self, exact: str | None = None) -> list[Song]:
        """Search the folders again, and return all songs by name.

        Args:
            exact: name of a song whose source is to be sure, even if that takes time.
        """
        with self._lock:
            results: dict[Path, list[Result]] = {}
            originals: list[Original] = []
            self.complete = True
            for path in self._paths:
                self._search(path, results, originals)
            matching = Matching(self.tags, self._links, exact)
            songs = matching.songs(results)
            matching.add_originals(songs, [*originals, *self._added.values()])
            songs.sort(key=lambda song: (song.name.casefold(), str(song.place)))
            self._songs = {song.id: song for song in songs}
            self._past |= self._songs
            self._files = {id_of(path): path for song in songs for path in _files_of(song)}
            return songs

    def song(self, id: str) -> Song:
        """Return the present state of the song with an id, which may be one that it had before.

        Raises:
            ApiError: there is none (404).
        """
        found = self._find(id, self.songs())
        return found if found.sure else self._find(id, self.songs(exact=found.name))

    def result(self, id: str) -> Result:
        """Return the present state of the result with an id.

        Raises:
            ApiError: there is none (404).
        """
        for song in self.songs():
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
        """Add an uploaded song; its file may then be read.

        Args:
            name: its name without suffix.
            path: its file, with the suffix.
        """
        with self._lock:
            real = Path(os.path.realpath(path))
            self._added[id_of(path)] = Original(real, name + path.suffix, self.output)
            self.roots.append(real)

    def forget(self, path: Path) -> None:
        """Remove an uploaded song."""
        with self._lock:
            self._added.pop(id_of(path), None)
            real = Path(os.path.realpath(path))
            self.roots = [root for root in self.roots if root != real]
            links = self._links.items()
            self._links = {folder: file for folder, file in links if os.path.realpath(file) != str(real)}

    def link(self, folder: Path, source: Path) -> None:
        """Note that the stems in a folder were made from a file."""
        with self._lock:
            self._links[Path(os.path.abspath(folder))] = source

    # ------------------------------------------------------------ search

    def _find(self, id: str, songs: Sequence[Song]) -> Song:
        """Return the song with an id, or the one that it became; errors as in `song`."""
        found = {song.id: song for song in songs}.get(id) or _successor(self._past.get(id), songs)
        if found is None:
            raise ApiError(404, "no such song")
        return found

    def _is_inside(self, real: Path) -> bool:
        return not {real, *real.parents}.isdisjoint(list(self.roots))

    def _search(self, path: Path, results: dict[Path, list[Result]], originals: list[Original]) -> None:
        if path.is_file():
            originals.append(Original(path, path.name, self.output))
            return
        for folder, files in self._walk(path):
            if folder in results:  # a folder that lies in another one that was named
                continue
            if self._is_result(files):
                results[folder] = results_in(folder, files)
            else:
                originals += [Original(file, file.name, folder) for file in files]

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
        """Return whether files are stems of one song: by their names, or if stemsplit made one of them."""
        if look_like_stems(files, share=1):  # which opens no file
            return True
        some = files if len(files) <= MOST_TAGS else (files[0], files[len(files) // 2], files[-1])
        return any(self.tags.of(path) is not None for path in some) or look_like_stems(files, share=0.5)


def _successor(past: Song | None, songs: Sequence[Song]) -> Song | None:
    """Return the song that another one became: with one of its results, or else with its source."""
    if past is None:
        return None
    of_results = (song for song in songs if song.folders & past.folders)
    of_source = (song for song in songs if past.source and _is_same_file(song.source, past.source))
    return next(of_results, None) or next(of_source, None)


def _is_same_file(one: Path | None, other: Path) -> bool:
    """Return whether paths are equal once their links are followed, as a job does."""
    return one is not None and os.path.realpath(one) == os.path.realpath(other)


def _files_of(song: Song) -> Iterator[Path]:
    if song.source is not None:
        yield song.source
    for result in song.results:
        yield from (stem.path for stem in result.stems)
        if result.mixture is not None:
            yield result.mixture


def _is_audio(name: str) -> bool:
    return not is_hidden(name) and os.path.splitext(name)[1].lower() in AUDIO_SUFFIXES
