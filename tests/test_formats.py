"""A new output format needs only a row of the table."""

import subprocess
import sys
from pathlib import Path
from typing import get_args

import av
import numpy as np
import pytest

from stemsplit.audio.encoding import check_encodable, encoders
from stemsplit.audio.reader import probe, read_audio
from stemsplit.audio.tags import Tags, read_tags
from stemsplit.audio.writer import open_writer
from stemsplit.errors import SettingsError
from stemsplit.formats import BIT_DEPTHS, FORMATS, BitDepth, Encoding, Format, OutputFormat, either
from stemsplit.settings import OutputSettings

MADE_UP = Format(
    name="packed",
    extension="wv",
    encoder="ffmpeg",
    container="wv",
    encodings={"16": Encoding("wavpack", "s16p")},
    rates=range(1, 192_000 + 1),
    most_channels=2,
    tagging="comment",
)


def test_the_types_for_mypy_name_every_row() -> None:
    assert get_args(OutputFormat) == tuple(FORMATS)
    assert get_args(BitDepth) == tuple(BIT_DEPTHS)


@pytest.mark.parametrize("name", FORMATS)
def test_a_format_is_lossy_or_has_bit_depths(name: str) -> None:
    row = FORMATS[name]
    assert row.name == name and (row.bitrate is None) == bool(row.bit_depths)
    both = {"stem.m4a", "stem.mp4"}  # lossless, or lossy with a bit rate
    assert (None in row.encodings) == (row.bitrate is not None or name in both)
    assert list(row.rates) == sorted(row.rates)


def test_only_pcm_has_a_size_that_is_known_beforehand() -> None:
    assert [name for name, row in FORMATS.items() if row.is_pcm] == ["wav", "aiff"]


def test_a_new_row_can_be_chosen_checked_and_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SettingsError, match="--format packed: must be one of wav"):
        OutputSettings(format="packed")  # type: ignore[arg-type]
    monkeypatch.setitem(FORMATS, "packed", MADE_UP)
    with pytest.raises(SettingsError, match="--bit-depth 24: packed holds 16"):
        OutputSettings(format="packed")  # type: ignore[arg-type]
    with pytest.raises(SettingsError, match="--bitrate 128000: packed has no bit rate"):
        OutputSettings(format="packed", bit_depth="16", bitrate=128_000)  # type: ignore[arg-type]
    settings = OutputSettings(format="packed", bit_depth="16")  # type: ignore[arg-type]
    assert encoders()["packed"] and not settings.is_float
    with pytest.raises(SettingsError, match="--format packed: can't hold 384000 Hz"):
        check_encodable("packed", 384_000, 2)
    audio = np.arange(-4000, 4000, dtype=np.float32).reshape(2, -1) / 32768
    with open_writer(tmp_path / "a", 44100, 2, settings, tags=Tags({"title": "x"})) as writer:
        writer.write(audio)
    assert probe(tmp_path / "a").container == "wv" and read_tags(tmp_path / "a").fields["title"] == "x"
    assert np.array_equal(read_audio(tmp_path / "a")[0], audio)


_HELP = """
from dataclasses import replace
from stemsplit.formats import FORMATS
FORMATS["packed"] = replace(FORMATS["flac"], name="packed")
from stemsplit.cli.main import main
main()
"""


def test_the_help_lists_the_table() -> None:
    command = [sys.executable, "-c", _HELP, "separate", "--help"]
    shown = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert f"{either([*FORMATS, 'packed'])}." in " ".join(shown.split())


def test_the_readme_names_every_format() -> None:
    readme = Path(__file__).parents[1].joinpath("README.md").read_text()
    assert [name for name in FORMATS if f"`{name}`" not in readme] == []


@pytest.mark.parametrize(("names", "words"), [(["a"], "a"), (["a", "b"], "a or b"), ("abc", "a, b or c")])
def test_a_choice_in_words(names: list[str], words: str) -> None:
    assert either(names) == words


@pytest.mark.parametrize(
    ("name", "rate", "channels", "asked", "had"),
    [
        ("mp3", 44100, 2, 300_000, 320_000),
        ("mp3", 44100, 2, 192_000, 192_000),
        ("mp3", 44100, 2, 8_000, 32_000),
        ("mp3", 22050, 2, 300_000, 160_000),
        ("mp3", 12000, 1, 96_000, 64_000),
        ("m4a", 22050, 2, 512_000, 264_600),
        ("stem.m4a", 44100, 2, 512_000, 512_000),
        ("opus", 48000, 1, 510_000, 256_000),
        ("ogg", 44100, 2, 32_000, 64_000),
    ],
)
def test_the_bit_rate_that_is_nearest(name: str, rate: int, channels: int, asked: int, had: int) -> None:
    assert FORMATS[name].nearest_bitrate(asked, rate, channels) == had


@pytest.mark.parametrize(("rate", "asked"), [(44100, 104_000), (22050, 136_000), (8000, 300_000)])
def test_mp3_has_the_bit_rate_that_is_announced(rate: int, asked: int, tmp_path: Path) -> None:
    with open_writer(tmp_path / "a", rate, 2, OutputSettings(format="mp3", bitrate=asked)) as writer:
        writer.write(np.random.default_rng(0).standard_normal((2, 2 * rate)).astype(np.float32) * 0.1)
    with av.open(str(tmp_path / "a")) as file:
        assert file.streams.audio[0].bit_rate == FORMATS["mp3"].nearest_bitrate(asked, rate, 2)
