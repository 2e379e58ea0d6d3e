"""Entries of the catalogue are completed by their YAML file, their weights, or what a hash says."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import Tensor

from stemsplit.errors import CheckpointError, ModelUnavailableError, SettingsError
from stemsplit.hub import catalogue, records
from stemsplit.hub.access import Access
from stemsplit.hub.describe import describe_model
from stemsplit.hub.load import load_model
from stemsplit.hub.manage import download_model, is_cached, verify
from stemsplit.models import build
from tests.models.test_contract import ROFORMER

WEIGHTS = "https://huggingface.co/owner/voc/resolve/main/voc_by_owner.ckpt"
CONFIG = "https://huggingface.co/owner/voc/resolve/main/voc_by_owner.yaml"
NAMES = ("stems", "num_stems", "segment_samples", "freqs_per_bands")


@pytest.fixture
def network() -> Any:
    torch.manual_seed(0)
    arguments = {key: value for key, value in ROFORMER.items() if key not in NAMES}
    return build("mel_band_roformer", {**arguments, "stems": ("vocals",), "num_bands": 4}).eval()


def config_of(target: str | None = "vocals", **model: Any) -> bytes:
    known = {key: value for key, value in ROFORMER.items() if key not in NAMES}
    content = {
        "audio": {"chunk_size": 600, "sample_rate": 44100, "num_channels": 2},
        "model": {**known, "num_stems": 1, "num_bands": 4, **model},
        "training": {"instruments": ["vocals", "other"], "target_instrument": target},
        "inference": {"num_overlap": 4},
    }
    return yaml.safe_dump(content).encode()


@pytest.fixture
def published(site, network, tmp_path, monkeypatch) -> Any:
    """A catalogue of one checkpoint, at a server that stands in for Hugging Face."""
    monkeypatch.setenv("STEMSPLIT_MIRROR", site.url)
    monkeypatch.delenv("HF_ENDPOINT")
    torch.save(network.state_dict(), tmp_path / "weights")
    content = (tmp_path / "weights").read_bytes()

    def serve(**files: bytes) -> None:
        for name, body in files.items():
            for revision in ("main", "c" * 40):
                site.files[f"/huggingface.co/owner/voc/resolve/{revision}/voc_by_owner.{name}"] = body

    serve(ckpt=content, yaml=config_of())
    row: dict[str, Any] = {
        "name": "voc",
        "aliases": ["voc_by_owner.ckpt", "Vocals | by Owner"],
        "task": "vocals",
        "family": "mel_band_roformer",
        "stems": [],
        "sample_rate": 44100,
        "license": "not stated",
        "files": [{"url": WEIGHTS, "size": len(content)}],
        "config": [{"url": CONFIG}],
        "inferred": [{"dim": 8, "depth": 2}, {"dim": 16, "depth": 1}],
    }

    def write(**changed: Any) -> None:
        kept = {key: value for key, value in {**row, **changed}.items() if value is not None}
        path = tmp_path / "catalogue.json"
        path.write_text(json.dumps({"registered": {}, "models": [kept]}))
        monkeypatch.setattr(catalogue, "FILE", path)
        catalogue.load.cache_clear()

    write()
    site.serve, site.write, site.size = serve, write, len(content)
    yield site
    catalogue.load.cache_clear()


@torch.inference_mode()
@pytest.mark.parametrize("name", ["voc", "voc_by_owner.ckpt", "VOC-by-owner", "Vocals | by Owner"])
def test_a_checkpoint_is_found_by_its_names_and_run_by_its_yaml(published, network, name):
    assert not is_cached("voc")
    loaded: Any = load_model(name)
    mix = torch.randn(1, 2, 600)
    assert torch.equal(loaded(mix), network(mix))
    assert (loaded.stems, loaded.residual, loaded.segment_samples, loaded.overlap) == (
        ("vocals",),
        "other",
        600,
        0.75,
    )
    assert is_cached("voc") and all(file.good for file in verify("voc"))
    asked = len(published.log)
    about = describe_model(name, Access(offline=True))
    assert (about.stems, about.sha256) == (("vocals", "other"), loaded.identity.sha256)
    assert len(published.log) == asked


def test_a_yaml_that_the_size_of_the_weights_contradicts_is_refused(published):
    published.serve(yaml=config_of(dim=32))
    with pytest.raises(CheckpointError, match="whose size demands another: dim 32 instead of 8"):
        load_model("voc")
    assert published.gets("voc_by_owner.ckpt") == 0


def test_a_yaml_that_does_not_fit_the_weights_is_refused(published):
    published.write(inferred=None)
    published.serve(yaml=config_of(dim=16))
    with pytest.raises(CheckpointError, match="voc_by_owner.ckpt: .*fit"):
        load_model("voc")


@pytest.mark.parametrize("body", [b"- a list", b"model: {", b"training: {}", b"\xff\xfe\0"])
def test_a_malformed_yaml_is_told_in_one_line(published, body):
    published.serve(yaml=body)
    with pytest.raises(CheckpointError) as caught:
        load_model("voc")
    assert "voc_by_owner.yaml" in caught.value.reason and "\n" not in caught.value.reason


def test_the_next_yaml_is_taken_if_the_first_is_gone(published):
    published.write(config=[{"url": CONFIG.replace("voc_by", "gone_by")}, {"url": CONFIG}])
    assert load_model("voc").stems == ("vocals",)


def test_a_changed_yaml_is_refused(published):
    load_model("voc")
    path = next(published_path for published_path in _cached_files() if published_path.suffix == ".yaml")
    path.write_bytes(config_of(stft_hop_length=8))
    with pytest.raises(ModelUnavailableError, match="sha256 is"):
        load_model("voc")


def _cached_files() -> list[Path]:
    from stemsplit import folders

    return sorted(p for p in (folders.cache_folder() / "files").rglob("*") if p.is_file())


def test_without_a_target_all_instruments_are_stems(published):
    published.serve(yaml=config_of(target=None))
    with pytest.raises(CheckpointError, match="not a configuration of a mel_band_roformer"):
        load_model("voc")  # one output can't be two stems


def test_shapes_decide_where_no_hash_is_known(published, network, tmp_path):
    url = "https://host.example/voc_by_owner.ckpt"
    published.files["/host.example/voc_by_owner.ckpt"] = published.files[
        "/huggingface.co/owner/voc/resolve/main/voc_by_owner.ckpt"
    ]
    published.write(files=[{"url": url, "size": published.size}])
    with pytest.raises(ModelUnavailableError, match="no hash of it is known"):
        load_model("voc")
    assert load_model("voc", trust_first=True).stems == ("vocals",)
    assert records.grade_of(catalogue.entry("voc").files[0]) == "size-and-shape"
    assert load_model("voc").stems == ("vocals",)


def test_weights_of_other_shapes_are_not_trusted(published, network, tmp_path):
    state = network.state_dict()
    key = next(key for key, value in state.items() if value.ndim == 2 and value.shape[0] != value.shape[1])
    state[key] = state[key].T.contiguous()
    torch.save(state, tmp_path / "other")
    content = (tmp_path / "other").read_bytes()
    published.files["/host.example/voc_by_owner.ckpt"] = content
    published.write(files=[{"url": "https://host.example/voc_by_owner.ckpt", "size": len(content)}])
    with pytest.raises(ModelUnavailableError, match="fit a mel_band_roformer|size mismatch|shape"):
        load_model("voc", trust_first=True)
    assert not is_cached("voc")


def test_a_refused_licence_downloads_nothing(published):
    for load in (load_model, describe):
        with pytest.raises(ModelUnavailableError, match="the licence of its weights is not stated"):
            load("voc", license="permissive")
    with pytest.raises(ModelUnavailableError, match="not stated"):
        download_model("voc", Access(licenses=("permissive",)))
    assert published.log == []
    published.write(license="CC-BY-4.0")
    assert load_model("voc", license="permissive").stems == ("vocals",)


def describe(name: str, license: str) -> Any:
    return describe_model(name, Access(licenses=(license,)))


def test_a_model_that_cannot_be_run_says_why(published):
    published.write(family="spleeter", reason="its network isn't one that stemsplit computes", config=None)
    with pytest.raises(CheckpointError, match="voc: can't be run: its network isn't one"):
        load_model("voc")
    assert published.log == []


@torch.inference_mode()
def test_known_arguments_need_no_yaml(published, network):
    arguments = {key: value for key, value in ROFORMER.items() if key not in NAMES}
    arguments |= {"stems": ["vocals"], "num_bands": 4}
    published.write(config=None, inferred=None, arguments=arguments, stems=["vocals"], residual="other")
    loaded: Any = load_model("voc")
    mix = torch.randn(1, 2, 500)
    assert torch.equal(loaded(mix), network(mix)) and loaded.residual == "other"


def test_a_local_file_of_the_same_name_comes_first(published, network, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save(network.state_dict(), "voc_by_owner.ckpt")
    Path("voc_by_owner.yaml").write_bytes(config_of())
    load_model("voc_by_owner.ckpt")
    assert published.log == []


@torch.inference_mode()
def test_a_package_says_itself_what_it_estimates(published, tmp_path):
    from stemsplit.hub.checkpoints import save_package

    torch.manual_seed(1)
    own = build("mel_band_roformer", {**network_arguments(), "stems": ("a", "b"), "num_stems": 2}).eval()
    save_package(tmp_path / "own.safetensors", own)
    published.serve(ckpt=(tmp_path / "own.safetensors").read_bytes())
    size = (tmp_path / "own.safetensors").stat().st_size
    published.write(
        config=None, inferred=None, family="mel_band_roformer", files=[{"url": WEIGHTS, "size": size}]
    )
    loaded: Any = load_model("voc")
    mix: Tensor = torch.randn(1, 2, 500)
    assert loaded.stems == ("a", "b") and torch.equal(loaded(mix), own(mix))
    assert describe_model("voc").stems == ("a", "b")


def network_arguments() -> dict[str, Any]:
    return {**{key: value for key, value in ROFORMER.items() if key not in NAMES}, "num_bands": 4}


def test_a_bag_of_catalogued_models(published, tmp_path, monkeypatch, network):
    content = json.loads(catalogue.FILE.read_text())
    member = content["models"][0]
    bag = {"name": "both", "aliases": [], "task": "vocals", "family": None, "stems": [], "sample_rate": 44100,
           "license": "not stated", "bag": {"members": ["voc", "voc"]}}  # fmt: skip
    catalogue.FILE.write_text(json.dumps({"registered": {}, "models": [member, bag]}))
    catalogue.load.cache_clear()
    found: Any = load_model("both")
    assert found.stems == ("vocals",) and len(found.members) == 2
    assert describe_model("both").stems == ("vocals",)
    with pytest.raises(SettingsError, match="segment"):
        load_model("both", segment_s=0)
