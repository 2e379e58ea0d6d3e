"""Samples by the weights of songs and stems, and by their level."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from stemsplit.training.library import SampledStem, Song, SongSet
from tests.training.conftest import STEMS
from tests.training.test_data import Counting, make, origin, same, songs


def test_songs_and_stems_are_sampled_by_weight() -> None:
    plain, other = songs(60, 60), songs(60, 60, first=5)
    heavy = replace(plain.songs[1], weight=3.0)
    plain = replace(plain, songs=(plain.songs[0], heavy), stem_weights={"vocals": 3.0, "drums": 0.0})
    samples = make(plain, other, data={"remix": 1.0, "remix_group": None})
    drawn = [[origin(stem)[0] for stem in samples[i].stems] for i in range(1200)]
    counts = [Counter(row[stem] for row in drawn) for stem in range(4)]
    drums, bass, _, vocals = ([count[song] / 1200 for song in (0, 1, 5, 6)] for count in counts)
    assert drums == pytest.approx([0, 0, 0.5, 0.5], abs=0.04)
    assert bass == pytest.approx([0.125, 0.375, 0.25, 0.25], abs=0.04)
    assert vocals == pytest.approx([0.1875, 0.5625, 0.125, 0.125], abs=0.04)


class Half(Counting):
    """A counting song whose first half is quiet."""

    def read(self, start: int = 0, frames: int | None = None) -> np.ndarray:
        n = np.arange(start, start + (self.frames if frames is None else frames))
        return super().read(start, frames) * np.where(n < self.frames // 2, 1e-9, 1).astype(np.float32)


@pytest.mark.parametrize("remix", [0.0, 1.0])
def test_quiet_segments_are_drawn_again(remix: float) -> None:
    stems = {stem: SampledStem(Half(3, stem, 400)) for stem in STEMS}
    half = SongSet(1.0, (Song("half", 400, stems),))

    def levels(min_db: float | None) -> list[float]:
        data = {"remix": remix, "remix_group": None, "min_db": min_db}
        samples = make(half, data=data)
        return [samples[i].stems[k].square().mean().sqrt().item() for i in range(60) for k in range(4)]

    quiet = sum(level < 0.5 for level in levels(None))
    assert 80 < quiet < 160  # of 240
    assert min(levels(20 * np.log10(0.5))) > 0.5
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("stemsplit.training.data.ATTEMPTS", 2)
        assert 0 < sum(level < 0.5 for level in levels(20 * np.log10(0.5))) < 0.75 * quiet


def test_a_song_without_a_loud_segment_is_used_in_the_end() -> None:
    quiet = make(songs(60), data={"min_db": 300.0})[0]
    assert origin(quiet.stems[1])[:2] == (0, 1)


def test_a_sample_with_a_level_is_the_same_in_any_order() -> None:
    stems = {stem: SampledStem(Half(3, stem, 400)) for stem in STEMS}
    first, again = (
        make(SongSet(1.0, (Song("half", 400, stems),)), data={"min_db": -6.0, "remix": 1.0}) for _ in range(2)
    )
    ahead = [first[i] for i in range(8)]
    assert all(same(again[i], ahead[i]) for i in reversed(range(8)))
