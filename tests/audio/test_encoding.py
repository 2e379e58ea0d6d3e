from dataclasses import replace

import pytest
import soundfile

from stemsplit.audio.encoding import check_encodable, encoders
from stemsplit.errors import SettingsError, UnknownNameError
from stemsplit.formats import FORMATS, Encoding


def test_every_format_works_here() -> None:
    assert encoders() == dict.fromkeys(FORMATS, True)


def test_an_encoder_that_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(soundfile, "available_subtypes", lambda _: {"OPUS": "Opus"})
    assert encoders()["ogg"] is False
    with pytest.raises(SettingsError, match="--format ogg: no encoder for it on this machine"):
        check_encodable("ogg", 44100, 2)
    broken = replace(FORMATS["mp3"], encodings={None: Encoding("no_such_codec")})
    monkeypatch.setitem(FORMATS, "mp3", broken)
    assert encoders()["mp3"] is False


@pytest.mark.parametrize(
    ("name", "rate", "expected"),
    [
        ("wav", 44056, 44056),
        ("flac", 768_000, 655_350),
        ("mp3", 44_100, 44_100),
        ("mp3", 44_056, 44_100),
        ("mp3", 96_000, 48_000),
        ("mp3", 4_000, 8_000),
        ("opus", 44_100, 48_000),
        ("opus", 192_000, 48_000),
        ("m4a", 88_200, 88_200),
        ("m4a", 192_000, 96_000),
        ("alac", 192_000, 192_000),
    ],
)
def test_nearest_rate(name: str, rate: int, expected: int) -> None:
    nearest = FORMATS[name].nearest_rate(rate)
    assert nearest == expected
    check_encodable(name, nearest, 2)


def test_bit_depth() -> None:
    check_encodable("wav", 44100, 2, "32f")
    check_encodable("mp3", 44100, 2, "32f")
    with pytest.raises(SettingsError, match="--bit-depth 32f: flac holds 16 or 24"):
        check_encodable("flac", 44100, 2, "32f")


def test_channels_and_names() -> None:
    for channels in (0, 3):
        with pytest.raises(SettingsError, match=f"holds 1 to 2 channels, not {channels}"):
            check_encodable("mp3", 44100, channels)
    with pytest.raises(UnknownNameError, match="no format named 'mp33'") as caught:
        check_encodable("mp33", 44100, 2)
    assert caught.value.hint == "did you mean mp3?"


def test_a_rate_that_does_not_fit_names_one_that_does() -> None:
    with pytest.raises(SettingsError, match="can't hold 44100 Hz") as caught:
        check_encodable("opus", 44100, 2)
    assert caught.value.hint == "use --sample-rate 48000" and caught.value.setting == "--sample-rate"
