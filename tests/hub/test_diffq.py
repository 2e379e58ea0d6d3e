"""Quantised weights come back, and a malformed state costs neither memory nor more than one line."""

import io
import json
import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import save_file
from torch import Tensor

from stemsplit import load_model
from stemsplit.errors import CheckpointError
from stemsplit.hub import diffq
from stemsplit.hub.checkpoints import convert
from stemsplit.models import build
from stemsplit.models.bag import Bag
from stemsplit.models.network import Network

FOUR = ["drums", "bass", "other", "vocals"]
SMALL: dict[str, dict[str, Any]] = {
    "demucs": {"sources": FOUR, "channels": 8, "depth": 3, "dconv_lstm": 2, "segment": 1},
    "hdemucs": {"sources": FOUR, "channels": 16, "growth": 1, "depth": 4, "nfft": 256, "segment": 1},
    "htdemucs": {"sources": FOUR, "channels": 8, "depth": 3, "nfft": 512, "t_layers": 2, "t_heads": 2},
    "demucs_v2": {"sources": FOUR, "channels": 8, "depth": 2},
}
KLASSES = {
    "demucs": "demucs.demucs.Demucs",
    "hdemucs": "demucs.hdemucs.HDemucs",
    "htdemucs": "demucs.htdemucs.HTDemucs",
    "demucs_v2": "demucs.model.Demucs",
}
KINDS = ("uniform", "grouped packed", "uniform packed", "grouped")
LIMIT = 512  # more weights than that are quantised
State = dict[str, Any]


def packed(values: Tensor, planes: int) -> Tensor:
    """Pack integers [n] as int64 [blocks, planes, 32]: bit i of word w of a plane is of value 32·i + w."""
    rows = torch.nn.functional.pad(values.long(), (0, -len(values) % 2048)).view(-1, 64, 32)
    bits = (rows[:, None] >> torch.arange(planes)[:, None, None]) & 1  # [blocks, planes, 64, 32]
    return (bits << torch.arange(64)[:, None]).sum(2)


def quantised(weights: Tensor, kind: str, bits: Tensor) -> tuple[Any, Tensor]:
    """Quantise weights [n] with `bits` per group: the entry of a state, and what it stands for."""
    low, high = weights.min().item(), weights.max().item()
    each = bits[:1].expand(len(weights), 1) if "uniform" in kind else bits[:, None]
    rows = weights.view(len(each), -1).double()
    steps = 2 ** each.long() - 1
    levels = ((rows - low) / (high - low) * steps).round().to(torch.int16)
    meant = (low + levels * ((high - low) / steps.double())).flatten()
    scale = (low, high)
    match kind:
        case "uniform":
            return (levels.flatten(), scale), meant
        case "uniform packed":
            return (packed(levels.flatten(), int(bits[0])), scale), meant
        case "grouped":
            return (levels, scale, bits.to(torch.uint8)[:, None]), meant
    by_bits = [levels[bits == b].flatten() for b in range(1, 15)]
    lists = [packed(chosen, b) if len(chosen) else None for b, chosen in enumerate(by_bits, 1)]
    return (lists, scale, packed(bits - 2, 4)), meant


def state_of(weights: dict[str, Tensor], kind: str, group: int = 4) -> tuple[State, dict[str, Tensor]]:
    """The quantised state of parameters, and the weights that it stands for."""
    state: State = {"quantized": [], "float16": [], "others": [], "meta": {"init_kwargs": {}}}
    state["meta"]["init_kwargs"] = {"bits": 6} if "uniform" in kind else {"group_size": group}
    meant = dict(weights)
    for name, value in weights.items():
        if value.numel() <= LIMIT:
            state["others"].append(value)
            continue
        groups = value.numel() // group
        bits = torch.full((groups,), 6) if "uniform" in kind else torch.randint(2, 15, (groups,))
        entry, found = quantised(value.flatten(), kind, bits)
        state["quantized"].append(entry)
        meant[name] = found.view_as(value).float()
    return state, meant


def weights_of(family: str) -> dict[str, Tensor]:
    network = build(family, SMALL[family])
    return {name: parameter.detach() for name, parameter in network.named_parameters()}


@pytest.fixture
def quantiser(monkeypatch: pytest.MonkeyPatch) -> type:
    """Class under the name that states refer to."""
    for name in ("diffq", "diffq.diffq"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    found = type("DiffQuantizer", (), {"__module__": "diffq.diffq"})
    monkeypatch.setattr(sys.modules["diffq.diffq"], "DiffQuantizer", found, raising=False)
    return found


def package(family: str, state: State) -> State:
    return {"klass": KLASSES[family], "args": (), "kwargs": SMALL[family], "state": state}


def close(network: Any, meant: dict[str, Tensor]) -> None:
    found = dict(network.named_parameters())
    assert found.keys() == meant.keys()
    for name, value in meant.items():
        torch.testing.assert_close(found[name].data, value, rtol=1e-5, atol=1e-6, msg=name)


@pytest.mark.parametrize("count", [1, 31, 32, 2047, 2048, 2049, 5000])
@pytest.mark.parametrize("planes", [0, 1, 8, 15])
def test_packed_integers_come_back(count: int, planes: int) -> None:
    values = torch.randint(0, 2**planes, (count,))
    assert diffq.unpacked(packed(values, planes), count).tolist() == values.tolist()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("group", [1, 4, 8])
def test_weights_are_half_a_step_off_at_most(kind: str, group: int) -> None:
    weights = {"a": torch.randn(20, 40), "b": torch.randn(7), "c": torch.randn(16, 8, 17), "d": torch.ones(3)}
    state, meant = state_of(weights, kind, group)
    found = diffq.restored(state, {name: value.shape for name, value in weights.items()})
    assert list(found) == list("abcd")
    for name, value in found.items():
        torch.testing.assert_close(value, meant[name], rtol=1e-5, atol=1e-6)
    widest = weights["a"].max() - weights["a"].min()
    assert (found["a"] - weights["a"]).abs().max() <= widest / (63 if "uniform" in kind else 3) / 2 + 1e-6
    assert torch.equal(found["b"], weights["b"])


def test_one_group_for_all() -> None:
    weights = torch.randn(600)
    entry, meant = quantised(weights, "grouped packed", torch.tensor([5]))
    state = {"quantized": [entry], "others": [], "meta": {"init_kwargs": {"group_size": 0}}}
    torch.testing.assert_close(diffq.restored(state, {"a": (600,)})["a"], meant.float(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
@pytest.mark.parametrize(("family", "kind"), list(zip(SMALL, KINDS, strict=True)))
def test_packages_load(family: str, kind: str, zipped: bool, tmp_path: Path, quantiser: type) -> None:
    state, meant = state_of(weights_of(family), kind)
    state["meta"] |= {"klass": quantiser, "packed": True, "torch_pack": False}
    content = package(family, {**state, "__quantized": True})
    torch.save(content, tmp_path / "m.th", _use_new_zipfile_serialization=zipped)
    network = load_model(tmp_path / "m.th")
    close(network, meant)
    convert(tmp_path / "m.th", tmp_path / "m.safetensors")
    close(load_model(tmp_path / "m.safetensors"), meant)


def test_half_precision_beside_quantised_weights(tmp_path: Path) -> None:
    state, meant = state_of(weights_of("demucs"), "grouped")
    state["float16"], state["others"] = [value.half() for value in state["others"]], []
    torch.save(package("demucs", state), tmp_path / "m.th")
    few = {name: value.half().float() if value.numel() <= LIMIT else value for name, value in meant.items()}
    close(load_model(tmp_path / "m.th"), few)


def compressed(state: State) -> dict[str, bytes]:
    """A state as demucs 2 stores it, whose quantiser wrote no `meta`."""
    file = io.BytesIO()
    torch.save({key: value for key, value in state.items() if key != "meta"}, file)
    return {"compressed": zlib.compress(file.getvalue())}


def test_the_state_of_demucs_2_loads_bare_and_in_a_package(tmp_path: Path) -> None:
    state, meant = state_of(weights_of("demucs_v2"), "grouped")
    torch.save(package("demucs_v2", compressed(state)), tmp_path / "package.th")
    close(load_model(tmp_path / "package.th"), meant)
    torch.save(compressed(state), tmp_path / "bare.th")
    with pytest.raises(CheckpointError, match="a bare state dict"):
        load_model(tmp_path / "bare.th")
    described = {"family": "demucs_v2", "arguments": SMALL["demucs_v2"]}
    (tmp_path / "bare.yaml").write_text(yaml.safe_dump(described))
    close(load_model(tmp_path / "bare.th"), meant)


def test_the_safetensors_of_demucs_4_load(tmp_path: Path) -> None:
    state, meant = state_of(weights_of("hdemucs"), "grouped packed")
    tensors: dict[str, Tensor] = {}

    def node(value: Any) -> Any:
        if isinstance(value, Tensor):
            tensors[f"t{len(tensors)}"] = value.clone()
            return {"_tensor": f"t{len(tensors) - 1}"}
        if isinstance(value, dict):
            return {"_dict": [[key, node(item)] for key, item in value.items()]}
        if isinstance(value, list | tuple):
            return {f"_{type(value).__name__}": [node(item) for item in value]}
        return value

    tree = node(state)
    tree["_dict"].append(["klass", {"_class": "diffq.diffq.DiffQuantizer"}])
    metadata = {"klass": KLASSES["hdemucs"], "args": "[]", "kwargs": json.dumps(SMALL["hdemucs"])}
    path = tmp_path / "m.safetensors"
    save_file(tensors, path, {**metadata, "structure": json.dumps(tree)})
    close(load_model(path), meant)
    for wrong in (
        '{"_tensor": "none"}',
        '{"_code": "x"}',
        '{"_dict": [1]}',
        "{",
        "[[",
        '{"_dict": [[[], 1]]}',
    ):
        save_file(tensors, path, {**metadata, "structure": wrong})
        with pytest.raises(CheckpointError, match="metadata is malformed") as caught:
            load_model(path)
        assert "\n" not in str(caught.value)


def test_bags_of_quantised_members_load(tmp_path: Path) -> None:
    meant = []
    for family in ("demucs", "hdemucs"):
        state, weights = state_of(weights_of(family), "grouped packed")
        torch.save(package(family, {**state, "__quantized": True}), tmp_path / f"{family}.th")
        meant.append(weights)
    rows = [[1.0, 1.0, 0.0, 0.0], [0.0, 0.0, 1.0, 1.0]]
    (tmp_path / "mdx_q.yaml").write_text(yaml.safe_dump({"models": ["demucs", "hdemucs"], "weights": rows}))
    bag = load_model(tmp_path / "mdx_q.yaml")
    assert isinstance(bag, Bag)
    for member, weights in zip(bag.members, meant, strict=True):
        close(member, weights)


def changed(state: State, entry: int, place: int, value: Any) -> None:
    old = list(state["quantized"][entry])
    old[place] = value(old[place]) if callable(value) else value
    state["quantized"][entry] = tuple(old)


FAULTS: dict[str, Callable[[State], Any]] = {
    "an entry less": lambda s: s["quantized"].pop(),
    "another parameter less": lambda s: s["others"].pop(),
    "another parameter of integers": lambda s: s["others"].__setitem__(0, s["others"][0].long()),
    "another parameter of another shape": lambda s: s["others"].__setitem__(0, torch.ones(3, 5)),
    "no tensor": lambda s: s["others"].__setitem__(0, "x"),
    "no others": lambda s: s.pop("others"),
    "settings of another type": lambda s: s.__setitem__("meta", [1]),
    "groups of another size": lambda s: s["meta"]["init_kwargs"].__setitem__("group_size", 3),
    "huge groups": lambda s: s["meta"]["init_kwargs"].__setitem__("group_size", 10**12),
    "negative groups": lambda s: s["meta"]["init_kwargs"].__setitem__("group_size", -4),
    "many bits": lambda s: s["meta"]["init_kwargs"].__setitem__("min_bits", 30),
    "a bit too many": lambda s: s["meta"]["init_kwargs"].__setitem__("min_bits", 3),
    "no bits": lambda s: s["meta"]["init_kwargs"].__setitem__("min_bits", -5),
    "no levels": lambda s: changed(s, 0, 0, [None] * 14),
    "levels of another kind": lambda s: changed(s, 0, 0, "levels"),
    "an infinite maximum": lambda s: changed(s, 0, 1, (0.0, float("inf"))),
    "no maximum": lambda s: changed(s, 0, 1, (0.0, float("nan"))),
    "a minimum above the maximum": lambda s: changed(s, 0, 1, (1.0, 0.0)),
    "one limit": lambda s: changed(s, 0, 1, (1.0,)),
    "bits of another length": lambda s: changed(s, 0, 2, lambda b: torch.cat([b, b])),
    "bits packed otherwise": lambda s: changed(s, 0, 2, lambda b: b[:, :, :16]),
    "many planes": lambda s: changed(s, 0, 2, lambda b: b.expand(-1, 4, -1).repeat(1, 100, 1)),
    "random bits": lambda s: changed(s, 0, 2, lambda b: torch.full_like(b, -1)),
    "bits as fractions": lambda s: changed(s, 0, 2, lambda b: b.double()),
    "an entry of four": lambda s: s["quantized"].__setitem__(0, (1, 2, 3, 4)),
    "an entry of none": lambda s: s["quantized"].__setitem__(0, None),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_malformed_states_are_refused_in_one_line(fault: str, tmp_path: Path) -> None:
    state, _ = state_of(weights_of("demucs"), "grouped packed")
    FAULTS[fault](state)
    torch.save(package("demucs", state), tmp_path / "m.th")
    with pytest.raises(CheckpointError, match="its quantised weights are malformed") as caught:
        load_model(tmp_path / "m.th")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", ["grouped", "uniform"])
def test_levels_beyond_their_bits_are_refused(kind: str, tmp_path: Path) -> None:
    for value in (-1, 20_000):
        state, _ = state_of(weights_of("demucs"), kind)
        changed(state, 0, 0, lambda levels, value=value: torch.full_like(levels, value))
        torch.save(package("demucs", state), tmp_path / "m.th")
        with pytest.raises(CheckpointError, match="levels beyond their number of bits"):
            load_model(tmp_path / "m.th")


def test_a_compressed_state_is_bounded(tmp_path: Path) -> None:
    whole = compressed(state_of(weights_of("demucs_v2"), "grouped")[0])["compressed"]
    bomb = zlib.compress(bytes(10**8))
    for data, said in (
        (whole[:-40], "cut short"),
        (bomb, "too long"),
        (b"nothing", "incorrect header check"),
    ):
        torch.save(package("demucs_v2", {"compressed": data}), tmp_path / "m.th")
        with pytest.raises(CheckpointError, match=said):
            load_model(tmp_path / "m.th")
    torch.save(package("demucs_v2", {"compressed": zlib.compress(b"no pickle")}), tmp_path / "m.th")
    with pytest.raises(CheckpointError, match=r"m\.th: not a readable checkpoint"):
        load_model(tmp_path / "m.th")


def test_parameters_that_cannot_be_told_apart_are_refused() -> None:
    state: State = {"quantized": [None], "others": [torch.ones(4)], "meta": {}}
    with pytest.raises(ValueError, match="a is quantised, but not b, which is as large"):
        diffq.restored(state, {"a": (4,), "b": (4,)})


def test_a_quantised_network_separates(tmp_path: Path) -> None:
    state, _ = state_of(weights_of("demucs"), "grouped packed")
    torch.save(package("demucs", state), tmp_path / "m.th")
    network = load_model(tmp_path / "m.th", stems=["vocals"])
    assert isinstance(network, Network)
    with torch.inference_mode():
        assert network(torch.randn(1, 2, 3000 + 2 * network.context_samples)).shape == (1, 1, 2, 3000)
