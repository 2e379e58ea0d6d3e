"""Detect files that were saved in place of a checkpoint or a configuration."""

from pathlib import Path

from stemsplit.errors import CheckpointError

HEAD_BYTES = 512


def refuse_placeholder(path: Path) -> None:
    """Refuse a Git LFS pointer, and a web page that was saved in place of a download.

    Raises:
        CheckpointError: the file is one of these.
        OSError: the file can't be read.
    """
    with path.open("rb") as file:
        head = file.read(HEAD_BYTES).lstrip(b"\xef\xbb\xbf \t\r\n")
    if head.startswith(b"version https://git-lfs.github.com/spec/"):
        raise CheckpointError(
            path, "a Git LFS pointer, not the file itself", hint="get the file with: git lfs pull"
        )
    if head.lower().startswith((b"<!doctype html", b"<html")):
        raise CheckpointError(
            path, "a web page, not a checkpoint", hint="download the file itself, not the page about it"
        )
