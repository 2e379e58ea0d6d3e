"""Time a model on a device in the ways that it can be computed, and record the fastest accurate one."""

import json
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from statistics import median
from time import perf_counter
from typing import Any

import torch

from stemsplit.core import compute as computing
from stemsplit.core import memory
from stemsplit.errors import SettingsError, StemsplitError
from stemsplit.events import Callback, Notice, emit
from stemsplit.files import os_errors, write_whole
from stemsplit.hub.access import Access
from stemsplit.hub.agreement import decibels, noise_for
from stemsplit.hub.describe import describe_model
from stemsplit.hub.load import load_model
from stemsplit.separation.tuned import SAME_DB, Choice, Record, machine, path_of
from stemsplit.settings import MIN_AGREEMENT_DB, ComputeSettings, ModelSettings

ROUNDS = 3  # after one to warm up
FASTER = 1.1  # a smaller gain may be chance, or not worth the memory of a batch
BUSY = 0.5  # programs that want to run, per core


@dataclass(frozen=True)
class Timed:
    """Seconds that a chunk takes, computed so, and the agreement of its stems with plain fp32 in dB."""

    choice: Choice
    chunk_s: float
    agreement_db: float


def tune(
    settings: ModelSettings = ModelSettings(),
    device: str = ComputeSettings.device,
    *,
    min_agreement_db: float = MIN_AGREEMENT_DB,
    report: Callable[[Timed], object] = lambda timed: None,
    callback: Callback | None = None,
) -> Record:
    """Find out how a model computes fastest on a device, and record it for later runs of the command.

    One setting is varied after the other, with the best of the earlier ones. All values of a setting are
    timed in turn, on a chunk of noise of the model's own length.

    Args:
        settings: the model, and how to load it.
        device: the device.
        min_agreement_db: a way to compute counts if its stems agree so well with those of plain fp32, or as
            well as those of a run without a record.
        report: receives everything that was timed.
        callback: receives the events of a download; returning False cancels.

    Raises:
        SettingsError: the model is a recipe of several.
        OutputError: the record can't be written.
        Others: as `load_model`.
    """
    if hasattr(os, "getloadavg") and os.getloadavg()[0] > BUSY * (os.cpu_count() or 1):
        emit(callback, Notice("other programs use this machine, which changes what is fastest"))
    bench = _Bench(settings, device, callback)
    limit, best = min_agreement_db, bench.usual
    for changes in bench.variations():
        found = bench.time([best, *(replace(best, **change) for change in changes)])
        for one in found:
            report(one)
        limit = min(limit, found[0].agreement_db)
        fastest = min((one for one in found if one.agreement_db >= limit), key=lambda one: one.chunk_s)
        if found[0].chunk_s > FASTER * fastest.chunk_s:
            best = fastest.choice
    before, *after = bench.time(list(dict.fromkeys([bench.usual, best])))
    final = min(before, *after[:1] or [before], key=lambda one: one.chunk_s)
    device, torch_version = machine(bench.device)
    record = Record(
        str(settings.model),
        device,
        torch_version,
        final.choice,
        final.chunk_s,
        before.chunk_s,
        round(final.agreement_db, 1),
    )
    path = path_of(bench.about, bench.device.type)
    with os_errors(path):
        write_whole(path, json.dumps(asdict(record), indent=2) + "\n")
    return record


class _Bench:
    """A model, a chunk of noise for each of its networks, and the stems that plain fp32 gives of them."""

    def __init__(self, settings: ModelSettings, device: str, callback: Callback | None) -> None:
        usual = computing.resolve(ComputeSettings(device))
        self.settings, self.callback, self.device = settings, callback, usual.device
        self.about = describe_model(settings.model, Access.of(settings), callback)
        if self.about.recipe is not None:
            raise SettingsError(
                f"{settings.model} combines models, and only single ones are tuned", setting="model"
            )
        self.usual = next(Choice(name) for name, dtype in computing.DTYPES.items() if dtype == usual.dtype)
        self.placed: dict[Choice, tuple[Sequence[Any], computing.Compute, int]] = {}
        plain = [network.to(self.device) for network in self._load()]
        self.precisions = [network.precisions for network in plain]
        self.chunks = [
            noise_for(network, network.segment_samples + 2 * network.context_samples) for network in plain
        ]  # [1, C, T] each
        self.reference = self._stems(plain, computing.Compute(self.device), 1)

    def _load(self) -> Sequence[Any]:
        own = self.settings
        model = load_model(
            own.model,
            offline=own.offline,
            trust_first=own.trust_first,
            license=own.license,
            callback=self.callback,
        )
        return getattr(model, "members", (model,))

    def variations(self) -> Iterator[list[dict[str, Any]]]:
        """Yield other values of a setting, one setting after the other."""
        if self.device.type == "cpu":
            if computing.has_bf16() and all(torch.bfloat16 in each for each in self.precisions):
                yield [{"precision": "bf16"}]
            if (half := torch.get_num_threads() // 2) > 0:
                yield [{"threads": half}]
            yield [{"batch_size": 2}]
            return
        yield [{"precision": name} for name in computing.DTYPES if name != self.usual.precision]
        yield [{"channels_last": True}]
        yield [{"batch_size": 1}, {"batch_size": 4}]
        yield [{"compile": True}]

    def time(self, choices: Sequence[Choice]) -> list[Timed]:
        """Time all choices in turn; leave out those that the device can't do, except for the first one."""
        times: dict[Choice, list[float]] = {choice: [] for choice in choices}
        agreement = dict[Choice, float]()
        for turn in range(ROUNDS + 1):
            for choice in [*times]:
                try:
                    took, agreement[choice] = self._run(choice)
                except (RuntimeError, StemsplitError):
                    if choice == choices[0]:
                        raise
                    del times[choice]
                    continue
                if turn:
                    times[choice].append(took)
        return [Timed(choice, median(took), agreement[choice]) for choice, took in times.items()]

    def _run(self, choice: Choice) -> tuple[float, float]:
        """Return the seconds of a chunk and the agreement of its stems."""
        networks, compute, fitting = self._on_device(choice)
        batch = choice.batch_size or fitting
        with computing.threads(choice.threads):
            began = perf_counter()
            stems = self._stems(networks, compute, batch)
            took = (perf_counter() - began) / batch
        memory.trim()
        return took, min(SAME_DB, decibels(self.reference, stems))

    def _stems(self, networks: Sequence[Any], compute: computing.Compute, batch: int) -> torch.Tensor:
        """Return the stems of all networks for the first of a batch of equal chunks, in one dimension."""
        pairs = zip(networks, self.chunks, strict=True)
        found = [computing.run(network, chunk.expand(batch, -1, -1), compute) for network, chunk in pairs]
        return torch.cat([stems[0].flatten() for stems in found])  # of [B, S, C, n] each

    def _on_device(self, choice: Choice) -> tuple[Sequence[Any], computing.Compute, int]:
        """Return the networks, prepared as a choice says, and how many chunks a run would batch by itself."""
        key = replace(choice, threads=None, batch_size=None)
        if key not in self.placed:
            how = {"channels_last": choice.channels_last, "compile": choice.compile}
            compute = computing.resolve(ComputeSettings(str(self.device), choice.precision, **how))
            networks = [computing.place(network, compute) for network in self._load()]
            if self.device.type == "cuda":  # how many chunks fit is judged by what one has taken
                torch.cuda.reset_peak_memory_stats(self.device)
                self._stems(networks, compute, 1)
            self.placed[key] = networks, compute, computing.batch_size(compute)
        return self.placed[key]
