"""Training samples as a function of the run's seed and the sample's global index alone.

The process, worker or batch that computes a sample has no influence on it: a resumed run, or a run on other
hardware, gets the same crops with the same augmentations. `S` stems, `C` channels, `T` samples.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Generator, Tensor
from torch.utils.data import Dataset

from stemsplit.training import augment
from stemsplit.training.effects import Effect, random_effects
from stemsplit.training.library import MIX, SampledStem, Song, SongSet
from stemsplit.training.rng import bernoulli, generator, integer, uniform
from stemsplit.training.sampling import AugmentConfig, DataConfig, EffectsConfig

ATTEMPTS = 10  # to draw a segment that is loud enough


class Crop(NamedTuple):
    """A segment of a song and its playback.

    Attributes:
        song: to read from.
        start: first sample; negative if silence precedes the song.
        samples: number of samples to read, before pitch and tempo change.
        semitones: transposition of `augment.repitch`.
        speed: tempo of `augment.repitch`, 1 being the original's.
        rate: of `augment.varispeed`, 1 being the original's.
    """

    song: Song
    start: int
    samples: int
    semitones: int = 0
    speed: float = 1.0
    rate: float = 1.0


class Sample(NamedTuple):
    """A training sample; in a batch, every tensor has a leading axis B.

    Attributes:
        number: global index of the sample, [].
        mix: [C, T].
        stems: targets of the network, [S, C, T].
        unlabelled: mixture without stems [C, T]; [C, 0] outside semi-supervised training.
    """

    number: Tensor
    mix: Tensor
    stems: Tensor
    unlabelled: Tensor


class SongSampler:
    """Weighted sampler of the songs that have a stem.

    A data set's weight is divided among its songs in proportion to the number of their salient segments, or
    to their length if activity isn't detected, times their own weights.

    Args:
        sets: data sets.
        stem: that a song must have; None accepts songs with any stem.
    """

    def __init__(self, sets: Sequence[SongSet], stem: str | None) -> None:
        self.songs: list[Song] = []
        weights: list[float] = []
        for one in sets:
            weight = one.weight * one.stem_weights.get(stem or "", 1)
            sizes = [_size(song, stem) * song.weight for song in one.songs]
            total = sum(sizes)
            for song, size in zip(one.songs, sizes, strict=True):
                if size > 0 and weight > 0:
                    self.songs.append(song)
                    weights.append(weight * size / total)
        self.edges = np.cumsum(weights)  # [songs], upper edges of the songs' intervals

    def sample(self, rng: Generator) -> Song:
        """Return a random song, by inverting the cumulative distribution."""
        point = uniform(rng, 0, float(self.edges[-1]))
        return self.songs[min(int(np.searchsorted(self.edges, point, side="right")), len(self.songs) - 1)]


def _size(song: Song, stem: str | None) -> int:
    if stem is None:
        # summed over the stems: one without a salient segment doesn't exclude its song
        starts = [len(sampled.starts) for sampled in song.stems.values() if sampled.starts is not None]
        return sum(starts) if starts else song.frames * bool(song.stems)
    if stem not in song.stems:
        return 0
    sampled = song.stems[stem]
    return sampled.audio.frames if sampled.starts is None else len(sampled.starts)


@dataclass(frozen=True)
class SampleSpec:
    """Shape of the training samples, and the settings that determine them.

    Attributes:
        seed: of the run.
        stems: stems that a mix is made of.
        targets: indices of the stems that the network estimates.
        channels: C.
        samples: T.
        sample_rate: in Hz.
        activity_samples: length of the salient segments; None without activity detection.
        normalise: standardise every song by the mean and standard deviation of its mix.
        raw_stems: skip gain and drop: semi-supervised training applies them when it remixes.
    """

    seed: int
    stems: tuple[str, ...]
    targets: tuple[int, ...]
    channels: int
    samples: int
    sample_rate: int
    activity_samples: int | None = None
    normalise: bool = False
    raw_stems: bool = False


class Samples(Dataset[Sample]):
    """Map-style data set of the samples by their global index.

    Args:
        sets: data sets with stems.
        spec: shape of the samples.
        data: sampling.
        change: augmentation.
        unlabelled: mixtures for semi-supervised training; none otherwise.
    """

    def __init__(
        self,
        sets: Sequence[SongSet],
        spec: SampleSpec,
        data: DataConfig,
        change: AugmentConfig,
        unlabelled: Sequence[SongSet] = (),
    ) -> None:
        self.spec, self.data, self.change = spec, data, change
        self.any_song = SongSampler(sets, None)
        self.songs_with = [SongSampler(sets, stem) for stem in spec.stems]
        self.unlabelled = SongSampler(unlabelled, MIX) if unlabelled else None
        self.max_shift = round(change.shift_s * spec.sample_rate)

    def __getitem__(self, index: int) -> Sample:
        """Return the sample with the global index `index`."""
        spec, change = self.spec, self.change
        rng = generator(spec.seed, "augment", index)
        if self.data.input == "file":
            mix, stems = self._read_pair(self._crops(index)[0], rng)  # [C, T], [S, C, T]
        else:
            stems = self._read(self._crops(index), rng, index)  # [S, C, T]
            mix = stems.sum(0)  # [C, T]
        mix, stems = self._with_image(*self._with_effects(mix, stems, index), index)
        if change.peak and not spec.raw_stems:
            mix, stems = augment.rescale_peak(mix, stems)
        if bernoulli(rng, change.codec):
            mix = augment.lossy(mix, spec.sample_rate, *augment.random_codec(rng))
        targets = stems if spec.targets == tuple(range(len(stems))) else stems[list(spec.targets)]
        return Sample(torch.tensor(index), mix, targets, self._unlabelled(index))

    def _crops(self, index: int) -> list[Crop]:
        """Return the segment of each stem of a sample."""
        seed, count, size = self.spec.seed, len(self.spec.stems), self.data.remix_group
        if size is None:
            if bernoulli(generator(seed, "remix", index), self.data.remix):
                return [self._crop(c, i, (index, i)) for i, c in enumerate(self.songs_with)]
            return [self._crop(self.any_song, None, (index,))] * count
        group, position = divmod(index, size)
        rng = generator(seed, "remix", group)
        if not bernoulli(rng, self.data.remix):
            return [self._crop(self.any_song, None, (index,))] * count
        # the group shares its songs: each song gives each of its stems to exactly one sample of the group
        order = augment.remix_order(size, count, rng)[:, position].tolist()
        return [self._crop(self.any_song, None, (group * size + member,)) for member in order]

    def _crop(self, songs: SongSampler, stem: int | None, key: tuple[int, ...]) -> Crop:
        """Return a segment that is loud enough, or the last of some attempts."""
        rng = generator(self.spec.seed, "crop", *key)
        for _ in range(ATTEMPTS):
            crop, stems = self._draw(songs, stem, rng)
            if self.data.min_db is None or any(self._is_loud(crop, one) for one in stems):
                break
        return crop

    def _is_loud(self, crop: Crop, stem: SampledStem) -> bool:
        power = np.square(stem.audio.read(crop.start, crop.samples), dtype=np.float64).mean()
        return bool(power >= 10 ** ((self.data.min_db or 0) / 10))

    def _draw(self, songs: SongSampler, stem: int | None, rng: Generator) -> tuple[Crop, list[SampledStem]]:
        """Return a random segment, and the stems that decide where it is."""
        song, change = songs.sample(rng), self.change
        semitones, speed = 0, 1.0
        if bernoulli(rng, change.repitch):
            semitones, speed = augment.random_repitch(rng, change.semitones, change.tempo)
        samples = self.spec.samples
        if (rate := self._rate(rng)) != 1:
            samples = augment.repitch_samples(samples, rate)
        if semitones != 0 or speed != 1:
            samples = augment.repitch_samples(samples, speed)
        stems = self._activity_stems(song) if stem is None else [song.stems[self.spec.stems[stem]]]
        start = self._start(song, stems, samples, rng)
        return Crop(song, start, samples, semitones, speed, rate), stems

    def _rate(self, rng: Generator) -> float:
        if not bernoulli(rng, self.change.varispeed):
            return 1.0
        limit = self.change.varispeed_semitones
        return float(2 ** (uniform(rng, -limit, limit) / 12))

    def _activity_stems(self, song: Song) -> list[SampledStem]:
        """Return the stems that decide where to cut a song: those that the network estimates, else all."""
        targets = [self.spec.stems[target] for target in self.spec.targets]
        return [song.stems[stem] for stem in targets if stem in song.stems] or list(song.stems.values())

    def _start(self, song: Song, stems: Sequence[SampledStem], samples: int, rng: Generator) -> int:
        """Return a random first sample for a crop of `samples` plus the longest shift.

        With activity detection, the crop lies in a salient segment. Otherwise it lies in the song, or
        contains all of a song that is shorter than the crop.
        """
        needed = samples + self.max_shift
        salient = [stem.starts for stem in stems if stem.starts]
        if salient:
            starts = salient[integer(rng, 0, len(salient) - 1)]
            room = max(0, (self.spec.activity_samples or 0) - needed)
            return starts[integer(rng, 0, len(starts) - 1)] + integer(rng, 0, room)
        frames = max(stem.audio.frames for stem in stems)
        return integer(rng, min(0, frames - needed), max(0, frames - needed))

    def _read(self, crops: Sequence[Crop], rng: Generator, index: int) -> Tensor:
        """Return the stems of a sample, shifted, swapped and scaled, [S, C, T]."""
        spec, change, count = self.spec, self.change, len(crops)
        delays = augment.shifts(count, rng, self.max_shift, same=change.shift_together)
        swaps = augment.swaps(count, rng) if change.swap_channels else [False] * count
        factors = torch.ones(count) if spec.raw_stems else random_factors(count, change, rng)
        equalise = bernoulli(rng, change.equalise)
        stems = torch.zeros(count, spec.channels, spec.samples)  # [S, C, T]
        for i, (crop, name) in enumerate(zip(crops, spec.stems, strict=True)):
            stem = crop.song.stems.get(name)
            if stem is not None and factors[i]:  # a dropped stem isn't read
                audio = self._read_stem(crop, stem, delays[i])
                if equalise:
                    gains_db = augment.random_eq_gains(rng, change.equalise_db)
                    audio = augment.equalise(audio, spec.sample_rate, gains_db)
                for effect in self._effects(change.effects.stems, name, index):
                    audio = effect(audio, audio)
                torch.mul(audio.flip(0) if swaps[i] else audio, factors[i], out=stems[i])
        return stems

    def _read_pair(self, crop: Crop, rng: Generator) -> tuple[Tensor, Tensor]:
        """Return the input file and the stems of one crop, all shifted, swapped and scaled alike.

        Returns:
            [C, T] and [S, C, T].
        """
        spec, change = self.spec, self.change
        (delay,) = augment.shifts(1, rng, self.max_shift, same=True)
        flip = change.swap_channels and augment.swaps(1, rng)[0]
        factor = random_factors(1, change, rng)
        silence = torch.zeros(spec.channels, spec.samples)  # of a stem that the song doesn't have
        sampled = [crop.song.input, *map(crop.song.stems.get, spec.stems)]
        audio = torch.stack([silence if s is None else self._read_stem(crop, s, delay) for s in sampled])
        mix, *stems = (audio.flip(1) if flip else audio) * factor  # [1 + S, C, T]
        return mix, torch.stack(stems)

    def _with_effects(self, mix: Tensor, stems: Tensor, index: int) -> tuple[Tensor, Tensor]:
        """Return the mix [C, T] and the stems [S, C, T] after the effects that aren't a single stem's."""
        for effect in self._effects(self.change.effects.both, "both", index):
            mix, stems = effect(mix, mix), effect(stems, mix)
        for effect in self._effects(self.change.effects.mixture, "mixture", index):
            mix = effect(mix, mix)
        return mix, stems

    def _with_image(self, mix: Tensor, stems: Tensor, index: int) -> tuple[Tensor, Tensor]:
        """Return the mix [C, T] and the stems [S, C, T] after the same random change of the stereo image."""
        if not self.change.image.used:
            return mix, stems
        rng = generator(self.spec.seed, "image", index)
        matrix = augment.random_image(rng, self.spec.channels, self.change.image)  # [C, C]
        return matrix @ mix, matrix @ stems

    def _effects(self, config: EffectsConfig, place: str, index: int) -> list[Effect]:
        rng = generator(self.spec.seed, f"effects {place}", index)
        return random_effects(rng, config, self.spec.sample_rate) if config.used else []

    def _read_stem(self, crop: Crop, stem: SampledStem, delay: int) -> Tensor:
        """Return one stem of a crop, [C, T]."""
        audio = torch.from_numpy(stem.audio.read(crop.start + delay, crop.samples))
        if self.spec.normalise:
            audio = crop.song.stats.standardise(audio)
        if crop.semitones != 0 or crop.speed != 1:
            rate = self.spec.sample_rate
            audio = augment.repitch(audio[None], rate, crop.semitones, crop.speed)[0]  # [C, T]
        if crop.rate != 1:
            audio = augment.varispeed(audio, crop.rate, self.spec.samples)
        return audio[:, : self.spec.samples]

    def _unlabelled(self, index: int) -> Tensor:
        if self.unlabelled is None:
            return torch.zeros(self.spec.channels, 0)
        rng = generator(self.spec.seed, "unlabelled", index)
        song = self.unlabelled.sample(rng)
        stem = song.stems[MIX]
        start = self._start(song, [stem], self.spec.samples, rng)
        return self._read_stem(Crop(song, start, self.spec.samples), stem, 0)


def random_factors(stems: int, change: AugmentConfig, rng: Generator) -> Tensor:
    """Return the product of the random gain, polarity, drop and solo factors, [S]."""
    factors = torch.ones(stems)
    if change.gain_db is not None:
        factors = factors * augment.gains_db(stems, rng, *change.gain_db)
    if change.gain is not None:
        factors = factors * augment.gains_linear(stems, rng, *change.gain)
    if change.polarity:
        factors = factors * augment.polarity_factors(stems, rng)
    if change.drop:
        factors = factors * augment.drop_factors(stems, rng, change.drop)
    return factors * augment.solo_factors(stems, rng) if bernoulli(rng, change.solo) else factors
