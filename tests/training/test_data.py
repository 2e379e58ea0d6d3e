from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from stemsplit.core.stats import TrackStats
from stemsplit.training.batches import MicroBatches, ResumableSampler, data_loader
from stemsplit.training.data import Sample, Samples, SampleSpec, SongSampler, random_factors
from stemsplit.training.library import MIX, DataSpec, SampledStem, Song, SongSet, open_songs
from stemsplit.training.rng import generator
from stemsplit.training.sampling import (
    AugmentConfig,
    DataConfig,
    DataSetConfig,
    EffectPlaces,
    EffectsConfig,
    ImageConfig,
)
from tests.training.conftest import RATE, STEMS, WriteSongs, code

LENGTH = 20


class Counting:
    """One stem of a counting song in memory."""

    def __init__(self, song: int, stem: str, frames: int) -> None:
        self.song, self.stem, self.frames = song, STEMS.index(stem), frames

    def read(self, start: int = 0, frames: int | None = None) -> np.ndarray:
        n = np.arange(start, start + (self.frames - start if frames is None else frames))
        left = np.where((n >= 0) & (n < self.frames), code(self.song, self.stem, 0) + n, 0)
        return np.stack([left, -left]).astype(np.float32)


def songs(*lengths: int, stems: tuple[str, ...] = STEMS, first: int = 0, weight: float = 1.0) -> SongSet:
    """Return a data set of counting songs; a song has its number as mean and a standard deviation of 2."""
    return SongSet(
        weight,
        tuple(
            Song(
                str(k),
                length,
                {s: SampledStem(Counting(k, s, length)) for s in stems},
                TrackStats(float(k), 2.0),
            )
            for k, length in enumerate(lengths, first)
        ),
    )


def make(*sets: SongSet, data: dict[str, Any] | None = None, **changes: Any) -> Samples:
    """Return samples of 20 ms; `data`, `spec` and `augment` override some of the settings."""
    spec = SampleSpec(**{"seed": 1, "stems": STEMS, "targets": (0, 1, 2, 3), "channels": 2, "samples": LENGTH,
                         "sample_rate": RATE, **changes.pop("spec", {})})  # fmt: skip
    config = DataConfig(**{"train": (DataSetConfig("x"),), "segment_s": LENGTH / RATE, **(data or {})})
    return Samples(sets, spec, config, AugmentConfig(**changes.pop("augment", {})), **changes)


def opened(path: Path) -> SongSet:
    (one,) = open_songs(
        [DataSetConfig(str(path))], DataSpec(STEMS, {}, RATE, 2), lambda *step: None, lambda line: None
    )
    return one


def origin(stem: Tensor) -> tuple[int, int, int]:
    """Return song, stem and first position of an unchanged stem [C, T] of `counting_songs`."""
    left = stem[0].to(torch.int64)
    assert torch.equal(left, torch.arange(len(left)) + left[0]) and torch.equal(stem[1], -stem[0])
    value = int(left[0]) - 1
    return value // 1_000_000, value // 100_000 % 10, value % 100_000


def same(first: Sample, second: Sample) -> bool:
    return all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


EVERYTHING = {
    "shift_s": 0.005,
    "swap_channels": True,
    "polarity": True,
    "gain_db": (-10.0, 10.0),
    "drop": 0.1,
    "solo": 0.1,
    "repitch": 0.5,
    "varispeed": 0.5,
    "equalise": 0.5,
    "image": ImageConfig(mono=0.2, width=0.5, balance=0.3, one_sided=0.1),
    "peak": True,
}


@pytest.mark.parametrize("files", [False, True])
def test_without_remix_a_sample_is_a_segment_of_a_song(counting_songs: WriteSongs, files: bool) -> None:
    samples = make(opened(counting_songs(50, 90)) if files else songs(50, 90))
    for index in range(10):
        sample = samples[index]
        origins = [origin(stem) for stem in sample.stems]
        assert [stem for _, stem, _ in origins] == [0, 1, 2, 3]
        assert len({(song, position) for song, _, position in origins}) == 1
        assert torch.equal(sample.mix, sample.stems.sum(0)) and int(sample.number) == index
        assert sample.unlabelled.shape == (2, 0)


def test_every_position_is_equally_likely() -> None:
    samples = make(songs(LENGTH + 3, LENGTH + 3))
    places = Counter(origin(samples[i].stems[0])[::2] for i in range(1600))
    assert set(places) == {(song, position) for song in (0, 1) for position in range(4)}
    assert all(150 < count < 250 for count in places.values())


def test_songs_are_sampled_by_length() -> None:
    samples = make(songs(100, 300))
    drawn = Counter(origin(samples[i].stems[0])[0] for i in range(800))
    assert 2.4 < drawn[1] / drawn[0] < 3.7


def test_data_sets_are_sampled_by_weight() -> None:
    samples = make(songs(900), songs(60, 60, first=1, weight=3.0))
    drawn = Counter(origin(samples[i].stems[0])[0] for i in range(800))
    assert 2.4 < (drawn[1] + drawn[2]) / drawn[0] < 3.7 and 0.7 < drawn[1] / drawn[2] < 1.4


def test_samples_depend_on_seed_and_index_alone() -> None:
    path = songs(100, 120, 90)
    first = make(path, data={"remix": 0.7}, augment=EVERYTHING)
    again = make(path, data={"remix": 0.7}, augment=EVERYTHING)
    order = torch.randperm(24, generator=generator(5)).tolist()
    shuffled = {i: again[i] for i in order}
    assert all(same(first[i], shuffled[i]) for i in range(24))
    other = make(path, data={"remix": 0.7}, augment=EVERYTHING, spec={"seed": 2})
    assert not any(torch.equal(first[i].mix, other[i].mix) for i in range(24))
    assert len({tuple(first[i].mix.flatten().tolist()) for i in range(24)}) == 24


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("world", [1, 2])
def test_samples_are_the_same_with_any_workers_and_ranks(
    counting_songs: WriteSongs, workers: int, world: int
) -> None:
    samples = make(opened(counting_songs(100, 120)), data={"remix": 1.0}, augment=EVERYTHING)
    found: dict[int, Tensor] = {}
    for rank in range(world):
        sampler = ResumableSampler(
            MicroBatches(4, 3, 2, rank, world) if world == 1 else MicroBatches(4, 3, 1, rank, 2), lambda: 5
        )
        for batch in data_loader(samples, sampler, workers, pin=False):
            assert batch.mix.shape == (2, 2, LENGTH) and batch.stems.shape == (2, 4, 2, LENGTH)
            found.update(zip(batch.number.tolist(), batch.mix, strict=True))
    assert sorted(found) == list(range(20, 32))
    assert all(torch.equal(found[i], samples[i].mix) for i in found)


def test_remix_uses_every_crop_of_a_group_once() -> None:
    path = songs(*[60] * 9)
    plain, dealt = make(path), make(path, data={"remix": 1.0, "remix_group": 4})
    mixed_up = 0
    for group in range(6):
        members = range(group * 4, group * 4 + 4)
        for stem in range(4):
            before = sorted(origin(plain[i].stems[stem]) for i in members)
            after = sorted(origin(dealt[i].stems[stem]) for i in members)
            assert before == after
        mixed_up += sum(len({origin(s)[0] for s in dealt[i].stems}) > 1 for i in members)
    assert mixed_up > 12


def test_remix_has_its_probability() -> None:
    samples = make(songs(*[60] * 9), data={"remix": 0.5, "remix_group": 2})
    together = [len({origin(s)[::2] for s in samples[i].stems}) == 1 for i in range(400)]
    # in a group of two that is remixed, all four stems stay together in one of eight
    assert 0.47 < np.mean(together) < 0.65
    assert all(together[i] == together[i + 1] for i in range(0, 400, 2))


def test_stems_may_be_sampled_independently() -> None:
    samples = make(songs(*[60] * 9), data={"remix": 1.0, "remix_group": None})
    drawn = [[origin(s)[0] for s in samples[i].stems] for i in range(300)]
    assert [origin(s)[1] for s in samples[0].stems] == [0, 1, 2, 3]
    agree = np.mean([row[0] == row[1] for row in drawn])
    assert 0.05 < agree < 0.19  # one of nine


def test_songs_of_one_stem_are_used_when_stems_are_sampled_independently() -> None:
    voices = songs(60, 60, stems=("vocals",), first=5)
    samples = make(songs(60), voices, data={"remix": 1.0, "remix_group": None})
    drawn = [[origin(s)[0] for s in samples[i].stems] for i in range(200)]
    assert {row[3] for row in drawn} == {0, 5, 6} and {row[0] for row in drawn} == {0}


def test_a_stem_that_a_song_lacks_is_silent() -> None:
    samples = make(songs(60), songs(60, stems=("vocals",), first=5))
    for index in range(40):
        stems = samples[index].stems
        if origin(stems[3])[0] == 5:
            assert not stems[:3].any()
            return
    raise AssertionError("the second set was never drawn")


def test_the_network_s_stems_are_the_targets() -> None:
    path = songs(60)
    all_of, two = make(path), make(path, spec={"targets": (3, 1)})
    assert torch.equal(two[3].stems, all_of[3].stems[[3, 1]])
    assert torch.equal(two[3].mix, all_of[3].mix)


def test_samples_contain_all_of_a_short_song() -> None:
    samples = make(songs(LENGTH - 3))
    starts = set()
    for index in range(60):
        left = samples[index].stems[0][0]
        sounding = left.nonzero().flatten()
        assert len(sounding) == LENGTH - 3 and left[sounding[0]] == 1
        starts.add(int(sounding[0]))
    assert starts == {0, 1, 2, 3}


def test_shifts_move_stems_against_each_other() -> None:
    path = songs(60)
    apart = make(path, augment={"shift_s": 0.004})
    together = make(path, augment={"shift_s": 0.004, "shift_together": True})
    spread = set()
    for index in range(60):
        positions = [origin(s)[2] for s in apart[index].stems]
        spread.add(max(positions) - min(positions))
        assert len({origin(s)[2] for s in together[index].stems}) == 1
    assert spread <= set(range(5)) and 4 in spread
    assert max(origin(apart[i].stems[0])[2] for i in range(1500)) == 60 - LENGTH


@pytest.mark.parametrize("remix", [0.0, 1.0])
def test_songs_are_played_at_other_speeds(remix: float) -> None:
    samples = make(songs(60), augment={"varispeed": 0.5}, data={"remix": remix, "remix_group": None})
    rates = []
    for index in range(80):
        steps = samples[index].stems[:, 0].diff().mean(1)  # a counting song climbs by one
        rates.append(steps.tolist())
    if remix:
        assert any(max(row) - min(row) > 0.1 for row in rates)
    else:
        assert all(max(row) - min(row) < 0.01 for row in rates)
    drawn = [row[0] for row in rates]
    assert 25 <= drawn.count(1.0) <= 55
    assert 2**-0.25 - 0.01 <= min(drawn) < 0.9 and 1.1 < max(drawn) <= 2**0.25 + 0.01


def test_each_stem_is_equalised_independently() -> None:
    samples, plain = (make(songs(60), augment={"equalise": p}) for p in (0.5, 0.0))
    changed = [not torch.allclose(samples[i].stems, plain[i].stems) for i in range(60)]
    assert 20 <= sum(changed) <= 40
    index = changed.index(True)
    ratios = samples[index].stems[:, 0].std(1) / plain[index].stems[:, 0].std(1)
    assert len({round(float(ratio), 3) for ratio in ratios}) == 4
    assert torch.equal(samples[index].mix, samples[index].stems.sum(0))


def test_solo_silences_all_stems_but_one() -> None:
    samples = make(songs(60), augment={"solo": 0.3})
    sounding = [int((samples[i].stems != 0).flatten(1).any(1).sum()) for i in range(100)]
    assert set(sounding) == {1, 4} and 18 <= sounding.count(1) <= 42


def test_factors_are_combined() -> None:
    config = AugmentConfig(gain_db=(20.0, 20.0), polarity=True, drop=0.5)
    factors = torch.stack([random_factors(4, config, generator(i)) for i in range(100)])
    assert {round(v, 4) for v in factors.abs().flatten().tolist()} == {0.0, 10.0}
    assert (factors < 0).any() and (factors > 0).any()
    assert random_factors(3, AugmentConfig(), generator(0)).tolist() == [1, 1, 1]
    assert random_factors(2, AugmentConfig(gain=(0.5, 0.5)), generator(0)).tolist() == [0.5, 0.5]


def test_swap_by_hand() -> None:
    path = songs(60)
    plain, swapped = make(path), make(path, augment={"swap_channels": True})
    flips = 0
    for index in range(10):
        for before, after in zip(plain[index].stems, swapped[index].stems, strict=True):
            assert torch.equal(after, before) or torch.equal(after, before.flip(0))
            flips += torch.equal(after, before.flip(0))
    assert 10 < flips < 30


def test_every_augmentation_changes_the_sample() -> None:
    path = songs(3000)
    plain = make(path, spec={"samples": 500})
    for name, value in {**EVERYTHING, "gain": (0.25, 0.3), "codec": 1.0}.items():
        changed = make(path, spec={"samples": 500, "sample_rate": 8000}, augment={name: value})
        assert any(not torch.equal(changed[i].mix, plain[i].mix) for i in range(40)), name


class Noise:
    """Return a song with the same noise in every stem."""

    frames = 30000

    def read(self, start: int = 0, frames: int | None = None) -> np.ndarray:
        audio = 0.1 * np.random.default_rng(0).standard_normal((2, self.frames)).astype(np.float32)
        return audio[:, start : start + (frames or 0)]


def noise(*stems: str) -> SongSet:
    return SongSet(1.0, (Song("noise", Noise.frames, {stem: SampledStem(Noise()) for stem in stems}),))


TWO_SECONDS: dict[str, Any] = {
    "spec": {"stems": ("drums",), "targets": (0,), "samples": 16000, "sample_rate": 8000}
}


def test_a_repitched_song_stays_together() -> None:
    spec = {"stems": ("drums", "bass"), "targets": (0, 1), "samples": 3000}
    samples = make(noise("drums", "bass"), spec=spec, augment={"repitch": 1.0})
    for index in range(4):
        stems = samples[index].stems
        assert stems.shape == (2, 2, 3000) and torch.equal(stems[0], stems[1]) and stems.any()


def test_codecs_change_the_mix_and_not_the_stems() -> None:
    spec = {"stems": ("drums",), "targets": (0,), "samples": 8000, "sample_rate": 8000}
    plain, coded = (make(noise("drums"), spec=spec, augment={"codec": p})[0] for p in (0.0, 1.0))
    assert torch.equal(plain.stems, coded.stems) and not torch.equal(plain.mix, coded.mix)


def test_songs_are_standardised_by_their_own_statistics() -> None:
    path = songs(60, 70, first=3)
    raw, scaled = make(path), make(path, spec={"normalise": True})
    for index in range(10):
        song, _, _ = origin(raw[index].stems[0])
        torch.testing.assert_close(scaled[index].stems, (raw[index].stems - song) / 2)


class Ramp:
    """Audio 1, 2, 3, … on two channels."""

    def __init__(self, frames: int) -> None:
        self.frames = frames

    def read(self, start: int = 0, frames: int | None = None) -> np.ndarray:
        assert frames is not None
        return np.tile(np.arange(start, start + frames, dtype=np.float32), (2, 1))


def salient(**stems: tuple[int, ...]) -> Song:
    return Song("song", 1000, {name: SampledStem(Ramp(1000), starts) for name, starts in stems.items()})


def test_crops_lie_in_salient_segments() -> None:
    song = salient(drums=(100, 300), vocals=(700,))
    spec = SampleSpec(1, ("drums", "vocals"), (0, 1), 2, LENGTH, RATE, activity_samples=50)
    data = DataConfig((DataSetConfig("x"),), segment_s=LENGTH / RATE, remix=1.0, remix_group=None)
    samples = Samples([SongSet(1.0, (song,))], spec, data, AugmentConfig())
    drawn = torch.stack([samples[i].stems[:, 0, 0] for i in range(400)]).int()
    segments = {100: range(100, 131), 300: range(300, 331)}
    assert all(any(d in r for r in segments.values()) for d in drawn[:, 0].tolist())
    assert set(drawn[:, 1].tolist()) == set(range(700, 731))
    early = (drawn[:, 0] < 200).float().mean().item()
    assert 0.4 < early < 0.6


def test_songs_are_weighted_by_their_salient_segments() -> None:
    many, few, none = salient(drums=tuple(range(30))), salient(drums=tuple(range(10))), salient(drums=())
    sampler = SongSampler([SongSet(1.0, (many, few, none))], "drums")
    source = generator(0)
    counts = Counter(len(sampler.sample(source).stems["drums"].starts or ()) for _ in range(800))
    assert set(counts) == {30, 10} and 2.4 < counts[30] / counts[10] < 3.7


def test_samples_contain_unlabelled_mixes() -> None:
    mixes = SongSet(1.0, (Song("loose", 70, {MIX: SampledStem(Counting(7, "drums", 70))}),))
    samples = make(songs(60), spec={"raw_stems": True}, unlabelled=[mixes], augment={"gain_db": (20.0, 20.0)})
    sample = samples[3]
    assert origin(sample.unlabelled)[0] == 7
    assert origin(sample.stems[0])[0] == 0  # no gain yet
    assert len({origin(samples[i].unlabelled)[2] for i in range(20)}) > 10


@pytest.mark.parametrize(("world", "accumulate"), [(1, 1), (2, 1), (1, 2), (2, 2), (4, 2)])
def test_a_step_has_the_same_samples_on_any_hardware(world: int, accumulate: int) -> None:
    parts = [list(MicroBatches(8, 5, accumulate, rank, world).of_step(3)) for rank in range(world)]
    assert all(len(passes) == accumulate for passes in parts)
    assert sorted(i for passes in parts for p in passes for i in p) == list(range(24, 32))
    assert len({len(p) for passes in parts for p in passes}) == 1


def test_the_sampler_starts_at_the_current_step() -> None:
    position = 0
    sampler = ResumableSampler(MicroBatches(2, 3), lambda: position)
    assert len(sampler) == 3 and list(sampler) == [[0, 1], [2, 3], [4, 5]]
    position = 6
    assert list(sampler) == [[12, 13], [14, 15], [16, 17]]


def paired(*lengths: int) -> SongSet:
    """Return songs of the target `drums`, whose input file has the samples of another stem."""
    plain = songs(*lengths, stems=("drums",))
    given = [SampledStem(Counting(k, "vocals", length)) for k, length in enumerate(lengths)]
    return SongSet(1.0, tuple(replace(s, input=i) for s, i in zip(plain.songs, given, strict=True)))


PAIRED: dict[str, Any] = {"spec": {"stems": ("drums",), "targets": (0,)}, "data": {"input": "file"}}


def test_an_input_file_is_cut_as_its_targets_are() -> None:
    samples = make(paired(50, 90), **PAIRED, augment={"shift_s": 0.005})
    places = set()
    for index in range(60):
        sample = samples[index]
        (song, stem, position), found = origin(sample.mix), origin(sample.stems[0])
        assert stem == 3 and found == (song, 0, position)
        places.add((song, position))
    assert len(places) > 25


def test_pairs_are_swapped_and_scaled_together() -> None:
    change = {"swap_channels": True, "polarity": True, "gain": (0.5, 2.0), "varispeed": 0.5}
    samples = make(paired(60, 60), **PAIRED, augment=change)
    factors = set()
    for index in range(40):
        mix, stem = samples[index].mix, samples[index].stems[0]
        # at every rate the input is 300 000 above its target, times one factor, with one sign by channel
        (left, right) = (mix - stem).unbind()
        torch.testing.assert_close(left, -right)
        torch.testing.assert_close(left, left.mean().expand(LENGTH))
        factors.add(round(left.mean().item() / 300_000, 3))
    assert len(factors) == 40 and min(factors) < 0 < max(factors)
    assert all(0.5 <= abs(f) <= 2 for f in factors)


def test_effects_on_the_mixture_leave_the_targets() -> None:
    plain = make(noise("drums"), **TWO_SECONDS)
    for place, same_mix, same_stems in (("mixture", False, True), ("both", False, False)):
        effects = EffectPlaces(**{place: EffectsConfig(reverb=1.0)})
        changed = make(noise("drums"), **TWO_SECONDS, augment={"effects": effects})
        assert torch.equal(changed[0].mix, plain[0].mix) is same_mix
        assert torch.equal(changed[0].stems, plain[0].stems) is same_stems
        assert same(changed[3], changed[3]) and not torch.equal(changed[3].mix, changed[4].mix)


def test_effects_on_stems_differ_by_stem_and_are_in_the_mix() -> None:
    effects = EffectPlaces(stems=EffectsConfig(distort=1.0, reverb=0.5, equalise=0.5, compress=0.5))
    two = {"spec": {**TWO_SECONDS["spec"], "stems": ("drums", "bass"), "targets": (0, 1)}}
    sample = make(noise("drums", "bass"), **two, augment={"effects": effects})[0]
    assert not torch.equal(sample.stems[0], sample.stems[1])  # the files are the same
    torch.testing.assert_close(sample.mix, sample.stems.sum(0))


def test_effects_on_both_keep_the_sum() -> None:
    every = EffectsConfig(equalise=1.0, distort=1.0, compress=1.0, reverb=1.0)
    two = {"spec": {**TWO_SECONDS["spec"], "stems": ("drums", "bass"), "targets": (0, 1)}}
    change = {"effects": EffectPlaces(both=every), "gain": (0.5, 1.0)}
    sample = make(noise("drums", "bass"), **two, augment=change)[0]
    torch.testing.assert_close(sample.mix, sample.stems.sum(0), atol=1e-5, rtol=1e-4)
