"""What this process asks of the C library's allocator."""

import ctypes
import sys

ARENA_MAX = -8  # M_ARENA_MAX in glibc's malloc.h


def share_memory() -> bool:
    """Let all threads share one pool of memory.

    By default glibc gives every thread a pool of its own, which keeps what that thread has ever used. It is a
    setting of the whole process, so it is for programs, not for libraries, and made before threads start.

    Returns:
        Whether there is such an allocator, which is glibc's.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    return bool(mallopt(ARENA_MAX, 1))
