"""Configuration of a training run as frozen dataclasses, the only place of its defaults.

They mirror the configuration file key by key (`configfile.py` reads it). An invalid value raises `Invalid`,
which names the key; the reader adds the line.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from stemsplit.reading import Invalid, above, at_least, fraction
from stemsplit.settings import DEFAULT_DEVICE
from stemsplit.training.learning import (
    EmaConfig,
    LoraConfig,
    LossConfig,
    OptimConfig,
    ScheduleConfig,
    by_stem,
)
from stemsplit.training.sampling import AugmentConfig, DataConfig, EffectPlaces


@dataclass(frozen=True)
class ModelConfig:
    """Network to train: exactly one of `start` and `family`.

    Attributes:
        start: name or path of a model to fine-tune.
        family: network family to train from random weights.
        arguments: of the family; the others keep their defaults.
        freeze: patterns of names of parameters that aren't trained, such as `encoder.*`.
    """

    start: str | None = None
    family: str | None = None
    arguments: Mapping[str, Any] = field(default_factory=dict)
    freeze: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if (self.start is None) == (self.family is None):
            raise Invalid("start", "give either start (a model) or family (a new network)")
        if self.arguments and self.family is None:
            raise Invalid("arguments", "only a new network (family) takes arguments")


@dataclass(frozen=True)
class FitConfig:
    """Length of the run, batch size, devices and precision.

    Attributes:
        epochs: number of epochs. steps_per_epoch: optimiser steps in each.
        batch_size: samples per step over all devices; the result doesn't depend on their number, but with the
            loss terms masked_mse and spectral_convergence, which see one micro-batch at a time.
        accumulate: gradient accumulation: micro-batches per step on each device, to save memory.
        checkpoint_steps: steps between two checkpoints; none means one per epoch.
        device: auto, cpu, cuda or mps. devices: how many per node. nodes: number of machines.
        precision: fp32, or bf16 or fp16 with fp32 weights.
        recompute: gradient checkpointing: keep the activations between blocks only, and compute those inside
            again in the backward pass, which takes a third more time and a fraction of the memory.
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
    recompute: bool = False

    def __post_init__(self) -> None:
        whole = (
            "epochs",
            "steps_per_epoch",
            "batch_size",
            "accumulate",
            "checkpoint_steps",
            "devices",
            "nodes",
        )
        for key in whole:
            at_least(key, getattr(self, key), 1)
        if self.batch_size % self.parts:
            raise Invalid("batch_size", f"must be a multiple of devices × nodes × accumulate ({self.parts})")
        if self.steps_per_epoch % self.checkpoint_interval:
            raise Invalid("checkpoint_steps", f"must divide steps_per_epoch ({self.steps_per_epoch})")
        if self.precision == "fp16" and self.device == "cpu":
            raise Invalid("precision", "fp16 needs a GPU; a CPU takes fp32 or bf16")

    @property
    def checkpoint_interval(self) -> int:
        """Return the number of steps between two checkpoints."""
        return self.steps_per_epoch if self.checkpoint_steps is None else self.checkpoint_steps

    @property
    def parts(self) -> int:
        """Return the number of micro-batches per step, over all devices."""
        return self.devices * self.nodes * self.accumulate

    @property
    def micro_batch(self) -> int:
        """Return the number of samples in a micro-batch."""
        return self.batch_size // self.parts


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
        loggers: where losses and scores go as they come: tensorboard and csv in the run's folder, and wandb
            (Weights & Biases), which has to be installed.
        model: network to train. data: data sets. augment: augmentations of the samples.
        loss: loss function. optim: optimiser. schedule: learning-rate schedule. ema: averages of the weights.
        fit: length, batch size and devices. valid: validation, which selects the exported weights.
        lora: train low-rank adapters in place of the weights.
        per_stem: train one network per stem. semi: semi-supervised training with unlabelled music.
    """

    folder: str
    model: ModelConfig
    data: DataConfig
    seed: int = 42
    half: bool = False
    loggers: tuple[Literal["tensorboard", "csv", "wandb"], ...] = ("tensorboard", "csv")
    augment: AugmentConfig = AugmentConfig()
    loss: LossConfig = LossConfig()
    optim: OptimConfig = OptimConfig()
    schedule: ScheduleConfig = ScheduleConfig()
    ema: EmaConfig = EmaConfig()
    fit: FitConfig = FitConfig()
    valid: ValidConfig = ValidConfig()
    lora: LoraConfig | None = None
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
        if self.semi is not None and self.augment.effects != EffectPlaces():
            raise Invalid("augment.effects", "is not for semi-supervised training, which mixes later")
        if self.semi is not None and self.augment.image.used:
            raise Invalid("augment.image", "is not for semi-supervised training, which mixes later")
        if self.semi is not None and self.data.input == "file":
            raise Invalid("data.input", "is not for semi-supervised training, which mixes stems")
        if self.data.input == "file" and (broken := self.augment.breaks_pairs):
            rule = "changes stems, but not the input file (data.input)"
            raise Invalid(f"augment.{broken[0]}", rule)
        if "masked_mse" in self.loss.terms and self.fit.micro_batch < 2:
            why = "fit.batch_size / (fit.accumulate × fit.devices × fit.nodes)"
            raise Invalid("loss.quantile", f"leaves nothing out of a micro-batch of one sample, {why}")
        if self.semi is not None and self.semi.promote and not self.valid.at_start:
            raise Invalid("semi.promote", "needs valid.at_start, the first teacher's score")
        if self.lora is not None and self.model.start is None:
            raise Invalid("lora", "needs model.start: new weights have to be trained themselves")
        if not self.data.valid:
            for key, needed in (("patience", self.valid.patience), ("at_start", self.valid.at_start)):
                if needed:
                    raise Invalid(f"valid.{key}", "needs data.valid")
