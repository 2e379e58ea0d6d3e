"""Open files that may be compressed by gzip, up to a limit."""

import gzip
import io
from pathlib import Path
from typing import IO, cast


class Decompressed(gzip.GzipFile):
    """Content of a gzip file, up to a hundred times the file's length.

    Weights compress badly: those of demucs 1, quantised to 8 bits, to a quarter.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(path, "rb")
        self.most = 100 * path.stat().st_size

    def fileno(self) -> int:
        """Refuse to give the file's number, from which torch would read what is compressed."""
        raise io.UnsupportedOperation("not a plain file")

    def read(self, size: int | None = -1) -> bytes:
        """Return the next bytes."""
        left = self.most - self.tell()
        return super().read(left if size is None or size < 0 else min(size, left))


def opened(path: Path) -> IO[bytes]:
    """Open a file that may be compressed by gzip, which begins with 1f 8b."""
    with path.open("rb") as file:
        compressed = file.read(2) == b"\x1f\x8b"
    return cast("IO[bytes]", Decompressed(path)) if compressed else path.open("rb")
