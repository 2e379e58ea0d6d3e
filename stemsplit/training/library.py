"""Songs to train on: their stems as training needs them, and measurements that are made once and cached."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from pathlib import Path

import torch

from stemsplit.core.stats import StatsMeter, TrackStats
from stemsplit.datasets.cache import Array, MeasurementCache, Readable, identity, pieces, readable
from stemsplit.datasets.layouts import Layout, Location, find_layouts, find_single_stems
from stemsplit.datasets.metadata import MetadataCache
from stemsplit.datasets.names import left_out_by
from stemsplit.datasets.sums import listed
from stemsplit.datasets.tracks import Source, Track, file_name, open_track
from stemsplit.errors import InputError, SettingsError
from stemsplit.folders import cache_folder
from stemsplit.listing import AUDIO_SUFFIXES, visible_files
from stemsplit.training.activity import ActivityMeter
from stemsplit.training.sampling import DataConfig, DataSetConfig

MIX = "mix"


@dataclass(frozen=True)
class SampledStem:
    """A stem, or an unlabelled mix, that training can sample from.

    Attributes:
        audio: of the stem.
        starts: first samples of its salient segments; None without activity detection.
    """

    audio: Readable
    starts: tuple[int, ...] | None = None


@dataclass(frozen=True)
class Song:
    """A song to sample segments from.

    Attributes:
        name: in its data set.
        frames: length in samples.
        stems: those of the training stems that the song has; empty ones are left out.
        stats: mean and standard deviation of the mix, for networks that need them.
        input: file that the network gets; None if it gets the sum of the stems.
        weight: factor of its sampling weight.
    """

    name: str
    frames: int
    stems: Mapping[str, SampledStem]
    stats: TrackStats = TrackStats()
    input: SampledStem | None = None
    weight: float = 1.0


@dataclass(frozen=True)
class WholeSong:
    """A song to separate from beginning to end.

    Attributes:
        name: in its data set.
        frames: length in samples.
        stems: those of the training stems that the song has.
        mixture: its mixture; None if it is the sum of the stems.
        problems: irregularities of its files, one sentence each.
        channels: in which it is scored: 1 if its files are mono.
    """

    name: str
    frames: int
    stems: Mapping[str, Readable]
    mixture: Readable | None
    problems: tuple[str, ...] = ()
    channels: int = 2

    def mix(self) -> Array:
        """Return the whole mix, [C, T]."""
        if self.mixture is not None:
            return self.mixture.read(0, self.frames)
        first, *rest = (audio.read(0, self.frames) for audio in self.stems.values())
        return sum(rest, first)


@dataclass(frozen=True)
class SongSet:
    """Songs of one data set, its sampling weight, and factors of that for stems."""

    weight: float
    songs: tuple[Song, ...]
    stem_weights: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class DataSpec:
    """Form in which a run needs its data.

    Attributes:
        stems: stems that a mix is made of.
        groups: stems of the data sets to add up, by the stem that they form.
        sample_rate: in Hz.
        channels: number of channels.
        activity_samples: length of salient segments; None without activity detection.
        stats: true if the statistics of the mix are needed.
        cache: folder for decoded audio; None doesn't cache it.
        paired: true if every song has an input file, which isn't the sum of the stems.
    """

    stems: tuple[str, ...]
    groups: Mapping[str, Sequence[str]]
    sample_rate: int
    channels: int
    activity_samples: int | None = None
    stats: bool = False
    cache: Path | None = None
    paired: bool = False


def data_spec(
    config: DataConfig, stems: Sequence[str], sample_rate: int, channels: int, stats: bool
) -> DataSpec:
    """Return the form in which a configuration and a network with these properties need the data."""
    activity = None if config.activity_s is None else round(config.activity_s * sample_rate)
    cache = None if config.cache is None else Path(config.cache).expanduser()
    paired = config.input == "file"
    return DataSpec(tuple(stems), config.groups, sample_rate, channels, activity, stats, cache, paired)


def find_multitracks(config: DataSetConfig, spec: DataSpec) -> list[Track]:
    """Return the tracks of a data set that `only` and `exclude` leave, with their stems grouped.

    Raises:
        InputError: there is no track, a file can't be read, or no group takes a stem.
    """
    layouts, known = find_folders(config), _named(spec)
    if spec.paired:  # files that are no target may hold anything, such as a copy of one
        layouts = [replace(one, stems={k: v for k, v in one.stems.items() if k in known}) for one in layouts]
    cache = MetadataCache(_cache_folder(spec) / "metadata.json")
    return [_grouped(track, spec) for track in _opened(layouts, spec, cache)]


def find_mixes(config: DataSetConfig, spec: DataSpec) -> list[Track]:
    """Return the audio files below a folder that `only` and `exclude` leave, as tracks of one stem, `mix`.

    Raises:
        InputError: there is no audio file, or one can't be read.
    """
    root = Path(config.path).expanduser()
    cache = MetadataCache(_cache_folder(spec) / "metadata.json")
    try:
        files = [p for p in visible_files(root) if p.suffix.lower() in AUDIO_SUFFIXES and p.is_file()]
    except OSError as error:
        raise InputError(error.filename or root, error.strerror or str(error)) from None
    layouts = [Layout(p.relative_to(root).as_posix(), {MIX: (Location(p),)}, None) for p in files]
    tracks = _opened(_chosen(layouts, config), spec, cache)
    return [_grouped(track, replace(spec, stems=(MIX,), groups={})) for track in tracks]


def _opened(layouts: Sequence[Layout], spec: DataSpec, cache: MetadataCache) -> list[Track]:
    try:
        return [open_track(layout, sample_rate=spec.sample_rate, cache=cache) for layout in layouts]
    finally:
        cache.save()


def _cache_folder(spec: DataSpec) -> Path:
    """Return the folder of the cached measurements."""
    return spec.cache or cache_folder() / "training"


def _chosen(named: Sequence[Layout], config: DataSetConfig) -> list[Layout]:
    """Return the layouts that `only` and `exclude` leave, at least one."""
    chosen = [one for one in named if _matches(one.name, config)]
    if not chosen:
        raise InputError(config.path, f"only and exclude leave none of its {len(named)} tracks")
    for pattern in config.song_weights:
        if not any(fnmatchcase(one.name, pattern) for one in chosen):
            raise InputError(config.path, f"none of its tracks is called {pattern} (song_weights)")
    return chosen


def _matches(name: str, config: DataSetConfig) -> bool:
    def among(patterns: Sequence[str]) -> bool:
        return any(fnmatchcase(name, pattern) for pattern in patterns)

    return (not config.only or among(config.only)) and not among(config.exclude)


def left_out(tracks: Iterable[Track]) -> Iterator[str]:
    """Yield a sentence for each kind of file that was left out, with the names of the tracks."""
    named: dict[str, list[str]] = {}
    for track in tracks:
        for note in track.left_out:
            named.setdefault(note, []).append(track.name)
    for note, (first, *others) in named.items():
        more = f" and {len(others)} more" if others else ""
        yield f"{first}{more}: {note}"


def _grouped(track: Track, spec: DataSpec) -> Track:
    """Return a track with the stems that are needed; its mixture still contains what is left out."""
    track = _without_complements(track.without_sums(_named(spec)), spec)
    members: dict[str, list[Source]] = {}
    for name, source in track.stems.items():
        if source.parts or name in spec.stems:  # a silent stem is part of the song only under its name
            members.setdefault(_group_of(name, track, spec), []).append(source)
    stems = {name: _joined(sources, spec.channels) for name, sources in members.items()}
    mixture = None if track.mixture is None else replace(track.mixture, channels=spec.channels)
    if spec.paired and mixture is None:
        raise InputError(track.name, "has no input.wav or mixture.wav (data.input is file)")
    return replace(track, stems=stems, mixture=mixture)


def _named(spec: DataSpec) -> set[str]:
    """Return all names of stems that the spec knows."""
    return {*spec.stems, *(name for names in spec.groups.values() for name in names)}


def _without_complements(track: Track, spec: DataSpec) -> Track:
    """Return a track without its complements of a stem (such as `no_vocals`) that contain needed stems.

    Those can't be separated out of the complement. The mixture still contains it.
    """
    notes, stems, mixture = list(track.left_out), dict(track.stems), track.mixture
    for name, source in track.stems.items():
        lacking = left_out_by(name, track.stems)  # the stems that a complement doesn't contain
        if not source.parts or lacking is None or name in _named(spec):
            continue
        separate = [stem for stem in spec.stems if stem != "other" and left_out_by(stem) is None]
        if held := [stem for stem in separate if stem not in lacking]:
            del stems[name]
            notes.append(f"{file_name(name, source)} is left out: by its name it holds {listed(held)}")
            mixture = track.mix
    return replace(track, stems=stems, mixture=mixture, left_out=tuple(notes))


def _group_of(name: str, track: Track, spec: DataSpec) -> str:
    """Return the training stem that a stem of a track belongs to."""
    for group, names in spec.groups.items():
        if name in names:
            return group
    if name in spec.stems:
        return name
    if "other" in spec.stems:
        return "other"
    raise InputError(track.name, f"none of {', '.join(spec.stems)} takes its stem {name}; set data.groups")


def _joined(sources: Sequence[Source], channels: int) -> Source:
    """Return the sum of some sources as one source; shorter ones end in silence."""
    parts = tuple(part for source in sources for part in source.parts)
    return Source(parts, max(source.frames for source in sources), sources[0].sample_rate, channels)


def open_songs(
    configs: Sequence[DataSetConfig],
    spec: DataSpec,
    progress: Callable[[str, int, int], None],
    notify: Callable[[str], None],
) -> list[SongSet]:
    """Open data sets for training: measure the songs, and decode them if there is a cache.

    Args:
        configs: the data sets.
        spec: form in which the data is needed.
        progress: called with a song's name, its number from 1, and the number of songs.
        notify: called with each sentence that the user should read about the data.

    Raises:
        InputError: a data set has no tracks, or a file can't be read.
        SettingsError: no song has one of the stems.
    """
    found = [(config, find_multitracks(config, spec)) for config in configs]
    for line in left_out(track for _, tracks in found for track in tracks):
        notify(line)
    sets = _open(found, spec, progress)
    _require_stems(sets, spec)
    return sets


def open_mixes(
    configs: Sequence[DataSetConfig], spec: DataSpec, progress: Callable[[str, int, int], None]
) -> list[SongSet]:
    """Open unlabelled songs like `open_songs`; the only stem of each is its mix, called `MIX`."""
    return _open([(config, find_mixes(config, spec)) for config in configs], spec, progress)


def open_whole(
    configs: Sequence[DataSetConfig], spec: DataSpec, notify: Callable[[str], None]
) -> list[WholeSong]:
    """Open data sets for validation, and decode them if there is a cache; `notify` as in `open_songs`."""
    tracks = [track for config in configs for track in find_multitracks(config, spec)]
    for line in left_out(tracks):
        notify(line)
    return [_whole(track, spec) for track in tracks]


def find_folders(config: DataSetConfig) -> list[Layout]:
    """Return the layouts of the tracks that `only` and `exclude` leave; no file is opened.

    Raises:
        InputError: there is no track, or none that a pattern of `song_weights` names.
    """
    root = Path(config.path).expanduser()
    layouts = find_single_stems(root) if config.layout == "stems" else find_layouts(root)
    return _chosen(layouts, config)


def open_folder(layout: Layout, spec: DataSpec) -> WholeSong:
    """Open one of `find_folders`, as `open_whole` does.

    Raises:
        InputError: a file can't be read, or no group takes a stem.
    """
    cache = MetadataCache(_cache_folder(spec) / "metadata.json")
    (track,) = _opened([layout], spec, cache)
    return _whole(_grouped(track, spec), spec)


def _whole(track: Track, spec: DataSpec) -> WholeSong:
    channels = max((part.info.channels for part in track.mix.parts), default=spec.channels)
    return WholeSong(
        track.name,
        track.frames,
        {name: readable(source, spec.cache) for name, source in track.stems.items()},
        None if track.mixture is None else readable(track.mixture, spec.cache),
        (*track.problems, *track.left_out),
        min(spec.channels, channels),
    )


def _open(
    found: Sequence[tuple[DataSetConfig, list[Track]]],
    spec: DataSpec,
    progress: Callable[[str, int, int], None],
) -> list[SongSet]:
    cache = MeasurementCache(_cache_folder(spec))
    count, number = sum(len(tracks) for _, tracks in found), 0
    sets = []
    for config, tracks in found:
        songs = []
        for track in tracks:
            number += 1
            progress(track.name, number, count)
            songs.append(replace(_song(track, spec, cache), weight=config.weight_of(track.name)))
        sets.append(SongSet(config.weight, tuple(songs), config.stem_weights))
    return sets


def _require_stems(sets: Sequence[SongSet], spec: DataSpec) -> None:
    """Check that every stem can be sampled from some song."""
    for stem in spec.stems:
        used = [one for one in sets if one.stem_weights.get(stem, 1)]
        sampled = [song.stems[stem] for one in used for song in one.songs if stem in song.stems]
        sampled = [one for one in sampled if one.audio.frames]
        if not sampled:
            raise SettingsError(f"data.train: no song has {stem}", setting="data.train")
        if all(one.starts == () for one in sampled):
            raise SettingsError(f"data.train: no {stem} has a salient segment", setting="data.activity_s")


def _song(track: Track, spec: DataSpec, cache: MeasurementCache) -> Song:
    heard = {name: source for name, source in track.stems.items() if source.parts}
    stems = {name: _sampled_stem(source, spec, cache) for name, source in heard.items()}
    stats = TrackStats()
    if spec.stats:
        mix = track.mix
        mean, std = cache.remember(f"stats {identity(mix)}", lambda: _measure_stats(mix))
        stats = TrackStats(mean, std)
    given = None
    if spec.paired and track.mixture is not None:
        given = SampledStem(readable(track.mixture, spec.cache))
    return Song(track.name, track.frames, stems, stats, given)


def _sampled_stem(source: Source, spec: DataSpec, cache: MeasurementCache) -> SampledStem:
    """Return a stem, with its salient segments if activity detection is enabled."""
    name, audio = identity(source), readable(source, spec.cache)
    if spec.activity_samples is None:
        return SampledStem(audio)
    meter = ActivityMeter(spec.activity_samples)
    starts = cache.remember(
        f"salient {spec.activity_samples} {name}",
        lambda: meter.salient_starts(meter.energies(pieces(audio, source.sample_rate))),
    )
    return SampledStem(audio, tuple(starts))


def _measure_stats(source: Source) -> tuple[float, float]:
    """Return mean and standard deviation of a source, which is read in blocks."""
    meter = StatsMeter()
    for piece in pieces(source, source.sample_rate):
        meter.push(torch.from_numpy(piece))
    found = meter.stats()
    return found.mean, found.std
