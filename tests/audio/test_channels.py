import numpy as np
import pytest

from stemsplit.audio.channels import UNKNOWN, convert_channels, downmix_matrix
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
    # FFmpeg rounds the square root in its own way
    assert np.allclose(mixed, np.array(gains, np.float32), rtol=1e-6, atol=0)
    mono = convert_channels(one_hot(channels), 1, layout)
    assert np.allclose(mono, np.mean(gains, axis=0, keepdims=True), rtol=0, atol=1e-7)


def test_a_layout_in_an_order_of_its_own() -> None:
    native, own = downmix_matrix(7, "6.1"), downmix_matrix(7, "FL+FR+FC+LFE+SL+SR+BC")
    assert np.array_equal(own, native[:, [0, 1, 2, 3, 5, 6, 4]])


@pytest.mark.parametrize(
    ("channels", "layout"),
    [
        (6, "stereo"),
        (4, "ambisonic 1"),
        (6, UNKNOWN),
        (3, "FL+FR+UNSD"),
        (3, "FL+FR+TFC"),
        (4, "FL+FR+FC+FC"),
        (4, "nonsense"),
    ],
)
def test_a_layout_without_a_rule_is_an_error(channels: int, layout: str) -> None:
    with pytest.raises(StemsplitError, match=f"{channels} channels .*: no rule to mix them down"):
        downmix_matrix(channels, layout)


@pytest.mark.parametrize("layout", [None, "downmix", "FC+LFE", UNKNOWN])
def test_two_channels_are_stereo_whatever_they_are_called(layout: str | None) -> None:
    assert np.array_equal(downmix_matrix(2, layout), np.eye(2))


@pytest.mark.parametrize("channels", [9, 16, 64])
def test_no_rule(channels: int) -> None:
    with pytest.raises(StemsplitError, match=f"{channels} channels: no rule") as caught:
        convert_channels(one_hot(channels), 2)
    assert caught.value.hint


def test_more_than_stereo_is_never_made() -> None:
    with pytest.raises(StemsplitError, match="2 channels can become 1 or 2, not 6"):
        convert_channels(one_hot(2), 6)
