"""Tables of bands, and the way into bands and back."""

from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from stemsplit.errors import StemsplitError
from stemsplit.models.blocks.bands import (
    SCHEMES,
    BandSplit,
    MaskEstimator,
    hertz_bands,
    join_bands,
    linear_bands,
    mel_bands,
)

PUBLISHED = {"v1": 22, "v2": 19, "v3": 14, "v4": 23, "v5": 28, "v6": 26, "v7": 41, "bass": 30, "drums": 55}


@pytest.mark.parametrize(("scheme", "count"), PUBLISHED.items())
def test_schemes_have_the_bands_of_the_paper(scheme: str, count: int) -> None:
    table = hertz_bands(SCHEMES[scheme], n_fft=2048, sample_rate=44100)
    assert len(table) == count
    assert [k for band in table for k in band] == list(range(1025))


def test_a_band_holds_the_bins_whose_frequencies_lie_in_it() -> None:
    table = hertz_bands(SCHEMES["v7"], n_fft=2048, sample_rate=44100)
    hertz = [[k * 44100 / 2048 for k in band] for band in table]
    edges = [
        *range(0, 1000, 100),
        *range(1000, 4000, 250),
        *range(4000, 8000, 500),
        *range(8000, 16000, 1000),
    ]
    edges += [16000, 18000, 20000, 22051]
    for (low, high), inside in zip(pairwise(edges), hertz, strict=True):
        assert all(low <= frequency < high for frequency in inside)


def test_bands_follow_the_sample_rate() -> None:
    at_48k = hertz_bands(SCHEMES["v4"], n_fft=2048, sample_rate=48000)
    assert len(at_48k) == PUBLISHED["v4"]
    assert at_48k[9].stop == -(-1000 * 2048 // 48000)


@pytest.mark.parametrize(("n_fft", "sample_rate"), [(256, 44100), (2048, 16000)])
def test_empty_bands_are_refused(n_fft: int, sample_rate: int) -> None:
    with pytest.raises(StemsplitError, match="no bin"):
        hertz_bands(SCHEMES["v7"], n_fft, sample_rate)


@pytest.mark.parametrize("widths", [[], [5], [7], [6, 0], [7, -1]])
def test_widths_must_fill_the_spectrum(widths: list[int]) -> None:
    with pytest.raises(StemsplitError):
        linear_bands(widths, 6)


def mel(hertz: float) -> float:
    steps = (
        torch.tensor(hertz / 1000, dtype=torch.float64).log() / torch.tensor(6.4, dtype=torch.float64).log()
    )
    return hertz / (200 / 3) if hertz < 1000 else 15 + 27 * float(steps)


@pytest.mark.parametrize(("count", "n_fft", "rate"), [(60, 2048, 44100), (9, 256, 44100), (40, 1024, 22050)])
def test_mel_bands_are_where_the_triangles_are_positive(count: int, n_fft: int, rate: int) -> None:
    step = mel(rate / 2) / (count + 1)
    table = mel_bands(count, n_fft, rate)
    places = [mel(k * rate / n_fft) / step for k in range(n_fft // 2 + 1)]
    for index, band in enumerate(table):
        inside = {k for k, place in enumerate(places) if index < place < index + 2}
        inside |= {0} if index == 0 else {n_fft // 2} if index == count - 1 else set()
        assert set(band) == inside


def test_mel_bands_of_the_released_network() -> None:
    table = mel_bands(60, 2048, 44100)
    assert [len(band) for band in table[:20]] == [7, 6, 6, 6, 6, 6, 6, 6, 6, 6, 6, 6, 6, 6, 6, 7, 7, 7, 9, 9]
    assert [(band.start, band.stop - 1) for band in table[-3:]] == [(782, 894), (836, 957), (895, 1024)]
    assert sum(map(len, table)) == 1979
    assert {sum(k in band for band in table) for k in range(1025)} == {1, 2}


def test_too_many_mel_bands_are_refused() -> None:
    with pytest.raises(StemsplitError, match="no bin"):
        mel_bands(60, 256, 44100)


@settings(deadline=None, max_examples=40)
@given(st.integers(2, 12), st.integers(1, 3), st.integers(0, 2**32 - 1))
def test_joining_averages_over_all_bands_of_a_bin(count: int, parts: int, seed: int) -> None:
    torch.manual_seed(seed)
    table = mel_bands(count, 2048, 44100)
    masks = [torch.randn(3, len(band), parts) for band in table]
    joined = join_bands(torch.cat([mask.flatten(1) for mask in masks], dim=1), table, parts)
    for k in (0, 1, 500, 1000, 1024):
        covering = [mask[:, k - band.start] for band, mask in zip(table, masks, strict=True) if k in band]
        torch.testing.assert_close(joined[:, k], torch.stack(covering).mean(0))


def test_joining_bands_side_by_side_changes_nothing() -> None:
    masks = torch.randn(2, 12)
    assert torch.equal(join_bands(masks, linear_bands([1, 2, 3], 6), 2), masks.view(2, 6, 2))


def test_every_band_sees_its_own_bins_only() -> None:
    table = mel_bands(5, 128, 44100)
    split = BandSplit(table, parts=2, width=3, norm=lambda width: torch.nn.Identity())
    flat = torch.randn(1, 4, 65 * 2)
    before = split(flat)
    assert before.shape == (1, 4, 5, 3)
    for k in range(65):
        flat_k = flat.clone()
        flat_k[..., 2 * k : 2 * k + 2] += 1
        touched = (split(flat_k) != before).any(-1)[0]
        assert torch.equal(touched, torch.tensor([k in band for band in table]).expand(4, -1))


def test_a_mask_depends_on_its_band_only() -> None:
    table = linear_bands([2, 3, 1], 6)
    estimator = MaskEstimator(table, parts=2, width=4, hidden=5, depth=2)
    features = torch.randn(1, 2, 3, 4)
    before = estimator(features)
    assert before.shape == (1, 2, 12)
    features[:, :, 1] += 1
    changed = (estimator(features) != before)[0]
    assert torch.equal(changed, torch.tensor([False] * 4 + [True] * 6 + [False] * 2).expand(2, -1))


@pytest.mark.parametrize("depth", [0, 1, 2])
def test_depth_is_the_number_of_hidden_layers(depth: int) -> None:
    estimator = MaskEstimator(linear_bands([3], 3), parts=2, width=4, hidden=5, depth=depth)
    shapes = [tuple(p.shape) for p in estimator.parameters() if p.ndim == 2]
    assert shapes == [*[(5, 4), (5, 5)][:depth], (12, 5 if depth else 4)]
