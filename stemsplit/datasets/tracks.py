"""Tracks of multitrack data sets, for evaluation and training: any range of any stem can be read.

for track in find_tracks("musdb18hq/test"):
    vocals = track.stems["vocals"].read(start=44100, frames=88200)      # [C, 88200]

`layouts` finds the files, `metadata` has their lengths, `sums` tells which stems are sums of others.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from hashlib import blake2b
from math import gcd
from pathlib import Path

import numpy as np
import numpy.typing as npt

from stemsplit.audio.channels import convert_channels
from stemsplit.audio.reader import open_audio, read_audio
from stemsplit.audio.regroup import Regrouper
from stemsplit.audio.resample import Resampler, resample, resampled_frames
from stemsplit.datasets.layouts import Layout, Location, find_layouts
from stemsplit.datasets.metadata import FileInfo, MetadataCache, count_frames
from stemsplit.datasets.names import MIXTURE
from stemsplit.datasets.sums import Relations, Sum, by_name, by_samples, left_out
from stemsplit.errors import InputError

Array = npt.NDArray[np.float32]

# More samples, at the lower of the two rates, than the resampler's filter reaches to one side.
_REACH = 1024


@dataclass(frozen=True)
class Part:
    """One file of a source, with its length, rate and channels."""

    where: Location
    info: FileInfo

    def facts(self) -> tuple[str, int | None, int, int, int]:
        """Return what identifies the file's content: path, stream, size in bytes, time in ns and length."""
        stat = self.where.path.stat()
        path = str(self.where.path.resolve())
        return path, self.where.stream, stat.st_size, stat.st_mtime_ns, self.info.frames


@dataclass(frozen=True)
class Source:
    """The sum of some files, of which any range can be read.

    Attributes:
        parts: the files; without any the source is silent.
        frames: the longest file's length in samples at `sample_rate`; shorter ones end in zeros.
        sample_rate: the rate of what `read` returns, in Hz; files of another rate are resampled.
        channels: the channels of what `read` returns, 1 or 2; mono is repeated, surround is mixed down.
    """

    parts: tuple[Part, ...]
    frames: int
    sample_rate: int
    channels: int

    def read(self, start: int = 0, frames: int | None = None) -> Array:
        """Return samples `start` to `start + frames`, or to the end if None; zeros outside the audio.

        Returns:
            [C, frames], full scale 1.

        Raises:
            InputError: a file can't be read.
        """
        frames = max(0, self.frames - start) if frames is None else frames
        total = np.zeros((self.channels, frames), np.float32)
        for part in self.parts:
            begin, samples = _read_part(part, self.sample_rate, start, start + frames)
            end = begin + samples.shape[1]
            total[:, begin - start : end - start] += convert_channels(samples, self.channels)
        return total

    def blocks(self, size: int) -> Iterator[Array]:
        """Yield all samples in order, [C, size] each, the last one shorter; every file is decoded once.

        Raises:
            InputError: a file can't be read.
        """
        streams = [_blocks(part, self.sample_rate, self.channels, size) for part in self.parts]
        for start in range(0, self.frames, size):
            total = np.zeros((self.channels, min(size, self.frames - start)), np.float32)
            for stream in streams:
                block = next(stream, total[:, :0])[:, : total.shape[1]]
                total[:, : block.shape[1]] += block
            yield total

    @property
    def seeks(self) -> bool:
        """True if a range can be read without decoding what comes before it."""
        return all(part.info.seeks for part in self.parts)


@dataclass(frozen=True)
class Track:
    """A song and its stems.

    Attributes:
        name: unique in its data set.
        stems: the stems by canonical name.
        mixture: None if the data set has no mixture; see `mix`.
        frames: the mixture's length, or the longest stem's, in samples.
        sample_rate: in Hz, the same for all sources.
        problems: irregularities, one sentence each: unequal lengths, resampled files.
        sums: stems that are sums of others.
        left_out: the stems that `without_sums` left out and the reasons, one sentence each.
    """

    name: str
    stems: dict[str, Source]
    mixture: Source | None
    frames: int
    sample_rate: int
    problems: tuple[str, ...] = ()
    sums: tuple[Sum, ...] = ()
    left_out: tuple[str, ...] = ()

    @property
    def paths(self) -> tuple[Path, ...]:
        """The files of the stems and the mixture, each once."""
        sources = [*self.stems.values(), *([self.mixture] if self.mixture else [])]
        return tuple(dict.fromkeys(part.where.path for source in sources for part in source.parts))

    @property
    def channels(self) -> int:
        """The channels of the mixture, or the most that a stem has."""
        return self.mix.channels

    @property
    def mix(self) -> Source:
        """The mixture; if the data set has none, the sum of all stems that aren't sums themselves."""
        if self.mixture is not None:
            return self.mixture
        stems = self.without_sums().stems.values()
        return _source(tuple(part for source in stems for part in source.parts), self.sample_rate)

    def without_sums(self, wanted: Collection[str] = ()) -> "Track":
        """Return the track without stems that are sums of others, so that every sound is in one stem only.

        Args:
            wanted: names that the caller asks for. A sum that is wanted stays, in place of its parts, if they
                aren't wanted.
        """
        out = left_out(self.sums, wanted)
        if not out:
            return self
        notes = tuple(f"{file_name(name, self.stems[name])} is left out: {why}" for name, why in out.items())
        stems = {name: source for name, source in self.stems.items() if name not in out}
        return replace(self, stems=stems, sums=(), left_out=(*self.left_out, *notes))


def find_tracks(
    root: str | Path, *, sample_rate: int | None = None, cache: MetadataCache | None = None
) -> list[Track]:
    """Return all tracks of a data set in any of the layouts of `layouts.py`, sorted by name.

    Args:
        root: a folder of tracks at any depth, one track's folder, a `.stem.mp4`, or a manifest.
        sample_rate: in Hz, for all tracks; None takes each mixture's rate, or the highest of the files.
        cache: lengths and rates of files; None is the one in the user's cache folder.

    Raises:
        InputError: there is no track, a file can't be read, or the layout contradicts itself.
    """
    cache = MetadataCache() if cache is None else cache
    try:
        return [open_track(layout, sample_rate=sample_rate, cache=cache) for layout in find_layouts(root)]
    finally:
        cache.save()


def open_track(
    layout: Layout, *, sample_rate: int | None, cache: MetadataCache, estimates: bool = False
) -> Track:
    """Read the headers of a track's files; decode only those whose header gives no exact length.

    Args:
        layout: the track's files.
        sample_rate: in Hz; None takes the mixture's rate, or the highest of the files.
        cache: lengths and rates of files, and the sums that were found.
        estimates: the stems come from a model, so it's no error if they resemble each other.

    Raises:
        InputError: a file can't be read, all of them are missing or empty, or they contradict each other.
    """
    stems = {stem: _parts(places, cache) for stem, places in layout.stems.items()}
    mixture = None if layout.mixture is None else _parts(layout.mixture, cache)
    everything = [*(mixture or ()), *(part for parts in stems.values() for part in parts)]
    if not everything:
        raise InputError(layout.name, "no stem of this track has a file")
    rate = sample_rate or max(part.info.sample_rate for part in mixture or everything)
    sources = {stem: _source(parts, rate) for stem, parts in stems.items()}
    mix = None if mixture is None else _source(mixture, rate)
    frames = mix.frames if mix else max(source.frames for source in sources.values())
    if frames == 0:
        raise InputError(layout.name, "has no samples")
    # Files of one duration and different rates differ by up to one sample of the lowest rate.
    slowest = min(part.info.sample_rate for part in everything)
    slack = rate // slowest if slowest != rate else 0
    problems = [*_odd_lengths(frames, sources, slack), *_odd_rates(rate, sources, mix)]
    track = Track(layout.name, sources, mix, frames, rate, tuple(problems))
    return replace(track, sums=_sums(track, cache, estimates=estimates))


def _sums(track: Track, cache: MetadataCache, *, estimates: bool) -> tuple[Sum, ...]:
    """Return the stems that are sums of others, by their samples and by their names.

    Raises:
        InputError: stems hold each other's audio, and they aren't estimates.
    """
    stems = {name: source for name, source in track.stems.items() if source.parts}
    named = {one.name for one in by_name(stems)}
    plain = {name: source for name, source in stems.items() if name not in named}
    key = f"sums {fingerprint({MIXTURE: track.mixture, **plain})}"
    kept = cache.remember(key, lambda: asdict(by_samples(plain, track.mixture, track.sample_rate)))
    found = Relations(tuple(Sum(**one) for one in kept["sums"]), tuple(kept["doubts"]))
    if not estimates and found.doubts:
        raise InputError(track.name, found.doubts[0], hint="remove what doesn't belong there")
    return (*found.sums, *by_name(stems.keys() - {one.name for one in found.sums}))


def fingerprint(sources: Mapping[str, Source | None]) -> str:
    """Return a digest of some sources: their names, and paths, sizes, times and lengths of their files."""
    files = [
        (name, *part.facts()) for name, source in sorted(sources.items()) if source for part in source.parts
    ]
    return blake2b(repr(files).encode(), digest_size=16).hexdigest()


def file_name(stem: str, source: Source) -> str:
    """Return the name of a stem's file, or the number of its files."""
    if len(source.parts) == 1:
        return source.parts[0].where.path.name
    return f"{stem} ({len(source.parts)} files)"


def _parts(places: Iterable[Location], cache: MetadataCache) -> tuple[Part, ...]:
    return tuple(Part(where, cache.info(where)) for where in places)


def _source(parts: tuple[Part, ...], sample_rate: int) -> Source:
    frames = [_frames_at(sample_rate, part) for part in parts]
    channels = min(2, max((part.info.channels for part in parts), default=1))
    return Source(parts, max(frames, default=0), sample_rate, channels)


def _frames_at(sample_rate: int, part: Part) -> int:
    return resampled_frames(part.info.frames, part.info.sample_rate, sample_rate)


def _odd_lengths(frames: int, sources: dict[str, Source], slack: int) -> list[str]:
    lengths = [
        (f"{stem}: {part.where.path.name}", _frames_at(source.sample_rate, part))
        for stem, source in sources.items()
        for part in source.parts
    ]
    return [
        f"{name} has {length} samples, the track {frames}"
        for name, length in lengths
        if abs(length - frames) > slack
    ]


def _odd_rates(rate: int, sources: dict[str, Source], mixture: Source | None) -> list[str]:
    named = {MIXTURE: mixture, **sources} if mixture else sources
    return [
        f"{name} has files of {', '.join(map(str, odd))} Hz, resampled to {rate} Hz"
        for name, source in named.items()
        if (odd := sorted({part.info.sample_rate for part in source.parts} - {rate}))
    ]


def _read_part(part: Part, sample_rate: int, start: int, stop: int) -> tuple[int, Array]:
    """Read the samples that a file has between `start` and `stop`, counted at `sample_rate`.

    Returns:
        The first sample's position, and [C, n] with n ≤ stop − start.
    """
    rate = part.info.sample_rate
    begin, end = max(0, start), min(stop, _frames_at(sample_rate, part))
    if begin >= end:
        return start, np.zeros((part.info.channels, 0), np.float32)
    if rate == sample_rate:
        return begin, _read_file(part, begin, end)
    # Output sample k lies at input position k·down/up. A piece whose output begins at a multiple of `up` is
    # on the same grid as the whole file, and equals it where the filter doesn't reach beyond the piece's
    # ends.
    common = gcd(rate, sample_rate)
    up, down = sample_rate // common, rate // common
    reach = _REACH * max(1, -(-up // down))
    first = max(0, begin - reach) // up
    last = min(part.info.frames, (-(-(end + reach) // up)) * down)
    piece = resample(_read_file(part, first * down, last), rate, sample_rate)
    return begin, piece[:, begin - first * up : end - first * up]  # [C, end − begin]


def _blocks(part: Part, sample_rate: int, channels: int, size: int) -> Iterator[Array]:
    """Yield all of a file at a rate and with some channels, [C, size] each, the last one shorter."""
    info, regrouper = part.info, Regrouper(size)
    resampler = Resampler(info.channels, info.sample_rate, sample_rate)
    with open_audio(part.where.path, stream=part.where.stream) as reader:
        for block in reader.blocks():
            yield from regrouper.push(convert_channels(resampler.push(block), channels))
    yield from regrouper.push(convert_channels(resampler.finish(), channels))
    yield from regrouper.finish()


def _read_file(part: Part, start: int, stop: int) -> Array:
    """Read samples `start` to `stop` of a file at its own rate, [C, stop − start].

    Raises:
        InputError: it can't be read, or is shorter than it was when it was measured.
    """
    rate, where = part.info.sample_rate, part.where
    try:
        samples, _ = read_audio(where.path, stream=where.stream, start_s=start / rate, end_s=stop / rate)
    except InputError:
        if (there := count_frames(where)) < stop:
            raise _shorter(part, there) from None
        raise
    if samples.shape[1] < stop - start:
        raise _shorter(part, start + samples.shape[1])
    return samples[:, : stop - start]


def _shorter(part: Part, there: int) -> InputError:
    return InputError(
        part.where.path,
        f"has {there} samples, {part.info.frames} were expected",
        hint="was it changed just now? start again, or export it anew",
    )
