"""The files that are found in a folder."""

import sys
from pathlib import Path

import av
import pytest

from stemsplit.audio.containers import CONTAINERS
from stemsplit.listing import AUDIO_SUFFIXES, is_hidden, visible_files


@pytest.mark.parametrize(
    "name", [".x", "._x.wav", ".Trashes", ".DS_Store", "__MACOSX", "__macosx", "$RECYCLE.BIN", "@eaDir"]
)
def test_hidden(name: str) -> None:
    assert is_hidden(name)


@pytest.mark.parametrize("name", ["x.wav", "__MACOSX.wav", "_x.wav", "x.", "…", "System"])
def test_visible(name: str) -> None:
    assert not is_hidden(name)


def touch(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


def test_nothing_within_a_hidden_folder_is_found(tmp_path: Path) -> None:
    touch(tmp_path, "b.wav", "a/c.wav", "a/._c.wav", ".Trashes/d.wav", "a/.x/e/f.wav", "__MACOSX/a/._c.wav")
    found = [path.relative_to(tmp_path).as_posix() for path in visible_files(tmp_path)]
    assert found == ["a/c.wav", "b.wav"]


@pytest.mark.skipif(sys.platform == "win32", reason="links need a privilege there")
def test_links_that_lead_nowhere_or_in_circles(tmp_path: Path) -> None:
    touch(tmp_path, "a/x.wav")
    (tmp_path / "a" / "up").symlink_to("..")
    (tmp_path / "itself.wav").symlink_to("itself.wav")
    found = [path.name for path in visible_files(tmp_path) if path.is_file()]
    assert found == ["x.wav"]


def test_a_folder_that_can_not_be_listed_is_no_empty_one(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        visible_files(tmp_path / "gone")


# Suffixes of FFmpeg's MP4 demuxer, of pictures, subtitles, and manifests that name other files
NO_AUDIO = {"avif", "heic", "heif", "ism", "isma", "ismv", "mj2", "psp", "mks", "mac"}


@pytest.mark.parametrize("demuxer", CONTAINERS)
def test_every_container_that_can_be_read_is_looked_for(demuxer: str) -> None:
    if demuxer in av.formats_available:
        missing = av.ContainerFormat(demuxer, "r").extensions - NO_AUDIO
        assert not {f".{suffix}" for suffix in missing} - AUDIO_SUFFIXES


@pytest.mark.parametrize("suffix", [".dsf", ".dff", ".avi", ".m4v", ".ts", ".vob", ".wmv", ".wave", ".rf64"])
def test_suffixes_that_ffmpeg_does_not_list(suffix: str) -> None:
    assert suffix in AUDIO_SUFFIXES
