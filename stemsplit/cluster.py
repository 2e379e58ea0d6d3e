"""Engine that maps items over the workers of a Ray cluster (https://docs.ray.io); needs the extra `ray`.

A worker is an actor: a process with one loaded model. It gets items and sends back events and results, never
audio. The item of a worker that dies, or whose node dies, runs again in another one.
"""

import logging
import os
import pickle
import signal
import socket
import threading
from collections import Counter, deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

from stemsplit import __version__
from stemsplit.actor import Host
from stemsplit.engine_settings import EngineSettings
from stemsplit.engines import Factory, Item, Result
from stemsplit.errors import ResourceError, SettingsError, StemsplitError
from stemsplit.events import Callback, Notice
from stemsplit.pools import Message, in_order, packed, picklable

RETRIES = 2  # runs of an item after the one in which its worker died
_CONNECT_S = 5.0
_EXIT_TIMEOUT_S = 5.0  # after which a worker that was asked to stop is killed
_STORE_BYTES = 80_000_000  # of Ray's object store, which holds descriptions of jobs; 75 MB is its minimum
_DEFAULT_CPUS = 2


@dataclass(frozen=True)
class Ray:
    """Engine with workers on a Ray cluster; factory, items, events and results are pickled.

    If a worker dies, its item runs again elsewhere, at most twice; after that its result is a
    `ResourceError`. After a cancellation every worker stops at its next event, and is killed if that takes
    long.

    Attributes:
        address: `auto` or HOST:PORT of a running cluster; None starts one on this machine, and stops it.
        workers: number of workers; None for as many as fit.
        worker_cpus: CPU cores, and threads, of each worker; None for what `workers` leave, or 2.
        worker_gpus: GPUs of each worker; None for 1 if the cluster has GPUs.
    """

    address: str | None = None
    workers: int | None = None
    worker_cpus: int | None = None
    worker_gpus: float | None = None

    @contextmanager
    def connected(self) -> Iterator[Any]:
        """Connect to the cluster for the `with` block, unless this process is connected already.

        Yields:
            The module `ray`.

        Raises:
            StemsplitError: Ray isn't installed.
            SettingsError: no cluster answers at the address.
        """
        ray = _import_ray()
        if ray.is_initialized():
            yield ray
            return
        options: dict[str, Any] = {"log_to_driver": False, "configure_logging": False}
        if self.address is None:
            cores = max(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1, 1)
            needed = (self.workers or 0) * (self.worker_cpus or 1)
            options |= {"num_cpus": max(cores, needed), "object_store_memory": _STORE_BYTES}
            options |= {"address": "local", "include_dashboard": False}
        else:
            options |= {"address": self.address}
            self._require_answer()
        with _quiet(ray):
            try:
                self._begin(ray, options)
                yield ray
            finally:
                ray.shutdown()

    def _begin(self, ray: Any, options: Mapping[str, Any]) -> None:
        try:
            with _own_signals():
                ray.init(**options)
        except ConnectionError as error:
            raise self._no_answer() from error
        except RuntimeError as error:  # such as other versions of Ray or Python than the cluster's
            raise SettingsError(f"--engine ray: {_first_line(error)}", setting="--engine") from error

    def _require_answer(self) -> None:
        """Check that something answers at the address, for which Ray itself would wait for minutes."""
        host, _, port = (self.address or "").partition(":")
        try:
            if port:
                socket.create_connection((host, int(port)), timeout=_CONNECT_S).close()
        except (OSError, OverflowError) as error:
            raise self._no_answer() from error

    def _no_answer(self) -> SettingsError:
        hint = "ray start --head starts one; this machine must be one of its nodes"
        what = f"--address {self.address}: no Ray cluster answers there"
        return SettingsError(what, setting="--address", hint=hint)

    def run(
        self, items: Iterable[Item], factory: Factory[Item, Result], callback: Callback | None = None
    ) -> Generator[Result | Exception, None, None]:
        """See `Engine.run`.

        Raises:
            SettingsError: the factory can't be pickled, no cluster answers, or no node can hold a worker.
            ResourceError: workers die before any of them is ready.
        """
        content = packed(factory)
        with self.connected() as ray:
            share = self._share([node["Resources"] for node in ray.nodes() if node["Alive"]])
            yield from in_order(_Actors(ray, content, share), share.workers, items, callback)

    def on_every_node(self, function: Callable[..., Any], *arguments: Any) -> dict[str, Any]:
        """Call a function in a process of every node.

        Args:
            function: function at the top level of a module.
            arguments: its arguments; picklable.

        Returns:
            The result of each node by its name; an exception that it raised is a result too.
        """
        with self.connected() as ray:
            from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy as Affinity

            task = ray.remote(num_cpus=0, max_retries=0)(_result_of)
            sent = {}
            for node in ray.nodes():
                if node["Alive"]:
                    place = task.options(scheduling_strategy=Affinity(node["NodeID"], soft=False))
                    name = f"{node['NodeName']}#{node['NodeID'][:6]}"
                    sent[name] = place.remote(packed(function), arguments, os.getcwd())
            return {name: _fetched(ray, reference) for name, reference in sent.items()}

    def _share(self, nodes: Iterable[Mapping[str, float]]) -> "_Share":
        """Divide the nodes' resources among workers."""
        found = [(int(node.get("CPU", 0)), node.get("GPU", 0.0)) for node in nodes]
        gpus = self.worker_gpus
        if gpus is None:
            gpus = 1.0 if any(count for _, count in found) else 0.0
        usable = [one for one in found if one[0] and one[1] >= gpus]
        if not usable and self.address is None:
            raise SettingsError(
                f"--worker-gpus {gpus:g}: this machine has fewer GPUs", setting="--worker-gpus"
            )
        smallest = min((cores for cores, _ in usable), default=_DEFAULT_CPUS)
        cpus = self.worker_cpus
        if cpus is None:
            left = sum(cores for cores, _ in usable) // self.workers if self.workers else _DEFAULT_CPUS
            cpus = max(1, min(left, smallest))
        elif self.address is None and cpus > max((cores for cores, _ in usable), default=0):
            raise SettingsError(
                f"--worker-cpus {cpus}: this machine has fewer cores", setting="--worker-cpus"
            )
        fitting = sum(min(cores // cpus, int(count / gpus) if gpus else cores) for cores, count in usable)
        return _Share(self.workers or max(1, fitting), cpus, gpus)


@dataclass(frozen=True)
class _Share:
    """Number of workers, and each one's share of the cluster."""

    workers: int
    cpus: int
    gpus: float


def make_ray(settings: EngineSettings, device: str) -> Ray | None:
    """Return the engine that the settings ask for; None if it isn't Ray.

    Args:
        settings: the settings.
        device: the model's device; workers on a CPU get no GPUs.

    Raises:
        StemsplitError: Ray isn't installed.
    """
    if settings.engine != "ray":
        return None
    if find_spec("ray") is None:
        raise StemsplitError("--engine ray needs ray", hint="pip install 'stemsplit-cli[ray]'")
    gpus = 0.0 if device == "cpu" and settings.worker_gpus is None else settings.worker_gpus
    return Ray(settings.address, settings.workers, settings.worker_cpus, gpus)


def _import_ray() -> Any:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is reported to Ray's authors
    try:
        import ray
    except ImportError as error:
        raise StemsplitError("this needs ray", hint="pip install 'stemsplit-cli[ray]'") from error
    return ray


@contextmanager
def _own_signals() -> Iterator[None]:
    """Restore SIGTERM's handler after the block: Ray's ends the process before it has cleaned up."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if before is not None:  # else it wasn't set from Python
            signal.signal(signal.SIGTERM, before)


@contextmanager
def _quiet(ray: Any) -> Iterator[None]:
    """Keep Ray from printing for the duration of the block: workers that die are reported by their items."""
    log, module = logging.getLogger("ray"), ray._private.worker
    level, show = log.level, getattr(module, "print_to_stdstream", None)
    log.setLevel(logging.ERROR)
    module.print_to_stdstream = lambda *_, **__: None  # prints on stdout, which is for data
    try:
        yield
    finally:
        log.setLevel(level)
        module.print_to_stdstream = show


def _result_of(function: bytes, arguments: tuple[Any, ...], folder: str) -> Any:
    try:
        with suppress(OSError):
            os.chdir(folder)
        return pickle.loads(function)(*arguments)
    except Exception as error:
        return picklable(error)


def _fetched(ray: Any, reference: Any) -> Any:
    try:
        return ray.get(reference)
    except ray.exceptions.RayError as error:  # the node died, or can't import the package
        return StemsplitError(_first_line(error))


def _first_line(error: Exception) -> str:
    return str(getattr(error, "cause", None) or error).strip().split("\n")[0]


# ---------------------------------------------------------------- workers


class _Actors:
    """Pool of actors. More are asked for than nodes can hold: those that wait make the cluster grow."""

    def __init__(self, ray: Any, factory: bytes, share: _Share) -> None:
        self._ray, self._factory, self._share = ray, factory, share
        options = {"num_cpus": share.cpus, "num_gpus": share.gpus, "max_concurrency": 3, "max_restarts": 0}
        self._kind = ray.remote(**options)(Host)
        self._items: dict[int, bytes] = {}
        self._losses = Counter[int]()  # workers that died, by item
        self._waiting = deque[int]()  # items without a worker
        self._starting: dict[Any, Any] = {}  # actors by the reference of the answer that is expected
        self._busy: dict[Any, int] = {}  # items by the reference of the answer that is expected
        self._workers: dict[int, Any] = {}  # actors by the item that they have, until its result is here
        self._idle: list[Any] = []
        self._messages = deque[Message]()
        self._ready, self._failures = False, 0

    def submit(self, index: int, item: Any) -> None:
        self._items[index] = pickle.dumps(item)
        self._waiting.append(index)
        self._assign()

    def receive(self) -> Message:
        while not self._messages:
            answered, _ = self._ray.wait([*self._busy, *self._starting], num_returns=1)
            for reference in answered:
                if reference in self._starting:
                    self._started(reference)
                else:
                    self._answered(reference)
            self._assign()
        return self._messages.popleft()

    def _assign(self) -> None:
        """Give waiting items to idle workers, and start workers for the others."""
        while self._waiting and self._idle:
            index = self._waiting.popleft()
            actor = self._workers[index] = self._idle.pop()
            self._busy[actor.work.remote(self._items[index])] = index
        for _ in range(len(self._waiting) - len(self._starting)):
            if len(self._busy) + len(self._starting) < self._share.workers:
                actor = self._kind.remote(self._share.cpus, os.getcwd())
                self._starting[actor.start.remote(self._factory)] = actor

    def _started(self, reference: Any) -> None:
        actor = self._starting.pop(reference)
        try:
            version = self._ray.get(reference)
        except self._ray.exceptions.RayError as error:
            self._failures += 1
            if self._failures > RETRIES and not self._ready:
                what = f"a worker process died before it could begin: {_first_line(error)}"
                raise ResourceError(what, hint="is stemsplit installed on every node?") from None
            return
        if version != __version__:
            what = f"a node of the cluster has stemsplit {version}, and this machine {__version__}"
            raise SettingsError(what, setting="--address", hint="install one version everywhere")
        self._ready = True
        self._idle.append(actor)

    def _answered(self, reference: Any) -> None:
        index = self._busy.pop(reference)
        actor = self._workers[index]
        try:
            batch = pickle.loads(self._ray.get(reference))
        except self._ray.exceptions.RayError:
            self._ray.kill(actor)  # it may only be out of reach
            del self._workers[index]
            self._lost(index)
            return
        self._messages.extend(Message(index, done, content) for done, content in batch)
        if batch[-1][0]:
            self._idle.append(actor)
            del self._workers[index], self._items[index]
        else:
            self._busy[actor.more.remote()] = index

    def _lost(self, index: int) -> None:
        """Run the item of a dead worker again, or fail it after `RETRIES` runs more."""
        self._losses[index] += 1
        if self._losses[index] <= RETRIES:
            self._waiting.appendleft(index)
            self._messages.append(Message(index, False, Notice("a worker died; its track begins again")))
            return
        del self._items[index]
        hint = "it may have been out of memory; use fewer --workers"
        error = ResourceError(f"{RETRIES + 1} worker processes died of it, one after the other", hint=hint)
        self._messages.append(Message(index, True, error))

    def close(self) -> None:
        """Let every worker clean up; kill those that take long, and wait for their end."""
        late = self._wait([actor.stop.remote() for actor in self._workers.values()])
        for actor in (*self._idle, *self._starting.values(), *self._workers.values()):
            self._ray.kill(actor)
        self._wait(late)

    def _wait(self, references: list[Any]) -> list[Any]:
        """Wait until some calls have ended, or their actors; return those that haven't in time."""
        if not references:
            return []
        late: list[Any]
        _, late = self._ray.wait(references, num_returns=len(references), timeout=_EXIT_TIMEOUT_S)
        return late
