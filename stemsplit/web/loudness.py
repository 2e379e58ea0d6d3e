"""Loudness of any mix of some files, and the difference between two files.

The K-weighted energy of a mix is a quadratic form of its gains: with G[i, j] the energy that files i and j
have in common, a mix with gains g has gᵀ G g. So the page knows the loudness of every mix.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stemsplit.audio.channels import convert_channels
from stemsplit.audio.decoding import Array
from stemsplit.audio.reader import open_audio
from stemsplit.web.answers import ApiError

_BLOCK = 1 << 14  # samples; the weighting is applied to whole spectra of this length
# At most so many blocks, about six minutes at 44.1 kHz, are weighted; of longer songs, evenly spread ones
MOST_BLOCKS = 1 << 10
FLOOR_DB = -200.0

Values = NDArray[np.float64]


def k_weighting(hz: Values, sample_rate: int) -> Values:
    """Return the squared magnitude of BS.1770's K-weighting at some frequencies.

    The analogue prototypes of its two filters (a shelf and a high-pass) under the bilinear transform, which
    give the coefficients of BS.1770-4, tables 1 and 2, at 48 kHz.
    """
    z = np.exp(-2j * np.pi * hz / sample_rate)

    def response(f0: float, q: float, high: float, band: float, low: float) -> Any:
        k = math.tan(math.pi * f0 / sample_rate)
        a = (1 + k / q + k * k, 2 * (k * k - 1), 1 - k / q + k * k)
        b = (high + band * k / q + low * k * k, 2 * (low * k * k - high), high - band * k / q + low * k * k)
        return (b[0] + b[1] * z + b[2] * z**2) / (a[0] + a[1] * z + a[2] * z**2)

    gain = 10 ** (3.999843853973347 / 20)
    shelf = response(1681.974450955533, 0.7071752369554196, gain, gain**0.4996667741545416, 1.0)
    k, q = math.tan(math.pi * 38.13547087602444 / sample_rate), 0.5003270373238773
    # the standard's high-pass is not normalised: its numerator is 1, -2, 1
    pass_ = response(38.13547087602444, q, 1.0, 0.0, 0.0) * (1 + k / q + k * k)
    weights: Values = np.abs(shelf * pass_) ** 2
    return weights


def common_energy(paths: Sequence[Path], stopped: Callable[[], bool]) -> dict[str, Any]:
    """Return the K-weighted energy per sample that some files have in common.

    Args:
        paths: n files of one sample rate; mono counts as two equal channels.
        stopped: returns True to give up.

    Returns:
        `energy`, lists [2, n, n] for the left and right channel; and `frames`, the longest file's samples.

    Raises:
        ApiError: the files have different rates.
        InputError: a file can't be read.
    """
    energy: Values = np.zeros((2, len(paths), len(paths)))
    rate = _common_rate(paths)
    hz = np.linspace(0, rate / 2, _BLOCK // 2 + 1, dtype=np.float64)
    weights = np.sqrt(k_weighting(hz, rate) * np.where((hz == 0) | (hz == rate / 2), 1, 2) / _BLOCK)
    step = max(1, _longest(paths) // (_BLOCK * MOST_BLOCKS))
    frames = counted = 0
    for number, blocks in enumerate(aligned(paths, _BLOCK)):
        if stopped():
            break
        length = max(block.shape[1] for block in blocks)
        frames += length
        if number % step:
            continue
        counted += length
        for channel in (0, 1):
            padded = [np.pad(b[channel].astype(np.float64), (0, _BLOCK - b.shape[1])) for b in blocks]
            spectra = np.fft.rfft(np.stack(padded)) * weights  # [n, F]
            real = np.concatenate([spectra.real, spectra.imag], axis=1)  # [n, 2F]
            energy[channel] += real @ real.T
    return {"energy": (energy / max(1, counted)).tolist(), "frames": frames}


def difference(one: Path, other: Path, stopped: Callable[[], bool]) -> dict[str, float]:
    """Return levels of two files and of their difference, in dB of full scale, and the null depth in dB.

    Raises:
        ApiError: the files have different rates.
        InputError: a file can't be read.
    """
    _common_rate([one, other])
    sums, count, peak = np.zeros(3), 0, 0.0
    for first, second in aligned([one, other], _BLOCK):
        if stopped():
            break
        length = max(first.shape[1], second.shape[1])
        a, b = (np.pad(x.astype(np.float64), ((0, 0), (0, length - x.shape[1]))) for x in (first, second))
        sums += [np.sum(a * a), np.sum(b * b), np.sum((a - b) ** 2)]
        peak = max(peak, float(np.abs(a - b).max(initial=0)))
        count += 2 * length
    first_db, second_db, rest_db = (_db(value / max(1, count)) for value in sums)
    return {
        "level_a_db": first_db,
        "level_b_db": second_db,
        "difference_db": rest_db,
        "difference_peak_db": _db(peak * peak),
        "null_depth_db": max(first_db, second_db) - rest_db,
    }


def aligned(paths: Sequence[Path], size: int) -> Iterator[tuple[Array, ...]]:
    """Yield consecutive blocks [2, size] of several files; those of files that have ended are empty."""
    nothing = np.zeros((2, 0), np.float32)
    yield from zip_longest(*(_stereo(path, size) for path in paths), fillvalue=nothing)


def _stereo(path: Path, size: int) -> Iterator[Array]:
    with open_audio(path, name=path.name) as reader:
        for block in reader.blocks(size):
            yield convert_channels(block, 2, reader.info.layout)


def _common_rate(paths: Sequence[Path]) -> int:
    rates = set()
    for path in paths:
        with open_audio(path, name=path.name) as reader:
            rates.add(reader.sample_rate)
    if len(rates) > 1:
        raise ApiError(409, f"the files have different sample rates: {', '.join(map(str, sorted(rates)))} Hz")
    return int(rates.pop())


def _longest(paths: Sequence[Path]) -> int:
    lengths = []
    for path in paths:
        with open_audio(path, name=path.name) as reader:
            lengths.append(reader.frames or 0)
    return max(lengths)


def _db(power: float) -> float:
    return max(FLOOR_DB, 10 * math.log10(power)) if power > 0 else FLOOR_DB
