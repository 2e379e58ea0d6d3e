"""Bands of a spectrogram: tables of bands, and the layers that split into them and estimate masks for them.

A band is a `range` of bins, a table a tuple of bands. Spectrograms are flat, bin after bin, with `parts`
numbers per bin: the channels, and within a channel the real and the imaginary part.

Legend: `B` batch, `F` bins.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from itertools import accumulate, pairwise

import torch
from torch import Tensor, nn

from stemsplit.errors import StemsplitError

Table = tuple[range, ...]

# (width, end) in Hz: bands of that width up to that end; one more band takes the bins above the last end.
# Band-Split RNN, section V-A; "other" takes v7 there.
SCHEMES: dict[str, tuple[tuple[int, int], ...]] = {
    "v1": ((1000, 21_000),),
    "v2": ((1000, 16_000), (2000, 20_000)),
    "v3": ((1000, 8000), (2000, 16_000), (4000, 20_000)),
    "v4": ((100, 1000), (1000, 8000), (2000, 16_000), (4000, 20_000)),
    "v5": ((100, 1000), (1000, 16_000), (2000, 20_000)),
    "v6": ((100, 1000), (500, 4000), (1000, 8000), (2000, 16_000), (4000, 20_000)),
    "v7": ((100, 1000), (250, 4000), (500, 8000), (1000, 16_000), (2000, 20_000)),
    "bass": ((50, 500), (100, 1000), (500, 4000), (1000, 8000), (2000, 16_000)),
    "drums": ((50, 1000), (100, 2000), (250, 4000), (500, 8000), (1000, 16_000)),
}


def linear_bands(widths: Sequence[int], bins: int) -> Table:
    """Return adjacent bands of `widths` bins.

    Raises:
        StemsplitError: they don't add up to `bins`, or a band is empty.
    """
    if sum(widths) != bins or min(widths, default=0) < 1:
        raise StemsplitError(f"the bands have {sum(widths)} bins, the spectrogram {bins}")
    return tuple(range(a, b) for a, b in pairwise(accumulate(widths, initial=0)))


def hertz_bands(scheme: Iterable[tuple[int, int]], n_fft: int, sample_rate: int) -> Table:
    """Return the bands of one of the `SCHEMES`; bin k belongs to the band that contains k·rate/n_fft Hz.

    Raises:
        StemsplitError: the transform is so short that a band has no bin.
    """
    edges, start = [0], 0
    for width, end in scheme:
        edges += range(start + width, end + 1, width)
        start = end
    bins = [math.ceil(hertz * n_fft / sample_rate) for hertz in edges] + [n_fft // 2 + 1]
    return _checked(range(a, b) for a, b in pairwise(bins))


def rounded_bands(scheme: Iterable[tuple[int, int]], n_fft: int, sample_rate: int) -> Table:
    """Return the bands of one of the `SCHEMES`, widths and ends rounded to whole bins each by itself.

    The last band below each end is what the others leave; it may be a single bin (as in Bandit).

    Raises:
        StemsplitError: the transform is so short that a band has no bin.
    """
    edges, bins = [0], n_fft // 2 + 1
    for width, end in scheme:
        step, stop = (round(hertz * n_fft / sample_rate) for hertz in (width, end))
        edges += [*range(edges[-1] + max(1, step), stop, max(1, step)), stop]
    return _checked(range(a, b) for a, b in pairwise([*edges, bins]))


def mel_bands(count: int, n_fft: int, sample_rate: int) -> Table:
    """Return the supports of `count` triangular filters that are spaced evenly on Slaney's mel scale.

    Neighbours overlap by half. The lowest bin belongs to the first band and the highest to the last, although
    both filters are zero there (as in Mel-Band RoFormer).

    Raises:
        StemsplitError: the transform is so short that a band has no bin.
    """
    top = _mel(sample_rate / 2)
    edges = [_hertz(top * i / (count + 1)) * n_fft / sample_rate for i in range(count + 2)]  # in bins
    last = n_fft // 2
    starts = [0] + [math.floor(edge) + 1 for edge in edges[1:count]]
    stops = [math.ceil(edge) for edge in edges[2 : count + 1]] + [last + 1]
    return _checked(range(a, b) for a, b in zip(starts, stops, strict=True))


def _checked(bands: Iterable[range]) -> Table:
    table = tuple(bands)
    if not all(table):
        raise StemsplitError(f"a band of {len(table)} has no bin: use a longer transform or fewer bands")
    return table


# Slaney's scale: 3 mel per 200 Hz below 1 kHz (15 mel), then 27 mel per factor of 6.4.
def _mel(hertz: float) -> float:
    return hertz * 3 / 200 if hertz < 1000 else 15 + 27 * math.log(hertz / 1000) / math.log(6.4)


def _hertz(mel: float) -> float:
    return mel * 200 / 3 if mel < 15 else 1000 * 6.4 ** ((mel - 15) / 27)


class BandSplit(nn.Module):
    """Band split: a normalisation and a linear layer per band bring all bands to one width.

    Band-Split RNN, section II-A.

    Args:
        table: the bands.
        parts: numbers per bin.
        width: of a band's features.
        norm: makes the normalisation of a given number of features.
    """

    def __init__(self, table: Table, parts: int, width: int, norm: Callable[[int], nn.Module]) -> None:
        super().__init__()
        self.slices = [slice(parts * band.start, parts * band.stop) for band in table]
        sizes = [parts * len(band) for band in table]
        self.to_features = nn.ModuleList(nn.Sequential(norm(n), nn.Linear(n, width)) for n in sizes)

    def forward(self, flat: Tensor) -> Tensor:
        """[B, frames, F·parts] -> [B, frames, bands, width]."""
        features = [layer(flat[..., s]) for layer, s in zip(self.to_features, self.slices, strict=True)]
        return torch.stack(features, dim=-2)  # [B, frames, bands, width]


class MaskEstimator(nn.Module):
    """Mask estimation: an MLP per band that ends in a GLU gives a mask for every number of the band.

    Band-Split RNN, section II-C.

    Args:
        table: the bands.
        parts: numbers per bin.
        width: of a band's features.
        hidden: width of the hidden layers.
        depth: number of hidden layers.
        norm: makes the normalisation before the MLP; None for none.
    """

    def __init__(
        self,
        table: Table,
        parts: int,
        width: int,
        hidden: int,
        depth: int,
        norm: Callable[[int], nn.Module] | None = None,
    ) -> None:
        super().__init__()
        first = [] if norm is None else [norm]
        self.to_freqs = nn.ModuleList(
            nn.Sequential(
                nn.Sequential(
                    *(make(width) for make in first), *_mlp(width, hidden, depth, 2 * parts * len(band))
                ),
                nn.GLU(dim=-1),
            )
            for band in table
        )

    def forward(self, x: Tensor) -> Tensor:
        """[B, frames, bands, width] -> [B, frames, Σ band·parts], band after band."""
        masks = [layer(band) for layer, band in zip(self.to_freqs, x.unbind(dim=-2), strict=True)]
        return torch.cat(masks, dim=-1)  # [B, frames, Σ band·parts]


def _mlp(width: int, hidden: int, depth: int, out: int) -> Iterable[nn.Module]:
    for size in [width, *[hidden] * depth][:depth]:
        yield nn.Linear(size, hidden)
        yield nn.Tanh()
    yield nn.Linear(hidden if depth else width, out)


def join_bands(masks: Tensor, table: Table, parts: int) -> Tensor:
    """Return one mask per bin, the mean over the bands that contain the bin.

    Args:
        masks: [..., Σ band·parts], band after band.
        table: the bands; every bin is in at least one.
        parts: numbers per bin.

    Returns:
        [..., F, parts].
    """
    by_bin: Tensor = masks.unflatten(-1, (-1, parts))  # [..., Σ band, parts]
    bins = torch.tensor([k for band in table for k in band], device=masks.device)
    count = table[-1].stop
    if len(bins) == count:  # bands without overlap
        return by_bin
    covering = masks.new_zeros(count).index_add(0, bins, masks.new_ones(len(bins)))  # [F] bands per bin
    total = by_bin.new_zeros(*by_bin.shape[:-2], count, parts).index_add(-2, bins, by_bin)
    return total / covering[:, None]
