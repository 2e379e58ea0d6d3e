import struct
from pathlib import Path

import av
import numpy as np
import pytest
import soundfile

from stemsplit.audio.channels import UNKNOWN_LAYOUT, channel_groups, convert_channels, downmix_matrix
from stemsplit.audio.reader import probe, read_audio
from stemsplit.errors import StemsplitError

HALF = np.float32(np.sqrt(0.5))


def one_hot(channels: int) -> np.ndarray:
    return np.eye(channels, dtype=np.float32)


def test_equal_channel_counts_pass_through_unchanged() -> None:
    for channels in (1, 2):
        block = one_hot(channels)
        assert convert_channels(block, channels) is block


def test_mono_becomes_two_equal_channels() -> None:
    assert convert_channels(np.array([[1, 2, 3]], np.float32), 2).tolist() == [[1, 2, 3]] * 2


def test_stereo_becomes_its_mean() -> None:
    assert convert_channels(np.array([[1, 2], [3, 6]], np.float32), 1).tolist() == [[2, 4]]


# Left and right gain of each channel, from ITU-R BS.775-3 table 2
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
    # FFmpeg rounds the square root differently
    assert np.allclose(mixed, np.array(gains, np.float32), rtol=1e-6, atol=0)
    mono = convert_channels(one_hot(channels), 1, layout)
    assert np.allclose(mono, np.mean(gains, axis=0, keepdims=True), rtol=0, atol=1e-7)


def test_a_layout_in_an_unusual_order() -> None:
    native, own = downmix_matrix(7, "6.1"), downmix_matrix(7, "FL+FR+FC+LFE+SL+SR+BC")
    assert np.array_equal(own, native[:, [0, 1, 2, 3, 5, 6, 4]])


@pytest.mark.parametrize(
    ("channels", "layout"),
    [
        (6, "stereo"),
        (4, "ambisonic 1"),
        (6, UNKNOWN_LAYOUT),
        (3, "FL+FR+UNSD"),
        (3, "FL+FR+TFC"),
        (4, "FL+FR+FC+FC"),
        (4, "nonsense"),
    ],
)
def test_a_layout_without_a_rule_is_an_error(channels: int, layout: str) -> None:
    with pytest.raises(StemsplitError, match=f"{channels} channels .*: no rule to mix them down"):
        downmix_matrix(channels, layout)


@pytest.mark.parametrize(
    ("channels", "layout", "described"),
    [
        (6, UNKNOWN_LAYOUT, "6 channels in a layout that FFmpeg can't read"),
        (4, "nonsense", "4 channels in the layout nonsense"),
        (9, None, "9 channels"),
    ],
)
def test_channels_without_pairs_are_not_said_to_be_mixed_down(
    channels: int, layout: str | None, described: str
) -> None:
    with pytest.raises(StemsplitError) as caught:
        channel_groups(channels, layout)
    assert str(caught.value) == f"{described}: no rule to find their pairs"
    assert caught.value.hint and "channelmap=channel_layout=" in caught.value.hint


@pytest.mark.parametrize("layout", [None, "downmix", "FC+LFE", UNKNOWN_LAYOUT])
def test_two_channels_are_stereo_whatever_they_are_called(layout: str | None) -> None:
    assert np.array_equal(downmix_matrix(2, layout), np.eye(2))


@pytest.mark.parametrize("channels", [9, 16, 64])
def test_channel_counts_without_a_rule(channels: int) -> None:
    with pytest.raises(StemsplitError, match=f"{channels} channels: no rule") as caught:
        convert_channels(one_hot(channels), 2)
    assert caught.value.hint


def test_more_than_stereo_is_never_made() -> None:
    with pytest.raises(StemsplitError, match="2 channels can become 1 or 2, not 6"):
        convert_channels(one_hot(2), 6)


# FFmpeg's layouts of up to eight loudspeakers that a WAV mask can name
MASKS = (
    "2.1 3.0 3.0(back) 3.1 4.0 quad quad(side) 4.1 5.0 5.0(side) 5.1 5.1(side) 6.0 6.0(front) hexagonal 6.1 "
    "6.1(back) 6.1(front) 7.0 7.0(front) 7.1 7.1(wide) 7.1(wide-side) octagonal"
).split()
# the bits of WAVEFORMATEXTENSIBLE in their order
BITS = "FL FR FC LFE BL BR FLC FRC BC SL SR".split()
GAINS = {"FL": (1, 0), "FR": (0, 1), "FC": (HALF, HALF), "LFE": (0, 0), "BL": (HALF, 0), "BR": (0, HALF)}
GAINS |= {"FLC": (1, 0), "FRC": (0, 1), "BC": (0.5, 0.5), "SL": (HALF, 0), "SR": (0, HALF)}


def wave(path: Path, channels: int, mask: int | None) -> None:
    """Write a WAV whose channel k has an impulse in sample k, with or without a mask."""
    samples = np.diag(np.full(channels, 8192, "<i2")).tobytes()
    rate, align = 8000, 2 * channels
    fields = struct.pack("<HIIHH", channels, rate, rate * align, align, 16)
    head = struct.pack("<H", 1) + fields
    if mask is not None:
        pcm = bytes.fromhex("0100000000001000800000aa00389b71")
        head = struct.pack("<H", 0xFFFE) + fields + struct.pack("<HHI", 22, 16, mask) + pcm
    chunks = (
        struct.pack("<4sI", b"fmt ", len(head)) + head + struct.pack("<4sI", b"data", len(samples)) + samples
    )
    path.write_bytes(struct.pack("<4sI4s", b"RIFF", 4 + len(chunks), b"WAVE") + chunks)


@pytest.mark.parametrize("layout", MASKS)
def test_every_mask_of_a_wav_is_mixed_down_by_its_loudspeakers(layout: str, tmp_path: Path) -> None:
    names = [channel.name for channel in av.AudioLayout(layout).channels]
    wave(tmp_path / "a.wav", len(names), sum(1 << BITS.index(name) for name in names))
    info = probe(tmp_path / "a.wav")
    assert info.layout == layout
    mixed = convert_channels(read_audio(tmp_path / "a.wav")[0], 2, info.layout)
    expected = 0.25 * np.array([GAINS[name] for name in names], np.float32).T
    np.testing.assert_allclose(mixed, expected, rtol=1e-5, atol=0)


@pytest.mark.parametrize("channels", range(3, 9))
def test_a_wav_without_a_mask_states_no_layout(channels: int, tmp_path: Path) -> None:
    wave(tmp_path / "a.wav", channels, None)
    assert probe(tmp_path / "a.wav").layout is None
    assert downmix_matrix(channels).shape == (2, channels)


# Order of the loudspeakers of FFmpeg's layouts in Vorbis (Vorbis I §4.3.9)
VORBIS = {
    3: ("3.0", "FL FC FR"),
    4: ("quad", "FL FR BL BR"),
    5: ("5.0", "FL FC FR BL BR"),
    6: ("5.1", "FL FC FR BL BR LFE"),
    7: ("6.1", "FL FC FR SL SR BC LFE"),
    8: ("7.1", "FL FC FR SL SR BL BR LFE"),
}


@pytest.mark.parametrize("channels", VORBIS)
def test_vorbis_channels_come_in_the_order_of_their_layout(channels: int, tmp_path: Path) -> None:
    layout, order = VORBIS[channels]
    time = np.arange(8000) / 8000
    tones = {name: 0.2 * np.sin(2 * np.pi * 200 * (k + 1) * time) for k, name in enumerate(order.split())}
    soundfile.write(tmp_path / "a.ogg", np.stack(list(tones.values()), axis=1), 8000, format="OGG")
    audio, info = read_audio(tmp_path / "a.ogg")[0], probe(tmp_path / "a.ogg")
    assert info.layout == layout
    names = [channel.name for channel in av.AudioLayout(layout).channels]
    for name, samples in zip(names, audio, strict=True):
        if name != "LFE":  # the encoder removes most of a high tone there
            assert np.corrcoef(samples, tones[name])[0, 1] > 0.95, name
