"""Pickles that would run code are refused, in both of PyTorch's formats."""

import importlib
import os
import pickle
import sys
import types
import zipfile
from collections import OrderedDict, defaultdict
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from stemsplit.errors import CheckpointError
from stemsplit.hub import pickles


class Calls:
    """Object that is pickled as a call of `function`."""

    def __init__(self, function: object, *args: object) -> None:
        self.call = (function, args)

    def __reduce__(self):
        return self.call


EVIL = {
    "os.system": lambda mark: Calls(os.system, f"touch {mark}"),
    "eval": lambda mark: Calls(eval, f"open({str(mark)!r}, 'w')"),
    "exec": lambda mark: Calls(exec, f"open({str(mark)!r}, 'w')"),
    "open": lambda mark: Calls(open, str(mark), "w"),
    "mkdir": lambda mark: Calls(os.mkdir, str(mark)),
    "getattr": lambda mark: Calls(getattr, "a", "upper"),
    "torch.load": lambda mark: Calls(torch.load, str(mark)),
    "import": lambda mark: Calls(__import__, "antigravity"),
}


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
@pytest.mark.parametrize("kind", EVIL)
@pytest.mark.parametrize("place", ["value", "key", "klass"])
def test_nothing_runs(tmp_path, kind, zipped, place):
    path, mark = tmp_path / "evil.th", tmp_path / "ran"
    evil = EVIL[kind](mark)
    content = {"value": {"state": torch.zeros(2), "x": evil}, "key": {"state": [(evil, 1)]}}
    content["klass"] = {"klass": evil, "args": (), "kwargs": {}, "state": {}}
    torch.save(content[place], path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(CheckpointError, match="not safe to open: it asks for") as caught:
        pickles.load(path)
    assert not mark.exists()
    assert "\n" not in str(caught.value)


def test_the_reason_names_what_was_asked_for(tmp_path):
    torch.save({"x": Calls(os.system, "true")}, tmp_path / "evil.th")
    with pytest.raises(CheckpointError, match=rf"it asks for {os.name}.system, which weights don't need"):
        pickles.load(tmp_path / "evil.th")


def test_nothing_runs_beside_a_class_of_the_table(tmp_path, stand_in):
    path, mark = tmp_path / "evil.th", tmp_path / "ran"
    for order in (True, False):
        evil = {"x": Calls(os.system, f"touch {mark}")}
        content = {"klass": stand_in, "state": {}}
        torch.save(evil | content if order else content | evil, path, _use_new_zipfile_serialization=False)
        with pytest.raises(CheckpointError, match="not safe to open"):
            pickles.load(path)
        assert not mark.exists()


@pytest.fixture
def stand_in(tmp_path, monkeypatch) -> type:
    """Network class that is pickled with its source under the name of demucs' own."""
    folder = tmp_path / "python" / "demucs"
    folder.mkdir(parents=True)
    (folder / "__init__.py").touch()
    (folder / "htdemucs.py").write_text("import torch\n\n\nclass HTDemucs(torch.nn.Module):\n    pass\n")
    for name in [name for name in sys.modules if name.split(".")[0] == "demucs"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.syspath_prepend(tmp_path / "python")
    yield importlib.import_module("demucs.htdemucs").HTDemucs
    for name in ("demucs.htdemucs", "demucs"):
        del sys.modules[name]


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_classes_of_the_table_become_placeholders(tmp_path, stand_in, zipped):
    content = {
        "klass": stand_in,
        "kwargs": {"segment": Fraction(39, 5), "sources": ["drums"], "t": (1, 2.5, None, True)},
        "state": OrderedDict(
            w=torch.arange(3.0).half(), n=torch.tensor(7), p=torch.nn.Parameter(torch.ones(2))
        ),
        "metrics": {"a": np.float64(1.5), "b": np.float32(2), "c": np.int64(3), "d": np.bool_(True)},
    }
    torch.save(content, tmp_path / "package.th", _use_new_zipfile_serialization=zipped)
    found = pickles.load(tmp_path / "package.th")
    assert issubclass(found["klass"], pickles.NetworkClass)
    assert found["klass"].path == "demucs.htdemucs.HTDemucs"
    assert found["kwargs"] == content["kwargs"]
    assert torch.equal(found["state"]["w"], torch.arange(3.0).half()) and found["state"]["n"] == 7
    assert all(isinstance(value, pickles.Ignored) for value in found["metrics"].values())


def test_an_activation_is_a_placeholder_and_computes_nothing(tmp_path):
    gelu = torch.nn.functional.gelu
    content = {"w": torch.ones(2), "_metadata": {"activation": gelu, "x": Calls(gelu, torch.ones(2))}}
    torch.save(content, tmp_path / "operator.ckpt")
    found = pickles.load(tmp_path / "operator.ckpt")
    assert found["_metadata"]["activation"] is pickles.Ignored
    assert isinstance(found["_metadata"]["x"], pickles.Ignored)


def test_other_classes_are_refused(tmp_path):
    for zipped in (True, False):
        torch.save(torch.nn.Linear(1, 1), tmp_path / "module.th", _use_new_zipfile_serialization=zipped)
        with pytest.raises(CheckpointError, match="asks for torch.nn.modules.linear.Linear"):
            pickles.load(tmp_path / "module.th")


@pytest.mark.parametrize("text", ["1e999999999", "1/0", "9" * 40, "nan", "1_000"])
def test_a_fraction_is_only_a_fraction(tmp_path, text):
    torch.save({"segment": Calls(Fraction, text)}, tmp_path / "bomb.th")
    with pytest.raises(CheckpointError):
        pickles.load(tmp_path / "bomb.th")


def test_both_ways_of_pickling_a_fraction(tmp_path):
    assert pickles.fraction("39/5") == pickles.fraction(39, 5) == Fraction(39, 5)
    assert pickles.fraction("-7") == -7


DAMAGED = {
    "empty": b"",
    "text": b"no checkpoint at all",
    "html": b"<!DOCTYPE html><html>Not found</html>",
    "zip": b"PK\x03\x04 and nothing",
    "pickle": pickle.dumps({"a": 1}),
    "truncated pickle": pickle.dumps({"a": 1})[:-4],
    "opcodes": b"\x80\x02}q\x00(((((.",
    "memo": b"\x80\x02h\x63.",
}


@pytest.mark.parametrize("kind", DAMAGED)
def test_damage_is_told(tmp_path, kind):
    (tmp_path / "m.th").write_bytes(DAMAGED[kind])
    with pytest.raises(CheckpointError, match=r"m.th: not a readable checkpoint \([^()]+\)$"):
        pickles.load(tmp_path / "m.th")


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_any_truncation_is_told(tmp_path, zipped):
    path = tmp_path / "m.th"
    torch.save({"state": {"w": torch.randn(100)}}, path, _use_new_zipfile_serialization=zipped)
    whole = path.read_bytes()
    for length in [*range(0, len(whole) - 1, 37), len(whole) - 1]:
        path.write_bytes(whole[:length])
        try:
            found = pickles.load(path)
        except CheckpointError:
            continue
        assert (
            torch.isfinite(found["state"]["w"]).all() and length > len(whole) - 30
        )  # only its end is missing


def test_torchscript_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "script.pt", "w") as archive:
        archive.writestr("script/constants.pkl", pickle.dumps(()))
        archive.writestr("script/data.pkl", pickle.dumps({}))
        archive.writestr("script/version", "6")
        archive.writestr("script/code/__torch__.py", "op_version_set = 1")
    with pytest.raises(CheckpointError, match="TorchScript"):
        pickles.load(tmp_path / "script.pt")


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="needs /proc")
def test_tensors_are_mapped_from_the_file(tmp_path):
    torch.save({"w": torch.ones(4)}, tmp_path / "m.th")
    found = pickles.load(tmp_path / "m.th")["w"]
    assert str(tmp_path / "m.th") in Path("/proc/self/maps").read_text()
    assert torch.equal(found, torch.ones(4))


def stand_in_for(path: str, base: type, monkeypatch: pytest.MonkeyPatch) -> type:
    """Return a class that is pickled under the name of another package's."""
    home, _, name = path.rpartition(".")
    parts = home.split(".")
    for i in range(len(parts)):
        module = ".".join(parts[: i + 1])
        monkeypatch.setitem(sys.modules, module, types.ModuleType(module))
    kind = type(name, (base,), {"__module__": home})
    setattr(sys.modules[home], name, kind)
    return kind


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_settings_of_a_training_become_placeholders(tmp_path, monkeypatch, zipped):
    kinds = {
        path: stand_in_for(path, base, monkeypatch)()
        for path, base in [
            ("pytorch_lightning.utilities.parsing.AttributeDict", dict),
            ("omegaconf.base.ContainerMetadata", object),
            ("omegaconf.dictconfig.DictConfig", object),
            ("ml_collections.config_dict.config_dict.ConfigDict", object),
        ]
    }
    settings, metadata, config, other = kinds.values()
    settings["lr"], settings["net"] = 1e-3, config
    metadata.object_type, metadata.ref_type, config.metadata = dict, Any, metadata
    other.content = {"dim": (str, int)}
    content = {
        "state_dict": {"w": torch.ones(2, dtype=torch.bfloat16)},
        "hyper_parameters": settings,
        "config": other,
        "all_metrics": defaultdict(list, sdr=[np.float64(8.5), np.arange(3)]),
        "version": torch.__version__,
        "home": Path("x"),
    }
    torch.save(content, tmp_path / "m.ckpt", _use_new_zipfile_serialization=zipped)
    found = pickles.load(tmp_path / "m.ckpt")
    assert torch.equal(found["state_dict"]["w"], content["state_dict"]["w"])
    assert type(found["hyper_parameters"]) is type(found["all_metrics"]) is dict
    assert found["hyper_parameters"]["lr"] == 1e-3 and len(found["all_metrics"]["sdr"]) == 2
    unused = (found["hyper_parameters"]["net"], found["config"], found["version"], found["home"])
    assert all(isinstance(value, pickles.Ignored) for value in (*unused, *found["all_metrics"]["sdr"]))


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_callbacks_of_lightning_until_1_4_are_classes(tmp_path, monkeypatch, zipped):
    """Lightning 1.4.9 names what its callbacks save by their classes, later versions by texts."""
    home = "pytorch_lightning.callbacks"
    stopping = stand_in_for(f"{home}.early_stopping.EarlyStopping", object, monkeypatch)
    kept = stand_in_for(f"{home}.model_checkpoint.ModelCheckpoint", object, monkeypatch)
    callbacks = {kept: {"best_model_score": torch.tensor(8.5)}, stopping: {"wait_count": 3}}
    content = {"state_dict": {"w": torch.ones(2)}, "callbacks": callbacks}
    torch.save(content, tmp_path / "m.ckpt", _use_new_zipfile_serialization=zipped)
    assert torch.equal(pickles.load(tmp_path / "m.ckpt")["state_dict"]["w"], torch.ones(2))
    torch.save({**content, "callbacks": {kept(): {}}}, tmp_path / "m.ckpt")  # an instance, too, is nothing
    assert list(map(type, pickles.load(tmp_path / "m.ckpt")["callbacks"])) == [pickles.Ignored]


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
@pytest.mark.parametrize("kind", [list, dict, str])
def test_types_that_settings_name_make_nothing(tmp_path, kind, zipped):
    content = {"w": torch.ones(1), "made": Calls(kind, ())}
    torch.save(content, tmp_path / "m.ckpt", _use_new_zipfile_serialization=zipped)
    assert isinstance(pickles.load(tmp_path / "m.ckpt")["made"], pickles.Ignored)
