"""Downloads from a plain host with every kind of fault."""

import errno
import hashlib
import os
import random
import shutil
import signal
import ssl
import subprocess
import sys
import threading
import time
from http.server import ThreadingHTTPServer

import pytest

from stemsplit.errors import (
    Cancelled,
    ChecksumError,
    DownloadError,
    ModelUnavailableError,
    OutputError,
    ResourceError,
)
from stemsplit.events import Download, Event
from stemsplit.hub import download, transfer
from stemsplit.hub.download import fetch_url, url_path

CONTENT = random.Random(0).randbytes(300_000)
SHA256 = hashlib.sha256(CONTENT).hexdigest()
OTHER = random.Random(1).randbytes(300_000)


@pytest.fixture
def url(site) -> str:
    site.files["/w/model.th"] = CONTENT
    return site.url + "/w/model.th"


def leftovers() -> list[str]:
    files = download.folders.cache_folder() / "files"
    return sorted(p.name for p in files.rglob("*") if p.is_file() and not p.name.endswith(".lock"))


def test_file_arrives_once(site, url):
    path = fetch_url(url, sha256=SHA256)
    assert path.read_bytes() == CONTENT
    assert path.name == "model.th"
    assert leftovers() == ["model.th"]
    assert fetch_url(url, sha256=SHA256[:8]) == path
    assert site.gets() == 1


def test_without_a_stated_length_the_known_size_counts(site, url):
    site.lengths = False
    site.faults = [site.fault(drop_after=1000), site.fault()]
    assert fetch_url(url, sha256=SHA256, size=len(CONTENT)).read_bytes() == CONTENT
    assert site.served == len(CONTENT)


def test_a_file_without_an_end_is_refused_at_its_size(site, url):
    site.lengths, site.pause_s = False, 0.001
    site.files["/w/model.th"] = CONTENT * 50
    with pytest.raises(DownloadError, match="sends more than the 300000 bytes"):
        fetch_url(url, sha256=SHA256, size=len(CONTENT))
    assert site.served < 50 * len(CONTENT)  # what the sockets' buffers hold at most
    assert url_path(url).with_name("model.th.part").stat().st_size <= len(CONTENT)


def test_a_file_that_changes_between_two_tries_is_read_again(site, url):
    site.etags["/w/model.th"] = '"same"'
    site.faults = [site.fault(drop_after=1000, body=OTHER)]
    assert fetch_url(url, sha256=SHA256).read_bytes() == CONTENT
    assert site.gets() == 3


@pytest.mark.parametrize("kept", ["{}", "[]", "no JSON", '{"validator": "a\\nb"}', '{"validator": "\u2026"}'])
def test_a_damaged_note_about_a_part_is_no_obstacle(site, url, kept):
    part = url_path(url).with_name("model.th.part")
    part.parent.mkdir(parents=True)
    part.write_bytes(CONTENT[:1000])
    part.with_name("model.th.part.json").write_text(kept)
    assert fetch_url(url, sha256=SHA256).read_bytes() == CONTENT


def test_odd_digits_are_no_time_to_wait(site, url, monkeypatch):
    monkeypatch.setattr(transfer, "PAUSE_S", 0.01)
    site.faults = [site.fault(status=503, headers={"Retry-After": "\u00b2"})]
    assert fetch_url(url, sha256=SHA256).read_bytes() == CONTENT


def test_names_that_can_t_be_a_file_s(site, url):
    long = f"{site.url}/w/{'x' * 300}.th"
    site.files[long.removeprefix(site.url)] = CONTENT
    assert fetch_url(long, sha256=SHA256).name.endswith("xxx.th")
    assert url_path(f"{site.url}/w/..").name == url_path(f"{site.url}/").name == "file"
    url_path(url).mkdir(parents=True)
    with pytest.raises(DownloadError, match="is a folder, in place of the downloaded file"):
        fetch_url(url, sha256=SHA256)


@pytest.mark.parametrize("name", ["my model \u00e9.th", "my%20model%20%C3%A9.th"])
def test_addresses_may_have_spaces(site, name):
    site.files["/w/my%20model%20%C3%A9.th"] = CONTENT
    path = fetch_url(f"{site.url}/w/{name}", sha256=SHA256)
    assert path.read_bytes() == CONTENT
    assert transfer.read_small(f"{site.url}/w/{name}") == CONTENT


def test_two_addresses_with_one_file_name_do_not_collide(site, url):
    site.files["/v/model.th"] = OTHER
    other = fetch_url(site.url + "/v/model.th", sha256=hashlib.sha256(OTHER).hexdigest())
    assert fetch_url(url, sha256=SHA256).read_bytes() == CONTENT
    assert other.read_bytes() == OTHER


@pytest.mark.parametrize("drops", [[1], [100_000], [299_999], [0, 5, 100_000, 1, 7, 9, 50_000]])
def test_dropped_connection_is_resumed(site, url, drops):
    site.faults = [site.fault(drop_after=n) for n in drops]
    assert fetch_url(url, sha256=SHA256).read_bytes() == CONTENT
    assert site.served == len(CONTENT)


def test_a_server_that_gives_nothing_new_is_given_up(site, url):
    site.faults = [site.fault(drop_after=100), *(site.fault(drop_after=0) for _ in range(50))]
    with pytest.raises(DownloadError, match="ended after 100 of 300000 bytes") as caught:
        fetch_url(url, sha256=SHA256)
    assert caught.value.url == url
    assert site.gets() == 1 + transfer.TRIES
    assert url_path(url).with_name("model.th.part").stat().st_size == 100
    site.faults = []
    fetch_url(url, sha256=SHA256)
    assert site.served == len(CONTENT)


def test_a_server_without_ranges_starts_over(site, url):
    site.ranges = False
    site.faults = [site.fault(drop_after=200_000)]
    assert fetch_url(url, sha256=SHA256).read_bytes() == CONTENT
    assert site.served == 200_000 + len(CONTENT)


def test_a_server_without_ranges_that_always_drops_ends(site, url):
    site.ranges = False
    site.faults = [site.fault(drop_after=200_000) for _ in range(50)]
    with pytest.raises(DownloadError):
        fetch_url(url, sha256=SHA256)
    assert site.gets() == 1 + transfer.TRIES


def test_another_version_is_not_appended(site, url):
    old = bytes(len(CONTENT))
    site.files["/w/model.th"] = old
    site.faults = [site.fault(drop_after=1000), site.fault(status=404)]
    with pytest.raises(DownloadError):
        fetch_url(url, sha256=SHA256)
    site.files["/w/model.th"] = CONTENT  # with another ETag
    assert fetch_url(url, sha256=SHA256).read_bytes() == CONTENT
    assert site.log[-1][2] == "bytes=1000-"


@pytest.mark.parametrize("etag", ['W/"weak"', '"the same for all"'])
def test_a_part_of_another_file_is_fetched_again(site, url, etag):
    """If validators don't tell versions apart, the hash does."""
    site.etags["/w/model.th"] = etag
    site.faults = [site.fault(body=OTHER, drop_after=1000), site.fault(status=404)]
    with pytest.raises(DownloadError):
        fetch_url(url, sha256=SHA256)
    assert fetch_url(url, sha256=SHA256).read_bytes() == CONTENT


def test_wrong_bytes_are_not_kept(site, url):
    site.files["/w/model.th"] = OTHER
    with pytest.raises(DownloadError, match="sent a file whose sha256 is") as caught:
        fetch_url(url, sha256=SHA256)
    assert caught.value.sha256 == SHA256
    assert leftovers() == []
    assert site.gets() == 1


def test_a_file_of_another_size_is_not_downloaded(site, url):
    with pytest.raises(DownloadError, match="holds 300000 bytes, not 300001"):
        fetch_url(url, sha256=SHA256, size=300_001)
    assert not url_path(url).exists()


def test_answers_without_a_length(site, url):
    site.lengths = False
    seen: list[Event] = []
    assert fetch_url(url, sha256=SHA256, callback=seen.append).read_bytes() == CONTENT
    assert seen[-1] == Download("model.th", len(CONTENT), None)


def test_missing_file_fails_at_once(site, url):
    with pytest.raises(DownloadError, match=r"/nothing.th: HTTP 404"):
        fetch_url(site.url + "/nothing.th", sha256=SHA256)
    assert site.gets() == 1


@pytest.mark.parametrize("status", [429, 500, 503])
def test_transient_errors_are_retried(site, url, status):
    site.faults = [site.fault(status=status, headers={"Retry-After": "0"}) for _ in range(3)]
    assert fetch_url(url, sha256=SHA256).read_bytes() == CONTENT
    assert site.gets() == 4


def test_permanent_errors_are_reported(site, url):
    site.faults = [site.fault(status=503) for _ in range(50)]
    with pytest.raises(DownloadError, match="HTTP 503"):
        fetch_url(url, sha256=SHA256)
    assert site.gets() == transfer.TRIES


def test_a_refused_connection_is_told(site, url):
    with pytest.raises(DownloadError, match="[Rr]efused"):
        fetch_url("http://127.0.0.1:9/model.th", sha256=SHA256)


def test_a_silent_server_times_out(site, url, monkeypatch):
    monkeypatch.setattr(transfer, "TIMEOUT_S", 0.05)
    monkeypatch.setattr(transfer, "TRIES", 2)
    site.faults = [site.fault(wait_s=0.5) for _ in range(9)]
    with pytest.raises(DownloadError, match="timed out"):
        fetch_url(url, sha256=SHA256)


def test_a_complete_part_needs_no_byte(site, url):
    part = url_path(url).with_name("model.th.part")
    part.parent.mkdir(parents=True)
    part.write_bytes(CONTENT)
    assert fetch_url(url, sha256=SHA256).read_bytes() == CONTENT
    assert site.served == 0


def test_a_part_that_is_too_long_is_dropped(site, url):
    part = url_path(url).with_name("model.th.part")
    part.parent.mkdir(parents=True)
    part.write_bytes(CONTENT + b"more")
    assert fetch_url(url, sha256=SHA256).read_bytes() == CONTENT


def test_a_range_that_was_not_asked_for_is_not_written(site, url):
    part = url_path(url).with_name("model.th.part")
    part.parent.mkdir(parents=True)
    part.write_bytes(CONTENT[:1000])
    site.faults = [site.fault(headers={"Content-Range": "bytes 5-299999/300000"})]
    assert fetch_url(url, sha256=SHA256).read_bytes() == CONTENT


def test_progress_counts_bytes_and_can_cancel(site, url):
    seen: list[Download] = []

    def watch(event: Event) -> bool:
        assert isinstance(event, Download)
        seen.append(event)
        return event.done < 200_000

    with pytest.raises(Cancelled):
        fetch_url(url, sha256=SHA256, callback=watch)
    assert [e.done for e in seen] == sorted(e.done for e in seen)
    assert seen[0].done == 0 and seen[-1].done >= 200_000
    assert {e.total for e in seen} == {len(CONTENT)}
    assert not url_path(url).exists()
    before = site.served
    assert fetch_url(url, sha256=SHA256).read_bytes() == CONTENT
    assert site.log[-1][2] is not None and site.served - before < len(CONTENT)


def test_offline_opens_no_connection(site, url, monkeypatch):
    with pytest.raises(ModelUnavailableError, match="offline"):
        fetch_url(url, sha256=SHA256, offline=True)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(ModelUnavailableError, match="offline"):
        fetch_url(url, sha256=SHA256)
    assert site.log == []
    monkeypatch.delenv("HF_HUB_OFFLINE")
    fetch_url(url, sha256=SHA256)
    assert fetch_url(url, sha256=SHA256, offline=True).read_bytes() == CONTENT


def test_a_damaged_file_is_refused_and_repaired_on_demand(site, url):
    path = fetch_url(url, sha256=SHA256)
    path.write_bytes(CONTENT[:1000])
    with pytest.raises(ChecksumError) as caught:
        fetch_url(url, sha256=SHA256)
    assert caught.value.path == path and caught.value.expected == SHA256
    assert site.gets() == 1
    assert fetch_url(url, sha256=SHA256, repair=True).read_bytes() == CONTENT


FETCH = """
import sys
from stemsplit.hub.download import fetch_url
print(fetch_url(sys.argv[1], sha256=sys.argv[2]))
"""
LIMIT = """
import resource
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="limits of the size of files are for POSIX")
def test_a_full_disk_is_told_as_such(site, url):
    said = subprocess.run([sys.executable, "-c", LIMIT + FETCH, url, SHA256], capture_output=True, text=True)
    assert "stemsplit.errors.ResourceError" in said.stderr.splitlines()[-1]
    assert "model.th.part: File too large" in said.stderr
    assert site.gets() == 1


@pytest.mark.parametrize(
    ("number", "error"), [(errno.ENOSPC, ResourceError), (errno.EACCES, OutputError)], ids=["full", "denied"]
)
def test_a_disk_error_is_not_retried(site, url, monkeypatch, number, error):
    def fail(part, response):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(transfer, "_save_validator", fail)
    with pytest.raises(error):
        fetch_url(url, sha256=SHA256)
    assert site.gets() == 1


def test_an_exception_of_the_callback_is_not_retried(site, url):
    def callback(event: Event) -> None:
        raise BrokenPipeError

    with pytest.raises(BrokenPipeError):
        fetch_url(url, sha256=SHA256, callback=callback)
    assert site.gets() == 1


def test_a_slow_server_is_waited_for(site, url, monkeypatch):
    """The server stops after every 16 kB, but each try brings new bytes."""
    monkeypatch.setattr(transfer, "TIMEOUT_S", 0.1)
    monkeypatch.setattr(transfer, "TRIES", 2)
    site.pause_s = 0.12
    site.files["/w/model.th"] = CONTENT[:50_000]
    sha256 = hashlib.sha256(CONTENT[:50_000]).hexdigest()
    assert fetch_url(url, sha256=sha256).read_bytes() == CONTENT[:50_000]
    assert site.gets() > 2


@pytest.mark.parametrize(
    "address", ["http://example.com/m.th", "ftp://127.0.0.1/m.th", "file:///etc/passwd", "m.th"]
)
def test_only_https_is_trusted(address):
    with pytest.raises(DownloadError, match="only https"):
        fetch_url(address, sha256=SHA256)


@pytest.mark.parametrize(
    "address", ["https://[::1/m.th", "https://127.0.0.1:port/m.th", "https://127.0.0.1:1/ü"]
)
def test_an_invalid_url_is_refused(tmp_path, address):
    with pytest.raises(DownloadError):
        transfer.transfer(address, tmp_path / "part", size=None, trusted=None, report=lambda *_: None)


def test_a_redirect_to_an_invalid_url_is_refused(site, url):
    site.redirects["/w/model.th"] = "https://[::1/m.th"
    with pytest.raises(DownloadError, match="Invalid IPv6 URL"):
        fetch_url(url, sha256=SHA256)


def test_redirects_must_be_trusted_too(site, url):
    site.redirects["/old.th"] = "/w/model.th"
    assert fetch_url(site.url + "/old.th", sha256=SHA256).read_bytes() == CONTENT
    site.redirects["/away.th"] = "http://example.invalid/model.th"
    with pytest.raises(DownloadError, match=r"redirects to http://example.invalid/model.th: refused"):
        fetch_url(site.url + "/away.th", sha256=SHA256)
    site.redirects["/file.th"] = "file:///etc/passwd"
    with pytest.raises(DownloadError):
        fetch_url(site.url + "/file.th", sha256=SHA256)


def test_endless_redirects_end(site):
    site.redirects["/a"] = "/a"
    with pytest.raises(DownloadError, match="HTTP 302"):
        fetch_url(site.url + "/a", sha256=SHA256)


@pytest.fixture
def secure(site, tmp_path, monkeypatch) -> str:
    """The same site over https, with a certificate that this process trusts."""
    if shutil.which("openssl") is None:
        pytest.skip("no openssl to make a certificate with")
    key, cert = tmp_path / "key.pem", tmp_path / "cert.pem"
    make = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", key, "-out", cert]
    more = ["-days", "2", "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"]
    subprocess.run([*make, *more], check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert, key)
    handler = site.handler
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    server.socket = context.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    monkeypatch.setenv("SSL_CERT_FILE", str(cert))
    yield f"https://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_https_may_follow_http_but_not_the_reverse(site, url, secure, monkeypatch):
    assert fetch_url(secure + "/w/model.th", sha256=SHA256).read_bytes() == CONTENT
    site.redirects["/up.th"] = secure + "/w/model.th"
    assert fetch_url(site.url + "/up.th", sha256=SHA256).read_bytes() == CONTENT
    site.redirects["/down.th"] = url
    with pytest.raises(DownloadError, match="refused, because only https"):
        fetch_url(secure + "/down.th", sha256=SHA256)
    monkeypatch.delenv("SSL_CERT_FILE")
    with pytest.raises(DownloadError, match="certificate"):
        fetch_url(secure + "/w/model.th?again", sha256=SHA256)


def test_a_mirror_stands_in_for_every_host(site, monkeypatch):
    site.files["/mirror/host.example/w/model.th"] = CONTENT
    monkeypatch.setenv("STEMSPLIT_MIRROR", site.url + "/mirror/")
    path = fetch_url("https://host.example/w/model.th", sha256=SHA256)
    assert path.read_bytes() == CONTENT
    monkeypatch.delenv("STEMSPLIT_MIRROR")
    assert fetch_url("https://host.example/w/model.th", sha256=SHA256, offline=True) == path


def test_a_configured_mirror_may_be_plain_http():
    transfer.require_secure("http://mirror.lan/x", "http://mirror.lan/base")
    for url in ("http://other.lan/x", "http://mirror.lan:81/x"):
        with pytest.raises(DownloadError):
            transfer.require_secure(url, "http://mirror.lan/base")


def test_a_proxy_is_used(site, monkeypatch):
    site.files["http://mirror.lan/w/model.th"] = CONTENT  # the URL that a proxy gets
    monkeypatch.setenv("http_proxy", site.url)
    monkeypatch.setenv("STEMSPLIT_MIRROR", "http://mirror.lan")
    with pytest.raises(DownloadError, match="HTTP 404"):
        fetch_url("https://w/nothing.th", sha256=SHA256)
    assert fetch_url("https://w/model.th", sha256=SHA256).read_bytes() == CONTENT


def start(url: str, env: dict[str, str] | None = None) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-c", FETCH, url, SHA256]
    return subprocess.Popen(command, env={**os.environ, **(env or {})}, stdout=subprocess.PIPE)


def wait_until(good, patience_s: float = 60.0) -> None:
    end = time.monotonic() + patience_s
    while not good():
        assert time.monotonic() < end, "nothing happened"
        time.sleep(0.01)


def test_killed_download_goes_on_in_the_next_process(site, url):
    site.pause_s = 0.05
    part = url_path(url).with_name("model.th.part")
    process = start(url)
    wait_until(lambda: part.exists() and part.stat().st_size > 50_000)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert process.stdout is not None
    process.stdout.close()
    have = part.stat().st_size
    assert 50_000 < have < len(CONTENT) and not url_path(url).exists()
    site.pause_s = 0.0
    wait_until(lambda: not site.busy)
    before = site.served
    assert fetch_url(url, sha256=SHA256).read_bytes() == CONTENT
    assert site.served - before == len(CONTENT) - have
    assert site.log[-1][2] == f"bytes={have}-"


def test_two_processes_download_once(site, url):
    site.pause_s = 0.02
    processes = [start(url), start(url)]
    said = [process.communicate(timeout=60)[0].decode().strip() for process in processes]
    assert said == [str(url_path(url))] * 2
    assert site.gets() == 1 and site.served == len(CONTENT)


def test_waiting_for_another_process_shows_its_progress_and_can_be_cancelled(site, url, monkeypatch):
    monkeypatch.setattr("stemsplit.files.LOCK_POLL_S", 0.02)
    site.pause_s = 0.05
    process = start(url)
    part = url_path(url).with_name("model.th.part")
    wait_until(lambda: part.exists() and part.stat().st_size > 0)
    seen: list[Event] = []

    def watch(event: Event) -> bool:
        seen.append(event)
        return len(seen) < 3

    with pytest.raises(Cancelled):
        fetch_url(url, sha256=SHA256, callback=watch)
    process.communicate(timeout=60)
    assert process.returncode == 0 and site.gets() == 1
