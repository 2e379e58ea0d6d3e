"""BSS Eval version 4: SDR, ISR, SIR and SAR of the stems of a track.

An estimate ŝ of a stem s is decomposed into

    ŝ = s + spatial + interference + artifacts.

s + spatial is the least-squares projection of ŝ onto the channels of s delayed by 0 … 511 samples: the best
filters of 512 taps. s + spatial + interference is the projection onto the delayed channels of all stems. The
decomposition is that of Vincent, Gribonval and Févotte, "Performance measurement in blind audio source
separation" (2006), with the spatial part and the ISR of Vincent et al., "First stereo audio source separation
evaluation campaign" (2007). Version 4 fits the filters once to the whole track and takes the energies in
frames of one second: Stöter, Liutkus and Ito, "The 2018 Signal Separation Evaluation Campaign". The reference
implementation is `museval.metrics.bss_eval(mode="v4")`.

This one works on the spectra of windows only: the correlations of the normal equations are sums of products
of spectra, the equations are block-Toeplitz (`toeplitz`), and by Parseval's theorem the energies of the
filtered stems can be taken in the frequency domain. `score` calls it for each track.
"""

import itertools
from collections.abc import Sequence
from functools import reduce
from typing import NamedTuple

import torch
from torch import Tensor

from stemsplit.evaluation import toeplitz
from stemsplit.evaluation.metrics import decibels
from stemsplit.evaluation.windows import (
    BINS,
    ThreadPool,
    Windows,
    by_bins,
    padded,
    thread_pool,
    transform_size,
)

TAPS = 512
_QUICK_LOOK = 256  # samples that are checked for sound before the whole window


class Scores(NamedTuple):
    """The four ratios of BSS Eval in dB, [S, frames] each; NaN where a stem is silent.

    Attributes:
        sdr: 10·log10(|s|² / |ŝ − s|²), signal to distortion.
        isr: 10·log10(|s|² / |spatial|²), image to spatial distortion.
        sir: 10·log10(|s + spatial|² / |interference|²), signal to interference.
        sar: 10·log10(|s + spatial + interference|² / |artifacts|²), signal to artifacts.
    """

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
    estimate is silent from beginning to end is NaN and exempt from that rule. Where the references don't
    determine the filters (stems that are equal, or empty in a band), all but the SDR depends on rounding.

    Args:
        references: S tensors [C, T].
        estimates: S tensors [C, T].
        window: length of a frame in samples, usually one second; samples after the last full frame aren't
            scored.
        taps: length of the filters in samples.

    Returns:
        Four ratios in dB, [S, frames] each, float64; frames = max(1, T // window).

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
    with thread_pool() as pool:
        reference_sounds = torch.stack([_sounding_windows(x, window) for x in references])  # [S, windows]
        estimate_sounds = torch.stack([_sounding_windows(x, window) for x in estimates])  # [S, windows]
        present = reference_sounds.any(1)
        scored = present & estimate_sounds.any(1)
        if scored.any():
            own = scored[present].nonzero().flatten()  # [E], the reference of each of the E scored estimates
            inputs = list(itertools.compress(references, present))
            outputs = list(itertools.compress(estimates, scored))
            ratios = _score(inputs, outputs, own, window, taps, pool)
            complete = (reference_sounds & estimate_sounds)[scored, :frames].all(0)  # [frames]
            result[:, scored] = ratios[..., :frames].masked_fill(~complete, torch.nan)
    return Scores(*result)


def _sounding_windows(signal: Tensor, window: int) -> Tensor:
    """Return for each window of [C, T] whether it isn't digital silence, bool [windows].

    Silence is judged by the sum of the channels, as museval does: channels that cancel count as silent.
    """
    return torch.tensor([_has_sound(piece) for piece in signal.split(window, -1)])


def _has_sound(piece: Tensor) -> bool:
    """Tell whether a window isn't digital silence; its first samples mostly suffice to see that."""
    return bool(piece[:, :_QUICK_LOOK].sum(0).any()) or bool(piece.sum(0).any())


def _score(
    references: list[Tensor], estimates: list[Tensor], own: Tensor, window: int, taps: int, pool: ThreadPool
) -> Tensor:
    """Return the ratios in dB, [4, E, windows], of E estimates [C, T]; e is scored by reference own[e]."""
    channels, inputs = references[0].shape[0], len(references) * references[0].shape[0]
    windows = Windows((*references, *estimates), window, transform_size(window + taps - 1), pool)
    gram, cross = _correlations(windows, inputs, taps, pool)
    filters = _filters(gram, cross, own, channels, windows.size, pool)
    energies = windows.map(lambda group: _energies(group, filters, own))
    # seven energies [E, windows] each
    signal, error, own_part, all_part, spatial, interference, artifacts = torch.cat(list(energies), -1)
    ratios = [signal / error, signal / spatial, own_part / interference, all_part / artifacts]
    return decibels(torch.stack(ratios))  # [4, E, windows]


# ---------------------------------------------------------------- filters


def _correlations(windows: Windows, inputs: int, taps: int, pool: ThreadPool) -> tuple[Tensor, Tensor]:
    """Return the correlations of which the normal equations of all projections are made.

    Args:
        windows: the windows of P signals. The first `inputs` are the references' channels x, the others the
            estimates' channels y.
        inputs: the number of the references' channels.
        taps: length of the filters in samples.
        pool: the threads that compute.

    Returns:
        The first block row of the references' Gram matrix, Σ_n x_q[n]·x_p[n+k] at [k, p, q],
        [taps, inputs, inputs]; and Σ_n x_p[n]·y_q[n+k] at [k, p, q], [taps, inputs, P − inputs].
    """
    groups = windows.map(lambda group: _products(group, inputs))
    products = reduce(torch.Tensor.add_, groups)  # [P, inputs, bins]
    rows = pool.map(lambda row: torch.fft.irfft(row, windows.size)[:, :taps], products.unbind())
    lags = torch.stack(list(rows))  # [P, inputs, taps]
    if len(windows) > 1:
        lags[..., 1:] += _seam_products(windows, inputs, taps - 1)
    lags = lags.movedim(-1, 0)  # [taps, P, inputs]
    return lags[:, :inputs].contiguous(), lags[:, inputs:].mT.contiguous()


def _products(group: Sequence[Tensor], inputs: int) -> Tensor:
    """Return the sums over some spectra [P, bins] of X_p·conj(X_q), q < `inputs`, [P, inputs, bins]."""
    signals, bins = group[0].shape
    products = torch.empty(signals, inputs, bins, dtype=torch.complex128)
    for some, piece in by_bins(group):  # piece: [some, P, n]
        products[..., some] = (piece @ piece[:, :inputs].mH).permute(1, 2, 0)  # [P, inputs, some]
    return products


def _seam_products(windows: Windows, inputs: int, reach: int) -> Tensor:
    """Return what pairs of samples in neighbouring windows add to lags 1 … reach, [P, inputs, reach].

    The products of windows' spectra miss these pairs: x_q[n] among the last `reach` samples of a window, and
    x_p[n + k] among the first `reach` samples of the next.
    """
    before, behind = windows.seams(reach)
    size = 2 * (reach + 1)
    tails, heads = torch.fft.rfft(before[:inputs], size), torch.fft.rfft(behind, size)  # [P, seams, bins]
    products = torch.einsum("pnf,qnf->pqf", heads, tails.conj())  # [P, inputs, bins]
    # Sample i of a tail and j of a head are reach + j − i apart, so lag 1 lies at index 1 − reach.
    lags: Tensor = torch.fft.irfft(products, size)  # [P, inputs, size]
    return lags.roll(reach - 1, -1)[..., :reach]  # [P, inputs, reach]


def _filters(
    gram: Tensor, cross: Tensor, own: Tensor, channels: int, size: int, pool: ThreadPool
) -> tuple[Tensor, Tensor]:
    """Return the spectra of the filters that project the estimates onto all stems, and onto their own stem.

    Args:
        gram: the references' correlations, [taps, inputs, inputs].
        cross: the correlations of references and estimates, [taps, inputs, E·C].
        own: the number of each estimate's reference, [E].
        channels: C.
        size: length of the transform in samples.
        pool: solves both systems at a time.

    Returns:
        The filters of all stems, [bins, E·C, inputs], and those of the estimates' own stems, [bins, E, C, C].
    """
    by_stem, estimate = (-1, channels), torch.arange(own.shape[0])
    # [taps, stems, C, stems or E, C], of which the pairs (own[e], own[e]) and (own[e], e): [E, taps, C, C]
    blocks = gram.unflatten(2, by_stem).unflatten(1, by_stem)[:, own, :, own]  # [E, taps, C, C]
    right = cross.unflatten(2, by_stem).unflatten(1, by_stem)[:, own, :, estimate]  # [E, taps, C, C]
    systems = ((gram[None], cross[None]), (blocks, right))
    of_all, of_own = pool.map(lambda system: _to_spectra(toeplitz.solve(*system), size), systems)
    return of_all[0], of_own.transpose(0, 1).contiguous()  # [bins, E·C, inputs], [bins, E, C, C]


def _to_spectra(filters: Tensor, size: int) -> Tensor:
    """Return filters [B, taps, inputs, outputs] in the frequency domain, [B, bins, outputs, inputs]."""
    spectra: Tensor = torch.fft.rfft(padded(filters.permute(0, 3, 2, 1), size))  # [B, outputs, inputs, bins]
    return spectra.permute(0, 3, 1, 2).contiguous()  # [B, bins, outputs, inputs]


# ---------------------------------------------------------------- energies


def _energies(group: Sequence[Tensor], filters: tuple[Tensor, Tensor], own: Tensor) -> Tensor:
    """Return the energies of all parts of the estimates in n windows, by Parseval's theorem.

    Args:
        group: n spectra of the references' and the estimates' channels, [inputs + E·C, bins].
        filters: those of all stems, [bins, E·C, inputs], and of the estimates' own, [bins, E, C, C].
        own: the number of each estimate's reference, [E].

    Returns:
        [7, E, n], the energies of: the stem s; the whole error ŝ − s; the projection onto the own stem,
        s + spatial; the projection onto all stems, s + spatial + interference; and the spatial, interference
        and artifact parts.
    """
    of_all, of_own = filters
    (last, outputs, inputs), channels = of_all.shape, of_own.shape[2]
    rows = _own_rows(own, channels, inputs)
    squares = torch.zeros(BINS, 7, outputs, len(group), 2, dtype=torch.float64)
    parts = torch.empty(BINS, 7, outputs, len(group), dtype=torch.complex128)
    for bins, piece in by_bins(group):  # piece: [some bins, P, n]
        if bins.start == 0:
            piece[0] *= 0.5**0.5  # each bin but the first and the last stands for two of the full transform
        if bins.stop >= last:
            piece[-1] *= 0.5**0.5
        some = parts[: piece.shape[0]]
        all_part = of_all[bins] @ piece[:, :inputs] if inputs > channels else None  # [some bins, E·C, n]
        _decompose(piece[:, rows], piece[:, inputs:], all_part, of_own[bins], some)
        real = torch.view_as_real(some)  # [some bins, 7, E·C, n, 2]
        squares[: piece.shape[0]].addcmul_(real, real)
    energies: Tensor = squares.sum((0, 4)).unflatten(1, (-1, channels))  # [7, E, C, n]
    return energies.sum(2)  # [7, E, n]


def _own_rows(own: Tensor, channels: int, inputs: int) -> slice | Tensor:
    """Return the inputs that are channels of the references `own`; for all of them as a slice, not a copy."""
    rows = (own[:, None] * channels + torch.arange(channels)).flatten()  # [E·C]
    return slice(0, inputs) if torch.equal(rows, torch.arange(inputs)) else rows


def _decompose(
    stem: Tensor, estimate: Tensor, projection: Tensor | None, filters: Tensor, parts: Tensor
) -> None:
    """Write the seven signals whose energies are needed into `parts`.

    Args:
        stem: the references of the estimates, [bins, E·C, n].
        estimate: the estimates, [bins, E·C, n].
        projection: the estimates projected onto all stems, [bins, E·C, n]; None if there is only one stem, so
            that nothing interferes.
        filters: the filters of the estimates' own stems, [bins, E, C, C].
        parts: filled, [bins, 7, E·C, n].
    """
    signal, error, own_part, all_part, spatial, interference, artifacts = parts.unbind(1)
    per_stem = filters.shape[1:3]  # E, C
    signal.copy_(stem)
    torch.sub(estimate, stem, out=error)
    _filter(filters, stem.unflatten(1, per_stem), out=own_part.unflatten(1, per_stem))  # [bins, E, C, n]
    all_part.copy_(own_part if projection is None else projection)
    torch.sub(own_part, stem, out=spatial)
    torch.sub(all_part, own_part, out=interference)
    torch.sub(estimate, all_part, out=artifacts)


def _filter(filters: Tensor, stems: Tensor, out: Tensor) -> None:
    """Apply filters [bins, E, C, C] to stems [bins, E, C, n]; a product of so small matrices is slower."""
    torch.mul(filters[..., 0, None], stems[:, :, None, 0], out=out)
    for channel in range(1, stems.shape[2]):
        out.addcmul_(filters[..., channel, None], stems[:, :, None, channel])
