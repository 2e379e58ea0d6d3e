"""Memory that a training step needs, measured for one sample on the CPU."""

import weakref
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from stemsplit.models.network import Network
from stemsplit.training.config import Config
from stemsplit.training.criterion import Criterion
from stemsplit.training.optim import build_optimizer
from stemsplit.training.progress import Footprint


class LiveBytes(TorchDispatchMode):
    """Count the bytes of the tensors that are made inside the block and still alive.

    Attributes:
        peak: the most at any time.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.now = self.peak = 0
        self._seen = weakref.WeakSet[torch.UntypedStorage]()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        known = [one.untyped_storage() for one in tree_leaves((args, kwargs)) if isinstance(one, Tensor)]
        self._seen.update(known)  # such as parameters, which were made before
        result = func(*args, **(kwargs or {}))
        for one in tree_leaves(result):
            if isinstance(one, Tensor):
                self._add(one.untyped_storage())
        return result

    def _add(self, storage: torch.UntypedStorage) -> None:
        if storage not in self._seen:
            self._seen.add(storage)
            self.now += storage.nbytes()
            self.peak = max(self.peak, self.now)
            weakref.finalize(storage, self._drop, storage.nbytes())

    def _drop(self, size: int) -> None:
        self.now -= size


def measure(network: Network, config: Config) -> Footprint:
    """Do a training step of one sample on the CPU and return what it keeps in memory.

    Args:
        network: to train; its weights change, and it is left on the CPU.
        config: of the run. fp16 is measured as bf16, which needs as much.
    """
    network.to("cpu").zero_grad(set_to_none=True)
    samples = round(config.data.segment_s * network.sample_rate)
    stems = 0.1 * torch.randn(1, len(network.stems), network.channels, samples)  # [B, S, C, T]
    optimizer = build_optimizer(network, config.optim)
    dtype = torch.float32 if config.fit.precision == "fp32" else torch.bfloat16
    criterion = Criterion(config.loss, network.stems)
    with LiveBytes() as live, torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
        loss, _ = criterion(network, stems.sum(1), stems)
        loss.backward()
        del loss
    trained = [parameter for parameter in network.parameters() if parameter.requires_grad]
    gradients = _bytes(parameter.grad for parameter in trained)
    optimizer.step()
    fit, averages = config.fit, len(config.ema.step) + len(config.ema.epoch)
    return Footprint(
        parameters=_bytes([*network.parameters(), *network.buffers()]),
        trained=sum(parameter.numel() for parameter in trained),
        of=sum(parameter.numel() for parameter in network.parameters()),
        gradients=gradients,
        optimizer=_bytes(tree_leaves(optimizer.state_dict()["state"])),
        averages=averages * _bytes(trained),
        activations=max(0, live.peak - gradients),
        samples=fit.micro_batch,
        precision=fit.precision,
    )


def _bytes(values: Iterable[Any]) -> int:
    """Return the bytes of the tensors among some values."""
    return sum(value.untyped_storage().nbytes() for value in values if isinstance(value, Tensor))
