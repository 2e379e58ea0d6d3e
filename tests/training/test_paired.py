"""Training on pairs of an input and its targets, from files and by effects."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from stemsplit.core.stream import separate_array
from stemsplit.evaluation.metrics import si_sdr
from stemsplit.hub.load import load_model
from stemsplit.training.configfile import parse_config
from stemsplit.training.effects import convolve, room_response
from stemsplit.training.recipes import recipe_text
from stemsplit.training.run import train
from tests.training.conftest import WriteSongs

RATE = 4000
Songs = dict[str, dict[str, np.ndarray]]


def plucks(song: int, seconds: float = 6) -> Tensor:
    """Return notes with silence between them, [2, T]."""
    rng, samples = np.random.default_rng(song), round(seconds * RATE)
    audio, at = np.zeros((2, samples), np.float32), 0
    while at < samples:
        time = np.arange(min(samples - at, round(rng.uniform(0.1, 0.3) * RATE))) / RATE
        phase = 2 * np.pi * rng.uniform(100, 900) * time
        audio[:, at : at + len(time)] += 0.3 * np.exp(-12 * time) * np.sin(phase + 3 * np.sin(2 * phase))
        at += round(rng.uniform(0.2, 0.6) * RATE)
    return torch.from_numpy(audio)


def reverberant(song: int) -> dict[str, np.ndarray]:
    dry = plucks(song)
    wet = convolve(dry, room_response(song, dry.shape, RATE, 0.8, -3.0))
    return {"dry": dry.numpy(), "input": wet.numpy()}


SMALL = """model={family: hdemucs, arguments: {
    sources: [dry], channels: 8, depth: 2, nfft: 256, samplerate: 4000, segment: 1}}"""
SHORT = ("data.segment_s=1", "data.workers=0", "fit.device=cpu", "loss.terms={l1: 1}", "augment.effects={}")
STEPS = ("fit.steps_per_epoch=40", "fit.batch_size=4", "optim.lr=2e-3", "augment.gain_db=null")


def restore(tmp_path: Path, songs: Path, *overrides: str, **how: Any) -> Path:
    """Train by the recipe, with a small network; the last two songs are for validation."""
    sets = (f"data.train=[{{path: {songs}, exclude: ['8', '9']}}]",
            f"data.valid=[{{path: {songs}, only: ['8', '9']}}]")  # fmt: skip
    folder = tmp_path / "run"
    every = (*sets, SMALL.replace("\n", ""), *SHORT, *STEPS, f"folder={folder}", *overrides)
    train(parse_config(recipe_text("restore"), "restore.yaml", every), **how)
    return folder


@pytest.mark.slow
def test_training_on_pairs_removes_reverberation(write_songs: WriteSongs, tmp_path: Path) -> None:
    songs = {str(k): reverberant(k) for k in range(10)}
    folder = restore(tmp_path, write_songs(songs, RATE), "fit.epochs=5")
    network = load_model(folder)
    for song in ("8", "9"):
        dry, wet = (torch.from_numpy(songs[song][name]) for name in ("dry", "input"))
        before, after = si_sdr(dry, wet), si_sdr(dry, separate_array(network, wet)[0])
        assert after > before + 1, (before, after)


def test_pairs_may_be_made_from_dry_songs(write_songs: WriteSongs, tmp_path: Path) -> None:
    songs: Songs = {str(k): {"dry": plucks(k, 2).numpy()} for k in range(8)}
    songs |= {str(k): reverberant(k) for k in (8, 9)}
    reverb = ("data.input=sum", "augment.effects={mixture: {reverb: 1}}", "fit.batch_size=2")
    once = ("fit.steps_per_epoch=2", "fit.epochs=1")
    folder = restore(tmp_path, write_songs(songs, RATE), *reverb, *once)
    (line,) = (folder / "metrics.jsonl").read_text().splitlines()
    assert 0 < json.loads(line)["loss"] and json.loads(line)["valid"]["raw"]["dry"] is not None


class Stop(RuntimeError):
    """Simulated power cut."""


def test_a_resumed_run_on_pairs_ends_with_the_same_bits(write_songs: WriteSongs, tmp_path: Path) -> None:
    songs = write_songs({str(k): reverberant(k) for k in range(2)}, RATE)
    few = ("fit.steps_per_epoch=2", "fit.batch_size=2", "fit.epochs=2", "data.valid=[]", "valid={}")
    few = (*few, "augment.effects={both: {distort: 0.5}, mixture: {reverb: 0.5, compress: 0.5}}")

    def stop(event: Any) -> None:
        if getattr(event, "step", 0) >= 3:
            raise Stop

    whole = restore(tmp_path / "whole", songs, *few)
    with pytest.raises(Stop):
        restore(tmp_path / "parts", songs, *few, callback=stop)
    parts = restore(tmp_path / "parts", songs, *few, resume=True)
    states = [
        torch.load(f / "checkpoints/last.ckpt", weights_only=True)["state_dict"] for f in (whole, parts)
    ]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


@pytest.fixture(autouse=True)
def _tell_every_step(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stemsplit.training.recorder._REPORT_INTERVAL_S", -1.0)
