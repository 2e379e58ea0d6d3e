"""Reading, writing and converting checkpoints of every kind."""

import json
import pickle
import struct
import sys
from fractions import Fraction

import pytest
import torch
from safetensors.torch import load_file, save_file

from stemsplit import __version__
from stemsplit.documents import Document
from stemsplit.errors import CheckpointError, ResourceError, StemsplitError
from stemsplit.hub import arguments as args
from stemsplit.hub import bare
from stemsplit.hub.agreement import agreement_db, agreement_of_half_db, decibels
from stemsplit.hub.checkpoints import build_network, convert, empty_network, read_package, save_package

FOUR = ["drums", "bass", "other", "vocals"]


@pytest.fixture
def network(gain):
    return gain(gain.Arguments()).eval()


def header(path) -> dict[str, str]:
    with path.open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        return json.loads(file.read(length))["__metadata__"]


def same(one, other) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


class TestOwnFormat:
    def test_round_trip_is_exact(self, network, tmp_path):
        save_package(tmp_path / "m.safetensors", network, metadata={"recipe": {"epochs": 3}})
        package = read_package(tmp_path / "m.safetensors")
        assert package.family == "gain" and not package.described
        assert package.metadata == {"recipe": {"epochs": 3}, "version": __version__}
        found = build_network(package)
        assert same(found.state_dict(), network.state_dict())
        assert found.arguments.hidden == 3 and found.stems == network.stems and not found.training

    @pytest.mark.skipif(sys.platform == "win32", reason="modes of POSIX")
    def test_the_umask_decides_who_may_read_it(self, network, tmp_path):
        (tmp_path / "plain").touch()
        save_package(tmp_path / "m.safetensors", network)
        assert (tmp_path / "m.safetensors").stat().st_mode == (tmp_path / "plain").stat().st_mode

    def test_a_folder_of_that_name_is_no_file(self, network, tmp_path):
        (tmp_path / "m.safetensors").mkdir()
        with pytest.raises(OSError) as caught:
            save_package(tmp_path / "m.safetensors", network)
        assert caught.value.filename == str(tmp_path / "m.safetensors")
        assert [path.name for path in tmp_path.iterdir()] == ["m.safetensors"]

    def test_half_precision_is_stored_and_undone(self, network, tmp_path):
        network.register_buffer("count", torch.tensor(7))
        network.load_state_dict({**network.state_dict()})
        save_package(tmp_path / "m.safetensors", network, half=True)
        state = load_file(tmp_path / "m.safetensors")
        assert {str(t.dtype) for t in state.values()} == {"torch.float16", "torch.int64"}
        del state["count"]
        save_file(state, tmp_path / "m.safetensors", metadata=header(tmp_path / "m.safetensors"))
        found = build_network(read_package(tmp_path / "m.safetensors")).state_dict()
        expected = {
            key: value.half().float() for key, value in network.state_dict().items() if key != "count"
        }
        assert same(found, expected) and found["gains"].dtype == torch.float32

    def test_metadata_is_what_demucs_reads(self, network, tmp_path):
        save_package(tmp_path / "m.safetensors", network)
        found = header(tmp_path / "m.safetensors")
        assert set(found) == {"klass", "args", "kwargs", "stemsplit"}
        assert found["klass"] == "stemsplit.gain" and found["args"] == "[]"
        assert json.loads(found["kwargs"])["sources"] == FOUR

    def test_tied_tensors_are_written_apart(self, network, tmp_path):
        network.again = network.layer
        save_package(tmp_path / "m.safetensors", network)
        state = load_file(tmp_path / "m.safetensors")
        assert torch.equal(state["again.weight"], state["layer.weight"])

    def test_the_file_is_never_half_there(self, network, tmp_path, monkeypatch):
        target = tmp_path / "m.safetensors"
        target.write_bytes(b"old")
        monkeypatch.setattr("os.replace", lambda *_: (_ for _ in ()).throw(OSError("no")))
        with pytest.raises(OSError, match="no"):
            save_package(target, network)
        assert target.read_bytes() == b"old"
        assert [p.name for p in tmp_path.iterdir()] == ["m.safetensors"]

    def test_a_folder_that_is_not_there_is_told(self, network, tmp_path):
        with pytest.raises(OSError):
            save_package(tmp_path / "nowhere" / "m.safetensors", network)

    def test_a_narrowed_network_is_refused(self, network, tmp_path):
        with pytest.raises(StemsplitError, match="narrowed"):
            save_package(tmp_path / "m.safetensors", network.select(["bass"]))

    def test_a_class_of_no_family_is_refused(self, network, tmp_path):
        stranger = type("Stranger", (type(network),), {})(network.arguments)
        with pytest.raises(StemsplitError, match="Stranger is no family"):
            save_package(tmp_path / "m.safetensors", stranger)

    def test_saving_leaves_the_network_alone(self, network, tmp_path):
        before = {key: value.clone() for key, value in network.state_dict().items()}
        save_package(tmp_path / "m.safetensors", network.train(), half=True)
        assert same(before, network.state_dict()) and network.training


class TestDamage:
    def test_missing_file(self, tmp_path):
        with pytest.raises(CheckpointError, match="no such file"):
            read_package(tmp_path / "m.safetensors")

    def test_every_truncation(self, network, tmp_path):
        path = tmp_path / "m.safetensors"
        save_package(path, network)
        whole = path.read_bytes()
        for length in [0, 7, 8, 9, 100, len(whole) // 2, len(whole) - 1]:
            path.write_bytes(whole[:length])
            with pytest.raises(CheckpointError, match="not a readable checkpoint"):
                read_package(path)

    @pytest.mark.filterwarnings("error")  # PyTorch warns about the protocol of a pickle of its own
    @pytest.mark.parametrize(
        "content, said",
        [
            (b"just text", "m.th: not a readable checkpoint"),
            (pickle.dumps({"a": 1}), "m.th: not a readable checkpoint"),
        ],
    )
    def test_what_is_no_checkpoint(self, tmp_path, content, said):
        path = tmp_path / "m.th"
        path.write_bytes(content)
        with pytest.raises(CheckpointError, match=said):
            read_package(path)

    @pytest.mark.parametrize(
        "changed, said",
        [
            ({"kwargs": "{"}, "metadata is malformed"),
            ({"kwargs": '{"segment": {"_type": "fraction"}}'}, "metadata is malformed"),
            (
                {"kwargs": '{"s": {"_type": "fraction", "numerator": 1, "denominator": 0}}'},
                "metadata is malf",
            ),
            ({"kwargs": "[]"}, "package is malformed"),
            ({"args": "3"}, "package is malformed"),
            ({"args": "[1,2,3,4,5]"}, "more arguments than"),
            ({"klass": "os.system"}, "has a os.system, which isn't a network"),
            ({"klass": "stemsplit.nothing"}, "no model family named 'nothing'"),
            ({"klass": "stemsplit"}, "which isn't a network"),
            ({"kwargs": '{"depth": 3}'}, "takes no argument depth"),
            ({"kwargs": '{"hidden": "wide"}'}, "can't be built as a gain"),
            ({"kwargs": '{"hidden": -4}'}, "can't be built as a gain"),
            ({"kwargs": "[" * 100_000}, "metadata is malformed"),
            ({"stemsplit": "[1]"}, "package is malformed"),
            ({"kwargs": '{"samplerate": 0}'}, "samplerate 0: must be positive"),
            ({"kwargs": '{"sources": ["a", "a"]}'}, "stems must be different names"),
            ({"kwargs": '{"sources": ["../../x", "b"]}'}, "stems must be different names"),
            ({"kwargs": '{"sources": ["..", "b"]}'}, "stems must be different names"),
            ({"kwargs": '{"sources": ["", "b"]}'}, "stems must be different names"),
            ({"kwargs": '{"sources": [1, 2]}'}, "stems must be different names"),
        ],
    )
    def test_strange_metadata(self, network, tmp_path, changed, said):
        path = tmp_path / "m.safetensors"
        save_package(path, network)
        save_file(load_file(path), path, metadata={**header(path), **changed})
        with pytest.raises(CheckpointError, match=said):
            build_network(read_package(path))

    def test_a_network_beyond_all_memory(self, network, tmp_path):
        path = tmp_path / "m.safetensors"
        save_package(path, network)
        save_file(load_file(path), path, metadata={**header(path), "kwargs": '{"hidden": 1000000}'})
        with pytest.raises(ResourceError, match="doesn't fit into memory"):
            build_network(read_package(path))

    def change(self, network, tmp_path, change):
        path = tmp_path / "m.safetensors"
        save_package(path, network)
        state = load_file(path)
        change(state)
        save_file(state, path, metadata=header(path))
        with pytest.raises(CheckpointError) as caught:
            build_network(read_package(path))
        return caught.value.reason.split(": ", 1)[1]

    def test_a_missing_weight_is_named(self, network, tmp_path):
        said = self.change(network, tmp_path, lambda state: state.pop("gains"))
        assert said == "its weights don't fit a gain: missing gains"

    def test_a_surplus_weight_is_named(self, network, tmp_path):
        said = self.change(network, tmp_path, lambda s: s.update({f"x{i}": torch.ones(1) for i in range(9)}))
        assert said == "its weights don't fit a gain: unexpected x0, x1 and 7 more"

    def test_a_weight_of_another_shape_is_named(self, network, tmp_path):
        said = self.change(network, tmp_path, lambda s: s.update({"layer.bias": torch.ones(5)}))
        assert said == "its weights don't fit a gain: layer.bias is [5], not [3]"


class TestBareStateDicts:
    @pytest.fixture
    def state(self, network):
        return network.state_dict()

    def read(self, path):
        return read_package(path, family="gain", arguments={"hidden": 3})

    @pytest.mark.parametrize("wrapper", [None, "state", "state_dict", "model_state_dict"])
    @pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
    def test_wrapped_or_not(self, state, tmp_path, wrapper, zipped):
        content = dict(state) if wrapper is None else {"epoch": 3, wrapper: state, "optimizer": {"lr": 1}}
        torch.save(content, tmp_path / "m.ckpt", _use_new_zipfile_serialization=zipped)
        package = self.read(tmp_path / "m.ckpt")
        assert package.described and same(build_network(package).state_dict(), state)

    def test_as_safetensors(self, state, tmp_path):
        save_file(dict(state), tmp_path / "m.safetensors")
        assert same(build_network(self.read(tmp_path / "m.safetensors")).state_dict(), state)

    def test_lightning_prefix(self, state, tmp_path):
        content = {"state_dict": {f"model.{key}": value for key, value in state.items()}}
        torch.save(content, tmp_path / "m.ckpt")
        assert same(build_network(self.read(tmp_path / "m.ckpt")).state_dict(), state)

    @pytest.mark.parametrize(
        "content", [{}, {"state": {}}, {"a": 1}, [1], torch.ones(3), {"state": {1: torch.ones(1)}}]
    )
    def test_no_state_dict(self, gain, tmp_path, content):
        torch.save(content, tmp_path / "m.ckpt")
        with pytest.raises(CheckpointError, match="not a checkpoint"):
            self.read(tmp_path / "m.ckpt")

    def test_nobody_knows_what_it_is(self, state, tmp_path):
        torch.save(dict(state), tmp_path / "m.ckpt")
        with pytest.raises(CheckpointError, match="doesn't say what network") as caught:
            read_package(tmp_path / "m.ckpt")
        assert "m.yaml" in (caught.value.hint or "")

    @pytest.mark.parametrize("name", ["m.yaml", "m.yml", "config.yaml"])
    def test_a_yaml_file_beside_it_says(self, state, tmp_path, name):
        torch.save(dict(state), tmp_path / "m.ckpt")
        (tmp_path / "._x.yaml").write_bytes(bytes(4096))  # a Mac's
        (tmp_path / name).write_text(
            "family: gain\narguments: {hidden: 3, sources: [drums, bass, other, vocals]}\n"
        )
        assert same(build_network(read_package(tmp_path / "m.ckpt")).state_dict(), state)

    def test_its_own_yaml_goes_first_and_several_others_are_ambiguous(self, state, tmp_path):
        torch.save(dict(state), tmp_path / "m.ckpt")
        (tmp_path / "a.yaml").write_text("family: a")
        (tmp_path / "b.yaml").write_text("family: b")
        with pytest.raises(CheckpointError, match="several YAML files might describe it: a.yaml, b.yaml"):
            read_package(tmp_path / "m.ckpt")
        (tmp_path / "m.yaml").write_text("family: gain")
        assert read_package(tmp_path / "m.ckpt").family == "gain"
        (tmp_path / "elsewhere").mkdir()
        (tmp_path / "elsewhere" / "x.yaml").write_text("family: gain\narguments: {hidden: 3}")
        package = read_package(tmp_path / "m.ckpt", config=tmp_path / "elsewhere" / "x.yaml")
        assert package.arguments == {"hidden": 3}

    @pytest.mark.parametrize(
        "text",
        ["family: [", "- a", "family: 3", "", "a: !!python/object/apply:os.system ['true']", "arguments: {}"],
    )
    def test_a_malformed_yaml_file_is_refused(self, state, tmp_path, text):
        torch.save(dict(state), tmp_path / "m.ckpt")
        (tmp_path / "m.yaml").write_text(text)
        with pytest.raises(CheckpointError, match="m.yaml: not a"):
            read_package(tmp_path / "m.ckpt")

    def test_the_registry_knows_it_by_its_hash(self, state, tmp_path, monkeypatch):
        from stemsplit.hub import registry, verified

        torch.save(dict(state), tmp_path / "m.ckpt")
        entry = {
            "family": "gain",
            "stems": FOUR,
            "sample_rate": 100,
            "license": "MIT",
            "arguments": {"hidden": 3},
            "files": [
                {"url": "https://host.example/m.ckpt", "sha256": verified.digest(tmp_path / "m.ckpt")[:8]}
            ],
        }
        found = registry.parse_registry(Document({"models": {"mine": entry}}, "test"))
        monkeypatch.setattr("stemsplit.hub.bare.registry", lambda: found)
        package = read_package(tmp_path / "m.ckpt")
        assert (package.family, package.arguments) == ("gain", {"hidden": 3})

    def test_tuples_in_configurations_are_read(self, tmp_path):
        (tmp_path / "c.yaml").write_text("a: !!python/tuple [1, [2, 3]]\nb: !!python/tuple\n- 2\n- 4\n")
        assert bare.read_foreign(tmp_path / "c.yaml") == {"a": (1, [2, 3]), "b": (2, 4)}


class TestConvert:
    def test_of_a_bare_state_dict(self, network, tmp_path):
        torch.save({"state": {k: v.half() for k, v in network.state_dict().items()}}, tmp_path / "m.ckpt")
        (tmp_path / "m.yaml").write_text("family: gain\narguments: {hidden: 3}")
        convert(tmp_path / "m.ckpt", tmp_path / "new.safetensors")
        package = read_package(tmp_path / "new.safetensors")
        assert package.family == "gain" and package.arguments["sources"] == FOUR
        assert {value.dtype for value in package.state.values()} == {torch.float16}
        expected = {key: value.half().float() for key, value in network.state_dict().items()}
        assert same(build_network(package).state_dict(), expected)

    def test_keeps_what_the_source_says_of_itself(self, network, tmp_path):
        save_package(tmp_path / "m.safetensors", network, metadata={"recipe": {"epochs": 3}})
        convert(tmp_path / "m.safetensors", tmp_path / "m.safetensors")
        assert read_package(tmp_path / "m.safetensors").metadata["recipe"] == {"epochs": 3}

    def test_of_weights_that_do_not_fit_writes_nothing(self, network, tmp_path):
        torch.save({"state": {"gains": torch.ones(4)}}, tmp_path / "m.ckpt")
        (tmp_path / "m.yaml").write_text("family: gain")
        with pytest.raises(CheckpointError):
            convert(tmp_path / "m.ckpt", tmp_path / "new.safetensors")
        assert not (tmp_path / "new.safetensors").exists()

    def test_to_half_precision(self, network, tmp_path):
        save_package(tmp_path / "m.safetensors", network)
        package = convert(tmp_path / "m.safetensors", tmp_path / "half.safetensors", half=True)
        small = read_package(tmp_path / "half.safetensors")
        assert {value.dtype for value in small.state.values()} == {torch.float16}
        expected = {key: value.half().float() for key, value in network.state_dict().items()}
        assert same(build_network(small).state_dict(), expected)
        error = agreement_db(build_network(package), build_network(small).estimate, torch.randn(1, 2, 500))
        assert 50 < error < 90  # fp16 has 11 bits
        assert agreement_of_half_db(package) == pytest.approx(error, abs=3)

    def test_weights_beyond_half_precision_are_refused(self, network, tmp_path):
        state = {key: value * 1e6 for key, value in network.state_dict().items()}
        network.load_state_dict(state)
        save_package(tmp_path / "m.safetensors", network)
        with pytest.raises(CheckpointError, match="in fp16 gains holds NaN or infinite values"):
            convert(tmp_path / "m.safetensors", tmp_path / "half.safetensors", half=True)
        assert not (tmp_path / "half.safetensors").exists()


def test_building_moves_no_random_number(network, tmp_path):
    save_package(tmp_path / "m.safetensors", network)
    package = read_package(tmp_path / "m.safetensors")
    torch.manual_seed(5)
    expected = torch.randn(3)
    torch.manual_seed(5)
    empty_network(package)
    build_network(package)
    assert torch.equal(torch.randn(3), expected)


def test_arguments_by_position_get_their_names(gain):
    assert args.named("gain", [FOUR], {"hidden": 5}) == {"sources": FOUR, "hidden": 5}


def test_fractions_survive_json():
    text = json.dumps({"segment": Fraction(39, 5)}, default=args._fraction)
    assert json.loads(text) == {"segment": {"_type": "fraction", "numerator": 39, "denominator": 5}}
    assert args.decode(text) == {"segment": Fraction(39, 5)}


def test_every_demucs_class_has_a_family_and_back():
    for klass, family in args.KLASSES.items():
        assert args.family_of(klass) == family and args.klass_of(family) == klass
    assert args.klass_of("scnet") == "stemsplit.scnet"
    assert args.family_of("stemsplit.scnet") == "scnet"
    assert args.family_of("demucs.solver.Solver") is None


def build(family, **arguments):
    from stemsplit import models

    return models.build(family, arguments)


def test_names_of_torchaudio(tmp_path):
    network = build("hdemucs", sources=FOUR, channels=4)
    names = {"encoder": "freq_encoder", "decoder": "freq_decoder", "tencoder": "time_encoder"}
    names["tdecoder"] = "time_decoder"
    state = {}
    for key, value in network.state_dict().items():
        head, _, rest = key.partition(".")
        state[f"{names.get(head, head)}.{rest}"] = value
    assert any(key.startswith("time_decoder.") for key in state) and "freq_emb.embedding.weight" in state
    state["time_encoder.4.norm1.weight"] = torch.ones(3)  # which nothing uses
    torch.save(state, tmp_path / "high.pt")
    package = read_package(tmp_path / "high.pt", family="hdemucs", arguments={"sources": FOUR, "channels": 4})
    assert same(build_network(package).state_dict(), network.state_dict())


COMMUNITY = {
    "bs_roformer": """
model:
  dim: 8
  depth: 1
  stereo: true
  num_stems: 1
  time_transformer_depth: 1
  freq_transformer_depth: 1
  freqs_per_bands: !!python/tuple
    - 16
    - 17
  dim_head: 4
  heads: 2
  flash_attn: true
  stft_n_fft: 64
  stft_win_length: 64
  stft_hop_length: 16
training:
  instruments: [vocals, other]
  target_instrument: vocals
""",
    "mel_band_roformer": """
model:
  dim: 8
  depth: 1
  stereo: true
  num_stems: 1
  time_transformer_depth: 1
  freq_transformer_depth: 1
  num_bands: 6
  dim_head: 4
  heads: 2
  stft_n_fft: 256
  stft_win_length: 256
  stft_hop_length: 64
training:
  instruments: [vocals, other]
  target_instrument: vocals
""",
    "scnet": """
model:
  sources: [drums, vocals]
  dims: [4, 4, 8, 8]
  nfft: 512
  hop_size: 128
  win_size: 512
  num_dplayer: 2
training:
  instruments: [drums, vocals]
  target_instrument: null
""",
}


@pytest.mark.parametrize("family", COMMUNITY)
@pytest.mark.parametrize("wrapper", [None, "state_dict"])
def test_community_checkpoints_with_their_configurations(tmp_path, family, wrapper):
    """The configuration doesn't name its family; the names of the tensors tell."""
    from stemsplit import models

    sizes = "audio:\n  chunk_size: 4410\n  sample_rate: 44100\n"
    sizes += "inference:\n  num_overlap: 4\n  normalize: true\n"
    (tmp_path / "config_vocals.yaml").write_text(COMMUNITY[family] + sizes)
    config = bare.read_foreign(tmp_path / "config_vocals.yaml")
    cls = models.family(family)
    network = cls(cls.Arguments.from_config(config))
    state = dict(network.state_dict())
    torch.save({wrapper: state} if wrapper else state, tmp_path / "model.ckpt")
    package = read_package(tmp_path / "model.ckpt")
    found = build_network(package)
    assert package.family == family and same(found.state_dict(), network.state_dict())
    assert found.segment_samples == 4410 and found.stems == network.stems
    assert found.overlap == 0.75 and found.normalise
    save_package(tmp_path / "model.safetensors", found)
    again = build_network(read_package(tmp_path / "model.safetensors"))
    assert same(again.state_dict(), network.state_dict()) and again.segment_samples == 4410
    assert again.overlap == 0.75 and again.normalise


def test_a_configuration_of_a_variant_is_refused(tmp_path):
    text = COMMUNITY["bs_roformer"].replace("  dim_head: 4", "  dim_head: 4\n  num_residual_streams: 4")
    (tmp_path / "model.yaml").write_text(text)
    torch.save({"final_norm.gamma": torch.ones(8)}, tmp_path / "model.ckpt")
    with pytest.raises(CheckpointError, match="not a configuration of a bs_roformer.*num_residual_streams 4"):
        read_package(tmp_path / "model.ckpt")


def test_agreement_of_silence_and_of_what_isn_t_finite() -> None:
    silence, tone = torch.zeros(1, 2, 8), torch.ones(1, 2, 8)
    assert decibels(silence, silence) == decibels(tone, tone) == torch.inf
    assert (
        decibels(silence, tone) == decibels(tone, tone * torch.nan) == decibels(tone, tone / 0) == -torch.inf
    )
    assert decibels(tone, 0.9 * tone) == pytest.approx(20, abs=1e-4)
