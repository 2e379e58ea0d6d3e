"""The file beneath an encoder: a full disk becomes one clear error, whatever library writes to it."""

import os
from pathlib import Path

from stemsplit.files import write_error


class Sink:
    """A new binary file. After a failed write it swallows everything until `check` tells.

    Encoders call it from C, where an exception would be lost or printed.

    Raises:
        OutputError: the file can't be made.
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
        """Write, or do nothing once a write has failed; the length of `data` either way."""
        if self._error is None:
            try:
                self._file.write(data)
            except OSError as error:
                self._error = error
        return len(data)

    def read(self, size: int = -1) -> bytes:
        """Read back what was written."""
        return self._file.read(size)

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Move as a file does."""
        try:
            return self._file.seek(offset, whence)
        except OSError as error:
            self._error = self._error or error
            return 0

    def tell(self) -> int:
        """The position."""
        return self._file.tell()

    def check(self) -> None:
        """Raise what went wrong since the start, if anything.

        Raises:
            OutputError: writing failed.
            ResourceError: the disk is full.
        """
        if self._error is not None:
            raise write_error(self.path, self._error)

    def close(self) -> None:
        """Bring everything to the disk and close.

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
        """Close without a promise about what is in the file."""
        try:
            self._file.close()
        except OSError:
            # the buffer's last bytes didn't fit; whoever abandons a file doesn't want them
            pass
