"""Random stereo images of whole mixes: mono, narrow, wide, unbalanced and one-sided."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from stemsplit.core.stats import TrackStats
from stemsplit.training.augment import random_image
from stemsplit.training.data import Sample, Samples, SampleSpec
from stemsplit.training.library import SampledStem, Song, SongSet
from stemsplit.training.rng import generator
from stemsplit.training.sampling import AugmentConfig, DataConfig, DataSetConfig, ImageConfig

STEMS = ("drums", "bass")
STEREO = torch.tensor([[3.0, 0.5], [1.0, -0.5]])  # [C, T]


def image(config: ImageConfig, seed: int = 0, channels: int = 2) -> Tensor:
    return random_image(generator(seed), channels, config)


def test_mono_is_the_mean_of_the_channels() -> None:
    assert torch.equal(image(ImageConfig(mono=1.0)) @ STEREO, torch.tensor([[2.0, 0.0], [2.0, 0.0]]))
    three = torch.tensor([[3.0], [6.0], [0.0]])
    torch.testing.assert_close(image(ImageConfig(mono=1.0), channels=3) @ three, torch.full((3, 1), 3.0))


@pytest.mark.parametrize(("db", "factor"), [(-20.0, 0.1), (6.0206, 2.0), (0.0, 1.0)])
def test_width_scales_the_side_and_keeps_the_middle(db: float, factor: float) -> None:
    (left, right) = (image(ImageConfig(width=1.0, width_db=(db, db))) @ STEREO).unbind()
    torch.testing.assert_close(left + right, STEREO[0] + STEREO[1])
    torch.testing.assert_close(left - right, factor * (STEREO[0] - STEREO[1]))


def test_balance_attenuates_either_channel_by_up_to_its_limit() -> None:
    gains = torch.stack([image(ImageConfig(balance=1.0, balance_db=6.0), i).diag() for i in range(200)])
    attenuated = gains.argmin(1)
    assert (gains.amax(1) == 1).all() and 70 < int(attenuated.sum()) < 130
    lost_db = -20 * gains.amin(1).log10()
    assert 0 <= float(lost_db.min()) < 0.2 and 5.8 < float(lost_db.max()) <= 6


def test_one_side_is_silenced_and_the_other_kept() -> None:
    found = [image(ImageConfig(one_sided=1.0), i).diag().tolist() for i in range(100)]
    assert {tuple(f) for f in found} == {(0.0, 1.0), (1.0, 0.0)}
    assert 30 < sum(f[0] == 0 for f in found) < 70


def test_mono_and_one_sided_together_are_a_mono_mix_on_one_side() -> None:
    both = image(ImageConfig(mono=1.0, one_sided=1.0), 3) @ STEREO
    assert sorted(both.tolist()) == [[0.0, 0.0], [2.0, 0.0]]


def test_changes_have_their_probabilities() -> None:
    config = ImageConfig(mono=0.3, width=0.2, balance=0.0)
    matrices = [image(config, i) for i in range(1500)]
    mono = sum(bool((m == 0.5).all()) for m in matrices)
    untouched = sum(torch.equal(m, torch.eye(2)) for m in matrices)
    assert mono / 1500 == pytest.approx(0.3, abs=0.04)
    assert untouched / 1500 == pytest.approx(0.7 * 0.8, abs=0.04)


def test_one_channel_has_no_image() -> None:
    every = ImageConfig(mono=1.0, width=1.0, balance=1.0, one_sided=1.0)
    assert torch.equal(image(every, channels=1), torch.eye(1))


class Noise:
    """Stereo noise, different in each stem and channel."""

    frames = 4000

    def __init__(self, seed: int) -> None:
        self.audio = np.random.default_rng(seed).standard_normal((2, self.frames)).astype(np.float32)

    def read(self, start: int = 0, frames: int | None = None) -> np.ndarray:
        return self.audio[:, start : start + (frames or self.frames)]


def samples(change: AugmentConfig) -> Samples:
    stems = {name: SampledStem(Noise(number)) for number, name in enumerate(STEMS)}
    songs = SongSet(1.0, (Song("noise", Noise.frames, stems, TrackStats(0.0, 1.0)),))
    spec = SampleSpec(seed=1, stems=STEMS, targets=(0, 1), channels=2, samples=500, sample_rate=8000)
    return Samples([songs], spec, DataConfig((DataSetConfig("x"),), segment_s=0.0625), change)


PLAIN = AugmentConfig(swap_channels=True, polarity=True, gain_db=(-6, 6))


def changed(config: ImageConfig) -> list[tuple[Sample, Sample]]:
    """Return 30 samples before and after the change."""
    before, after = samples(PLAIN), samples(replace(PLAIN, image=config))
    return [(before[i], after[i]) for i in range(30)]


def test_the_mix_is_made_mono_after_it_is_mixed() -> None:
    for before, after in changed(ImageConfig(mono=1.0)):
        assert torch.equal(after.mix[0], after.mix[1])
        torch.testing.assert_close(after.mix[0], before.mix.mean(0))
        torch.testing.assert_close(after.stems, before.stems.mean(1, keepdim=True).expand_as(before.stems))


def test_every_stem_gets_the_image_of_the_mix() -> None:
    different = 0
    for before, after in changed(ImageConfig(mono=0.2, width=0.6, balance=0.5, one_sided=0.1)):
        torch.testing.assert_close(after.mix, after.stems.sum(0), atol=1e-5, rtol=1e-4)
        matrix = torch.linalg.lstsq(before.mix.T, after.mix.T).solution.T  # [C, C]
        torch.testing.assert_close(matrix @ before.stems, after.stems, atol=1e-4, rtol=1e-3)
        different += not torch.equal(before.mix, after.mix)
    assert different > 20


def test_nothing_else_changes_with_it() -> None:
    unused = changed(ImageConfig(width_db=(-10, 0)))
    assert all(torch.equal(before.mix, after.mix) for before, after in unused)
    rare = changed(ImageConfig(balance=0.3))
    assert 10 < sum(torch.equal(before.stems, after.stems) for before, after in rare) < 30
