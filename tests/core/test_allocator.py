"""The allocator is told, where there is one to tell."""

import subprocess
import sys

import pytest

from stemsplit.core import allocator

PROGRAM = """
import re, sys, threading
from stemsplit.core.allocator import share_memory
if len(sys.argv) > 1 and sys.argv[1] == "without": pass
elif not share_memory():
    sys.exit(3)
kept = []
threads = [threading.Thread(target=lambda: kept.append([bytes(1000) for _ in range(5000)])) for _ in range(4)]
for thread in threads: thread.start()
for thread in threads: thread.join()
maps = open("/proc/self/maps").read()
# a pool of its own is reserved 64 MiB at a time, on such a boundary
print(len(re.findall(r"^[0-9a-f]*[048c]000000-[0-9a-f]+ rw-p 00000000 00:00 0 ?$", maps, re.M)))
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc is Linux's")
def test_threads_share_one_pool() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True)
    if done.returncode == 3:
        pytest.skip("the C library isn't glibc")
    assert (done.returncode, done.stdout.strip()) == (0, "0")


def test_elsewhere_nothing_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    assert not allocator.share_memory()
