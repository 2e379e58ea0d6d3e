"""A real HTTP server that imitates the hub and a plain host, and misbehaves on demand; a tiny family."""

import hashlib
import json
import re
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import ModuleType
from typing import Any

import huggingface_hub
import pytest
import torch
from torch import Tensor, nn

from stemsplit import models
from stemsplit.models.network import Network

COMMIT = "c" * 40


@dataclass
class Fault:
    """Fault of one GET: the response's status, a drop after some bytes, other headers, a delay."""

    status: int | None = None
    drop_after: int | None = None
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes | None = None
    wait_s: float = 0.0


@dataclass
class Site:
    """Files by path, and faults. Hub files are at `/OWNER/REPO/resolve/COMMIT/NAME`."""

    files: dict[str, bytes] = field(default_factory=dict)
    faults: list[Fault] = field(default_factory=list)
    etags: dict[str, str] = field(default_factory=dict)
    redirects: dict[str, str] = field(default_factory=dict)
    ranges: bool = True
    lengths: bool = True
    pause_s: float = 0.0
    log: list[tuple[str, str, str | None]] = field(default_factory=list)
    served: int = 0
    busy: int = 0  # responses being sent
    url: str = ""
    handler: type[BaseHTTPRequestHandler] = BaseHTTPRequestHandler

    @staticmethod
    def fault(**what: Any) -> Fault:
        return Fault(**what)

    def repository(self, repo: str, files: dict[str, bytes]) -> None:
        for name, content in files.items():
            self.files[f"/{repo}/resolve/{COMMIT}/{name}"] = content

    def gets(self, path: str = "") -> int:
        return sum(method == "GET" and path in where for method, where, _ in self.log)


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    site: Site

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_HEAD(self) -> None:
        self.answer(Fault())

    def do_GET(self) -> None:
        self.answer(self.site.faults.pop(0) if self.site.faults else Fault())

    def answer(self, fault: Fault) -> None:
        site, path = self.site, self.path.split("?")[0]
        time.sleep(fault.wait_s)
        site.log.append((self.command, path, self.headers.get("Range")))
        if path in site.redirects:
            return self.send(302, b"", {"Location": site.redirects[path]})
        if fault.status is not None:
            return self.send(fault.status, b"no", fault.headers)
        if match := re.match(r"/api/models/([^/]+/[^/]+)", path):
            return self.listing(match[1])
        # a branch has the commit's files too
        body = site.files.get(re.sub(r"/resolve/main/", f"/resolve/{COMMIT}/", path))
        if body is None:
            return self.send(404, b"", {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": COMMIT})
        self.content(path, body if fault.body is None else fault.body, fault)

    def content(self, path: str, body: bytes, fault: Fault) -> None:
        site = self.site
        etag = site.etags.get(path, f'"{hashlib.sha256(site.files.get(path, body)).hexdigest()}"')
        headers = {"ETag": etag, "X-Repo-Commit": COMMIT, "Accept-Ranges": "bytes"} | fault.headers
        wanted, condition = self.headers.get("Range"), self.headers.get("If-Range")
        status, start = 200, 0
        if wanted and site.ranges and condition in (None, etag):
            status, start = 206, int(re.findall(r"\d+", wanted)[0])
            headers["Content-Range"] = f"bytes {start}-{len(body) - 1}/{len(body)}"
            if start >= len(body):
                return self.send(416, b"", {"Content-Range": f"bytes */{len(body)}"})
        self.send(status, body[start:], headers, fault.drop_after)

    def listing(self, repo: str) -> None:
        start = f"/{repo}/resolve/{COMMIT}/"
        names = {p.removeprefix(start): c for p, c in self.site.files.items() if p.startswith(start)}
        if not names:
            return self.send(404, b"{}", {"X-Error-Code": "RepoNotFound"})
        siblings = [
            {
                "rfilename": name,
                "size": len(content),
                "lfs": {
                    "sha256": hashlib.sha256(content).hexdigest(),
                    "size": len(content),
                    "pointerSize": 130,
                },
            }
            for name, content in names.items()
        ]
        body = {"id": repo, "sha": COMMIT, "private": False, "siblings": siblings}
        self.send(200, json.dumps(body).encode(), {"Content-Type": "application/json"})

    def send(self, status: int, body: bytes, headers: dict[str, str], drop_after: int | None = None) -> None:
        self.send_response(status)
        if self.site.lengths:
            headers = {"Content-Length": str(len(body))} | headers
        else:
            self.close_connection = True
        for key, value in headers.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command == "GET":
            self.site.busy += 1
            self.body(body if drop_after is None else body[:drop_after])
            self.site.busy -= 1
        if drop_after is not None:
            self.close_connection = True

    def body(self, body: bytes) -> None:
        block = 1 << 14 if self.site.pause_s else 1 << 20
        for start in range(0, len(body), block):
            piece = body[start : start + block]
            self.site.served += len(
                piece
            )  # counted before sending, so that it includes all bytes that a client has
            try:
                self.wfile.write(piece)
                self.wfile.flush()
            except OSError:
                self.site.served -= len(piece)
                self.close_connection = True
                return
            time.sleep(self.site.pause_s)


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    """Running server, with empty caches below `tmp_path` and quick retries."""
    found = Site()
    found.handler = type("BoundHandler", (Handler,), {"site": found})
    server = ThreadingHTTPServer(("127.0.0.1", 0), found.handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    found.url = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setenv("HF_ENDPOINT", found.url)
    monkeypatch.setattr("stemsplit.hub.transfer.PAUSE_S", 0.01)
    yield found
    huggingface_hub.close_session()
    server.shutdown()
    server.server_close()


@pytest.fixture(autouse=True)
def _own_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Hide the machine's caches, registry and proxies from the tests."""
    monkeypatch.setenv("STEMSPLIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("STEMSPLIT_REGISTRY", str(tmp_path / "config" / "models.yaml"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hf"))
    # was read from the environment at import
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    for name in (
        "STEMSPLIT_MIRROR",
        "HF_HUB_OFFLINE",
        "HF_TOKEN",
        "HF_ENDPOINT",
        "http_proxy",
        "https_proxy",
        "all_proxy",
    ):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@dataclass(frozen=True)
class GainArguments:
    sources: tuple[str, ...] = ("drums", "bass", "other", "vocals")
    hidden: int = 3
    samplerate: int = 100
    segment: float = 1


class Gain(Network):
    """Network whose stems are the mix times a number."""

    Arguments = GainArguments
    built = 0

    def __init__(self, arguments: GainArguments) -> None:
        a = arguments
        super().__init__(
            a,
            stems=a.sources,
            sample_rate=a.samplerate,
            channels=2,
            segment_samples=int(a.segment * a.samplerate),
        )
        self.gains = nn.Parameter(torch.randn(len(a.sources)))
        self.layer = nn.Linear(a.hidden, a.hidden)
        Gain.built += 1

    def estimate(self, mix: Tensor) -> Tensor:
        return self.gains[list(self.kept)][None, :, None, None] * mix[:, None]


@pytest.fixture
def gain(monkeypatch: pytest.MonkeyPatch) -> type[Gain]:
    """A test family, `gain`, that demucs packages may name as one of theirs."""
    module = ModuleType("tiny_family")
    module.Gain = Gain  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "tiny_family", module)
    monkeypatch.setattr(Gain, "__module__", "tiny_family")
    monkeypatch.setitem(models.FAMILIES, "gain", "tiny_family:Gain")
    monkeypatch.setattr(Gain, "built", 0)
    return Gain
