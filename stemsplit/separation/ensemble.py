"""Several models over one track, whose estimates of a stem are blended at the track's own rate and channels.

The models may differ in everything: sample rate, channels, segment, normalisation and stems. They advance in
lockstep, so that memory doesn't grow with the track.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import tee

import torch

from stemsplit.core.blends import Blend, make_blend
from stemsplit.core.compute import Compute
from stemsplit.core.overlap import Fifo
from stemsplit.core.stream import Separable, Several
from stemsplit.separation.mixes import MIX, Output, mix_down
from stemsplit.separation.source import Audio, Shape, Source
from stemsplit.separation.track import Measured, converted, fill, measure, model_stems, require_finite
from stemsplit.settings import DEFAULT_BLEND, ChunkSettings


@dataclass(frozen=True)
class Member:
    """A model of an ensemble.

    Attributes:
        model: on the device that computes.
        names: what each of its stems means among those of the others; of all that it was made to give, since
            what `other` means depends on the stems beside it.
        weight: how much it counts, for blends that are means.
        residual: the stem that its others leave of the mix, None for none.
    """

    model: Separable | Several
    names: Mapping[str, str]
    weight: float = 1.0
    residual: str | None = None

    @property
    def own(self) -> tuple[str, ...]:
        """Its stems by its own names, the residual last."""
        return self.model.stems if self.residual is None else (*self.model.stems, self.residual)

    @property
    def stems(self) -> tuple[str, ...]:
        """The meanings of its stems, in its order."""
        return tuple(self.names[stem] for stem in self.own)


def joint_stems(members: Sequence[Member]) -> tuple[str, ...]:
    """Return the stems that some member gives, by what they mean, in the order of the members."""
    return tuple(dict.fromkeys(stem for member in members for stem in member.stems))


def separate_ensemble(
    source: Source,
    members: Sequence[Member],
    outputs: Sequence[Output],
    shape: Shape,
    *,
    blend: str = DEFAULT_BLEND,
    chunks: ChunkSettings = ChunkSettings(),
    compute: Compute = Compute(),
    measured: Sequence[Measured] | None = None,
    progress: Callable[[float], None] | None = None,
) -> Iterator[Audio]:
    """Separate a track by several models and blend what they give of each stem.

    Args:
        source: the audio.
        members: the models.
        outputs: what to make of the stems of `joint_stems`.
        shape: of the outputs.
        blend: one of `settings.BLENDS`.
        chunks: overlap, shifts, seed, batch size.
        compute: the models' device and precision.
        measured: the source's `measure` for each member, where they were taken before.
        progress: called with the seconds of audio separated.

    Yields:
        [O, C, n], consecutive; their lengths sum to the source's (at the rate of `shape`).

    Raises:
        OverflowingError: an output isn't finite.
    """
    if measured is None:
        measured = [measure(source, member.model) for member in members]
    *blocks, last = tee(source.blocks(), len(members) + 1)
    running = [
        _Running(member, model_stems(own, source, member.model, shape, chunks, found.stats, compute))
        for member, own, found in zip(members, blocks, measured, strict=True)
    ]
    original = converted(last, source, shape.channels, shape.sample_rate)
    blended = _Blended(members, blend, outputs, shape)
    mix, done = Fifo(), 0
    while slowest := min((one for one in running if not one.over), key=lambda one: one.samples, default=None):
        slowest.advance()
        if count := min(one.ready.samples for one in running):
            fill(mix, original, count)
            if count := min(count, mix.samples):
                yield from blended.push(mix.pop(count), [one.ready.pop(count) for one in running])
                done += count
                if progress is not None:
                    progress(done / shape.sample_rate)
    fill(mix, original)
    if mix.samples:
        parts = [one.rest(mix.samples, shape.channels) for one in running]
        yield from blended.push(mix.pop(mix.samples), parts)
    yield from blended.finish()


class _Running:
    """A member on its way: its stems as far as they are computed and not yet blended."""

    def __init__(self, member: Member, stems: Iterator[Audio]) -> None:
        self.member, self._stems = member, stems
        self.ready, self.samples, self.over = Fifo(), 0, False

    def advance(self) -> None:
        """Compute the next stems."""
        block = next(self._stems, None)
        if block is None:
            self.over = True
            return
        self.ready.push(torch.from_numpy(block))
        self.samples += block.shape[-1]

    def rest(self, samples: int, channels: int) -> torch.Tensor:
        """Return the last `samples` samples, [S, C, n], silent where the model gives none."""
        if missing := max(0, samples - self.ready.samples):
            self.ready.push(torch.zeros(len(self.member.model.stems), channels, missing))
        return self.ready.pop(samples)


class _Blended:
    """Stems of all members on their way to the outputs."""

    def __init__(
        self, members: Sequence[Member], blend: str, outputs: Sequence[Output], shape: Shape
    ) -> None:
        self._members, self._outputs, self._shape = members, outputs, shape
        terms = {term for output in outputs for term in (*output.plus, *output.minus)}
        self._blends: dict[str, Blend] = {}
        for stem in joint_stems(members):
            weights = [member.weight for member in members if stem in member.stems]
            if stem in terms:
                # one estimate needs no spectrum
                self._blends[stem] = make_blend(blend if len(weights) > 1 else DEFAULT_BLEND, weights)
        self._ready = {stem: Fifo() for stem in (*self._blends, MIX)}
        self._start = 0

    def push(self, mix: torch.Tensor, parts: Sequence[torch.Tensor]) -> Iterator[Audio]:
        """Take the next samples of the mix [C, n] and of every member's stems [S, C, n]."""
        self._ready[MIX].push(mix)
        estimates: dict[str, list[torch.Tensor]] = {stem: [] for stem in self._blends}
        for member, stems in zip(self._members, parts, strict=True):
            for stem, samples in _by_meaning(member, mix, stems):
                if stem in estimates:
                    estimates[stem].append(samples)
        for stem, blend in self._blends.items():
            self._ready[stem].push(blend.push(estimates[stem]))
        yield from self._taken()

    def finish(self) -> Iterator[Audio]:
        """End all blends and yield what is left."""
        for stem, blend in self._blends.items():
            self._ready[stem].push(blend.finish())
        yield from self._taken()

    def _taken(self) -> Iterator[Audio]:
        if count := min(fifo.samples for fifo in self._ready.values()):
            terms = {stem: fifo.pop(count).numpy() for stem, fifo in self._ready.items()}
            block = mix_down(self._outputs, terms)
            require_finite(block, self._start, self._shape.sample_rate)
            self._start += count
            yield block


def _by_meaning(member: Member, mix: torch.Tensor, stems: torch.Tensor) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield each stem of a member, its residual too, [C, n] under the name of what it means."""
    for name, samples in zip(member.model.stems, stems, strict=True):
        yield member.names[name], samples
    if member.residual is not None:
        yield member.names[member.residual], mix - stems.sum(dim=0)
