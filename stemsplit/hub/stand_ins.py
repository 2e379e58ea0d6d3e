"""Files that stand where a checkpoint or a configuration was meant to be."""

from pathlib import Path

from stemsplit.errors import CheckpointError

HEAD_BYTES = 512


def refuse_stand_in(path: Path) -> None:
    """Refuse what git leaves in place of a large file, and a web page that was saved in place of a download.

    Raises:
        CheckpointError: the file is one of these.
        OSError: it can't be read.
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
