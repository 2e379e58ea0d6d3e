"""What is heard in a real Chromium is right, to the sample and to the decibel."""

import io
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from tests.web.browsing import LISTEN, PLAYER, Open, Page, db_of, heard, slide, until
from tests.web.conftest import RATE, Client, served, write

pytestmark = pytest.mark.slow


@pytest.fixture
def sines(folder: Path) -> Path:
    """Stems of one sine each: left and right alike, 6 dB apart."""
    shutil.rmtree(folder / "stems/song")
    (folder / "song.wav").unlink()
    time_s = np.arange(20 * RATE) / RATE
    for name, hz, level in (("vocals", 500, 0.25), ("bass", 100, 0.125)):
        write(folder / f"stems/sines/{name}.wav", level * np.sin(2 * np.pi * hz * time_s) * np.ones((2, 1)))
    return folder


def test_it_plays_and_gains_are_right_to_the_decibel(sines: Path, show: Open) -> None:
    with served(sines) as client:
        page = show(client)
        page.click("#play")
        began = until(page, f"{PLAYER}.position() > 0 && {PLAYER}.context.currentTime")
        page.evaluate(LISTEN)
        both = 10 * math.log10(0.25**2 / 2 + 0.125**2 / 2)
        assert heard(page) == pytest.approx((both, both), abs=0.1)
        assert page.evaluate(f"{PLAYER}.context.currentTime") > began + 0.9
        page.click("[aria-label='Mute vocals']")
        assert heard(page) == pytest.approx((db_of(0.125),) * 2, abs=0.1)
        page.click("[aria-label='Mute vocals']")
        page.click("[aria-label='Solo vocals']")
        assert heard(page) == pytest.approx((db_of(0.25),) * 2, abs=0.1)
        slide(page, "Volume of vocals", -12)
        assert heard(page) == pytest.approx((db_of(0.25) - 12,) * 2, abs=0.1)
        slide(page, "Pan of vocals", 0.5)
        left, right = heard(page)
        assert (left, right) == pytest.approx((db_of(0.25) - 15.01, db_of(0.25) - 12), abs=0.1)
        slide(page, "Pan of vocals", -1)
        left, right = heard(page)
        assert left == pytest.approx(db_of(0.25) - 12, abs=0.1) and right < -100
        page.click("#play")
        assert heard(page)[0] < -100 and page.evaluate(f"!{PLAYER}.playing")


OFFLINE = """async ([address, ids, rate, frames, seek, loop, seconds]) => {
  const { Player } = await import(address + 'player.js');
  const context = new OfflineAudioContext(2, seconds * rate, rate);
  const player = new Player(context, rate, frames);
  for (const id of ids) player.add({ id, name: id, channels: 2 }, 'a');
  const last = Math.min(Math.ceil(frames / 131072), 8);
  for (const id of ids) for (let i = 0; i < last; i++) await player.blocks.want(id, i);
  if (loop) player.setLoop(loop);
  player.seek(seek);
  await player.play();
  const { at, from } = player.segments[0];
  const sound = (await context.startRendering()).getChannelData(0);
  player.pause();
  return { at, from, sound: Array.from(sound) };
}"""


def rendered(
    page: Page, client: Client, ids: list[str], frames: int, seek: int, loop: Any, seconds: float
) -> Any:
    """Return at which sample of the clock the player begins, and what it plays on the left."""
    found = page.evaluate(OFFLINE, [client.address, ids, RATE, frames, seek, loop, seconds])
    assert found["from"] == seek
    return found["at"], np.array(found["sound"], np.float32)


def test_playing_seeking_and_looping_are_exact_to_the_sample(folder: Path, show: Open) -> None:
    length = 7 * RATE  # three blocks
    generator = np.random.default_rng(5)
    noise = (generator.integers(-(2**20), 2**20, (2, 2, length)) / 2**23).astype(np.float32)
    impulses = np.zeros((2, length), np.float32)
    impulses[:, [70_000, 131_071, 131_072, 200_123]] = 0.5
    for name, audio in (("drums", noise[0]), ("bass", noise[1]), ("vocals", impulses)):
        write(folder / f"stems/exact/{name}.wav", audio)
    with served(folder) as client:
        page = show(client)
        ids = {name: client.stem("exact", name)["id"] for name in ("drums", "bass", "vocals")}

        at, sound = rendered(page, client, [ids["drums"], ids["bass"]], length, 0, None, 2)
        want = noise[0][0] + noise[1][0]
        assert not sound[:at].any() and np.array_equal(sound[at:], want[: len(sound) - at])
        at, sound = rendered(
            page, client, [ids["drums"]], length, 130_001, None, 2
        )  # over the edge of a block
        assert np.array_equal(sound[at:], noise[0][0][130_001 : 130_001 + len(sound) - at])

        at, sound = rendered(page, client, [ids["vocals"]], length, 200_000, None, 1)
        assert np.flatnonzero(sound).tolist() == [at + 123]
        first, last = 131_000, 131_100  # a loop that crosses the edge of a block, is shorter than allowed
        at, sound = rendered(page, client, [ids["vocals"]], length, first, [first, last], 1)
        assert np.flatnonzero(sound).tolist() == [at + 71, at + 72]
        first, last = 130_000, 136_000
        at, sound = rendered(page, client, [ids["vocals"]], length, first, [first, last], 1)
        turns = range(0, RATE, last - first)
        expected = [at + turn + place - first for turn in turns for place in (131_071, 131_072)]
        assert np.flatnonzero(sound).tolist() == [one for one in expected if one < RATE]


CAPTURE = """async () => {
  const code = `registerProcessor('hits', class extends AudioWorkletProcessor {
    process([[samples]]) {
      samples?.forEach((x, i) => Math.abs(x) > 0.01 && this.port.postMessage([currentFrame + i, x]));
      return true;
    }
  })`;
  const { context, master } = stemsplit.desk.player;
  await context.audioWorklet.addModule(URL.createObjectURL(new Blob([code], { type: 'text/javascript' })));
  const recorder = new AudioWorkletNode(context, 'hits');
  globalThis.hits = [];
  recorder.port.onmessage = ({ data }) => hits.push(data);
  master.connect(recorder);
}"""


def test_a_loop_in_real_time_keeps_step(folder: Path, show: Open) -> None:
    impulses = np.zeros((2, 10 * RATE))
    impulses[:, 3 * RATE] = 0.25
    for name in ("drums", "bass", "vocals"):
        write(folder / f"stems/exact/{name}.wav", impulses)
    with served(folder) as client:
        page = show(client, bypass_csp=True)  # for the recorder, which is no file of the page
        assert page.evaluate("stemsplit.desk.song.name") == "exact" and page.locator(".lane").count() == 3
        loop = [3 * RATE - 5000, 3 * RATE + 7345]
        page.evaluate(f"loop => {PLAYER}.setLoop(loop)", loop)
        page.evaluate(f"{PLAYER}.seek({loop[0]})")
        page.evaluate(CAPTURE)
        page.click("#play")
        until(page, "hits.length >= 8")
        hits = page.evaluate("hits")
        assert page.evaluate(
            f"{PLAYER}.segments.some(({{at, from, frames}}) => hits.some(([hit]) => "
            f"hit - at === {3 * RATE} - from))"
        )  # where the player says
        assert all(
            level == pytest.approx(0.75, abs=1e-6) for _, level in hits
        )  # all three at the same sample
        assert {later[0] - sooner[0] for sooner, later in zip(hits, hits[1:], strict=False)} == {12345}


def test_a_stem_that_comes_late_stops_all_and_not_the_page(sines: Path, show: Open) -> None:
    with served(sines) as client:
        late = client.stem("sines", "vocals")["id"]
        page = show(client)
        held: list[Any] = []
        page.route(f"**/api/files/{late}/pcm*", lambda route: held.append(route))
        page.evaluate(f"{PLAYER}.seek({15 * RATE})")
        page.click("#play")
        until(page, f"{PLAYER}.stalled")
        page.wait_for_timeout(500)
        assert page.evaluate(f"{PLAYER}.position()") == 15 * RATE  # the other stem waits, too
        for route in held:
            route.continue_()
        page.unroute(f"**/api/files/{late}/pcm*")
        until(page, f"!{PLAYER}.stalled && {PLAYER}.position() > 15.2 * {RATE}")


def samples(content: bytes | Path) -> Any:
    source = io.BytesIO(content) if isinstance(content, bytes) else content
    return soundfile.read(source, always_2d=True)[0].T


def test_two_results_are_compared(sines: Path, show: Open) -> None:
    audio = samples(sines / "stems/sines/vocals.wav")
    write(sines / "stems/sines (2)/vocals.wav", audio * 1.01, subtype="FLOAT")
    write(sines / "stems/sines (2)/bass.wav", samples(sines / "stems/sines/bass.wav"))
    with served(sines) as client:
        page = show(client)
        page.select_option("#result", label="sines: sines")
        page.select_option("#other", label="sines (2): sines (2)")
        row = page.locator("#difference-table tr[data-stem=vocals]")
        row.wait_for()
        assert row.locator("td").all_inner_texts()[3] == "40.1 dB"
        equal = page.locator("#difference-table tr[data-stem=bass]")
        equal.wait_for()
        assert equal.locator("td").all_inner_texts()[2:] == ["−∞ dB", "equal"]
        page.click("#play")
        until(page, f"{PLAYER}.position() > 0")
        page.evaluate(LISTEN)
        page.click("[aria-label='Solo vocals']")
        page.uncheck("#equal")
        assert heard(page)[0] == pytest.approx(db_of(0.25), abs=0.05)
        page.click("text=B: sines (2)")
        assert heard(page)[0] == pytest.approx(db_of(0.2525), abs=0.02)
        page.click("text=Difference A − B")
        assert heard(page)[0] == pytest.approx(db_of(0.0025), abs=0.1)
        assert page.evaluate(f"{PLAYER}.playing")


def test_the_original_is_as_loud_as_the_mix(folder: Path, show: Open) -> None:
    with served(folder, folder / "song.wav") as client:
        page = show(client)
        slide(page, "Volume of vocals", -60)
        note = "document.getElementById('equal-note').textContent"
        until(page, f"/^original −[1-9]/.test({note})")
        page.check("#listen-original", force=True)
        page.wait_for_timeout(300)  # for the gain to get there without a click
        factor = page.evaluate(f"{PLAYER}.sides.original.gain.value")
        assert 0.2 < factor < 0.95
        page.uncheck("#equal")
        until(page, f"{PLAYER}.sides.original.gain.value === 1")


def test_a_solo_of_either_result_silences_both(sines: Path, show: Open) -> None:
    bass = samples(sines / "stems/sines/bass.wav")
    write(sines / "stems/sines (2)/drums.wav", bass)
    with served(sines) as client:
        page = show(client)
        page.select_option("#result", label="sines: sines")
        page.select_option("#other", label="sines (2): sines (2)")
        rows = page.locator("#difference-table tr[data-stem]")
        rows.nth(2).wait_for()
        assert {
            row.get_attribute("data-stem"): row.locator("td").nth(0).inner_text() for row in rows.all()
        } == {
            "bass": "only in A",
            "vocals": "only in A",
            "drums": "only in B",
        }
        page.click("#play")
        until(page, f"{PLAYER}.position() > 0")
        page.evaluate(LISTEN)
        page.uncheck("#equal")
        page.click("[aria-label='Solo drums']")
        assert heard(page)[0] < -100
        page.click("text=B: sines (2)")
        assert heard(page)[0] == pytest.approx(db_of(0.125), abs=0.1)
        page.click("text=Difference A − B")
        assert heard(page)[0] == pytest.approx(db_of(0.125), abs=0.1)
        page.click("[aria-label='Solo drums']")
        page.click("[aria-label='Solo vocals']")
        assert heard(page)[0] == pytest.approx(db_of(0.25), abs=0.1)


def test_a_result_of_another_rate_is_not_compared(sines: Path, show: Open) -> None:
    write(sines / "stems/sines (2)/vocals.wav", np.zeros((2, 48000)), rate=48000)
    with served(sines) as client:
        page = show(client)
        page.select_option("#result", label="sines: sines")
        page.select_option("#other", label="sines (2): sines (2)")
        reason = "has 48000 Hz and the others 44100 Hz, so it isn’t played with them"
        assert page.inner_text(".lane.broken .note") == f"Not played: {reason}"
        for side in ("b", "difference"):
            assert page.locator(f"#listen-{side}").is_disabled()
            assert page.locator(f"label:has(#listen-{side})").get_attribute("title") == reason
        page.keyboard.press("b")
        assert page.evaluate(f"{PLAYER}.heard") == "a"
        row = page.locator("#difference-table tr[data-stem=vocals]")
        row.wait_for()
        assert row.locator("td").nth(0).inner_text() == "44100 Hz and 48000 Hz can’t be compared"
