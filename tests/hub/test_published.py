"""Checkpoints as they are published load by path with their YAML, whatever is around the weights."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from stemsplit import load_model
from stemsplit.errors import CheckpointError
from stemsplit.models.network import Network
from tests.hub.published import (
    HALVES,
    WRAPPED,
    YAMLS,
    State,
    adam,
    behind,
    halved,
    msst,
    network_of,
    write_plain,
    write_safetensors,
)

both = pytest.mark.parametrize("name", YAMLS)


def require_same(path: Path, expected: Network) -> None:
    found = load_model(path)
    assert isinstance(found, Network) and found.stems == ("vocals", "other")
    state, wanted = found.state_dict(), expected.state_dict()
    assert state.keys() == wanted.keys()
    assert all(torch.equal(state[key], wanted[key]) for key in wanted)
    assert {value.dtype for value in found.parameters()} == {torch.float32}
    mix = torch.randn(1, 2, 4000)
    with torch.inference_mode():
        assert torch.equal(found(mix), expected(mix))
    assert (found.overlap, found.normalise, found.segment_samples) == (
        expected.overlap,
        expected.normalise,
        expected.segment_samples,
    )


@both
@pytest.mark.parametrize("wrap", WRAPPED.values(), ids=WRAPPED)
def test_weights_are_found_in_what_is_around_them(
    name: str, wrap: Callable[[State], dict[str, Any]], tmp_path: Path
) -> None:
    network = write_plain(tmp_path, name)
    torch.save(wrap(dict(network.state_dict())), tmp_path / "m.ckpt")
    require_same(tmp_path / "m.ckpt", network)


@both
def test_the_format_before_pytorch_1_6(name: str, tmp_path: Path) -> None:
    network = write_plain(tmp_path, name)
    content = msst(dict(network.state_dict()))
    torch.save(content, tmp_path / "m.ckpt", _use_new_zipfile_serialization=False)
    require_same(tmp_path / "m.ckpt", network)


@both
@pytest.mark.parametrize("kind", HALVES.values(), ids=HALVES)
@pytest.mark.parametrize("safetensors", [False, True], ids=["pickled", "safetensors"])
def test_half_precision_is_widened(name: str, kind: torch.dtype, safetensors: bool, tmp_path: Path) -> None:
    network = write_plain(tmp_path, name)
    state = behind("model.", halved(network.state_dict(), kind))
    path = tmp_path / "m.ckpt"
    if safetensors:
        path = write_safetensors(tmp_path, state)
    else:
        torch.save({"state_dict": state, "optimizer": adam(state)}, path)
    network.load_state_dict({key.removeprefix("model."): value for key, value in state.items()})
    require_same(path, network)


@both
def test_weights_that_are_only_averaged_are_the_average(name: str, tmp_path: Path) -> None:
    network = write_plain(tmp_path, name)
    halves = {key: value / 2 for key, value in list(network.state_dict().items())[:1]}
    torch.save({"ema_state_dict": dict(network.state_dict()), "model": halves}, tmp_path / "m.ckpt")
    require_same(tmp_path / "m.ckpt", network)


def test_a_learned_scalar_is_no_counter(tmp_path: Path) -> None:
    state = dict(write_plain(tmp_path, "scnet").state_dict())
    torch.save({**state, "gain": torch.tensor(0.5)}, tmp_path / "m.ckpt")
    with pytest.raises(CheckpointError, match="unexpected gain"):
        load_model(tmp_path / "m.ckpt")


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="reads the memory from /proc")
def test_an_optimizers_state_is_not_read_into_memory(tmp_path: Path) -> None:
    network = write_plain(tmp_path, "scnet")
    large = torch.ones(20_000_000)  # 80 MB
    content = msst(dict(network.state_dict()))
    content["optimizer_state_dict"]["state"][0]["exp_avg"] = large
    content["ema"] = {"unused": large.clone()}
    torch.save(content, tmp_path / "m.ckpt")
    del content, large
    Path("/proc/self/clear_refs").write_text("5")  # forgets the peak so far
    before = memory_mb("VmRSS")
    load_model(tmp_path / "m.ckpt")
    assert memory_mb("VmHWM") - before < 40


def memory_mb(kind: str) -> float:
    status = Path("/proc/self/status").read_text()
    return int(next(line for line in status.splitlines() if line.startswith(kind)).split()[1]) / 1024


@both
def test_a_file_cut_in_half_is_told(name: str, tmp_path: Path) -> None:
    network = write_plain(tmp_path, name)
    torch.save(msst(dict(network.state_dict())), tmp_path / "m.ckpt")
    whole = (tmp_path / "m.ckpt").read_bytes()
    (tmp_path / "m.ckpt").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(CheckpointError, match="not a readable checkpoint"):
        load_model(tmp_path / "m.ckpt")


def test_two_families_are_told_apart_by_their_tensors(tmp_path: Path) -> None:
    write_plain(tmp_path, "scnet")
    torch.save({"model": dict(network_of("bs_roformer").state_dict())}, tmp_path / "m.ckpt")
    with pytest.raises(CheckpointError, match=r"m\.yaml: not a configuration of a bs_roformer .*sources"):
        load_model(tmp_path / "m.ckpt")
