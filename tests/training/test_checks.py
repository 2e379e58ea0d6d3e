"""Refusals of settings that don't fit the network, the loss, the data or the machines."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stemsplit.errors import InputError, SettingsError
from stemsplit.training import prepare
from stemsplit.training.checks import BY_HAND, check_members, check_nodes
from stemsplit.training.configfile import parse_config
from stemsplit.training.library import find_multitracks, open_mixes
from stemsplit.training.prepare import build_network, check_machine, check_network
from stemsplit.training.run import dry_run
from stemsplit.training.sampling import DataSetConfig
from tests.training.conftest import MASK, WriteSongs
from tests.training.test_library import ignore, noise, want

MakeConfig = Callable[..., str]
INDEPENDENT = "data.remix_group=null"


def checked(text: str, *overrides: str) -> None:
    file = parse_config(text, "config.yaml", overrides)
    check_machine(file)
    check_network(file, build_network(file))


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["data.groups={drum: [drums]}"], "data.groups.drum: mixes are made of drums, bass, other, vocals"),
        ([INDEPENDENT, "data.train.0.stem_weights={kazoo: 1}"], "data.train.0.stem_weights.kazoo: mixes are"),
        (["data.valid.0.weight=2"], "data.valid.0.weight: is for training only"),
        (["data.valid.0.song_weights={a: 2}"], "data.valid.0.song_weights: are for training only"),
        (["data.valid.0.stem_weights={bass: 2}"], "data.valid.0.stem_weights: are for training only"),
        (
            ["data.unlabelled=[{path: x, stem_weights: {bass: 2}}]"],
            "data.unlabelled.0.stem_weights: are for training only",
        ),
        (["data.cache=''"], "data.cache: must be a folder; null for none"),
        (["data.segment_s=1e-4"], "data.segment_s: is less than one sample at 1000 Hz"),
        (["loss.terms={multi_stft: 1}", "loss.resolutions=[]"], "multi_stft needs windows"),
        (
            ["loss.terms={spectral_convergence: 1}", "loss.resolutions=[]"],
            "spectral_convergence needs windows",
        ),
        (
            ["loss.terms={multi_stft: 1}", "loss.resolutions=[256, 1000]"],
            "loss.resolutions: a window of 1000 samples needs segments of more than 500; data.seg",
        ),
        (
            ["loss.terms={magnitude: 1}"],
            "loss.fft: a window of 2048 samples needs segments of more than 1024",
        ),
        (["loss.terms={l1_snr_stft: 1}"], "loss.terms.l1_snr_stft: a window of 1024 samples needs segments"),
        (["optim.lr=1e40"], "optim.lr: must be at most 1e+30, is 1e+40"),
        (["optim.groups=[{match: '*', lr: 1e40}]"], "optim.groups.0.lr: must be at most 1e+30"),
        (["fit.checkpoint_steps=0"], "fit.checkpoint_steps: must be at least 1, is 0"),
        (["fit.checkpoint_steps=-2"], "fit.checkpoint_steps: must be at least 1, is -2"),
        (
            ["loss.terms={masked_mse: 1}", "loss.quantile=1"],
            "loss.quantile: must be between 0 and 1 (below 1)",
        ),
    ],
)
def test_settings_without_a_sensible_effect_are_refused(
    tiny_config: MakeConfig, overrides: list[str], said: str
) -> None:
    with pytest.raises(SettingsError, match=re.escape(said)) as caught:
        checked(tiny_config(), *overrides)
    assert "\n" not in caught.value.reason


@pytest.mark.parametrize(
    "overrides",
    [
        ["loss.terms={multi_stft: 1}", "loss.resolutions=[256, 998]"],
        ["loss.terms={l1: 1}", "loss.resolutions=[]"],
        ["loss.terms={magnitude: 1}", "loss.fft=998"],
        ["data.groups={other: [guitar, other]}"],
        [INDEPENDENT, "data.train.0.stem_weights={Bass: 1}"],
    ],
)
def test_sensible_settings_are_accepted(tiny_config: MakeConfig, overrides: list[str]) -> None:
    checked(tiny_config(), *overrides)


def test_a_network_with_a_transform_of_its_own_needs_no_other(tiny_config: MakeConfig) -> None:
    checked(tiny_config(MASK), "loss.terms={magnitude: 1}")


@pytest.mark.parametrize(
    ("parts", "refused"),
    [("accumulate=4", True), ("devices=4", True), ("nodes=4", True), ("accumulate=2", False)],
)
def test_a_masked_loss_needs_several_samples_at_a_time(
    tiny_config: MakeConfig, parts: str, refused: bool
) -> None:
    def parsed() -> None:
        parse_config(tiny_config(), "config.yaml", ["loss.terms={masked_mse: 1}", f"fit.{parts}"])

    if not refused:
        return parsed()
    with pytest.raises(SettingsError, match=r"loss.quantile: .* of one sample, fit.batch_size / \(fit.acc"):
        parsed()


def test_members_of_groups_are_stems_of_some_song(tiny_config: MakeConfig) -> None:
    file = parse_config(tiny_config(), "config.yaml", ["data.groups={other: [other, bass]}"])
    check_members(file)
    file = parse_config(tiny_config(), "config.yaml", ["data.groups={other: [keys]}"])
    said = "data.groups.other: no song has keys; they have bass, drums, other, vocals"
    with pytest.raises(SettingsError, match=said):
        prepare.prepare(file, build_network(file))


def test_members_that_only_some_songs_have(tiny_config: MakeConfig, write_songs: WriteSongs) -> None:
    text = tiny_config()
    path = write_songs({"extra": {"keys": noise(1)}}, folder="more")
    group = "data.groups={other: [keys]}"
    more = f"data.valid=[{{path: {path}}}]"
    check_members(parse_config(text, "config.yaml", [group, more]))


def test_weights_of_unlabelled_songs_match_one(write_songs: WriteSongs) -> None:
    path = str(write_songs({"a": {"mixture": noise(1)}}))
    (one,) = open_mixes([DataSetConfig(path, song_weights={"a/*": 3})], want(), ignore)
    assert one.songs[0].weight == 3
    with pytest.raises(InputError, match=r"none of its tracks is called x\* \(song_weights\)"):
        open_mixes([DataSetConfig(path, song_weights={"x*": 3})], want(), ignore)


def test_unlabelled_music_is_in_a_folder(tiny_config: MakeConfig, tmp_path: Path) -> None:
    (tmp_path / "a.wav").touch()
    more = [f"data.unlabelled=[{{path: {tmp_path}/a.wav}}]", "semi={promote: false}", "model={start: tiny}"]
    file = parse_config(tiny_config(), "config.yaml", more)
    with pytest.raises(SettingsError, match=r"data.unlabelled.0.path: must be a folder: .*a.wav"):
        check_machine(file)


def test_files_beside_pairs_may_hold_the_same_audio(write_songs: WriteSongs) -> None:
    dry = noise(1)
    path = write_songs({"song": {"dry": dry, "dry_backup": dry, "input": noise(1, seed=1)}})
    (track,) = find_multitracks(DataSetConfig(str(path)), want(stems=("dry",), paired=True))
    assert list(track.stems) == ["dry"] and track.mixture is not None


def test_several_machines_need_a_launcher(tiny_config: MakeConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*BY_HAND, "SLURM_NTASKS", "TORCHELASTIC_RUN_ID"):
        monkeypatch.delenv(name, raising=False)
    file = parse_config(tiny_config(), "config.yaml", ["fit.nodes=2"])
    monkeypatch.setenv("MASTER_ADDR", "10.0.0.1")
    said = r"fit.nodes: needs torchrun or SLURM, .*; MASTER_PORT, NODE_RANK not set"
    with pytest.raises(SettingsError, match=said):
        check_machine(file)
    with monkeypatch.context() as environment:
        environment.setenv("TORCHELASTIC_RUN_ID", "1")
        check_nodes(file)
    monkeypatch.setenv("MASTER_PORT", "29500")
    monkeypatch.setenv("NODE_RANK", "1")
    check_nodes(file)


def files_below(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def test_a_dry_run_leaves_no_decoded_audio(tiny_config: MakeConfig, tmp_path: Path) -> None:
    text = tiny_config()
    before = files_below(tmp_path)
    dry_run(parse_config(text, "config.yaml", [f"data.cache={tmp_path}/cache"]))
    assert files_below(tmp_path) == before and not (tmp_path / "cache").exists()


@pytest.mark.parametrize(
    ("kind", "error", "said"),
    [
        ("empty", InputError, "held: no multitrack found"),
        ("corrupt", InputError, "bass.wav"),
        ("silent", SettingsError, "data.valid: no song has drums or bass or other or vocals loud"),
    ],
)
def test_a_dry_run_checks_the_validation_set(
    tiny_config: MakeConfig, write_songs: WriteSongs, kind: str, error: type[Exception], said: str
) -> None:
    path = write_songs({"song": {"bass": np.zeros((2, 500), np.float32)}}, folder="held")
    if kind == "empty":
        (path / "song" / "bass.wav").unlink()
    if kind == "corrupt":
        (path / "song" / "bass.wav").write_bytes(b"RIFF0000")
    overrides: list[Any] = [f"data.valid=[{{path: {path}}}]"]
    with pytest.raises(error, match=said):
        dry_run(parse_config(tiny_config(), "config.yaml", overrides))
