"""Make the picture of the page in the README from the tests' own song: `python -m tests.web.picture`."""

import shutil
import tempfile
from pathlib import Path

from playwright.sync_api import sync_playwright

from tests.web import music
from tests.web.conftest import served

PICTURE = Path(__file__).parents[2] / "docs/play.png"
SIZE = {"width": 1120, "height": 700}


def make(target: Path) -> None:
    """Write the picture."""
    with tempfile.TemporaryDirectory() as name, sync_playwright() as driver:
        folder = Path(name)
        music.write(folder)
        with served(folder, folder / "Demo song.wav") as client:
            browser = driver.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
            page = browser.new_page(viewport=SIZE, color_scheme="light")
            page.goto(client.address)
            page.wait_for_selector(".lane >> nth=3")
            page.evaluate("stemsplit.desk.player.setLoop([8 * 44100, 16 * 44100])")
            page.evaluate("stemsplit.desk.player.seek(10.4 * 44100)")
            page.click("[aria-label='Solo vocals']")
            page.click("[aria-label='Spectrogram of vocals']")
            page.wait_for_timeout(2000)
            page.screenshot(path=target)
            browser.close()


if __name__ == "__main__":
    make(PICTURE)
