"""What is wrong with estimates before they are scored: late, swapped, scaled, cut, silent, of another rate.

Such files give scores far below what the separation deserves, and nothing in the scores tells why. What is
found here is reported with what it costs, and nothing is put right in silence.
"""

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

Kind = Literal["rate", "speed", "length", "silent", "order", "delay", "polarity", "gain"]

EXCERPT_S = 20.0  # of each reference where it is loudest; what delays and swaps are looked for in
REACH_S = 2.0  # the longest delay that is looked for
COST_DB = 1.0  # what a delay or gain must cost at least to be reported
GAIN_DB = 1.0  # what is no more than a separation's imperfection
SWAP_DB = 3.0  # what a swap must cost on average
HIDDEN = 0.1  # the least correlation that a delay or swap must have, to be more than chance
LENGTH_S = 0.05  # decoders differ by a packet's length
SILENCE_DB = -70.0  # rms below which a stem is taken for silence
RATES = (22050, 24000, 32000, 44100, 48000, 88200, 96000)


@dataclass(frozen=True)
class Finding:
    """Something wrong with an estimate.

    Attributes:
        kind: which sort of trouble.
        stem: whose estimate.
        message: a sentence without a final stop, but for its subject, the stem.
        value: seconds for `delay` and `length` (positive: too late, too long), dB for `gain`, `polarity` and
            `silent`, a factor for `speed` and `rate`, None for `order`.
        cost_db: by how much the SDR would be higher without it, None where that isn't known.
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
    """Look for everything; of stems that are in both.

    Args:
        references: [C, T] by stem, all of one length.
        estimates: [C, any] by stem, at `sample_rate`.
        sample_rate: in Hz.
        declared_hz: the rates of the estimates' files before they were resampled, where they had files.

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
    """Of which rate audio is that lasts `ratio` times as long when it is taken for `claimed_hz`, if any."""
    return next((rate for rate in RATES if abs(ratio * claimed_hz / rate - 1) < 1e-4), None)


def _was_stretched(reference: Tensor, estimate: Tensor, sample_rate: int) -> bool:
    """Whether an estimate is like the reference when it is brought to its length, and not as it is.

    What was cut may have the length that another rate would give by chance.
    """
    wanted, common = reference.shape[-1], min(reference.shape[-1], estimate.shape[-1])
    where = _loudest(reference[:, :common], int(EXCERPT_S * sample_rate), sample_rate)
    guess = estimate.mean(0)
    stretched = torch.nn.functional.interpolate(guess[None, None], wanted, mode="linear")[0, 0]
    mine, others = reference[:, where].mean(0), torch.stack([_at(guess, where), _at(stretched, where)])
    products = _correlate(mine, others, int(LENGTH_S * sample_rate)).abs().amax(-1)
    as_it_is, likeness = products.square() / (mine.square().sum() * others.square().sum(-1))
    return bool(likeness > HIDDEN and not as_it_is >= likeness)


def _ends_early(reference: Tensor, estimate: Tensor) -> int:
    """How many samples the estimate is digitally silent before the reference falls silent too."""
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
                Finding("silent", stem, f"has a reference that is {_level(wanted)}", _finite(wanted))
            )
        elif have < SILENCE_DB:
            found.append(Finding("silent", stem, f"is {_level(have)}", _finite(have)))
    return found


def _level_db(signal: Tensor) -> float:
    mean = signal.square().sum(dtype=torch.float64) / max(1, signal.numel())
    return float(10 * torch.log10(mean))


def _level(level_db: float) -> str:
    return "silent" if level_db == -torch.inf else f"nearly silent ({level_db:.0f} dB)"


def _finite(value: float) -> float | None:
    return value if value > -torch.inf else None


# ---------------------------------------------------------------- sound


class _Comparison:
    """All estimates against all references, at all delays.

    With unit energies and correlation c, an estimate that may be scaled freely has the error 1 − c².
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
        self.power = torch.zeros(count)  # of each reference's excerpt
        self.guess = torch.zeros(count, count)  # of the estimates there, [reference, estimate]
        self.now = torch.zeros(count, count)  # their products without any delay
        self.best = torch.zeros(count, count)  # their products of the largest magnitude
        self.delay = torch.zeros(count, count, dtype=torch.long)  # and where that is, in samples
        for row, stem in enumerate(self.stems):
            self._compare(row, references[stem], [estimates[name] for name in self.stems])

    def _compare(self, row: int, reference: Tensor, estimates: Sequence[Tensor]) -> None:
        where = _loudest(reference, int(EXCERPT_S * self.sample_rate), self.sample_rate)
        mine = reference[:, where].mean(0)
        others = torch.stack([_at(estimate.mean(0), where) for estimate in estimates])
        reach = int(REACH_S * self.sample_rate)
        products = _correlate(mine, others, reach)  # [E, 2·reach + 1]
        top = products.abs().argmax(-1)
        self.power[row], self.guess[row] = mine.square().sum(), others.square().sum(-1)
        self.now[row] = products[:, reach]
        self.best[row] = products.gather(-1, top[:, None])[:, 0]
        self.delay[row] = top - reach

    def findings(self) -> list[Finding]:
        """Swaps; and for stems that are in their place, delays, polarities and gains."""
        order = self._best_order()
        found = []
        for row, column in enumerate(order):
            if row != column:
                message = f"is in the estimate of {self.stems[column]}: are the stems in order?"
                cost = float(self._fit_db()[row, column] - self._fit_db()[row, row])
                found.append(Finding("order", self.stems[row], message, None, cost))
            else:
                found += self._of_one(row)
        return found

    def _fit_db(self) -> Tensor:
        """SI-SDR of every estimate for every reference, at the best delay, [S, S]."""
        explained = self.best.square() / (self.power[:, None] * self.guess)
        explained = explained.nan_to_num(0).clamp(1e-6, 1 - 1e-6)
        return 10 * torch.log10(explained / (1 - explained))

    def _best_order(self) -> list[int]:
        """Which estimate belongs to which reference: the one it is said to, unless others fit far better."""
        fit, own = self._fit_db(), list(range(len(self.stems)))
        order = _exchange(fit)
        moved = [i for i in own if order[i] != i]
        if not moved:
            return own
        gains = [float(fit[i, order[i]] - fit[i, i]) for i in moved]
        fits = all(float(fit[i, order[i]]) > _hidden_db() for i in moved)
        return order if fits and sum(gains) / len(gains) > SWAP_DB else own

    def _of_one(self, row: int) -> list[Finding]:
        """Delay, polarity and gain of a stem that is in its place."""
        stem, power, guess = self.stems[row], float(self.power[row]), float(self.guess[row, row])
        now, best, delay = (float(x[row, row]) for x in (self.now, self.best, self.delay))
        found = []
        if best**2 > HIDDEN * power * guess:
            cost = _fit(best, power, guess) - _fit(now, power, guess)
            if delay and cost > COST_DB:
                seconds = delay / self.sample_rate
                sense = "late" if delay > 0 else "early"
                message = f"is {abs(delay):.0f} samples ({abs(seconds):.4f} s) too {sense}"
                found.append(Finding("delay", stem, message, seconds, cost))
                now = best
        share = now / power if power else 0.0  # how much of the reference is in the estimate
        if share and now**2 > HIDDEN * power * guess:
            cost = _sdr(now / share, power, guess / share**2) - _sdr(now, power, guess)
            gain_db = 20 * math.log10(abs(share))
            if cost > COST_DB and (share < 0 or abs(gain_db) > GAIN_DB):
                kind: Kind = "gain" if share > 0 else "polarity"
                message = f"is scaled by {gain_db:+.1f} dB" if share > 0 else "has its polarity inverted"
                found.append(Finding(kind, stem, message, gain_db, cost))
        return found


def _exchange(fit: Tensor) -> list[int]:
    """A column for each row of [S, S], by exchanging two as long as that makes the sum larger."""
    order = list(range(len(fit)))
    pairs = list(itertools.combinations(order, 2))
    while True:
        gains = [
            float(fit[i, order[j]] + fit[j, order[i]] - fit[i, order[i]] - fit[j, order[j]]) for i, j in pairs
        ]
        if not gains or max(gains) < 0.01:  # dB; rounding must not exchange equals for ever
            return order
        i, j = pairs[gains.index(max(gains))]
        order[i], order[j] = order[j], order[i]


def _hidden_db() -> float:
    return 10 * math.log10(HIDDEN / (1 - HIDDEN))


def _sdr(product: float, power: float, guess: float) -> float:
    """SDR in dB of an estimate of energy `guess` whose product with the reference is `product`."""
    error = max(power - 2 * product + guess, 1e-9 * power)
    return 10 * math.log10(power / error)


def _fit(product: float, power: float, guess: float) -> float:
    """SDR in dB of an estimate that is scaled for the best."""
    gain = product / guess
    return _sdr(gain * product, power, gain**2 * guess)


def _loudest(signal: Tensor, samples: int, step: int) -> slice:
    """Where [C, T] is loudest over `samples`, to the nearest `step`."""
    if signal.shape[-1] <= samples:
        return slice(0, signal.shape[-1])
    steps = torch.stack([piece.square().sum() for piece in signal.split(step, -1)])
    count = samples // step
    start = int(steps.unfold(0, count, 1).sum(-1).argmax()) * step
    return slice(start, start + samples)


def _at(signal: Tensor, where: slice) -> Tensor:
    """A piece of [T], with zeros where it has ended."""
    piece = signal[where]
    return torch.nn.functional.pad(piece, (0, where.stop - where.start - piece.shape[-1]))


def _correlate(reference: Tensor, estimates: Tensor, reach: int) -> Tensor:
    """Σ_n s[n]·ŝ[n + d] for delays d from −reach to reach.

    Args:
        reference: s, [n].
        estimates: ŝ, [E, n].
        reach: in samples.

    Returns:
        [E, 2·reach + 1].
    """
    size = 1 << (reference.shape[-1] + reach).bit_length()
    spectra = torch.fft.rfft(estimates, size) * torch.fft.rfft(reference, size).conj()
    products: Tensor = torch.fft.irfft(spectra, size)
    return torch.cat([products[:, -reach:], products[:, : reach + 1]], -1)
