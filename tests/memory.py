"""The memory that a process of a test takes."""

from pathlib import Path
from textwrap import indent


def peak_mb() -> float:
    """The most memory that this process has held, in MiB.

    `ru_maxrss` would also count its parent's peak, which a new process inherits, so that a large parent hides
    what its child takes.
    """
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


# `peak_mb` of a program that can't import the tests.
PRINT_PEAK = """
with open("/proc/self/status") as file:
    print(int(file.read().split("VmHWM:")[1].split()[0]) / 1024)
"""

# Runs the command with the arguments of the process and prints its peak.
RUN = f"""
import sys
from stemsplit.cli.main import run
try:
    run(sys.argv[1:])
finally:
{indent(PRINT_PEAK, "    ")}
"""
