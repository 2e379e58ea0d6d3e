"""The page in a real Chromium: what is heard, seen and saved is right."""

import base64
import io
import math
import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from tests.web import music
from tests.web.conftest import RATE, Client, served, write

pytestmark = pytest.mark.slow
playwright = pytest.importorskip("playwright.sync_api", reason="needs the package playwright")
CHROMIUM = (
    os.environ.get("STEMSPLIT_CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
)
if CHROMIUM is None:
    pytest.skip("needs Chromium: apt-get install chromium", allow_module_level=True)

Page = Any
ARGUMENTS = ["--no-sandbox", "--disable-dev-shm-usage", "--autoplay-policy=no-user-gesture-required"]
PLAYER = "stemsplit.desk.player"


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as driver:
        found = driver.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield found
        found.close()


Open = Callable[..., Page]


@pytest.fixture
def show(browser: Any) -> Iterator[Open]:
    """Open the page of a server. At the end: it asked nobody else for anything, and had no errors."""
    faults: list[str] = []
    contexts = []

    def opened(client: Client, errors: bool = False, **options: Any) -> Page:
        context = browser.new_context(**{"viewport": {"width": 1280, "height": 900}, **options})
        contexts.append(context)
        page = context.new_page()
        page.on("request", lambda request: _check(request.url, faults))
        if not errors:
            page.on("pageerror", lambda error: faults.append(str(error)))
            page.on("console", lambda line: _hear(line, faults))
        page.goto(client.address)
        page.wait_for_selector("#song:not([hidden]), #empty:not([hidden])")
        return page

    yield opened
    for context in contexts:
        context.close()
    assert faults == []


def _hear(line: Any, faults: list[str]) -> None:
    # a page outlives its test's server for a moment, and asks it for its jobs
    if line.type in ("error", "warning") and "ERR_CONNECTION_REFUSED" not in line.text:
        faults.append(line.text)


def _check(url: str, faults: list[str]) -> None:
    if not url.startswith(("http://127.0.0.1:", "data:")):
        faults.append(f"a request to {url}")


def until(page: Page, script: str, seconds: float = 20) -> Any:
    """Wait until a script in the page returns something, and return that."""
    end = time.monotonic() + seconds
    while not (found := page.evaluate(script)):
        assert time.monotonic() < end, f"never: {script}"
        page.wait_for_timeout(50)
    return found


@pytest.fixture
def sines(folder: Path) -> Path:
    """Stems of one sine each: left and right alike, 6 dB apart."""
    shutil.rmtree(folder / "stems/song")
    (folder / "song.wav").unlink()
    time_s = np.arange(20 * RATE) / RATE
    for name, hz, level in (("vocals", 500, 0.25), ("bass", 100, 0.125)):
        write(folder / f"stems/sines/{name}.wav", level * np.sin(2 * np.pi * hz * time_s) * np.ones((2, 1)))
    return folder


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


def dropped(page: Page, *paths: Path) -> None:
    """Drop files on the page."""
    page.evaluate(
        """files => {
          const data = new DataTransfer();
          for (const [name, content] of files) {
            data.items.add(new File([Uint8Array.from(atob(content), (c) => c.charCodeAt(0))], name));
          }
          for (const kind of ['dragover', 'drop']) {
            const options = { dataTransfer: data, bubbles: true, cancelable: true };
            document.body.dispatchEvent(new DragEvent(kind, options));
          }
        }""",
        [[path.name, base64.b64encode(path.read_bytes()).decode()] for path in paths],
    )
    page.wait_for_selector("#separate[open] .model input:checked")


def test_a_song_that_is_dropped_becomes_four_lanes_while_the_next_one_runs(folder: Path, show: Open) -> None:
    shutil.rmtree(folder / "stems")
    music.write(folder, "second", 30)
    shutil.rmtree(folder / "stems")
    with served(folder, model="tiny") as client:
        page = show(client)
        assert page.is_visible("text=Drop a song here")
        dropped(page, folder / "song.wav", folder / "second.wav")
        assert page.inner_text("#separate button[type=submit]") == "Separate 2 songs"
        page.click("#separate button[type=submit]")
        page.wait_for_selector(".lane >> nth=3", timeout=60_000)
        assert page.inner_text("#song-name") == "song"
        assert page.locator(".lane").count() == 4
        assert {"vocals", "drums", "bass", "other"} == {
            *page.locator(".lane").evaluate_all("all => all.map(x => x.dataset.stem)")
        }
        # the next one runs; another tab and a page that is loaded again see it, and it can be cancelled
        page.wait_for_selector("[data-state=running] progress")
        other = page.context.new_page()
        other.goto(client.address)
        other.wait_for_selector("[data-state=running] progress[value]", timeout=60_000)
        page.reload()
        page.wait_for_selector("[data-state=running] progress")
        page.click("[aria-label='Cancel second.wav']")
        page.wait_for_selector("[data-state=cancelled]", timeout=60_000)
        other.wait_for_selector("[data-state=cancelled]", timeout=20_000)
        assert not (folder / "stems/second").exists()
        page.click("#play")
        until(page, f"{PLAYER}.position() > 0")


def saved(page: Page, choice: str) -> bytes:
    if not page.is_visible("#save"):
        page.click("#open-save")
    with page.expect_download() as download:
        page.click(f"#save >> text={choice}")
    return Path(download.value.path()).read_bytes()


def samples(content: bytes | Path) -> Any:
    source = io.BytesIO(content) if isinstance(content, bytes) else content
    return soundfile.read(source, always_2d=True)[0].T


def test_what_is_saved_is_what_is_heard(folder: Path, show: Open) -> None:
    with served(folder) as client:
        page = show(client)
        files = {
            name: samples(folder / f"stems/song/{name}.wav") for name in ("drums", "bass", "vocals", "other")
        }
        slide(page, "Volume of drums", -6)
        slide(page, "Volume of bass", 3)
        slide(page, "Pan of bass", 0.5)
        page.click("[aria-label='Mute other']")
        found = samples(saved(page, "This mix"))
        want = (
            files["vocals"]
            + files["drums"] * 10 ** (-6 / 20)
            + files["bass"] * 10 ** (3 / 20) * np.array([[math.cos(math.pi / 4)], [1]])
        )
        assert np.abs(found - want).max() <= 2**-23
        karaoke = samples(saved(page, "Karaoke"))
        assert np.abs(karaoke - files["drums"] - files["bass"] - files["other"]).max() <= 2**-23
        assert saved(page, "All stems as ZIP").startswith(b"PK")
        page.keyboard.press("Escape")
        page.reload()  # which keeps the mix
        page.wait_for_selector("[data-stem=drums]")
        assert page.get_by_label("Volume of drums").input_value() == "-6"
        page.click("[aria-label='Solo vocals']")
        assert np.array_equal(samples(saved(page, "This mix")), files["vocals"])


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
        factor = page.evaluate(f"{PLAYER}.sides.original.gain.value")
        assert 0.2 < factor < 0.95
        page.uncheck("#equal")
        until(page, f"{PLAYER}.sides.original.gain.value === 1")


def test_a_session_with_the_keyboard_only(folder: Path, show: Open) -> None:
    with served(folder) as client:
        page = show(client)
        press = page.keyboard.press
        press("Tab")
        assert page.evaluate("document.activeElement.textContent") == "Skip to the mixer"
        press("Enter")
        press("Space")
        until(page, f"{PLAYER}.playing")
        press("Space")
        until(page, f"!{PLAYER}.playing")
        press("Home")
        press("ArrowRight")
        assert page.evaluate(f"{PLAYER}.position()") == 2 * RATE  # five seconds on is the end of the song
        press("Shift+ArrowLeft")
        assert page.evaluate(f"{PLAYER}.position()") == 1.5 * RATE
        press("]")
        press("Shift+ArrowLeft")
        press("[")
        assert page.evaluate(f"{PLAYER}.loop") == [RATE, 1.5 * RATE]
        press("l")
        assert page.evaluate(f"{PLAYER}.loop") is None
        press("+")
        assert page.evaluate("stemsplit.desk.view.frames") == RATE
        press("0")
        press("2")
        press("Shift+Digit1")
        states = page.evaluate(f"{PLAYER}.channels.map(({{file, mute, solo}}) => [file.name, mute, solo])")
        assert states[:2] == [["vocals", True, False], ["drums", False, True]]
        seen = []  # Tab reaches every control
        for _ in range(60):
            press("Tab")
            seen.append(
                page.evaluate(
                    "document.activeElement.getAttribute('aria-label') || document.activeElement.id"
                )
            )
        assert {
            "Mute bass",
            "Solo bass",
            "Volume of bass",
            "Pan of bass",
            "open-save",
            "Loop",
            "Zoom in",
        } <= {*seen}
        page.get_by_label("Volume of bass").focus()
        press("ArrowLeft")
        assert page.get_by_label("Volume of bass").get_attribute("aria-valuetext") == "−0.5 dB"
        press("n")
        page.wait_for_selector("#separate[open]")
        press("Escape")
        press("s")
        page.wait_for_selector("#save[open]")
        press("Escape")
        press("?")
        assert page.is_visible("text=Solo a stem")
        press("Escape")
        assert page.evaluate("document.querySelector('dialog[open]')") is None


AXE = """async () => {
  const { violations } = await axe.run(document, { resultTypes: ['violations'] });
  return violations.filter(({ impact }) => ['serious', 'critical'].includes(impact))
    .map(({ id, nodes }) => [id, nodes.map((node) => node.html + ' ' + node.failureSummary)]);
}"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_axe_finds_no_serious_fault(
    folder: Path, show: Open, scheme: str, width: int, tmp_path: Path
) -> None:
    axe = pytest.importorskip("axe_playwright_python", reason="needs the package axe-playwright-python")
    source = (Path(axe.__file__).parent / "axe.min.js").read_text()
    write(folder / "stems/song (2)/vocals.wav", np.zeros((2, 2 * RATE)))
    (folder / "stems/song/other.wav").write_bytes(b"broken")
    with served(folder, folder / "song.wav") as client:
        page = show(client, color_scheme=scheme, viewport={"width": width, "height": 800})
        page.evaluate(source)
        page.wait_for_timeout(500)
        assert page.evaluate(AXE) == []
        page.select_option("#other", index=1)
        page.wait_for_selector("#difference-table tr[data-stem=vocals]")
        page.wait_for_timeout(300)
        assert page.evaluate(AXE) == []
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), "it scrolls to the side"
        for button, dialog in (("open-separate", "separate"), ("open-save", "save")):
            page.click(f"#{button}")
            page.wait_for_selector(f"#{dialog}[open]")
            page.wait_for_timeout(400)
            assert page.evaluate(AXE) == []
            page.screenshot(path=tmp_path / f"{dialog}.png")
            page.keyboard.press("Escape")


def test_names_that_look_like_html_are_text(folder: Path, show: Open) -> None:
    name = "<img src=x onerror=alert(1)> & “æ”"
    shutil.copytree(folder / "stems/song", folder / "stems" / name)
    shutil.rmtree(folder / "stems/song")
    with served(folder) as client:
        page = show(client)
        assert page.inner_text("#song-name") == name
        assert page.locator("#songs img").count() == 0


def test_a_server_that_is_gone_is_told(folder: Path, show: Open) -> None:
    with served(folder) as client:
        page = show(client, errors=True)
    page.wait_for_selector("text=The server does not answer", timeout=15_000)


# ---------------------------------------------------------------- an hour


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
    from tests.web.processes import running

    shutil.rmtree(folder / "stems")
    for name in ("vocals", "no_vocals"):
        silent_hour(folder / f"stems/hour/{name}.wav", (0.0, 3000.0))
    with running(folder) as (client, resident):
        client.song("hour")
        before = resident()
        began = time.monotonic()
        page = show(client)
        page.wait_for_selector("#play:visible")
        usable = time.monotonic() - began
        page.click("#play")
        page.evaluate(LISTEN)
        until(page, f"Math.max(...({HEARD})()) > 0.01", 10)
        first = time.monotonic() - began
        assert usable < 2 and first < 3, (usable, first)

        page.evaluate(f"{PLAYER}.seek({3000 * RATE})")
        began = time.monotonic()
        until(page, f"{PLAYER}.position() > {3000 * RATE} && Math.max(...({HEARD})()) > 0.01", 10)
        assert time.monotonic() - began < 3
        drift = f"(() => {{ const p = {PLAYER}; return p.position() / p.rate - p.context.currentTime; }})()"
        start = page.evaluate(drift)
        page.wait_for_timeout(8000)  # three blocks further
        assert abs(page.evaluate(drift) - start) < 0.005
        until(page, "stemsplit.desk.lanes.every(({waveforms}) => waveforms[0].complete)", 60)
        assert resident() - before < 50e6, f"{(resident() - before) / 1e6:.0f} MB"

        began = time.monotonic()  # the second time, the waveforms are there at once
        page.reload()
        until(page, "globalThis.stemsplit?.desk.lanes.every(({waveforms}) => waveforms[0].complete)", 10)
        assert time.monotonic() - began < 2
        page.close()
    with running(folder) as (client, _):  # also for another server
        page = show(client)
        began = time.monotonic()
        until(page, "stemsplit.desk.lanes.every(({waveforms}) => waveforms[0].complete)", 10)
        assert time.monotonic() - began < 2
        page.close()
