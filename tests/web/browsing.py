"""Helpers of the tests that drive the page in Chromium; `conftest` has their fixtures."""

import math
import time
from collections.abc import Callable
from typing import Any

Page = Any
Open = Callable[..., Page]
PLAYER = "stemsplit.desk.player"


LISTEN = """() => {
  const { context, master } = stemsplit.desk.player;
  const split = context.createChannelSplitter(2);
  master.connect(split);
  globalThis.ears = [0, 1].map((ear) => {
    const meter = context.createAnalyser();
    meter.fftSize = 32768;
    split.connect(meter, ear);
    return meter;
  });
}"""
HEARD = """() => ears.map((meter) => {
  const samples = new Float32Array(meter.fftSize);
  meter.getFloatTimeDomainData(samples);
  return Math.sqrt(samples.reduce((sum, x) => sum + x * x, 0) / samples.length);
})"""


def hear(line: Any, faults: list[str]) -> None:
    # a page outlives its test's server for a moment, and asks it for its jobs
    if line.type in ("error", "warning") and "ERR_CONNECTION_REFUSED" not in line.text:
        faults.append(line.text)


def check(url: str, faults: list[str]) -> None:
    if not url.startswith(("http://127.0.0.1:", "data:")):
        faults.append(f"a request to {url}")


def until(page: Page, script: str, seconds: float = 60) -> Any:
    """Wait until a script in the page returns something, and return that."""
    end = time.monotonic() + seconds
    while not (found := page.evaluate(script)):
        assert time.monotonic() < end, f"never: {script}"
        page.wait_for_timeout(50)
    return found


def heard(page: Page) -> tuple[float, float]:
    """Return the levels of left and right in dB, after the time that a measurement takes."""
    page.wait_for_timeout(1000)
    left, right = page.evaluate(HEARD)
    return tuple(20 * math.log10(max(level, 1e-9)) for level in (left, right))  # type: ignore[return-value]


def db_of(level: float) -> float:
    return 20 * math.log10(level / math.sqrt(2))


def slide(page: Page, label: str, value: float) -> None:
    """Move a slider as its user does: the value, and the event."""
    page.get_by_label(label, exact=True).evaluate(
        "(node, value) => { node.value = value; node.dispatchEvent(new Event('input', {bubbles: true})); }",
        value,
    )
