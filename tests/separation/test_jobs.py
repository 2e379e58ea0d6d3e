"""Outputs that can't be written fail before anything is computed."""

import os
import sys
from pathlib import Path

import pytest

from stemsplit.errors import OutputError
from stemsplit.separation.jobs import check_folder

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="links of POSIX")


@pytest.mark.parametrize("below", ["", "new", "new/deep"])
@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("dangling", "is a link to something that isn't there"),
        ("loop", "Too many levels of symbolic links"),
        ("file", "is a file, not a folder"),
        ("n" * 300, "File name too long"),
    ],
)
def test_folders_that_cannot_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, reason: str, below: str
) -> None:
    (tmp_path / "dangling").symlink_to("nowhere")
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "file").touch()
    monkeypatch.chdir(tmp_path)
    for folder in (Path(kind, below), tmp_path / kind / below):
        with pytest.raises(OutputError) as caught:
            check_folder(folder)
        assert caught.value.reason == reason
        assert kind in str(caught.value)
    assert len(os.listdir(tmp_path)) == 3


def test_folders_that_can_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "link").symlink_to("there")
    monkeypatch.chdir(tmp_path)
    for folder in (".", "there", "there/new/deep", "link", "link/new", "new"):
        check_folder(Path(folder))
    assert sorted(os.listdir(tmp_path)) == ["link", "there"]
