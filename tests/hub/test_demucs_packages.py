"""Packages that demucs itself wrote load here, and those written here load in demucs."""

import json
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import save_file

from stemsplit.hub.checkpoints import build_network, convert, read_package, save_package
from stemsplit.hub.load import load_model

demucs = pytest.importorskip("demucs.hf", reason="the demucs package isn't installed")
states = pytest.importorskip("demucs.states")

FOUR = ["drums", "bass", "other", "vocals"]
SMALL = {
    "htdemucs": {
        "klass": "demucs.htdemucs.HTDemucs",
        "channels": 8,
        "t_layers": 1,
        "t_heads": 2,
        "t_hidden_scale": 1.0,
        "bottom_channels": 8,
        "segment": Fraction(39, 5),
    },
    "hdemucs": {"klass": "demucs.hdemucs.HDemucs", "channels": 4, "depth": 6, "segment": 44},
    "demucs": {"klass": "demucs.demucs.Demucs", "channels": 4, "depth": 3, "dconv_lstm": 2, "segment": 10},
}


def reference(family: str, seed: int = 0) -> torch.nn.Module:
    """Small network of demucs, with its sources by position and other arguments by name."""
    import importlib

    given = dict(SMALL[family])
    module, _, name = given.pop("klass").rpartition(".")
    torch.manual_seed(seed)
    return getattr(importlib.import_module(module), name)(FOUR, **given)


def package(network: torch.nn.Module, half: bool = True) -> dict[str, object]:
    arguments, keywords = network._init_args_kwargs
    return {
        "klass": type(network),
        "args": arguments,
        "kwargs": keywords,
        "state": states.get_state(network, None, half),
        "training_args": {"lr": 3e-4, "seed": 42},
    }


def hub_file(network: torch.nn.Module, path: Path) -> None:
    """Write a package like those in the repositories on the hub."""

    def plain(value: object) -> object:
        assert isinstance(value, Fraction)
        return {"_type": "fraction", "numerator": value.numerator, "denominator": value.denominator}

    content = package(network)
    klass = content["klass"]
    metadata = {
        "klass": f"{klass.__module__}.{klass.__name__}",
        "args": json.dumps(content["args"], default=plain),
        "kwargs": json.dumps(content["kwargs"], default=plain),
    }
    save_file(content["state"], path, metadata=metadata)


def holds(network: torch.nn.Module, other: torch.nn.Module, half: bool = True) -> bool:
    """Return whether both networks have the same weights, up to fp16's rounding."""
    expected = {k: v.half().float() if half else v for k, v in other.state_dict().items()}
    found = network.state_dict()
    return found.keys() == expected.keys() and all(torch.equal(found[k], v) for k, v in expected.items())


@pytest.mark.parametrize("family", SMALL)
@pytest.mark.parametrize("kind", ["zip", "legacy", "hub"])
def test_packages_of_demucs_load(tmp_path, family, kind):
    network = reference(family)
    path = tmp_path / ("m.safetensors" if kind == "hub" else "m.th")
    if kind == "hub":
        hub_file(network, path)
    else:
        torch.save(package(network), path, _use_new_zipfile_serialization=kind == "zip")
    found = load_model(path)
    assert holds(found, network) and found.stems == tuple(FOUR)
    segment = SMALL[family]["segment"]
    assert found.segment_samples == int(segment * 44100)


@pytest.mark.parametrize("family", SMALL)
@pytest.mark.parametrize("half", [True, False])
def test_packages_from_here_load_in_demucs(tmp_path, family, half):
    network = reference(family)
    torch.save(package(network, half=False), tmp_path / "m.th")
    ours = build_network(read_package(tmp_path / "m.th"))
    save_package(tmp_path / "ours.safetensors", ours, metadata={"recipe": {"epochs": 3}}, half=half)
    back = demucs.load_safetensors_model(tmp_path / "ours.safetensors")
    assert type(back) is type(network) and back.sources == FOUR
    assert back.segment == network.segment and back.samplerate == 44100
    assert holds(back, network, half)


@pytest.mark.parametrize("family", SMALL)
def test_converted_packages_load_in_demucs_with_the_same_bytes(tmp_path, family):
    network = reference(family)
    torch.save(package(network), tmp_path / "m.th", _use_new_zipfile_serialization=False)
    convert(tmp_path / "m.th", tmp_path / "new.safetensors")
    assert holds(demucs.load_safetensors_model(tmp_path / "new.safetensors"), network)
    kept = read_package(tmp_path / "new.safetensors").state
    assert all(torch.equal(kept[key], value) for key, value in package(network)["state"].items())
    again = tmp_path / "again.safetensors"
    convert(tmp_path / "new.safetensors", again)
    assert holds(load_model(again), network)


def test_a_folder_that_demucs_loads_as_a_repository(tmp_path):
    """Signatures with hashes in the members' names, weights and a segment in the bag."""
    from demucs.pretrained import get_model

    networks = [reference("hdemucs", seed) for seed in range(2)]
    for network, signature in zip(networks, ("0a1b2c3d", "4e5f6a7b"), strict=True):
        states.save_with_checksum(package(network), tmp_path / f"{signature}.th")
    weights = [[1.0, 1.0, 0.0, 0.5], [0.0, 1.0, 1.0, 0.5]]
    bag = {"models": ["0a1b2c3d", "4e5f6a7b"], "weights": weights, "segment": 2}
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(bag))
    theirs = get_model("mine", repo=tmp_path)
    ours = load_model(tmp_path)
    segment = int(theirs.models[0].segment * 44100)
    assert [member.segment_samples for member in ours.members] == [segment] * 2
    assert all(holds(a, b) for a, b in zip(ours.members, networks, strict=True))
    assert load_model(tmp_path / "mine.yaml", stems=["other"]).members[0].stems == ("other",)


@pytest.mark.slow
def test_loading_needs_no_demucs(tmp_path):
    for family in SMALL:
        torch.save(package(reference(family)), tmp_path / f"{family}.th")
    code = (
        "import sys; sys.modules['demucs'] = sys.modules['torchaudio'] = None\n"
        "from stemsplit import load_model\n"
        "for path in sys.argv[1:]: print(*load_model(path).stems)"
    )
    paths = [str(tmp_path / f"{family}.th") for family in SMALL]
    said = subprocess.run([sys.executable, "-c", code, *paths], check=True, capture_output=True, text=True)
    assert said.stdout.splitlines() == [" ".join(FOUR)] * 3
