"""Checks of estimates before they are scored: late, swapped, scaled, cut, silent, of another rate.

Such files score far below what the separation deserves, and the scores don't tell why. Each finding is
reported with its cost in dB; estimates are never corrected silently. `score` runs the checks for each track.
"""

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

Kind = Literal["rate", "speed", "length", "silent", "order", "delay", "polarity", "gain"]

EXCERPT_S = 20.0  # length of each reference's loudest part, in which delays and swaps are searched
REACH_S = 2.0  # the longest delay that is searched for
COST_DB = 1.0  # the least SDR that a delay or gain must cost to be reported
GAIN_DB = 1.0  # smaller gains are taken for the imperfection of a separation
SWAP_DB = 3.0  # the least SDR that a swap must cost, on average over the swapped stems
MIN_EXPLAINED = 0.1  # share of an estimate's energy that a delay or swap must explain, to be more than chance
LENGTH_S = 0.05  # smaller differences of length are the padding of an encoder
SILENCE_DB = -70.0  # RMS below which a stem counts as silent, dB of full scale
RATES = (22050, 24000, 32000, 44100, 48000, 88200, 96000)  # sample rates in Hz that files are mistaken for


@dataclass(frozen=True)
class Finding:
    """Something wrong with an estimate.

    Attributes:
        kind: the kind of fault.
        stem: the stem whose estimate it is.
        message: a sentence without its subject, the stem, and without a final stop.
        value: seconds for `delay` and `length` (positive: too late, too long), dB for `gain`, `polarity` and
            `silent`, a factor for `speed` and `rate`, None for `order`.
        cost_db: by how many dB the SDR would be higher without the fault; None if unknown.
    """

    kind: Kind
    stem: str
    message: str
    value: float | None = None
    cost_db: float | None = None


def examine(
    references: Mapping[str, Tensor],
    estimates: Mapping[str, Tensor],
    sample_rate: int,
    declared_hz: Mapping[str, int] | None = None,
) -> list[Finding]:
    """Run all checks on the stems that have both a reference and an estimate.

    Args:
        references: [C, T] by stem, all of one length.
        estimates: [C, any] by stem, at `sample_rate`.
        sample_rate: in Hz.
        declared_hz: the rates of the estimates' files before they were resampled; none for estimates that
            don't come from files.

    Returns:
        Findings in the order of the stems.
    """
    stems = [stem for stem in references if stem in estimates]
    found = [
        *_rates(stems, sample_rate, declared_hz or {}),
        *_lengths(references, estimates, stems, sample_rate, declared_hz or {}),
        *_silences(references, estimates, stems),
    ]
    silent = {finding.stem for finding in found if finding.kind == "silent"}
    sounding = [stem for stem in stems if stem not in silent]
    if sounding:
        found += _Comparison(references, estimates, sounding, sample_rate).findings()
    return sorted(found, key=lambda finding: stems.index(finding.stem))


# ---------------------------------------------------------------- files


def _rates(stems: Sequence[str], sample_rate: int, declared_hz: Mapping[str, int]) -> list[Finding]:
    return [
        Finding(
            "rate",
            stem,
            f"was resampled from {declared_hz[stem]} Hz to {sample_rate} Hz, the reference's rate",
            declared_hz[stem] / sample_rate,
        )
        for stem in stems
        if declared_hz.get(stem, sample_rate) != sample_rate
    ]


def _lengths(
    references: Mapping[str, Tensor],
    estimates: Mapping[str, Tensor],
    stems: Sequence[str],
    sample_rate: int,
    declared_hz: Mapping[str, int],
) -> list[Finding]:
    found = []
    for stem in stems:
        wanted, have = references[stem].shape[-1], estimates[stem].shape[-1]
        missing_s = (have - wanted) / sample_rate
        claimed = declared_hz.get(stem, sample_rate)
        true = _true_rate(have / wanted, claimed)
        if (
            true
            and abs(missing_s) > LENGTH_S
            and _was_stretched(references[stem], estimates[stem], sample_rate)
        ):
            message = f"lasts {have / wanted:.4f} times as long: {true} Hz audio taken for {claimed} Hz"
            found.append(Finding("speed", stem, message, wanted / have))
        elif abs(missing_s) > LENGTH_S:
            message = f"is {abs(missing_s):.2f} s too {'long' if missing_s > 0 else 'short'}"
            found.append(Finding("length", stem, message, missing_s))
        elif (early_s := _ends_early(references[stem], estimates[stem]) / sample_rate) > LENGTH_S:
            found.append(Finding("length", stem, f"has no sound in the last {early_s:.2f} s", -early_s))
    return found


def _true_rate(ratio: float, claimed_hz: int) -> int | None:
    """Return the rate of audio that lasts `ratio` times as long when taken for `claimed_hz`, or None."""
    return next((rate for rate in RATES if abs(ratio * claimed_hz / rate - 1) < 1e-4), None)


def _was_stretched(reference: Tensor, estimate: Tensor, sample_rate: int) -> bool:
    """Tell whether an estimate resembles the reference once it is stretched to its length, and not before.

    The length alone doesn't tell: a file that was cut may have the length that another rate would give.
    """
    wanted, common = reference.shape[-1], min(reference.shape[-1], estimate.shape[-1])
    where = _loudest(reference[:, :common], int(EXCERPT_S * sample_rate), sample_rate)
    mono = estimate.mean(0)  # [any]
    stretched = torch.nn.functional.interpolate(mono[None, None], wanted, mode="linear")[0, 0]  # [T]
    target = reference[:, where].mean(0)  # [n]
    candidates = torch.stack([_excerpt(mono, where), _excerpt(stretched, where)])  # [2, n]
    products = _correlate(target, candidates, int(LENGTH_S * sample_rate)).abs().amax(-1)  # [2]
    # squared correlation coefficients, the shares of energy that are explained
    explained_before, explained_after = products.square() / (
        target.square().sum() * candidates.square().sum(-1)
    )
    return bool(explained_after > MIN_EXPLAINED and not explained_before >= explained_after)


def _ends_early(reference: Tensor, estimate: Tensor) -> int:
    """Return how many samples before the reference's last sound the estimate falls digitally silent."""
    sounding = _sounding_samples(estimate)
    return max(0, _sounding_samples(reference) - sounding) if sounding else 0


def _sounding_samples(signal: Tensor) -> int:
    sounding = signal.ne(0).any(0).nonzero()
    return int(sounding[-1]) + 1 if len(sounding) else 0


def _silences(
    references: Mapping[str, Tensor], estimates: Mapping[str, Tensor], stems: Sequence[str]
) -> list[Finding]:
    found = []
    for stem in stems:
        wanted, have = (_level_db(signals[stem]) for signals in (references, estimates))
        if wanted < SILENCE_DB:
            found.append(
                Finding("silent", stem, f"has a reference that is {_level(wanted)}", _or_none(wanted))
            )
        elif have < SILENCE_DB:
            found.append(Finding("silent", stem, f"is {_level(have)}", _or_none(have)))
    return found


def _level_db(signal: Tensor) -> float:
    mean = signal.square().sum(dtype=torch.float64) / max(1, signal.numel())
    return float(10 * torch.log10(mean))


def _level(level_db: float) -> str:
    return "silent" if level_db == -torch.inf else f"nearly silent ({level_db:.0f} dB)"


def _or_none(value: float) -> float | None:
    return value if value > -torch.inf else None


# ---------------------------------------------------------------- sound


class _Comparison:
    """Comparison of all estimates with all references at all delays, on mono excerpts.

    With unit energies and correlation c, an estimate that may be scaled freely leaves the error 1 − c².

    Attributes:
        reference_energy: energy of each reference's excerpt, [S].
        estimate_energy: energy of each estimate in each reference's excerpt, [S references, S estimates].
        undelayed: their products without a delay, [S, S].
        best: their products at the delay where the magnitude is largest, [S, S].
        delay: that delay in samples, positive if the estimate is late, [S, S].
    """

    def __init__(
        self,
        references: Mapping[str, Tensor],
        estimates: Mapping[str, Tensor],
        stems: Sequence[str],
        sample_rate: int,
    ) -> None:
        self.stems, self.sample_rate = list(stems), sample_rate
        count = len(self.stems)
        self.reference_energy = torch.zeros(count)
        self.estimate_energy = torch.zeros(count, count)
        self.undelayed = torch.zeros(count, count)
        self.best = torch.zeros(count, count)
        self.delay = torch.zeros(count, count, dtype=torch.long)
        for row, stem in enumerate(self.stems):
            self._compare(row, references[stem], [estimates[name] for name in self.stems])

    def _compare(self, row: int, reference: Tensor, estimates: Sequence[Tensor]) -> None:
        where = _loudest(reference, int(EXCERPT_S * self.sample_rate), self.sample_rate)
        target = reference[:, where].mean(0)  # [n]
        excerpts = torch.stack([_excerpt(estimate.mean(0), where) for estimate in estimates])  # [S, n]
        reach = int(REACH_S * self.sample_rate)
        products = _correlate(target, excerpts, reach)  # [S, 2·reach + 1]
        top = products.abs().argmax(-1)  # [S]
        self.reference_energy[row] = target.square().sum()
        self.estimate_energy[row] = excerpts.square().sum(-1)
        self.undelayed[row] = products[:, reach]
        self.best[row] = products.gather(-1, top[:, None])[:, 0]
        self.delay[row] = top - reach

    def findings(self) -> list[Finding]:
        """Return swaps, and for stems that aren't swapped, delays, inverted polarities and gains."""
        order = self._best_order()
        found = []
        for row, column in enumerate(order):
            if row != column:
                message = f"is in the estimate of {self.stems[column]}: are the stems in order?"
                cost = float(self._fit_db()[row, column] - self._fit_db()[row, row])
                found.append(Finding("order", self.stems[row], message, None, cost))
            else:
                found += self._stem_findings(row)
        return found

    def _fit_db(self) -> Tensor:
        """Return the SI-SDR of every estimate for every reference at the best delay, in dB, [S, S]."""
        # SI-SDR = 10·log10(c² / (1 − c²)) with the squared correlation c²
        explained = self.best.square() / (self.reference_energy[:, None] * self.estimate_energy)
        explained = explained.nan_to_num(0).clamp(1e-6, 1 - 1e-6)
        return 10 * torch.log10(explained / (1 - explained))

    def _best_order(self) -> list[int]:
        """Return the estimate of each reference: the one of its name, unless others fit far better."""
        fit, own = self._fit_db(), list(range(len(self.stems)))
        order = _best_assignment(fit)
        moved = [i for i in own if order[i] != i]
        if not moved:
            return own
        gains = [float(fit[i, order[i]] - fit[i, i]) for i in moved]
        fits = all(float(fit[i, order[i]]) > _min_explained_db() for i in moved)
        return order if fits and sum(gains) / len(gains) > SWAP_DB else own

    def _stem_findings(self, row: int) -> list[Finding]:
        """Return the delay, polarity and gain of a stem that isn't swapped, as far as they are faults."""
        stem = self.stems[row]
        reference, estimate = float(self.reference_energy[row]), float(self.estimate_energy[row, row])
        product, best, delay = (float(x[row, row]) for x in (self.undelayed, self.best, self.delay))
        found = []
        if best**2 > MIN_EXPLAINED * reference * estimate:
            cost = _scaled_sdr(best, reference, estimate) - _scaled_sdr(product, reference, estimate)
            if delay and cost > COST_DB:
                seconds = delay / self.sample_rate
                sense = "late" if delay > 0 else "early"
                message = f"is {abs(delay):.0f} samples ({abs(seconds):.4f} s) too {sense}"
                found.append(Finding("delay", stem, message, seconds, cost))
                product = best
        gain = product / reference if reference else 0.0  # <ŝ, s> / |s|², at which s is in the estimate ŝ
        if gain and product**2 > MIN_EXPLAINED * reference * estimate:
            corrected = _sdr(product / gain, reference, estimate / gain**2)
            cost = corrected - _sdr(product, reference, estimate)
            gain_db = 20 * math.log10(abs(gain))
            if cost > COST_DB and (gain < 0 or abs(gain_db) > GAIN_DB):
                kind: Kind = "gain" if gain > 0 else "polarity"
                message = f"is scaled by {gain_db:+.1f} dB" if gain > 0 else "has its polarity inverted"
                found.append(Finding(kind, stem, message, gain_db, cost))
        return found


def _best_assignment(fit: Tensor) -> list[int]:
    """Return a column for each row of [S, S], by exchanging two as long as that makes the sum larger."""
    order = list(range(len(fit)))
    pairs = list(itertools.combinations(order, 2))
    while True:
        gains = [
            float(fit[i, order[j]] + fit[j, order[i]] - fit[i, order[i]] - fit[j, order[j]]) for i, j in pairs
        ]
        if not gains or max(gains) < 0.01:  # dB; without a threshold rounding could exchange equals for ever
            return order
        i, j = pairs[gains.index(max(gains))]
        order[i], order[j] = order[j], order[i]


def _min_explained_db() -> float:
    return 10 * math.log10(MIN_EXPLAINED / (1 - MIN_EXPLAINED))


def _sdr(product: float, reference: float, estimate: float) -> float:
    """Return the SDR in dB from the energies |s|², |ŝ|² and the product <s, ŝ>."""
    error = max(reference - 2 * product + estimate, 1e-9 * reference)  # |s − ŝ|²
    return 10 * math.log10(reference / error)


def _scaled_sdr(product: float, reference: float, estimate: float) -> float:
    """Return the SDR in dB of an estimate that is scaled by the best gain, <s, ŝ> / |ŝ|²."""
    gain = product / estimate
    return _sdr(gain * product, reference, gain**2 * estimate)


def _loudest(signal: Tensor, samples: int, step: int) -> slice:
    """Return the loudest range of `samples` samples of [C, T], in steps of `step`."""
    if signal.shape[-1] <= samples:
        return slice(0, signal.shape[-1])
    steps = torch.stack([piece.square().sum() for piece in signal.split(step, -1)])  # [T/step]
    count = samples // step
    start = (
        int(steps.unfold(0, count, 1).sum(-1).argmax()) * step
    )  # windows of steps: [T/step − count + 1, count]
    return slice(start, start + samples)


def _excerpt(signal: Tensor, where: slice) -> Tensor:
    """Return a range of a signal [T], with zeros after its end."""
    piece = signal[where]
    return torch.nn.functional.pad(piece, (0, where.stop - where.start - piece.shape[-1]))


def _correlate(reference: Tensor, estimates: Tensor, reach: int) -> Tensor:
    """Return the correlations Σ_n s[n]·ŝ[n + d] for delays d from −reach to reach, by FFT.

    Args:
        reference: s, [n].
        estimates: ŝ, [E, n].
        reach: in samples.

    Returns:
        [E, 2·reach + 1].
    """
    size = 1 << (reference.shape[-1] + reach).bit_length()
    spectra = torch.fft.rfft(estimates, size) * torch.fft.rfft(reference, size).conj()  # [E, size/2 + 1]
    products: Tensor = torch.fft.irfft(spectra, size)  # [E, size], negative delays at the end
    return torch.cat([products[:, -reach:], products[:, : reach + 1]], -1)  # [E, 2·reach + 1]
