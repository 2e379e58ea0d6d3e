"""Final names mean complete files, whatever happens on the way."""

import errno
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from stemsplit.audio.sink import Sink
from stemsplit.audio.tags import Tags
from stemsplit.errors import OutputError, ResourceError
from stemsplit.files import write_error
from stemsplit.separation.publish import LIMIT, TrackFiles
from stemsplit.settings import OutputSettings

RATE = 8000
TAGS = {"a": Tags(), "b": Tags()}


def track(folder: Path, **settings: str) -> TrackFiles:
    files = {name: folder / "song" / f"{name}.wav" for name in ("a", "b")}
    return TrackFiles(files, RATE, 1, OutputSettings(**settings))  # type: ignore[arg-type]


def block(*peaks: float) -> np.ndarray:
    return np.array([[[peak, -peak / 2]] for peak in peaks], np.float32)


def read(path: Path) -> list[float]:
    return soundfile.read(path, dtype="float64")[0].tolist()


def test_nothing_has_its_final_name_before_everything_is_complete(tmp_path: Path) -> None:
    files = track(tmp_path)
    files.open(TAGS)
    files.write(block(0.5, 0.25))
    assert sorted(p.name for p in (tmp_path / "song").iterdir() if not p.name.startswith(".")) == []
    files.publish()
    assert sorted(p.name for p in (tmp_path / "song").iterdir()) == ["a.wav", "b.wav"]
    assert read(tmp_path / "song/a.wav") == [0.5, -0.25]


def test_closing_early_leaves_nothing_at_all(tmp_path: Path) -> None:
    files = track(tmp_path)
    files.open(TAGS)
    files.write(block(0.5, 0.25))
    files.close()
    assert list(tmp_path.iterdir()) == []


def test_no_empty_folder_stays_however_deep(tmp_path: Path) -> None:
    (tmp_path / "kept").mkdir()
    files = TrackFiles(
        {"a": tmp_path / "kept/new/deep/a.wav", "b": tmp_path / "kept/new/other/b.wav"},
        RATE,
        1,
        OutputSettings(),
    )
    files.open(TAGS)
    files.write(block(0.5, 0.25))
    files.close()
    assert [path.name for path in tmp_path.rglob("*")] == ["kept"]


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_the_last_of_two_tracks_removes_the_folder_that_they_share(
    tmp_path: Path, order: tuple[int, int]
) -> None:
    tracks = [TrackFiles({"a": tmp_path / f"out/{n}/a.wav"}, RATE, 1, OutputSettings()) for n in (0, 1)]
    for files in tracks:
        files.open(TAGS)
    for index in order:
        tracks[index].close()
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_vanishes_is_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As when another track, which fails, removes the empty folder that both of them need."""
    made = Path.mkdir

    def vanishing(self: Path, *arguments: Any, **named: Any) -> None:
        made(self, *arguments, **named)
        if self.name == "song":
            monkeypatch.setattr(Path, "mkdir", made)
            self.rmdir()

    monkeypatch.setattr(Path, "mkdir", vanishing)
    files = track(tmp_path)
    files.open(TAGS)
    files.write(block(0.5, 0.25))
    files.publish()
    assert sorted(path.name for path in (tmp_path / "song").iterdir()) == ["a.wav", "b.wav"]


def test_closing_early_leaves_what_was_there_before(tmp_path: Path) -> None:
    (tmp_path / "song").mkdir()
    (tmp_path / "song" / "a.wav").write_text("precious")
    files = track(tmp_path)
    files.open(TAGS)
    files.close()
    assert (tmp_path / "song" / "a.wav").read_text() == "precious"


def test_one_gain_for_all_outputs(tmp_path: Path) -> None:
    files = track(tmp_path)
    files.open(TAGS)
    files.write(block(0.5, 2.0))
    files.publish()
    assert files.gain == pytest.approx(LIMIT / 2)
    assert files.gain_db == pytest.approx(-6.02, abs=0.01)
    a, b = read(tmp_path / "song/a.wav"), read(tmp_path / "song/b.wav")
    assert a[0] == pytest.approx(0.5 * files.gain, abs=2**-23)
    assert b[0] == pytest.approx(2.0 * files.gain, abs=2**-23)


@pytest.mark.parametrize("clip", ["none", "clamp"])
def test_without_a_common_gain_integers_clamp(tmp_path: Path, clip: str) -> None:
    files = track(tmp_path, clip=clip)
    files.open(TAGS)
    files.write(block(0.5, 2.0))
    files.publish()
    assert files.gain == 1
    assert read(tmp_path / "song/b.wav")[0] == pytest.approx(1, abs=2**-22)


def test_float_keeps_its_peaks(tmp_path: Path) -> None:
    files = track(tmp_path, bit_depth="32f")
    files.open(TAGS)
    files.write(block(0.5, 2.0))
    files.publish()
    assert read(tmp_path / "song/b.wav") == [2.0, -1.0]


def test_silence_has_no_gain(tmp_path: Path) -> None:
    files = track(tmp_path)
    files.open(TAGS)
    files.write(block(0.0, 0.0))
    files.publish()
    assert files.gain_db == 0


def test_what_a_killed_run_left_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "song").mkdir()
    for left in (".a.wav.part", ".a.wav.f32.part", ".b.wav.part"):
        (tmp_path / "song" / left).write_bytes(b"half a file" * 1000)
    files = track(tmp_path, bit_depth="32f")
    files.open(TAGS)
    files.write(block(0.5, 0.25))
    files.publish()
    assert sorted(p.name for p in (tmp_path / "song").iterdir()) == ["a.wav", "b.wav"]
    assert read(tmp_path / "song/a.wav") == [0.5, -0.25]


FULL = """
import resource, signal, sys
from pathlib import Path
import numpy as np
from stemsplit.errors import OutputError
from stemsplit.separation.publish import TrackFiles
from stemsplit.settings import OutputSettings
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), resource.RLIM_INFINITY))
files = TrackFiles({"a": Path(sys.argv[1])}, 44100, 2, OutputSettings())
try:
    files.open({})
    files.write(np.zeros((1, 2, 40000), np.float32))
    files.publish()
except OutputError as error:
    print(error)
files.close()
"""


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO])
@pytest.mark.parametrize("depth", ["24", "32f"])
def test_errors_name_the_file_and_never_its_part(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, depth: str
) -> None:
    def failing(self: Sink) -> None:
        self.abandon()
        raise write_error(self.path, OSError(code, os.strerror(code)))

    files = track(tmp_path, bit_depth=depth)
    files.open(TAGS)
    files.write(block(0.5, 0.25))
    monkeypatch.setattr(Sink, "close", failing)
    with pytest.raises((OutputError, ResourceError)) as caught:
        files.publish()
    files.close()
    assert str(caught.value).startswith(f"{tmp_path}/song/a.wav: ")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(sys.platform != "linux", reason="limits of files as Linux has them")
@pytest.mark.parametrize("room", [0, 1000, 319_999, 40_000 * 2 * 4])
def test_wherever_the_disk_fills_it_is_one_error_and_nothing_is_left(tmp_path: Path, room: int) -> None:
    command = [sys.executable, "-c", FULL, str(tmp_path / "new/deep/a.wav"), str(room)]
    done = subprocess.run(command, capture_output=True, text=True)
    full = room < 40_000 * 2 * 4
    said = f"{tmp_path}/new/deep/a.wav: can't be written (File too large)\n"
    assert (done.stdout, done.stderr) == (said if full else "", "")
    assert [path.name for path in tmp_path.iterdir()] == ([] if full else ["new"])


def test_a_folder_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "song").write_text("")
    files = track(tmp_path)
    with pytest.raises(OutputError):
        files.open(TAGS)
    files.close()
    assert (tmp_path / "song").read_text() == ""
