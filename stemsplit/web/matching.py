"""Group results by the recording that was separated, and find the file of that recording."""

import os
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import monotonic

from stemsplit.web.results import Result, Song
from stemsplit.web.tagged import Tags

COMPARING_S = 0.5  # a recording's digest takes 5 to 100 ms
_NUMBERED = re.compile(r" \((\d+)\)$")


@dataclass(frozen=True)
class Original:
    """A file that isn't a stem.

    Attributes:
        path: the file.
        name: its name as it was given, with suffix.
        place: the folder in which it, or what is made from it, lies.
    """

    path: Path
    name: str
    place: Path

    @property
    def title(self) -> str:
        """Its name without suffix."""
        return Path(self.name).stem


@dataclass(frozen=True)
class _Recording:
    """Facts about the recording that was separated: digest, audio stream and file; None if unknown."""

    digest: str | None
    stream: int | None
    file: Path | None

    def is_that_of(self, other: "_Recording") -> bool | None:
        """Return whether another one is the same; None if that can't be known."""
        if self.digest is not None and other.digest is not None:
            return self.digest == other.digest
        if self.file is not None and other.file is not None:
            return self.file == other.file
        return None


class Matching:
    """Results in folders become songs, and files become their originals.

    Args:
        tags: reads tags and digests.
        links: folder of a result, and the file that is known to have been separated.
        exact: name of a song whose recording is compared with files of its name in any case; for others this
            ends after `COMPARING_S`, and the name must do until the next search.
    """

    def __init__(self, tags: Tags, links: Mapping[Path, Path], exact: str | None = None) -> None:
        self._tags = tags
        self._links = links
        self._exact = exact
        self._end = monotonic() + COMPARING_S

    def songs(self, folders: Mapping[Path, Sequence[Result]]) -> list[Song]:
        """Return the songs of results, by folder: `X` and `X (N)` are one if their recordings are."""
        songs: list[Song] = []
        owners: dict[Path, Song] = {}
        families: dict[Path, list[Song]] = defaultdict(list)  # songs named `X (N)`, by the path of X
        for folder in sorted(folders, key=_number):
            base = folder.with_name(_base(folder.name))
            song = self._same(folders[folder], owners.get(base), families[base])
            if song is None:
                song = Song(folder.name, folder.parent)
                songs.append(song)
                families[base].append(song)
            owners[folder] = song
            song.results += folders[folder]
        for song in songs:
            song.source = self._known_source(song)
        return songs

    def add_originals(self, songs: list[Song], originals: Iterable[Original]) -> None:
        """Add originals to songs: as the source of those that were made from them, or as new songs."""
        files = list({original.path: original for original in originals}.values())
        named: dict[str, list[Path]] = defaultdict(list)
        for original in files:
            named[original.title].append(original.path)
        for song in songs:
            song.source = song.source or self._source_among(song, named)
        taken = {os.path.realpath(song.source) for song in songs if song.source is not None}
        rest = [original for original in files if os.path.realpath(original.path) not in taken]
        counts = Counter(original.name for original in files)
        names = _different([original.name for original in rest], counts, {song.name for song in songs})
        songs += [
            Song(name, original.place, original.path) for name, original in zip(names, rest, strict=True)
        ]

    def _same(self, results: Sequence[Result], first: Song | None, others: Iterable[Song]) -> Song | None:
        """Return the song of the results' recording; where nothing is known that of the folder X."""
        candidates = [*([] if first is None else [first]), *others]
        if not candidates:
            return None
        own = self._recording(results)
        answers = [own.is_that_of(self._recording(song.results)) for song in candidates]
        for song, same in zip(candidates, answers, strict=True):
            if same:
                return song
        return first if answers[0] is None else None

    def _recording(self, results: Sequence[Result]) -> _Recording:
        """Return what is known of the recording of results."""
        links = (self._links.get(result.folder) for result in results)
        file = next((link for link in links if link is not None), None)
        tags = (self._tags.of(stem.path) for result in results for stem in result.stems)
        if tag := next((tag for tag in tags if tag is not None and tag.input is not None), None):
            return _Recording(tag.input, tag.stream, file)
        return _Recording(None if file is None else self._tags.digest(file, None), None, file)

    def _known_source(self, song: Song) -> Path | None:
        links = (self._links.get(result.folder) for result in song.results)
        if found := next((link for link in links if link is not None and link.is_file()), None):
            return found
        return next((result.mixture for result in song.results if result.mixture is not None), None)

    def _source_among(self, song: Song, named: Mapping[str, Sequence[Path]]) -> Path | None:
        """Return the file that a song was made from, among files of its name with or without a number."""
        groups = [named[name] for name in dict.fromkeys((song.name, _base(song.name))) if name in named]
        if not groups:
            return None
        paths = [path for group in groups for path in group]
        song.sure = song.name == self._exact or monotonic() < self._end or self._are_read(song, paths)
        recording = self._recording(song.results) if song.sure else None
        if recording is None or recording.digest is None:
            return groups[0][0] if len(groups[0]) == 1 else None
        digests = ((path, self._tags.digest(path, recording.stream)) for path in paths)
        return next((path for path, digest in digests if digest == recording.digest), None)

    def _are_read(self, song: Song, paths: Iterable[Path]) -> bool:
        """Return whether the recordings of a song and of files are known without reading a file."""
        for stem in (stem for result in song.results for stem in result.stems):
            if not self._tags.has(stem.path):
                return False
            tag = self._tags.of(stem.path)
            if tag is not None and tag.input is not None:
                return all(self._tags.has_digest(path, tag.stream) for path in paths)
        return True


def _different(names: Sequence[str], counts: Mapping[str, int], taken: set[str]) -> list[str]:
    """Return a name for each file: without suffix, or with it, or with a number, where another has it.

    Args:
        names: of the files, with suffix.
        counts: how many files of each name there are, also of those that need no name here.
        taken: names that are in use.
    """
    used, last = set(taken), Counter[str]()
    found = []
    for name in names:
        title = Path(name).stem
        shown = title if title not in used or counts[name] > 1 else name
        while shown in used:
            last[title] += 1
            shown = f"{title} ({last[title] + 1})"
        used.add(shown)
        found.append(shown)
    return found


def _base(name: str) -> str:
    return _NUMBERED.sub("", name)


def _number(folder: Path) -> tuple[str, int, str, int]:
    """Return the order of folders: `X` before `X (2)` and that before `X (10)`, and those of X together."""
    found = _NUMBERED.search(folder.name)
    base = _base(folder.name)
    return str(folder.parent), len(base), base, int(found[1]) if found else 0
