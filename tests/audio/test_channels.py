import numpy as np
import pytest

from stemsplit.audio.channels import convert_channels, downmix_matrix
from stemsplit.errors import StemsplitError

HALF = np.float32(np.sqrt(0.5))


def one_hot(channels: int) -> np.ndarray:
    return np.eye(channels, dtype=np.float32)


def test_as_many_channels_stay_untouched() -> None:
    for channels in (1, 2):
        block = one_hot(channels)
        assert convert_channels(block, channels) is block


def test_mono_becomes_two_equal_channels() -> None:
    assert convert_channels(np.array([[1, 2, 3]], np.float32), 2).tolist() == [[1, 2, 3]] * 2


def test_stereo_becomes_its_mean() -> None:
    assert convert_channels(np.array([[1, 2], [3, 6]], np.float32), 1).tolist() == [[2, 4]]


# left and right gains per channel, from ITU-R BS.775-3 table 2
BS_775 = {
    (3, None): [[1, 0, HALF], [0, 1, HALF]],
    (4, None): [[1, 0, HALF, 0], [0, 1, 0, HALF]],
    (4, "4.0"): [[1, 0, HALF, 0.5], [0, 1, HALF, 0.5]],
    (5, None): [[1, 0, HALF, HALF, 0], [0, 1, HALF, 0, HALF]],
    (6, None): [[1, 0, HALF, 0, HALF, 0], [0, 1, HALF, 0, 0, HALF]],
    (6, "5.1(side)"): [[1, 0, HALF, 0, HALF, 0], [0, 1, HALF, 0, 0, HALF]],
    (8, "7.1"): [[1, 0, HALF, 0, HALF, 0, HALF, 0], [0, 1, HALF, 0, 0, HALF, 0, HALF]],
    (3, "2.1"): [[1, 0, 0], [0, 1, 0]],
}


@pytest.mark.parametrize(("case", "gains"), BS_775.items())
def test_downmix_gains(case: tuple[int, str | None], gains: list[list[float]]) -> None:
    channels, layout = case
    mixed = convert_channels(one_hot(channels), 2, layout)
    assert mixed.dtype == np.float32
    assert np.array_equal(mixed, np.array(gains, np.float32))
    mono = convert_channels(one_hot(channels), 1, layout)
    assert np.allclose(mono, np.mean(gains, axis=0, keepdims=True), rtol=0, atol=1e-7)


def test_unknown_layout_falls_back_to_the_usual_one() -> None:
    assert np.array_equal(downmix_matrix(6, "6 channels"), downmix_matrix(6))
    assert np.array_equal(downmix_matrix(6, "stereo"), downmix_matrix(6))


@pytest.mark.parametrize("channels", [9, 16, 64])
def test_no_rule(channels: int) -> None:
    with pytest.raises(StemsplitError, match=f"{channels} channels: no rule") as caught:
        convert_channels(one_hot(channels), 2)
    assert caught.value.hint


def test_more_than_stereo_is_never_made() -> None:
    with pytest.raises(StemsplitError, match="2 channels can become 1 or 2, not 6"):
        convert_channels(one_hot(2), 6)
