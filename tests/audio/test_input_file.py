"""Views of an open file have their own positions, and read errors are one line."""

import io
import os
from pathlib import Path

import numpy as np
import pytest
import soundfile

from stemsplit.audio.input_file import FileRange, InputFile, opened
from stemsplit.audio.reader import open_audio, probe, read_audio
from stemsplit.audio.tags import read_settings, read_tags
from stemsplit.audio.writer import open_writer
from stemsplit.errors import InputError
from stemsplit.settings import OutputSettings


@pytest.fixture
def letters(tmp_path: Path) -> Path:
    (tmp_path / "letters").write_bytes(b"abcdefghij")
    return tmp_path / "letters"


def test_views_do_not_move_each_other(letters: Path) -> None:
    with InputFile(letters) as file:
        whole, part = file.view(), file.view(2, 6)
        assert whole.read(3) == b"abc" and part.read(1) == b"c" and whole.read(2) == b"de"
        assert part.read() == b"def" and part.tell() == 4 and part.read() == b""
        assert part.seek(-2, io.SEEK_END) == 2 and part.part(1, 3).read() == b"de" and part.read() == b"ef"
        part.close()
        assert whole.read(1) == b"f" and file.size == 10


def test_beyond_the_end_there_is_nothing(letters: Path) -> None:
    with InputFile(letters) as file:
        view = file.view()
        assert view.seek(1 << 62) == 1 << 62 and view.read(1) == b"" and view.failure is None
        assert view.seek(-1, io.SEEK_END) == 9 and view.read(5) == b"j"


@pytest.mark.parametrize("kind", ["wav", "flac", "aiff"])
def test_a_tag_before_a_file_is_stepped_over(kind: str, tmp_path: Path, music: np.ndarray) -> None:
    with open_writer(tmp_path / "a", 44100, 2, OutputSettings(format=kind)) as writer:
        writer.write(music)
    (tmp_path / "b").write_bytes(b"ID3\3\0\0\0\0\2\0" + bytes(256) + (tmp_path / "a").read_bytes())
    assert np.array_equal(read_audio(tmp_path / "b")[0], read_audio(tmp_path / "a")[0])


def test_outside_of_what_a_file_can_be_it_stays_where_it_is(letters: Path) -> None:
    with InputFile(letters) as file:
        view = file.view()
        view.seek(2)
        assert view.seek(-(1 << 63), os.SEEK_CUR) == 2 and view.seek(1 << 63) == 2
        assert view.seek(1 << 40) == 1 << 40 and view.read(1) == b""


def test_w64_from_a_pipe_is_read(tmp_path: Path) -> None:
    """Its sizes say "unknown", which no program in the default run writes."""
    soundfile.write(tmp_path / "a.w64", np.linspace(-0.5, 0.5, 1000), 8000, format="W64", subtype="PCM_16")
    data = bytearray((tmp_path / "a.w64").read_bytes())
    data[16:24] = b"\xff" * 8
    at = data.index(b"data\xf3\xac\xd3\x11")
    data[at + 16 : at + 24] = b"\xff" * 7 + b"\x7f"
    (tmp_path / "b.w64").write_bytes(data[: at + 24 + 2000])
    whole, streamed = (read_audio(tmp_path / name)[0] for name in ("a.w64", "b.w64"))
    assert np.array_equal(whole, streamed)


def test_what_is_given_open_stays_open(letters: Path) -> None:
    with InputFile(letters, "stdin") as file:
        with opened(file) as same:
            assert same is file
        assert file.view().read(1) == b"a" and str(file.name) == "stdin"
    with opened(letters) as own:
        pass
    assert own.file.closed


def test_all_that_is_read_of_an_open_file(wav: Path, pcm: np.ndarray) -> None:
    with InputFile(wav) as file:
        assert probe(file) == probe(wav) and read_tags(file) == read_tags(wav)
        first, second = open_audio(file), open_audio(file, start_s=0.5)
        blocks = list(zip(first.blocks(1000), second.blocks(1000), strict=False))
        first.close()
        second.close()
        assert np.array_equal(np.hstack([one for one, _ in blocks]), pcm[:, : 1000 * len(blocks)])
        assert np.array_equal(np.hstack([one for _, one in blocks]), pcm[:, 22_050:])
        assert np.array_equal(read_audio(file)[0], pcm)


@pytest.mark.parametrize("kind", ["wav", "flac", "ogg", "mp3", "m4a"])
def test_a_disk_that_fails_on_the_way(
    kind: str,
    tmp_path: Path,
    music: np.ndarray,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    with open_writer(tmp_path / "a", 44100, 2, OutputSettings(format=kind)) as writer:
        writer.write(np.tile(music, 4))
    readinto = FileRange.readinto

    class Failing(io.BytesIO):
        def readinto(self, buffer: object) -> int:
            raise OSError(5, "Input/output error")

    def broken(self: FileRange, buffer: memoryview) -> int:
        if self.tell() > (tmp_path / "a").stat().st_size // 2:
            monkeypatch.setattr(self, "_file", Failing())
        return readinto(self, buffer)

    with open_audio(tmp_path / "a") as reader:
        monkeypatch.setattr(FileRange, "readinto", broken)
        with pytest.raises(InputError, match=r"damaged at [\d.]+ s \(Input/output error\)"):
            for _ in reader.blocks():
                pass
    monkeypatch.undo()
    assert capfd.readouterr().err == ""


def test_a_disk_that_fails_at_the_start(wav: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(self: FileRange, buffer: object) -> int:
        self.failure = OSError(5, "Input/output error")
        return 0

    monkeypatch.setattr(FileRange, "readinto", broken)
    with pytest.raises(InputError, match=r"not an audio file \(Input/output error\)"):
        probe(wav)
    assert read_settings(wav) is None


def test_ctrl_c_while_libsndfile_reads_is_raised(wav: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The handler's exception comes up in a callback of libsndfile, which swallows exceptions."""
    readinto = FileRange.readinto

    class Interrupted(io.BytesIO):
        def readinto(self, buffer: object) -> int:
            raise KeyboardInterrupt

    def interrupted(self: FileRange, buffer: memoryview) -> int:
        monkeypatch.setattr(self, "_file", Interrupted())
        return readinto(self, buffer)

    with open_audio(wav) as reader:
        monkeypatch.setattr(FileRange, "readinto", interrupted)
        with pytest.raises(KeyboardInterrupt):
            list(reader.blocks())
