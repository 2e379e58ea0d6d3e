"""Demucs on waveforms equals the networks of demucs 4.1.0 (third generation) and 2.0.3 (second)."""

import ast
import math
import os
from collections.abc import Callable
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from stemsplit.core.stream import separate_array
from stemsplit.models import build
from stemsplit.models.demucs import DemucsV2Arguments, centre, resample
from stemsplit.models.network import Network

Decibels = Callable[[Tensor, Tensor], float]
Twins = Callable[[str, dict[str, Any]], tuple[nn.Module, Network]]
Demucs2 = Callable[[str, dict[str, Any], dict[str, Tensor], list[Tensor]], list[Tensor]]
Music = Callable[[int], Tensor]
Trained = Callable[[nn.Module], None]

STEMS = ["drums", "bass", "other", "vocals"]
TINY: dict[str, Any] = {
    "sources": STEMS,
    "channels": 8,
    "depth": 4,
    "norm_starts": 2,
    "dconv_attn": 2,
    "dconv_lstm": 2,
    "segment": 0.25,
}
TINY_V2: dict[str, Any] = {"sources": STEMS, "channels": 8, "depth": 4, "segment_length": 11025}
CASES: dict[str, dict[str, Any]] = {
    "as released": {},
    "not rewritten": {"rewrite": False},
    "LSTM, branches in the decoder": {"lstm_layers": 1, "dconv_mode": 3},
    "only branches in the decoder": {"dconv_mode": 2, "dconv_comp": 2},
    "ReLU": {"glu": False, "gelu": False, "dconv_mode": 0},
    "not normalised": {"normalize": False},
    "not resampled": {"resample": False, "context": 2, "norm_groups": 2, "dconv_depth": -3},
    "growth": {"depth": 3, "growth": 1.5, "channels": 16, "dconv_comp": 1},
    "other strides": {"depth": 3, "kernel_size": 6, "stride": 2, "context": 0, "dconv_lstm": 9},
    "mono": {"audio_channels": 1},
}


def pair(twins: Twins, trained: Trained, arguments: dict[str, Any]) -> tuple[nn.Module, Network]:
    theirs, ours = twins("demucs", arguments)
    trained(theirs)
    ours.load_state_dict(theirs.state_dict())
    return theirs, ours


def separate_with_demucs(network: nn.Module, track: Tensor) -> Tensor:
    """As `demucs.api.Separator(shifts=0)` does."""
    apply = pytest.importorskip("demucs.apply")
    mono = track.mean(0)
    mean, std = mono.mean(), mono.std() + 1e-8
    stems: Tensor = apply.apply_model(network, ((track - mean) / std)[None], shifts=0)[0]
    return stems * std + mean


def test_arguments_are_those_of_demucs(
    demucs_signature: Callable[[str], tuple[list[Any], list[Any]]],
) -> None:
    theirs, ours = demucs_signature("demucs")
    assert ours == theirs


def test_arguments_are_those_of_demucs_2() -> None:
    source = Path(os.environ.get("STEMSPLIT_DEMUCS2", ""), "demucs", "model.py")
    if not source.is_file():
        pytest.skip("STEMSPLIT_DEMUCS2 names no folder with demucs 2.0.3")
    (init,) = [
        function
        for node in ast.parse(source.read_text()).body
        if isinstance(node, ast.ClassDef) and node.name == "Demucs"
        for function in node.body
        if isinstance(function, ast.FunctionDef) and function.name == "__init__"
    ]
    ours = [(field.name, field.default) for field in fields(DemucsV2Arguments)]
    assert [argument.arg for argument in init.args.args[1:]] == [name for name, _ in ours]
    defaults = [eval(compile(ast.Expression(d), "", "eval")) for d in init.args.defaults]
    assert defaults == [default for _, default in ours if default is not MISSING]


@pytest.mark.parametrize("case", CASES)
@torch.inference_mode()
def test_outputs_are_those_of_demucs(
    case: str, demucs_twins: Twins, trained: Trained, decibels: Decibels
) -> None:
    theirs, ours = pair(demucs_twins, trained, TINY | CASES[case])
    for samples in (4000, 3999, 1025, 2):
        mix = 0.2 * torch.randn(2, ours.channels, samples) + 0.05
        assert decibels(theirs(mix), ours.estimate(mix)) >= 110, samples


@pytest.mark.parametrize("samples", [1, 700, 8268, 8269, 11025, 11026, 40000])
@torch.inference_mode()
def test_tracks_are_separated_as_by_demucs(
    samples: int, demucs_twins: Twins, trained: Trained, decibels: Decibels, music: Music
) -> None:
    theirs, ours = pair(demucs_twins, trained, TINY)
    if samples == 1:  # of which there is no deviation, so that demucs gives NaN
        assert separate_array(ours, music(samples)).isfinite().all()
        return
    track = music(samples)
    stems = separate_with_demucs(theirs, track)
    constant = stems.mean(dim=-1, keepdim=True)
    assert decibels(stems - constant, separate_array(ours, track) - constant) >= 100


RELEASED = {"0d19c1c6": {"rewrite": False, "segment": 112}, "9a6b4851": {"segment": 44}}


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("name", RELEASED)
@torch.inference_mode()
def test_released_networks_are_those_of_demucs(
    name: str, demucs_twins: Twins, trained: Trained, decibels: Decibels, music: Music
) -> None:
    theirs, ours = pair(demucs_twins, trained, {"sources": STEMS} | RELEASED[name])
    for samples in (882000, 100001):
        track = music(samples)
        assert decibels(separate_with_demucs(theirs, track), separate_array(ours, track)) >= 110, samples


@torch.inference_mode()
def test_tracks_are_separated_as_by_demucs_2(
    demucs2: Demucs2, trained: Trained, decibels: Decibels, music: Music
) -> None:
    network = build("demucs_v2", TINY_V2).eval()
    trained(network)
    tracks = [music(samples) for samples in (2, 700, 8268, 8269, 11026, 40000)]
    for track, stems in zip(tracks, demucs2("Demucs", TINY_V2, network.state_dict(), tracks), strict=True):
        assert decibels(stems, separate_array(network, track)) >= 110, track.shape


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("channels", [48, 64])
@torch.inference_mode()
def test_released_networks_are_those_of_demucs_2(
    channels: int, demucs2: Demucs2, trained: Trained, decibels: Decibels, music: Music
) -> None:
    arguments = {"sources": STEMS, "channels": channels}
    network = build("demucs_v2", arguments).eval()
    trained(network)
    tracks = [music(882000), music(100001)]
    expected = demucs2("Demucs", arguments, network.state_dict(), tracks)
    for track, stems in zip(tracks, expected, strict=True):
        assert decibels(stems, separate_array(network, track)) >= 110


BARE: dict[str, dict[str, Any]] = {
    "demucs": {"sources": ["a"], "channels": 4, "rescale": 0, "dconv_mode": 0, "norm_starts": 9},
    "demucs_v2": {"sources": ["a"], "channels": 4, "rescale": 0},
}
SHAPES: list[tuple[str, dict[str, Any]]] = [
    ("demucs", {}),
    ("demucs", {"resample": False}),
    ("demucs", {"depth": 2}),
    ("demucs", {"depth": 3, "stride": 3, "kernel_size": 7, "resample": False}),
    ("demucs_v2", {}),
    ("demucs_v2", {"context": 1}),
    ("demucs_v2", {"context": 5, "depth": 3, "resample": False}),
    ("demucs_v2", {"depth": 2, "stride": 2, "kernel_size": 8}),
]


@pytest.mark.parametrize(("family", "arguments"), SHAPES)
def test_context_is_what_the_widest_padding_needs(family: str, arguments: dict[str, Any]) -> None:
    with torch.device("meta"):
        network = build(family, BARE[family] | arguments)
    added = [network.padded_samples(n) - n for n in range(1, 6000)]
    assert min(added) >= 0
    assert network.context_samples == math.ceil(max(added) / 2)


@pytest.mark.parametrize(("family", "arguments"), SHAPES)
@torch.inference_mode()
def test_padded_lengths_are_the_shortest_that_give_enough(family: str, arguments: dict[str, Any]) -> None:
    network = build(family, BARE[family] | {"depth": 3} | arguments).eval()
    waveforms: Callable[[Tensor], Tensor] = getattr(network, "waveforms")  # noqa: B009
    for samples in (1, 100, 101, 255, 256, 257, 2000):
        padded = network.padded_samples(samples)
        assert samples <= waveforms(torch.randn(1, 2, padded)).shape[-1] <= padded


@torch.inference_mode()
def test_chunks_of_the_second_generation_see_real_audio() -> None:
    # Nothing is padded inside, so that without the LSTM a chunk comes out as it does from a longer one where
    # the strides fall on the same samples, except where transposed convolutions begin and end.
    network = build("demucs_v2", TINY_V2 | {"depth": 2, "lstm_layers": 0, "resample": False}).eval()
    context, edge = network.context_samples, 40
    mix = torch.randn(1, 2, 2000 + 2 * context)
    whole = network(mix)

    def before(samples: int) -> int:
        return (network.padded_samples(samples) - samples) // 2

    for samples in range(300, 317):
        start = 160 + (before(samples) - before(2000)) % 16
        part = network(mix[..., start : start + samples + 2 * context])
        inside = whole[..., start + edge : start + samples - edge]
        torch.testing.assert_close(part[..., edge:-edge], inside, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("old", "new"), [(1, 2), (2, 1), (2, 3), (3, 2)])
def test_resampling_is_that_of_julius(old: int, new: int, decibels: Decibels) -> None:
    julius = pytest.importorskip("julius")
    for samples in (1, 2, 1000, 1001):
        x = torch.randn(2, 3, samples) + 1
        expected = julius.resample_frac(x, old, new)
        assert resample(x, old, new).shape == expected.shape
        if expected.numel():
            assert decibels(expected, resample(x, old, new)) >= 145


def test_resampling_there_and_back_changes_nothing_below_the_cutoff() -> None:
    time = torch.arange(4000, dtype=torch.float64)
    x = torch.stack([torch.cos(2 * torch.pi * f * time) for f in (0.0, 0.01, 0.2, 0.4)])
    doubled = resample(x, 1, 2)
    assert doubled.shape == (4, 8000)
    middle = slice(200, -200)
    torch.testing.assert_close(doubled[:, ::2][:, middle], x[:, middle], atol=2e-3, rtol=0)
    torch.testing.assert_close(resample(doubled, 2, 1)[:, middle], x[:, middle], atol=4e-3, rtol=0)
    assert resample(x, 1, 1) is x


def test_the_greater_half_of_an_odd_surplus_is_cut_off_at_the_end() -> None:
    x = torch.arange(10)
    assert centre(x, 7).tolist() == [1, 2, 3, 4, 5, 6, 7]
    assert centre(x, 10).tolist() == x.tolist()


@pytest.mark.parametrize(("family", "arguments"), [("demucs", TINY), ("demucs_v2", TINY_V2)])
@torch.inference_mode()
def test_the_last_layer_computes_the_selected_stems_only(family: str, arguments: dict[str, Any]) -> None:
    whole, narrow = (build(family, arguments).eval() for _ in range(2))
    narrow.load_state_dict(whole.state_dict())
    narrow.select(["vocals", "bass"])
    mix = torch.randn(2, 2, 3000)
    torch.testing.assert_close(narrow.estimate(mix), whole.estimate(mix)[:, [1, 3]])
    waveforms: Callable[[Tensor], Tensor] = getattr(narrow, "waveforms")  # noqa: B009
    assert waveforms(mix[..., : narrow.padded_samples(100)]).shape[:3] == (2, 2, 2)


def test_initial_weights_are_rescaled() -> None:
    torch.manual_seed(0)
    plain = build("demucs_v2", TINY_V2 | {"rescale": 0})
    torch.manual_seed(0)
    scaled = build("demucs_v2", TINY_V2)
    initial = plain.state_dict()
    for key, after in scaled.state_dict().items():
        if key.endswith("weight") and "lstm" not in key:
            before = initial[key]
            assert float(after.std()) == pytest.approx(float((before.std() * 0.1).sqrt()), rel=1e-4)
