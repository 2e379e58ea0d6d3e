"""What can be drawn from: songs with the stems that are trained on, and what was measured of them once."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TypeVar

import torch

from stemsplit.core.stats import StatsMeter, TrackStats
from stemsplit.datasets.cache import Array, MeasurementCache, Readable, identity, pieces, readable
from stemsplit.datasets.layouts import Layout, Location, find_layouts
from stemsplit.datasets.metadata import MetadataCache
from stemsplit.datasets.names import left_out_by
from stemsplit.datasets.sums import listed
from stemsplit.datasets.tracks import Source, Track, file_name, find_tracks, open_track
from stemsplit.errors import InputError, SettingsError
from stemsplit.folders import cache_folder
from stemsplit.listing import AUDIO_SUFFIXES, visible_files
from stemsplit.training.activity import ActivityMeter
from stemsplit.training.config import DataConfig, DataSetConfig

MIX = "mix"
N = TypeVar("N", Track, Layout)


@dataclass(frozen=True)
class Voice:
    """One sound that can be drawn: a stem, or an unlabelled mix.

    Attributes:
        audio: of it.
        starts: where its salient segments begin; None where activity isn't asked for.
    """

    audio: Readable
    starts: tuple[int, ...] | None = None


@dataclass(frozen=True)
class Song:
    """A song as training sees it.

    Attributes:
        name: in its data set.
        frames: its length in samples.
        stems: what it has of the stems that are trained on; those without audio are left out.
        stats: of its mix, for networks that want it standardised.
    """

    name: str
    frames: int
    stems: Mapping[str, Voice]
    stats: TrackStats = TrackStats()


@dataclass(frozen=True)
class WholeSong:
    """A song to be separated from beginning to end.

    Attributes:
        name: in its data set.
        frames: its length in samples.
        stems: what it has of the stems that are trained on.
        mixture: None where it is the sum of the stems.
        problems: what is irregular about its files, a sentence each.
    """

    name: str
    frames: int
    stems: Mapping[str, Readable]
    mixture: Readable | None
    problems: tuple[str, ...] = ()

    def mix(self) -> Array:
        """All of the mix, [C, T]."""
        if self.mixture is not None:
            return self.mixture.read(0, self.frames)
        first, *rest = (audio.read(0, self.frames) for audio in self.stems.values())
        return sum(rest, first)


@dataclass(frozen=True)
class SongSet:
    """The songs of one data set and how often they are drawn."""

    weight: float
    songs: tuple[Song, ...]


@dataclass(frozen=True)
class Wanted:
    """What a network and a configuration want of the data.

    Attributes:
        stems: that a mix is made of.
        groups: which stems of the data make up one of ours.
        sample_rate: in Hz.
        channels: how many.
        activity_samples: length of salient segments; None for no detection.
        stats: whether the mix's statistics are needed.
        cache: folder of decoded audio; None for none.
    """

    stems: tuple[str, ...]
    groups: Mapping[str, Sequence[str]]
    sample_rate: int
    channels: int
    activity_samples: int | None = None
    stats: bool = False
    cache: Path | None = None


def wanted(config: DataConfig, stems: Sequence[str], sample_rate: int, channels: int, stats: bool) -> Wanted:
    """What a configuration wants for a network with these properties."""
    activity = None if config.activity_s is None else round(config.activity_s * sample_rate)
    cache = None if config.cache is None else Path(config.cache).expanduser()
    return Wanted(tuple(stems), config.groups, sample_rate, channels, activity, stats, cache)


def find(config: DataSetConfig, want: Wanted) -> list[Track]:
    """The tracks of a data set that the patterns leave, their stems grouped, at the rate and channels wanted.

    Raises:
        InputError: there is no track, a file can't be read, or no group takes a stem.
    """
    cache = MetadataCache(_folder(want) / "metadata.json")
    tracks = find_tracks(Path(config.path).expanduser(), sample_rate=want.sample_rate, cache=cache)
    return [_grouped(track, want) for track in _chosen(tracks, config)]


def find_mixes(config: DataSetConfig, want: Wanted) -> list[Track]:
    """Every audio file below a folder that the patterns leave, as a track of the one stem `mix`.

    Raises:
        InputError: there is no audio file, or one can't be read.
    """
    root = Path(config.path).expanduser()
    cache = MetadataCache(_folder(want) / "metadata.json")
    try:
        files = [p for p in visible_files(root) if p.suffix.lower() in AUDIO_SUFFIXES and p.is_file()]
    except OSError as error:
        raise InputError(error.filename or root, error.strerror or str(error)) from None
    layouts = [Layout(p.relative_to(root).as_posix(), {MIX: (Location(p),)}, None) for p in files]
    try:
        tracks = [
            open_track(layout, sample_rate=want.sample_rate, cache=cache)
            for layout in _chosen(layouts, config)
        ]
    finally:
        cache.save()
    return [_grouped(track, replace(want, stems=(MIX,), groups={})) for track in tracks]


def _folder(want: Wanted) -> Path:
    """Where what was measured is remembered."""
    return want.cache or cache_folder() / "training"


def _chosen(named: Sequence[N], config: DataSetConfig) -> list[N]:
    chosen = [one for one in named if _matches(one.name, config)]
    if not chosen:
        raise InputError(config.path, f"none of its {len(named)} tracks is left by only and exclude")
    return chosen


def _matches(name: str, config: DataSetConfig) -> bool:
    def among(patterns: Sequence[str]) -> bool:
        return any(fnmatchcase(name, pattern) for pattern in patterns)

    return (not config.only or among(config.only)) and not among(config.exclude)


def left_out(tracks: Iterable[Track]) -> Iterator[str]:
    """Yield a sentence for each kind of file that was left out of some tracks, with the tracks' names."""
    named: dict[str, list[str]] = {}
    for track in tracks:
        for note in track.left_out:
            named.setdefault(note, []).append(track.name)
    for note, (first, *others) in named.items():
        more = f" and {len(others)} more" if others else ""
        yield f"{first}{more}: {note}"


def _grouped(track: Track, want: Wanted) -> Track:
    """The track in the stems that are wanted; its mixture still holds what is left out."""
    track = _without_rest(track.without_sums(_named(want)), want)
    members: dict[str, list[Source]] = {}
    for name, source in track.stems.items():
        if source.parts:
            members.setdefault(_group_of(name, track, want), []).append(source)
    stems = {name: _joined(sources, want.channels) for name, sources in members.items()}
    mixture = None if track.mixture is None else replace(track.mixture, channels=want.channels)
    return replace(track, stems=stems, mixture=mixture)


def _named(want: Wanted) -> set[str]:
    return {*want.stems, *(name for names in want.groups.values() for name in names)}


def _without_rest(track: Track, want: Wanted) -> Track:
    """The same without what is all but a stem, where stems are wanted that it holds unseparated.

    Only the mixture keeps that.
    """
    notes, stems, mixture = list(track.left_out), dict(track.stems), track.mixture
    for name, source in track.stems.items():
        lacking = left_out_by(name, track.stems)
        if not source.parts or lacking is None or name in _named(want):
            continue
        apart = [stem for stem in want.stems if stem != "other" and left_out_by(stem) is None]
        if held := [stem for stem in apart if stem not in lacking]:
            del stems[name]
            notes.append(f"{file_name(name, source)} is left out: by its name it holds {listed(held)}")
            mixture = track.mix
    return replace(track, stems=stems, mixture=mixture, left_out=tuple(notes))


def _group_of(name: str, track: Track, want: Wanted) -> str:
    for group, names in want.groups.items():
        if name in names:
            return group
    if name in want.stems:
        return name
    if "other" in want.stems:
        return "other"
    raise InputError(track.name, f"none of {', '.join(want.stems)} takes its {name}; see data.groups")


def _joined(sources: Sequence[Source], channels: int) -> Source:
    parts = tuple(part for source in sources for part in source.parts)
    return Source(parts, max(source.frames for source in sources), sources[0].sample_rate, channels)


def open_songs(
    configs: Sequence[DataSetConfig],
    want: Wanted,
    progress: Callable[[str, int, int], None],
    tell: Callable[[str], None],
) -> list[SongSet]:
    """The songs of some data sets, measured and decoded as far as that is wanted.

    Args:
        configs: the data sets.
        want: what of them.
        progress: called with a song's name, its number from 1, and how many there are.
        tell: called with what a person should know of the data, a sentence each.

    Raises:
        InputError: a data set has no tracks, or a file can't be read.
        SettingsError: no song has one of the stems.
    """
    found = [(config.weight, find(config, want)) for config in configs]
    for line in left_out(track for _, tracks in found for track in tracks):
        tell(line)
    sets = _open(found, want, progress)
    _require_stems(sets, want)
    return sets


def open_mixes(
    configs: Sequence[DataSetConfig], want: Wanted, progress: Callable[[str, int, int], None]
) -> list[SongSet]:
    """Unlabelled songs: like `open_songs`, but the one stem of each is its mix, called `MIX`."""
    return _open([(config.weight, find_mixes(config, want)) for config in configs], want, progress)


def open_whole(
    configs: Sequence[DataSetConfig], want: Wanted, tell: Callable[[str], None]
) -> list[WholeSong]:
    """The songs of some data sets for validation, decoded if a cache is wanted; `tell` as in `open_songs`."""
    tracks = [track for config in configs for track in find(config, want)]
    for line in left_out(tracks):
        tell(line)
    return [_whole(track, want) for track in tracks]


def find_folders(config: DataSetConfig) -> list[Layout]:
    """The tracks of a data set that the patterns leave, none of them opened.

    Raises:
        InputError: there is no track.
    """
    return _chosen(find_layouts(Path(config.path).expanduser()), config)


def open_folder(layout: Layout, want: Wanted) -> WholeSong:
    """One track of `find_folders`, as `open_whole` opens it.

    Raises:
        InputError: a file can't be read, or no group takes a stem.
    """
    cache = MetadataCache(_folder(want) / "metadata.json")
    try:
        track = open_track(layout, sample_rate=want.sample_rate, cache=cache)
    finally:
        cache.save()
    return _whole(_grouped(track, want), want)


def _whole(track: Track, want: Wanted) -> WholeSong:
    return WholeSong(
        track.name,
        track.frames,
        {name: readable(source, want.cache) for name, source in track.stems.items()},
        None if track.mixture is None else readable(track.mixture, want.cache),
        (*track.problems, *track.left_out),
    )


def _open(
    found: Sequence[tuple[float, list[Track]]], want: Wanted, progress: Callable[[str, int, int], None]
) -> list[SongSet]:
    notebook = MeasurementCache(_folder(want))
    count, number = sum(len(tracks) for _, tracks in found), 0
    sets = []
    for weight, tracks in found:
        songs = []
        for track in tracks:
            number += 1
            progress(track.name, number, count)
            songs.append(_song(track, want, notebook))
        sets.append(SongSet(weight, tuple(songs)))
    return sets


def _require_stems(sets: Sequence[SongSet], want: Wanted) -> None:
    for stem in want.stems:
        voices = [song.stems[stem] for one in sets for song in one.songs if stem in song.stems]
        voices = [voice for voice in voices if voice.audio.frames]
        if not voices:
            raise SettingsError(f"data.train: no song has {stem}", setting="data.train")
        if all(voice.starts == () for voice in voices):
            raise SettingsError(f"data.train: no {stem} has a salient segment", setting="data.activity_s")


def _song(track: Track, want: Wanted, notebook: MeasurementCache) -> Song:
    stems = {name: _voice(source, want, notebook) for name, source in track.stems.items()}
    stats = TrackStats()
    if want.stats:
        mix = track.mix
        mean, std = notebook.remember(f"stats {identity(mix)}", lambda: _measure_stats(mix))
        stats = TrackStats(mean, std)
    return Song(track.name, track.frames, stems, stats)


def _voice(source: Source, want: Wanted, notebook: MeasurementCache) -> Voice:
    name, audio = identity(source), readable(source, want.cache)
    if want.activity_samples is None:
        return Voice(audio)
    meter = ActivityMeter(want.activity_samples)
    starts = notebook.remember(
        f"salient {want.activity_samples} {name}",
        lambda: meter.salient(meter.energies(pieces(audio, source.sample_rate))),
    )
    return Voice(audio, tuple(starts))


def _measure_stats(source: Source) -> tuple[float, float]:
    meter = StatsMeter()
    for piece in pieces(source, source.sample_rate):
        meter.push(torch.from_numpy(piece))
    found = meter.stats()
    return found.mean, found.std
