import errno
import io
import os
import tempfile
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from stemsplit.audio.reader import read_audio
from stemsplit.audio.spool import is_pipe, spool
from stemsplit.audio.writer import open_writer
from stemsplit.errors import InputError, OutputError, ResourceError
from stemsplit.settings import OutputSettings


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Empty temporary folder that the copies are written to."""
    (tmp_path / "spooled").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "spooled"))
    return tmp_path / "spooled"


def test_stream_becomes_a_file_and_goes(wav: Path, pcm: np.ndarray, folder: Path) -> None:
    with wav.open("rb") as stream, spool(stream, "stdin") as path:
        assert path.parent == folder and path.read_bytes() == wav.read_bytes()
        assert np.array_equal(read_audio(path)[0], pcm) and np.array_equal(read_audio(path)[0], pcm)
        assert not stream.closed
    assert not list(folder.iterdir())


def feed(path: Path, data: bytes) -> threading.Thread:
    thread = threading.Thread(target=path.write_bytes, args=(data,))
    thread.start()
    return thread


def feed_descriptor(descriptor: int, data: bytes) -> threading.Thread:
    def write() -> None:
        os.write(descriptor, data)
        os.close(descriptor)

    thread = threading.Thread(target=write)
    thread.start()
    return thread


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes")
def test_named_pipe(wav: Path, tmp_path: Path, folder: Path) -> None:
    os.mkfifo(tmp_path / "pipe.wav")
    assert is_pipe(tmp_path / "pipe.wav") and not is_pipe(wav) and not is_pipe(tmp_path)
    writing = feed(tmp_path / "pipe.wav", wav.read_bytes())
    with spool(tmp_path / "pipe.wav", tmp_path / "pipe.wav") as path:
        assert path.read_bytes() == wav.read_bytes() and path.suffix == ".wav"
    writing.join()
    assert not list(folder.iterdir())


@pytest.mark.skipif(not Path("/dev/fd").is_dir(), reason="no /dev/fd")
def test_numbered_descriptor(wav: Path) -> None:
    reading, writing = os.pipe()
    thread = threading.Thread(
        target=lambda: (os.write(writing, wav.read_bytes()[:50_000]), os.close(writing))
    )
    thread.start()
    try:
        assert is_pipe(f"/dev/fd/{reading}")
        with spool(f"/dev/fd/{reading}") as path:
            assert path.stat().st_size == 50_000
    finally:
        thread.join()
        os.close(reading)


def test_paths_that_are_not_pipes(tmp_path: Path) -> None:
    assert is_pipe("/dev/null") and not is_pipe(tmp_path / "missing") and not is_pipe("a\0b")


def test_an_empty_stream(folder: Path) -> None:
    with pytest.raises(InputError, match=r"stdin: is empty \(0 bytes\)"), spool(io.BytesIO()):
        pass
    assert not list(folder.iterdir())


def test_stream_that_breaks(folder: Path) -> None:
    class Broken(io.RawIOBase):
        def read(self, size: int = -1) -> bytes:
            raise OSError(errno.EIO, "Input/output error")

    with pytest.raises(InputError, match="song.mp3: can't be read"), spool(Broken(), "song.mp3"):  # type: ignore[arg-type]
        pass
    assert not list(folder.iterdir())


def test_pipe_that_cannot_be_opened(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="can't be read"), spool(tmp_path / "missing", "it"):
        pass


@pytest.mark.parametrize(("code", "expected"), [(errno.ENOSPC, ResourceError), (errno.EIO, OutputError)])
def test_full_disk(
    code: int, expected: type[Exception], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = Path.open

    def full(self: Path, mode: str = "r", *arguments: Any, **named: Any) -> Any:
        file = opened(self, mode, *arguments, **named)
        if "w" in mode:
            file.close()

            class Full(io.BytesIO):
                def write(self, data: Any) -> int:
                    raise OSError(code, os.strerror(code))

            return Full()
        return file

    monkeypatch.setattr(Path, "open", full)
    with pytest.raises(expected), spool(io.BytesIO(b"abc")):
        pass
    assert not list(folder.iterdir())


def endless(pattern: bytes) -> io.RawIOBase:
    class Endless(io.RawIOBase):
        taken = 0

        def read(self, size: int = -1) -> bytes:
            self.taken += size
            assert self.taken < 1 << 30, "it would never end"
            return (pattern * (size // len(pattern) + 1))[:size]

    return Endless()


@pytest.mark.parametrize("pattern", [b"\0", b"yes\n"])
def test_an_endless_stream_of_no_audio_is_refused_early(pattern: bytes, folder: Path) -> None:
    source = endless(pattern)
    with pytest.raises(InputError, match="stdin: not an audio file"), spool(source):  # type: ignore[arg-type]
        pass
    assert source.taken <= 32 << 20  # type: ignore[attr-defined]
    assert not list(folder.iterdir())


@pytest.mark.parametrize("fmt", ["wav", "flac", "ogg", "mp3", "opus", "m4a", "alac", "aiff", "tagged"])
def test_a_stream_of_audio_is_known_by_its_head(
    fmt: Any, tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Recognise an MP4 file with its index at the end, and one whose tag has a large picture."""
    noise = np.random.default_rng(0).uniform(-1, 1, (2, 48000 * 6)).astype(np.float32)
    settings = OutputSettings(format="mp3" if fmt == "tagged" else fmt)
    with open_writer(tmp_path / "song", 48000, 2, settings) as writer:
        writer.write(noise)
    data = (tmp_path / "song").read_bytes()
    if fmt == "tagged":
        data = b"ID3\3\0\0\0\0\x7f\x7f" + bytes(0x3FFF) + data
    head = 0x2000 if fmt == "tagged" else 60_000
    assert len(data) > 2 * head and b"moov" not in data[:head]
    monkeypatch.setattr("stemsplit.audio.spool._PROBE_BYTES", head)
    monkeypatch.setattr("stemsplit.audio.spool._CHUNK", head // 3)
    with spool(io.BytesIO(data)) as path:
        assert path.read_bytes() == data
        assert read_audio(path)[0].shape == noise.shape


@pytest.mark.skipif(not Path("/dev/zero").exists(), reason="no such devices")
def test_devices_without_an_end_are_refused(folder: Path) -> None:
    for device in ("/dev/zero", "/dev/urandom"):
        with pytest.raises(InputError, match=f"{device}: is a device"), spool(device, device):
            pass
        with open(device, "rb") as stream, pytest.raises(InputError, match="stdin: is a device"):
            with spool(stream):
                pass
    with pytest.raises(InputError, match=r"is empty \(0 bytes\)"), spool("/dev/null"):
        pass
    assert not list(folder.iterdir())


def test_a_stream_leaves_some_of_the_disk(wav: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def usage(free: int) -> None:
        disk = SimpleNamespace(total=10 << 30, free=free)
        monkeypatch.setattr("shutil.disk_usage", lambda _: disk)

    usage(100 << 20)  # little, but far more than the copy takes
    with spool(io.BytesIO(wav.read_bytes())):
        pass
    usage(wav.stat().st_size // 2)
    with pytest.raises(ResourceError, match="stdin: no space left in .*spooled") as caught:
        with spool(io.BytesIO(wav.read_bytes())):
            pass
    assert "TMPDIR" in str(caught.value.hint)
    assert not list(folder.iterdir())
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(total=0, free=0))
    with spool(io.BytesIO(wav.read_bytes())):
        pass


def test_copy_goes_when_the_work_fails(wav: Path, folder: Path) -> None:
    with pytest.raises(KeyboardInterrupt), wav.open("rb") as stream, spool(stream):
        raise KeyboardInterrupt
    assert not list(folder.iterdir())


def test_no_temporary_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "missing"))
    with pytest.raises(OutputError, match="can't be written"), spool(io.BytesIO(b"abc")):
        pass
