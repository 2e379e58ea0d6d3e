"""Placing models and running them, on a CPU and as far as possible for a GPU without one."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from stemsplit.core import compute, cuda
from stemsplit.core.compute import Compute, arithmetic, batch_size, keep_cast, place, resolve
from stemsplit.core.stream import separate_array
from stemsplit.errors import SettingsError
from stemsplit.settings import QUALITIES, ChunkSettings, ComputeSettings

HALF = torch.bfloat16


class Model(nn.Module):
    """A model that records its calls and returns the mix."""

    stems: tuple[str, ...] = ("a",)
    sample_rate, channels = 8, 2
    segment_samples, context_samples, normalise, overlap = 10, 0, False, None

    def __init__(self, *precisions: torch.dtype) -> None:
        super().__init__()
        self.precisions = precisions or (torch.float32,)
        self.prepared: list[torch.dtype] = []
        self.batches: list[int] = []
        self.weight = nn.Parameter(torch.ones(1))

    def prepare(self, dtype: torch.dtype = torch.float32) -> "Model":
        self.prepared.append(dtype)
        return self

    def forward(self, mix: Tensor) -> Tensor:
        self.batches.append(len(mix))
        return mix[:, None] * self.weight


def test_on_a_cpu_models_are_prepared_once_and_evaluate() -> None:
    model = place(Model().train(), Compute())
    assert model.prepared == [torch.float32]
    assert not model.training and not model.weight.requires_grad


def test_memory_is_trimmed_before_the_named_submodules(monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []

    class Part(nn.Module):
        trim_before = ("second",)

        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Identity(), nn.Identity()
            for name in ("first", "second"):
                self.get_submodule(name).register_forward_hook(lambda *_, name=name: order.append(name))

    model = Model()
    model.part = Part()
    monkeypatch.setattr("stemsplit.core.memory.trim", lambda: order.append("trim"))
    place(model, Compute())
    model.part.second(model.part.first(torch.zeros(1)))
    assert order == ["trim", "first", "trim", "second"]


def test_half_precision_needs_a_model_that_supports_it() -> None:
    assert place(Model(torch.float32, HALF), Compute(dtype=HALF)).prepared == [HALF]
    with pytest.raises(SettingsError, match="--precision bf16: Model") as caught:
        place(Model(), Compute(dtype=HALF))
    assert caught.value.setting == "precision"


@pytest.mark.parametrize("capable", [True, False])
def test_the_fast_quality_uses_half_precision_where_it_is_supported(
    capable: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compute, "has_bf16", lambda: capable)
    settings = ComputeSettings(device="cpu", reduced=QUALITIES["fast"]["reduced"])
    found = resolve(settings)
    assert place(Model(torch.float32, HALF), found).prepared == [HALF if capable else torch.float32]
    assert place(Model(), found).prepared == [torch.float32]
    explicit = resolve(ComputeSettings(device="cpu", precision="fp32", reduced=True))
    assert explicit == Compute()


def test_compiling_is_for_gpus() -> None:
    with pytest.raises(SettingsError, match="--compile"):
        resolve(ComputeSettings(device="cpu", compile=True))


def test_on_other_devices_models_are_moved_and_compiled_not_prepared(monkeypatch: pytest.MonkeyPatch) -> None:
    compiled: list[dict[str, Any]] = []
    monkeypatch.setattr(Model, "compile", lambda self, **options: compiled.append(options))
    model = place(Model(), Compute(torch.device("meta"), torch.float16))
    assert model.weight.device.type == "meta" and not model.prepared and not compiled
    place(Model(), Compute(torch.device("meta"), compiled=True))
    assert compiled == [{"dynamic": False}]


def test_weights_are_kept_in_half_precision_only_where_autocast_casts_them() -> None:
    layer, norm, apart = nn.Linear(3, 3), nn.LayerNorm(3), nn.Linear(3, 3)
    keep_cast(nn.ModuleList([layer, norm, apart]), "cpu")
    x = torch.ones(1, 3)
    layer(x)
    assert layer.weight.dtype == torch.float32  # there was no autocast
    for _ in range(2):
        with torch.inference_mode(), torch.autocast("cpu", HALF):
            norm(layer(x))
            with torch.autocast("cpu", enabled=False):
                apart(x)
    assert layer.weight.dtype == layer.bias.dtype == HALF
    assert norm.weight.dtype == apart.weight.dtype == torch.float32


def test_weights_are_kept_so_in_half_precision_unless_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    kept: list[str] = []
    monkeypatch.setattr(compute, "keep_cast", lambda model, kind: kept.append(kind))
    monkeypatch.setattr(Model, "compile", lambda self, **options: None)
    for dtype, compiled in ((torch.float32, False), (HALF, True), (HALF, False)):
        place(Model(), Compute(torch.device("meta"), dtype, compiled=compiled))
    assert kept == ["meta"]


def test_single_precision_is_exact_on_a_gpu_and_the_settings_are_restored() -> None:
    def switches() -> list[object]:
        return [getattr(owner, name) for owner, name, _ in cuda._switches()]

    before = switches()
    torch.backends.cuda.matmul.allow_tf32 = not torch.backends.cuda.matmul.allow_tf32
    try:
        changed = switches()
        assert changed != before
        with pytest.raises(KeyError), cuda.exact_fp32():
            assert all(value in ("ieee", False) for value in switches())
            raise KeyError
        assert switches() == changed
    finally:
        torch.backends.cuda.matmul.allow_tf32 = not torch.backends.cuda.matmul.allow_tf32
    assert switches()[1:] == before[1:]


def test_autocast_is_for_other_devices_than_a_cpu() -> None:
    with arithmetic(Compute(dtype=HALF)):
        assert not torch.is_autocast_enabled("cpu")
    with arithmetic(Compute(torch.device("mps"), torch.float16)):
        assert torch.is_autocast_enabled("mps")
    assert not torch.is_autocast_enabled("mps")


@pytest.mark.parametrize(
    ("free", "idle", "taken", "expected"),
    [(1000, 0, 100, 8), (1000, 250, 100, 10), (90, 0, 100, 1), (10**6, 0, 100, 16), (100, 0, 0, 16)],
)
def test_batches_fill_the_free_memory(
    free: int, idle: int, taken: int, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = 40
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: weights)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: weights + taken)
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: weights + idle)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (free, 10**9))
    assert batch_size(Compute(torch.device("cuda"))) == expected
    assert batch_size(Compute()) == 1


def test_the_first_chunk_is_computed_alone_and_shows_what_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compute, "batch_size", lambda compute: 3)
    model = Model()
    mix = torch.randn(2, 80)
    out = separate_array(model, mix, ChunkSettings(overlap=0))
    assert model.batches == [1, 3, 3, 1]
    assert torch.allclose(out[0], mix, rtol=1e-6)
    given = Model()
    separate_array(given, mix, ChunkSettings(overlap=0, batch_size=4))
    assert given.batches == [4, 4]


@pytest.mark.parametrize("kind", ["cpu", "cuda"])
def test_cuda_computes_a_batch_while_the_one_before_is_added_up(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The device is a fake: a batch is computed only when somebody waits for it."""
    order: list[str] = []

    def start(model: Model, batch: Tensor, compute: Compute) -> Callable[[], Tensor]:
        number = sum(one.startswith("start") for one in order)
        order.append(f"start {number}")

        def wait() -> Tensor:
            order.append(f"wait {number}")
            return model(batch)

        return wait

    monkeypatch.setattr(compute, "start", start)
    monkeypatch.setattr(compute, "batch_size", lambda compute: 3)
    mix = torch.randn(2, 85)
    out = separate_array(Model(), mix, ChunkSettings(overlap=0.5), Compute(torch.device(kind)))
    assert torch.allclose(out[0], mix, rtol=1e-5, atol=1e-6)
    ahead = ["start 0", "start 1", "wait 0", "start 2", "wait 1", "start 3", "wait 2"]
    alone = ["start 0", "wait 0", "start 1", "wait 1", "start 2", "wait 2", "start 3"]
    assert order[:7] == (ahead if kind == "cuda" else alone)
    calls = [f"{what} {number}" for what in ("start", "wait") for number in range(len(order) // 2)]
    assert sorted(order) == sorted(calls)


def test_the_copy_to_the_cpu_runs_beside_later_computations(monkeypatch: pytest.MonkeyPatch) -> None:
    """The streams are fakes that write down what they are asked for."""
    order: list[str] = []

    class Event:
        def synchronize(self) -> None:
            order.append("wait")

    class Stream:
        def __init__(self, device: object) -> None:
            order.append("new stream")

        def wait_stream(self, other: str) -> None:
            order.append(f"after {other}")

        def record_event(self) -> Event:
            return Event()

        def __enter__(self) -> None:
            order.append("copy")

        def __exit__(self, *_: object) -> None:
            order.append("copied")

    empty = torch.empty
    monkeypatch.setattr(torch, "empty", lambda *size, pin_memory, **more: empty(*size, **more))
    monkeypatch.setattr(torch.cuda, "Stream", Stream)
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: stream)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: "the computation")
    monkeypatch.setattr(torch.Tensor, "record_stream", lambda x, stream: order.append("kept"), raising=False)
    cuda._copies.cache_clear()
    x = torch.randn(3)
    first, second = cuda.to_cpu(x), cuda.to_cpu(x + 1)
    copy = ["after the computation", "copy", "copied", "kept"]
    assert order == ["new stream", *copy, *copy]  # one stream, and nobody has waited
    assert torch.equal(second(), x + 1) and torch.equal(first(), x)
    assert order[-2:] == ["wait", "wait"]
    cuda._copies.cache_clear()


@pytest.mark.gpu
def test_copies_and_arithmetic_on_a_gpu() -> None:
    device = torch.device("cuda")
    x = torch.randn(3, 5, 1000)
    assert torch.equal(cuda.to_cpu(cuda.to_device(x, device))(), x)
    a, b = torch.randn(512, 512), torch.randn(512, 512)
    torch.backends.cuda.matmul.allow_tf32 = True
    try:
        with arithmetic(Compute(device)):
            product = (a.to(device) @ b.to(device)).cpu()
    finally:
        torch.backends.cuda.matmul.allow_tf32 = False
    assert torch.allclose(product, a @ b, atol=1e-3)
    model = place(Model(), Compute(device))
    out = separate_array(model, torch.randn(2, 80), ChunkSettings(overlap=0), Compute(device))
    assert out.shape == (1, 2, 80) and len(model.batches) < 8
