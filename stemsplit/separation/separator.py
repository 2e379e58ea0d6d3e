"""The Python API: a loaded model, and tracks through it.

>>> from stemsplit import Separator
>>> separator = Separator("classic", stems=["vocals"])
>>> separator.stems
('vocals',)
"""

import json
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from time import monotonic
from types import TracebackType
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from stemsplit.audio.channels import usual_layout
from stemsplit.audio.reader import probe
from stemsplit.core import compute as computing
from stemsplit.core import memory
from stemsplit.core.blends import make_blend
from stemsplit.core.stream import Separable, Several, overlap_of, passes_of
from stemsplit.errors import AudioError, InputError, NotFiniteError, SettingsError
from stemsplit.events import Callback, Notice, Progress, emit
from stemsplit.forked import require_own_threads
from stemsplit.hub.describe import describe_model, joint_digest
from stemsplit.hub.load import Identity, load_model
from stemsplit.separation.ensemble import Member, joint_stems, separate_ensemble
from stemsplit.separation.mixes import Output
from stemsplit.separation.samples import rate_of, samples_of
from stemsplit.separation.source import ArraySource, Audio, FileSource, Shape, Source
from stemsplit.separation.track import Measured, OverflowingError, measure, separate_track
from stemsplit.settings import DEFAULT_BLEND, DEFAULT_MODEL, ChunkSettings, ComputeSettings, check_weights
from stemsplit.stems import find_stem, meanings

# Samples beyond this, 120 dB above full scale, may overflow in what models and resamplers do with them.
LOUDEST = 1e6
# What an object needs to be run, beside being called.
NEEDED = ("stems", "sample_rate", "channels", "segment_samples", "context_samples", "normalise", "overlap")


class Separator:
    """A model on its device, ready for any number of tracks; a context manager, which lets go of the model.

    Pickled, it is only the arguments that it was made with: another process loads the model anew.

    Attributes:
        stems: what it gives, in order.
        sample_rate: that the model works at, in Hz; inputs of any other rate are resampled and brought back.
        members: the models that are run.
        joint: whether they are of an ensemble, whose stems go by what they mean.

    Args:
        model: a name from the registry, a path, hf:OWNER/REPO, or an object of one's own that satisfies
            `core.stream.Separable`, such as a module. Several are an ensemble, whose stems are blended.
        stems: load and compute only these; None for all.
        segment_s: the chunk length in seconds; None for the model's own. Not for an object.
        chunks: overlap, shifts, seed and batch size.
        compute: device, precision and threads.
        offline: never open a connection.
        blend: how the stems of several models become one, one of `settings.BLENDS`.
        weights: one for each model, for `avg_wave` and `avg_fft` only; None counts each of them once.
        callback: receives the events of a download and of every track; returning False cancels.

    Raises:
        SettingsError: an argument has no meaning; it is named.
        UnknownNameError: no such model or stem.
        DeviceError: no such device.
        ModelUnavailableError: the weights can't be had or can't be read.
    """

    def __init__(
        self,
        model: str | Path | Separable | Sequence[str | Path | Separable] = DEFAULT_MODEL,
        *,
        stems: Sequence[str] | None = None,
        segment_s: float | None = None,
        chunks: ChunkSettings = ChunkSettings(),
        compute: ComputeSettings = ComputeSettings(),
        offline: bool = False,
        blend: str = DEFAULT_BLEND,
        weights: Sequence[float] | None = None,
        callback: Callback | None = None,
    ) -> None:
        _require_kinds(chunks, compute, callback)
        self.compute = computing.resolve(compute)  # before anything is downloaded
        self.threads, self.callback = compute.threads, callback
        self._recipe: dict[str, Any] = dict(model=model, stems=stems, segment_s=segment_s, chunks=chunks)
        self._recipe |= dict(compute=compute, offline=offline, blend=blend, weights=weights)
        models = model if isinstance(model, (list, tuple)) else (model,)
        self.chunks, self.blend = chunks, blend
        if not models:
            raise SettingsError("no model is given", setting="model")
        counted = check_weights(len(models), blend, weights, "models")
        make_blend(blend, counted)  # refuses an unknown one
        load = partial(self._load, segment_s=segment_s, offline=offline)
        self.joint = len(models) > 1
        if not self.joint:
            self.members: tuple[Member, ...] = (load(models[0], stems),)
            self.stems = self._given(self.members[0].own, stems)
        else:
            self.members = tuple(self._load_all(models, stems, counted, load))
            self.stems = self._given(joint_stems(self.members), stems)
        self.identity = _joint_identity([getattr(member.model, "identity", None) for member in self.members])
        self.sample_rate = self.model.sample_rate

    @property
    def model(self) -> Separable | Several:
        """The model, of several the first."""
        self._require_open()
        return self.members[0].model

    @property
    def fingerprint(self) -> str | None:
        """Everything that the stems depend on but the audio, as text; None for weights that aren't known."""
        if self.identity is None:
            return None
        recipe, chunks, compute = self._recipe, self.chunks, self._recipe["compute"]
        overlaps = [[overlap_of(p.model, chunks) for p in passes_of(m.model, chunks)] for m in self.members]
        told = [asdict(self.identity), asdict(chunks), self.stems, self.blend, recipe["weights"], overlaps]
        told += [recipe["segment_s"], compute.precision, compute.reduced, self.compute.device.type]
        return json.dumps(told)

    def _require_open(self) -> None:
        if not self.members:
            raise SettingsError("the separator is closed", setting="model")

    def _load(
        self,
        model: str | Path | Separable,
        stems: Sequence[str] | None,
        segment_s: float | None,
        offline: bool,
    ) -> Member:
        loaded: Separable | Several
        if isinstance(model, (str, Path)):
            loaded = load_model(
                model, stems=stems, segment_s=segment_s, offline=offline, callback=self.callback
            )
        else:
            loaded = _own(model, segment_s)
        residual = getattr(loaded, "residual", None)
        placed = computing.place(loaded, self.compute)
        own = placed.stems if residual is None else (*placed.stems, residual)
        return Member(placed, {stem: stem for stem in own}, residual=residual)

    def _load_all(
        self,
        models: Sequence[str | Path | Separable],
        wanted: Sequence[str] | None,
        weights: Sequence[float],
        load: Callable[[str | Path | Separable, Sequence[str] | None], Member],
    ) -> Iterator[Member]:
        """Load those of several models that give a wanted stem, each as far as it is needed."""
        all_names = [_names(model, self._recipe["offline"], self.callback) for model in models]
        known = tuple(dict.fromkeys(meaning for names in all_names for meaning in names.values()))
        needed = known if wanted is None else [find_stem(stem, known) for stem in wanted]
        for model, names, weight in zip(models, all_names, weights, strict=True):
            if own := [stem for stem, meaning in names.items() if meaning in needed]:
                yield replace(load(model, own), names=names, weight=weight)

    def close(self) -> None:
        """Let go of the model and its memory; the separator can't be used any more."""
        self.members = ()
        memory.trim()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __getstate__(self) -> dict[str, Any]:
        return self._recipe

    def __setstate__(self, recipe: dict[str, Any]) -> None:
        self.__init__(**recipe)  # type: ignore[misc]

    @staticmethod
    def _given(every: Sequence[str], wanted: Sequence[str] | None) -> tuple[str, ...]:
        """Return those of some stems that are wanted."""
        named = every if wanted is None else [find_stem(stem, every) for stem in wanted]
        return tuple(stem for stem in every if stem in named)

    def separate(
        self, source: str | Path | ArrayLike | Tensor, sample_rate: float | None = None
    ) -> Mapping[str, Audio]:
        """Separate a whole track.

        Args:
            source: a file, or samples [C, T] or [T] as `samples_of` takes them.
            sample_rate: of samples, a whole number of Hz; files know theirs.

        Returns:
            An array [C, T] for every stem by its canonical name, at the source's rate, channels and length.

        Raises:
            SettingsError: the samples or their rate have no meaning, or the process was forked from one that
                had a model already.
            InputError: the file can't be read, or its samples are beyond what can be computed with.
            NotFiniteError: the model gave NaN or infinite samples.
            Cancelled: the callback returned False.
        """
        opened, name = _open(source, sample_rate)
        shape = Shape(opened.sample_rate, min(2, opened.channels))
        outputs = [Output(stem, (stem,)) for stem in self.stems]
        blocks = list(self.stream(opened, outputs, shape, name=name))
        empty = np.zeros((len(outputs), shape.channels, 0), np.float32)
        return dict(zip(self.stems, np.concatenate([empty, *blocks], axis=-1), strict=True))

    def measure(self, source: Source) -> list[Measured]:
        """Take the first pass that some models need; `stream` does it itself when it wasn't done."""
        return [measure(source, member.model) for member in self.members]

    def stream(
        self,
        source: Source,
        outputs: Sequence[Output],
        shape: Shape,
        *,
        measured: Sequence[Measured] | None = None,
        name: str = "audio",
        total_s: float | None = None,
    ) -> Generator[Audio, None, None]:
        """Separate a track block by block, in bounded memory: [O, C, n] each, in order.

        Args:
            source: the audio.
            outputs: sums of this separator's stems and the mix.
            shape: the outputs' rate and channels.
            measured: from `measure`.
            name: of the track in events and errors.
            total_s: its duration, for the time left.

        Raises:
            InputError: the source can't be read, or its samples are beyond what can be computed with.
            NotFiniteError: the model gave NaN or infinite samples.
        """
        self._require_open()
        require_own_threads()
        if source.channels > 2:
            emit(self.callback, Notice(_downmix(source), name))
        report = _progress(self.callback, name, total_s)
        report(0.0)  # the model is there: what comes next takes as long as the first chunk
        with computing.threads(self.threads):
            try:
                yield from self._separated(source, outputs, shape, measured or self.measure(source), report)
            except OverflowingError as error:
                raise self._explained(error, source, name) from None
        for notice in source.notices:
            emit(self.callback, Notice(notice, name))

    def _separated(
        self,
        source: Source,
        outputs: Sequence[Output],
        shape: Shape,
        measured: Sequence[Measured],
        report: Callable[[float], None],
    ) -> Iterator[Audio]:
        how: dict[str, Any] = {"chunks": self.chunks, "compute": self.compute, "progress": report}
        if self.joint:
            yield from separate_ensemble(
                source, self.members, outputs, shape, blend=self.blend, measured=measured, **how
            )
            return
        residual, stems = self.members[0].residual, self.model.stems
        if residual is not None:
            outputs = [output.expand(residual, stems) for output in outputs]
        yield from separate_track(source, self.model, outputs, shape, measured=measured[0], **how)

    def _explained(self, error: OverflowingError, source: Source, name: str) -> AudioError:
        """Return the error that names the input, where its samples are to blame, or else the model."""
        if (at_s := _first_above(LOUDEST, source)) is not None:
            return InputError(
                name,
                f"has samples too large to compute with (the first at {at_s:.3f} s; full scale is 1)",
                hint="export it again; an effect or a plug-in may have gone wrong",
            )
        model = f"model {self.identity.name}" if self.identity else "model"
        full = self.compute.dtype == torch.float32
        return NotFiniteError(
            name,
            f"the {model} gave NaN or infinite samples at {error.at_s:.1f} s",
            hint="its weights may be damaged" if full else "--precision fp32 computes in a wider range",
        )


def _downmix(source: Source) -> str:
    layout = source.layout or f"{usual_layout(source.channels)}, which is assumed: the file doesn't tell"
    return f"{source.channels} channels ({layout}) are mixed down to stereo (ITU-R BS.775)"


def _first_above(limit: float, source: Source) -> float | None:
    """Return where a source's magnitude first exceeds `limit`, in seconds; None if it never does."""
    samples = 0
    for block in source.blocks():
        above = (np.abs(block) > limit).any(axis=0)
        if above.any():
            return (samples + int(np.argmax(above))) / source.sample_rate
        samples += block.shape[-1]
    return None


def separate(
    source: str | Path | ArrayLike | Tensor,
    model: str | Path | Separable = DEFAULT_MODEL,
    *,
    sample_rate: float | None = None,
    stems: Sequence[str] | None = None,
    callback: Callback | None = None,
) -> Mapping[str, Audio]:
    """Separate one track; for several, or for settings, make a `Separator` once.

    Args:
        source: a file, or samples [C, T] or [T] as `samples_of` takes them.
        model: a name from the registry, a path, hf:OWNER/REPO, or an object of one's own; see `Separator`.
        sample_rate: of samples, a whole number of Hz.
        stems: only these.
        callback: receives events; returning False cancels.

    Returns:
        An array [C, T] for every stem by its canonical name, at the source's rate, channels and length.

    Raises:
        As `Separator` and its `separate`.
    """
    return Separator(model, stems=stems, callback=callback).separate(source, sample_rate)


def _open(source: str | Path | ArrayLike | Tensor, sample_rate: float | None) -> tuple[Source, str]:
    if isinstance(source, (str, Path)):
        return FileSource(Path(source), probe(source)), str(source)
    if sample_rate is None:
        raise SettingsError("samples need their sample_rate", setting="sample_rate")
    return ArraySource(samples_of(source), rate_of(sample_rate)), "audio"


def _names(model: str | Path | Separable, offline: bool, callback: Callback | None) -> Mapping[str, str]:
    """Return what each stem of a model means in an ensemble."""
    if isinstance(model, (str, Path)):
        return meanings(describe_model(model, offline=offline, callback=callback).stems)
    return meanings(tuple(model.stems))


def _joint_identity(found: Sequence[Identity | None]) -> Identity | None:
    """Return which weights some models have together; None if one's aren't known."""
    known = [identity for identity in found if identity is not None]
    if len(known) < len(found):
        return None
    if len(known) == 1:
        return known[0]
    digest = joint_digest([identity.sha256 or "" for identity in known])
    return Identity("+".join(identity.name for identity in known), digest)


def _own(model: Separable, segment_s: float | None) -> Separable:
    """Check that a caller's own object can be run.

    Raises:
        SettingsError: it lacks an attribute, or a chunk length is asked for.
    """
    missing = [name for name in NEEDED if not hasattr(model, name)]
    if missing or not callable(model):
        lacks = ", ".join(missing) or "no call"
        raise SettingsError(
            f"model {type(model).__name__}: must be a name, a path, or an object to be called with {lacks}",
            setting="model",
            hint="stemsplit.core.stream.Separable says what an object needs",
        )
    if segment_s is not None:
        raise SettingsError("segment_s: an object has its own segment_samples", setting="segment_s")
    return model


def _require_kinds(chunks: object, compute: object, callback: object) -> None:
    for name, value, kind in (("chunks", chunks, ChunkSettings), ("compute", compute, ComputeSettings)):
        if not isinstance(value, kind):
            raise SettingsError(f"{name} {value!r}: must be {kind.__name__}", setting=name)
    if callback is not None and not callable(callback):
        raise SettingsError(f"callback {callback!r}: must be a function", setting="callback")


def _progress(callback: Callback | None, name: str, total_s: float | None) -> Callable[[float], None]:
    began = monotonic()

    def report(done_s: float) -> None:
        elapsed = monotonic() - began
        left = (total_s - done_s) * elapsed / done_s if total_s and done_s else None
        emit(callback, Progress(name, done_s, total_s, None if left is None else max(0.0, left)))

    return report
