"""A network prepared for inference computes what the plain one does."""

import copy
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import pytest
import torch
from torch import Tensor

from stemsplit.models import build
from stemsplit.models.fast import masking, packed, sliced, tiled
from stemsplit.models.network import Network

Decibels = Callable[[Tensor, Tensor], float]

HT: dict[str, Any] = {
    "sources": ["drums", "bass", "other", "vocals"],
    "channels": 8,
    "nfft": 512,
    "depth": 3,
    "dconv_mode": 3,
    "dconv_comp": 2,
    "bottom_channels": 32,
    "t_layers": 3,
    "t_heads": 2,
    "samplerate": 8000,
    "segment": Fraction(1, 4),
}
HYBRID: dict[str, Any] = {
    "sources": ["drums", "bass", "other", "vocals"],
    "channels": 8,
    "nfft": 256,
    "depth": 4,
    "norm_starts": 2,
    "dconv_attn": 2,
    "dconv_lstm": 2,
    "samplerate": 8000,
    "segment": 1,
}
WAVEFORM: dict[str, Any] = {
    "sources": ["drums", "bass", "other", "vocals"],
    "channels": 8,
    "depth": 4,
    "samplerate": 8000,
}
V3 = WAVEFORM | {"norm_starts": 2, "dconv_attn": 2, "dconv_lstm": 2, "segment": 1}
V2 = WAVEFORM | {"segment_length": 4000}
ROFORMER: dict[str, Any] = {
    "stems": ["a", "b", "c"],
    "num_stems": 3,
    "stereo": True,
    "dim": 32,
    "depth": 2,
    "heads": 2,
    "dim_head": 16,
    "stft_n_fft": 64,
    "stft_win_length": 64,
    "stft_hop_length": 16,
}
BANDS = {"freqs_per_bands": [2, 3, 4, 8, 16]}
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "ht": ("htdemucs", HT),
    "ht without bottom": ("htdemucs", HT | {"bottom_channels": 0}),
    "ht without Transformer": ("htdemucs", HT | {"t_layers": 0}),
    "ht norms last": ("htdemucs", HT | {"t_norm_first": False, "t_layer_scale": False}),
    "ht group norms": ("htdemucs", HT | {"t_group_norm": True, "t_norm_out": 2, "t_gelu": False}),
    "ht sparse": ("htdemucs", HT | {"t_sparse_self_attn": True, "t_mask_type": "diag"}),
    "ht bare layers": ("htdemucs", HT | {"rewrite": False, "freq_emb": 0, "dconv_mode": 0}),
    "ht contexts": ("htdemucs", HT | {"context": 2, "context_enc": 1, "norm_starts": 1, "norm_groups": 2}),
    "ht other kernels": ("htdemucs", HT | {"kernel_size": 4, "stride": 2, "depth": 4}),
    "hybrid": ("hdemucs", HYBRID),
    "hybrid without norms": ("hdemucs", HYBRID | {"norm_starts": 9}),
    "hybrid magnitudes": ("hdemucs", HYBRID | {"cac": False, "hybrid_old": True}),
    "hybrid bands": (
        "hdemucs",
        HYBRID | {"nfft": 1024, "depth": 5, "multi_freqs": [0.1, 0.3], "norm_starts": 4},
    ),
    "hybrid spectral only": ("hdemucs", HYBRID | {"hybrid": False}),
    "hybrid mono": ("hdemucs", HYBRID | {"audio_channels": 1, "dconv_mode": 3, "time_stride": 4}),
    "waveform": ("demucs", V3),
    "waveform without gelu": ("demucs", V3 | {"gelu": False, "glu": False, "dconv_mode": 3}),
    "waveform at its own rate": ("demucs", V3 | {"resample": False, "rewrite": False, "normalize": False}),
    "second waveform": ("demucs_v2", V2),
    "deep roformer": ("bs_roformer", ROFORMER | BANDS | {"mask_estimator": "deep"}),
    "fno roformer": ("bs_roformer", ROFORMER | BANDS | {"mask_estimator": "fno"}),
    "roformer": ("bs_roformer", ROFORMER | BANDS),
    "roformer with skips": ("bs_roformer", ROFORMER | BANDS | {"skip_connection": True, "zero_dc": False}),
    "mono roformer": ("bs_roformer", ROFORMER | BANDS | {"stereo": False, "stft_normalized": True}),
    "roformer of long hops": ("bs_roformer", ROFORMER | BANDS | {"stft_hop_length": 40}),
    "hyperace roformer": ("bs_roformer", ROFORMER | BANDS | {"mask_estimator": "hyperace_v2"}),
    "roformer with shared biases": ("bs_roformer", ROFORMER | BANDS | {"use_shared_bias": True}),
    "polar roformer": ("bs_roformer", ROFORMER | BANDS | {"use_pope": True}),
    "roformer with value residuals": (
        "bs_roformer",
        ROFORMER | BANDS | {"use_value_residual_learning": True},
    ),
    "siamese roformer": ("bs_roformer", ROFORMER | BANDS | {"siamese": True}),
    "conformer": ("bs_conformer", ROFORMER | BANDS),
    "mel conformer": ("mel_band_conformer", ROFORMER | {"num_bands": 5, "mask_estimator_depth": 2}),
    "mel roformer": ("mel_band_roformer", ROFORMER | {"num_bands": 5, "linear_transformer_depth": 1}),
    "mel roformer with skips": (
        "mel_band_roformer",
        ROFORMER
        | {"num_bands": 5, "linear_transformer_depth": 1, "skip_connection": True, "stft_hop_length": 13},
    ),
    "hybrid deep contexts": ("hdemucs", HYBRID | {"context": 2, "context_enc": 1, "norm_starts": 0}),
}


def twins(
    family: str, arguments: dict[str, Any], dtype: torch.dtype = torch.float32
) -> tuple[Network, Network]:
    """A network plain and prepared, with weights of realistic size."""
    plain = build(family, arguments).eval()
    for name, parameter in plain.named_parameters():
        if name.endswith(".scale"):
            parameter.data.uniform_(0.1, 0.4)
        elif parameter.dim() == 1:
            parameter.data.add_(0.3 * torch.randn_like(parameter))
    return plain, copy.deepcopy(plain).prepare(dtype)


TILED = ("ht", "ht contexts", "ht other kernels", "hybrid", "hybrid bands")


@pytest.mark.parametrize(
    ("case", "cached"),
    [*((case, 2**13) for case in CASES), *((case, size) for case in TILED for size in (1, 2**21))],
)
@torch.inference_mode()
def test_prepared_networks_agree(
    case: str, cached: int, decibels: Decibels, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tiled, "TILE_BYTES", cached)
    plain, prepared = twins(*CASES[case])
    for batch, samples in ((1, 2000), (2, 1777)):
        mix = 0.1 * torch.randn(batch, plain.channels, samples)
        assert decibels(plain.estimate(mix), prepared.estimate(mix)) >= 100


@pytest.mark.slow
@pytest.mark.parametrize("case", [case for case in CASES if "former" in case])
@torch.inference_mode()
def test_slices_of_a_few_rows_agree(case: str, decibels: Decibels, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sliced, "ROWS", 7)
    monkeypatch.setattr(masking, "FRAMES", 5)
    plain, prepared = twins(*CASES[case])
    mix = 0.1 * torch.randn(2, plain.channels, 1777)
    expected, found = plain.estimate(mix), prepared.estimate(mix)
    assert decibels(expected, found) >= 100
    assert torch.equal(prepared.estimate(mix), found)


SELECTED = {"htdemucs": HT, "hdemucs": HYBRID | {"norm_starts": 0}, "demucs": V3, "demucs_v2": V2}


@pytest.mark.parametrize("family", SELECTED)
@torch.inference_mode()
def test_selected_stems_agree(family: str, decibels: Decibels) -> None:
    plain = build(family, SELECTED[family]).eval().select(["bass", "vocals"])
    prepared = copy.deepcopy(plain).prepare()
    mix = torch.randn(1, 2, 1500)
    assert prepared.estimate(mix).shape == (1, 2, 2, 1500)
    assert decibels(plain.estimate(mix), prepared.estimate(mix)) >= 100


@torch.inference_mode()
def test_half_precision_agrees_within_its_accuracy(decibels: Decibels) -> None:
    plain, prepared = twins("htdemucs", HT, torch.bfloat16)
    mix = 0.1 * torch.randn(1, 2, 2000)
    expected = plain.estimate(mix)
    full = copy.deepcopy(plain).prepare().estimate(mix)
    # rough enough to see that it isn't full precision, whose agreement is about 140 dB
    assert 50 <= decibels(expected, prepared.estimate(mix)) < decibels(expected, full) - 10


@torch.inference_mode()
def test_inputs_are_left_as_they_were() -> None:
    _, prepared = twins("htdemucs", HT | {"rewrite": False, "dconv_mode": 0})
    mix = torch.randn(1, 2, 2000)
    before = mix.clone()
    assert torch.equal(prepared.estimate(mix), prepared.estimate(mix))
    assert torch.equal(mix, before)


@torch.inference_mode()
def test_public_operators_replace_missing_private_ones(
    decibels: Decibels, monkeypatch: pytest.MonkeyPatch
) -> None:
    packed.packs.cache_clear()
    monkeypatch.setattr(packed, "_samples", _missing)
    try:
        plain, prepared = twins("htdemucs", HT)
        assert not any(getattr(module, "packed", False) for module in prepared.modules())
    finally:
        packed.packs.cache_clear()
    mix = torch.randn(1, 2, 2000)
    assert decibels(plain.estimate(mix), prepared.estimate(mix)) >= 100


def _missing(*_: Tensor) -> list[Tensor]:
    raise AttributeError("_linear_pointwise")


@pytest.mark.slow
@torch.inference_mode()
def test_a_chunk_that_ends_in_silence_agrees(decibels: Decibels) -> None:
    """Sums over a long, mostly constant time axis lose digits unless they are pairwise."""
    released = {"dconv_mode": 3, "bottom_channels": 512, "t_dropout": 0.02, "segment": Fraction(39, 5)}
    plain, prepared = twins("htdemucs", {"sources": HT["sources"], **released})
    mix = 0.1 * torch.randn(1, 2, plain.segment_samples)
    mix[..., 100_000:] = 0
    assert decibels(plain.estimate(mix), prepared.estimate(mix)) >= 100
