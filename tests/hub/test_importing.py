"""Folders of UVR and MSST, single checkpoints and URLs become entries of the user's registry."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from stemsplit.errors import DownloadError, SettingsError
from stemsplit.hub import uvr
from stemsplit.hub.access import Access
from stemsplit.hub.importing import Imported, import_models
from stemsplit.hub.load import load_model
from stemsplit.hub.manage import download_model, model_path, remove_model
from stemsplit.hub.registry import find_model
from stemsplit.models import build
from tests.models.test_contract import MDX23C, ROFORMER

NOT_IN_CONFIG = ("stems", "num_stems", "segment_samples", "freqs_per_bands")


def mel_config(**training: Any) -> str:
    model = {key: value for key, value in ROFORMER.items() if key not in NOT_IN_CONFIG}
    content = {
        "audio": {"chunk_size": 600, "num_channels": 2, "sample_rate": 44100},
        "model": {**model, "num_stems": 1, "num_bands": 4},
        "training": {"instruments": ["vocals", "other"], "target_instrument": "vocals"} | training,
        "inference": {"num_overlap": 2},
    }
    return yaml.safe_dump(content)


def save_mel(path: Path, seed: int = 0) -> Any:
    torch.manual_seed(seed)
    model = {key: value for key, value in ROFORMER.items() if key not in NOT_IN_CONFIG}
    network = build("mel_band_roformer", {**model, "stems": ("vocals",), "num_bands": 4}).eval()
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(network.state_dict(), path)
    return network


def mdx_config() -> str:
    model = {key: value for key, value in MDX23C.items() if key not in ("stems", "segment_samples")}
    audio = {key: model.pop(key) for key in ("n_fft", "hop_length", "dim_f")}
    content = {
        "audio": {**audio, "chunk_size": 500, "num_channels": 2, "sample_rate": 44100},
        "model": model,
        "training": {"instruments": ["Vocals", "Instrumental"], "target_instrument": None},
    }
    return yaml.safe_dump(content)


def save_mdx(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(build("mdx23c", MDX23C | {"stems": ["Vocals", "Instrumental"]}).state_dict(), path)


def imported(source: Path | str, **how: Any) -> list[Imported]:
    return list(import_models(source, **how))


@torch.inference_mode()
def test_a_folder_of_msst(tmp_path: Path) -> None:
    network = save_mel(tmp_path / "pretrain/vocal_models/Voc A.ckpt")
    (tmp_path / "configs/vocal_models").mkdir(parents=True)
    (tmp_path / "configs/vocal_models/Voc A.ckpt.yaml").write_text(mel_config())
    (tmp_path / "configs/vocal_models/other.ckpt.yaml").write_text(mel_config())
    (tmp_path / "pretrain/.hidden.ckpt").write_bytes(b"x")
    (one,) = imported(tmp_path)
    assert one.error is None and one.spec is not None
    assert (one.spec.name, one.spec.family, one.spec.residual) == ("Voc_A", "mel_band_roformer", "other")
    loaded: Any = load_model("Voc_A", offline=True)
    mix = torch.randn(1, 2, 600)
    assert torch.equal(loaded(mix), network(mix)) and loaded.overlap == 0.5
    assert find_model("Voc_A").files[0].path == str((tmp_path / "pretrain/vocal_models/Voc A.ckpt").resolve())


def test_a_folder_of_uvr(tmp_path: Path) -> None:
    place = tmp_path / "MDX_Net_Models"
    save_mdx(place / "some_model.ckpt")
    configs = place / "model_data/mdx_c_configs"
    configs.mkdir(parents=True)
    (configs / "model_2_stem.yaml").write_text(mdx_config())
    (configs / "another.yaml").write_text(mel_config())
    table = {uvr.tail_md5(place / "some_model.ckpt"): {"config_yaml": "model_2_stem.yaml"}}
    (place / "model_data/model_data.json").write_text(json.dumps(table))
    (place / "model_data/model_name_mapper.json").write_text("{}")
    (one,) = imported(tmp_path)
    assert one.spec is not None and one.spec.family == "mdx23c"
    assert one.spec.stems == ("vocals", "instrumental") and one.spec.license == "not stated"


def test_one_bad_checkpoint_does_not_stop_the_others(tmp_path: Path) -> None:
    save_mel(tmp_path / "a.ckpt")
    (tmp_path / "a.yaml").write_text(mel_config())
    (tmp_path / "b.ckpt").write_bytes(b"not a checkpoint")
    torch.save({"weight": torch.zeros(3)}, tmp_path / "c.ckpt")
    first, second, third = imported(tmp_path)
    assert first.spec is not None and second.error is not None and third.error is not None
    for one in (second, third):
        assert one.path.name in one.error.reason and "\n" not in one.error.reason


def test_importing_again_needs_consent(tmp_path: Path) -> None:
    save_mel(tmp_path / "a.ckpt")
    (tmp_path / "a.yaml").write_text(mel_config())
    assert imported(tmp_path / "a.ckpt")[0].error is None
    (again,) = imported(tmp_path / "a.ckpt")
    assert isinstance(again.error, SettingsError) and "named a already" in again.error.reason
    assert imported(tmp_path / "a.ckpt", replace=True)[0].error is None
    (named,) = imported(tmp_path / "a.ckpt", name="mine")
    assert named.spec is not None and named.spec.name == "mine"


def test_a_checkpoint_named_like_a_known_one_keeps_its_own_network(tmp_path: Path) -> None:
    path = tmp_path / "BS-Roformer-SW.ckpt"
    save_mel(path)
    path.with_suffix(".yaml").write_text(mel_config())
    (one,) = imported(path)
    assert one.spec is not None and one.spec.family == "mel_band_roformer"


def test_the_package_s_own_models_keep_their_names(tmp_path: Path) -> None:
    for name in ("htdemucs", "tiny"):
        save_mel(tmp_path / f"{name}.ckpt")
        (tmp_path / f"{name}.yaml").write_text(mel_config())
    for one in imported(tmp_path):
        assert isinstance(one.error, SettingsError) and "already" in one.error.reason
    assert not find_model("htdemucs").own
    (one,) = imported(tmp_path / "tiny.ckpt", replace=True)
    assert one.spec is not None and find_model("tiny").own


def test_a_damaged_table_is_told_for_each_checkpoint(tmp_path: Path) -> None:
    (tmp_path / "model_data_new.json").write_text("{")
    save_mel(tmp_path / "a.ckpt")
    save_mel(tmp_path / "b.ckpt")
    (tmp_path / "b.yaml").write_text(mel_config())
    first, second = imported(tmp_path)
    assert first.error is not None and "model_data_new.json: is no table of UVR" in str(first.error)
    assert second.error is None


def test_what_is_no_source_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="no such file or folder"):
        imported(tmp_path / "nothing")
    with pytest.raises(SettingsError, match="no file or folder is named"):
        imported("")
    with pytest.raises(SettingsError, match="holds no checkpoint"):
        imported(tmp_path)
    save_mel(tmp_path / "a.ckpt")
    with pytest.raises(SettingsError, match="for one checkpoint"):
        imported(tmp_path, name="all")


@torch.inference_mode()
def test_a_url_brings_its_yaml(site: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    network = save_mel(tmp_path / "net.ckpt")
    monkeypatch.setenv("STEMSPLIT_MIRROR", site.url)
    monkeypatch.delenv("HF_ENDPOINT")
    for revision in ("main", "c" * 40):
        place = f"/huggingface.co/owner/net/resolve/{revision}/net"
        site.files[f"{place}.ckpt"] = (tmp_path / "net.ckpt").read_bytes()
        site.files[f"{place}.yaml"] = mel_config().encode()
    (one,) = imported("https://huggingface.co/owner/net/resolve/main/net.ckpt")
    assert one.spec is not None and one.verification == "declared"
    loaded: Any = load_model("net", offline=True)
    mix = torch.randn(1, 2, 500)
    assert torch.equal(loaded(mix), network(mix))
    assert find_model("net").files[0].url == "https://huggingface.co/owner/net/resolve/main/net.ckpt"
    (path,) = model_path("net")
    path.write_bytes(b"damaged")
    assert download_model("net") == [path] and torch.equal(load_model("net", offline=True)(mix), network(mix))
    assert remove_model("net") > 0 and not path.exists()


def test_a_url_whose_server_states_no_hash_needs_trust(
    site: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_mel(tmp_path / "net.ckpt")
    monkeypatch.setenv("STEMSPLIT_MIRROR", site.url)
    site.files["/host.example/net.ckpt"] = (tmp_path / "net.ckpt").read_bytes()
    site.files["/host.example/net.yaml"] = mel_config().encode()
    with pytest.raises(DownloadError, match="no hash of it is known") as caught:
        imported("https://host.example/net.ckpt")
    assert caught.value.hint and caught.value.hint.startswith("--trust-first")
    (one,) = imported("https://host.example/net.ckpt", access=Access(trust_first=True))
    assert one.spec is not None and one.verification == "size-and-shape"
