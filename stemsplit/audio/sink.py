"""The file that an encoder writes to; a full disk becomes one clear error, whatever library writes."""

import os
from contextlib import suppress
from pathlib import Path

from stemsplit.files import write_error


class Sink:
    """A new binary file. After a failed write it discards further writes; `check` raises the error.

    Encoders call it from C code, where an exception would be lost or only printed.

    Args:
        path: the file, replaced if it exists.

    Raises:
        OutputError: the file can't be created.
        ResourceError: the disk is full.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._error: OSError | None = None
        self._position = 0
        try:
            self._file = path.open("wb+", buffering=1 << 20)
        except OSError as error:
            raise write_error(path, error) from None

    def write(self, data: bytes) -> int:
        """Write `data`, or discard it once a write has failed; return its length either way."""
        if self._error is None:
            try:
                self._file.write(data)
            except OSError as error:
                self._error = error
        return len(data)

    def read(self, size: int = -1) -> bytes:
        """Read from the position, up to `size` bytes or to the end."""
        return self._file.read(size)

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Move to a byte, as `io.IOBase.seek` does; return the position."""
        try:
            return self._file.seek(offset, whence)
        except OSError as error:
            self._error = self._error or error
            return 0

    def tell(self) -> int:
        """Return the position."""
        return self._file.tell()

    def check(self) -> None:
        """Raise the error of the first write that failed, if any.

        Raises:
            OutputError: writing failed.
            ResourceError: the disk is full.
        """
        if self._error is not None:
            raise write_error(self.path, self._error)

    def close(self) -> None:
        """Flush to the disk and close.

        Raises:
            OutputError: writing failed.
            ResourceError: the disk is full.
        """
        try:
            self.check()
            self._file.flush()
            os.fsync(self._file.fileno())
        except OSError as error:
            raise write_error(self.path, error) from None
        finally:
            self.abandon()

    def abandon(self) -> None:
        """Close, ignoring a failed flush: the file is being discarded."""
        with suppress(OSError):
            self._file.close()
