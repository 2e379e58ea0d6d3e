from typing import Any

import pytest

from stemsplit.errors import SettingsError
from stemsplit.settings import OutputSettings


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"format": "mpeg"}, "--format mpeg: must be one of wav, flac, mp3"),
        ({"bit_depth": "8"}, "--bit-depth 8: must be one of 16, 24, 32f"),
        ({"format": "flac", "bit_depth": "32f"}, "--bit-depth 32f: flac holds 16 or 24"),
        ({"format": "alac", "bit_depth": "32f"}, "--bit-depth 32f: alac holds 16 or 24"),
        ({"bitrate": 320_000}, "--bitrate 320000: wav has no bit rate"),
        ({"format": "mp3", "bitrate": 100}, "--bitrate 100: must be from 8k to 512k"),
        ({"sample_rate": 0}, "--sample-rate 0: must be keep, or from 1000"),
        ({"sample_rate": "44100"}, "--sample-rate 44100: must be keep"),
        ({"channels": 6}, "--channels 6: must be one of keep, 1, 2"),
        ({"clip": "hard"}, "--clip hard: must be one of common, none, clamp"),
    ],
)
def test_errors_name_the_flag(setting: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError) as caught:
        OutputSettings(**setting)
    assert str(caught.value).startswith(message)
    assert message.startswith(str(caught.value.setting))


def test_default_and_given_bit_rates() -> None:
    assert OutputSettings().bits_per_s is None
    assert OutputSettings(format="mp3").bits_per_s == 320_000
    assert OutputSettings(format="mp3", bitrate=128_000).bits_per_s == 128_000
