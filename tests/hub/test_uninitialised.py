"""Networks whose weights are about to be loaded aren't given random ones first."""

from pathlib import Path
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from stemsplit.hub.checkpoints import Package, build_network
from stemsplit.models import build
from tests.models.test_contract import HTDEMUCS


class Operations(TorchDispatchMode):
    """Record the operations that PyTorch carries out."""

    def __init__(self) -> None:
        super().__init__()
        self.names = set[str]()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.add(func.overloadpacket.__name__)
        return func(*args, **(kwargs or {}))


INITIAL = {"uniform_", "normal_", "std", "div_"}  # drawn, and rescaled as Demucs does


def test_nothing_is_drawn_or_rescaled(tmp_path: Path) -> None:
    with Operations() as plain:
        weights = build("htdemucs", HTDEMUCS).state_dict()
    assert plain.names >= INITIAL
    with Operations() as loading:
        network = build_network(Package(tmp_path, "htdemucs", HTDEMUCS, weights))
    assert loading.names & INITIAL == set()
    assert all(torch.equal(value, weights[name]) for name, value in network.state_dict().items())
