"""Networks in archives run by their names, and damaged archives are refused in one line.

A local server stands in for the archives' hosts, through `STEMSPLIT_MIRROR`.
"""

import hashlib
import io
import random
import shutil
import sys
import time
import tracemalloc
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner

from stemsplit import load_model
from stemsplit.cli.main import main
from stemsplit.errors import CheckpointError, DownloadError, ModelUnavailableError, StemsplitError
from stemsplit.hub import archives, catalogue, download, manage
from stemsplit.hub.access import Access
from stemsplit.hub.archives import BadArchive
from stemsplit.hub.registry import find_model
from stemsplit.models import build
from stemsplit.models.network import Network
from tests.hub.bundles import archive, bundle
from tests.models.test_contract import FIRST_WAVE_U_NET, LASAFT, LASAFT_V2, WAVE_U_NET
from tests.models.test_first_wave_u_net import written

FIRST = ("wave_u_net_m4", "wave_u_net_m5", "wave_u_net_m6")


def zipped(files: Mapping[str, bytes], compression: int = zipfile.ZIP_DEFLATED) -> bytes:
    """A zip archive of files by name."""
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w", compression) as made:
        for name, content in files.items():
            made.writestr(name, content)
    return target.getvalue()


def seven(files: Mapping[str, bytes], *, encoded: bool = True) -> bytes:
    """A 7z archive of files by name, all in one block as 7-Zip makes them; `encoded`: so are their names."""
    py7zr = pytest.importorskip("py7zr")
    target = io.BytesIO()
    with py7zr.SevenZipFile(target, "w") as made:
        made.set_encoded_header_mode(encoded)
        for name, content in files.items():
            made.writestr(content, name)
    return target.getvalue()


def saved(network: Network) -> bytes:
    """A checkpoint as the second Wave-U-Net's program and LaSAFT's write it."""
    file = io.BytesIO()
    torch.save({"model_state_dict": network.state_dict(), "state": {"step": 7}}, file)
    return file.getvalue()


def shrink(monkeypatch: pytest.MonkeyPatch, name: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Make a network of the catalogue small; return its arguments."""
    row: Any = catalogue.load().rows[name]
    sizes = {key: value for key, value in arguments.items() if key not in ("sources", "instruments")}
    small = {**sizes, **row.get("arguments", {})}
    monkeypatch.setitem(row, "arguments", small)
    return small


@pytest.fixture
def world(site, monkeypatch):
    """The server, which answers for every host."""
    monkeypatch.setenv("STEMSPLIT_MIRROR", site.url)

    def put(name: str, content: bytes) -> None:
        url = find_model(name).files[0].url
        site.files["/" + url.removeprefix("https://").split("?")[0]] = content

    site.put = put
    return site


@pytest.fixture
def first(world, tmp_path, monkeypatch):
    """The first Wave-U-Net's archive with three networks, in a folder of their own; the networks by name."""
    files, networks = {"models/README.md": b"read me"}, {}
    for name in FIRST:
        place = tmp_path / name
        place.mkdir()
        networks[name] = written(place, shrink(monkeypatch, name, FIRST_WAVE_U_NET))
        for file in place.iterdir():
            member = find_model(name).files[0].member
            files[f"models/{member}/{member}-7{file.name.removeprefix('model-7')}"] = file.read_bytes()
            files[f"__MACOSX/models/{member}/._{file.name}"] = b"attributes"
    world.content = zipped(files)
    world.put(FIRST[0], world.content)
    world.networks = networks
    return world


@pytest.fixture
def second(world, monkeypatch):
    """The second Wave-U-Net's archive, and its network."""
    world.network = build("wave_u_net", shrink(monkeypatch, "wave_u_net", WAVE_U_NET)).eval()
    others = {"waveunet/old_model": b"old", "waveunet/log": b"log" * 1000}
    world.content = seven({**others, "waveunet/model": saved(world.network)})
    world.put("wave_u_net", world.content)
    return world


def copies(name: str) -> list[Path]:
    """The files that were taken out of a model's archive."""
    folder = download.url_path(find_model(name).files[0].url or "").parent
    return [path for path in folder.glob("unpacked/**/*") if path.is_file()]


def same(network: Any, other: Network) -> bool:
    found, wanted = network.state_dict(), other.state_dict()
    return found.keys() == wanted.keys() and all(torch.equal(found[key], wanted[key]) for key in wanted)


def test_three_networks_of_one_archive_run_by_their_names(first):
    with pytest.raises(DownloadError, match="no hash of it is known") as caught:
        load_model(FIRST[0])
    assert "--trust-first" in caught.value.hint and first.gets() == 0
    for name in FIRST:
        assert same(load_model(name, trust_first=name == FIRST[0]), first.networks[name])
    assert first.gets() == 1 and copies(FIRST[0]) == []  # one download, and read into memory
    shown = CliRunner().invoke(main, ["models", "info", FIRST[1]]).output
    assert "models.zip (full_44KHz)  sha256 " in shown and "unknown" not in shown  # it is recorded
    assert manage.is_cached(FIRST[1]) and manage.remove_model(FIRST[0]) >= len(first.content)
    assert not manage.is_cached(FIRST[1])


def test_an_archive_that_was_downloaded_by_hand_is_added_by_its_path(first, tmp_path):
    path = tmp_path / "models.zip"
    path.write_bytes(first.content)
    spec = manage.add_model(FIRST[2], path, replace=True)
    assert spec.files[0].member == "full_multi_instrument" and spec.stems == first.networks[FIRST[2]].stems
    assert same(load_model(FIRST[2]), first.networks[FIRST[2]]) and first.gets() == 0


def test_a_7z_archive_is_unpacked_once_and_runs_by_its_name(second):
    network = load_model("wave_u_net", trust_first=True)
    assert same(network, second.network)
    [copy] = copies("wave_u_net")
    assert copy.name == "model" and second.gets() == 1
    made = copy.stat()
    assert same(load_model("wave_u_net", offline=True), second.network)
    assert (copy.stat().st_ino, copy.stat().st_mtime_ns) == (made.st_ino, made.st_mtime_ns)


@pytest.mark.parametrize("damage", [lambda b: b[:-1], lambda b: bytes([b[0] ^ 1]) + b[1:]])
def test_a_copy_that_was_damaged_is_made_again(second, damage):
    load_model("wave_u_net", trust_first=True)
    [copy] = copies("wave_u_net")
    content = copy.read_bytes()
    copy.write_bytes(damage(content))
    assert same(load_model("wave_u_net"), second.network) and copy.read_bytes() == content


def test_a_model_is_removed_with_what_was_unpacked(second):
    load_model("wave_u_net", trust_first=True)
    [copy] = copies("wave_u_net")
    size = copy.stat().st_size
    assert manage.remove_model("wave_u_net") >= len(second.content) + size
    assert not copy.exists() and not manage.is_cached("wave_u_net")


def test_a_7z_archive_by_hand_leaves_no_copy_after_its_entry(second, tmp_path):
    path = tmp_path / "mine.7z"
    path.write_bytes(second.content)
    manage.add_model("wave_u_net", path, replace=True)
    assert same(load_model("wave_u_net"), second.network)
    folder = archives.folder_of(path)
    assert [file.name for file in folder.rglob("*") if file.is_file()] == ["model"]
    assert manage.remove_model("wave_u_net") > 0 and not folder.exists() and path.exists()


def test_without_py7zr_the_extra_is_named_before_the_download(world, monkeypatch):
    monkeypatch.setitem(sys.modules, "py7zr", None)
    for load in (load_model, lambda name, **how: manage.download_model(name, Access(**how))):
        with pytest.raises(StemsplitError) as caught:
            load("wave_u_net", trust_first=True)
        assert caught.value.hint == "pip install 'stemsplit-cli[archives]'" and world.log == []


def test_a_7z_archive_by_path_is_to_be_unpacked(tmp_path):
    path = tmp_path / "a.7z"
    path.write_bytes(archives.MAGIC_7Z + bytes(100))
    with pytest.raises(CheckpointError, match="which file to take") as caught:
        load_model(path)
    assert "unpack it" in str(caught.value.hint)


def test_lasaft_runs_by_its_name(world, monkeypatch):
    network = build("lasaft", shrink(monkeypatch, "lasaft", LASAFT)).eval()
    content = saved(network)
    row: Any = catalogue.load().rows["lasaft"]
    digest = {"sha256": hashlib.sha256(content).hexdigest(), "size": len(content)}
    monkeypatch.setitem(row, "files", [{**row["files"][0], **digest}])
    world.put("lasaft", content)
    assert same(load_model("lasaft"), network)


@pytest.mark.parametrize("name", ["lasaft_v2_large", "lasaft_v2_light"])
def test_lasaft_net_v2_runs_by_name_and_by_path(world, monkeypatch, name, tmp_path):
    """Its file is known by git's hash only."""
    activation = {"activation": build("lasaft_v2", find_model(name).arguments).arguments.activation}
    small = shrink(monkeypatch, name, LASAFT_V2 | activation)
    network = build("lasaft_v2", small).eval()
    content = saved(network)
    row: Any = catalogue.load().rows[name]
    digest = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
    monkeypatch.setitem(row, "files", [{**row["files"][0], "git": digest}])
    world.put(name, content)
    path = tmp_path / "epoch=1.ckpt"
    path.write_bytes(content)
    for found in (load_model(path), load_model(name)):
        assert same(found, network) and found.arguments.activation == activation["activation"]
    path.write_bytes(saved(build("lasaft_v2", small)))
    with pytest.raises(CheckpointError, match="doesn't say what network"):
        load_model(path)


# ---------------------------------------------------------------- damage


def damaged(content: bytes, seed: int) -> bytes:
    """Content that is cut, or of which some bytes are others."""
    generator, found = random.Random(seed), bytearray(content)
    if seed % 4 == 0:
        return bytes(found[: generator.randrange(len(found))])
    for _ in range(generator.randint(1, 4)):
        # half of them at the end, where the lists of files are
        at = generator.randrange(len(found)) if seed % 2 else len(found) - 1 - generator.randrange(200)
        found[at] ^= 1 << generator.randrange(8)
    return bytes(found)


@pytest.mark.parametrize("kind", ["zip", "7z", "tar.gz"])
def test_a_hundred_damaged_archives_give_one_clear_error_each(tmp_path, kind):
    index, data = bundle({f"conv2d_{i}/kernel": torch.randn(20, 30) for i in range(5)})
    files = {"other": b"x" * 5000, "net/m.index": index, "net/m.data-00000-of-00001": data}
    path = tmp_path / f"a.{kind}"
    if kind == "tar.gz":
        archive(path, files)
    else:
        path.write_bytes(zipped(files) if kind == "zip" else seven(files))
    good, refused = path.read_bytes(), 0
    for seed in range(100):
        path.write_bytes(damaged(good, seed))
        shutil.rmtree(archives.folder_of(path), ignore_errors=True)  # else an earlier copy is taken
        began = time.process_time()
        tracemalloc.start()
        try:
            found = taken(path, "net/m.data-00000-of-00001")
        except (CheckpointError, BadArchive) as error:
            refused += 1
            assert "\n" not in error.reason and len(error.reason) < 200
        else:  # a tar has no check values beside gzip's, which is at its end; TensorFlow's index has
            assert found == data or kind == "tar.gz"
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert time.process_time() - began < 2 and peak < 20_000_000
    assert refused > (30 if kind == "tar.gz" else 70)


def taken(path: Path, member: str) -> bytes:
    """The only file of that name in an archive."""
    if archives.kind(path) == "7z":
        return archives.unpacked(path, member).read_bytes()
    found = list(archives.contents(path, archives.within(member)))
    if len(found) != 1:
        raise BadArchive("not there")
    return bytes(found[0][1])


def test_a_zip_with_a_file_of_false_size_is_refused(tmp_path):
    content = bytes(range(250)) * 40
    good = zipped({"net": content})
    for size in (len(content) - 1, len(content) + 1, 100, 900_000):
        stated = len(content).to_bytes(4, "little")
        assert good.count(stated) == 2  # in the file's header and in the list of files
        path = tmp_path / "a.zip"
        path.write_bytes(good.replace(stated, size.to_bytes(4, "little")))
        with pytest.raises(BadArchive, match="damaged|larger than that of any network"):
            taken(path, "net")


def test_a_zip_that_is_compressed_otherwise_is_refused(tmp_path):
    path = tmp_path / "a.zip"
    path.write_bytes(zipped({"net": bytes(5000)}, zipfile.ZIP_LZMA))
    with pytest.raises(BadArchive, match="unusual way"):
        taken(path, "net")


@pytest.mark.parametrize("make", [zipped, seven])
def test_an_archive_that_swells_is_refused(tmp_path, make):
    path = tmp_path / "a"
    path.write_bytes(make({"net": bytes(30_000_000)}))
    tracemalloc.start()
    with pytest.raises((BadArchive, CheckpointError), match="larger than that of any network"):
        taken(path, "net")
    assert tracemalloc.get_traced_memory()[1] < 20_000_000  # 7z's decoder takes 16 MB
    tracemalloc.stop()


def test_a_7z_with_a_long_list_of_files_is_refused(tmp_path):
    path = tmp_path / "a.7z"
    good = bytearray(seven({"net": b"x" * 100}))
    good[20:28] = (1 << 40).to_bytes(8, "little")
    path.write_bytes(good)
    with pytest.raises(CheckpointError, match="larger than that of any network"):
        taken(path, "net")


def renamed(content: bytes, name: str, other: str) -> bytes:
    """A 7z archive with another name of the same length, and the check values that belong to it."""
    found = bytearray(content.replace(name.encode("utf-16-le"), other.encode("utf-16-le")))
    assert found != content
    start, size = (int.from_bytes(found[at : at + 8], "little") for at in (12, 20))
    found[28:32] = zlib.crc32(found[32 + start : 32 + start + size]).to_bytes(4, "little")
    found[8:12] = zlib.crc32(found[12:32]).to_bytes(4, "little")
    return bytes(found)


@pytest.mark.parametrize("name", ["../../net", "/a/../net", "a/../.net"])
def test_names_in_an_archive_are_no_paths(tmp_path, name):
    inside = tmp_path / "deep/er"
    inside.mkdir(parents=True)
    path = inside / "a"
    path.write_bytes(zipped({name: b"x" * 1000}))
    assert taken(path, Path(name).name) == b"x" * 1000
    path.write_bytes(renamed(seven({"aa/bb/net": b"x" * 1000}, encoded=False), "aa/bb/net", name))
    try:
        assert taken(path, Path(name).name) == b"x" * 1000
    except CheckpointError as error:
        assert "Specified path is bad" in error.reason
    outside = {file for file in tmp_path.rglob("*") if file.is_file() and file != path}
    assert all(file.is_relative_to(archives.folder_of(path)) for file in outside)


@pytest.mark.parametrize("name", [FIRST[0], "wave_u_net"])
@pytest.mark.parametrize("lack", ["missing", "twice", "no archive", "another network"])
def test_an_archive_without_the_network_is_refused_and_not_kept(request, name, lack, tmp_path):
    site = request.getfixturevalue("first" if name == FIRST[0] else "second")
    make = zipped if name == FIRST[0] else seven
    member = find_model(name).files[0].member
    index, data = bundle({"separator/conv1d/bias": torch.zeros(3)})
    network = {"m.index": index, "m.data-00000-of-00001": data} if name == FIRST[0] else {"": b"\x80"}
    one, two = (
        {f"{place}/{member}/{part}".rstrip("/"): inside for part, inside in network.items()} for place in "ab"
    )
    content = {
        "missing": lambda: make({"something/else": b"x"}),
        "twice": lambda: make(one | two),
        "no archive": lambda: b"<html>Not found</html>",
        "another network": lambda: make(one),
    }[lack]()
    site.put(name, content)
    said = {"missing": "has 0", "twice": "has 2|several", "no archive": "not a"}
    with pytest.raises(ModelUnavailableError, match=said.get(lack, "don't fit|not a readable")) as caught:
        load_model(name, trust_first=True)
    assert "\n" not in caught.value.reason
    assert not manage.is_cached(name)
