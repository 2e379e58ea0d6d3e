"""Files are written completely or not at all; locks are released with their processes."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from stemsplit import files
from stemsplit.errors import OutputError, ResourceError
from stemsplit.files import PartFile, locked, os_errors, part_of, replacing, write_named, write_whole

posix = pytest.mark.skipif(sys.platform == "win32", reason="modes and links as POSIX has them")
HOLD = """
import sys, time
from pathlib import Path
from stemsplit import files
how, path, files.fcntl = sys.argv[1], Path(sys.argv[2]), files.fcntl if sys.argv[3] == "locks" else None
if how == "PartFile":
    part = files.PartFile(path)
else:
    lock = getattr(files, how)(path)
    lock.__enter__()
print("held", flush=True)
time.sleep(60)
"""


@pytest.fixture(params=["locks", "no fcntl"])
def system(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Run with and without the locks of open files."""
    if request.param == "no fcntl":
        monkeypatch.setattr(files, "fcntl", None)
    return str(request.param)


def held(how: str, path: Path, system: str) -> subprocess.Popen[bytes]:
    other = subprocess.Popen([sys.executable, "-c", HOLD, how, str(path), system], stdout=subprocess.PIPE)
    assert other.stdout is not None
    assert other.stdout.readline() == b"held\n"
    return other


def refuse(*_: object) -> None:
    raise OSError("no")


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# ---------------------------------------------------------------- whole files


def test_a_failed_write_leaves_nothing_half_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, system: str
) -> None:
    target = tmp_path / "folder" / "record"
    write_whole(target, b"old")
    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(OSError, match="no"):
        write_whole(target, "new")
    assert target.read_bytes() == b"old"
    assert names(target.parent) == ["record"]


def test_what_a_killed_process_left_is_replaced(tmp_path: Path, system: str) -> None:
    part_of(tmp_path / "a").write_bytes(b"half a file" * 1000)
    part_of(tmp_path / "a").chmod(0o600)
    (tmp_path / "new").touch()
    with replacing(tmp_path / "a") as part:
        assert part.read_bytes() == b""
        part.write_text("whole")
    assert names(tmp_path) == ["a", "new"]
    assert (tmp_path / "a").read_text() == "whole"
    if system == "locks":
        assert (tmp_path / "a").stat().st_mode == (tmp_path / "new").stat().st_mode


def test_two_writers_of_one_file_use_different_parts(tmp_path: Path) -> None:
    with replacing(tmp_path / "a") as first:
        with replacing(tmp_path / "a") as second:
            first.write_text("first")
            second.write_text("second")
        assert first != second and (tmp_path / "a").read_text() == "second"
    assert (tmp_path / "a").read_text() == "first"
    assert names(tmp_path) == ["a"]


def test_a_file_system_without_locks_is_enough(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(*_: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    fcntl = pytest.importorskip("fcntl")
    monkeypatch.setattr(fcntl, "flock", missing)
    write_whole(tmp_path / "a", "whole")
    assert (tmp_path / "a").read_text() == "whole"


def test_errors_name_the_file_and_not_its_part(tmp_path: Path, system: str) -> None:
    with pytest.raises(FileNotFoundError) as caught, replacing(tmp_path / "no" / "a") as part:
        part.write_text("x")
    assert caught.value.filename == str(tmp_path / "no" / "a")
    with pytest.raises(FileNotFoundError) as caught, replacing(tmp_path / "a"):
        (tmp_path / "other").open()
    assert caught.value.filename == str(tmp_path / "other")
    assert names(tmp_path) == []


@pytest.mark.parametrize(("code", "kind"), [(errno.ENOSPC, ResourceError), (errno.EIO, OutputError)])
def test_errors_of_the_system_become_those_of_the_package(code: int, kind: type[Exception]) -> None:
    with pytest.raises(kind, match=r"a\.wav"), os_errors(Path("a.wav")):
        raise OSError(code, os.strerror(code))


# ---------------------------------------------------------------- files that options name


@posix
def test_a_named_file_keeps_its_links_and_its_mode(tmp_path: Path) -> None:
    (tmp_path / "report").write_text("old")
    (tmp_path / "report").chmod(0o640)
    (tmp_path / "link").symlink_to("report")
    write_named(str(tmp_path / "link"), b"new")
    assert (tmp_path / "link").is_symlink() and (tmp_path / "report").read_text() == "new"
    assert (tmp_path / "report").stat().st_mode & 0o777 == 0o640
    (tmp_path / "dangling").symlink_to("made")
    write_named(str(tmp_path / "dangling"), b"new")
    assert (tmp_path / "made").read_text() == "new"


@posix
def test_what_can_not_be_replaced_is_written_in_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "report").write_text("old and longer")
    monkeypatch.setattr(os, "replace", refuse)
    monkeypatch.setattr(os, "access", lambda *_: False)  # as for a folder of another user
    write_named(str(tmp_path / "report"), b"new")
    assert (tmp_path / "report").read_text() == "new"
    write_named(os.devnull, b"new")


@pytest.mark.skipif(not Path("/dev/fd").exists(), reason="no files that are open already")
def test_an_open_file_is_written_in_place(tmp_path: Path) -> None:
    with (tmp_path / "log").open("w+") as log:
        write_named(f"/dev/fd/{log.fileno()}", b"new")
        assert log.read() == "new"


# ---------------------------------------------------------------- part files and locks


def test_a_part_is_published_or_discarded(tmp_path: Path, system: str) -> None:
    final = tmp_path / "new" / "a"
    for ended in ("publish", "discard"):
        part = PartFile(final)
        with pytest.raises(OutputError, match="another process"):
            PartFile(final)
        part.path.write_text("whole")
        getattr(part, ended)()
        part.discard()
    assert names(final.parent) == ["a"] and final.read_text() == "whole"


def test_two_processes_are_kept_apart_and_a_killed_one_lets_go(tmp_path: Path, system: str) -> None:
    final = tmp_path / "a.wav"
    with held("PartFile", final, system) as other:
        with pytest.raises(OutputError, match="another process"):
            PartFile(final)
        other.kill()
    part = PartFile(final)
    part.publish()
    assert final.exists()
    assert not part_of(final).exists()


def test_a_lock_file_is_waited_for_or_not_and_dies_with_its_holder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, system: str
) -> None:
    monkeypatch.setattr(files, "LOCK_POLL_S", 0.02)
    with held("locked", tmp_path / "lock", system) as other:
        with pytest.raises(BlockingIOError), locked(tmp_path / "lock"):
            pass
        with locked(tmp_path / "lock", waiting=other.kill):
            assert other.wait() != 0
