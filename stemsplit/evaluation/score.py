"""The scores of one track: every metric of every stem, of the estimates and of their baselines."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from stemsplit.audio.channels import convert_channels
from stemsplit.datasets.names import MIXTURE, left_out_by
from stemsplit.datasets.tracks import Source, Track
from stemsplit.errors import InputError
from stemsplit.evaluation.bsseval import bsseval
from stemsplit.evaluation.findings import Finding, examine
from stemsplit.evaluation.metrics import METRICS, nan_median
from stemsplit.evaluation.oracles import ORACLES

# The metrics of whole songs, and those of BSS Eval; together in the order of rows.
WHOLE = {name: metric.function for name, metric in METRICS.items() if metric.function}
BSS = {name: metric.bss for name, metric in METRICS.items() if metric.bss}
METRIC_NAMES = (*WHOLE, *BSS)
REST = "other"

# Stems [C, T] by name from a mix [C, T] and its rate in Hz, of the same rate and length.
Separate = Callable[[Tensor, int], Mapping[str, Tensor]]
Table = dict[str, dict[str, float]]  # metric by stem, NaN where it has no value


@dataclass(frozen=True)
class Scores:
    """What one track scores.

    Attributes:
        stems: the metrics of every stem that was estimated.
        baselines: the same for the mixture taken as the estimate of every stem, and for the oracles.
        findings: what is wrong with the estimates.
        notes: what else is worth knowing, one sentence each.
    """

    stems: Table
    baselines: dict[str, Table]
    findings: tuple[Finding, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Wanted:
    """What is scored beside the estimates, and how thoroughly.

    Attributes:
        baselines: of `mixture` and the names of `ORACLES`.
        bss: also what takes long, the metrics of BSS Eval.
    """

    baselines: tuple[str, ...] = (MIXTURE,)
    bss: bool = True


def score_separation(track: Track, separate: Separate, wanted: Wanted = Wanted()) -> Scores:
    """Separate a track's mixture and score what comes out.

    Raises:
        InputError: a file can't be read, or no stem is in both.
    """
    mixture = _read_mixture(track)
    pair = _matched(track, separate(mixture, track.sample_rate), partial=False)
    return _score(track, pair, mixture, None, wanted)


def score_files(track: Track, estimate: Track, wanted: Wanted = Wanted()) -> Scores:
    """Score the stems of `estimate`, which has the rate of `track`, against those of `track`.

    Raises:
        InputError: a file can't be read, or no stem is in both.
    """
    # those whose names say what they hold may have a reference to be compared with
    sums = [one for one in estimate.sums if left_out_by(one.name, estimate.stems) is None]
    estimate = replace(estimate, sums=tuple(sums)).without_sums(track.stems)
    estimates = {stem: torch.from_numpy(source.read()) for stem, source in estimate.stems.items()}
    pair = _matched(track, estimates, partial=True, notes=estimate.left_out)
    declared = {
        stem: source.parts[0].info.sample_rate for stem, source in estimate.stems.items() if source.parts
    }
    return _score(track, pair, _read_mixture(track), declared, wanted)


def _score(
    track: Track, pair: "_Pair", mixture: Tensor, declared_hz: Mapping[str, int] | None, wanted: Wanted
) -> Scores:
    rate = track.sample_rate
    findings = examine(pair.truth, pair.estimates, rate, declared_hz)
    baselines = {
        name: score_stems(pair.truth, _baseline(name, pair, mixture), rate, bss=wanted.bss)
        for name in wanted.baselines
    }
    stems = score_stems(pair.truth, pair.estimates, rate, bss=wanted.bss)
    return Scores(stems, baselines, tuple(findings), (*track.problems, *pair.notes))


def _baseline(name: str, pair: "_Pair", mixture: Tensor) -> dict[str, Tensor]:
    if name == MIXTURE:
        return dict.fromkeys(pair.estimates, mixture)
    found = ORACLES[name](torch.stack(list(pair.truth.values())), mixture)
    return {stem: one for stem, one in zip(pair.truth, found, strict=True) if stem in pair.estimates}


# ---------------------------------------------------------------- stems


def _read(track: Track) -> dict[str, Tensor]:
    return {stem: _tensor(source, track) for stem, source in track.stems.items()}


def _read_mixture(track: Track) -> Tensor:
    return _tensor(track.mix, track)


def _tensor(source: Source, track: Track) -> Tensor:
    """[C, T] with the track's channels and length."""
    return torch.from_numpy(convert_channels(source.read(0, track.frames), track.channels))


@dataclass(frozen=True)
class _Pair:
    """References and estimates that mean the same.

    Attributes:
        truth: references [C, T] by stem. Those that nothing estimates still count as interference.
        estimates: [C, any] by stem, some of the references' names.
        notes: what had to be added up or left out for that.
    """

    truth: dict[str, Tensor]
    estimates: dict[str, Tensor]
    notes: tuple[str, ...] = ()


def _matched(
    track: Track, estimates: Mapping[str, Tensor], *, partial: bool, notes: Sequence[str] = ()
) -> _Pair:
    """References and estimates under the same names; `other` is the rest of whatever a side has.

    Args:
        track: the references.
        estimates: of any stems, channels and lengths.
        partial: stems may be missing; otherwise what isn't estimated is within the estimate of `other`.
        notes: what is known of the estimates.

    Raises:
        InputError: no stem is in both.
    """
    track = track.without_sums(estimates)
    truth = _read(track)
    found = {stem: _with_channels(x, track.channels) for stem, x in estimates.items()}
    notes = [*track.left_out, *(f"of the estimates, {note}" for note in notes)]
    complements = {stem: whole for stem in found if (whole := _lacking(stem, truth))}
    if complements and set(found) <= {*complements, *complements.values()}:
        (name, whole), *_ = complements.items()
        truth = {whole: truth[whole], name: _sum(x for stem, x in truth.items() if stem != whole)}
    elif REST in found and REST in truth:
        extra = [stem for stem in found if stem not in truth and left_out_by(stem, truth) is None]
        found = _folded(found, extra, notes)
        if not partial:
            truth = _folded(
                truth, [s for s in truth if s not in found and left_out_by(s, truth) is None], notes
            )
    notes += [f"{stem} isn't scored: no such reference" for stem in found if stem not in truth]
    found = {stem: found[stem] for stem in truth if stem in found}
    if not found:
        have, want = ", ".join(estimates), ", ".join(truth)
        reason = f"no stem is in both: the estimates are {have or 'none'}, the references {want}"
        raise InputError(track.name, reason)
    if missing := [stem for stem in truth if stem not in found]:
        notes.append(f"nothing estimates {', '.join(missing)}")
    return _Pair(truth, found, tuple(notes))


def _lacking(name: str, truth: Mapping[str, Tensor]) -> str | None:
    """The stem that `name` is everything but; None where it is a stem itself or unknown."""
    lacking = [stem for stem in truth if stem in (left_out_by(name, truth) or ())]
    return lacking[0] if len(lacking) == 1 and name not in truth else None


def _folded(stems: dict[str, Tensor], extra: list[str], notes: list[str]) -> dict[str, Tensor]:
    """The same with the stems `extra` added to the rest."""
    if extra:
        notes.append(f"{', '.join(extra)} counted as part of {REST}")
    kept = {stem: x for stem, x in stems.items() if stem not in extra}
    return kept | {REST: _sum(stems[stem] for stem in (REST, *extra))}


def _sum(signals: Iterable[Tensor]) -> Tensor:
    """The sum of some [C, any], as long as the longest."""
    parts = list(signals)
    total = torch.zeros(parts[0].shape[0], max(x.shape[-1] for x in parts))
    for part in parts:
        total[:, : part.shape[-1]] += part
    return total


def _with_channels(signal: Tensor, channels: int) -> Tensor:
    return torch.from_numpy(convert_channels(signal.numpy(), channels))


# ---------------------------------------------------------------- numbers


def score_stems(
    truth: Mapping[str, Tensor], estimates: Mapping[str, Tensor], sample_rate: int, *, bss: bool = True
) -> Table:
    """Every metric of every estimate, by stem.

    A stem whose reference is digital silence has no scores; one second is a frame, and metrics of frames are
    medians over those that have a value.

    Args:
        truth: references [C, T].
        estimates: [C, any] for some of their names; cut or filled with zeros to T.
        sample_rate: in Hz.
        bss: also BSS Eval.
    """
    samples = next(iter(truth.values())).shape[-1]
    fitted = {stem: _fitted(estimates[stem], samples) for stem in truth if stem in estimates}
    table = {stem: _whole(truth[stem], estimate, sample_rate) for stem, estimate in fitted.items()}
    if bss:
        nothing = torch.zeros_like(next(iter(truth.values())))
        guesses = [fitted.get(stem, nothing) for stem in truth]
        found = bsseval(list(truth.values()), guesses, window=sample_rate)
        medians = torch.stack([nan_median(getattr(found, ratio)) for ratio in BSS.values()], -1)  # [S, 4]
        for stem, row in zip(truth, medians.tolist(), strict=True):
            if stem in table:
                table[stem] |= dict(zip(BSS, row, strict=True))
    return table


def _fitted(signal: Tensor, samples: int) -> Tensor:
    """[C, any] to [C, samples]."""
    return torch.nn.functional.pad(signal[:, :samples], (0, max(0, samples - signal.shape[-1])))


def _whole(truth: Tensor, estimate: Tensor, sample_rate: int) -> dict[str, float]:
    if not truth.any():
        return dict.fromkeys(WHOLE, math.nan)
    return {name: float(function(truth, estimate, sample_rate)) for name, function in WHOLE.items()}
