"""Models that the core can run, and the properties of theirs that have defaults."""

from collections.abc import Mapping, Sequence
from types import NoneType
from typing import Any, Protocol, cast

import torch
from torch import Tensor

from stemsplit.chunking import Chunking, Level
from stemsplit.core.overlap import Split
from stemsplit.core.stats import MagnitudeMeter, Meter, PeakMeter, StatsMeter
from stemsplit.errors import SettingsError
from stemsplit.fields import require, require_a
from stemsplit.settings import DEFAULT_OVERLAP, MAX_OVERLAP, ChunkSettings
from stemsplit.stems import canonical


class _Model(Protocol):
    """Protocol of the properties that `Separable` and `Several` share."""

    @property
    def stems(self) -> tuple[str, ...]:
        """Names of the stems."""

    @property
    def sample_rate(self) -> int:
        """In Hz."""

    @property
    def channels(self) -> int:
        """Audio channels."""

    @property
    def normalise(self) -> bool:
        """True if the mix is standardised."""


class Separable(_Model, Protocol):
    """A model that the core can run.

    It may also have `chunking` (a `Chunking`) and `normalised_by` (a `Level`). For the level "magnitude" it
    has a method `magnitude`, which returns the largest magnitude of a chunk [1, C, context + n + context].
    With an `identity` (`models.network.Identity`: name and sha256) files that it made are told from those of
    another model; without one, only by the name of its class.

    Attributes:
        stems: names, in the order of the output's stem axis.
        sample_rate: of its input and output, in Hz.
        channels: of mix and stems.
        segment_samples: length of a chunk.
        context_samples: real audio that it needs on each side of every chunk.
        normalise: True if its input is the mix standardised over the whole track.
        overlap: recommended fraction of a chunk shared with the next, None for the default.
    """

    @property
    def segment_samples(self) -> int:
        """Length of a chunk."""

    @property
    def context_samples(self) -> int:
        """Audio on each side."""

    @property
    def overlap(self) -> float | None:
        """Fraction of a chunk, or None."""

    def __call__(self, mix: Tensor, /) -> Tensor:
        """Separate [B, C, context + n + context] into [B, S, C, n], for any 0 < n ≤ segment_samples."""
        ...


class Several(_Model, Protocol):
    """Models that are averaged (a bag).

    Attributes:
        members: the models, of one sample rate and number of channels.
        weights: for each model, its weight in the mean of each stem.
        stems: names of all stems.
        sample_rate: of the models, in Hz.
        channels: of mix and stems.
        normalise: True if a model's input is the mix standardised over the whole track.
    """

    @property
    def members(self) -> Sequence[Separable]:
        """The models."""

    @property
    def weights(self) -> Sequence[Mapping[str, float]]:
        """The weight of each model for each stem."""


_KINDS: Mapping[str, tuple[object, ...]] = {
    "stems": (tuple[str, ...],),
    "sample_rate": (int,),
    "channels": (int,),
    "segment_samples": (int,),
    "context_samples": (int,),
    "normalise": (bool,),
    "overlap": (float, NoneType),
}


def check_separable(model: Any) -> None:
    """Check the attributes of an object that a caller of the Python API passes as a model.

    Raises:
        SettingsError: it isn't callable, or lacks an attribute, or one has the wrong type or is out of range.
    """
    name = f"model {type(model).__name__}"
    missing = [one for one in _KINDS if not hasattr(model, one)]
    if missing or not callable(model):
        lacks = ", ".join(missing) or "no call"
        raise SettingsError(
            f"{name}: must be a name, a path, or an object to be called with {lacks}",
            setting="model",
            hint="stemsplit.core.separable.Separable says what an object needs",
        )
    for one, kinds in _KINDS.items():
        require_a(f"{name}.{one}", getattr(model, one), *kinds)
    sound = model.stems and len(set(map(canonical, model.stems))) == len(model.stems)
    require(sound, f"{name}.stems", "must be names that differ", model.stems)
    for one, least in (("sample_rate", 1), ("channels", 1), ("segment_samples", 1), ("context_samples", 0)):
        value = getattr(model, one)
        require(value >= least, f"{name}.{one}", f"must be at least {least}", value)
    good = model.overlap is None or 0 <= model.overlap <= MAX_OVERLAP
    require(good, f"{name}.overlap", f"must be from 0 to {MAX_OVERLAP}", model.overlap)


def overlap_of(model: Separable, chunks: ChunkSettings) -> float:
    """Return the overlap of a model's chunks: the setting, else the model's own, else the default."""
    candidates = (chunks.overlap, model.overlap, DEFAULT_OVERLAP)
    return next(overlap for overlap in candidates if overlap is not None)


def chunking_of(model: Separable) -> Chunking:
    """Return how a track is cut into a model's chunks, and the chunks' weights."""
    return getattr(model, "chunking", Chunking())


def level_of(model: Separable) -> Level:
    """Return the measure by which a normalising model's input is scaled."""
    return getattr(model, "normalised_by", "deviation")


def meter_of(model: "Separable | Several") -> Meter:
    """Return a meter of the tracks that a normalising model separates.

    Raises:
        ValueError: members of a bag are normalised by different measures.
    """
    members = [m for m in cast(Sequence[Separable], getattr(model, "members", (model,))) if m.normalise]
    levels = {level_of(member) for member in members}
    if len(levels) > 1:
        raise ValueError("models that are averaged must be normalised by one measure")
    if levels == {"magnitude"}:
        return _magnitude_meter(members[0])
    return PeakMeter() if levels == {"peak"} else StatsMeter()


def _magnitude_meter(model: Separable) -> Meter:
    def magnitude(audio: Tensor) -> float:
        with torch.inference_mode():
            return float(cast(Any, model).magnitude(audio[None]))

    size = model.segment_samples
    split = Split(size, size, model.context_samples, model.channels, chunking_of(model).lead)
    return MagnitudeMeter(split, magnitude)
