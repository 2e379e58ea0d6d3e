"""Tables of overlapping bands on perceptual scales of frequency, with the share of every band in every bin.

"A Generalized Bandsplit Neural Network for Cinematic Audio Source Separation" (arXiv 2309.02539), as in the
released code: a band is the support of a filter, and where bands overlap, the mask of a bin is the mean of
their masks, weighted by their filters' gains there. `k` numbers bins, k·rate/n_fft Hz.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import NamedTuple

from stemsplit.errors import StemsplitError, UnknownNameError
from stemsplit.models.blocks.bands import SCHEMES, Table, rounded_bands

# Bands times samples per frame; released tables have 64 · 2048.
MOST = 4_000_000

BARK = 600.0  # Hz; 6 asinh(f/600) is the frequency f in Bark (Wang, Sekey & Gersho 1992)

# A filter: its gain above 0 in adjacent bins
Gains = Mapping[int, float]


class Filterbank(NamedTuple):
    """Bands, and what each contributes to its bins.

    Attributes:
        table: the bands; the highest bin may be in none.
        shares: of each band in its bins, which add up to 1 in every bin; None for bands without overlap.
    """

    table: Table
    shares: tuple[tuple[float, ...], ...] | None


@lru_cache(maxsize=8)
def filterbank(name: str, count: int, n_fft: int, sample_rate: int) -> Filterbank:
    """Return one of the tables of the released checkpoints.

    Args:
        name: a key of `TABLES`.
        count: of bands; vox7 has a number of its own.
        n_fft: samples per frame, even.
        sample_rate: in Hz.

    Raises:
        UnknownNameError: there is no table of that name.
        StemsplitError: a band has no bin, or there are absurdly many.
    """
    if name not in TABLES:
        raise UnknownNameError("table of bands", name, sorted(TABLES))
    if count * n_fft > MOST:
        raise StemsplitError(f"{count} bands of {n_fft // 2 + 1} bins: no network has so many")
    return TABLES[name](count, n_fft, sample_rate)


def musical_bands(count: int, n_fft: int, sample_rate: int) -> Table:
    """Return overlapping bands whose centres are equally spaced in pitch.

    Centre frequencies go from the first bin above 0 Hz to the highest. A band reaches to either side by its
    share of all octaves; the first also takes 0 Hz and the last everything up to the highest bin.

    Args:
        count: of bands.
        n_fft: samples per frame.
        sample_rate: in Hz.
    """
    width, top = sample_rate / n_fft, n_fft // 2
    # through the numbers of MIDI notes, so that centres between two bins round as in released checkpoints
    low = max(0.0, 12 * (math.log2(width) - math.log2(440)) + 69)
    high = 12 * (math.log2(sample_rate / 2) - math.log2(440)) + 69
    step = (high - low) / max(1, count - 1)
    reach = 2 ** (math.log2(sample_rate / 2 / width) / count)
    centres = [440 * 2 ** ((low + i * step - 69) / 12) for i in range(count)]
    starts = [0] + [math.floor(centre / reach / width) for centre in centres[1:]]
    stops = [math.ceil(centre * reach / width) + 1 for centre in centres[:-1]] + [top + 1]
    return tuple(range(start, min(stop, top + 1)) for start, stop in zip(starts, stops, strict=True))


def _musical(count: int, n_fft: int, sample_rate: int) -> Filterbank:
    return _shared([dict.fromkeys(band, 1.0) for band in musical_bands(count, n_fft, sample_rate)], n_fft)


def _vox7(count: int, n_fft: int, sample_rate: int) -> Filterbank:
    return Filterbank(rounded_bands(SCHEMES["v7"], n_fft, sample_rate), None)


def _bark(count: int, n_fft: int, sample_rate: int) -> Filterbank:
    """Return filters with the shape of the ear's critical bands (Hermansky 1990), centred from 0 Hz on.

    Gains in dB rise by 25 per Bark below a flat top one Bark wide and fall by 10 per Bark above it. Bin k is
    taken to lie at k·rate/(n_fft + 1) Hz and the highest bin is in no band, as in released checkpoints.
    """
    barks = [6 * math.asinh(k * sample_rate / (n_fft + 1) / BARK) for k in range(n_fft // 2)]
    step = 6 * math.asinh(sample_rate / 2 / BARK) / max(1, count - 1)

    def gain(above: float) -> float:
        return 10 ** min(0.0, 2.5 * (above + 0.5), 0.5 - above)

    centres = [i * step for i in range(count)]
    return _shared(
        [{k: gain(b - c) for k, b in enumerate(barks) if -1.3 <= b - c <= 2.5} for c in centres], n_fft
    )


def _triangles(
    hertz: Callable[[float, float], float], count: int, n_fft: int, sample_rate: int
) -> list[dict[int, float]]:
    """Return triangular filters that reach to their neighbours' centres, of 0 Hz also the first.

    Args:
        hertz: maps (x, top), for x from 0 to 1, to a frequency from 0 to `top`; centres are equally spaced
            in x.
        count: of filters.
        n_fft: samples per frame.
        sample_rate: in Hz.
    """
    points = [hertz(i / (count + 1), sample_rate / 2) * n_fft / sample_rate for i in range(count + 1)]
    edges = [*points, float(n_fft // 2)]  # in bins
    gains = [
        {
            k: min((k - low) / (peak - low), (high - k) / (high - peak))
            for k in range(math.floor(low) + 1, math.ceil(high))
        }
        for low, peak, high in zip(edges, edges[1:], edges[2:], strict=False)
    ]
    return [{0: 1.0, **gains[0]} if gains[0] else {}, *gains[1:]]


def _mel(count: int, n_fft: int, sample_rate: int) -> Filterbank:
    # 2595 log10(1 + f/700) mel
    return _shared(_triangles(_logarithmic(1 / 700), count, n_fft, sample_rate), n_fft)


def _erb(count: int, n_fft: int, sample_rate: int) -> Filterbank:
    # numbers of equivalent rectangular bandwidths, 21.3 log10(1 + 0.00437 f) (Glasberg & Moore 1990)
    return _shared(_triangles(_logarithmic(0.00437), count, n_fft, sample_rate), n_fft)


def _tribark(count: int, n_fft: int, sample_rate: int) -> Filterbank:
    def hertz(x: float, top: float) -> float:
        return BARK * math.sinh(x * math.asinh(top / BARK))

    *first, last = _triangles(hertz, count, n_fft, sample_rate)
    # In released checkpoints, rounding raises the last filter's end beyond the highest bin.
    return _shared([*first, {**last, n_fft // 2: 1.0}], n_fft)


def _logarithmic(steepness: float) -> Callable[[float, float], float]:
    """Return the map for `_triangles` of a scale log(1 + steepness·hertz), in any unit."""
    return lambda x, top: ((1 + steepness * top) ** x - 1) / steepness


def _shared(filters: Sequence[Gains], n_fft: int) -> Filterbank:
    """Divide the filters' gains by their sum in each bin.

    Raises:
        StemsplitError: a filter has no bin, or a bin below the highest no filter.
    """
    if not all(filters):
        raise StemsplitError(f"a band of {len(filters)} has no bin: use a longer transform or fewer bands")
    total: dict[int, float] = {}
    for k, gain in (pair for band in filters for pair in band.items()):
        total[k] = total.get(k, 0.0) + gain
    if len(total) < n_fft // 2:
        raise StemsplitError(f"{len(filters)} bands leave bins between them: use more bands")
    table = tuple(range(min(band), max(band) + 1) for band in filters)
    return Filterbank(table, tuple(tuple(band[k] / total[k] for k in sorted(band)) for band in filters))


TABLES: Mapping[str, Callable[[int, int, int], Filterbank]] = {
    "bark": _bark,
    "erb": _erb,
    "mel": _mel,
    "musical": _musical,
    "tribark": _tribark,
    "vox7": _vox7,
}
