"""Download, verify and remove the files of models, and add models."""

import hashlib
import os
import shutil
from pathlib import Path

import pytest
import torch
import yaml

from stemsplit import folders
from stemsplit.errors import (
    Cancelled,
    CheckpointError,
    ChecksumError,
    DownloadError,
    ModelUnavailableError,
    OutputError,
    SettingsError,
    UnknownNameError,
)
from stemsplit.events import Notice
from stemsplit.hub.access import Access
from stemsplit.hub.checkpoints import save_package
from stemsplit.hub.load import load_model
from stemsplit.hub.manage import add_model, download_model, is_cached, model_path, remove_model, verify
from stemsplit.hub.registry import find_model, list_models

FOUR = ["drums", "bass", "other", "vocals"]
CONTENT = {name: name.encode() * 1000 for name in ("a.safetensors", "b.safetensors")}


def digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@pytest.fixture
def bag(site):
    """One-hot bag of two members: the first on the hub, the second at a URL."""
    site.repository("owner/model", {"a.safetensors": CONTENT["a.safetensors"]})
    site.files["/w/b.safetensors"] = CONTENT["b.safetensors"]
    hub = {"repo": "owner/model", "revision": "c" * 40, "name": "a.safetensors"}
    places = {"a": {"hub": hub}, "b": {"url": site.url + "/w/b.safetensors"}}
    base = {"stems": ["vocals", "rest"], "sample_rate": 100, "license": "MIT"}
    members = {
        name: {
            **base,
            "family": "gain",
            "files": [{**place, "sha256": digest(CONTENT[f"{name}.safetensors"])}],
        }
        for name, place in places.items()
    }
    models = {"bag": {**base, "bag": {"members": ["a", "b"], "weights": [[1, 0], [0, 1]]}}}
    write({"models": models, "members": members})
    return site


def write(content: object) -> None:
    path = folders.user_registry()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(content))


def own_file() -> dict[str, object]:
    return yaml.safe_load(folders.user_registry().read_text("utf-8"))


class TestFiles:
    def test_the_life_of_a_model(self, bag):
        assert not is_cached("bag")
        with pytest.raises(ModelUnavailableError, match="bag: a.safetensors is not downloaded") as caught:
            model_path("bag")
        assert caught.value.hint == "stemsplit models download bag"
        paths = download_model("bag")
        assert [path.read_bytes() for path in paths] == list(CONTENT.values())
        assert is_cached("bag") and model_path("bag") == paths
        assert [checked.good for checked in verify("bag")] == [True, True]
        entries = folders.user_registry().read_text()
        assert remove_model("bag") == sum(map(len, CONTENT.values()))
        folders.user_registry().write_text(entries)
        assert not is_cached("bag") and not any(path.exists() for path in paths)
        assert not any(p.is_file() for p in (folders.cache_folder() / "files").rglob("*"))

    def test_one_stem(self, bag):
        download_model("bag", stems=["rest"])
        assert bag.gets() == 1 and is_cached("bag", ["rest"]) and not is_cached("bag")

    def test_a_model_without_weights_is_always_there(self):
        assert is_cached("classic") and model_path("classic") == [] and verify("classic") == []
        assert download_model("classic", Access(offline=True)) == [] and remove_model("classic") == 0

    def test_damage_is_found_and_repaired(self, bag):
        paths = download_model("bag")
        for path in paths:
            content = path.read_bytes()
            state = path.stat()
            path.write_bytes(b"?" + content[1:])
            # the same size and time, as on a failing disk
            os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))
        assert [(c.path, c.good) for c in verify("bag")] == [(path, False) for path in paths]
        download_model("bag")
        assert [path.read_bytes() for path in model_path("bag")] == list(CONTENT.values())
        assert [checked.good for checked in verify("bag")] == [True, True]

    def test_what_is_there_is_not_downloaded_again(self, bag):
        seen = []
        download_model("bag", callback=seen.append)
        assert seen[0] == Notice("bag: weights under MIT.")
        bag.log.clear()
        seen.clear()
        download_model("bag", callback=seen.append)
        assert bag.log == [] and seen == []

    def test_offline_and_cancelled(self, bag):
        with pytest.raises(ModelUnavailableError, match="offline"):
            download_model("bag", Access(offline=True))
        with pytest.raises(Cancelled):
            download_model("bag", callback=lambda event: False)

    def test_offline_damage_isn_t_called_absence(self, bag):
        paths = download_model("bag")
        paths[0].write_bytes(b"other")
        with pytest.raises(ChecksumError):
            download_model("bag", Access(offline=True))

    def test_unknown_models(self):
        for function in (is_cached, model_path, download_model, verify, remove_model):
            with pytest.raises(UnknownNameError):
                function("nothing")


class TestOwnModels:
    @pytest.fixture
    def checkpoint(self, gain, tmp_path) -> Path:
        save_package(tmp_path / "mine.safetensors", gain(gain.Arguments()))
        return tmp_path / "mine.safetensors"

    def test_a_local_file(self, checkpoint):
        spec = add_model("mine", checkpoint, license="CC0-1.0")
        assert (spec.family, spec.stems, spec.sample_rate, spec.license) == (
            "gain",
            tuple(FOUR),
            100,
            "CC0-1.0",
        )
        assert find_model("mine") == spec and spec.own and spec in list_models("vocals")
        assert spec.files[0].sha256 == digest(checkpoint.read_bytes())
        assert load_model("mine").identity.name == "mine" and is_cached("mine")
        assert model_path("mine") == [checkpoint]
        assert remove_model("mine") == 0 and checkpoint.exists()
        with pytest.raises(UnknownNameError):
            find_model("mine")

    @pytest.mark.parametrize("name", ["Mine", "mine.yaml", "MINE"])
    def test_every_spelling_of_a_name_removes_it(self, checkpoint, name):
        add_model("mine", checkpoint)
        assert find_model(name).name == "mine"
        remove_model(name)
        with pytest.raises(UnknownNameError):
            find_model("mine")

    def test_what_can_t_be_deleted_is_an_error_and_stays_known(self, checkpoint, site, monkeypatch):
        content = checkpoint.read_bytes()
        site.files["/mine.safetensors"] = content
        add_model("mine", site.url + "/mine.safetensors", sha256=digest(content))

        def refuse(folder):
            raise PermissionError(13, "Permission denied")

        with monkeypatch.context() as patch:
            patch.setattr("stemsplit.hub.manage.shutil.rmtree", refuse)
            with pytest.raises(OutputError, match=r"can't be deleted \(Permission denied\)"):
                remove_model("mine")
        assert is_cached("mine") and remove_model("mine") == len(content)

    def test_a_local_file_that_changes_or_goes(self, checkpoint):
        add_model("mine", checkpoint)
        content = checkpoint.read_bytes()
        checkpoint.write_bytes(content[:-1] + b"?")
        for function in (load_model, download_model):
            with pytest.raises(ChecksumError) as caught:
                function("mine")
            assert caught.value.hint.endswith(f"stemsplit models add NAME {checkpoint} --replace")
        assert checkpoint.exists()
        checkpoint.unlink()
        assert not is_cached("mine")
        for function in (load_model, verify, model_path):
            with pytest.raises(ModelUnavailableError, match="not there any more") as caught:
                function("mine")
            assert caught.value.hint is None

    def test_relative_paths_are_kept_whole(self, checkpoint, monkeypatch):
        monkeypatch.chdir(checkpoint.parent)
        add_model("mine", "mine.safetensors")
        monkeypatch.chdir("/")
        assert model_path("mine") == [checkpoint]

    def test_a_url(self, checkpoint, site):
        content = checkpoint.read_bytes()
        site.files["/mine.safetensors"] = content
        add_model("mine", site.url + "/mine.safetensors", sha256=digest(content)[:10])
        assert find_model("mine").files[0].sha256 == digest(content)  # the whole hash is known now
        assert load_model("mine", offline=True).stems == tuple(FOUR)
        assert remove_model("mine") >= len(content)
        assert site.gets() == 1

    def test_a_url_needs_a_hash_and_the_right_one(self, checkpoint, site):
        site.files["/mine.safetensors"] = checkpoint.read_bytes()
        with pytest.raises(SettingsError, match="a URL needs the sha256"):
            add_model("mine", site.url + "/mine.safetensors")
        with pytest.raises(DownloadError, match="sent a file whose sha256"):
            add_model("mine", site.url + "/mine.safetensors", sha256="01234567")
        with pytest.raises(DownloadError, match="only https"):
            add_model("mine", "http://example.com/m.th", sha256="01234567")
        with pytest.raises(ChecksumError) as caught:
            add_model("mine", checkpoint, sha256="01234567")
        assert caught.value.hint is None
        assert not folders.user_registry().exists()

    @pytest.mark.parametrize("sha256", ["", " ", "0", "0123456", "zzzzzzzz", "0" * 65])
    def test_what_is_no_hash_is_refused_before_anything_is_downloaded(self, checkpoint, site, sha256):
        site.files["/mine.safetensors"] = checkpoint.read_bytes()
        for source in (checkpoint, site.url + "/mine.safetensors"):
            with pytest.raises(SettingsError, match="must be 8 to 64 hexadecimal digits"):
                add_model("mine", source, sha256=sha256)
        assert site.log == []

    def test_a_hash_in_capitals(self, checkpoint):
        add_model("mine", checkpoint, sha256=f" {digest(checkpoint.read_bytes()).upper()}\n")
        assert find_model("mine").files[0].sha256 == digest(checkpoint.read_bytes())

    def test_a_bare_state_dict_with_its_description(self, gain, tmp_path):
        torch.save(gain(gain.Arguments()).state_dict(), tmp_path / "mine.ckpt")
        with pytest.raises(CheckpointError, match="doesn't say what network"):
            add_model("mine", tmp_path / "mine.ckpt")
        (tmp_path / "elsewhere").mkdir()
        (tmp_path / "elsewhere" / "config.yaml").write_text(
            "family: gain\narguments: {hidden: 3, sources: !!python/tuple [drums, bass, other, vocals]}"
        )
        add_model("mine", tmp_path / "mine.ckpt", config=tmp_path / "elsewhere" / "config.yaml")
        shutil.rmtree(tmp_path / "elsewhere")
        assert load_model("mine").stems == tuple(FOUR)
        assert own_file()["models"]["mine"]["arguments"] == {"hidden": 3, "sources": FOUR}

    def test_a_model_without_a_recorded_hash_is_replaced_by_what_its_user_got(self, gain, site, tmp_path):
        entry = {
            "family": "gain",
            "stems": FOUR,
            "sample_rate": 100,
            "license": "MIT",
            "arguments": {"hidden": 3},
        }
        write({"models": {"unhashed": {**entry, "files": [{"url": site.url + "/mine.pt"}]}}})
        with pytest.raises(DownloadError, match="its sha256 isn't known") as caught:
            load_model("unhashed")
        assert caught.value.hint == "get it yourself, then: stemsplit models add NAME mine.pt --replace"
        torch.save(gain(gain.Arguments()).state_dict(), tmp_path / "mine.pt")
        add_model("unhashed", tmp_path / "mine.pt", replace=True)
        assert load_model("unhashed").stems == tuple(FOUR) and site.log == []

    def test_a_file_that_is_no_checkpoint_is_not_kept(self, tmp_path):
        (tmp_path / "mine.th").write_bytes(b"nothing")
        for source in (tmp_path / "mine.th", tmp_path / "missing.th"):
            with pytest.raises(CheckpointError):
                add_model("mine", source)
        (tmp_path / "bag.yaml").write_text("models: [a]")
        with pytest.raises(SettingsError, match="a bag needs no entry: use its path"):
            add_model("mine", tmp_path / "bag.yaml")
        assert not folders.user_registry().exists()

    def test_names(self, checkpoint):
        for name in ("", "a b", "../x", "hf:x", "-m", "a/b"):
            with pytest.raises(SettingsError, match="is not a valid name"):
                add_model(name, checkpoint)
        with pytest.raises(SettingsError, match="there is a model named htdemucs already"):
            add_model("htdemucs", checkpoint)
        add_model("htdemucs", checkpoint, replace=True)
        assert find_model("htdemucs").family == "gain"
        remove_model("htdemucs")
        assert find_model("htdemucs").family == "htdemucs"

    def test_other_entries_stay(self, checkpoint):
        entry = {"family": "gain", "stems": ["a"], "sample_rate": 1, "license": "ö"}
        write({"members": {"x": entry}, "models": {"y": entry}})
        add_model("mine", checkpoint)
        assert list(own_file()["models"]) == ["y", "mine"] and own_file()["members"] == {"x": entry}
        remove_model("y")
        assert list(own_file()["models"]) == ["mine"]

    def test_comments_stay(self, checkpoint):
        write({})
        text = "# mine\nmodels:\n  # nothing yet\n"
        folders.user_registry().write_text(text)
        add_model("one", checkpoint)
        added = folders.user_registry().read_text()
        assert added.startswith("# mine\nmodels:\n  one:\n") and added.endswith("\n  # nothing yet\n")
        add_model("two", checkpoint, license="MIT")
        remove_model("two")
        assert folders.user_registry().read_text() == added
        remove_model("one")
        assert folders.user_registry().read_text() == text

    @pytest.mark.parametrize("text", ["", "# nothing yet\n", "models:\n"])
    def test_a_registry_file_without_entries(self, checkpoint, text):
        write({})
        folders.user_registry().write_text(text)
        add_model("mine", checkpoint)
        assert list(own_file()["models"]) == ["mine"]

    def test_no_change_takes_a_member_from_a_bag(self, bag, gain, tmp_path):
        download_model("bag")
        content = own_file()
        content["models"] |= content.pop("members")
        write(content)
        save_package(tmp_path / "mine.safetensors", gain(gain.Arguments()))
        with pytest.raises(SettingsError, match="bag: member b must be"):
            add_model("b", tmp_path / "mine.safetensors", replace=True)
        with pytest.raises(SettingsError, match="bag: member a must be"):
            remove_model("a")
        assert own_file() == content and is_cached("bag")

    def test_a_half_written_registry_never_stands(self, checkpoint, monkeypatch):
        write({"models": {}})
        before = folders.user_registry().read_bytes()
        monkeypatch.setattr("os.replace", lambda *_: (_ for _ in ()).throw(OSError("no")))
        with pytest.raises(OSError, match="no"):
            add_model("mine", checkpoint)
        assert folders.user_registry().read_bytes() == before
