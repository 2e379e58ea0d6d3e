"""The Python API: a loaded model, and tracks through it.

>>> from stemsplit import Separator
>>> separator = Separator("classic", stems=["vocals"])
>>> separator.stems
('vocals',)
"""

from collections.abc import Callable, Generator, Mapping, Sequence
from pathlib import Path
from time import monotonic

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from stemsplit.audio.channels import usual_layout
from stemsplit.audio.reader import probe
from stemsplit.core import compute as computing
from stemsplit.errors import AudioError, InputError, NotFiniteError, SettingsError
from stemsplit.events import Callback, Notice, Progress, emit
from stemsplit.forked import require_own_threads
from stemsplit.hub.load import load_model
from stemsplit.separation.mixes import Output
from stemsplit.separation.samples import rate_of, samples_of
from stemsplit.separation.source import ArraySource, Audio, FileSource, Shape, Source
from stemsplit.separation.track import Measured, OverflowingError, measure, separate_track
from stemsplit.settings import DEFAULT_MODEL, ChunkSettings, ComputeSettings
from stemsplit.stems import find_stem

# Samples beyond this, 120 dB above full scale, may overflow in what models and resamplers do with them.
LOUDEST = 1e6


class Separator:
    """A model on its device, ready for any number of tracks.

    Attributes:
        stems: what it gives, in order.
        sample_rate: that the model works at, in Hz; inputs of any other rate are resampled and brought back.

    Args:
        model: a name from the registry, a path, or hf:OWNER/REPO.
        stems: load and compute only these; None for all.
        segment_s: the chunk length in seconds; None for the model's own.
        chunks: overlap, shifts, seed and batch size.
        compute: device, precision and threads.
        offline: never open a connection.
        callback: receives the events of a download and of every track; returning False cancels.

    Raises:
        SettingsError: an argument has no meaning; it is named.
        UnknownNameError: no such model or stem.
        DeviceError: no such device.
        ModelUnavailableError: the weights can't be had or can't be read.
    """

    def __init__(
        self,
        model: str | Path = DEFAULT_MODEL,
        *,
        stems: Sequence[str] | None = None,
        segment_s: float | None = None,
        chunks: ChunkSettings = ChunkSettings(),
        compute: ComputeSettings = ComputeSettings(),
        offline: bool = False,
        callback: Callback | None = None,
    ) -> None:
        _require_kinds(chunks, compute, callback)
        self.compute = computing.resolve(compute)  # before anything is downloaded
        self.threads = compute.threads
        self.callback = callback
        network = load_model(model, stems=stems, segment_s=segment_s, offline=offline, callback=callback)
        self.identity = network.identity
        self.chunks = chunks
        self.model = computing.place(network, self.compute)
        self.stems = self._given(stems)
        self.sample_rate = self.model.sample_rate

    def _given(self, wanted: Sequence[str] | None) -> tuple[str, ...]:
        """Return the stems that the model estimates and the one that it leaves, as far as they are wanted."""
        residual = self.model.residual
        every = self.model.stems if residual is None else (*self.model.stems, residual)
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

    def measure(self, source: Source) -> Measured:
        """Take the first pass that some models need; `stream` does it itself when it wasn't done."""
        return measure(source, self.model)

    def stream(
        self,
        source: Source,
        outputs: Sequence[Output],
        shape: Shape,
        *,
        measured: Measured | None = None,
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
        require_own_threads()
        if source.channels > 2:
            emit(self.callback, Notice(_downmix(source), name))
        report = _progress(self.callback, name, total_s)
        if self.model.residual is not None:
            outputs = [output.expand(self.model.residual, self.model.stems) for output in outputs]
        report(0.0)  # the model is there: what comes next takes as long as the first chunk
        with computing.threads(self.threads):
            try:
                yield from separate_track(
                    source,
                    self.model,
                    outputs,
                    shape,
                    chunks=self.chunks,
                    compute=self.compute,
                    measured=measured,
                    progress=report,
                )
            except OverflowingError as error:
                raise self._explained(error, source, name) from None
        for notice in source.notices:
            emit(self.callback, Notice(notice, name))

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
    model: str | Path = DEFAULT_MODEL,
    *,
    sample_rate: float | None = None,
    stems: Sequence[str] | None = None,
    callback: Callback | None = None,
) -> Mapping[str, Audio]:
    """Separate one track; for several, or for settings, make a `Separator` once.

    Args:
        source: a file, or samples [C, T] or [T] as `samples_of` takes them.
        model: a name from the registry, a path, or hf:OWNER/REPO.
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
