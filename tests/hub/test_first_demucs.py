"""Packages of demucs 1: a tuple of class, arguments, keywords and state, perhaps compressed."""

import gzip
import importlib
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from stemsplit import load_model
from stemsplit.errors import CheckpointError
from stemsplit.hub import pickles
from stemsplit.models import build
from stemsplit.models.demucs import STD_FLOOR
from stemsplit.models.network import Network

FOUR = ("drums", "bass", "other", "vocals")
# arguments as demucs 1 stores them, and as our family has them
SMALL: dict[str, tuple[str, str, tuple[Any, ...], dict[str, Any], dict[str, Any]]] = {
    "by name": (
        "demucs.model.Demucs",
        "demucs_v2",
        (),
        {"sources": 4, "channels": 4, "depth": 2, "upsample": False, "context": 3, "growth": 2.0},
        {"channels": 4, "depth": 2, "resample": False, "segment_length": 441_000},
    ),
    "by position": (
        "demucs.model.Demucs",
        "demucs_v2",
        (4, 2, 4, 2, True, True, False, 0.1, 8, 4, 2.0, 1, 3),
        {"samplerate": 8000},
        {
            **{"channels": 4, "depth": 2, "resample": False, "segment_length": 441_000},
            **{"lstm_layers": 1, "samplerate": 8000},
        },
    ),
    "tasnet": (
        "demucs.tasnet.ConvTasNet",
        "tasnet",
        (8,),
        {"B": 4, "H": 8, "X": 2, "R": 2, "audio_channels": 2},
        {"N": 8, "B": 4, "H": 8, "X": 2, "R": 2, "segment_length": 441_000},
    ),
}


@pytest.fixture
def classes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], type]]:
    """Network classes that are pickled with their source, under the names that demucs 1 had."""
    folder = tmp_path / "python" / "demucs"
    folder.mkdir(parents=True)
    (folder / "__init__.py").touch()
    for module, name in (("model", "Demucs"), ("tasnet", "ConvTasNet"), ("hdemucs", "HDemucs")):
        source = f"import torch\n\n\nclass {name}(torch.nn.Module):\n    pass\n"
        (folder / f"{module}.py").write_text(source)
    for name in [name for name in sys.modules if name.split(".")[0] == "demucs"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.syspath_prepend(tmp_path / "python")

    def find(path: str) -> type:
        module, _, name = path.rpartition(".")
        found: type = getattr(importlib.import_module(module), name)
        return found

    yield find
    for name in [name for name in sys.modules if name.split(".")[0] == "demucs"]:
        del sys.modules[name]


def write(path: Path, content: Any, zipped: bool = False) -> Path:
    """Save a checkpoint, compressed if its name says so."""
    plain = path.with_suffix("") if path.suffix == ".gz" else path
    torch.save(content, plain, _use_new_zipfile_serialization=zipped)
    if path.suffix == ".gz":
        path.write_bytes(gzip.compress(plain.read_bytes()))
        plain.unlink()
    return path


@pytest.mark.parametrize("name", ["demucs.th", "demucs.th.gz"])
@pytest.mark.parametrize("case", SMALL)
@torch.inference_mode()
def test_packages_load(case: str, name: str, tmp_path: Path, classes: Callable[[str], type]) -> None:
    klass, family, positional, keywords, arguments = SMALL[case]
    network = build(family, {"sources": FOUR} | arguments).eval()
    path = write(tmp_path / name, (classes(klass), positional, keywords, network.state_dict()))
    loaded, mix = load_model(path), torch.randn(1, 2, 2000 + 2 * network.context_samples)
    divided = 1 + STD_FLOOR if family == "demucs_v2" else 1  # demucs 2 divides its input, demucs 1 doesn't
    assert isinstance(loaded, Network) and loaded.stems == FOUR
    assert (loaded.segment_samples, loaded.sample_rate) == (441_000, network.sample_rate)
    torch.testing.assert_close(loaded(mix), network(mix * divided), rtol=1e-5, atol=1e-6)


def test_a_zipped_tuple_loads(tmp_path: Path, classes: Callable[[str], type]) -> None:
    klass, family, positional, keywords, arguments = SMALL["by name"]
    state = build(family, {"sources": FOUR} | arguments).state_dict()
    path = write(tmp_path / "m.th", (classes(klass), positional, keywords, state), zipped=True)
    assert isinstance(load_model(path), Network)


@pytest.mark.parametrize(
    ("klass", "positional", "keywords", "said"),
    [
        ("demucs.model.Demucs", (), {"upsample": True}, "a variant of the network that isn't supported: ups"),
        ("demucs.model.Demucs", (2,), {}, "2 stems, whose names it doesn't say"),
        ("demucs.tasnet.ConvTasNet", (), {"C": 5}, "5 stems, whose names"),
        ("demucs.model.Demucs", (4,) * 15, {}, "more arguments than a demucs.model.Demucs takes"),
        ("demucs.model.Demucs", (), {"denoise": 1}, "takes no argument denoise"),
        ("demucs.model.Demucs", 4, {}, "its package is malformed"),
        ("demucs.model.Demucs", (), [1], "its package is malformed"),
        ("demucs.hdemucs.HDemucs", (), {}, "has a demucs.hdemucs.HDemucs, which demucs 1 didn't have"),
    ],
)
def test_other_packages_are_refused_by_name(
    klass: str, positional: Any, keywords: Any, said: str, tmp_path: Path, classes: Callable[[str], type]
) -> None:
    path = write(tmp_path / "m.th", (classes(klass), positional, keywords, {"w": torch.ones(1)}))
    with pytest.raises(CheckpointError, match=said) as caught:
        load_model(path)
    assert "\n" not in str(caught.value)


def test_a_whole_pickled_network_is_refused(tmp_path: Path, classes: Callable[[str], type]) -> None:
    network = classes("demucs.model.Demucs")()
    network.encoder = torch.nn.ModuleList([torch.nn.Conv1d(1, 1, 1)])
    for zipped in (True, False):
        path = write(tmp_path / "2019.th", network, zipped)
        with pytest.raises(CheckpointError, match="2019.th: a whole network, pickled with its code"):
            load_model(path)


@pytest.mark.parametrize("wrong", [(1, 2, 3, 4), (1, 2), [1, 2, 3, 4], ({}, (), {}, {})])
def test_another_tuple_is_no_checkpoint(wrong: Any, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="it holds no mapping"):
        load_model(write(tmp_path / "m.th", wrong))


def test_compressed_files_run_nothing_either(tmp_path: Path, classes: Callable[[str], type]) -> None:
    class Evil:
        def __reduce__(self) -> tuple[Any, ...]:
            return os.system, (f"touch {tmp_path / 'ran'}",)

    content = (classes("demucs.model.Demucs"), (), {"sources": Evil()}, {"w": torch.ones(1)})
    with pytest.raises(CheckpointError, match="not safe to open: it asks for"):
        load_model(write(tmp_path / "evil.th.gz", content))
    assert not (tmp_path / "ran").exists()


def test_a_compressed_file_is_bounded(tmp_path: Path) -> None:
    torch.save({"w": torch.zeros(2**20)}, tmp_path / "m.th", _use_new_zipfile_serialization=False)
    (tmp_path / "bomb.th.gz").write_bytes(gzip.compress((tmp_path / "m.th").read_bytes()))
    with pytest.raises(CheckpointError, match="not a readable checkpoint"):
        pickles.load(tmp_path / "bomb.th.gz")


def test_any_truncation_of_a_compressed_file_is_told(tmp_path: Path) -> None:
    whole = write(tmp_path / "m.th.gz", {"w": torch.randn(100)}).read_bytes()
    for length in (2, 10, len(whole) // 2, len(whole) - 60):
        (tmp_path / "cut.th.gz").write_bytes(whole[:length])
        with pytest.raises(CheckpointError, match="not a readable checkpoint") as caught:
            pickles.load(tmp_path / "cut.th.gz")
        assert "\n" not in str(caught.value)
