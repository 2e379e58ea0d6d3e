"""A model is located once, and each checkpoint read once, to describe it and to load it."""

import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from stemsplit.errors import CheckpointError
from stemsplit.hub import checkpoints, describe, load
from stemsplit.hub.checkpoints import save_package
from stemsplit.hub.describe import describe_model
from stemsplit.hub.load import load_model
from stemsplit.hub.locate import Packages

FOUR = ("drums", "bass", "other", "vocals")


def package(gain: Any, path: Path, gains: tuple[float, ...] = (1, 2, 3, 4)) -> Path:
    network = gain(gain.Arguments())
    network.gains.data = torch.tensor(gains, dtype=torch.float32)
    save_package(path, network)
    return path


@pytest.fixture
def looked(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """List of what was located and read, in order."""
    seen: list[str] = []

    def locating(source: str, *how: Any) -> Any:
        seen.append("located")
        return locate(source, *how)

    def reading(path: Path, **how: Any) -> Any:
        seen.append(Path(path).name)
        return read(path, **how)

    locate, read = describe.locate, checkpoints.read_package
    for module in (describe, load):
        monkeypatch.setattr(module, "locate", locating)
    for module in (checkpoints, load):
        monkeypatch.setattr(module, "read_package", reading)
    yield seen


def test_a_described_checkpoint_is_not_looked_for_again(gain: Any, tmp_path: Path, looked: list[str]) -> None:
    path = package(gain, tmp_path / "model.safetensors")
    for source in (path, tmp_path):
        looked.clear()
        about = describe_model(source)
        network = load_model(source, about=about)
        assert looked == ["located", "model.safetensors"]
        assert network.gains.tolist() == [1, 2, 3, 4] and network.identity.sha256 == about.sha256
        assert network.identity.name == str(source)


def test_a_file_that_was_replaced_is_read_anew(gain: Any, tmp_path: Path, looked: list[str]) -> None:
    path = package(gain, tmp_path / "m.safetensors")
    about = describe_model(path)
    package(gain, path, (9, 9, 9, 9))
    assert load_model(path, about=about).gains.tolist() == [9] * 4
    assert describe_model(path).sha256 != about.sha256
    path.unlink()
    with pytest.raises(CheckpointError, match="no such file"):
        load_model(path, about=about)


def test_a_second_load_reads_the_file_again(gain: Any, tmp_path: Path, looked: list[str]) -> None:
    path = package(gain, tmp_path / "m.safetensors")
    about = describe_model(path)
    first, second = load_model(path, about=about), load_model(path, about=about)
    assert looked == ["located", "m.safetensors", "m.safetensors"] and first.identity == second.identity


def test_the_members_of_a_bag_are_read_once(gain: Any, tmp_path: Path, looked: list[str]) -> None:
    for name in ("00aa", "11aa"):
        package(gain, tmp_path / f"{name}.safetensors")
    (tmp_path / "bag.yaml").write_text("models: [00aa, 11aa]\n")
    about = describe_model(tmp_path / "bag.yaml")
    assert load_model(tmp_path / "bag.yaml", about=about).identity.sha256 == about.sha256
    assert looked == ["located", "00aa.safetensors", "11aa.safetensors"]


def test_members_of_one_stem_each_are_read_once(gain: Any, tmp_path: Path, looked: list[str]) -> None:
    for stem in FOUR:
        save_package(tmp_path / f"{stem}.safetensors", gain(gain.Arguments(sources=(stem,))))
    (tmp_path / "bag.yaml").write_text(f"models: [{', '.join(FOUR)}]\nweights: {torch.eye(4).tolist()}\n")
    assert load_model(tmp_path).stems == FOUR
    assert looked == ["located", *(f"{stem}.safetensors" for stem in FOUR)]


def test_a_repository_is_asked_once(gain: Any, site: Any, tmp_path: Path) -> None:
    content = package(gain, tmp_path / "model.safetensors").read_bytes()
    site.repository("owner/single", {"model.safetensors": content})
    about = describe_model("hf:owner/single")
    site.log.clear()
    assert load_model("hf:owner/single", about=about).stems == FOUR
    assert site.log == []


def test_pickled_a_description_holds_no_tensors(gain: Any, tmp_path: Path) -> None:
    path = package(gain, tmp_path / "m.safetensors")
    about = pickle.loads(pickle.dumps(describe_model(path)))
    assert about == describe_model(path) and load_model(path, about=about).stems == FOUR
    assert len(pickle.dumps(Packages())) < 100
