"""Post-processing of masks."""

import pytest
import torch
from torch import Tensor

from stemsplit.models.blocks.artifacts import FADE, REACH, without_artifacts


def mask_of(*loud: tuple[int, int], frames: int = 400) -> Tensor:
    mask = torch.full((2, 5, frames), 0.1)
    for start, end in loud:
        mask[..., start : end + 1] = 0.5
    return mask


def weight(mask: Tensor, first: int = 0, last: int = 399) -> Tensor:
    """How far the mask was raised to 1, [frames]."""
    out = without_artifacts(mask, 0.2, first, last)
    raised = (out - mask) / (1 - mask)
    assert (raised - raised[0, 0]).abs().max() < 1e-6
    return raised[0, 0]


@pytest.mark.parametrize(("end", "raised"), [(164, False), (165, True)])
def test_only_long_stretches_count(end: int, raised: bool) -> None:
    found = weight(mask_of((100, end)))
    assert bool(found.any()) == raised
    if raised:
        assert not found[:101].any() and not found[165:].any()
        assert (found[101:132] > 0).all() and found[131] == pytest.approx(1)


def test_fades_are_linear_and_the_middle_is_one() -> None:
    found = weight(mask_of((100, 250)))
    torch.testing.assert_close(found[100:132], torch.linspace(0, 1, FADE))
    torch.testing.assert_close(found[132:218], torch.ones(86))
    torch.testing.assert_close(found[218:250], torch.linspace(1, 0, FADE))


def test_the_start_of_the_track_does_not_fade_in() -> None:
    assert weight(mask_of((0, 200)))[0] == 1
    assert weight(mask_of((50, 250)), first=50)[50] == 1
    assert weight(mask_of((0, 250)), first=50)[49:51].tolist() == [0, 1]  # not the silence before the track
    assert weight(mask_of((0, 399)), first=-20)[0] == 0  # it began earlier: the stretch isn't its start


def test_what_follows_the_track_does_not_count() -> None:
    assert torch.equal(weight(mask_of((100, 399)), last=250), weight(mask_of((100, 250))))


def test_close_stretches_are_joined_and_one_low_value_ends_them() -> None:
    found = weight(mask_of((100, 200), (220, 330)))
    assert found[168:298].min() > 0.99
    mask = mask_of((100, 330))
    mask[1, 3, 200] = 0.1
    assert weight(mask)[200] == pytest.approx(1)  # joined again


def test_nothing_beyond_its_reach_changes_a_value() -> None:
    torch.manual_seed(0)
    for _ in range(20):
        mask = (torch.rand(1200) > 0.02).float().expand(2, 3, -1) * 0.4 + 0.1
        whole = without_artifacts(mask, 0.2, 0, 1199)
        part = without_artifacts(mask[..., 300:900], 0.2, -300, 899)
        assert torch.equal(whole[..., 300 + REACH : 900 - REACH], part[..., REACH:-REACH])
