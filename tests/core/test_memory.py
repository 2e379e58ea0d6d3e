"""glibc's allocator is used where it exists, and nothing happens elsewhere."""

import ctypes
import importlib
import subprocess
import sys
from collections.abc import Iterator

import pytest

from stemsplit.core import memory

PROGRAM = """
import re, sys, threading
from stemsplit.core.memory import share_memory
if len(sys.argv) > 1 and sys.argv[1] == "without": pass
elif not share_memory():
    sys.exit(3)
kept = []
threads = [threading.Thread(target=lambda: kept.append([bytes(1000) for _ in range(5000)])) for _ in range(4)]
for thread in threads: thread.start()
for thread in threads: thread.join()
maps = open("/proc/self/maps").read()
# a thread's own arena is reserved 64 MiB at a time, on such a boundary
print(len(re.findall(r"^[0-9a-f]*[048c]000000-[0-9a-f]+ rw-p 00000000 00:00 0 ?$", maps, re.M)))
"""

# Small blocks come from the heap. The last one stays allocated at its end, so that only trimming shrinks it.
TRIMMED = """
import ctypes, sys
from stemsplit.core import memory
if not hasattr(ctypes.CDLL(None), "malloc_trim"): sys.exit(3)
def resident(): return int(next(s for s in open("/proc/self/status") if s.startswith("VmRSS")).split()[1])
library = ctypes.CDLL(None)
library.malloc.restype, library.free.argtypes = ctypes.c_void_p, [ctypes.c_void_p]
blocks = [library.malloc(100_000) for _ in range(1000)]
for block in blocks: ctypes.memset(block, 1, 100_000)
for block in blocks[:-1]: library.free(block)
before = resident()
memory.trim()
print(before, resident())
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc is Linux's")
def test_threads_share_one_arena() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True)
    if done.returncode == 3:
        pytest.skip("the C library isn't glibc")
    assert (done.returncode, done.stdout.strip()) == (0, "0")


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc is Linux's")
def test_freed_pages_go_back_to_the_system() -> None:
    done = subprocess.run([sys.executable, "-c", TRIMMED], capture_output=True, text=True)
    if done.returncode == 3:
        pytest.skip("the C library isn't glibc")
    before, after = map(int, done.stdout.split())
    assert done.returncode == 0 and after < before - 50_000, done


@pytest.fixture
def _forgotten() -> Iterator[None]:
    """Clear the cache of library functions before and after the test."""
    memory._function.cache_clear()
    yield
    memory._function.cache_clear()


@pytest.mark.usefixtures("_forgotten")
@pytest.mark.parametrize("platform", ["darwin", "win32"])
def test_other_systems_call_nothing(platform: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise TypeError("bad argument type for built-in operation")  # as on Windows

    monkeypatch.setattr(sys, "platform", platform)
    monkeypatch.setattr(ctypes, "CDLL", refuse)
    importlib.reload(memory)
    assert not memory.share_memory()
    memory.trim()


@pytest.mark.usefixtures("_forgotten")
def test_a_c_library_without_these_functions_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(ctypes, "CDLL", lambda *_: object())
    assert not memory.share_memory()
    memory.trim()
