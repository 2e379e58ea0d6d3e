"""Files of NNabla are read as Sony's programs write them, and refused in one line where damaged."""

import random
import sys
import time
import tracemalloc
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch

from stemsplit import load_model
from stemsplit.errors import CheckpointError, StemsplitError
from stemsplit.hub import nnabla_weights
from stemsplit.hub.checkpoints import build_network, convert, read_package
from stemsplit.hub.registry import find_model
from stemsplit.models.network import Network

h5py = pytest.importorskip("h5py")

FILES = Path(__file__).parents[1] / "data/nnabla"


def test_a_released_file_needs_no_description(tmp_path: Path) -> None:
    package = read_package(FILES / "d3net.zip")
    assert package.family == "d3net" and package.arguments["filter"]
    assert list(package.arguments["targets"]) == ["bass", "vocals"]
    assert package.arguments["targets"]["bass"]["test_patch_len"] == 384
    with pytest.raises(CheckpointError, match="don't fit a d3net"):  # these are smaller
        build_network(package)


@pytest.mark.parametrize(("name", "file"), [("xumx", "x-umx.h5"), ("d3net", "d3net.zip")])
def test_a_registry_entry_decides_on_the_sizes_that_a_file_must_have(name: str, file: str) -> None:
    spec = find_model(name)
    assert spec.files[0].shaped
    package = read_package(FILES / file, family=spec.family, arguments=spec.arguments)
    with pytest.raises(CheckpointError, match="don't fit"):  # these are smaller
        build_network(package)


def test_conversion_gives_the_same_network(tmp_path: Path) -> None:
    target = tmp_path / "xumx.safetensors"
    convert(FILES / "x-umx.h5", target)
    networks: list[Network] = [build_network(read_package(path)) for path in (FILES / "x-umx.h5", target)]
    mix = torch.randn(1, 2, 3000)
    with torch.inference_mode():
        assert torch.equal(*(network.estimate(mix) for network in networks))


def test_without_h5py_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(StemsplitError) as caught:
        load_model(FILES / "x-umx.h5")
    assert caught.value.hint == "pip install 'stemsplit-cli[hdf5]'"


def linked(path: Path, kind: str) -> None:
    with h5py.File(path, "w") as file:
        if kind == "link":
            file["vocals/decode_bias"] = h5py.ExternalLink("/etc/passwd", "/")
        elif kind == "soft link":
            file["vocals/decode_bias"] = h5py.SoftLink("/vocals")
        elif kind == "storage":
            file.create_dataset("vocals/decode_bias", (4,), "f4", external=[("/etc/passwd", 0, 16)])
        else:
            layout = h5py.VirtualLayout((4,), "f4")
            layout[:] = h5py.VirtualSource("/etc/passwd", "x", (4,))
            file.create_virtual_dataset("vocals/decode_bias", layout)


@pytest.mark.parametrize("kind", ["link", "soft link", "storage", "virtual"])
def test_other_files_are_not_read(tmp_path: Path, kind: str) -> None:
    linked(tmp_path / "a.h5", kind)
    with pytest.raises(CheckpointError, match=r"isn't followed|isn't read"):
        nnabla_weights.read(tmp_path / "a.h5")


def test_sizes_are_bounded(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:  # which has few bytes: chunks that aren't there are zeros
        file.create_dataset("vocals/decode_bias", (2**40,), "f4", chunks=(2**20,))
    with pytest.raises(CheckpointError, match="larger than those of any network"):
        nnabla_weights.read(tmp_path / "a.h5")
    with zipfile.ZipFile(tmp_path / "b.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.h5", bytes(100_000_000))
    with pytest.raises(CheckpointError, match="larger than that of any network"):
        nnabla_weights.read(tmp_path / "b.zip")


@pytest.mark.parametrize("parameters", [{}, {"conv/W": [1.0]}, {"fc1_a/affine/W": [[1.0]], "other/x": [1.0]}])
def test_other_networks_are_refused(tmp_path: Path, parameters: dict[str, Any]) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        for name, value in parameters.items():
            file.create_dataset(name, data=value)
    with pytest.raises(CheckpointError, match="known network"):
        nnabla_weights.read(tmp_path / "a.h5")


@pytest.mark.slow
def test_two_hundred_damaged_files_give_one_clear_error_each(tmp_path: Path) -> None:
    good = (FILES / "x-umx.h5").read_bytes()
    state = nnabla_weights.read(FILES / "x-umx.h5").state
    refused = 0
    for seed in range(200):
        generator = random.Random(seed)
        content = bytearray(good if seed % 4 else (FILES / "d3net.zip").read_bytes())
        for _ in range(generator.randint(1, 40)):
            at = generator.randrange(len(content))
            content[at] = generator.choice((0, 0xFF, content[at] ^ 1 << generator.randrange(8)))
        if seed % 3 == 0:
            del content[generator.randrange(len(content)) :]
        path = tmp_path / f"{seed}.h5"
        path.write_bytes(content)
        began = time.process_time()
        tracemalloc.start()
        try:
            found = nnabla_weights.read(path)
        except CheckpointError as error:
            refused += 1
            assert "\n" not in error.reason
        else:  # HDF5 has no check values: weights may have changed, as in any file that is no archive
            assert found.family == "d3net" or found.state.keys() <= state.keys()
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert time.process_time() - began < 5 and peak < 20_000_000
        path.unlink()
    assert refused > 100
