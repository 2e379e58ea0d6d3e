"""An hour of music in a real Chromium: at once, in step, in little memory."""

import shutil
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests.web.browsing import HEARD, LISTEN, PLAYER, Open, Page, until
from tests.web.conftest import RATE, Client
from tests.web.processes import running

pytestmark = pytest.mark.slow


def silent_hour(path: Path, tones_at_s: tuple[float, ...]) -> None:
    """Write an hour of stereo as a sparse file, with a tone of a second at some times."""
    from stemsplit.audio.wav import pcm_bytes, wav_header

    path.parent.mkdir(parents=True, exist_ok=True)
    frames = 3600 * RATE
    tone = 0.25 * np.sin(2 * np.pi * 441 * np.arange(RATE) / RATE) * np.ones((2, 1))
    with path.open("wb") as file:
        head = wav_header(RATE, 2, "16", frames)
        file.write(head)
        for at_s in tones_at_s:
            file.seek(len(head) + 4 * round(at_s * RATE))
            file.write(pcm_bytes(tone.astype(np.float32), "16"))
        file.truncate(len(head) + 4 * frames)


def test_an_hour_plays_at_once_and_in_step(folder: Path, show: Open) -> None:
    shutil.rmtree(folder / "stems")
    for name in ("vocals", "no_vocals"):
        silent_hour(folder / f"stems/hour/{name}.wav", (0.0, 3000.0))
    with running(folder) as (client, resident):
        client.song("hour")
        before = resident()
        page = at_once(lambda: opened_and_heard(show, client), usable=2, heard=3)
        at_once(lambda: sought(page), heard=3)
        drift = f"(() => {{ const p = {PLAYER}; return p.position() / p.rate - p.context.currentTime; }})()"
        start = page.evaluate(drift)
        page.wait_for_timeout(8000)  # three blocks further
        assert abs(page.evaluate(drift) - start) < 0.005
        until(page, DRAWN)
        assert resident() - before < 50e6, f"{(resident() - before) / 1e6:.0f} MB"
        at_once(lambda: reloaded(page), complete=2)
        page.close()
    with running(folder) as (client, _):  # the waveforms are there for another server, too
        page = show(client)
        at_once(lambda: reloaded(page), complete=2)
        page.close()


DRAWN = "globalThis.stemsplit?.desk.lanes.every(({waveforms}) => waveforms[0].complete)"


def opened_and_heard(show: Open, client: Client) -> tuple[Page, dict[str, float]]:
    """Open a page and play; return it, and the seconds until it can be used and until it is heard."""
    began = time.monotonic()
    page = show(client)
    page.wait_for_selector("#play:visible")
    usable = time.monotonic() - began
    page.click("#play")
    page.evaluate(LISTEN)
    until(page, f"Math.max(...({HEARD})()) > 0.01")
    return page, {"usable": usable, "heard": time.monotonic() - began}


def sought(page: Page) -> tuple[Page, dict[str, float]]:
    """Go to the tone in the fiftieth minute; return the page, and the seconds until it is heard."""
    page.evaluate(f"{PLAYER}.seek(60 * {RATE})")  # silence, also for a second attempt
    until(page, f"{PLAYER}.position() < 100 * {RATE} && Math.max(...({HEARD})()) < 0.001")
    began = time.monotonic()
    page.evaluate(f"{PLAYER}.seek({3000 * RATE})")
    until(page, f"{PLAYER}.position() > {3000 * RATE} && Math.max(...({HEARD})()) > 0.01")
    return page, {"heard": time.monotonic() - began}


def reloaded(page: Page) -> tuple[Page, dict[str, float]]:
    """Load a page again; return it, and the seconds until all waveforms are complete."""
    began = time.monotonic()
    page.reload()
    until(page, DRAWN)
    return page, {"complete": time.monotonic() - began}


def at_once(attempt: Callable[[], tuple[Page, dict[str, float]]], **limits: float) -> Page:
    """Return the page of the first of three attempts that keeps to the limits: others may use the machine."""
    taken = []
    for _ in range(3):
        page, times = attempt()
        if all(times[name] < limit for name, limit in limits.items()):
            return page
        taken.append(times)
    raise AssertionError(taken)
