"""BSS Eval version 4: how much of an estimate is the stem, a filtered stem, other stems, and none of these.

An estimate ŝ of a stem s is taken apart as

    ŝ = s + spatial + interference + artifacts,

where s + spatial is the part of ŝ that filters of 512 taps can make of the channels of s, and interference
what they add when they may use the channels of all stems. The filters are fitted once to the whole track, the
energies taken in windows of a second (Stöter, Liutkus and Ito, "The 2018 Signal Separation Evaluation
Campaign").

Fast because nothing but the windows' spectra is needed: the correlations of the normal equations are sums of
their products, those equations are block-Toeplitz, and filtered stems can stay in the frequency domain, where
their energies are the same.
"""

import itertools
from collections.abc import Sequence
from functools import reduce
from typing import NamedTuple

import torch
from torch import Tensor

from stemsplit.evaluation import toeplitz
from stemsplit.evaluation.metrics import decibels
from stemsplit.evaluation.windows import BINS, Windows, Workers, by_bins, padded, transform_size, workers

TAPS = 512
_GLANCE = 256  # samples


class Scores(NamedTuple):
    """Four ratios in dB, [S, frames] each; NaN where a stem is silent."""

    sdr: Tensor
    isr: Tensor
    sir: Tensor
    sar: Tensor


def bsseval(
    references: Sequence[Tensor] | Tensor,
    estimates: Sequence[Tensor] | Tensor,
    *,
    window: int = 44100,
    taps: int = TAPS,
) -> Scores:
    """Score the stems of one track.

    A frame in which any reference or estimate is silent is NaN for all stems. A stem whose reference or
    estimate is silent from beginning to end is NaN and left out of that rule. Where the references don't
    determine the filters (stems that are equal, or empty in a band), all but the SDR depends on rounding.

    Args:
        references: S of [C, T].
        estimates: S of [C, T].
        window: length of the frames in samples, one second; the rest that fills no frame is not scored.
        taps: length of the filters.

    Returns:
        [S, frames] each, float64; frames = max(1, T // window).

    Raises:
        ValueError: the shapes differ, or the frames are shorter than the filters.
    """
    references, estimates = list(references), list(estimates)
    shapes = {tuple(signal.shape) for signal in (*references, *estimates)}
    if len(shapes) != 1 or len(references) != len(estimates):
        raise ValueError(f"{len(references)} references, {len(estimates)} estimates, of {shapes}")
    samples = references[0].shape[-1]
    if samples > window < taps:
        raise ValueError(f"frames of {window} samples are shorter than filters of {taps}")
    window, frames = min(window, samples), max(1, samples // window)
    result = torch.full((4, len(references), frames), torch.nan, dtype=torch.float64)
    with workers() as team:
        heard, guessed = (torch.stack([_sounding(x, window) for x in s]) for s in (references, estimates))
        present = heard.any(1)
        scored = present & guessed.any(1)
        if scored.any():
            own = scored[present].nonzero().flatten()
            inputs = list(itertools.compress(references, present))
            outputs = list(itertools.compress(estimates, scored))
            ratios = _score(inputs, outputs, own, window, taps, team)
            complete = (heard & guessed)[scored, :frames].all(0)
            result[:, scored] = ratios[..., :frames].masked_fill(~complete, torch.nan)
    return Scores(*result)


def _sounding(signal: Tensor, window: int) -> Tensor:
    """In which windows of [C, T] the sum of the channels is not digital silence, [windows].

    The sum, because that is the rule of the reference implementation.
    """
    return torch.tensor([_any_sound(piece) for piece in signal.split(window, -1)])


def _any_sound(piece: Tensor) -> bool:
    """Whether there is any sound, which the first samples mostly tell."""
    return bool(piece[:, :_GLANCE].sum(0).any()) or bool(piece.sum(0).any())


def _score(
    references: list[Tensor], estimates: list[Tensor], own: Tensor, window: int, taps: int, team: Workers
) -> Tensor:
    """The four ratios [4, E, windows] of estimates [C, T], of which number e is of reference own[e]."""
    channels, inputs = references[0].shape[0], len(references) * references[0].shape[0]
    windows = Windows((*references, *estimates), window, transform_size(window + taps - 1), team)
    gram, cross = _correlations(windows, inputs, taps, team)
    filters = _filters(gram, cross, own, channels, windows.size, team)
    energies = windows.map(lambda group: _energies(group, filters, own))
    signal, error, mine, full, spatial, interference, artifacts = torch.cat(list(energies), -1)
    return decibels(torch.stack([signal / error, signal / spatial, mine / interference, full / artifacts]))


# ---------------------------------------------------------------- filters


def _correlations(windows: Windows, inputs: int, taps: int, team: Workers) -> tuple[Tensor, Tensor]:
    """The normal equations of all projections.

    Args:
        windows: of P signals, of which the first `inputs` are the references' channels x, the others the
            estimates' channels y.
        inputs: how many.
        taps: length of the filters.
        team: who does the work.

    Returns:
        The first block row of the references' Gram matrix, Σ_n x_q[n] x_p[n+k] at [k, p, q], [taps, inputs,
        inputs]; and Σ_n x_p[n] y_q[n+k] at [k, p, q], [taps, inputs, P − inputs].
    """
    groups = windows.map(lambda group: _products(group, inputs))
    products = reduce(torch.Tensor.add_, groups)
    rows = team.map(lambda row: torch.fft.irfft(row, windows.size)[:, :taps], products.unbind())
    lags = torch.stack(list(rows))  # [P, inputs, taps]
    if len(windows) > 1:
        lags[..., 1:] += _across(windows, inputs, taps - 1)
    lags = lags.movedim(-1, 0)
    return lags[:, :inputs].contiguous(), lags[:, inputs:].mT.contiguous()


def _products(group: Sequence[Tensor], inputs: int) -> Tensor:
    """Sums over some spectra [P, bins] of X_p·conj(X_q) for the first `inputs` q, [P, inputs, bins]."""
    signals, bins = group[0].shape
    products = torch.empty(signals, inputs, bins, dtype=torch.complex128)
    for some, piece in by_bins(group):
        products[..., some] = (piece @ piece[:, :inputs].mH).permute(1, 2, 0)
    return products


def _across(windows: Windows, inputs: int, reach: int) -> Tensor:
    """What the correlations at lags 1 … reach have of samples in different windows, [P, inputs, reach].

    Such pairs are up to `reach` samples before the end of a window of the references, and as many behind it.
    """
    before, behind = windows.seams(reach)
    size = 2 * (reach + 1)
    tails, heads = torch.fft.rfft(before[:inputs], size), torch.fft.rfft(behind, size)
    products = torch.einsum("pnf,qnf->pqf", heads, tails.conj())
    # sample i of a tail and j of a head are reach + j − i apart, so lag 1 is at 1 − reach
    found: Tensor = torch.fft.irfft(products, size)
    return found.roll(reach - 1, -1)[..., :reach]


def _filters(
    gram: Tensor, cross: Tensor, own: Tensor, channels: int, size: int, team: Workers
) -> tuple[Tensor, Tensor]:
    """The spectra of the filters that make of all stems, and of its own, what is nearest to each estimate.

    Args:
        gram: [taps, inputs, inputs], and
        cross: [taps, inputs, E·C], the normal equations.
        own: which reference an estimate is of, [E].
        channels: C.
        size: of the transform.
        team: solves both systems at a time.

    Returns:
        [bins, E·C, inputs] of all stems, and [bins, E, C, C] of the estimates' own.
    """
    stem, estimate = (-1, channels), torch.arange(own.shape[0])
    # [E, taps, C, C] each: what belongs to estimate e and reference own[e]
    blocks = gram.unflatten(2, stem).unflatten(1, stem)[:, own, :, own]
    right = cross.unflatten(2, stem).unflatten(1, stem)[:, own, :, estimate]
    systems = ((gram[None], cross[None]), (blocks, right))
    every, alone = team.map(lambda system: _to_spectra(toeplitz.solve(*system), size), systems)
    return every[0], alone.transpose(0, 1).contiguous()


def _to_spectra(filters: Tensor, size: int) -> Tensor:
    """Filters [B, taps, inputs, outputs] in the frequency domain, [B, bins, outputs, inputs]."""
    spectra: Tensor = torch.fft.rfft(padded(filters.permute(0, 3, 2, 1), size))
    return spectra.permute(0, 3, 1, 2).contiguous()


# ---------------------------------------------------------------- energies


def _energies(group: Sequence[Tensor], filters: tuple[Tensor, Tensor], own: Tensor) -> Tensor:
    """The energies of all parts of the estimates in n windows, by Parseval's theorem.

    Args:
        group: n spectra of the references' and the estimates' channels, [inputs + E·C, bins].
        filters: [bins, E·C, inputs] of all stems, and [bins, E, C, C] of the estimates' own.
        own: which reference an estimate is of, [E].

    Returns:
        Of the stem, the whole error, the filtered stem, the filtered stems, and the spatial, interfering and
        artificial parts of the error: [7, E, n].
    """
    every, alone = filters
    (last, outputs, inputs), channels = every.shape, alone.shape[2]
    rows = _rows(own, channels, inputs)
    squares = torch.zeros(BINS, 7, outputs, len(group), 2, dtype=torch.float64)
    parts = torch.empty(BINS, 7, outputs, len(group), dtype=torch.complex128)
    for bins, piece in by_bins(group):
        if bins.start == 0:
            piece[0] *= 0.5**0.5  # all bins but the outermost stand for two of the full transform
        if bins.stop >= last:
            piece[-1] *= 0.5**0.5
        found = parts[: piece.shape[0]]
        full = every[bins] @ piece[:, :inputs] if inputs > channels else None
        _take_apart(piece[:, rows], piece[:, inputs:], full, alone[bins], found)
        real = torch.view_as_real(found)
        squares[: piece.shape[0]].addcmul_(real, real)
    energies: Tensor = squares.sum((0, 4)).unflatten(1, (-1, channels))
    return energies.sum(2)


def _rows(own: Tensor, channels: int, inputs: int) -> slice | Tensor:
    """Which of the inputs are the channels of the references `own`; a slice, which is no copy, for all."""
    rows = (own[:, None] * channels + torch.arange(channels)).flatten()
    return slice(0, inputs) if torch.equal(rows, torch.arange(inputs)) else rows


def _take_apart(stem: Tensor, guess: Tensor, full: Tensor | None, filters: Tensor, parts: Tensor) -> None:
    """Write the seven signals whose energies are wanted.

    Args:
        stem: the references of the estimates, [bins, E·C, n].
        guess: the estimates, of the same shape.
        full: all stems filtered, of the same shape; None if there is one only, which nothing interferes with.
        filters: of the estimates' own stems, [bins, E, C, C].
        parts: filled, [bins, 7, E·C, n].
    """
    copies, error, mine, all_, spatial, interference, artifacts = parts.unbind(1)
    copies.copy_(stem)
    torch.sub(guess, stem, out=error)
    _filter(filters, stem.unflatten(1, filters.shape[1:3]), out=mine.unflatten(1, filters.shape[1:3]))
    all_.copy_(mine if full is None else full)
    torch.sub(mine, stem, out=spatial)
    torch.sub(all_, mine, out=interference)
    torch.sub(guess, all_, out=artifacts)


def _filter(filters: Tensor, stems: Tensor, out: Tensor) -> None:
    """Filters [bins, E, C, C] of stems [bins, E, C, n]; so small that a matrix product would take longer."""
    torch.mul(filters[..., 0, None], stems[:, :, None, 0], out=out)
    for channel in range(1, stems.shape[2]):
        out.addcmul_(filters[..., channel, None], stems[:, :, None, channel])
