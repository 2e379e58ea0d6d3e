"""Surround tracks whose pairs and single channels are separated one by one."""

import numpy as np
import pytest
from numpy.typing import NDArray

from stemsplit.audio.channels import UNKNOWN_LAYOUT, channel_groups, wav_mask
from stemsplit.errors import SettingsError, StemsplitError
from stemsplit.hub.recipes import Recipe, Step
from stemsplit.separation import runner
from stemsplit.separation.source import ArraySource, Shape, output_shape
from stemsplit.settings import OutputSettings
from tests.separation.flows import flow_of, whole
from tests.separation.test_chains import FOUR, KARAOKE, NORMAL, VOICE, Bent, noise

Audio = NDArray[np.float32]


@pytest.mark.parametrize(
    ("channels", "layout", "groups"),
    [
        (1, "mono", [(0,)]),
        (2, "stereo", [(0, 1)]),
        (6, "5.1", [(0, 1), (2,), (3,), (4, 5)]),
        (6, "5.1(side)", [(0, 1), (2,), (3,), (4, 5)]),
        (8, "7.1", [(0, 1), (2,), (3,), (4, 5), (6, 7)]),
        (8, "7.1(wide)", [(0, 1), (2,), (3,), (4, 5), (6, 7)]),
        (6, None, [(0, 1), (2,), (3,), (4, 5)]),
        (5, "FC+FR+FL+BL+BR", [(0,), (2, 1), (3, 4)]),
        (3, "FL+FC+LFE", [(0,), (1,), (2,)]),
        (12, "7.1.4", [(0, 1), (2,), (3,), (4, 5), (6, 7), (8, 9), (10, 11)]),
    ],
)
def test_pairs_belong_together(channels: int, layout: str | None, groups: list[tuple[int, ...]]) -> None:
    assert channel_groups(channels, layout) == groups


def test_unknown_loudspeakers_have_no_groups() -> None:
    with pytest.raises(StemsplitError, match="no rule"):
        channel_groups(6, "unknown")


def test_masks_are_those_of_wav() -> None:
    assert [wav_mask(*one) for one in ((6, "5.1"), (6, "5.1(side)"), (8, "7.1"))] == [0x3F, 0x60F, 0x63F]
    assert wav_mask(3, "FC+FL+FR") == 0  # another order than WAV's
    assert wav_mask(5, "FC+FR+FL+BL+BR") == 0


@pytest.mark.parametrize("models", [(FOUR,), (FOUR, VOICE)], ids=["alone", "ensemble"])
@pytest.mark.parametrize("sequential", [False, True])
@pytest.mark.parametrize("frames", [0, 1, 20_011])
def test_each_group_equals_its_separation_alone(
    models: tuple[Bent, ...], sequential: bool, frames: int
) -> None:
    audio = noise(frames, 6)
    flow = flow_of(Recipe((Step(models), Step((NORMAL,), input="vocals"), Step((KARAOKE,), input="bass"))))
    source = ArraySource(audio, 44100, layout="5.1")
    shape = output_shape(source, OutputSettings(channels="each"))
    assert shape == Shape(44100, 6, "5.1")
    found = whole(source, flow, flow.stems, shape, sequential=sequential)
    assert found.shape == (len(flow.stems), 6, frames)
    for group in ((0, 1), (2,), (3,), (4, 5)):
        part = ArraySource(audio[list(group)], 44100)
        expected = whole(part, flow, flow.stems, Shape(44100, len(group)))
        assert np.array_equal(found[:, list(group)], expected), group


def test_formats_without_surround_are_refused() -> None:
    with pytest.raises(SettingsError, match="mp3 holds at most stereo; use wav or flac"):
        OutputSettings(format="mp3", channels="each")


def test_no_mixdown_is_announced_that_has_no_rule() -> None:
    with pytest.raises(StemsplitError, match="no rule to mix them down"):
        runner._downmix(ArraySource(np.zeros((6, 10), np.float32), 8000, UNKNOWN_LAYOUT))
