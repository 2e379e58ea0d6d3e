"""Tables of overlapping bands: edges worked out by hand, shares, and tables that can't be."""

import pytest

from stemsplit.errors import StemsplitError, UnknownNameError
from stemsplit.models.blocks.filterbanks import TABLES, filterbank

BINS = 1025
# In these tables the highest filter is zero at the highest frequency, and nobody else has it.
WITHOUT_HIGHEST = {"bark", "erb", "mel"}


@pytest.mark.parametrize("count", [8, 48, 64, 100])
@pytest.mark.parametrize("name", sorted(TABLES))
def test_every_bin_is_in_a_band(name: str, count: int) -> None:
    table, shares = filterbank(name, count, 2048, 44_100)
    assert len(table) == (43 if name == "vox7" else count)
    assert all(table)
    assert [band.start for band in table] == sorted(band.start for band in table)
    assert {k for band in table for k in band} == set(range(BINS - (name in WITHOUT_HIGHEST)))
    if shares is None:
        assert name == "vox7" and sum(map(len, table)) == BINS
        return
    total = [0.0] * table[-1].stop
    for band, share in zip(table, shares, strict=True):
        for k, part in zip(band, share, strict=True):
            assert 0 < part <= 1
            total[k] += part
    assert total == pytest.approx([1.0] * len(total))


@pytest.mark.parametrize(
    ("name", "first", "last"),
    [
        # 2.5 Bark above 0 Hz are 600 sinh(2.5/6) = 257 Hz, 11.95 bins; 1.3 below 25.8 Bark 824.6
        ("bark", range(12), range(825, 1024)),
        # of 50 points from 0 to log10(1 + 0.00437·22050) = 1.988 the third is 0.0812: 47 Hz, 2.2 bins
        ("erb", range(3), range(848, 1024)),
        # of 50 points from 0 to 3923 mel the third is 160 mel: 107 Hz, 4.96 bins
        ("mel", range(5), range(885, 1024)),
        # of 50 points from 0 to 25.8 Bark the third is 1.05 Bark: 106 Hz, 4.9 bins
        ("tribark", range(5), range(860, 1025)),
        # a 48th of 10 octaves is a factor of 1.155: from bin 1 up to bin 2, and from bin 1024 down to 886.3
        ("musical", range(3), range(886, 1025)),
        # 100 Hz are 4.6 bins, 20 kHz 928.8
        ("vox7", range(5), range(929, 1025)),
    ],
)
def test_the_outermost_of_48_bands(name: str, first: range, last: range) -> None:
    table = filterbank(name, 48, 2048, 44_100).table
    assert (table[0], table[-1]) == (first, last)


def test_vox7_leaves_a_single_bin_below_one_kilohertz() -> None:
    # 1 kHz is 46.4 bins, nine bands of 5 are 45
    table = filterbank("vox7", 64, 2048, 44_100).table
    assert table[8:11] == (range(40, 45), range(45, 46), range(46, 58))


def test_a_triangle_is_shared_with_its_neighbours_only() -> None:
    table, shares = filterbank("mel", 48, 2048, 44_100)
    assert shares is not None
    for i in range(46):
        assert not set(table[i]) & set(table[i + 2])
    # alone at its peak: between the neighbours' ends
    assert shares[0][:3] == (1.0, 1.0, 1.0)
    middle = shares[30]
    peak = max(range(len(middle)), key=lambda k: middle[k])
    assert sorted(middle[: peak + 1]) == list(middle[: peak + 1])


@pytest.mark.parametrize("name", ["erb", "mel", "tribark"])
def test_bands_without_bins_are_refused(name: str) -> None:
    with pytest.raises(StemsplitError, match="a band of 64 has no bin"):
        filterbank(name, 64, 64, 44_100)


def test_other_tables_that_cannot_be() -> None:
    with pytest.raises(StemsplitError, match="1 bands leave bins between them"):
        filterbank("bark", 1, 2048, 44_100)
    with pytest.raises(StemsplitError, match="a band of 9 has no bin"):
        filterbank("vox7", 64, 16, 44_100)
    with pytest.raises(StemsplitError, match="1000000 bands of 1025 bins"):
        filterbank("bark", 1_000_000, 2048, 44_100)
    with pytest.raises(UnknownNameError, match="no table of bands named 'mell'"):
        filterbank("mell", 64, 2048, 44_100)
