"""Names tell what a folder is searched for."""

import pytest

from stemsplit.audio.decode_av import _DEMUXERS
from stemsplit.listing import AUDIO_SUFFIXES, is_hidden

# of FFmpeg's MP4 demuxer; pictures, subtitles, and manifests that name other files
NO_AUDIO = {"avif", "heic", "heif", "ism", "isma", "ismv", "mj2", "psp", "mks", "apl", "mac"}


def test_whatever_ffmpeg_is_allowed_to_open_is_searched_for() -> None:
    import av

    for name in _DEMUXERS.split(","):
        if name in av.formats_available:
            missing = av.ContainerFormat(name, "r").extensions - NO_AUDIO
            assert not {f".{suffix}" for suffix in missing} - AUDIO_SUFFIXES, name


@pytest.mark.parametrize("suffix", [".dsf", ".dff", ".avi", ".m4v", ".ts", ".vob", ".wmv", ".wave", ".rf64"])
def test_suffixes_that_ffmpeg_does_not_list(suffix: str) -> None:
    assert suffix in AUDIO_SUFFIXES


def test_hidden_names() -> None:
    assert is_hidden(".git") and is_hidden("._song.wav") and is_hidden("__MACOSX")
    assert not is_hidden("song.wav") and not is_hidden("__init__") and not is_hidden("a.")
