"""Score one track: every metric of every stem, for the estimates and for the baselines.

Stems of references and estimates are matched by name first; `findings` checks the estimates, `metrics` and
`bsseval` compute the scores. `run` calls this for each track.
"""

import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from stemsplit.audio.channels import convert_channels
from stemsplit.datasets.names import MIXTURE, left_out_by
from stemsplit.datasets.tracks import Source, Track
from stemsplit.errors import InputError, SettingsError
from stemsplit.evaluation.bsseval import bsseval
from stemsplit.evaluation.findings import Finding, examine
from stemsplit.evaluation.metrics import nan_median
from stemsplit.evaluation.oracles import ORACLES
from stemsplit.evaluation.table import DEFAULT_METRICS, METRICS, Signals, ordered

OTHER = "other"

# Returns the stems [C, T] by name of a mixture [C, T] with its rate in Hz, at the same rate.
Separate = Callable[[Tensor, int], Mapping[str, Tensor]]
Table = dict[str, dict[str, float]]  # scores by stem and metric; NaN if undefined


@dataclass(frozen=True)
class Scores:
    """The scores of one track.

    Attributes:
        stems: the metrics of every stem that was estimated.
        baselines: the same for the mixture as the estimate of every stem, and for the oracles.
        findings: faults of the estimates.
        notes: remarks on how stems were matched and on the references, one sentence each.
    """

    stems: Table
    baselines: dict[str, Table]
    findings: tuple[Finding, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class ScoreOptions:
    """Baselines and metrics of an evaluation.

    Attributes:
        baselines: `mixture` and names of `ORACLES`.
        metrics: names of `METRICS`.
        bss: False leaves out the metrics of BSS Eval, which take longest.

    Raises:
        SettingsError: that leaves none of the metrics.
    """

    baselines: tuple[str, ...] = (MIXTURE,)
    metrics: tuple[str, ...] = DEFAULT_METRICS
    bss: bool = True

    def __post_init__(self) -> None:
        if self.metrics and not self.wanted:
            raise SettingsError(
                f"--metric {','.join(self.metrics)}: nothing is left with --no-bss", setting="metrics"
            )

    @property
    def wanted(self) -> tuple[str, ...]:
        """Return the metrics that are computed."""
        return ordered([name for name in self.metrics if self.bss or METRICS[name].function])


def score_separation(track: Track, separate: Separate, options: ScoreOptions = ScoreOptions()) -> Scores:
    """Separate a track's mixture and score the stems.

    Raises:
        InputError: a file can't be read, or no stem is both estimated and in the references.
    """
    mixture = _read_mixture(track)
    matched = _match(track, separate(mixture, track.sample_rate), partial=False)
    return _score(track, matched, mixture, None, options)


def score_files(track: Track, estimate: Track, options: ScoreOptions = ScoreOptions()) -> Scores:
    """Score the stems of `estimate`, which has the rate of `track`, against those of `track`.

    Raises:
        InputError: a file can't be read, or no stem is in both.
    """
    # Sums by name (such as `no_vocals`) stay: they may have a reference to be compared with.
    sums = [one for one in estimate.sums if left_out_by(one.name, estimate.stems) is None]
    estimate = replace(estimate, sums=tuple(sums)).without_sums(track.stems)
    estimates = {stem: torch.from_numpy(source.read()) for stem, source in estimate.stems.items()}
    matched = _match(track, estimates, partial=True, notes=estimate.left_out)
    declared = {
        stem: source.parts[0].info.sample_rate for stem, source in estimate.stems.items() if source.parts
    }
    return _score(track, matched, _read_mixture(track), declared, options)


def _score(
    track: Track,
    matched: "_Matched",
    mixture: Tensor,
    declared_hz: Mapping[str, int] | None,
    options: ScoreOptions,
) -> Scores:
    rate = track.sample_rate
    findings = examine(matched.references, matched.estimates, rate, declared_hz)
    score = partial(
        score_stems, matched.references, sample_rate=rate, mixture=mixture, metrics=options.wanted
    )
    baselines = {name: score(_baseline(name, matched, mixture)) for name in options.baselines}
    stems = score(matched.estimates)
    return Scores(stems, baselines, tuple(findings), (*track.problems, *matched.notes))


def _baseline(name: str, matched: "_Matched", mixture: Tensor) -> dict[str, Tensor]:
    if name == MIXTURE:
        return dict.fromkeys(matched.estimates, mixture)
    found = ORACLES[name](torch.stack(list(matched.references.values())), mixture)
    return {
        stem: one for stem, one in zip(matched.references, found, strict=True) if stem in matched.estimates
    }


# ---------------------------------------------------------------- stems


def _read(track: Track) -> dict[str, Tensor]:
    return {stem: _tensor(source, track) for stem, source in track.stems.items()}


def _read_mixture(track: Track) -> Tensor:
    return _tensor(track.mix, track)


def _tensor(source: Source, track: Track) -> Tensor:
    """Read a source with the track's channels and length, [C, T]."""
    return torch.from_numpy(convert_channels(source.read(0, track.frames), track.channels))


@dataclass(frozen=True)
class _Matched:
    """References and estimates under common names.

    Attributes:
        references: [C, T] by stem. Those without an estimate still count as interference.
        estimates: [C, any] by stem, of some of the references' names.
        notes: which stems were added up or left out to match, one sentence each.
    """

    references: dict[str, Tensor]
    estimates: dict[str, Tensor]
    notes: tuple[str, ...] = ()


def _match(
    track: Track, estimates: Mapping[str, Tensor], *, partial: bool, notes: Sequence[str] = ()
) -> _Matched:
    """Match references and estimates by name; stems that only one side has are added to its `other`.

    Args:
        track: the references.
        estimates: stems with any names, channels and lengths.
        partial: the estimates of some stems may be missing. Otherwise they are complete, so that the
            estimate of `other` holds all stems that aren't estimated by themselves.
        notes: remarks on the estimates.

    Raises:
        InputError: no stem is in both.
    """
    track = track.without_sums(estimates)
    references = _read(track)
    found = {stem: with_channels(x, track.channels) for stem, x in estimates.items()}
    notes = [*track.left_out, *(f"of the estimates, {note}" for note in notes)]
    complements = {stem: whole for stem in found if (whole := _complement_of(stem, references))}
    if complements and set(found) <= {*complements, *complements.values()}:
        (name, whole), *_ = complements.items()
        references = {
            whole: references[whole],
            name: _sum(x for stem, x in references.items() if stem != whole),
        }
    elif OTHER in found and OTHER in references:
        found = _fold_into_other(found, parts_of_other(found, references), notes)
        if not partial:
            references = _fold_into_other(references, parts_of_other(references, found), notes)
    notes += [f"{stem} isn't scored: no such reference" for stem in found if stem not in references]
    found = {stem: found[stem] for stem in references if stem in found}
    if not found:
        have, want = ", ".join(estimates), ", ".join(references)
        reason = f"no stem is in both: the estimates are {have or 'none'}, the references {want}"
        raise InputError(track.name, reason)
    if missing := [stem for stem in references if stem not in found]:
        notes.append(f"nothing estimates {', '.join(missing)}")
    return _Matched(references, found, tuple(notes))


def parts_of_other(stems: Collection[str], others: Collection[str]) -> list[str]:
    """Return the stems on one side, estimates or references, that count as part of its `other`.

    Those are the ones that the other side doesn't have, but for sums by name such as `no_vocals`; none if a
    side has no `other`.

    Args:
        stems: the names on this side.
        others: the names on the other side.
    """
    if OTHER not in stems or OTHER not in others:
        return []
    return [stem for stem in stems if stem not in others and left_out_by(stem, others) is None]


def _complement_of(name: str, references: Mapping[str, Tensor]) -> str | None:
    """Return the stem of which `name` is the complement (`no_bass`: `bass`); None for other names."""
    lacking = [stem for stem in references if stem in (left_out_by(name, references) or ())]
    return lacking[0] if len(lacking) == 1 and name not in references else None


def _fold_into_other(stems: dict[str, Tensor], extra: list[str], notes: list[str]) -> dict[str, Tensor]:
    """Return the stems with those of `extra` added to `other`, and note it."""
    if extra:
        notes.append(f"{', '.join(extra)} counted as part of {OTHER}")
    kept = {stem: x for stem, x in stems.items() if stem not in extra}
    return kept | {OTHER: _sum(stems[stem] for stem in (OTHER, *extra))}


def _sum(signals: Iterable[Tensor]) -> Tensor:
    """Return the sum of signals [C, any], as long as the longest, [C, T]."""
    parts = list(signals)
    total = torch.zeros(parts[0].shape[0], max(x.shape[-1] for x in parts))
    for part in parts:
        total[:, : part.shape[-1]] += part
    return total


def with_channels(signal: Tensor, channels: int) -> Tensor:
    """Return a signal [C, T] with the channels in which it is scored, those of the references."""
    return torch.from_numpy(convert_channels(signal.numpy(), channels))


# ---------------------------------------------------------------- numbers


def score_stems(
    references: Mapping[str, Tensor],
    estimates: Mapping[str, Tensor],
    sample_rate: int,
    *,
    mixture: Tensor | None = None,
    metrics: Sequence[str] = DEFAULT_METRICS,
) -> Table:
    """Return metrics of every estimate, by stem.

    A stem whose reference is digital silence has NaN scores. Frames are one second long, and metrics of
    frames are medians over the frames that aren't NaN.

    Args:
        references: [C, T] by stem.
        estimates: [C, any] for some of their names; cut or filled with zeros to T.
        sample_rate: in Hz.
        mixture: [C, T]; None is the sum of the references.
        metrics: names of `METRICS`.
    """
    samples = next(iter(references.values())).shape[-1]
    fitted = {stem: _fitted(estimates[stem], samples) for stem in references if stem in estimates}
    mixture = _sum(references.values()) if mixture is None else mixture
    alone = [name for name in metrics if METRICS[name].function]
    table = {
        stem: _stem_scores(Signals(references[stem], estimate, mixture, sample_rate), alone)
        for stem, estimate in fitted.items()
    }
    if filtered := {name: bss for name in metrics if (bss := METRICS[name].bss)}:
        nothing = torch.zeros_like(next(iter(references.values())))
        guesses = [fitted.get(stem, nothing) for stem in references]
        found = bsseval(list(references.values()), guesses, window=sample_rate)
        medians = torch.stack(
            [nan_median(getattr(found, ratio)) for ratio in filtered.values()], -1
        )  # [S, ≤ 4]
        for stem, row in zip(references, medians.tolist(), strict=True):
            if stem in table:
                table[stem] |= dict(zip(filtered, row, strict=True))
    return {stem: {name: row[name] for name in metrics} for stem, row in table.items()}


def _fitted(signal: Tensor, samples: int) -> Tensor:
    """Cut a signal [C, any] or fill it with zeros to [C, samples]."""
    return torch.nn.functional.pad(signal[:, :samples], (0, max(0, samples - signal.shape[-1])))


def _stem_scores(signals: Signals, metrics: Sequence[str]) -> dict[str, float]:
    if not signals.reference.any():
        return dict.fromkeys(metrics, math.nan)
    functions = {name: METRICS[name].function for name in metrics}
    return {name: float(function(signals)) for name, function in functions.items() if function}
