from typing import Any

import pytest
import torch
from torch import Tensor, nn

from stemsplit.models.network import Network
from stemsplit.training.config import SemiConfig
from stemsplit.training.data import Sample
from stemsplit.training.sampling import AugmentConfig
from stemsplit.training.teacher import Teacher, pseudo_stems, with_residual


def levels(*decibels: float) -> Tensor:
    """Return estimates [1, S, 1, 4] at these levels relative to a mix of ones."""
    return torch.stack([10 ** (db / 20) * torch.ones(1, 4) for db in decibels])[None]


MIX = torch.ones(1, 1, 4)


def test_both_stems_of_a_mixture_are_present() -> None:
    stems, present = pseudo_stems(MIX, levels(-6, -6), 30)
    assert present.tolist() == [[True, True]] and torch.equal(stems, levels(-6, -6))


def test_a_mixture_without_the_target_is_a_clean_residual() -> None:
    stems, present = pseudo_stems(MIX, levels(-30.1, 0), 30)
    assert present.tolist() == [[False, True]] and torch.equal(stems[:, 1], MIX)


def test_a_mixture_without_a_residual_is_a_clean_target() -> None:
    stems, present = pseudo_stems(MIX, levels(-0.2, -40), 30)
    assert present.tolist() == [[True, False]] and torch.equal(stems[:, 0], MIX)


def test_a_stem_just_above_the_threshold_is_present() -> None:
    stems, present = pseudo_stems(MIX, levels(-29.9, -0.1), 30)
    assert present.tolist() == [[True, True]] and torch.equal(stems[:, 0], levels(-29.9)[:, 0])


def test_absent_stems_of_several_are_discarded() -> None:
    stems, present = pseudo_stems(MIX, levels(-3, -50, -4, -60), 30)
    assert present.tolist() == [[True, False, True, False]]
    assert torch.equal(stems[:, 0], levels(-3)[:, 0])


def test_items_are_judged_by_themselves_and_silence_has_no_stems() -> None:
    mix = torch.stack([torch.ones(1, 4), torch.zeros(1, 4), 10 * torch.ones(1, 4)])
    estimates = torch.cat([levels(-6, -6), torch.zeros(1, 2, 1, 4), levels(-20, 19.9)])
    _, present = pseudo_stems(mix, estimates, 30)
    assert present.tolist() == [[True, True], [False, False], [False, True]]


def test_the_residual_is_what_the_stems_leave() -> None:
    stems = torch.tensor([[[[1.0, 2.0]], [[3.0, 4.0]]]])
    mix = torch.tensor([[[5.0, 5.0]]])
    assert with_residual(mix, stems, False)[0, 2].tolist() == [[1.0, -1.0]]
    assert with_residual(mix, stems, True) is stems


class Target(Network):
    """Network of one stem, the mix times `gain`."""

    def __init__(self, gain: float) -> None:
        super().__init__(None, stems=("vocals",), sample_rate=1, channels=1, segment_samples=4)
        self.gain = nn.Parameter(torch.tensor(gain))

    def estimate(self, mix: Tensor) -> Tensor:
        return self.gain * mix[:, None]


def teacher(gain: float = 0.5, promote: bool = True, **change: Any) -> Teacher:
    return Teacher(Target(gain), SemiConfig(promote=promote), AugmentConfig(**change), 1, complete=False)


def batch(size: int = 200) -> Sample:
    """Return a batch with vocals of 1 in a mix of 3, so a residual of 2, and unlabelled mixtures of 20."""
    shape = (size, 1, 4)
    return Sample(
        torch.arange(size), 3 * torch.ones(shape), torch.ones(size, 1, 1, 4), 20 * torch.ones(shape)
    )


def pairs(mixes: Tensor, stems: Tensor) -> list[tuple[float, float]]:
    return [(s[0, 0, 0].item(), (m[0, 0] - s[0, 0, 0]).item()) for m, s in zip(mixes, stems, strict=True)]


def test_targets_and_residuals_are_drawn_from_both_sources() -> None:
    mixes, stems = teacher().mix_batch(batch())
    assert mixes.shape == (200, 1, 4) and stems.shape == (200, 1, 1, 4)
    found = pairs(mixes, stems)
    assert set(found) == {(1, 2), (1, 10), (10, 2), (10, 10)}
    assert all(25 < found.count(pair) < 80 for pair in set(found))


def test_a_clean_residual_is_used_for_residuals_only() -> None:
    found = pairs(*teacher(0.001).mix_batch(batch()))
    assert set(found) == {(1, 2), (1, 20)}


def test_a_clean_target_is_used_for_targets_only() -> None:
    found = pairs(*teacher(0.999).mix_batch(batch()))
    assert set(found) == {(1, 2), (20, 2)}


def test_new_mixes_are_scaled_and_dropped_after_resampling() -> None:
    found = pairs(*teacher(gain_db=(20.0, 20.0)).mix_batch(batch(40)))
    assert set(found) <= {(10, 20), (10, 100), (100, 20), (100, 100)}
    mixes, stems = teacher(drop=0.5).mix_batch(batch())
    assert 60 < sum(stem == 0 for stem, _ in pairs(mixes, stems)) < 140
    mixes, stems = teacher(peak=True).mix_batch(batch(40))
    assert mixes.abs().amax((1, 2)).allclose(torch.ones(40))


def test_mixing_depends_on_the_sample_s_index_alone() -> None:
    everything = batch(40)
    part = Sample(*(value[7:9] for value in everything))
    mixes, stems = teacher().mix_batch(everything)
    again, same = teacher().mix_batch(part)
    assert torch.equal(again, mixes[7:9]) and torch.equal(same, stems[7:9])


def test_the_teacher_is_a_copy_that_does_not_learn() -> None:
    network = Target(0.5).train()
    first = Teacher(network, SemiConfig(), AugmentConfig(), 1, complete=False)
    network.gain.data.fill_(9.0)
    assert not first.network.training and not first.network.gain.requires_grad
    assert first.network.state_dict()["gain"] == 0.5 and network.gain.requires_grad


def test_better_students_become_the_teacher() -> None:
    taught = teacher(0.5)
    assert taught.promote_if_better({"gain": torch.tensor(0.5)}, 3.0)  # the first score is the teacher's own
    assert not taught.promote_if_better({"gain": torch.tensor(0.6)}, 3.0)
    assert taught.promote_if_better({"gain": torch.tensor(0.7)}, 3.1)
    assert taught.network.state_dict()["gain"] == pytest.approx(0.7) and taught.score == 3.1
    other = teacher(0.5)
    other.load_state_dict(taught.state_dict())
    assert other.score == 3.1 and other.network.state_dict()["gain"] == pytest.approx(0.7)


def test_a_fixed_teacher_stays() -> None:
    taught = teacher(0.5, promote=False)
    assert not taught.promote_if_better({"gain": torch.tensor(0.7)}, 9.0)
    assert taught.network.state_dict()["gain"] == 0.5
