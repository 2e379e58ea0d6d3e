"""Hybrid Demucs equals the network of the demucs package, at any length."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from stemsplit.core.stream import separate_array
from stemsplit.errors import StemsplitError
from stemsplit.hub.checkpoints import build_network, read_package
from stemsplit.models import build
from stemsplit.models.network import Network

Decibels = Callable[[Tensor, Tensor], float]
Twins = Callable[[str, dict[str, Any]], tuple[nn.Module, Network]]
Release = Callable[[str], dict[str, Any]]

TINY: dict[str, Any] = {
    "sources": ["drums", "bass", "other", "vocals"],
    "channels": 8,
    "nfft": 256,
    "depth": 4,
    "dconv_attn": 2,
    "dconv_lstm": 2,
    "samplerate": 8000,
    "segment": 1,
}
OLD = {"cac": False, "hybrid_old": True}
CASES: dict[str, dict[str, Any]] = {
    "as released": {"norm_starts": 2},
    "without norms": {"norm_starts": 999},
    "old": {"hybrid_old": True},
    "magnitudes": {"cac": False},
    "old magnitudes": OLD | {"norm_starts": 2},
    "careless phase": {"cac": False, "wiener_iters": -1, "end_iters": -1},
    "residual": {"cac": False, "wiener_iters": 1, "end_iters": 1, "wiener_residual": True},
    "bands": {"nfft": 1024, "depth": 5, "channels": 4, "multi_freqs": [0.1, 0.3], "dconv_attn": 9},
    "band on the outside": {"multi_freqs": [0.4], "multi_freqs_depth": 1, "dconv_mode": 3},
    "spectral only": {"hybrid": False},
    "spectral only with magnitudes": {"hybrid": False, "cac": False, "wiener_iters": 0, "end_iters": 1},
    "own time channels": {"channels_time": 12, "dconv_mode": 3, "dconv_depth": -1},
    "growth": {"growth": 1.5, "dconv_comp": 1, "rewrite": False, "channels": 16, "dconv_attn": 9},
    "contexts": {"context": 2, "context_enc": 1, "norm_starts": 0, "freq_emb": 0},
    "as deep as the joint": {"depth": 3, "time_stride": 4},
    "mono": {"audio_channels": 1},
}
FULL = ["75fc33f5", "c511e2ab", "7d865c68", "a1d90b5c", "a1d90b5c:5d2d6c55"]


def noise_and_notes(samples: int) -> Tensor:
    """Something like music on a noise floor, without which empty bins have no phase: [1, 2, T]."""
    time = torch.arange(samples) / 44100
    notes = torch.sin(2 * torch.pi * 440 * time) * torch.exp(-6 * (time % 0.5))
    return 0.2 * notes + 0.01 * torch.randn(1, 2, samples)


@pytest.mark.parametrize("name", ["75fc33f5", "c511e2ab", "7d865c68", "a1d90b5c"])
def test_tensors_are_those_of_the_released_file(name: str, demucs_release: Release) -> None:
    release = demucs_release(name)
    with torch.device("meta"):
        network = build("hdemucs", release["arguments"])
    assert {key: list(value.shape) for key, value in network.state_dict().items()} == release["shapes"]
    assert sum(p.numel() for p in network.parameters()) == release["parameters"]


def test_tensors_are_those_of_torchaudios_file(demucs_release: Release) -> None:
    names = {
        "freq_encoder": "encoder",
        "freq_decoder": "decoder",
        "time_encoder": "tencoder",
        "time_decoder": "tdecoder",
    }
    shapes = {}
    for key, shape in demucs_release("torchaudio_hdemucs_high")["shapes"].items():
        head, _, rest = key.partition(".")
        if not key.startswith("time_encoder.4.norm1."):  # which nothing uses
            shapes[f"{names.get(head, head)}.{rest}"] = shape
    with torch.device("meta"):
        network = build("hdemucs", demucs_release("75fc33f5")["arguments"])
    assert {key: list(value.shape) for key, value in network.state_dict().items()} == shapes


def test_arguments_are_those_of_demucs(
    demucs_signature: Callable[[str], tuple[list[Any], list[Any]]],
) -> None:
    theirs, ours = demucs_signature("hdemucs")
    assert ours == theirs


@pytest.mark.parametrize("case", [case for case in CASES if case != "residual"])
@torch.inference_mode()
def test_outputs_are_those_of_demucs(case: str, demucs_twins: Twins, decibels: Decibels) -> None:
    theirs, ours = demucs_twins("hdemucs", TINY | CASES[case])
    short = [] if "spectral" in case else [65] if case == "mono" else [65, 1]  # what demucs can do
    for samples in [2047, *short]:
        mix = 0.1 * torch.randn(2, ours.channels, samples)
        assert decibels(theirs(mix), ours.estimate(mix)) >= 110, samples


@pytest.mark.parametrize("residual", [True, False])
@torch.inference_mode()
def test_wiener_filtering_is_that_of_demucs(residual: bool, demucs_twins: Twins, decibels: Decibels) -> None:
    iterations = {"wiener_iters": 2, "end_iters": 2, "wiener_residual": residual}
    theirs, ours = demucs_twins("hdemucs", TINY | {"cac": False} | iterations)
    mix = torch.randn(1, 2, 19500).double()  # more than a window of 300 frames
    assert decibels(theirs.double()(mix), ours.double().estimate(mix)) >= 110


@pytest.mark.parametrize("case", ["as released", "old magnitudes"])
def test_whole_tracks_are_those_of_demucs(
    case: str, demucs_twins: Twins, decibels: Decibels, music: Callable[[int], Tensor]
) -> None:
    apply = pytest.importorskip("demucs.apply")
    theirs, ours = demucs_twins("hdemucs", TINY | CASES[case])
    for samples in (100, 8000, 15003):  # chunks of 8000, the last ones shorter
        track = music(samples)
        mean, std = track.mean(0).mean(), track.mean(0).std() + 1e-8
        expected = apply.apply_model(theirs, ((track - mean) / std)[None], shifts=0)[0] * std + mean
        assert decibels(expected, separate_array(ours, track)) >= 110, samples


@pytest.mark.slow
@pytest.mark.parametrize("name", FULL)
@torch.inference_mode()
def test_released_networks_are_those_of_demucs(
    name: str, demucs_release: Release, demucs_twins: Twins, decibels: Decibels
) -> None:
    theirs, ours = demucs_twins("hdemucs", demucs_release(name)["arguments"])
    for samples in (441000, 50001):  # the longer one exceeds the span of the LSTMs
        mix = noise_and_notes(samples)
        assert decibels(theirs(mix), ours.estimate(mix)) >= 120, samples


@pytest.mark.parametrize("hybrid", [True, False])
@torch.inference_mode()
def test_a_single_sample_works(hybrid: bool) -> None:
    for channels in (1, 2):
        network = build("hdemucs", TINY | {"hybrid": hybrid, "audio_channels": channels}).eval()
        for samples in (1, 2, 63, 64, 65):
            stems = network(torch.randn(1, channels, samples))
            assert stems.shape == (1, 4, channels, samples)
            assert stems.isfinite().all()


def test_chunks_need_no_context() -> None:
    network = build("hdemucs", TINY)
    assert (network.segment_samples, network.context_samples) == (8000, 0)
    assert network.padded_samples(12345) == 12345
    assert network.longest_segment_samples() is None


@pytest.mark.parametrize("case", ["as released", "bands", "old magnitudes", "residual", "spectral only"])
@torch.inference_mode()
def test_a_narrowed_network_estimates_the_same_stems(case: str, decibels: Decibels) -> None:
    whole, narrow = (build("hdemucs", TINY | CASES[case]).eval() for _ in range(2))
    narrow.load_state_dict(whole.state_dict())
    mix = torch.randn(2, 2, 2001)
    expected = whole.estimate(mix)[:, 1:3]
    assert decibels(expected, narrow.select(["other", "bass"]).estimate(mix)) >= 120


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ({"hybrid": False, "hybrid_old": True}, "hybrid_old"),
        ({"cac": False, "wiener_iters": 1}, "end_iters"),
        ({"multi_freqs": [0.5], "multi_freqs_depth": 3}, "multi_freqs_depth"),
        ({"channels": 6}, "heads"),
    ],
)
def test_arguments_that_fit_nothing_are_refused(arguments: dict[str, Any], reason: str) -> None:
    with pytest.raises(StemsplitError, match=reason):
        build("hdemucs", TINY | arguments)


@pytest.mark.parametrize("case", ["as released", "old magnitudes", "residual", "bands", "spectral only"])
def test_it_learns(case: str) -> None:
    network = build("hdemucs", TINY | CASES[case]).train()
    stems = torch.randn(1, 4, 2, 900)
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)
    losses = []
    for _ in range(3):
        loss = (network.estimate(stems.sum(1)) - stems).abs().mean()
        optimizer.zero_grad()
        loss.backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in network.parameters())
        optimizer.step()
        losses.append(loss.item())
    assert losses[2] < losses[0]


@pytest.mark.slow
@torch.inference_mode()
def test_checkpoints_of_torchaudio_give_the_stems_of_its_network(
    oracle: Callable[..., dict[str, Tensor]], tmp_path: Path, decibels: Decibels
) -> None:
    arguments = {"sources": TINY["sources"], "channels": 8}
    mix = noise_and_notes(60_000)
    answer = oracle("hdemucs_torchaudio.py", arguments, mix=mix)
    stems = answer.pop("stems")
    torch.save({name.removeprefix("weights/"): value for name, value in answer.items()}, tmp_path / "high.pt")
    package = read_package(tmp_path / "high.pt", family="hdemucs", arguments=arguments)
    assert decibels(stems, build_network(package).eval()(mix)) > 110
