"""Bands of several sample rates."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor

from stemsplit.errors import StemsplitError, UnknownNameError
from stemsplit.models.blocks.multiband import MIXINGS, Extent, MultiBand, multiband, published, sounding


def whole(samples: int) -> Extent:
    return Extent(torch.tensor([0]), torch.tensor([samples]))


def loop(bands: MultiBand, mix: Tensor) -> Tensor:
    """Analyse a whole track and put it together again."""
    stack, _ = bands.analyse(mix, whole(mix.shape[-1]))
    return bands.synthesise(stack[:, None], whole(mix.shape[-1]))[:, 0]


@pytest.mark.parametrize("modern", [False, True])
@pytest.mark.parametrize("name", sorted(published()))
def test_every_parameter_file_can_be_used(name: str, modern: bool) -> None:
    bands = multiband(name, modern=modern)
    samples = 40 * bands.top.hop + 5
    mix = torch.randn(1, 2, samples)
    stack, high_end = bands.analyse(mix, whole(samples))
    assert stack.shape == (1, 2, bands.bins + 1, 41)
    assert high_end.shape == (1, 2, bands.mirror, 41)
    wave = bands.synthesise(stack[:, None], whole(samples), high_end)
    assert wave.shape == (1, 1, 2, 40 * bands.top.hop)
    assert wave.isfinite().all() and wave.square().mean() > 0.1


@pytest.mark.parametrize(
    "name", ["1band_sr44100_hl1024", "4band_v2", "3band_44100_msb2", "4band_v4_ms_fullband"]
)
def test_a_tone_in_the_lowest_band_survives(name: str) -> None:
    bands = multiband(name, modern=name.endswith("fullband"))
    samples = 60 * bands.top.hop
    tone = torch.sin(2 * torch.pi * 150 * torch.arange(samples) / bands.top.rate)
    mix = torch.stack([tone, -0.3 * tone])[None]
    inner = slice(samples // 4, -samples // 4)
    assert (loop(bands, mix) - mix)[..., inner].abs().max() < 0.01


@pytest.mark.parametrize("name", ["4band_v3", "2band_32000", "ensemble"])
def test_frames_depend_on_nothing_beyond_their_reach(name: str) -> None:
    bands = multiband(name, modern=False)
    hop, edge = bands.top.hop, bands.analysis_frames
    mix = torch.randn(1, 2, 100 * hop)
    outside = Extent(torch.tensor([0]), torch.tensor([100 * hop]))
    stack, _ = bands.analyse(mix, outside)
    part, _ = bands.analyse(
        mix[..., 20 * hop : 80 * hop], Extent(torch.tensor([-20]), torch.tensor([80 * hop]))
    )
    expected = stack[..., 20 + edge : 81 - edge]
    torch.testing.assert_close(part[..., edge : 61 - edge], expected, rtol=1e-4, atol=1e-4)
    margin = bands.synthesis_frames
    wave = bands.synthesise(stack[:, None], outside)
    inner = bands.synthesise(
        stack[:, None, ..., 20:81], Extent(torch.tensor([-20]), torch.tensor([80 * hop]))
    )
    expected = wave[..., (20 + margin) * hop : (80 - margin) * hop]
    torch.testing.assert_close(inner[..., margin * hop : (60 - margin) * hop], expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", MIXINGS)
def test_channels_come_back(name: str) -> None:
    parameters = copy.deepcopy(published()["1band_sr44100_hl256"])
    parameters["band"]["1"]["convert_channels"] = name
    mix = torch.randn(1, 2, 256 * 20)
    plain = loop(multiband("1band_sr44100_hl256", modern=True), mix)
    mixed = multiband(parameters, modern=True)
    torch.testing.assert_close(loop(mixed, mix), plain, rtol=1e-4, atol=1e-5)
    stack, _ = mixed.analyse(mix, whole(mix.shape[-1]))
    stereo, _ = multiband("1band_sr44100_hl256", modern=True).analyse(mix, whole(mix.shape[-1]))
    assert (stack - stereo).abs().max() > 1


def test_versions_read_the_same_file_differently() -> None:
    old, new = (multiband("4band_v2_sn", modern=modern) for modern in (False, True))
    assert old.top.mixing != new.top.mixing
    assert old.gains[:669] == new.gains[:667] + (1.0, 1.0)
    assert new.gains[667:] == (1.0, 0.75, 0.5, 0.25, 0.0, 0.0)
    assert old.gains[669] == pytest.approx(10 ** (-2.5 / 20))
    assert multiband("4band_44100_reverse", modern=False).reverse


def test_the_high_end_is_a_mirror_image_no_louder_than_the_mix() -> None:
    bands = multiband("4band_v2", modern=False)
    mix = torch.randn(1, 2, 480 * 30)
    stack, high_end = bands.analyse(mix, whole(480 * 30))
    filled = bands.synthesise(0.01 * stack[:, None], whole(480 * 30), high_end)[0, 0]
    empty = bands.synthesise(0.01 * stack[:, None], whole(480 * 30))[0, 0]
    spectrum = torch.fft.rfft(filled - empty).abs()[0]
    border = len(spectrum) * (480 - bands.mirror) // 480
    assert spectrum[border + 40 :].mean() > 10 * spectrum[: border - 40].mean()
    same = torch.fft.rfft(bands.synthesise(stack[:, None], whole(480 * 30), high_end)[0, 0]).abs()[0]
    reference = torch.fft.rfft(mix[0, 0, : 480 * 30]).abs()
    assert 0.3 < same[border + 40 :].mean() / reference[border + 40 :].mean() < 0.9


def test_the_extent_of_a_track_is_where_it_sounds() -> None:
    audio = torch.zeros(4, 2, 100)
    audio[0, 1, 23:91] = 1
    audio[1, 0, 60:65] = 1
    audio[2] = 1
    extent = sounding(audio, 10, latest=50, earliest=70)
    assert extent.first.tolist() == [2, 5, 0, 0]
    assert extent.end.tolist() == [91, 70, 100, 100]


def broken(**changed: Any) -> dict[str, Any]:
    parameters = copy.deepcopy(published()["4band_v3"])
    parameters["band"]["2"] |= changed
    return parameters


@pytest.mark.parametrize(
    ("parameters", "said"),
    [
        (broken(hl=0), "n_fft 320 with hl 0"),
        (broken(n_fft=81), "n_fft 81"),
        (broken(hl=81), "hl 81"),
        (broken(crop_stop=200), "no bins from 4 to 200"),
        (broken(crop_stop=4), "no bins from 4 to 4"),
        (broken(res_type="magic"), "res_type is polyphase or sinc_fastest"),
        (broken(sr=22050, hl=240), "sr falls"),
        (broken(sr="fast"), "malformed"),
        ({"bins": 10, "band": {}}, "without a band"),
        ({"band": {"1": {}}}, "malformed.*bins"),
        ({"bins": 10, "band": [1]}, "malformed"),
        ({**published()["4band_v3"], "bins": 600}, "more than 600 bins"),
    ],
)
def test_contradictions_are_refused(parameters: dict[str, Any], said: str) -> None:
    with pytest.raises(StemsplitError, match=said):
        multiband(parameters, modern=True)


def test_unknown_names_are_refused() -> None:
    with pytest.raises(UnknownNameError, match="band parameters"):
        multiband("5band", modern=True)
