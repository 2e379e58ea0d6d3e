"""The LSTM of limited span sees what it should, and its frames fit together."""

import pytest
import torch

from stemsplit.models.blocks.recurrent import BLSTM, join_frames, overlapping_frames


@pytest.mark.parametrize("width", [4, 8, 20])
def test_frames_join_into_what_they_were_cut_from(width: int) -> None:
    for length in range(width + 1, 5 * width + 2):
        x = torch.randn(2, 3, length)
        frames = overlapping_frames(x, width)
        assert frames.shape == (2, -(-length // (width // 2)), 3, width)
        assert torch.equal(join_frames(frames, length), x)


def test_every_step_comes_from_the_frame_where_it_is_furthest_from_the_edge() -> None:
    frames = torch.arange(4.0)[None, :, None, None].expand(1, 4, 1, 8)
    owners = join_frames(frames, 19)[0, 0].tolist()
    assert owners == [0] * 6 + [1] * 4 + [2] * 4 + [3] * 5


@torch.inference_mode()
def test_a_span_is_exactly_how_far_it_sees() -> None:
    lstm = BLSTM(4, span=8).eval()
    x = torch.randn(1, 4, 40)
    touched = x.clone()
    touched[..., 20] += 1
    changed = (lstm(x) != lstm(touched)).any(dim=1)[0].nonzero().flatten()
    # step 20 is in the frames 12-19 + 8 and 16-23 + 8, whose middle halves cover 18 … 25
    assert changed.min() >= 18
    assert changed.max() <= 25


@torch.inference_mode()
def test_up_to_the_span_it_is_one_piece() -> None:
    limited, whole = BLSTM(4, layers=2, span=8, skip=True).eval(), BLSTM(4, layers=2).eval()
    whole.load_state_dict(limited.state_dict())
    for length in (1, 7, 8):
        x = torch.randn(2, 4, length)
        torch.testing.assert_close(limited(x), x + whole(x))
