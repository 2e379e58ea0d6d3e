"""Checkpoints of TensorFlow: read to the bit, also from archives, and refused in one line where damaged."""

import gzip
import random
import tarfile
import time
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from stemsplit import load_model
from stemsplit.errors import CheckpointError
from stemsplit.hub import archives, sstables, tensor_bundles, tensorflow_names
from stemsplit.hub.checkpoints import convert
from stemsplit.hub.crc32c import crc32c
from stemsplit.hub.tensorflow_names import SPLEETER
from stemsplit.models import build
from tests.hub import bundles
from tests.hub.bundles import archive, bundle, message, table, varint

MANY = {f"layer_{i}/kernel": torch.randn(i % 3 + 1, 2) for i in range(100)}


def spleeter(stems: int) -> dict[str, Tensor]:
    """Tensors as Spleeter names them, for networks of the released arguments but of few filters."""
    tensors: dict[str, Tensor] = {"global_step": torch.tensor(7), "beta1_power": torch.tensor(0.9)}

    def add(kind: str, number: int, **parts: Tensor) -> None:
        name = f"{kind}_{number}" if number else kind
        for part, value in parts.items():
            tensors[f"{name}/{part}"] = value
            tensors[f"{name}/{part}/Adam"] = torch.zeros_like(value)

    for stem in range(stems):
        widths = (2, 2, 2, 2, 2, 2, 2)
        for i in range(6):
            add("conv2d", 7 * stem + i, kernel=torch.randn(5, 5, 2, widths[i]), bias=torch.randn(2))
            out, given = (2, 2 if i == 0 else 4) if i < 5 else (1, 4)
            add("conv2d_transpose", 6 * stem + i, kernel=torch.randn(5, 5, out, given), bias=torch.randn(out))
        add("conv2d", 7 * stem + 6, kernel=torch.randn(4, 4, 1, 2), bias=torch.randn(2))
        for i in range(12):
            width = 1 if i == 11 else 2
            parts = {part: torch.rand(width) for part in ("gamma", "beta", "moving_mean", "moving_variance")}
            add("batch_normalization", 12 * stem + i, **parts)
    return tensors


def write(folder: Path, index: bytes, data: bytes) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "model.data-00000-of-00001").write_bytes(data)
    (folder / "model.index").write_bytes(index)
    return folder / "model.index"


@pytest.mark.parametrize("compress", [False, True])
def test_tensors_come_back(tmp_path: Path, compress: bool) -> None:
    tensors = {
        **MANY,
        "empty": torch.zeros(0, 3),
        "scalar": torch.tensor(2.5, dtype=torch.float64),
        "half": torch.randn(3).half(),
        "bf16": torch.randn(2, 2).bfloat16(),
        "count": torch.arange(5),
    }
    path = write(tmp_path, *bundle(tensors, compress=compress, more={"text": message((1, 7), (5, 3))}))
    assert tensor_bundles.is_bundle(path)
    found = tensor_bundles.read(path)
    assert found.keys() == tensors.keys()  # strings are left out
    for name, tensor in tensors.items():
        assert found[name].dtype == tensor.dtype and torch.equal(found[name], tensor)


@pytest.mark.parametrize("size", [0, 1, 2, 31, 1023, 1024, 1025, 5001])
def test_check_values_are_those_of_the_definition(size: int) -> None:
    data = np.random.default_rng(size).integers(0, 256, size, dtype=np.uint8)
    assert bundles.check(data.tobytes()) == sstables.masked(crc32c(data)).to_bytes(4, "little")
    assert crc32c(np.frombuffer(b"123456789", np.uint8)) == 0xE3069283  # RFC 3720, appendix B.4, and others


@pytest.mark.parametrize(
    ("packed", "plain"),
    [
        (b"\x00", b""),
        (b"\x03\x08abc", b"abc"),
        (b"\x0b\x00a\x15\x01\x00b", b"a" * 10 + b"b"),  # one byte, nine copies of it
        (b"\x08\x0cabcd\x03\x04\x00\x00\x00d", None),  # a copy whose offset has four bytes
        (b"\x08\x0cabcd\x01", None),  # a copy that is cut short
        (b"\x3d\xf0\x3c" + b"x" * 61, b"x" * 61),  # a literal whose length follows
    ],
)
def test_snappy(packed: bytes, plain: bytes | None) -> None:
    if plain is None:
        with pytest.raises(sstables.Damaged):
            sstables.decompressed(packed)
    else:
        assert sstables.decompressed(packed) == plain


@pytest.mark.parametrize("stems", [2, 4, 5])
@pytest.mark.parametrize("kind", ["index", "folder", "archive", "plain archive"])
def test_spleeters_files_load_by_path(
    tmp_path: Path, stems: int, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = {"conv_n_filters": (2,) * 6, "T": 64, "F": 64, "frame_length": 256, "frame_step": 64}
    shrunk = {count: {**arguments, **small} for count, arguments in SPLEETER.items()}
    monkeypatch.setattr(tensorflow_names, "SPLEETER", shrunk)
    index, data = bundle(spleeter(stems))
    path = write(tmp_path / "2stems", index, data)
    files = {
        "./checkpoint": b"x",
        "./model.data-00000-of-00001": data,
        "./model.index": index,
        "./m.meta": b"",
    }
    if kind == "folder":
        path = path.parent
    elif kind != "index":
        path = archive(tmp_path / "2stems.tar.gz", files, "w:gz" if kind == "archive" else "w")
    network = load_model(path)
    assert len(network.stems) == stems and network.stems[0] == "vocals"
    assert network.stems[1] == {2: "accompaniment", 4: "drums", 5: "piano"}[stems]
    twin = load_model(convert_to(path, tmp_path)) if kind == "index" else network
    mix = torch.randn(1, 2, 3000 + 2 * network.context_samples)
    with torch.inference_mode():
        assert torch.equal(network(mix), twin(mix))


def convert_to(path: Path, folder: Path) -> Path:
    target = folder / "converted.safetensors"
    convert(path, target)
    return target


def test_a_yaml_file_says_what_a_checkpoint_does_not(tmp_path: Path) -> None:
    path = write(tmp_path, *bundle(spleeter(3)))
    with pytest.raises(CheckpointError, match="3 U-Nets"):
        load_model(path)
    path.with_suffix(".yaml").write_text(
        "family: spleeter\narguments: {instrument_list: [a, b, c], conv_n_filters: [2, 2, 2, 2, 2, 2],"
        " T: 64, F: 64, frame_length: 256, frame_step: 64}"
    )
    assert load_model(path).stems == ("a", "b", "c")


def test_another_network_is_refused_by_the_names_of_its_tensors(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="known network"):
        load_model(write(tmp_path, *bundle(MANY)))


def entry(size: int = 8, shape: tuple[int, ...] = (2,), **changed: int) -> bytes:
    fields = {"dtype": 1, "shard": 0, "offset": 0, "size": size} | changed
    shaped = message(*((2, message((1, side))) for side in shape))
    return message(
        (1, fields["dtype"]),
        (2, shaped),
        (3, fields["shard"]),
        (4, fields["offset"]),
        (5, fields["size"]),
        (6, bundles.check(bytes(8))),
    )


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (entry(offset=1), "lies beyond its end"),
        (entry(offset=2**60), "lies beyond its end"),
        (entry(shard=1), "data file 1 is missing"),
        (entry(size=4), "has 4 bytes"),
        (entry(shape=(2**40, 2**40)), "impossible shape"),
        (entry(shape=(1,) * 9), "impossible shape"),
        (entry() + message((7, b"")), "slices"),
        (entry() + b"\x07", "unknown kind of field"),
        (entry() + b"\x12\xff\xff\xff\xff\x0f", "beyond its end"),
    ],
)
def test_an_entry_that_contradicts_the_file_is_refused(tmp_path: Path, wrong: bytes, said: str) -> None:
    index = table([(b"", message((1, 1))), (b"conv2d/bias", wrong)])
    with pytest.raises(CheckpointError, match=said):
        tensor_bundles.read(write(tmp_path, index, bytes(8)))
    good = table([(b"", message((1, 1))), (b"conv2d/bias", entry())])
    assert torch.equal(tensor_bundles.read(write(tmp_path, good, bytes(8)))["conv2d/bias"], torch.zeros(2))


def test_a_big_endian_checkpoint_is_refused(tmp_path: Path) -> None:
    index = table([(b"", message((1, 1), (2, 1)))])
    with pytest.raises(CheckpointError, match="big-endian"):
        tensor_bundles.read(write(tmp_path, index, b""))


def test_names_in_an_archive_are_no_paths(tmp_path: Path) -> None:
    index, data = bundle({"conv2d/bias": torch.ones(2)})
    inside = tmp_path / "inside"
    inside.mkdir()
    path = archive(inside / "a.tar.gz", {"../../x.data-00000-of-00001": data, "/etc/y.index": index})
    assert tensor_bundles.read(path).keys() == {"conv2d/bias"}
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["a.tar.gz", "inside"]


def test_links_and_several_checkpoints_in_an_archive_are_refused(tmp_path: Path) -> None:
    index, data = bundle({"conv2d/bias": torch.ones(2)})
    path = tmp_path / "a.tar.gz"
    with tarfile.open(path, "w:gz") as tar:
        link = tarfile.TarInfo("model.index")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
    with pytest.raises(CheckpointError, match="has 0 checkpoints"):
        tensor_bundles.read(path)
    twice = archive(path, {"a.index": index, "b.index": index, "a.data-00000-of-00001": data})
    with pytest.raises(CheckpointError, match="has 2 checkpoints"):
        tensor_bundles.read(twice)


def test_a_header_that_swells_is_refused_in_bounded_memory(tmp_path: Path) -> None:
    header = tarfile.TarInfo("x")
    header.type, header.size = tarfile.XHDTYPE, 100_000_000
    path = tmp_path / "a.tar.gz"
    with gzip.open(path, "wb") as file:
        file.write(header.tobuf(tarfile.USTAR_FORMAT))
        for _ in range(100):
            file.write(bytes(1_000_000))
    tracemalloc.start()
    with pytest.raises(CheckpointError):
        tensor_bundles.read(path)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 3 * archives.MOST_PACKED * path.stat().st_size < 100_000_000


def test_an_archive_that_swells_is_refused(tmp_path: Path) -> None:
    index, _ = bundle({"conv2d/bias": torch.ones(2)})
    path = archive(tmp_path / "a.tar.gz", {"m.index": index, "m.data-00000-of-00001": bytes(20_000_000)})
    with pytest.raises(CheckpointError, match="larger than that of any network"):
        tensor_bundles.read(path)


def damaged(good: bytes, generator: random.Random) -> bytes:
    """Content with some bytes changed, cut, doubled or inserted."""
    found = bytearray(good)
    for _ in range(generator.randint(1, 4)):
        at = generator.randrange(len(found))
        kind = generator.choice(("flip", "flip", "set", "cut", "insert", "remove", "end"))
        if kind == "flip":
            found[at] ^= 1 << generator.randrange(8)
        elif kind == "set":
            found[at] = generator.choice((0, 0x7F, 0x80, 0xFF))
        elif kind == "cut":
            del found[at:]
            found += b"\x00"
        elif kind == "insert":
            found[at:at] = generator.randbytes(generator.randint(1, 12))
        elif kind == "remove":
            del found[at : at + generator.randint(1, 12)]
            found += b"\x00"
        else:  # the footer, which says where everything is
            end = max(0, len(found) - 1 - generator.randrange(48))
            found[end] = generator.randrange(256)
    return bytes(found)


@pytest.mark.parametrize("unchecked", [False, True])
def test_two_hundred_damaged_files_give_one_clear_error_each(
    tmp_path: Path, unchecked: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if unchecked:  # so that damage reaches the code behind the check values
        monkeypatch.setattr(sstables, "require_unchanged", lambda *_: None)
    tensors = {f"conv2d_{i}/kernel": torch.randn(2, 3) for i in range(30)}
    index, data = bundle(tensors, compress=True)
    plain, _ = bundle(tensors)
    refused = 0
    for seed in range(100):
        generator = random.Random(seed)
        which = seed % 4
        changed = damaged((index, plain)[which % 2], generator)
        content = damaged(data, generator) if which == 3 else data
        if which == 2:
            path = archive(tmp_path / "a.tar.gz", {"m.index": index, "m.data-00000-of-00001": data})
            path.write_bytes(damaged(path.read_bytes(), generator))
        else:
            path = write(tmp_path / "m", changed, content)
        began = time.process_time()
        tracemalloc.start()
        try:
            found = tensor_bundles.read(path)
        except CheckpointError as error:
            refused += 1
            assert "\n" not in error.reason and str(path) in error.reason
        else:  # what was changed isn't read, such as the end of an archive
            assert unchecked or all(torch.equal(found[name], tensors[name]) for name in found)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert time.process_time() - began < 5 and peak < 20_000_000
    assert refused > (50 if unchecked else 85)


def test_a_number_that_never_ends_is_refused() -> None:
    with pytest.raises(sstables.Damaged, match="endless"):
        sstables.Varints(b"\x80" * 12, 0).next()
    assert sstables.Varints(varint(2**63), 0).next() == 2**63


def test_the_network_is_the_family_of_its_archive(tmp_path: Path) -> None:
    network = build("spleeter", {"conv_n_filters": (2,) * 6})
    state = {name for name in network.state_dict() if "num_batches" not in name}
    assert {
        name for name in tensorflow_names.named(tmp_path, spleeter(2)) if "num_batches" not in name
    } == state
