"""Downloads from a real server that imitates the hub."""

import hashlib
import os
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest

from stemsplit.errors import Cancelled, ChecksumError, DownloadError, ModelUnavailableError
from stemsplit.events import Download, Event
from stemsplit.hub import download, hf, verified
from stemsplit.hub.download import fetch_hub
from stemsplit.hub.entries import FileSpec, HubFile

CONTENT = random.Random(2).randbytes(400_000)
SHA256 = hashlib.sha256(CONTENT).hexdigest()
FILE = HubFile("owner/model", "c" * 40, "955717e8.safetensors")


@pytest.fixture
def hub(site):
    site.repository("owner/model", {"955717e8.safetensors": CONTENT})
    return site


def test_file_arrives_once_in_the_hubs_own_cache(hub, tmp_path):
    path = fetch_hub(FILE, sha256=SHA256)
    assert path.read_bytes() == CONTENT
    assert path.is_relative_to(tmp_path / "hf" / "models--owner--model" / "snapshots" / FILE.revision)
    hub.log.clear()
    assert fetch_hub(FILE, sha256=SHA256[:8]) == path
    assert fetch_hub(FILE, sha256=SHA256, offline=True) == path
    assert hub.log == []


def test_progress_is_reported_in_bytes(hub):
    seen: list[Event] = []
    fetch_hub(FILE, sha256=SHA256, callback=seen.append)
    assert seen[0] == Download(FILE.name, 0, len(CONTENT))
    assert seen[-1] == Download(FILE.name, len(CONTENT), len(CONTENT))


def test_progress_can_cancel(hub):
    with pytest.raises(Cancelled):
        fetch_hub(FILE, sha256=SHA256, callback=lambda event: False)
    assert hf.cached(FILE) is None
    assert fetch_hub(FILE, sha256=SHA256).read_bytes() == CONTENT


def test_an_exception_of_the_callback_ends_the_download(hub):
    def callback(event: Event) -> None:
        raise BrokenPipeError

    with pytest.raises(BrokenPipeError):
        fetch_hub(FILE, sha256=SHA256, callback=callback)


def test_cancelling_works_although_the_transfer_ignores_exceptions(hub, monkeypatch):
    """A transfer outside Python may go on after an exception of its progress bar."""
    import huggingface_hub

    def swallow(*args, tqdm_class, **kwargs):
        try:
            tqdm_class(total=10).update(5)
        except Cancelled:
            pass
        return "anything"

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", swallow)
    with pytest.raises(Cancelled):
        hf.download(FILE, lambda event: False)


def test_nothing_is_printed(hub, capfd):
    fetch_hub(FILE, sha256=SHA256)
    with pytest.raises(DownloadError):
        fetch_hub(HubFile("owner/model", "c" * 40, "nothing"), sha256=SHA256)
    assert capfd.readouterr() == ("", "")


def test_dropped_connection_is_survived(hub):
    hub.faults = [hub.fault(drop_after=100_000)]
    assert fetch_hub(FILE, sha256=SHA256).read_bytes() == CONTENT


def test_wrong_bytes_are_not_kept(hub):
    hub.faults = [hub.fault(body=bytes(len(CONTENT)))]
    with pytest.raises(DownloadError, match="sent a file whose sha256 is") as caught:
        fetch_hub(FILE, sha256=SHA256)
    assert caught.value.url == f"{hub.url}/owner/model/resolve/{'c' * 40}/{FILE.name}"
    assert hf.cached(FILE) is None
    assert fetch_hub(FILE, sha256=SHA256).read_bytes() == CONTENT


def test_a_truncated_cache_entry_is_refused_and_repaired_on_demand(hub):
    path = fetch_hub(FILE, sha256=SHA256)
    with path.open("r+b") as file:
        file.truncate(1000)
    with pytest.raises(ChecksumError) as caught:
        download.fetch(FileSpec(hub=FILE, sha256=SHA256), model="mine")
    assert caught.value.hint == "remove the file and download it again: stemsplit models download mine"
    assert fetch_hub(FILE, sha256=SHA256, repair=True).read_bytes() == CONTENT


def test_changed_bytes_of_the_same_size_are_noticed(hub):
    path = fetch_hub(FILE, sha256=SHA256)
    path.write_bytes(bytes(len(CONTENT)))
    with pytest.raises(ChecksumError):
        fetch_hub(FILE, sha256=SHA256)


@pytest.mark.parametrize(
    "file", [HubFile("owner/model", "c" * 40, "gone"), HubFile("no/body", "c" * 40, "x")]
)
def test_what_is_not_there_is_told(hub, file):
    with pytest.raises(DownloadError) as caught:
        fetch_hub(file, sha256=SHA256)
    assert str(caught.value).startswith(f"{hub.url}/{file.repo}/resolve/")
    assert "\n" not in str(caught.value)


def test_a_hub_that_is_down_is_told_at_once(hub, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(time, "sleep", lambda seconds: pytest.fail(f"it waits for {seconds} s"))
    with pytest.raises(DownloadError, match="refused"):
        fetch_hub(FILE, sha256=SHA256)


def test_offline_opens_no_connection(hub, monkeypatch):
    with pytest.raises(ModelUnavailableError, match="offline"):
        fetch_hub(FILE, sha256=SHA256, offline=True)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(ModelUnavailableError, match="offline"):
        fetch_hub(FILE, sha256=SHA256)
    assert hub.log == []


def test_token_is_sent(hub, monkeypatch):
    seen = []
    answer = hub.handler.answer

    def note(self, fault):
        seen.append(self.headers.get("Authorization"))
        answer(self, fault)

    monkeypatch.setattr(hub.handler, "answer", note)
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    fetch_hub(FILE, sha256=SHA256)
    assert set(seen) == {"Bearer hf_secret"}


def spec(hub, **changed) -> FileSpec:
    other = FileSpec(url=hub.url + "/w/955717e8-abc.th", sha256=hashlib.sha256(b"legacy").hexdigest())
    return FileSpec(**{"hub": FILE, "sha256": SHA256, "otherwise": other, **changed})


def test_the_url_is_the_second_source(hub, monkeypatch):
    """Fall back to the same bytes at a URL, then to another file with the same weights."""
    both = spec(hub, url=hub.url + "/w/copy.safetensors")
    hub.files["/w/copy.safetensors"] = CONTENT
    hub.files["/w/955717e8-abc.th"] = b"legacy"
    assert download.fetch(both) == hf.cached(FILE)
    hf.remove(download.fetch(both))
    del hub.files[f"/owner/model/resolve/{'c' * 40}/{FILE.name}"]
    assert download.fetch(both).name == "copy.safetensors"
    assert download.fetch(spec(hub)).name == "955717e8-abc.th"
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    assert download.fetch(spec(hub)).name == "955717e8-abc.th"
    hub.log.clear()
    assert download.fetch(spec(hub), offline=True).name == "955717e8-abc.th"
    assert hub.log == []


def test_when_no_source_works_the_error_says_what_is_needed(hub):
    hub.files.clear()
    with pytest.raises(DownloadError) as caught:
        download.fetch(spec(hub), model="htdemucs")
    error = caught.value
    assert error.model == "htdemucs" and error.sha256 == SHA256
    assert error.url == f"{hub.url}/owner/model/resolve/{'c' * 40}/{FILE.name}"
    assert error.url in error.reason and "/w/955717e8-abc.th: HTTP 404" in error.reason
    assert SHA256 in (error.hint or "") and "-m tiny" in (error.hint or "")


def test_what_has_no_recorded_hash_is_not_downloaded(hub):
    with pytest.raises(DownloadError, match="sha256 isn't known"):
        download.fetch(FileSpec(url=hub.url + "/w/x.pt"))
    assert hub.log == []


FETCH = """
import sys
from stemsplit.hub.download import fetch_hub
from stemsplit.hub.entries import HubFile
print(fetch_hub(HubFile("owner/model", "c" * 40, "955717e8.safetensors"), sha256=sys.argv[1]))
"""


def test_two_processes_download_once(hub, tmp_path):
    hub.pause_s = 0.01
    env = {**os.environ, "HF_HUB_CACHE": str(tmp_path / "hf")}
    command = [sys.executable, "-c", FETCH, SHA256]
    processes = [subprocess.Popen(command, env=env, stdout=subprocess.PIPE) for _ in range(2)]
    said = {process.communicate(timeout=60)[0].decode().strip() for process in processes}
    assert len(said) == 1 and Path(said.pop()).read_bytes() == CONTENT
    assert hub.served == len(CONTENT)


def test_a_verified_file_is_hashed_once(hub, monkeypatch):
    path = fetch_hub(FILE, sha256=SHA256)
    monkeypatch.setattr(verified, "fresh_digest", lambda path: pytest.fail("hashed again"))
    assert fetch_hub(FILE, sha256=SHA256) == path
