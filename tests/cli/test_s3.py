"""Songs in buckets of a real S3 server on 127.0.0.1: batches in and out, broken connections, no access."""

import importlib.util
import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.request import Request as Query
from urllib.request import urlopen

import numpy as np
import pytest
import soundfile

from stemsplit import Request, urls
from stemsplit.separation.inputs import find
from tests.cli.conftest import environment

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not all(map(importlib.util.find_spec, ("s3fs", "moto", "boto3"))), reason="needs s3fs and moto"
    ),
    pytest.mark.filterwarnings("ignore"),
]
ROOT = Path(__file__).parents[2]
KEYS = 20_000
SECRET = "a-secret-that-nobody-prints"


@dataclass
class Store:
    """The server, and a folder with the songs that are in its bucket."""

    address: str
    folder: Path

    @property
    def variables(self) -> dict[str, str]:
        return {
            "AWS_ACCESS_KEY_ID": "testing",
            "AWS_SECRET_ACCESS_KEY": SECRET,
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_ENDPOINT_URL": self.address,
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    def client(self) -> Any:
        import boto3

        return boto3.client(
            "s3",
            endpoint_url=self.address,
            region_name="us-east-1",
            aws_access_key_id="testing",
            aws_secret_access_key=SECRET,
        )

    def set_guarded(self, guarded: bool) -> None:
        """Let the server refuse keys that it hasn't given out, as all are here."""
        count = b"0" if guarded else b"1000000000"
        plain = {"Content-Type": "text/plain"}
        urlopen(Query(f"{self.address}/moto-api/reset-auth", data=count, headers=plain)).close()

    def keys(self, prefix: str) -> dict[str, bytes]:
        client = self.client()
        found = client.list_objects_v2(Bucket="music", Prefix=prefix).get("Contents", ())
        return {
            one["Key"].removeprefix(prefix): client.get_object(Bucket="music", Key=one["Key"])["Body"].read()
            for one in found
        }

    def run(self, *words: str, **variables: str | None) -> subprocess.CompletedProcess[str]:
        given = {**environment(self.folder), **self.variables, **variables}
        command = [sys.executable, "-m", "stemsplit", *words, "-m", "classic", "-s", "bass", "-s", "drums"]
        return subprocess.run(
            command,
            cwd=self.folder,
            env={
                "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path]),
                **{name: value for name, value in given.items() if value is not None},
            },
            capture_output=True,
            text=True,
            timeout=120,
        )


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    folder = tmp_path_factory.mktemp("s3")
    server = subprocess.Popen(
        [sys.executable, str(Path(__file__).with_name("s3_server.py")), str(KEYS)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert server.stdin and server.stdout
    try:
        made = Store(next(line for line in server.stdout if line.startswith("http")).strip(), folder)
        for name in ("x/a", "x/b", "y/c"):
            path = folder / f"lib/{name}.wav"
            path.parent.mkdir(parents=True, exist_ok=True)
            noise = 0.1 * np.random.default_rng(len(name)).standard_normal((44100, 2))
            soundfile.write(path, noise, 44100)
            made.client().upload_file(str(path), "music", f"lib/{name}.wav")
        yield made
    finally:
        server.stdin.close()
        server.wait(20)


def files(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_a_batch_from_bucket_to_bucket(store: Store) -> None:
    ran = store.run("s3://music/lib", "-o", "s3://music/out", "--json")
    assert ran.returncode == 0, ran.stderr
    report = json.loads(ran.stdout)
    assert [track["input"] for track in report["tracks"]] == [
        f"s3://music/lib/{name}.wav" for name in ("x/a", "x/b", "y/c")
    ]
    assert report["tracks"][0]["outputs"]["bass"] == "s3://music/out/x/a/bass.wav"
    assert store.run("lib", "-o", "local").returncode == 0
    assert store.keys("out/") == files(store.folder / "local")  # no claim stays
    again = store.run("s3://music/lib", "-o", "s3://music/out")
    assert "0 done, 3 skipped, 0 failed" in again.stderr
    store.client().delete_object(Bucket="music", Key="out/x/b/bass.wav")
    mended = store.run("s3://music/lib", "-o", "s3://music/out", "-n", "--json")
    assert [job["status"] for job in json.loads(mended.stdout)["jobs"]] == ["skipped", "ready", "skipped"]
    assert "1 done, 2 skipped" in store.run("s3://music/lib", "-o", "s3://music/out").stderr


def test_templates_and_other_settings(store: Store) -> None:
    template = ("--template", "{parent}/{name} {stem}.{ext}", "-f", "flac")
    ran = store.run("s3://music/lib/x/a.wav", "-o", "s3://music/flat", *template)
    assert ran.returncode == 0, ran.stderr
    assert sorted(store.keys("flat/")) == ["x/a bass.flac", "x/a drums.flac"]
    other = store.run("s3://music/lib/x/a.wav", "-o", "s3://music/flat", *template, "--start", "0.2")
    assert other.returncode == 1 and "start_s was the default and is now 0.2" in other.stderr


def test_two_runs_at_once_do_every_track_once(store: Store) -> None:
    pair = [threading.Thread(target=lambda: answers.append(work())) for _ in range(2)]

    def work() -> dict[str, Any]:
        ran = store.run("s3://music/lib", "-o", "s3://music/shared", "--json")
        assert ran.returncode == 0, ran.stderr
        report: dict[str, Any] = json.loads(ran.stdout)
        return report

    answers = list[dict[str, Any]]()
    for thread in pair:
        thread.start()
    for thread in pair:
        thread.join()
    done = [t["input"] for one in answers for t in one["tracks"] if t["status"] == "done"]
    assert len(answers) == 2 and len(done) == len(set(done)) == 3
    names = [f"{name}/{stem}.wav" for name in ("x/a", "x/b", "y/c") for stem in ("bass", "drums")]
    assert sorted(store.keys("shared/")) == names


class Cutting:
    """Proxy in front of the server that cuts the first connections which answer with much data."""

    def __init__(self, target: str, cuts: int) -> None:
        host, _, port = target.removeprefix("http://").partition(":")
        self._target, self.cuts = (host, int(port)), cuts
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.address = f"http://127.0.0.1:{self._socket.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                near, _ = self._socket.accept()
                far = socket.create_connection(self._target)
                threading.Thread(target=self._pass, args=(near, far, False), daemon=True).start()
                threading.Thread(target=self._pass, args=(far, near, True), daemon=True).start()

    def _pass(self, source: socket.socket, target: socket.socket, cutting: bool) -> None:
        passed = 0
        with suppress(OSError):
            while data := source.recv(1 << 14):
                passed += len(data)
                if cutting and passed > 40_000 and self.cuts > 0:
                    self.cuts -= 1
                    break
                target.sendall(data)
        for one in (source, target):
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self._socket.close()


@pytest.mark.parametrize(("cuts", "code"), [(2, 0), (10_000, 1)])
def test_cut_connections(store: Store, cuts: int, code: int) -> None:
    proxy = Cutting(store.address, cuts)
    try:
        ran = store.run("s3://music/lib/x/a.wav", "-o", f"cut{cuts}", AWS_ENDPOINT_URL=proxy.address)
    finally:
        proxy.close()
    assert proxy.cuts < cuts and ran.returncode == code, ran.stderr
    assert len(files(store.folder / f"cut{cuts}") if code == 0 else ()) == (2 if code == 0 else 0)
    assert not (store.folder / "cut10000").exists() or not files(store.folder / "cut10000")


def test_without_access(store: Store) -> None:
    none = store.run("s3://music/lib", "-o", "x", AWS_ACCESS_KEY_ID=None, AWS_SECRET_ACCESS_KEY=None)
    assert none.returncode == 1 and "access denied" in none.stderr
    gone = store.run("s3://music/lib/x/a.wav", "-o", "s3://nobody/x")
    assert gone.returncode == 1 and "s3://nobody/x: can't be written (no such" in gone.stderr
    down = store.run("s3://music/lib/x/a.wav", "-o", "x", AWS_ENDPOINT_URL="http://127.0.0.1:9")
    assert down.returncode == 1 and "127.0.0.1:9" in down.stderr
    store.set_guarded(True)
    try:
        wrong = store.run("s3://music/lib", "-o", "x")
        unwritten = store.run("lib", "-o", "s3://music/wrong")
    finally:
        store.set_guarded(False)
    assert wrong.returncode == 1 and "access denied" in wrong.stderr
    assert unwritten.returncode == 1 and "wrong: can't be written (access denied" in unwritten.stderr
    for ran in (none, gone, down, wrong, unwritten):
        assert SECRET not in ran.stdout + ran.stderr and "Traceback" not in ran.stderr


def test_a_bucket_of_many_keys_is_listed_while_the_work_goes_on(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in store.variables.items():
        monkeypatch.setenv(name, value)
    listed, keys = list[str](), urls._keys

    def counted(system: Any, path: str) -> Iterator[str]:
        for key in keys(system, path):
            listed.append(key)
            yield key

    monkeypatch.setattr(urls, "_keys", counted)
    began = time.monotonic()
    found = find("s3://many/lib", Request())
    assert len(found.inputs) == 10_000 and len(listed) == 10_001 and found.more is not None
    assert 10_000 + sum(1 for _ in found.more) == KEYS
    assert time.monotonic() - began < 120
