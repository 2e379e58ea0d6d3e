"""HT Demucs equals the network of the demucs package, for every choice of its arguments."""

from collections.abc import Callable
from fractions import Fraction
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from stemsplit.errors import SettingsError, StemsplitError
from stemsplit.models import build
from stemsplit.models.blocks.attention import CrossTransformer
from stemsplit.models.network import Network

Decibels = Callable[[Tensor, Tensor], float]
Twins = Callable[[str, dict[str, Any]], tuple[nn.Module, Network]]
Release = Callable[[str], dict[str, Any]]

TINY: dict[str, Any] = {
    "sources": ["drums", "bass", "other", "vocals"],
    "channels": 4,
    "nfft": 512,
    "depth": 3,
    "dconv_mode": 3,
    "dconv_comp": 2,
    "bottom_channels": 16,
    "t_layers": 3,
    "t_heads": 2,
    "t_dropout": 0.02,
    "samplerate": 8000,
    "segment": Fraction(1, 4),
}
SEGMENT = 2000
WIENER = {"cac": False, "wiener_iters": 1, "end_iters": 1, "wiener_residual": True}
CASES: dict[str, dict[str, Any]] = {
    "as released": {},
    "no bottom": {"bottom_channels": 0},
    "no Transformer": {"t_layers": 0},
    "cape": {"t_emb": "cape"},
    "cape from zero": {"t_emb": "cape", "t_cape_mean_normalize": False},
    "learnt positions": {"t_emb": "scaled"},
    "random shift": {"t_sin_random_shift": 0, "t_weight_pos_embed": 0.5, "t_max_period": 500.0},
    "norms last": {"t_norm_first": False, "t_layer_scale": False},
    "group norms": {"t_group_norm": True, "t_norm_in": False, "t_norm_in_group": True, "t_gelu": False},
    "no norms around": {
        "t_norm_in": False,
        "t_norm_out": False,
        "t_cross_first": True,
        "t_hidden_scale": 1.5,
    },
    "bare layers": {"rewrite": False, "freq_emb": 0, "dconv_mode": 0},
    "contexts": {"context": 0, "context_enc": 1, "norm_starts": 1, "norm_groups": 2, "dconv_depth": -1},
    "bands": {"nfft": 1024, "multi_freqs": [0.1, 0.3], "multi_freqs_depth": 2},
    "own time channels": {"channels_time": 4, "growth": 1, "emb_smooth": False, "emb_scale": 3},
    "up to the joint": {"depth": 4, "nfft": 1024, "bottom_channels": 0},
    "any length": {"use_train_segment": False},
    "mono": {"audio_channels": 1},
    "magnitudes": {"cac": False},
    "Wiener filtering": WIENER,
}
FULL = ["955717e8", "5c90dfd2"]


@pytest.fixture
def network() -> Network:
    return build("htdemucs", TINY).eval()


@pytest.mark.parametrize("name", FULL)
def test_tensors_are_those_of_the_released_file(name: str, demucs_release: Release) -> None:
    release = demucs_release(name)
    with torch.device("meta"):
        network = build("htdemucs", release["arguments"])
    assert {key: list(value.shape) for key, value in network.state_dict().items()} == release["shapes"]
    assert sum(p.numel() for p in network.parameters()) == release["parameters"]
    assert (network.segment_samples, network.context_samples) == (343980, 171990)


def test_arguments_are_those_of_demucs(
    demucs_signature: Callable[[str], tuple[list[Any], list[Any]]],
) -> None:
    theirs, ours = demucs_signature("htdemucs")
    assert ours == theirs


@pytest.mark.parametrize("case", [case for case in CASES if case != "Wiener filtering"])
@torch.inference_mode()
def test_outputs_are_those_of_demucs(case: str, demucs_twins: Twins, decibels: Decibels) -> None:
    theirs, ours = demucs_twins("htdemucs", TINY | CASES[case])
    for samples in (SEGMENT, SEGMENT - 1, 1):
        mix = 0.1 * torch.randn(2, ours.channels, samples)
        assert decibels(theirs(mix), ours.estimate(mix)) >= 110, samples


@torch.inference_mode()
def test_wiener_filtering_is_that_of_demucs(demucs_twins: Twins, decibels: Decibels) -> None:
    theirs, ours = demucs_twins("htdemucs", TINY | WIENER)
    mix = torch.randn(2, 2, SEGMENT).double()  # in single precision its matrices lose what is compared
    assert decibels(theirs.double()(mix), ours.double().estimate(mix)) >= 110


@pytest.mark.slow
@pytest.mark.parametrize("name", FULL)
@torch.inference_mode()
def test_released_networks_are_those_of_demucs(
    name: str, demucs_release: Release, demucs_twins: Twins, decibels: Decibels
) -> None:
    theirs, ours = demucs_twins("htdemucs", demucs_release(name)["arguments"])
    for samples in (343980, 100001):
        mix = 0.1 * torch.randn(1, 2, samples)
        assert decibels(theirs(mix), ours.estimate(mix)) >= 120, samples


@torch.inference_mode()
def test_a_chunk_is_centred_in_the_trained_length(network: Network, decibels: Decibels) -> None:
    for samples in (1, 700, SEGMENT - 1, SEGMENT):
        assert network.padded_samples(samples) == SEGMENT
        track = torch.randn(1, 2, SEGMENT // 2 + samples + SEGMENT // 2)
        start = SEGMENT // 2 - (SEGMENT - samples) // 2
        whole = network.estimate(track[..., start : start + SEGMENT])
        first = (SEGMENT - samples) // 2
        assert decibels(whole[..., first : first + samples], network(track)) > 100


@torch.inference_mode()
def test_a_shorter_segment_is_filled_up_with_zeros_behind(demucs_twins: Twins, decibels: Decibels) -> None:
    theirs, ours = demucs_twins("htdemucs", TINY)
    ours.use_segment(0.1)
    assert (ours.segment_samples, ours.context_samples) == (800, 400)
    track = torch.randn(1, 2, 400 + 500 + 400)
    expected = theirs(track[..., 250:1050])[..., 150:650]  # demucs fills up with zeros itself
    assert decibels(expected, ours(track)) >= 110


def test_a_longer_segment_is_refused(network: Network) -> None:
    assert network.longest_segment_samples() == SEGMENT
    network.use_segment(0.25)
    with pytest.raises(SettingsError, match="--segment"):
        network.use_segment(0.26)
    with pytest.raises(StemsplitError, match="2001"):
        network.estimate(torch.zeros(1, 2, SEGMENT + 1))


def test_without_a_trained_length_any_segment_works() -> None:
    network = build("htdemucs", TINY | {"use_train_segment": False})
    assert network.longest_segment_samples() is None
    assert (network.use_segment(1).segment_samples, network.context_samples) == (8000, 0)
    assert network.padded_samples(17) == 17


def test_training_takes_any_length_as_it_is(demucs_twins: Twins, decibels: Decibels) -> None:
    theirs, ours = demucs_twins("htdemucs", TINY | {"t_dropout": 0.0})
    for samples in (333, 2 * SEGMENT + 1):
        mix = torch.randn(1, 2, samples)
        expected = theirs.train()(mix)
        assert decibels(expected.detach(), ours.train().estimate(mix).detach()) >= 110


@pytest.mark.parametrize("case", ["as released", "bands", "magnitudes", "Wiener filtering"])
@torch.inference_mode()
def test_narrowed_outermost_layers_compute_nothing_else(case: str, decibels: Decibels) -> None:
    whole, narrow = (build("htdemucs", TINY | CASES[case]).eval() for _ in range(2))
    narrow.load_state_dict(whole.state_dict())
    narrow.select(["vocals", "bass"])
    assert narrow.stems == ("bass", "vocals")
    widths: dict[str, int] = {}
    for branch in ("decoder", "tdecoder"):
        outermost: Any = getattr(narrow, branch)[-1]
        outermost.register_forward_hook(
            lambda _, __, out, branch=branch: widths.update({branch: out[0].shape[1]})
        )
    mix = torch.randn(1, 2, SEGMENT)
    assert decibels(whole.estimate(mix)[:, [1, 3]], narrow.estimate(mix)) >= 130
    complex_channels = 2 if TINY.get("cac", CASES[case].get("cac", True)) else 1
    stems = 4 if case == "Wiener filtering" else 2  # the filter weighs all stems against each other
    assert widths == {"tdecoder": 2 * 2, "decoder": 2 * complex_channels * stems}


@torch.inference_mode()
def test_narrowing_comes_after_a_normalisation_over_all_stems(decibels: Decibels) -> None:
    arguments = TINY | {"norm_starts": 0}
    whole, narrow = build("htdemucs", arguments).eval(), build("htdemucs", arguments).eval()
    narrow.load_state_dict(whole.state_dict())
    mix = torch.randn(1, 2, SEGMENT)
    assert decibels(whole.estimate(mix)[:, :1], narrow.select(["drums"]).estimate(mix)) >= 130


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ({"nfft": 500}, "nfft"),
        ({"nfft": 24 * 40}, "stride"),
        ({"nfft": 512, "depth": 4}, "join"),
        ({"kernel_size": 8, "stride": 2}, "kernel_size"),
        ({"time_stride": 3}, "time_stride"),
        ({"depth": 5, "nfft": 1024}, "depth 5"),
        ({"dconv_comp": 8}, "channels"),
        ({"t_heads": 3}, "t_heads"),
        ({"bottom_channels": 18}, "t_heads"),
        ({"t_emb": "rotary"}, "rotary"),
        ({"t_mask_type": "diag_cross"}, "cross"),
        ({"channels_time": 8, "bottom_channels": 0}, "channels_time"),
        ({"multi_freqs": [0.5], "norm_starts": 0}, "multi_freqs"),
        ({"no_such": 1}, "no_such"),
    ],
)
def test_arguments_that_fit_nothing_are_refused(arguments: dict[str, Any], reason: str) -> None:
    with pytest.raises(StemsplitError, match=reason):
        build("htdemucs", TINY | arguments)


def test_bands_of_no_bins_are_refused() -> None:
    network = build("htdemucs", TINY | {"multi_freqs": [0.01], "multi_freqs_depth": 1})
    with pytest.raises(StemsplitError, match="multi_freqs"):
        network.estimate(torch.zeros(1, 2, 100))


def test_too_long_for_learnt_positions_is_refused() -> None:
    network = build("htdemucs", TINY | {"t_emb": "scaled", "t_max_positions": 8})
    with pytest.raises(StemsplitError, match="positions"):
        network.estimate(torch.zeros(1, 2, SEGMENT))


def test_the_transformer_has_its_own_decay_and_rate() -> None:
    assert build("htdemucs", TINY | {"t_layers": 0}).optimizer_overrides() == {}
    assert build("htdemucs", TINY | {"t_weight_decay": 0.05}).optimizer_overrides() == {
        "crosstransformer.*": {"weight_decay": 0.05}
    }
    assert build("htdemucs", TINY | {"t_lr": 1e-4}).optimizer_overrides() == {
        "crosstransformer.*": {"weight_decay": 0.0, "lr": 1e-4}
    }


def test_positions_are_random_only_in_training() -> None:
    for arguments in ({"t_sin_random_shift": 1000}, {"t_emb": "cape"}):
        network = build("htdemucs", TINY | arguments)
        transformer = network.crosstransformer
        assert isinstance(transformer, CrossTransformer)
        embed = transformer.position_embeddings
        still = [embed.eval()(2, 9, torch.device("cpu")) for _ in range(2)]
        moving = [embed.train()(2, 9, torch.device("cpu")) for _ in range(2)]
        assert torch.equal(*still)
        assert not torch.equal(*moving)
    assert not torch.equal(moving[0][0], moving[0][1]), "each item is jittered by itself"


def test_cape_without_augmentation_is_fixed() -> None:
    network = build("htdemucs", TINY | {"t_emb": "cape", "t_cape_augment": False, "t_dropout": 0.0}).train()
    mix = torch.randn(1, 2, SEGMENT)
    assert torch.equal(network.estimate(mix), network.estimate(mix))


@pytest.mark.parametrize("hashed", [False, True])
def test_sparse_attention_learns(hashed: bool) -> None:
    sparse = {"t_sparse_self_attn": True, "t_sparse_cross_attn": True, "t_mask_type": "diag_global"}
    window = {"t_sparse_attn_window": 3, "t_global_window": 2, "t_auto_sparsity": hashed, "t_sparsity": 0.5}
    network = build("htdemucs", TINY | sparse | window | {"t_dropout": 0.1}).train()
    stems = torch.randn(2, 4, 2, SEGMENT // 2)
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)
    losses = []
    for _ in range(4):
        loss = (network.estimate(stems.sum(1)) - stems).abs().mean()
        optimizer.zero_grad()
        loss.backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in network.parameters())
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]


@torch.inference_mode()
def test_mixed_precision_stays_close(network: Network, decibels: Decibels) -> None:
    mix = torch.randn(1, 2, SEGMENT)
    with torch.autocast("cpu", torch.bfloat16):
        rounded = network.estimate(mix)
    assert rounded.dtype == torch.float32
    assert decibels(network.estimate(mix), rounded) > 25
