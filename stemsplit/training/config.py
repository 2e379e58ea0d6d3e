"""Configuration of a training run as frozen dataclasses, the only place of its defaults.

They mirror the configuration file key by key (`configfile.py` reads it). An invalid value raises `Invalid`,
which names the key; the reader adds the line.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from stemsplit.reading import Invalid, above, at_least, fraction
from stemsplit.settings import DEFAULT_DEVICE
from stemsplit.stems import canonical
from stemsplit.training.learning import EmaConfig, LossConfig, OptimConfig, ScheduleConfig, by_stem


@dataclass(frozen=True)
class ModelConfig:
    """Network to train: exactly one of `start` and `family`.

    Attributes:
        start: name or path of a model to fine-tune.
        family: network family to train from random weights.
        arguments: of the family; the others keep their defaults.
    """

    start: str | None = None
    family: str | None = None
    arguments: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if (self.start is None) == (self.family is None):
            raise Invalid("start", "give either start (a model) or family (a new network)")
        if self.arguments and self.family is None:
            raise Invalid("arguments", "only a new network (family) takes arguments")


@dataclass(frozen=True)
class DataSetConfig:
    """Data set: a folder of multitracks, or a manifest.

    Attributes:
        path: of the folder or manifest.
        weight: sampling weight, relative to the other data sets.
        only: patterns of track names to use, such as `7.*`; none means all.
        exclude: patterns of track names to leave out.
    """

    path: str
    weight: float = 1.0
    only: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        above("weight", self.weight, 0)


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
        segment_s: length of a training sample in seconds.
        remix: probability that the stems of a sample come from different songs.
        remix_group: shuffle the stems among so many consecutive samples; none samples every stem
            independently.
        activity_s: sample only from salient segments of this length in seconds; none samples from anywhere.
        cache: folder for decoded audio, for sources that are slow to decode.
        workers: worker processes that prepare samples; 0 prepares them in the main process.
    """

    train: tuple[DataSetConfig, ...]
    valid: tuple[DataSetConfig, ...] = ()
    unlabelled: tuple[DataSetConfig, ...] = ()
    stems: tuple[str, ...] | None = None
    groups: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    segment_s: float = 7.8
    remix: float = 0.0
    remix_group: int | None = 4
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
        at_least("remix_group", self.remix_group, 2)
        at_least("activity_s", self.activity_s, self.segment_s)
        at_least("workers", self.workers, 0)


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
    peak: bool = False

    def __post_init__(self) -> None:
        at_least("shift_s", self.shift_s, 0)
        for key, limits in (("gain_db", self.gain_db), ("gain", self.gain)):
            if limits is not None and limits[0] > limits[1]:
                raise Invalid(key, f"the first must not exceed the second, is {list(limits)}")
        if self.gain is not None and self.gain_db is not None:
            raise Invalid("gain", "give either gain or gain_db")
        for key in ("drop", "solo", "repitch", "varispeed", "equalise", "codec"):
            fraction(key, getattr(self, key))
        for key in ("semitones", "varispeed_semitones", "equalise_db"):
            at_least(key, getattr(self, key), 0)
        fraction("tempo", self.tempo, one=False)


@dataclass(frozen=True)
class FitConfig:
    """Length of the run, batch size, devices and precision.

    Attributes:
        epochs: number of epochs. steps_per_epoch: optimiser steps in each.
        batch_size: samples per step over all devices; the result doesn't depend on their number.
        accumulate: gradient accumulation: micro-batches per step on each device, to save memory.
        checkpoint_steps: steps between two checkpoints; none means one per epoch.
        device: auto, cpu, cuda or mps. devices: how many per node. nodes: number of machines.
        precision: fp32, or bf16 or fp16 with fp32 weights.
    """

    epochs: int = 50
    steps_per_epoch: int = 800
    batch_size: int = 8
    accumulate: int = 1
    checkpoint_steps: int | None = None
    device: Literal["auto", "cpu", "cuda", "mps"] = DEFAULT_DEVICE
    devices: int = 1
    nodes: int = 1
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"

    def __post_init__(self) -> None:
        for key in ("epochs", "steps_per_epoch", "batch_size", "accumulate", "devices", "nodes"):
            at_least(key, getattr(self, key), 1)
        parts = self.devices * self.nodes * self.accumulate
        if self.batch_size % parts:
            raise Invalid("batch_size", f"must be a multiple of devices × nodes × accumulate ({parts})")
        if self.steps_per_epoch % self.checkpoint_interval:
            raise Invalid("checkpoint_steps", f"must divide steps_per_epoch ({self.steps_per_epoch})")
        if self.precision == "fp16" and self.device == "cpu":
            raise Invalid("precision", "fp16 needs a GPU; a CPU takes fp32 or bf16")

    @property
    def checkpoint_interval(self) -> int:
        """Return the number of steps between two checkpoints."""
        return self.steps_per_epoch if self.checkpoint_steps is None else max(1, self.checkpoint_steps)


ValidMetric = Literal[
    "usdr",
    "usdr_median",
    "si_sdr",
    "median_sdr",
    "sdr",
    "k_sdr",
    "l1_freq",
    "log_wmse",
    "aura_stft",
    "aura_mrstft",
    "l1_snr",
    "bleedless",
    "fullness",
    "bleedless_mr",
    "fullness_mr",
]


@dataclass(frozen=True)
class ValidConfig:
    """Validation: whole tracks are separated with every candidate of the weights.

    Attributes:
        metric: any metric of `evaluation.table` but those of BSS Eval, or usdr_median (the median over tracks
            in place of the mean); the mean over stems decides.
        every_epochs: epochs between two validations; there is always one after the last epoch.
        at_start: also validate before the first step, so that the exported model is never worse than `start`.
        patience: stop after so many validations without a better score; none never stops early.
        overlap: of the chunks, as a fraction; none means the model's default.
    """

    metric: ValidMetric = "usdr"
    every_epochs: int = 1
    at_start: bool = False
    patience: int | None = None
    overlap: float | None = None

    def __post_init__(self) -> None:
        at_least("every_epochs", self.every_epochs, 1)
        at_least("patience", self.patience, 1)
        fraction("overlap", self.overlap or 0.0, one=False)


@dataclass(frozen=True)
class PerStemConfig:
    """One run for each stem, and a bag with one-hot weights of the resulting models.

    Attributes:
        changes: settings that differ from the rest of the file, by stem and dotted key, such as
            `{bass: {model.arguments.stem: bass}}`; a whole section replaces the other.
    """

    changes: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "changes", by_stem("changes", self.changes))


@dataclass(frozen=True)
class SemiConfig:
    """Semi-supervised training (BSRNN, section III).

    Attributes:
        filter_db: a stem more than so many dB below the unlabelled mixture counts as absent.
        promote: replace the teacher by a student that scores better.
    """

    filter_db: float = 30.0
    promote: bool = True

    def __post_init__(self) -> None:
        above("filter_db", self.filter_db, 0)


@dataclass(frozen=True)
class Config:
    """A training run.

    Attributes:
        folder: folder of the run.
        seed: random seed of the whole run.
        half: export the weights in half precision.
        model: network to train. data: data sets. augment: augmentations of the samples.
        loss: loss function. optim: optimiser. schedule: learning-rate schedule. ema: averages of the weights.
        fit: length, batch size and devices. valid: validation, which selects the exported weights.
        per_stem: train one network per stem. semi: semi-supervised training with unlabelled music.
    """

    folder: str
    model: ModelConfig
    data: DataConfig
    seed: int = 42
    half: bool = False
    augment: AugmentConfig = AugmentConfig()
    loss: LossConfig = LossConfig()
    optim: OptimConfig = OptimConfig()
    schedule: ScheduleConfig = ScheduleConfig()
    ema: EmaConfig = EmaConfig()
    fit: FitConfig = FitConfig()
    valid: ValidConfig = ValidConfig()
    per_stem: PerStemConfig | None = None
    semi: SemiConfig | None = None

    def __post_init__(self) -> None:
        if self.semi is not None and not self.data.unlabelled:
            raise Invalid("semi", "needs data.unlabelled")
        if self.semi is None and self.data.unlabelled:
            raise Invalid("data.unlabelled", "is used by semi-supervised training only (semi)")
        if self.semi is not None and self.model.start is None:
            raise Invalid("semi", "needs model.start, the first teacher")
        if self.semi is not None and self.augment.codec:
            raise Invalid("augment.codec", "is not for semi-supervised training, which mixes later")
        if self.semi is not None and self.semi.promote and not self.valid.at_start:
            raise Invalid("semi.promote", "needs valid.at_start, the first teacher's score")
        if not self.data.valid:
            for key, needed in (("patience", self.valid.patience), ("at_start", self.valid.at_start)):
                if needed:
                    raise Invalid(f"valid.{key}", "needs data.valid")
