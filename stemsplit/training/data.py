"""Training samples as a function of the run's seed and the sample's global index, and of nothing else.

Which process, worker or batch a sample falls into has no influence on it: a resumed run and a run on other
hardware see the same crops with the same augmentations.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Generator, Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from stemsplit.training import augment
from stemsplit.training.config import AugmentConfig, DataConfig
from stemsplit.training.draws import generator, happens, integer, uniform
from stemsplit.training.library import MIX, Song, SongSet, Voice


class Crop(NamedTuple):
    """A place in a song, and how it is played: semitones up, speed, and a tape's speed (1 is as it is)."""

    song: Song
    start: int
    samples: int
    semitones: int = 0
    speed: float = 1.0
    rate: float = 1.0


class Sample(NamedTuple):
    """What a network is trained on; a batch has one more axis in front.

    Attributes:
        number: its global index, [].
        mix: [C, T].
        stems: that the network estimates, [S, C, T].
        unlabelled: a mixture without stems [C, T]; [C, 0] where there are none.
    """

    number: Tensor
    mix: Tensor
    stems: Tensor
    unlabelled: Tensor


class Chooser:
    """Chooses songs that have a stem (any stem for None), in proportion to weights and lengths.

    A data set's weight is shared among its songs in proportion to the number of their salient segments, or to
    their length.
    """

    def __init__(self, sets: Sequence[SongSet], stem: str | None) -> None:
        self.songs: list[Song] = []
        shares: list[float] = []
        for one in sets:
            sizes = [_size(song, stem) for song in one.songs]
            total = sum(sizes)
            for song, size in zip(one.songs, sizes, strict=True):
                if size > 0:
                    self.songs.append(song)
                    shares.append(one.weight * size / total)
        self.edges = np.cumsum(shares)

    def song(self, source: Generator) -> Song:
        """One of the songs."""
        place = uniform(source, 0, float(self.edges[-1]))
        return self.songs[min(int(np.searchsorted(self.edges, place, side="right")), len(self.songs) - 1)]


def _size(song: Song, stem: str | None) -> int:
    if stem is None:
        # a song whose stems have no salient segment is still a song
        starts = [len(voice.starts) for voice in song.stems.values() if voice.starts is not None]
        return sum(starts) if starts else song.frames * bool(song.stems)
    if stem not in song.stems:
        return 0
    voice = song.stems[stem]
    return voice.audio.frames if voice.starts is None else len(voice.starts)


@dataclass(frozen=True)
class Shape:
    """What samples look like.

    Attributes:
        seed: of the run.
        stems: that a mix is made of.
        targets: indices of those that the network estimates.
        channels: C.
        samples: T.
        sample_rate: in Hz.
        activity_samples: length of salient segments, None without.
        normalise: standardise every song by its own statistics.
        mixed_later: leave gains, drops and the mix to semi-supervised training.
    """

    seed: int
    stems: tuple[str, ...]
    targets: tuple[int, ...]
    channels: int
    samples: int
    sample_rate: int
    activity_samples: int | None = None
    normalise: bool = False
    mixed_later: bool = False


class Samples(Dataset[Sample]):
    """Samples by their global index.

    Args:
        sets: what to draw from.
        shape: of the samples.
        data: how to draw.
        change: how to augment.
        unlabelled: mixes for semi-supervised training, if any.
    """

    def __init__(
        self,
        sets: Sequence[SongSet],
        shape: Shape,
        data: DataConfig,
        change: AugmentConfig,
        unlabelled: Sequence[SongSet] = (),
    ) -> None:
        self.shape, self.data, self.change = shape, data, change
        self.any = Chooser(sets, None)
        self.by_stem = [Chooser(sets, stem) for stem in shape.stems]
        self.unlabelled = Chooser(unlabelled, MIX) if unlabelled else None
        self.longest_shift = round(change.shift_s * shape.sample_rate)

    def __getitem__(self, index: int) -> Sample:
        """The sample with a global index."""
        shape, change = self.shape, self.change
        source = generator(shape.seed, "augment", index)
        stems = self._read(self._crops(index), source)
        mix = stems.sum(0)
        if change.peak and not shape.mixed_later:
            mix, stems = augment.rescale_peak(mix, stems)
        if happens(source, change.codec):
            mix = augment.lossy(mix, shape.sample_rate, *augment.draw_lossy(source))
        targets = stems if shape.targets == tuple(range(len(stems))) else stems[list(shape.targets)]
        return Sample(torch.tensor(index), mix, targets, self._unlabelled(index))

    def _crops(self, index: int) -> list[Crop]:
        """Where each stem of a sample comes from."""
        seed, count, size = self.shape.seed, len(self.shape.stems), self.data.remix_group
        if size is None:
            if happens(generator(seed, "remix", index), self.data.remix):
                return [self._crop(c, i, (index, i)) for i, c in enumerate(self.by_stem)]
            return [self._crop(self.any, None, (index,))] * count
        group, place = divmod(index, size)
        source = generator(seed, "remix", group)
        if not happens(source, self.data.remix):
            return [self._crop(self.any, None, (index,))] * count
        # every song of the group gives each of its stems to one sample of the group
        order = augment.remix_order(size, count, source)[:, place].tolist()
        return [self._crop(self.any, None, (group * size + member,)) for member in order]

    def _crop(self, chooser: Chooser, stem: int | None, place: tuple[int, ...]) -> Crop:
        source = generator(self.shape.seed, "crop", *place)
        song, change = chooser.song(source), self.change
        semitones, speed = 0, 1.0
        if happens(source, change.repitch):
            semitones, speed = augment.draw_repitch(source, change.semitones, change.tempo)
        samples = self.shape.samples
        if (rate := self._rate(source)) != 1:
            samples = augment.repitch_samples(samples, rate)
        if semitones != 0 or speed != 1:
            samples = augment.repitch_samples(samples, speed)
        voices = self._guides(song) if stem is None else [song.stems[self.shape.stems[stem]]]
        return Crop(song, self._start(song, voices, samples, source), samples, semitones, speed, rate)

    def _rate(self, source: Generator) -> float:
        if not happens(source, self.change.varispeed):
            return 1.0
        most = self.change.varispeed_semitones
        return float(2 ** (uniform(source, -most, most) / 12))

    def _guides(self, song: Song) -> list[Voice]:
        """The stems whose activity decides where a song is cut: what the network estimates, if it's there."""
        targets = [self.shape.stems[target] for target in self.shape.targets]
        return [song.stems[stem] for stem in targets if stem in song.stems] or list(song.stems.values())

    def _start(self, song: Song, voices: Sequence[Voice], samples: int, source: Generator) -> int:
        """A place for `samples` and the shift: inside a salient segment where activity is asked for.

        In what is shorter, the place is such that all of it is in the sample.
        """
        needed = samples + self.longest_shift
        salient = [voice.starts for voice in voices if voice.starts]
        if salient:
            starts = salient[integer(source, 0, len(salient) - 1)]
            room = max(0, (self.shape.activity_samples or 0) - needed)
            return starts[integer(source, 0, len(starts) - 1)] + integer(source, 0, room)
        frames = max(voice.audio.frames for voice in voices)
        return integer(source, min(0, frames - needed), max(0, frames - needed))

    def _read(self, crops: Sequence[Crop], source: Generator) -> Tensor:
        """The stems at their places, shifted, swapped and scaled, [S, C, T]."""
        shape, change, count = self.shape, self.change, len(crops)
        delays = augment.shifts(count, source, self.longest_shift, same=change.shift_together)
        swaps = augment.swaps(count, source) if change.swap_channels else [False] * count
        factors = torch.ones(count) if shape.mixed_later else draw_factors(count, change, source)
        equal = happens(source, change.equalise)
        stems = torch.zeros(count, shape.channels, shape.samples)
        for i, (crop, name) in enumerate(zip(crops, shape.stems, strict=True)):
            voice = crop.song.stems.get(name)
            if voice is not None and factors[i]:
                audio = self._voice(crop, voice, delays[i])
                if equal:
                    curve = augment.draw_curve(source, change.equalise_db)
                    audio = augment.equalise(audio, shape.sample_rate, curve)
                torch.mul(audio.flip(0) if swaps[i] else audio, factors[i], out=stems[i])
        return stems

    def _voice(self, crop: Crop, voice: Voice, delay: int) -> Tensor:
        """One stem of a crop, [C, T]."""
        audio = torch.from_numpy(voice.audio.read(crop.start + delay, crop.samples))
        if self.shape.normalise:
            audio = crop.song.stats.standardise(audio)
        if crop.semitones != 0 or crop.speed != 1:
            audio = augment.repitch(audio[None], self.shape.sample_rate, crop.semitones, crop.speed)[0]
        if crop.rate != 1:
            audio = augment.varispeed(audio, crop.rate, self.shape.samples)
        return audio[:, : self.shape.samples]

    def _unlabelled(self, index: int) -> Tensor:
        if self.unlabelled is None:
            return torch.zeros(self.shape.channels, 0)
        source = generator(self.shape.seed, "unlabelled", index)
        song = self.unlabelled.song(source)
        voice = song.stems[MIX]
        start = self._start(song, [voice], self.shape.samples, source)
        return self._voice(Crop(song, start, self.shape.samples), voice, 0)


def draw_factors(stems: int, change: AugmentConfig, source: Generator) -> Tensor:
    """What each stem is multiplied by: gain, polarity, drop and solo, [S]."""
    factors = torch.ones(stems)
    if change.gain_db is not None:
        factors = factors * augment.gains_db(stems, source, *change.gain_db)
    if change.gain is not None:
        factors = factors * augment.gains_linear(stems, source, *change.gain)
    if change.polarity:
        factors = factors * augment.polarities(stems, source)
    if change.drop:
        factors = factors * augment.keeps(stems, source, change.drop)
    return factors * augment.alone(stems, source) if happens(source, change.solo) else factors


@dataclass(frozen=True)
class Shares:
    """Which samples of each step a process computes, and in how many passes.

    Attributes:
        batch_size: samples of a step, over all processes.
        steps: of a leg, from one checkpoint to the next.
        accumulate: passes of a process in each step.
        rank: of this process.
        world: how many processes there are.
    """

    batch_size: int
    steps: int
    accumulate: int = 1
    rank: int = 0
    world: int = 1

    def passes(self, step: int) -> Iterator[list[int]]:
        """Global sample indices of this process's passes in a step (from 0)."""
        size = self.batch_size // (self.world * self.accumulate)
        for number in range(self.accumulate):
            first = step * self.batch_size + (number * self.world + self.rank) * size
            yield list(range(first, first + size))


class LegSampler(Sampler[list[int]]):
    """The batches of one leg, starting wherever the run stands.

    Args:
        shares: of this process.
        position: the number of steps done so far.
    """

    def __init__(self, shares: Shares, position: Callable[[], int]) -> None:
        self.shares, self.position = shares, position

    def __len__(self) -> int:
        """Passes in a leg."""
        return self.shares.steps * self.shares.accumulate

    def __iter__(self) -> Iterator[list[int]]:
        """Lists of global sample indices."""
        first = self.position()
        for step in range(first, first + self.shares.steps):
            yield from self.shares.passes(step)


def loader(samples: Samples, sampler: LegSampler, workers: int, pin: bool) -> DataLoader[Sample]:
    """Prepares batches, in other processes if `workers`."""
    return DataLoader(
        samples,
        batch_sampler=sampler,
        num_workers=workers,
        persistent_workers=workers > 0,
        pin_memory=pin,
        prefetch_factor=4 if workers else None,
    )
