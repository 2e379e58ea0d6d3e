"""Networks run on devices other than the CPU, in half precision too, and never wait for them inside a chunk.

No such device is needed. On PyTorch's meta device tensors have shapes but no values: an operation that mixes
it with the CPU fails or is counted, and one that needs a value, such as `.item()`, has none.
"""

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from stemsplit.core.compute import keep_cast
from stemsplit.models import build
from tests.models.test_contract import FAMILIES, noise

META = torch.device("meta")
# Least agreement in dB of tiny networks with random weights. bf16 rounds to 8 bits: in the families of
# `ROUGH`, so many roundings add up that fp16, which rounds to 11, is the better half precision for them.
# Their limits are 1.5 to 2.5 dB below what was measured, because CPUs add in different orders.
CLOSE = {torch.float16: 50, torch.bfloat16: 42}
ROUGH = {
    "bs_roformer": 40,
    "lasaft": 37,
    "lasaft_v2": 34,
    "mdx_kuielab": 37,
    "mdx_net": 32,
    "scnet_tran": 39.5,
    "tasnet": 39,
    "wave_u_net": 39,
}
Case = tuple[str, dict[str, Any]]


class Waits(TorchDispatchMode):
    """Count the operations for which the program waits for a device.

    They are the copies between the device and unpinned memory, and all whose result the program needs: a
    number, or as many elements as there are true ones.
    """

    ASKING = ("_local_scalar_dense", "equal", "is_nonzero", "masked_select", "nonzero", "_unique2")

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if self._asks(func, args):
            self.found.append(str(func))
        out = func(*args, **(kwargs or {}))
        if _devices((args, kwargs)) | _devices(out) == {"cpu", "meta"}:
            self.found.append(f"{func} between devices")
        return out

    def _asks(self, func: Any, args: Any) -> bool:
        name = func.overloadpacket.__name__
        picked = [each for each in tree_leaves(args[1:2]) if isinstance(each, Tensor)]
        by_mask = name.startswith("index") and any(each.dtype == torch.bool for each in picked)
        return name in self.ASKING or by_mask


def _devices(tree: Any) -> set[str]:
    """Kinds of the devices that tensors are on; a number on the CPU is passed with the operation."""
    tensors = [each for each in tree_leaves(tree) if isinstance(each, Tensor)]
    return {each.device.type for each in tensors if each.dim() or each.device.type != "cpu"}


@pytest.fixture
def on_meta(monkeypatch: pytest.MonkeyPatch) -> None:
    """Replace what PyTorch lacks on the meta device: autocast, the inverse transform, quick recurrent layers.

    The inverse transform asks whether the windows cover all samples, and waits for the answer.
    """

    def istft(z: Tensor, *_: Any, length: int, **__: Any) -> Tensor:
        return z.real.new_zeros(len(z), length)

    def recurrent(x: Tensor, hidden: Any, *options: Any) -> tuple[Tensor, ...]:
        states = hidden if isinstance(hidden, tuple) else (hidden,)
        directions = 2 if options[5] else 1
        return x.new_zeros(*x.shape[:2], directions * states[0].shape[-1]), *states

    monkeypatch.setattr(torch, "istft", istft)
    for kind in ("lstm", "gru"):
        monkeypatch.setattr(torch._VF, kind, recurrent)
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: nullcontext())


@pytest.fixture(params=FAMILIES, ids=lambda case: case[0])
def case(request: pytest.FixtureRequest) -> Case:
    found: Case = request.param
    return found


@torch.inference_mode()
def test_a_chunk_is_computed_without_waiting_for_the_device(case: Case, on_meta: None) -> None:
    network = build(*case).eval().to(META)
    mix = noise(network, network.segment_samples, batch=2).to(META)
    network(mix)  # the first chunk may copy tables
    with Waits() as waits:
        stems = network(mix)
    assert stems.device == META
    assert waits.found == []


@pytest.mark.parametrize(
    "act",
    [
        lambda x: x.sum().item(),
        lambda x: x.nonzero(),
        lambda x: x[x > 0],
        lambda x: bool(x.any()),
        lambda x: x.to(META),
        lambda x: torch.equal(x, x + 1),
    ],
)
def test_what_waits_is_counted(act: Callable[[Tensor], Any]) -> None:
    with Waits() as waits:
        act(torch.ones(2))
    assert waits.found


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=["bf16", "fp16"])
@torch.inference_mode()
def test_half_precision_is_close(
    case: Case,
    dtype: torch.dtype,
    decibels: Callable[[Tensor, Tensor], float],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    network = build(*case).eval()
    mix = noise(network, network.segment_samples)
    exact = network(mix)
    # oneDNN has LSTMs in half precision on some CPUs only; without it, every CPU has them.
    if any(isinstance(module, nn.RNNBase) for module in network.modules()):
        monkeypatch.setattr(torch.backends.mkldnn, "enabled", False)
    with torch.autocast("cpu", dtype):
        rough = network(mix)
        keep_cast(network, "cpu")
        kept = [network(mix) for _ in range(2)]
    assert rough.dtype == torch.float32
    assert all(torch.equal(again, rough) for again in kept)
    least = ROUGH.get(case[0]) if dtype == torch.bfloat16 else None
    assert decibels(exact, rough) >= (least or CLOSE[dtype])


@pytest.mark.parametrize("name", ["htdemucs", "hdemucs", "bs_roformer", "mel_band_roformer", "mdx23c", "vr"])
@torch.inference_mode()
def test_weights_take_half_the_memory(name: str) -> None:
    arguments = next(arguments for family, arguments in FAMILIES if family == name)
    network = build(name, arguments | ({"bottom_channels": 16} if name == "htdemucs" else {})).eval()
    before = _bytes(network)
    keep_cast(network, "cpu")
    with torch.autocast("cpu", torch.float16):
        network(noise(network, network.segment_samples))
    assert _bytes(network) <= 0.54 * before  # the rest are norms and the like, many in tiny networks


def _bytes(network: nn.Module) -> int:
    return sum(weight.numel() * weight.element_size() for weight in network.parameters())
