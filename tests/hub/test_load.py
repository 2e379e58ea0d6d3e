"""Load networks by name, path and repository."""

import hashlib
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import save

from stemsplit import folders
from stemsplit.core.stream import separate_array
from stemsplit.errors import (
    Cancelled,
    CheckpointError,
    ChecksumError,
    DownloadError,
    ModelUnavailableError,
    SettingsError,
    UnknownNameError,
)
from stemsplit.events import Download, Event, Notice
from stemsplit.hub import verified
from stemsplit.hub.checkpoints import save_package
from stemsplit.hub.describe import describe_model
from stemsplit.hub.load import load_model
from stemsplit.models.bag import Bag
from stemsplit.models.network import Network
from stemsplit.separation.separator import Separator

FOUR = ("drums", "bass", "other", "vocals")
COMMIT = "c" * 40
MIX = torch.linspace(-1, 1, 200).reshape(1, 2, 100)


def package(gain, folder: Path, name: str, gains=(1.0, 2.0, 3.0, 4.0)) -> Path:
    network = gain(gain.Arguments())
    network.gains.data[:] = torch.tensor(gains)
    save_package(folder / name, network)
    gain.built = 0
    return folder / name


def separated(model: Network | Bag) -> torch.Tensor:
    """Return the stems of `MIX`, [1, S, 2, 100]."""
    return separate_array(model, MIX[0])[None]


def sha(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def own(models: dict[str, object], members: dict[str, object] | None = None) -> None:
    path = folders.user_registry()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump({"models": models, "members": members or {}}))


def entry(**more: object) -> dict[str, object]:
    return {"family": "gain", "stems": list(FOUR), "sample_rate": 100, "license": "MIT", **more}


def hub_file(name: str, content: bytes) -> dict[str, object]:
    return {
        "hub": {"repo": "owner/model", "revision": COMMIT, "name": name},
        "sha256": hashlib.sha256(content).hexdigest(),
        "size": len(content),
    }


class TestPaths:
    def test_a_checkpoint(self, gain, tmp_path):
        path = package(gain, tmp_path, "m.safetensors")
        for source in (path, str(path)):
            network = load_model(source)
            assert network.identity is not None
            assert (network.identity.name, network.identity.sha256) == (str(path), sha(path))
            assert torch.equal(network(MIX)[:, 3], 4 * MIX) and not network.training

    def test_a_folder_with_a_model(self, gain, tmp_path):
        package(gain, tmp_path, "model.safetensors")
        (tmp_path / "notes.yaml").write_text("unrelated: true")
        assert load_model(tmp_path).stems == FOUR

    def test_narrowed_with_a_segment(self, gain, tmp_path):
        network = load_model(
            package(gain, tmp_path, "m.safetensors"), stems=["vocals", "bass"], segment_s=0.5
        )
        assert network.stems == ("bass", "vocals") and network.segment_samples == 50
        assert torch.equal(network(MIX)[:, 0], 2 * MIX)

    def test_all_stems_narrow_nothing(self, gain, tmp_path):
        assert not load_model(package(gain, tmp_path, "m.safetensors"), stems=FOUR[::-1]).narrowed

    def test_unknown_stem(self, gain, tmp_path):
        with pytest.raises(UnknownNameError, match="no stem named 'piano'"):
            load_model(package(gain, tmp_path, "m.safetensors"), stems=["piano"])

    def test_no_stem_at_all(self):
        with pytest.raises(SettingsError, match="no stem"):
            load_model("classic", stems=[])

    @pytest.mark.parametrize("source", ["./nothing", "nothing.th", "a/b/c.ckpt", "nothing.yaml"])
    def test_what_looks_like_a_path_is_one(self, source):
        with pytest.raises(CheckpointError, match="no such file"):
            load_model(source)

    def test_what_does_not_is_a_name(self):
        with pytest.raises(UnknownNameError) as caught:
            load_model("htdemuc")
        assert caught.value.hint == "did you mean htdemucs?"

    def test_a_registered_name_goes_before_a_file(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        Path("classic").write_text("a file of that name")
        assert load_model("classic").identity == load_model("classic").identity
        with pytest.raises(CheckpointError):
            load_model("./classic")

    def test_an_empty_folder(self, tmp_path):
        (tmp_path / "._bag.yaml").write_bytes(bytes(4096))  # a Mac's
        with pytest.raises(CheckpointError, match="holds no model.safetensors, and 0 .yaml files"):
            load_model(tmp_path)


class TestBagsBesideTheirMembers:
    @pytest.fixture
    def bag(self, gain, tmp_path):
        """A one-hot bag: member i estimates its own stem ten times as loud as the next."""
        for i in range(4):
            gains = [0.5] * 4
            gains[i] = 10.0**i
            package(gain, tmp_path, f"{i}{i}aa.safetensors", gains)
        weights = torch.eye(4).tolist()
        self.write(tmp_path, models=[f"{i}{i}aa" for i in range(4)], weights=weights)
        return tmp_path / "bag.yaml"

    def write(self, folder: Path, **content: object) -> None:
        (folder / "bag.yaml").write_text(yaml.safe_dump(content))

    def test_by_its_path_and_by_its_folder(self, bag):
        for source in (bag, bag.parent):
            network = load_model(source)
            assert isinstance(network, Bag) and len(network.members) == 4
            expected = torch.stack([gain * MIX for gain in (1, 10, 100, 1000)], dim=1)
            torch.testing.assert_close(separated(network), expected)

    def test_one_stem_loads_one_member(self, bag, gain, monkeypatch):
        hashed: list[str] = []
        digest = verified.digest
        monkeypatch.setattr(verified, "digest", lambda path: hashed.append(path.name) or digest(path))
        network = load_model(bag, stems=["other"])
        torch.testing.assert_close(separated(network)[:, 0], 100 * MIX)
        assert len(network.members) == 1 and hashed == ["22aa.safetensors"]
        assert gain.built == 2  # the member, and the first one without weights for the names of the stems
        for other in (0, 1, 3):
            content = (bag.parent / f"{other}{other}aa.safetensors").read_bytes()
            (bag.parent / f"{other}{other}aa.safetensors").write_bytes(content[:-1] if other else content)
        assert load_model(bag, stems=["other"]).stems == ("other",)
        with pytest.raises(CheckpointError, match="11aa"):
            load_model(bag, stems=["bass"])

    def test_equal_weights_and_a_segment(self, bag, gain):
        self.write(bag.parent, models=["00aa", "11aa", "00aa"], segment=0.25)
        network = load_model(bag)
        assert [m.segment_samples for m in network.members] == [25] * 3
        torch.testing.assert_close(separated(network)[:, 0], MIX * (1 + 0.5 + 1) / 3)

    def test_a_segment_beyond_the_networks_limit_is_cut(self, bag, gain, monkeypatch):
        """As demucs does for HT Demucs, which can't take longer chunks than its own."""
        monkeypatch.setattr(gain, "longest_segment_samples", lambda self: 100)
        self.write(bag.parent, models=["00aa"], segment=44)
        assert {m.segment_samples for m in load_model(bag).members} == {100}
        with pytest.raises(SettingsError):
            load_model(bag, segment_s=44)

    def test_an_impossible_segment_is_named_by_its_key(self, bag, gain):
        self.write(bag.parent, models=["00aa"], segment=0)
        with pytest.raises(CheckpointError, match=r"yaml: segment 0: Gain takes chunks of at least one"):
            load_model(bag)
        own({"mine": {**entry(), "family": "nmf", "stems": ["drums", "other"], "segment_s": 0}})
        with pytest.raises(CheckpointError, match="mine: segment_s 0: NMF takes chunks of at least one"):
            load_model("mine")

    def test_a_hash_in_a_members_name_is_checked(self, bag, gain):
        self.write(bag.parent, models=["99aa"])
        network = gain(gain.Arguments())
        path = bag.parent / "99aa.part"
        content = {"klass": None}
        state = {"state": network.state_dict(), **content}
        del state["klass"]
        torch.save(state, path)
        (bag.parent / f"99aa-{sha(path)[:8]}.yaml").write_text("family: gain")
        path.rename(bag.parent / f"99aa-{sha(path)[:8]}.th")
        assert torch.equal(load_model(bag).members[0].gains, network.gains)
        next(bag.parent.glob("99aa-*.th")).rename(bag.parent / "99aa-01234567.th")
        with pytest.raises(ChecksumError, match="expected 01234567"):
            load_model(bag)

    @pytest.mark.parametrize(
        "content, said",
        [
            ({"models": []}, "not a bag of models"),
            ({"models": ["00aa"], "weights": [[1] * 4] * 2}, "differ in length"),
            ({"models": ["00aa"], "weights": [[1] * 3]}, "every row of weights needs 4 values"),
            ({"models": ["00aa"], "weights": [[1, 1, 1, 0]]}, "no member has a weight for vocals"),
            (
                {"models": ["00aa"], "colour": "red"},
                "colour: no such key; choose from models, weights, segment",
            ),
            ({"models": ["missing"]}, "its member missing is there 0 times"),
            ({"models": ["../bag"]}, "its member ../bag isn't beside it"),
            ({"family": "gain"}, "models is missing"),
        ],
    )
    def test_malformed(self, bag, content, said):
        self.write(bag.parent, **content)
        with pytest.raises(ModelUnavailableError, match=said):
            load_model(bag)

    def test_members_that_do_not_go_together(self, bag, gain):
        network = gain(gain.Arguments(samplerate=200))
        save_package(bag.parent / "22bb.safetensors", network)
        self.write(bag.parent, models=["00aa", "22bb"])
        with pytest.raises(ModelUnavailableError, match="members differ"):
            load_model(bag)

    def test_a_described_bag_is_that_bag(self, bag):
        found = describe_model(bag)
        assert found.stems == FOUR and found.name == str(bag)
        assert found.sha256 == load_model(bag).identity.sha256


class TestRegistry:
    @pytest.fixture
    def remote(self, gain, site, tmp_path):
        """Three members on the hub, one-hot for the first three stems; the third has the last as well."""
        members = {}
        files = {}
        for i in range(3):
            path = package(gain, tmp_path, f"{i}.safetensors", (10.0**i,) * 4)
            files[path.name] = path.read_bytes()
            members[f"m{i}"] = entry(files=[hub_file(path.name, files[path.name])])
        weights = [[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 1]]
        bag = entry(bag={"members": list(members), "weights": weights}, segment_s=0.75)
        del bag["family"]
        own({"bag": bag, "one": entry(files=members["m1"]["files"], inference={"overlap": 0.5})}, members)
        site.repository("owner/model", files)
        return site

    def test_a_single_model(self, remote):
        network = load_model("one")
        torch.testing.assert_close(separated(network)[:, 0], 10 * MIX)
        assert network.identity.name == "one" and len(network.identity.sha256) == 64
        assert network.overlap == 0.5

    def test_a_bag(self, remote):
        network = load_model("bag")
        assert [m.segment_samples for m in network.members] == [75] * len(network.members)
        expected = torch.stack([MIX, 10 * MIX, 100 * MIX, 100 * MIX], dim=1)
        torch.testing.assert_close(separated(network), expected)

    def test_one_stem_of_a_bag_downloads_and_loads_one_member(self, remote, gain):
        network = load_model("bag", stems=["bass"])
        assert remote.gets("1.safetensors") == 1 and remote.gets() == 1 and gain.built == 1
        torch.testing.assert_close(separated(network)[:, 0], 10 * MIX)
        load_model("bag", stems=["vocals"])
        assert remote.gets() == 2

    def test_once_downloaded_no_connection_is_opened(self, remote):
        load_model("bag")
        remote.log.clear()
        load_model("bag", offline=True)
        load_model("bag")
        assert remote.log == []

    def test_offline(self, remote):
        with pytest.raises(ModelUnavailableError, match="offline") as caught:
            load_model("bag", offline=True)
        assert caught.value.model == "bag" and remote.log == []

    def test_an_unknown_stem_is_told_before_anything_is_downloaded(self, remote):
        with pytest.raises(UnknownNameError, match="no stem named 'piano'"):
            load_model("bag", stems=["piano"])
        assert remote.log == []

    def test_the_licence_is_told_with_the_first_download(self, remote):
        seen: list[Event] = []
        load_model("one", callback=seen.append)
        assert seen[0] == Notice("one: weights under MIT.") and isinstance(seen[-1], Download)
        seen.clear()
        load_model("one", callback=seen.append)
        assert seen == []

    def test_the_licence_of_a_bag_is_told_once(self, remote):
        seen: list[Event] = []
        load_model("bag", callback=seen.append)
        assert [event for event in seen if isinstance(event, Notice)] == [Notice("bag: weights under MIT.")]

    def test_cancelling_stops_before_the_first_byte(self, remote):
        with pytest.raises(Cancelled):
            load_model("bag", callback=lambda event: False)
        assert remote.log == []

    def test_damage_in_the_cache_is_told_with_what_to_do(self, remote):
        load_model("one")
        path = next(p for p in (folders.cache_folder().parent / "hf").rglob("1.safetensors"))
        path.write_bytes(b"\0" * 10)
        with pytest.raises(ChecksumError) as caught:
            load_model("one")
        assert "stemsplit models download one" in (caught.value.hint or "")

    def test_weights_of_another_model_are_refused(self, remote, gain, tmp_path):
        other = gain(gain.Arguments(sources=("speech", "noise")))
        save_package(tmp_path / "other.safetensors", other)
        content = (tmp_path / "other.safetensors").read_bytes()
        remote.repository("owner/model", {"other.safetensors": content})
        own({"wrong": entry(files=[hub_file("other.safetensors", content)])})
        with pytest.raises(CheckpointError, match="it estimates speech, noise, not what wrong does"):
            load_model("wrong")

    def test_described_without_loading(self, remote, gain):
        found = describe_model("bag")
        assert found.stems == FOUR and remote.log == [] and gain.built == 0
        assert found.sha256 == load_model("bag").identity.sha256
        assert describe_model("one").sha256 == load_model("one").identity.sha256
        assert describe_model("classic").sha256 is None

    def test_a_residual_stem(self, remote, gain, tmp_path):
        voice = gain(gain.Arguments(sources=("vocals",)))
        voice.gains.data[:] = 0.25
        content = save(voice.state_dict())
        remote.repository("owner/model", {"voice.safetensors": content})
        file = hub_file("voice.safetensors", content)
        own(
            {
                "voice": entry(
                    stems=["vocals"], residual="other", arguments={"sources": ["vocals"]}, files=[file]
                )
            }
        )
        assert describe_model("voice").stems == ("vocals", "other")
        both = load_model("voice")
        assert (both.stems, both.residual) == (("vocals",), "other")
        assert torch.equal(both(MIX), 0.25 * MIX[:, None])
        rest = load_model("voice", stems=["Other"], segment_s=0.5)
        assert (rest.stems, rest.residual, rest.segment_samples) == (("vocals",), "other", 50)
        alone = load_model("voice", stems=["vocals"])
        assert alone.residual is None and alone.identity is not None

    def test_the_separator_gives_the_residual_stem(self, remote, gain, tmp_path):
        voice = gain(gain.Arguments(sources=("vocals",)))
        voice.gains.data[:] = 0.25
        content = save(voice.state_dict())
        remote.repository("owner/model", {"voice.safetensors": content})
        file = hub_file("voice.safetensors", content)
        arguments = {"sources": ["vocals"]}
        own({"voice": entry(stems=["vocals"], residual="other", arguments=arguments, files=[file])})
        mix = MIX[0].numpy()
        cases = ((None, ("vocals", "other")), (["Other"], ("other",)), (["vocals"], ("vocals",)))
        for wanted, stems in cases:
            separator = Separator("voice", stems=wanted)
            assert separator.stems == stems
            found = separator.separate(mix, 100)
            assert tuple(found) == stems
            for stem, share in (("vocals", 0.25), ("other", 0.75)):
                assert stem not in found or np.allclose(found[stem], share * mix, rtol=0, atol=1e-6)


class TestNetworksInParts:
    """Open-Unmix has a file per stem. Its Wiener filter needs all stems; without it each is independent."""

    @pytest.fixture
    def parts(self, site, monkeypatch):
        arguments = {"targets": ["vocals", "drums"], "hidden_size": 4, "max_bin": 9, "n_fft": 32, "n_hop": 8}
        from stemsplit import models

        whole = models.build("openunmix", arguments)
        files = []
        for stem in arguments["targets"]:
            prefix = f"targets.{stem}."
            state = {k.removeprefix(prefix): v for k, v in whole.state_dict().items() if k.startswith(prefix)}
            content = save(state)
            site.repository("owner/model", {f"{stem}.safetensors": content})
            files.append({**hub_file(f"{stem}.safetensors", content), "prefix": prefix})
        both = {"stems": arguments["targets"], "sample_rate": 44100, "license": "MIT", "family": "openunmix"}
        own(
            {
                "filtered": {**both, "arguments": arguments, "files": files},
                "plain": {**both, "arguments": {**arguments, "niter": 0}, "files": files},
            }
        )
        return whole

    def test_all_of_them(self, parts):
        found = load_model("filtered")
        assert found.stems == ("vocals", "drums")
        assert all(torch.equal(value, parts.state_dict()[key]) for key, value in found.state_dict().items())
        assert len(found.identity.sha256) == 64

    def test_one_stem_that_depends_on_all(self, parts, site):
        assert load_model("filtered", stems=["drums"]).stems == ("drums",)
        assert site.gets() == 2

    def test_one_stem_that_depends_on_itself(self, parts, site):
        assert load_model("plain", stems=["drums"]).stems == ("drums",)
        assert site.gets("drums.safetensors") == 1 and site.gets() == 1


class TestRepositories:
    @pytest.fixture
    def repository(self, gain, site, tmp_path):
        for i in range(2):
            path = package(gain, tmp_path, f"{i}{i}bb.safetensors", (i + 1.0,) * 4)
            site.repository("owner/bag", {path.name: path.read_bytes()})
        site.repository(
            "owner/bag", {"bag.yaml": b"models: [00bb, 11bb]\nsegment: 0.5\n", "README.md": b"# Bag"}
        )
        content = package(gain, tmp_path, "model.safetensors").read_bytes()
        site.repository("owner/single", {"model.safetensors": content, "config.yaml": b"a: 1"})
        return site

    def test_a_model(self, repository):
        network = load_model("hf:owner/single")
        assert torch.equal(network(MIX)[:, 1], 2 * MIX) and network.identity.name == "hf:owner/single"
        assert repository.gets("README") == repository.gets("config") == 0

    def test_a_bag(self, repository):
        network = load_model("hf:owner/bag")
        torch.testing.assert_close(separated(network)[:, 1], 1.5 * MIX)
        assert [m.segment_samples for m in network.members] == [50] * len(network.members)

    def test_a_revision(self, repository):
        assert load_model(f"hf:owner/single@{COMMIT}").stems == FOUR
        with pytest.raises(ModelUnavailableError):
            load_model(f"hf:owner/single@{'d' * 40}", offline=True)

    @pytest.mark.parametrize("source", ["hf:owner/bag", "hf:owner/single"])
    def test_cached_it_needs_no_connection(self, repository, source, monkeypatch):
        with pytest.raises(ModelUnavailableError, match="offline"):
            load_model(source, offline=True)
        load_model(source)
        repository.log.clear()
        assert load_model(source, offline=True).stems == FOUR
        assert repository.log == []
        monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
        assert load_model(source).stems == FOUR

    def test_a_damaged_copy_is_refused_offline_and_replaced(self, repository, monkeypatch, tmp_path):
        for source in ("hf:owner/single", "hf:owner/bag"):
            whole = separate_array(load_model(source), MIX[0])
            for file in (tmp_path / "hf").rglob("*.safetensors"):
                content = file.read_bytes()
                file.resolve().write_bytes(content[:-1] + b"?")
            with pytest.raises(ChecksumError) as caught:
                load_model(source, offline=True)
            assert caught.value.hint == "without --offline it is downloaded again"
            with monkeypatch.context() as patch:
                patch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
                with pytest.raises(ChecksumError):
                    load_model(source)
            assert torch.equal(separate_array(load_model(source), MIX[0]), whole)

    def test_the_use_of_the_copy_is_said(self, repository, monkeypatch):
        load_model("hf:owner/single")
        monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
        events: list[Event] = []
        load_model("HF:owner/single", callback=events.append)
        (notice,) = [event for event in events if isinstance(event, Notice)]
        assert notice.message.endswith("the copy that was downloaded before is used")

    def test_bytes_are_compared_with_the_hubs_own_hash(self, repository):
        repository.faults = [repository.fault()]
        content = repository.files[f"/owner/single/resolve/{COMMIT}/model.safetensors"]
        repository.faults += [repository.fault(body=content[:-1] + b"?")] * 2
        with pytest.raises(ChecksumError):
            load_model("hf:owner/single")

    @pytest.mark.parametrize("source", ["hf:owner/nothing", "hf:nonsense", "hf:a/b/c", "hf:"])
    def test_no_such_repository(self, repository, source):
        with pytest.raises(DownloadError):
            load_model(source)

    def test_a_repository_without_a_model(self, repository):
        repository.repository("owner/empty", {"README.md": b"# Empty"})
        with pytest.raises(CheckpointError, match="hf:owner/empty: holds no model.safetensors"):
            load_model("hf:owner/empty")

    def test_a_bag_without_its_members(self, repository):
        repository.repository("owner/half", {"bag.yaml": b"models: [22bb]"})
        with pytest.raises(CheckpointError, match="holds no 22bb.safetensors"):
            load_model("hf:owner/half")


def test_the_default_model_without_a_network(site, monkeypatch):
    """The error without a connection names the file, its hash, and the model that needs no download."""
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("STEMSPLIT_MIRROR", "http://127.0.0.1:9")
    with pytest.raises(DownloadError) as caught:
        load_model("htdemucs")
    said = f"{caught.value.reason} {caught.value.hint}"
    assert "955717e8.safetensors" in said and "955717e8-8726e21a.th" in said
    assert "d9fa14133cfcc034a6758923bb3a8ca9f8dfd0b582134643bbf83f72c17576dd" in said and "-m tiny" in said
