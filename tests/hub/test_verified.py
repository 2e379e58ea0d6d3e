import hashlib
import os

import pytest

from stemsplit.errors import ChecksumError
from stemsplit.hub import verified


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "weights"
    path.write_bytes(b"weights")
    return path


DIGEST = hashlib.sha256(b"weights").hexdigest()


def counted(monkeypatch) -> list[object]:
    calls: list[object] = []
    fresh = verified.fresh_digest
    monkeypatch.setattr(verified, "fresh_digest", lambda path: calls.append(path) or fresh(path))
    return calls


def test_a_file_is_hashed_once(file, monkeypatch):
    calls = counted(monkeypatch)
    assert [verified.digest(file) for _ in range(3)] == [DIGEST] * 3
    assert len(calls) == 1


def test_a_link_shares_the_record_of_its_file(file, tmp_path, monkeypatch):
    calls = counted(monkeypatch)
    link = tmp_path / "link"
    link.symlink_to(file)
    assert verified.digest(file) == verified.digest(link) == DIGEST
    assert len(calls) == 1


@pytest.mark.parametrize("content", [b"weight", b"WEIGHTS"])
def test_a_changed_file_is_hashed_again(file, content):
    verified.digest(file)
    file.write_bytes(content)
    os.utime(file, ns=(0, 12345))
    assert verified.digest(file) == hashlib.sha256(content).hexdigest()


@pytest.mark.parametrize("record", ["", "{}", "[]", "null", '{"sha256": 5}', '{"sha256": "abc"}', "\0"])
def test_a_spoilt_record_is_ignored(file, record):
    verified.digest(file)
    verified._record(file).write_text(record)
    assert verified.digest(file) == DIGEST


def test_a_cache_that_cannot_be_written_costs_time_only(file, tmp_path, monkeypatch):
    (tmp_path / "blocked").write_text("a file, no folder")
    monkeypatch.setenv("STEMSPLIT_CACHE", str(tmp_path / "blocked"))
    assert verified.digest(file) == DIGEST
    verified.forget(file)


def test_a_prefix_is_compared_as_far_as_it_goes(file):
    verified.check(file, DIGEST)
    verified.check(file, DIGEST[:8])
    with pytest.raises(ChecksumError) as caught:
        verified.check(file, "0" * 8, model="mdx")
    error = caught.value
    assert (error.path, error.expected, error.actual, error.model) == (file, "0" * 8, DIGEST, "mdx")
    assert "stemsplit models download mdx" in (error.hint or "")
