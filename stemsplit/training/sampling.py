"""Configuration of data sets, samples and augmentations, as frozen dataclasses."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Literal

from stemsplit.reading import Invalid, above, at_least, fraction
from stemsplit.stems import canonical
from stemsplit.training.learning import by_stem


def ordered(key: str, limits: tuple[float, float] | None) -> None:
    """Raise `Invalid` unless a range is None or begins with its smaller end."""
    if limits is not None and limits[0] > limits[1]:
        raise Invalid(key, f"the first must not exceed the second, is {list(limits)}")


@dataclass(frozen=True)
class DataSetConfig:
    """Data set: a folder of multitracks, or a manifest.

    Attributes:
        path: of the folder or manifest.
        weight: sampling weight, relative to the other data sets.
        layout: songs with their stems; or stems, single files of a stem each, in a folder of its name or in a
            CSV file with the columns instrum and path.
        song_weights: factors of the weights of songs, by patterns of track names; the first that matches
            counts, and a song that none matches has 1.
        stem_weights: factors of `weight` for stems that are sampled independently; 0 takes none of a stem
            from this data set.
        only: patterns of track names to use, such as `7.*`; none means all.
        exclude: patterns of track names to leave out.
    """

    path: str
    weight: float = 1.0
    layout: Literal["songs", "stems"] = "songs"
    song_weights: Mapping[str, float] = field(default_factory=dict)
    stem_weights: Mapping[str, float] = field(default_factory=dict)
    only: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        above("weight", self.weight, 0)
        for pattern, weight in self.song_weights.items():
            above(f"song_weights.{pattern}", weight, 0)
        object.__setattr__(self, "stem_weights", by_stem("stem_weights", self.stem_weights))
        for stem, weight in self.stem_weights.items():
            at_least(f"stem_weights.{stem}", weight, 0)

    def weight_of(self, song: str) -> float:
        """Return the factor of a song's sampling weight."""
        matches = (weight for pattern, weight in self.song_weights.items() if fnmatchcase(song, pattern))
        return next(matches, 1.0)


@dataclass(frozen=True)
class DataConfig:
    """Training, validation and unlabelled data, and the sampling of segments from it.

    Attributes:
        train: data sets with stems.
        valid: data sets for validation, which selects the best weights.
        unlabelled: mixtures for semi-supervised training.
        stems: stems that a training mix is made of; none means the network's. The network may estimate fewer.
        groups: stems of the data sets to add up, by the stem that they form; other stems keep their name, or
            go to `other`.
        input: what the network gets: the sum of the stems, or the file `input` (also `mixture`, `mix`) beside
            them, as for dereverberation. Then all files of a song are cut alike, and files that are no
            target are ignored.
        segment_s: length of a training sample in seconds.
        remix: probability that the stems of a sample come from different songs.
        remix_group: shuffle the stems among so many consecutive samples; none samples every stem
            independently.
        min_db: RMS of a stem's segment, in dB relative to full scale, below which another is drawn, up to ten
            times; where stems are sampled together, that of the loudest target. It needs a second reading.
        activity_s: sample only from salient segments of this length in seconds; none samples from anywhere.
        cache: folder for decoded audio, for sources that are slow to decode.
        workers: worker processes that prepare samples; 0 prepares them in the main process.
    """

    train: tuple[DataSetConfig, ...]
    valid: tuple[DataSetConfig, ...] = ()
    unlabelled: tuple[DataSetConfig, ...] = ()
    stems: tuple[str, ...] | None = None
    groups: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    input: Literal["sum", "file"] = "sum"
    segment_s: float = 7.8
    remix: float = 0.0
    remix_group: int | None = 4
    min_db: float | None = None
    activity_s: float | None = None
    cache: str | None = None
    workers: int = 2

    def __post_init__(self) -> None:
        if not self.train:
            raise Invalid("train", "must name at least one data set")
        if self.stems is not None:
            object.__setattr__(self, "stems", tuple(map(canonical, self.stems)))
        if self.stems is not None and len(set(self.stems)) != len(self.stems):
            raise Invalid("stems", "names a stem twice")
        groups = {name: tuple(map(canonical, own)) for name, own in by_stem("groups", self.groups).items()}
        object.__setattr__(self, "groups", groups)
        above("segment_s", self.segment_s, 0)
        fraction("remix", self.remix)
        if self.input == "file" and self.remix:
            raise Invalid("remix", "must be 0 with input: file, whose stems belong together")
        at_least("remix_group", self.remix_group, 2)
        self._check_sets()
        at_least("activity_s", self.activity_s, self.segment_s)
        if self.cache == "":
            raise Invalid("cache", "must be a folder; null for none")
        at_least("workers", self.workers, 0)

    def _check_sets(self) -> None:
        """Check that stems are sampled independently if a data set needs that."""
        independent = self.remix == 1 and self.remix_group is None
        for index, one in enumerate(self.train):
            for key, used in (("layout", one.layout == "stems"), ("stem_weights", bool(one.stem_weights))):
                if used and not independent:
                    rule = "needs stems that are sampled independently: remix: 1 and remix_group: null"
                    raise Invalid(f"train.{index}.{key}", rule)
        for key, sets in (("valid", self.valid), ("unlabelled", self.unlabelled)):
            for index, one in enumerate(sets):
                if one.layout == "stems":
                    raise Invalid(f"{key}.{index}.layout", "stems are for training only")
                if one.stem_weights:
                    raise Invalid(f"{key}.{index}.stem_weights", "are for training only")
        for index, one in enumerate(self.valid):
            if one.song_weights:
                raise Invalid(f"valid.{index}.song_weights", "are for training only")
            if one.weight != DataSetConfig.weight:
                raise Invalid(f"valid.{index}.weight", "is for training only")


@dataclass(frozen=True)
class EffectsConfig:
    """Random effects of `effects.py`, each with its probability, in this order.

    Attributes:
        equalise: equaliser. equalise_db: standard deviation of its bands.
        distort: soft clipping. drive_db: range of the gain into it.
        compress: compressor. ratio: range of its ratio.
        reverb: reverberation. reverb_s: range of its decay time (RT60). reverb_db: range of its level,
            relative to the dry sound.
    """

    equalise: float = 0.0
    equalise_db: float = 3.0
    distort: float = 0.0
    drive_db: tuple[float, float] = (3.0, 18.0)
    compress: float = 0.0
    ratio: tuple[float, float] = (2.0, 8.0)
    reverb: float = 0.0
    reverb_s: tuple[float, float] = (0.2, 2.5)
    reverb_db: tuple[float, float] = (-15.0, 0.0)

    def __post_init__(self) -> None:
        for key in ("equalise", "distort", "compress", "reverb"):
            fraction(key, getattr(self, key))
        at_least("equalise_db", self.equalise_db, 0)
        for key in ("drive_db", "ratio", "reverb_s", "reverb_db"):
            ordered(key, getattr(self, key))
        at_least("drive_db", self.drive_db[0], 0)
        at_least("ratio", self.ratio[0], 1)
        above("reverb_s", self.reverb_s[0], 0)

    @property
    def used(self) -> bool:
        """True if any effect has a probability above 0."""
        return any((self.equalise, self.distort, self.compress, self.reverb))


@dataclass(frozen=True)
class EffectPlaces:
    """Random effects by what they change.

    Attributes:
        stems: each stem by effects of its own, before the stems are mixed.
        mixture: only what the network gets; the targets stay as they are, so that it learns to undo effects.
        both: the mixture and all targets alike, as by mastering; the stems still add up.
    """

    stems: EffectsConfig = EffectsConfig()
    mixture: EffectsConfig = EffectsConfig()
    both: EffectsConfig = EffectsConfig()


@dataclass(frozen=True)
class ImageConfig:
    """Random stereo image of the whole mix: all stems are changed alike, so that they still add up.

    Attributes:
        mono: probability that all channels become their mean.
        width: probability that the side, what the channels differ by from their mean, is amplified.
        width_db: range of that gain, uniform in dB; negative narrows, positive widens.
        balance: probability that one channel is attenuated. balance_db: largest attenuation.
        one_sided: probability that one channel is silenced.
    """

    mono: float = 0.0
    width: float = 0.0
    width_db: tuple[float, float] = (-30.0, 6.0)
    balance: float = 0.0
    balance_db: float = 6.0
    one_sided: float = 0.0

    def __post_init__(self) -> None:
        for key in ("mono", "width", "balance", "one_sided"):
            fraction(key, getattr(self, key))
        ordered("width_db", self.width_db)
        at_least("balance_db", self.balance_db, 0)

    @property
    def used(self) -> bool:
        """True if any change has a probability above 0."""
        return any((self.mono, self.width, self.balance, self.one_sided))


@dataclass(frozen=True)
class AugmentConfig:
    """Augmentations of every sample: probabilities and ranges of `augment.py`.

    Attributes:
        shift_s: delay each stem by up to so many seconds. shift_together: delay all stems alike.
        swap_channels: swap left and right of each stem half of the time.
        polarity: invert each stem half of the time.
        gain_db: range of a random gain per stem, uniform in dB. gain: the same, uniform in amplitude.
        drop: probability that a stem is silenced. solo: probability that all stems but one are.
        repitch: probability of a change of pitch and tempo, the same for all stems of a song.
        semitones: largest change of pitch. tempo: largest change of tempo, as a fraction.
        varispeed: probability that pitch and tempo of a song change together, as on a tape machine.
        varispeed_semitones: largest change of varispeed.
        equalise: probability that all stems get random equalisers. equalise_db: their standard deviation.
        codec: probability that the mix is encoded with a lossy codec and decoded.
        effects: random effects of stems, of the mixture, or of both.
        image: random mono, width and balance of the whole mix, after the effects.
        peak: divide mix and stems by their largest absolute sample.
    """

    shift_s: float = 0.0
    shift_together: bool = False
    swap_channels: bool = False
    polarity: bool = False
    gain_db: tuple[float, float] | None = None
    gain: tuple[float, float] | None = None
    drop: float = 0.0
    solo: float = 0.0
    repitch: float = 0.0
    semitones: int = 2
    tempo: float = 0.12
    varispeed: float = 0.0
    varispeed_semitones: float = 3.0
    equalise: float = 0.0
    equalise_db: float = 3.0
    codec: float = 0.0
    effects: EffectPlaces = EffectPlaces()
    image: ImageConfig = ImageConfig()
    peak: bool = False

    def __post_init__(self) -> None:
        at_least("shift_s", self.shift_s, 0)
        ordered("gain_db", self.gain_db)
        ordered("gain", self.gain)
        if self.gain is not None and self.gain_db is not None:
            raise Invalid("gain", "give either gain or gain_db")
        for key in ("drop", "solo", "repitch", "varispeed", "equalise", "codec"):
            fraction(key, getattr(self, key))
        for key in ("semitones", "varispeed_semitones", "equalise_db"):
            at_least(key, getattr(self, key), 0)
        fraction("tempo", self.tempo, one=False)

    @property
    def breaks_pairs(self) -> tuple[str, ...]:
        """Return the settings in use that change stems apart from each other, and so from a given input."""
        own = ("drop", "solo", "repitch", "equalise")
        return (*(key for key in own if getattr(self, key)), *(["effects.stems"] * self.effects.stems.used))
