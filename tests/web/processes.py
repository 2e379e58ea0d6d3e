"""The installed command as a server in a process of its own."""

import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.cli.conftest import COMMAND, environment
from tests.web.conftest import KEY, Client


@contextmanager
def running(folder: Path, *arguments: str) -> Iterator[tuple[Client, Callable[[], int]]]:
    """Run `stemsplit serve` for the block; give a client, and a function that returns the bytes it holds."""
    command = [*COMMAND, "serve", "--key", KEY, *arguments]
    server = subprocess.Popen(
        command, cwd=folder, env=environment(folder), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    try:
        assert server.stdout is not None
        address = server.stdout.readline().decode()
        yield Client(int(address.split(":")[2].split("/")[0]), folder), lambda: _resident(server.pid)
    finally:
        server.terminate()
        server.communicate(timeout=60)


def _resident(pid: int) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS"):
            return int(line.split()[1]) * 1024
    raise AssertionError(pid)
