"""Claims: one owner at a time, those of dead owners taken over, and nothing left behind."""

import io
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from stemsplit import claims
from stemsplit.claims import EXPIRES_S, WRITTEN_S, Claims, Owner, Taken, claim_of
from stemsplit.urls import Place, Url


@pytest.fixture(params=["folder", "address"])
def files(request: pytest.FixtureRequest, tmp_path: Path) -> list[Place]:
    if request.param == "folder":
        return [tmp_path / "song/a.wav", tmp_path / "song/b.wav"]
    pytest.importorskip("fsspec")
    return [Url(f"memory://claims{time.time_ns()}/{name}.wav") for name in "ab"]


@pytest.fixture
def make() -> Iterator[object]:
    made: list[Claims] = []

    def new(run: str) -> Claims:
        made.append(Claims(run))
        return made[-1]

    yield new
    for one in made:
        one.close()


def write(file: Place, owner: Owner, *, age_s: float = 0.0) -> None:
    """Write the claim of another process."""
    claim, content = claim_of(file), json.dumps(asdict(owner)).encode()
    if isinstance(claim, Path):
        claim.parent.mkdir(parents=True, exist_ok=True)
        claim.write_bytes(content)
        os.utime(claim, (time.time() - age_s,) * 2)
    else:
        dated = {**json.loads(content), "renewed": time.time() - age_s}
        claims._replace(claim, json.dumps(dated).encode())
        claims.urls.put_small(claim, json.dumps(dated).encode())


def elsewhere(run: str = "other") -> Owner:
    return Owner(run, "another machine", "1:1", "token")


def exists(file: Place) -> bool:
    return claims.urls.exists(claim_of(file))


def test_a_claim_stands_during_the_block_only(files: list[Place], make: object) -> None:
    with make("one").held(files):  # type: ignore[operator]
        assert all(exists(file) for file in files)
    assert not any(exists(file) for file in files)
    if isinstance(files[0], Path):
        assert list(files[0].parent.iterdir()) == []


def test_another_run_doesn_t_get_it_and_keeps_nothing(files: list[Place], make: object) -> None:
    first, second = make("one"), make("two")  # type: ignore[operator]
    with first.held(files[1:]):
        with pytest.raises(Taken), second.held(files):
            pytest.fail("both have it")
        assert not exists(files[0]) and exists(files[1])
    with second.held(files):
        pass


def test_a_run_can_wait(files: list[Place], make: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claims, "POLL_S", 0.01)
    first, second = make("one"), make("two")  # type: ignore[operator]
    released, waited = threading.Event(), list[int]()

    def hold() -> None:
        with first.held(files):
            begun.set()
            released.wait(10)

    begun = threading.Event()
    thread = threading.Thread(target=hold)
    thread.start()
    begun.wait(10)

    def waiting() -> None:
        waited.append(1)
        if len(waited) == 3:
            released.set()

    with second.held(files, waiting):
        assert released.is_set() and len(waited) >= 3
    thread.join()


def test_a_claim_of_another_machine_holds_until_it_expires(files: list[Place], make: object) -> None:
    own = make("one")  # type: ignore[operator]
    write(files[0], elsewhere(), age_s=EXPIRES_S - 30)
    with pytest.raises(Taken), own.held(files):
        pytest.fail("it hasn't expired")
    write(files[0], elsewhere(), age_s=EXPIRES_S + 30)
    with own.held(files):
        assert claims._owner(claim_of(files[0])) == own.owner
    assert not exists(files[0])


def test_a_dead_process_of_this_machine_loses_its_claim_at_once(files: list[Place], make: object) -> None:
    code = "import os; from stemsplit.claims import Owner; import json; from dataclasses import asdict;"
    code += "print(json.dumps(asdict(Owner.here('dead'))))"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    dead = Owner(**json.loads(out))
    own = make("one")  # type: ignore[operator]
    assert dead.machine == own.owner.machine
    write(files[0], dead)
    with own.held(files):
        pass
    alive = replace(own.owner, run="alive", token="x")
    write(files[0], alive)
    with pytest.raises(Taken), own.held(files):
        pytest.fail("its process runs")


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc")
def test_a_number_that_another_process_has_by_now_is_dead(files: list[Place], make: object) -> None:
    own = make("one")  # type: ignore[operator]
    write(files[0], replace(own.owner, run="old", token="x", process=f"{os.getpid()}:1"))
    with own.held(files):
        pass


def test_a_dead_worker_of_the_same_run_loses_its_claim(files: list[Place], make: object) -> None:
    write(files[0], elsewhere("one"))
    own = make("one")  # type: ignore[operator]
    with own.held(files):
        pass
    write(files[0], elsewhere("one"))
    own.clear(files)
    assert not exists(files[0])


def test_only_one_of_many_takes_over(tmp_path: Path, make: object) -> None:
    file, holders, most = tmp_path / "a.wav", list[int](), list[int]()
    write(file, elsewhere(), age_s=EXPIRES_S + 30)
    start = threading.Barrier(8)

    def work(number: int) -> None:
        own = make(f"run {number}")  # type: ignore[operator]
        start.wait()
        try:
            with own.held([file]):
                holders.append(number)
                most.append(len(holders))
                time.sleep(0.05)
                holders.remove(number)
        except Taken:
            pass

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most and max(most) == 1
    assert [path.name for path in tmp_path.iterdir()] == []


def test_what_is_no_claim_expires_too(tmp_path: Path, make: object) -> None:
    claim = claim_of(tmp_path / "a.wav")
    assert isinstance(claim, Path)
    claim.write_bytes(b"{half")
    own = make("one")  # type: ignore[operator]
    with pytest.raises(Taken), own.held([tmp_path / "a.wav"]):
        pytest.fail("it is new")
    os.utime(claim, (time.time() - WRITTEN_S - 5,) * 2)
    with own.held([tmp_path / "a.wav"]):
        pass


def test_the_traces_of_a_process_that_died_while_it_took_over_are_removed(
    files: list[Place], make: object
) -> None:
    own = make("one")  # type: ignore[operator]
    guard, content = claims._guard_of(claim_of(files[0])), json.dumps(asdict(elsewhere("one"))).encode()
    write(files[0], elsewhere(), age_s=EXPIRES_S + 30)
    claims._create(guard, content)
    with pytest.raises(Taken), own.held(files):
        pytest.fail("the guard is looked at first")
    with own.held(files):
        assert claims._owner(claim_of(files[0])) == own.owner
        claims._create(guard, content)
        if isinstance(files[0], Path):
            (files[0].parent / ".a.wav.claim.now").write_bytes(b"")
    assert not claims.urls.exists(guard)
    if isinstance(files[0], Path):
        assert list(files[0].parent.iterdir()) == []


def test_a_claim_that_took_too_long_to_write_is_another_s(
    tmp_path: Path, make: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Slow(io.BytesIO):
        """A new file that isn't written before another run has taken the claim over."""

        def close(self) -> None:
            (tmp_path / ".a.wav.claim").write_text(json.dumps(asdict(elsewhere())))

    with monkeypatch.context() as patch:
        patch.setattr("stemsplit.claims.open", lambda *_: Slow(), raising=False)
        assert not claims._create(tmp_path / ".a.wav.claim", b"own")


def test_claims_are_renewed(files: list[Place], make: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claims, "RENEWED_S", 0.1)
    own = make("one")  # type: ignore[operator]
    with own.held(files):
        if isinstance(files[0], Path):
            os.utime(claim_of(files[0]), (time.time() - 500,) * 2)
        time.sleep(0.6)
        assert claims._age_s(claim_of(files[0])) < 0.4
        own.require(files)
    assert not exists(files[0])


def test_a_claim_that_was_lost_is_noticed_before_publishing(
    files: list[Place], make: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = make("one")  # type: ignore[operator]
    with own.held(files):
        write(files[0], elsewhere())
        monkeypatch.setattr(claims, "EXPIRES_S", 0.0)
        with pytest.raises(Taken):
            own.require(files)
    assert exists(files[0]) and not exists(files[1])  # another run's claim stays
