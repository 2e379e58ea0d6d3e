"""Open-Unmix equals the separator of the openunmix package, also with a part of the targets."""

import sys
from collections.abc import Callable
from importlib import import_module
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from stemsplit.core.stream import separate_array
from stemsplit.errors import StemsplitError
from stemsplit.models import build
from stemsplit.models.network import Network

Decibels = Callable[[Tensor, Tensor], float]
Twins = Callable[[dict[str, Any]], tuple[nn.Module, Network]]

TINY: dict[str, Any] = {
    "targets": ["drums", "bass", "vocals"],
    "hidden_size": 16,
    "max_bin": 100,
    "n_fft": 256,
    "n_hop": 64,
    "sample_rate": 1000,
}
MONO = {"nb_channels": 1, "n_hop": 128, "targets": ["speech", "noise"]}
SPEECH = MONO | {"sample_rate": 16000, "n_fft": 1024, "n_hop": 512, "hidden_size": 256, "max_bin": 513}


def train(network: Network) -> None:
    """Give statistics and scales realistic values, so that every one changes the output."""
    for key, value in network.state_dict().items():
        name = key.rpartition(".")[2]
        if name == "running_mean" or (".bn" in key and name == "bias"):
            value.normal_(0, 0.2)
        elif name == "running_var" or (".bn" in key and name == "weight"):
            value.uniform_(0.6, 1.4)
        elif name == "input_mean":
            value.uniform_(-2, 0)
        elif name in {"input_scale", "output_scale", "output_mean"}:
            value.uniform_(0.1, 0.5)


def notes(network: Network, seconds: float, batch: int = 1) -> Tensor:
    """Swelling notes, panned differently, over noise: [B, C, T]."""
    samples = round(seconds * network.sample_rate)
    time = torch.arange(samples) / network.sample_rate
    mix = 0.05 * torch.randn(batch, network.channels, samples)
    for step in range(10):
        pitch = network.sample_rate / 400 * 1.4**step
        swell = torch.sin(2 * torch.pi * (0.3 + 0.1 * step) * time).square()
        place = 0.2 * torch.rand(batch, network.channels, 1)
        mix += place * swell * torch.sin(2 * torch.pi * pitch * time)
    return mix


@pytest.fixture
def twins(monkeypatch: pytest.MonkeyPatch) -> Twins:
    """The openunmix package's separator and ours, with the same weights."""
    monkeypatch.setitem(sys.modules, "torchaudio", ModuleType("torchaudio"))  # imported, never used here
    try:
        openunmix = import_module("openunmix.model")
    except ModuleNotFoundError as error:
        pytest.skip(f"{error}: pip install --no-deps openunmix==1.3.0")

    def make(arguments: dict[str, Any]) -> tuple[nn.Module, Network]:
        ours = build("openunmix", arguments).eval()
        train(ours)
        a = ours.arguments
        models = {}
        for name in a.targets:
            sizes = {"nb_bins": a.n_fft // 2 + 1, "nb_channels": a.nb_channels, "max_bin": a.max_bin}
            layers = {"hidden_size": a.hidden_size, "nb_layers": a.nb_layers}
            models[name] = openunmix.OpenUnmix(**sizes, **layers, unidirectional=a.unidirectional)
            models[name].load_state_dict(ours.get_submodule(f"targets.{name}").state_dict())
        filtering = {"niter": a.niter, "softmask": a.softmask, "residual": a.residual}
        frames = {"n_fft": a.n_fft, "n_hop": a.n_hop, "nb_channels": a.nb_channels}
        theirs: nn.Module = openunmix.Separator(models, **filtering, **frames, sample_rate=a.sample_rate)
        return theirs.eval(), ours

    return make


CASES: dict[str, dict[str, Any]] = {
    "as released": {},
    "no iteration": {"niter": 0},
    "two iterations": {"niter": 2},
    "softmask": {"softmask": True},
    "softmask alone": {"softmask": True, "niter": 0},
    "residual": {"residual": True},
    "one target and the residual": {"residual": True, "targets": ["vocals"]},
    "one target": {"niter": 0, "targets": ["vocals"]},
    "mono": MONO,
    "mono residual": MONO | {"residual": True, "niter": 2},
    "one way, one layer": {"unidirectional": True, "nb_layers": 1},
    "all bins": {"max_bin": 129},
}


@pytest.mark.parametrize("case", CASES)
@torch.inference_mode()
def test_stems_are_those_of_openunmix(case: str, twins: Twins, decibels: Decibels) -> None:
    theirs, ours = twins(TINY | CASES[case])
    for seconds in (20.0, 3.1, 0.129):  # beyond a window of 300 frames, within, and as short as they can
        mix = notes(ours, seconds, batch=2)
        # A second iteration magnifies the rounding of the first, in openunmix as here.
        assert decibels(theirs(mix.clone()), ours(mix)) >= (100 if ours.arguments.niter > 1 else 110), seconds


@torch.inference_mode()
def test_a_track_of_a_minute_is_one_chunk(twins: Twins, decibels: Decibels) -> None:
    theirs, ours = twins(TINY)
    mix = notes(ours, 61)
    minute, longer = mix[..., : 60 * ours.sample_rate], mix
    assert decibels(theirs(minute)[0], separate_array(ours, minute[0])) >= 110
    found = separate_array(ours, longer[0])  # in two chunks, the second of which begins after a minute
    assert decibels(ours(longer)[0], found) < 90
    assert found.shape == (3, 2, 61000)


RELEASED: dict[str, dict[str, Any]] = {"umx, umxhq": {}, "umxl": {"hidden_size": 1024}, "umxse": SPEECH}


@pytest.mark.slow
@pytest.mark.parametrize("name", RELEASED)
@torch.inference_mode()
def test_released_networks_are_those_of_openunmix(name: str, twins: Twins, decibels: Decibels) -> None:
    theirs, ours = twins(RELEASED[name])
    for seconds in (20, 1.3):
        mix = notes(ours, seconds)
        assert decibels(theirs(mix)[0], separate_array(ours, mix[0])) >= 112, seconds


def test_published_files_load_with_their_additional_tensors() -> None:
    network = build("openunmix", TINY)
    own = {
        key.removeprefix("targets.bass."): torch.full_like(value, 2)
        for key, value in network.state_dict().items()
        if key.startswith("targets.bass.")
    }
    published = own | {
        "sample_rate": torch.tensor(44100.0),
        "stft.window": torch.hann_window(256),
        "transform.0.window": torch.hann_window(256),
    }
    prefixed = {f"targets.bass.{key}": value for key, value in published.items()}
    missing, surplus = network.load_state_dict(prefixed, strict=False)
    assert surplus == []
    assert all(key.startswith(("targets.drums.", "targets.vocals.")) for key in missing)
    assert "targets.bass.sample_rate" in prefixed, "the caller's mapping was written into"
    assert all((v == 2).all() for k, v in network.state_dict().items() if k.startswith("targets.bass."))


@pytest.mark.parametrize(
    ("arguments", "stems", "needed"),
    [
        ({}, ["bass"], ["drums", "bass", "vocals"]),
        ({"niter": 0}, ["bass"], ["bass"]),
        ({"niter": 0}, ["vocals", "drums"], ["drums", "vocals"]),
        ({"niter": 0, "softmask": True}, ["bass"], ["drums", "bass", "vocals"]),
        ({"niter": 0, "residual": True}, ["bass"], ["bass"]),
        ({"niter": 0, "residual": True}, ["residual"], ["drums", "bass", "vocals"]),
    ],
)
@torch.inference_mode()
def test_only_the_targets_needed_are_kept(
    arguments: dict[str, Any], stems: list[str], needed: list[str]
) -> None:
    whole, narrow = (build("openunmix", TINY | arguments).eval() for _ in range(2))
    train(whole)
    assert narrow.targets_needed(stems) == tuple(needed)  # type: ignore[operator]
    narrow.select(stems)
    assert list(narrow.get_submodule("targets")) == needed  # type: ignore[call-overload]
    state = whole.state_dict()
    narrow.load_state_dict({key: state[key] for key in narrow.state_dict()})
    mix = notes(whole, 5)
    expected = whole(mix)[:, [whole.stems.index(stem) for stem in narrow.stems]]
    torch.testing.assert_close(narrow(mix), expected, rtol=1e-4, atol=1e-6)


@torch.inference_mode()
def test_no_length_ends_in_a_click(twins: Twins, decibels: Decibels) -> None:
    # With frames that overlap by half only, openunmix itself divides by a window of nearly zero there.
    theirs, ours = twins(TINY | MONO)
    hop = ours.arguments.n_hop
    for rest in [*range(0, hop, 11), 96, 97, 126, 127]:
        mix = notes(ours, (40 * hop + rest) / 1000)
        found = ours(mix)
        assert found.abs().max() < 3 * mix.abs().max(), rest
        if rest <= 96:
            assert decibels(theirs(mix), found) >= 110, rest
        else:  # one more frame, which the filter's statistics notice everywhere
            start = slice(0, 38 * hop)
            assert decibels(theirs(mix)[..., start], found[..., start]) >= 70, rest


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [({"nb_channels": 3}, "nb_channels"), ({"targets": ["vocals"]}, "niter")],
)
def test_arguments_that_fit_nothing_are_refused(arguments: dict[str, Any], reason: str) -> None:
    with pytest.raises(StemsplitError, match=reason):
        build("openunmix", TINY | arguments)


def test_training_uses_the_batchs_own_statistics() -> None:
    network = build("openunmix", TINY | {"niter": 0}).train()
    before = {key: value.clone() for key, value in network.state_dict().items() if "running" in key}
    network.estimate(notes(network, 2, batch=2))
    state = network.state_dict()
    assert all(not torch.equal(state[key], value) for key, value in before.items())
