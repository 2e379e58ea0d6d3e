"""Engine on a real Ray cluster on this machine: results, events, and workers, nodes and drivers that die."""

import importlib.util
import os
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from stemsplit.cluster import RETRIES, Ray, make_ray
from stemsplit.engine_settings import EngineSettings
from stemsplit.errors import Cancelled, ResourceError, SettingsError, StemsplitError
from stemsplit.events import Callback, Event, Notice, emit
from tests import test_engines as simple

with_ray = pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="Ray isn't installed")
real = [with_ray, pytest.mark.slow, pytest.mark.filterwarnings("ignore")]
ENGINE = Ray(workers=2, worker_cpus=1)


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join([str(Path(__file__).parents[1]), *sys.path]))
        with ENGINE.connected() as ray:
            yield ray


class TestSettings:
    def test_others_need_the_engine(self) -> None:
        for name, value in {"address": "auto", "workers": 2, "worker_cpus": 1, "worker_gpus": 0.5}.items():
            with pytest.raises(SettingsError, match="needs --engine ray"):
                EngineSettings(**{name: value})  # type: ignore[arg-type]
            EngineSettings("ray", **{name: value})  # type: ignore[arg-type]

    @pytest.mark.parametrize("name, value", [("workers", 0), ("worker_cpus", -1), ("worker_gpus", 1.5)])
    def test_numbers(self, name: str, value: object) -> None:
        with pytest.raises(SettingsError, match="must be"):
            EngineSettings("ray", **{name: value})  # type: ignore[arg-type]

    @pytest.mark.parametrize("address", ["", "somewhere", "a:b", "ray://head:10001", "a b:1"])
    def test_addresses(self, address: str) -> None:
        with pytest.raises(SettingsError, match="auto or HOST:PORT"):
            EngineSettings("ray", address)

    def test_without_ray_one_line_names_the_extra(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("stemsplit.cluster.find_spec", lambda name: None)
        assert make_ray(EngineSettings(), "auto") is None
        with pytest.raises(StemsplitError) as error:
            make_ray(EngineSettings("ray"), "auto")
        assert error.value.hint == "pip install 'stemsplit-cli[ray]'" and error.value.code == 1


class TestShares:
    """Workers that fit the nodes, by cores and GPUs."""

    @pytest.mark.parametrize(
        "engine, nodes, expected",
        [
            (Ray(), [{"CPU": 8.0}], (4, 2, 0)),
            (Ray(), [{"CPU": 1.0}], (1, 1, 0)),
            (Ray(workers=4), [{"CPU": 2.0}], (4, 1, 0)),
            (Ray(workers=2), [{"CPU": 16.0}, {"CPU": 4.0}], (2, 4, 0)),
            (Ray("auto", worker_cpus=4), [{"CPU": 10.0}, {"CPU": 4.0}], (3, 4, 0)),
            (Ray("auto"), [{"CPU": 16.0, "GPU": 2.0}, {"CPU": 64.0}], (2, 2, 1)),
            (Ray("auto", worker_gpus=0.5), [{"CPU": 16.0, "GPU": 2.0}], (4, 2, 0.5)),
            (Ray("auto", worker_gpus=0), [{"CPU": 16.0, "GPU": 2.0}], (8, 2, 0)),
            (Ray("auto", worker_gpus=1), [], (1, 2, 1)),  # the cluster may grow
        ],
    )
    def test_shares(self, engine: Ray, nodes: list[dict[str, float]], expected: tuple[float, ...]) -> None:
        share = engine._share(nodes)
        assert (share.workers, share.cpus, share.gpus) == expected

    def test_this_machine_can_t_grow(self) -> None:
        with pytest.raises(SettingsError, match="--worker-gpus 1: this machine has fewer"):
            Ray(worker_gpus=1)._share([{"CPU": 4.0}])
        with pytest.raises(SettingsError, match="--worker-cpus 9: this machine has fewer"):
            Ray(worker_cpus=9)._share([{"CPU": 4.0}])


def test_an_address_without_a_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    if importlib.util.find_spec("ray") is None:
        pytest.skip("Ray isn't installed")
    unknown = Ray("127.0.0.1:9")
    with pytest.raises(SettingsError, match="9: no Ray cluster answers"), unknown.connected():
        pass


class TestWork:
    pytestmark = real

    @pytest.mark.parametrize("count", [0, 1, 7])
    def test_results(self, cluster: Any, count: int) -> None:
        assert list(ENGINE.run(range(count), simple.Recipe(simple.square))) == [n * n for n in range(count)]

    def test_results_keep_the_order_of_the_items(self, cluster: Any) -> None:
        waits = [0.5, 0.0, 0.2, 0.0, 0.1]
        assert list(ENGINE.run(waits, simple.Recipe(simple.sleepy))) == waits

    def test_workers_are_made_once_in_processes_of_their_own(self, cluster: Any, tmp_path: Path) -> None:
        assert len(list(ENGINE.run(range(9), simple.Recipe(simple.square, tmp_path)))) == 9
        made = [path.name for path in tmp_path.iterdir()]
        assert 1 <= len(made) <= 2 and not any(name.startswith(f"{os.getpid()}-") for name in made)

    def test_items_are_taken_as_workers_become_free(self, cluster: Any, tmp_path: Path) -> None:
        def files() -> Iterator[Path]:
            for number in range(20):
                assert number - len(list(tmp_path.iterdir())) < 2
                yield tmp_path / str(number)

        assert list(ENGINE.run(files(), simple.Recipe(simple.touching))) == [None] * 20

    def test_events_arrive_in_order(self, cluster: Any) -> None:
        heard: list[str] = []

        def callback(event: Event) -> None:
            assert isinstance(event, Notice)
            heard.append(event.message)

        assert list(ENGINE.run(range(4), simple.Recipe(simple.telling), callback)) == [0, 1, 2, 3]
        for item in range(4):
            assert [m for m in heard if m.startswith(f"{item}.")] == [f"{item}.{part}" for part in range(3)]

    def test_exceptions_are_results(self, cluster: Any) -> None:
        items = [ValueError("x"), "odd", "lambda", 5]
        one, odd, unsent, five = ENGINE.run(items, simple.Recipe(simple.failing))
        assert isinstance(one, ValueError) and str(one) == "x"
        assert isinstance(odd, StemsplitError) and "quite odd" in str(odd)
        assert isinstance(unsent, Exception) and five == 5

    def test_a_factory_that_can_t_be_sent(self, cluster: Any) -> None:
        with pytest.raises(SettingsError, match="can't be sent"):
            list(ENGINE.run([1], lambda: simple.square))

    def test_cancelling_stops_the_workers(self, cluster: Any) -> None:
        def callback(event: Event) -> bool:
            return False

        begun = time.monotonic()
        with pytest.raises(Cancelled):
            list(ENGINE.run(range(4), simple.Recipe(simple.endless), callback))
        assert time.monotonic() - begun < 60
        with pytest.raises(Cancelled):
            list(ENGINE.run(range(4), simple.Recipe(simple.cancelled)))

    def test_closing_early_lets_workers_clean_up(self, cluster: Any, tmp_path: Path) -> None:
        results = ENGINE.run([tmp_path / "0", tmp_path / "1"], simple.Recipe(tidy))
        assert next(results) is None
        results.close()
        assert not list(tmp_path.iterdir())

    def test_threads_of_a_worker(self, cluster: Any) -> None:
        assert list(Ray(workers=1, worker_cpus=1).run([0], simple.Recipe(threads))) == ["1"]


class TestDeaths:
    pytestmark = real

    def test_the_item_of_a_dead_worker_runs_again(self, cluster: Any, tmp_path: Path) -> None:
        heard: list[Event] = []
        items = [(tmp_path / name, deaths) for name, deaths in (("a", 0), ("b", RETRIES), ("c", 1), ("d", 0))]
        assert list(ENGINE.run(items, simple.Recipe(mortal), heard.append)) == ["a", "b", "c", "d"]
        assert [int((tmp_path / name).read_text()) for name in "abcd"] == [1, RETRIES + 1, 2, 1]
        assert sum(isinstance(one, Notice) and "a worker died" in one.message for one in heard) == RETRIES + 1

    def test_an_item_that_kills_its_workers_fails_and_the_others_go_on(
        self, cluster: Any, tmp_path: Path
    ) -> None:
        items = [(tmp_path / name, deaths) for name, deaths in (("a", 0), ("poison", 99), ("b", 0))]
        first, poisoned, last = ENGINE.run(items, simple.Recipe(mortal))
        assert (first, last) == ("a", "b")
        assert isinstance(poisoned, ResourceError) and "3 worker processes died" in str(poisoned)
        assert int((tmp_path / "poison").read_text()) == RETRIES + 1

    def test_workers_that_can_t_begin(self, cluster: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("stemsplit.cluster.__version__", "0.0.elsewhere")
        with pytest.raises(SettingsError, match="a node of the cluster has stemsplit"):
            list(ENGINE.run([1], simple.Recipe(simple.square)))


def tidy(item: Path, callback: Callback) -> None:
    """Return for the first item; hold a file for the second until the work is cancelled."""
    if item.name == "0":
        return
    item.touch()
    try:
        while True:
            emit(callback, Notice("here"))
            time.sleep(0.05)
    finally:
        item.unlink()


def threads(item: int, callback: Callback) -> str:
    return os.environ["OMP_NUM_THREADS"]


def mortal(item: tuple[Path, int], callback: Callback) -> str:
    """Count the runs of an item in its file, and die in the first ones."""
    path, deaths = item
    runs = int(path.read_text()) + 1 if path.exists() else 1
    path.write_text(str(runs))
    emit(callback, Notice("begun"))
    if runs <= deaths:
        time.sleep(0.2)
        os.kill(os.getpid(), signal.SIGKILL)
    return path.name
