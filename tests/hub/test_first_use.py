"""Files whose sha256 no registry states: what each source declares, and what is compared ever after.

A local server stands in for Hugging Face, ModelScope, GitHub and Zenodo, through `STEMSPLIT_MIRROR`.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from stemsplit.errors import (
    CheckpointError,
    ChecksumError,
    DownloadError,
    ModelUnavailableError,
    StemsplitError,
)
from stemsplit.hub import claims, download, first_use, records
from stemsplit.hub.access import Access
from stemsplit.hub.entries import FileSpec
from stemsplit.hub.verified import Hash

CONTENT = bytes(range(256)) * 1000
SHA256 = hashlib.sha256(CONTENT).hexdigest()
GIT = hashlib.sha1(b"blob %d\0" % len(CONTENT) + CONTENT).hexdigest()
COMMIT = "c" * 40

HF = "https://huggingface.co/owner/model/resolve/main/sub/net.ckpt"
MODELSCOPE = "https://modelscope.cn/models/owner/model/resolve/master/sub/net.ckpt"
GITHUB = "https://github.com/owner/model/releases/download/v1.0/net.ckpt"
RAW = "https://raw.githubusercontent.com/owner/model/main/sub/net.ckpt"
ZENODO = "https://zenodo.org/records/7/files/net.ckpt?download=1"
PLAIN = "https://host.example/net.ckpt"

TRUSTING = Access(trust_first=True)


@pytest.fixture
def world(site, monkeypatch):
    """The server, which answers for every host, and helpers that put a file there."""
    monkeypatch.setenv("STEMSPLIT_MIRROR", site.url)
    monkeypatch.delenv("HF_ENDPOINT")

    def place(url: str, content: bytes = CONTENT) -> str:
        site.files["/" + url.removeprefix("https://").split("?")[0]] = content
        return url

    def hugging_face(content: bytes = CONTENT, etag: str | None = None) -> str:
        etag = etag or hashlib.sha256(content).hexdigest()
        for revision in ("main", COMMIT):
            path = f"/huggingface.co/owner/model/resolve/{revision}/sub/net.ckpt"
            site.files[path] = content
            site.etags[path] = f'"{etag}"'
        return HF

    def answer(path: str, body: Any) -> None:
        site.files[path] = json.dumps(body).encode()

    def modelscope(sha256: str | None = SHA256) -> str:
        file = {"Path": "sub/net.ckpt", "Size": len(CONTENT)} | ({"Sha256": sha256} if sha256 else {})
        other = {"Path": "sub/other.ckpt", "Sha256": "0" * 64, "Size": 1}
        answer("/modelscope.cn/api/v1/models/owner/model/repo/files", {"Data": {"Files": [other, file]}})
        return place(MODELSCOPE)

    def github(digest: str | None = f"sha256:{SHA256}") -> str:
        asset = {"name": "net.ckpt", "size": len(CONTENT), "digest": digest}
        answer("/api.github.com/repos/owner/model/releases/tags/v1.0", {"assets": [{"name": "x"}, asset]})
        return place(GITHUB)

    def zenodo(md5: str = hashlib.md5(CONTENT).hexdigest()) -> str:
        file = {"key": "net.ckpt", "size": len(CONTENT), "checksum": f"md5:{md5}"}
        answer("/zenodo.org/api/records/7", {"files": [{"key": "x"}, file]})
        return place(ZENODO)

    site.place, site.hugging_face, site.modelscope, site.github = place, hugging_face, modelscope, github
    site.answer, site.zenodo = answer, zenodo
    return site


def fits(path: Path) -> None:
    if path.read_bytes() != CONTENT:
        raise CheckpointError(path, "its weights don't fit")


def pin(file: FileSpec, access: Access = Access(), **how: Any) -> FileSpec:
    return first_use.pin(file, access, model="net", fits=fits, **how)


def path_of(file: FileSpec) -> Path:
    return download.fetch(file, model="net", offline=True)


@pytest.mark.parametrize(
    ("source", "url"),
    [("hugging_face", f"https://huggingface.co/owner/model/resolve/{COMMIT}/sub/net.ckpt"),
     ("modelscope", MODELSCOPE), ("github", GITHUB), ("zenodo", ZENODO)],
)  # fmt: skip
def test_a_declared_hash_is_compared_and_recorded(world, source, url):
    file = FileSpec(url=getattr(world, source)())
    assert records.grade_of(file) == "declared" and records.find(file) is None
    found = pin(file)
    assert (found.sha256, found.size) == (SHA256, len(CONTENT))
    assert path_of(found).read_bytes() == CONTENT
    record = records.find(file)
    assert record is not None and (record.grade, record.url, record.sha256) == ("declared", url, SHA256)
    served = world.gets()
    assert pin(file) == found and pin(file, Access(offline=True)) == found and world.gets() == served


def test_a_small_file_of_hugging_face_has_gits_hash(world):
    file = FileSpec(url=world.hugging_face(etag=GIT))
    assert claims.ask(HF).hash == Hash("git", GIT)
    assert pin(file).sha256 == SHA256


def test_a_file_of_a_github_repository_has_gits_hash(world):
    world.answer(
        "/api.github.com/repos/owner/model/contents/sub/net.ckpt", {"sha": GIT, "size": len(CONTENT)}
    )
    assert pin(FileSpec(url=world.place(RAW))).sha256 == SHA256


def test_a_registered_hash_of_git_is_compared_and_nobody_asked(world):
    file = FileSpec(url=world.place(RAW), git=GIT)
    assert records.grade_of(file) == records.grade_of(FileSpec(url=PLAIN, git=GIT)) == "declared"
    with pytest.raises(DownloadError, match="git is .* expected 000000000000…"):
        pin(FileSpec(url=RAW, git="0" * 40))
    assert pin(file).sha256 == SHA256
    assert world.gets("api.github.com") == 0


@pytest.mark.parametrize("etag", ["0" * 64, "0" * 40])
def test_a_file_that_is_not_what_its_source_declares_is_refused(world, etag):
    file = FileSpec(url=world.hugging_face(etag=etag))
    with pytest.raises(DownloadError, match="expected 000000000000…"):
        pin(file)
    assert records.find(file) is None and download.cached(file) is None


def test_a_published_md5_is_compared(world):
    wrong = FileSpec(url=world.zenodo(), md5="0" * 32)  # also where the source itself states another one
    with pytest.raises(DownloadError, match="md5 is .* expected 000000000000…"):
        pin(wrong)
    file = FileSpec(url=ZENODO, md5=hashlib.md5(CONTENT).hexdigest())
    assert records.grade_of(file) == "md5" and file.name == "net.ckpt"
    assert pin(file).sha256 == SHA256 and records.grade_of(file) == "md5"


def test_a_record_of_zenodo_without_the_file_is_told(world):
    world.zenodo()
    with pytest.raises(DownloadError, match="not in the list of the record's files"):
        pin(FileSpec(url=ZENODO.replace("net.ckpt", "other.ckpt")))


def test_a_file_of_unknown_size_needs_known_shapes_and_consent(world):
    file = FileSpec(url=world.place(PLAIN), shaped=True)
    assert records.grade_of(file) == "size-and-shape"
    with pytest.raises(DownloadError, match="no hash of it is known"):
        pin(file)
    assert world.log == []
    world.place(PLAIN, CONTENT[:-1])
    with pytest.raises(DownloadError, match="don't fit"):
        pin(file, TRUSTING)
    assert records.find(file) is None and download.cached(file) is None
    world.place(PLAIN)
    assert pin(file, TRUSTING).sha256 == SHA256


def test_size_and_shape_need_consent(world):
    file = FileSpec(url=world.place(PLAIN), size=len(CONTENT))
    assert records.grade_of(file) == "size-and-shape"
    with pytest.raises(DownloadError, match="no hash of it is known") as caught:
        pin(file)
    assert "--trust-first" in caught.value.hint and world.log == []
    assert pin(file, TRUSTING).sha256 == SHA256
    assert records.grade_of(file) == "size-and-shape"
    assert pin(file).sha256 == SHA256  # recorded: consent isn't asked again


@pytest.mark.parametrize("content", [CONTENT[:-1], CONTENT + b"x", bytes(len(CONTENT))])
def test_another_size_or_shape_is_refused(world, content):
    file = FileSpec(url=world.place(PLAIN, content), size=len(CONTENT))
    with pytest.raises(DownloadError, match="not 256000: another file|don't fit"):
        pin(file, TRUSTING)
    assert records.find(file) is None and download.cached(file) is None


def test_another_size_is_refused_without_a_stated_length(world):
    world.lengths = False
    with pytest.raises(DownloadError, match="another size"):
        pin(FileSpec(url=world.place(PLAIN, CONTENT[:-5]), size=len(CONTENT)), TRUSTING)


def test_nothing_is_downloaded_of_which_nothing_is_known(world):
    with pytest.raises(DownloadError, match="its sha256 isn't known"):
        pin(FileSpec(url=world.place(PLAIN)), TRUSTING)
    assert records.grade_of(FileSpec(url=PLAIN)) is None and world.log == []


def test_a_release_without_a_digest_has_only_its_size(world):
    file = FileSpec(url=world.github(digest=None))
    with pytest.raises(DownloadError, match="no hash of it is known"):
        pin(file)
    assert pin(file, TRUSTING).sha256 == SHA256 and records.grade_of(file) == "size-and-shape"


def test_a_source_that_declares_another_size_than_the_registry_is_not_asked_for_the_file(world):
    file = FileSpec(url=world.hugging_face(), size=5)
    with pytest.raises(DownloadError, match="holds 256000 bytes, not 5"):
        pin(file)
    assert world.gets() == 0


@pytest.mark.parametrize("dead", ["gone", "unreachable", "another"])
def test_a_dead_source_is_no_error_while_another_lives(world, dead):
    file = FileSpec(url=PLAIN, mirrors=(HF, world.modelscope()), md5=hashlib.md5(CONTENT).hexdigest())
    if dead == "another":
        world.place(PLAIN, b"a page of ads")
    if dead == "unreachable":
        world.redirects["/host.example/net.ckpt"] = "http://127.0.0.1:1/net.ckpt"
    assert pin(file).sha256 == SHA256
    record = records.find(file)
    assert record is not None and record.url == MODELSCOPE
    assert path_of(file).read_bytes() == CONTENT


def test_all_dead_sources_are_told(world):
    with pytest.raises(DownloadError) as caught:
        pin(FileSpec(url=HF, mirrors=(GITHUB, PLAIN), size=len(CONTENT)), TRUSTING)
    for url in ("huggingface.co", "api.github.com", "host.example"):
        assert url in caught.value.reason


def test_a_pinned_file_comes_from_its_next_source_too(world):
    file = FileSpec(url=PLAIN, mirrors=(world.hugging_face(),), sha256=SHA256)
    assert pin(file) is file and records.find(file) is None
    assert download.fetch(file, model="net").read_bytes() == CONTENT
    assert world.gets("host.example") == 1


def test_a_file_that_changed_here_is_refused_with_both_hashes(world):
    file = FileSpec(url=world.hugging_face())
    path = path_of(pin(file))
    path.write_bytes(b"x" + CONTENT[1:])
    actual = hashlib.sha256(path.read_bytes()).hexdigest()
    with pytest.raises(ChecksumError) as caught:
        download.fetch(pin(file), model="net")
    assert actual[:12] in caught.value.reason and SHA256[:12] in caught.value.reason


@pytest.mark.parametrize("source", ["hugging_face", "plain"])
def test_a_file_that_changed_at_its_source_is_refused_with_both_hashes(world, source):
    if source == "plain":
        file = FileSpec(url=world.place(PLAIN), size=len(CONTENT))
    else:
        file = FileSpec(url=world.hugging_face())
    path_of(pin(file, TRUSTING)).unlink()
    other = CONTENT[::-1]
    world.hugging_face(other) if source == "hugging_face" else world.place(PLAIN, other)
    with pytest.raises(DownloadError) as caught:
        download.fetch(pin(file, TRUSTING), model="net")
    assert hashlib.sha256(other).hexdigest()[:12] in caught.value.reason
    assert SHA256[:12] in caught.value.reason
    assert download.cached(file) is None
    records.forget(file)  # its user decides to take the new one
    if source == "hugging_face":  # the shapes of the other one don't fit
        assert pin(file).sha256 == hashlib.sha256(other).hexdigest()


def test_offline_opens_no_connection(world, monkeypatch):
    with pytest.raises(ModelUnavailableError, match="offline"):
        pin(FileSpec(url=world.hugging_face()), Access(offline=True))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(ModelUnavailableError, match="offline"):
        pin(FileSpec(url=HF))
    assert world.log == []


@pytest.mark.parametrize(
    "body", [b"", b"not json", b"[]", b'{"assets": 5}', b'{"assets": [{"name": "net.ckpt", "digest": 7}]}']
)
def test_malformed_answers_are_told_in_one_line(world, body):
    world.place(GITHUB)
    world.files["/api.github.com/repos/owner/model/releases/tags/v1.0"] = body
    with pytest.raises(StemsplitError) as caught:
        pin(FileSpec(url=GITHUB))
    assert "\n" not in caught.value.reason


def test_a_file_behind_a_redirect_is_followed(world):
    world.redirects["/host.example/net.ckpt"] = world.url + "/cdn/7"
    world.files["/cdn/7"] = CONTENT
    file = FileSpec(url=PLAIN, size=len(CONTENT))
    assert pin(file, TRUSTING).sha256 == SHA256


def test_progress_is_reported_and_can_cancel(world):
    seen = []
    pin(FileSpec(url=world.hugging_face()), callback=seen.append)
    assert seen[-1].name == "net.ckpt" and seen[-1].done == len(CONTENT)


def test_the_licence_decides_before_a_download(world):
    for access, license, passes in [
        (Access(), "not stated", True),
        (Access(licenses=("permissive",)), "MIT", True),
        (Access(licenses=("permissive",)), "CC-BY-4.0", True),
        (Access(licenses=("permissive",)), "CC-BY-NC-SA-4.0", False),
        (Access(licenses=("permissive",)), "GPL-3.0", False),
        (Access(licenses=("permissive",)), "not stated", False),
        (Access(licenses=("gpl-3.0", "permissive")), "GPL-3.0", True),
    ]:
        if passes:
            access.require_license("net", license)
        else:
            with pytest.raises(ModelUnavailableError, match=f"the licence of its weights is {license}"):
                access.require_license("net", license)
