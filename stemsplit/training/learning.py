"""Configuration of loss, optimiser, learning-rate schedule and weight averages, as frozen dataclasses."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, TypeVar

from stemsplit.reading import Invalid, above, at_least, fraction
from stemsplit.stems import canonical

T = TypeVar("T")

LossName = Literal[
    "l1",
    "mse",
    "frequency_time",
    "magnitude",
    "phase",
    "si_sdr",
    "multi_stft",
    "spectral_convergence",
    "masked_mse",
    "l1_snr",
    "l1_snr_stft",
    "log_wmse",
    "bleedless",
    "fullness",
    "mask_error",
]


# Terms that use `loss.resolutions`.
RESOLVED = {"multi_stft", "spectral_convergence"}
# Larger learning rates overflow float32 within a step of the optimiser.
MOST_LR = 1e30


def rate(key: str, value: float | None) -> None:
    """Raise `Invalid` unless a learning rate is None or a number that float32 can compute with."""
    above(key, value, 0)
    if value is not None and value > MOST_LR:
        raise Invalid(key, f"must be at most {MOST_LR:g}, is {value:g}")


def by_stem(key: str, values: Mapping[str, T]) -> dict[str, T]:
    """Return `values` by canonical stem name; raise `Invalid` if two names are the same stem."""
    found = {canonical(name): value for name, value in values.items()}
    if len(found) < len(values):
        raise Invalid(key, "names a stem twice")
    return found


@dataclass(frozen=True)
class SvdConfig:
    """Penalty on the largest singular values of the weights (Hybrid Demucs).

    Attributes:
        penalty: factor of the penalty; 0 turns it off.
        smallest: number of elements below which a weight isn't penalised.
        rank: rank of the randomised SVD's sketch. iterations: number of its power iterations.
    """

    penalty: float = 0.0
    smallest: int = 262144
    rank: int = 100
    iterations: int = 4

    def __post_init__(self) -> None:
        at_least("penalty", self.penalty, 0)
        for key in ("smallest", "rank", "iterations"):
            at_least(key, getattr(self, key), 1)


@dataclass(frozen=True)
class LossConfig:
    """Loss function.

    Attributes:
        terms: factors of the terms, by their names in `losses.py`.
        weights: weights of the stems; a stem that isn't named has 1.
        fft: STFT window of the spectral terms in samples, for networks that don't estimate spectrograms.
        hop: hop of these STFTs in samples.
        resolutions: windows of multi_stft and spectral_convergence. resolution_hop: hop of multi_stft.
        quantile: of the errors in a micro-batch, above which masked_mse leaves them out.
        svd: penalty on singular values.
    """

    terms: Mapping[LossName, float] = field(default_factory=lambda: {"l1": 1.0})
    weights: Mapping[str, float] = field(default_factory=dict)
    fft: int = 2048
    hop: int = 512
    resolutions: tuple[int, ...] = (4096, 2048, 1024, 512, 256)
    resolution_hop: int = 147
    quantile: float = 0.95
    svd: SvdConfig = SvdConfig()

    def __post_init__(self) -> None:
        if not self.terms:
            raise Invalid("terms", "must name at least one term")
        if any(weight < 0 for weight in self.weights.values()):
            raise Invalid("weights", "must not be negative")
        object.__setattr__(self, "weights", by_stem("weights", self.weights))
        for key in ("fft", "hop", "resolution_hop"):
            at_least(key, getattr(self, key), 1)
        if any(size < 2 for size in self.resolutions):
            raise Invalid("resolutions", "must be at least 2")
        if not self.resolutions and (used := RESOLVED & self.terms.keys()):
            raise Invalid("resolutions", f"must not be empty: {min(used)} needs windows")
        fraction("quantile", self.quantile, one="masked_mse" not in self.terms)


@dataclass(frozen=True)
class GroupConfig:
    """Parameter group with its own optimiser settings.

    Attributes:
        match: pattern of parameter names, such as `crosstransformer.*`.
        lr: learning rate; none keeps the general one.
        weight_decay: none keeps the general one.
    """

    match: str
    lr: float | None = None
    weight_decay: float | None = None

    def __post_init__(self) -> None:
        rate("lr", self.lr)
        at_least("weight_decay", self.weight_decay, 0)


@dataclass(frozen=True)
class OptimConfig:
    """Optimiser.

    Attributes:
        kind: adam; adamw with decoupled weight decay; adamw8bit with moments of 8 bits; muon, which makes the
            updates of matrices orthogonal, and adamw for other parameters; prodigy, which estimates its
            learning rate. The last three need the extra `optim`.
        lr: learning rate, before the schedule; with prodigy a factor, usually 1.
        betas: decay rates of the two moments. eps: added to the denominator.
        weight_decay: of all parameters outside `groups`.
        clip: largest norm of the gradient; none doesn't clip.
        groups: parameter groups with their own settings; the first that matches a parameter applies.
    """

    kind: Literal["adam", "adamw", "adamw8bit", "muon", "prodigy"] = "adam"
    lr: float = 3e-4
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    weight_decay: float = 0.0
    clip: float | None = None
    groups: tuple[GroupConfig, ...] = ()

    def __post_init__(self) -> None:
        rate("lr", self.lr)
        if self.kind == "prodigy" and self.lr < 0.1:
            raise Invalid("lr", "is a factor of the rate that prodigy estimates: 1 is usual, below 0.1 isn't")
        for beta in self.betas:
            fraction("betas", beta, one=False)
        above("eps", self.eps, 0)
        at_least("weight_decay", self.weight_decay, 0)
        above("clip", self.clip, 0)


@dataclass(frozen=True)
class ScheduleConfig:
    """Learning-rate schedule; `optim.schedule_factor` has the formulas.

    Attributes:
        kind: constant, decay, noam or cosine.
        warmup_steps: steps of the linear warm-up (noam: of its own warm-up).
        decay: factor of the exponential decay. every_epochs: epochs between two decays.
        dimension: d_model of noam.
        least: final value of cosine, as a fraction of the learning rate.
    """

    kind: Literal["constant", "decay", "noam", "cosine"] = "constant"
    warmup_steps: int = 0
    decay: float = 0.98
    every_epochs: int = 2
    dimension: int | None = None
    least: float = 0.0

    def __post_init__(self) -> None:
        at_least("warmup_steps", self.warmup_steps, 0)
        above("decay", self.decay, 0)
        at_least("every_epochs", self.every_epochs, 1)
        at_least("dimension", self.dimension, 1)
        fraction("least", self.least)
        if self.kind == "noam" and (self.dimension is None or self.warmup_steps < 1):
            raise Invalid("kind", "noam needs dimension and warmup_steps")


@dataclass(frozen=True)
class EmaConfig:
    """Exponential moving averages of the weights; each is a candidate for the exported model.

    Attributes:
        step: decay rates of averages that are updated after every step.
        epoch: decay rates of averages that are updated after every epoch.
    """

    step: tuple[float, ...] = ()
    epoch: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        for key in ("step", "epoch"):
            for decay in getattr(self, key):
                fraction(key, decay, one=False)


@dataclass(frozen=True)
class LoraConfig:
    """Low-rank adapters (LoRA): small matrices are trained in place of the weights.

    Attributes:
        rank: of the matrices; a larger one learns more and needs more memory.
        alpha: strength; the matrices are multiplied by alpha / rank.
        layers: patterns of names of linear and convolution layers, such as `crosstransformer.*`.
    """

    rank: int = 8
    alpha: float = 16.0
    layers: tuple[str, ...] = ("*",)

    def __post_init__(self) -> None:
        at_least("rank", self.rank, 1)
        above("alpha", self.alpha, 0)
        if not self.layers:
            raise Invalid("layers", "must name at least one pattern")
