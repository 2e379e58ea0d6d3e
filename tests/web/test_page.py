"""The page in a real Chromium: separating, saving, the keyboard, screen readers."""

import base64
import io
import json
import math
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
import pytest
import soundfile

from stemsplit.hub.manage import model_path
from stemsplit.hub.verified import digest
from stemsplit.web import jobs as queue
from tests.web import music
from tests.web.browsing import PLAYER, Open, Page, slide, until
from tests.web.conftest import RATE, served, write

pytestmark = pytest.mark.slow


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


def test_a_song_is_sent_once_and_again_only_if_the_server_has_forgotten_it(
    folder: Path, show: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(queue, "MOST_WAITING", 0)
    with served(folder) as client:
        page = show(client, errors=True)  # Chromium writes refused requests on the console
        sent: list[str] = []
        page.on("request", lambda request: sent.append(request.url.rpartition("/api/")[2]))
        submit = "#separate button[type=submit]"
        dropped(page, folder / "song.wav")
        for _ in range(3):
            page.click(submit)
            page.wait_for_selector("#separate .bad:has-text('0 jobs are waiting already')")
            page.wait_for_selector(f"{submit}:not([disabled])")
        assert [one for one in sent if one.startswith("uploads")] == ["uploads?name=song.wav"]
        assert sent.count("jobs") >= 3
        (id,) = [path.parent.name for path in Path(tempfile.gettempdir()).glob("stemsplit-web-*/*/song.wav")]
        assert client("DELETE", f"api/uploads/{id}").status == 204
        monkeypatch.setattr(queue, "MOST_WAITING", 32)
        page.click(submit)
        page.wait_for_selector("#queue [data-state=done]", timeout=60_000)
        assert sum(one.startswith("uploads") for one in sent) == 2
        assert not page.is_visible("#separate")


def test_no_stem_at_all_is_not_separated(folder: Path, show: Open) -> None:
    with served(folder) as client:
        page = show(client)
        dropped(page, folder / "song.wav")
        boxes = page.locator("#separate .checks input")
        start = page.locator("#separate button[type=submit]")
        for place in range(4):
            assert start.is_enabled() and not page.is_visible("text=Choose at least one stem.")
            boxes.nth(place).uncheck()
        assert start.is_disabled() and page.is_visible("text=Choose at least one stem.")
        page.keyboard.press("Enter")
        assert client.get("api/jobs")["jobs"] == []
        page.locator("#separate .checks input[value=bass]").check()
        start.click()
        page.wait_for_selector("#queue [data-state=done]", timeout=60_000)
        (job,) = client.get("api/jobs")["jobs"]
        assert list(job["outputs"]) == ["bass"]


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
        assert page.url.endswith(f"#{client.song('song')['id']}")
        assert page.get_by_label("Volume of drums").input_value() == "-6"
        page.click("[aria-label='Solo vocals']")
        assert np.array_equal(samples(saved(page, "This mix")), files["vocals"])


@pytest.mark.parametrize(
    ("names", "kept"),
    [
        (["drums", "no_vocals", "vocals"], ["no_vocals"]),
        (["bleed", "instrumental", "vocals"], ["instrumental"]),
        (["drums", "lead_guitar", "lead_vocals"], ["drums", "lead_guitar"]),
        (["bass", "drums"], "This result has no vocals to leave out"),
        (["dry", "reverb"], "This result has nothing but vocals"),
    ],
)
def test_karaoke_has_everything_but_the_voice(
    folder: Path, show: Open, names: list[str], kept: list[str] | str
) -> None:
    shutil.rmtree(folder / "stems")
    for place, name in enumerate(names):
        write(folder / f"stems/mine/{name}.wav", np.eye(1, 100, place) / 2)
    with served(folder) as client:
        page = show(client)
        if isinstance(kept, str):
            page.click("#open-save")
            page.click("#save >> text=Karaoke")
            page.wait_for_selector(f"#save .bad >> text={kept}")
        else:
            found = samples(saved(page, "Karaoke"))
            assert {names[place] for place in np.flatnonzero(found[0])} == {*kept}


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


def test_the_pointer_seeks_loops_and_zooms(folder: Path, show: Open) -> None:
    with served(folder) as client:
        page = show(client)
        box = page.locator("[data-stem=bass] .wave").bounding_box()
        at = lambda share: box["x"] + share * box["width"]  # noqa: E731
        page.mouse.click(at(0.5), box["y"] + 20)
        pixel = 2 * RATE / box["width"]
        assert page.evaluate(f"{PLAYER}.position()") == pytest.approx(RATE, abs=pixel)
        assert page.evaluate("document.getElementById('time').textContent") == "0:01.0"
        page.mouse.move(at(0.75), box["y"] + 20)
        page.mouse.down()
        page.mouse.move(at(0.25), box["y"] + 20, steps=5)
        page.mouse.up()
        assert page.evaluate(f"{PLAYER}.loop") == pytest.approx([0.5 * RATE, 1.5 * RATE], abs=2 * pixel)
        region = page.locator("#region").bounding_box()
        assert region["width"] == pytest.approx(box["width"] / 2, abs=4)
        page.mouse.move(at(0.5), box["y"] + 20)
        page.keyboard.down("Control")
        page.mouse.wheel(0, -200)
        page.keyboard.up("Control")
        start, frames = page.evaluate("[stemsplit.desk.view.start, stemsplit.desk.view.frames]")
        assert frames == pytest.approx(2 * RATE / math.e, abs=2)
        assert start + frames / 2 == pytest.approx(RATE, abs=2 * pixel)  # around the pointer
        page.click("#loop")
        assert page.evaluate(f"{PLAYER}.loop") is None and not page.is_visible("#region")


INK = """stem => {
  const canvas = document.querySelector(`[data-stem=${stem}] .wave`);
  const { width, height } = canvas;
  const strip = new OffscreenCanvas(20, height);
  const pen = strip.getContext('2d', { willReadFrequently: true });
  pen.drawImage(canvas, -width / 2, 0);
  const { data } = pen.getImageData(0, 0, 20, height);
  const alpha = (x, y) => data[4 * (20 * y + x) + 3];
  const columns = Array.from({ length: 20 }, (_, x) => x);
  return Array.from({ length: height }, (_, y) => Math.max(...columns.map((x) => alpha(x, y))));
}"""


def test_a_stem_is_drawn_as_waveform_and_as_spectrogram(folder: Path, show: Open) -> None:
    with served(folder) as client:
        page = show(client)
        until(page, "stemsplit.desk.lanes.every(({waveforms}) => waveforms[0].complete)")
        page.wait_for_timeout(200)
        inked = np.flatnonzero(np.array(page.evaluate(INK, "bass")) > 100)
        height = len(page.evaluate(INK, "bass"))
        assert np.ptp(inked) / height == pytest.approx(0.2, abs=0.04)  # a sine of 0.2
        page.click("[aria-label='Spectrogram of bass']")
        until(page, "stemsplit.desk.lanes.some(({waveforms}) => waveforms[0].known?.levels)")
        page.wait_for_timeout(200)
        column = np.array(page.evaluate(INK, "bass"))
        place = 1 - math.log(82 / 30) / math.log(RATE / 2 / 30)
        darkest = np.flatnonzero(column == column.max()).mean()
        assert darkest / height == pytest.approx(place, abs=0.05)
        assert column[: height // 2].max() < 30


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


@contextmanager
def published(file: Path, pause_s: float) -> Iterator[str]:
    """Serve a file on a socket, slowly, for the block."""
    content = file.read_bytes()

    class Slow(BaseHTTPRequestHandler):
        def log_message(self, format: str, *args: Any) -> None:
            pass

        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            for start in range(0, len(content), 1 << 18):
                try:
                    self.wfile.write(content[start : start + (1 << 18)])
                except OSError:  # the download is cancelled
                    return
                time.sleep(pause_s)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Slow)
    Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/{file.name}"
    finally:
        server.shutdown()
        server.server_close()


def test_a_model_that_is_not_here_is_downloaded_first(
    folder: Path, tmp_path: Path, show: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    (weights,) = model_path("tiny")
    monkeypatch.setenv("STEMSPLIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("STEMSPLIT_REGISTRY", str(tmp_path / "models.yaml"))
    shutil.rmtree(folder / "stems")
    with published(weights, 0.1) as address:
        file = {"url": address, "sha256": digest(weights), "size": weights.stat().st_size}
        entry = {"family": "band_unet", "stems": ["drums", "bass", "other", "vocals"], "files": [file]}
        entry |= {"sample_rate": RATE, "license": "MIT"}
        (tmp_path / "models.yaml").write_text(json.dumps({"models": {"far_away": entry}}))
        with served(folder, offline=False) as client:
            page = show(client)
            for end in (
                "cancelled",
                "done",
            ):  # a download that is cancelled leaves nothing that stops the next
                dropped(page, folder / "song.wav")
                page.get_by_label("Filter models").fill("far_away")
                page.click("#separate .model:has-text('far_away')")
                page.click("#separate button[type=submit]")
                page.wait_for_selector("#queue li:first-child .job-state:has-text('ownload')")
                if end == "cancelled":
                    page.click("[aria-label='Cancel song.wav']")
                page.wait_for_selector(f"#queue li:first-child[data-state={end}]", timeout=60_000)
            page.wait_for_selector(".lane >> nth=3", timeout=60_000)
    assert (folder / "stems").exists() and not list((tmp_path / "cache").rglob("*.part"))
