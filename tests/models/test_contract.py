"""The contract of every family; a new family needs a line in `FAMILIES` only."""

import io
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from stemsplit.errors import SettingsError, UnknownNameError
from stemsplit.models import build
from stemsplit.models.network import Network

ROFORMER = {
    "stems": ["a", "b"],
    "num_stems": 2,
    "stereo": True,
    "dim": 8,
    "depth": 2,
    "heads": 2,
    "dim_head": 4,
    "stft_n_fft": 64,
    "stft_win_length": 64,
    "stft_hop_length": 16,
    "mlp_expansion_factor": 1,
    "segment_samples": 500,
}
BANDS = {"freqs_per_bands": [2, 3, 4, 8, 16]}
VALUES = {"use_value_residual_learning": True, "time_transformer_depth": 1, "freq_transformer_depth": 2}
CONFORMER = {"conv_kernel_size": 3, "conv_expansion_factor": 1, "ff_mult": 2, "mask_estimator_depth": 2}
LINEAR = {"linear_transformer_depth": 1, "skip_connection": True, "attn_dropout": 0.1, "ff_dropout": 0.1}
SCNET = {
    "dims": [4, 8, 8],
    "nfft": 64,
    "win_size": 64,
    "hop_size": 16,
    "num_dplayer": 2,
    "segment_samples": 500,
}
TRAN = {"tran_rotary_embedding_dim": 4, "tran_dim_head": 4, "tran_heads": 2}
MASK = {"n_fft": 64, "hop": 32, "window_trim": 1, "heads": 3, "hidden": 16, "segment_samples": 500}
BSRNN = {"bands": [2, 3, 4, 8, 16], "n_fft": 64, "hop": 16, "width": 4, "modules": 2, "segment_samples": 500}
DEMUCS = {"sources": ["a", "b"], "channels": 4, "nfft": 256, "samplerate": 8000, "segment": 0.05}
HTDEMUCS = DEMUCS | {"depth": 2, "dconv_comp": 4, "bottom_channels": 8, "t_layers": 2, "t_heads": 2}
HASHED = {"t_sparse_self_attn": True, "t_auto_sparsity": True, "t_sparsity": 0.5}
HDEMUCS = DEMUCS | {"channels": 16, "growth": 1, "depth": 4, "dconv_attn": 2, "dconv_lstm": 3}

WAVEFORM = {
    "sources": ["a", "b"],
    "channels": 8,
    "depth": 2,
    "dconv_attn": 1,
    "dconv_lstm": 1,
    "norm_starts": 1,
    "segment": 0.02,
}
WAVEFORM2 = {"sources": ["a", "b"], "channels": 4, "depth": 2, "segment_length": 500}
TASNET = {"sources": ["a", "b"], "N": 8, "B": 4, "H": 8, "X": 2, "R": 2, "segment_length": 500}
# at least 5000 samples at both ends of a chunk are context
LASAFT = {
    "sources": ["a", "b"],
    "n_fft": 64,
    "hop_length": 32,
    "num_frame": 330,
    "n_blocks": 5,
    "internal_channels": 4,
    "n_internal_layers": 2,
    "num_tdfs": 3,
    "dk": 4,
    "embedding_dim": 4,
}
# with a shorter embedding, a ReLU may leave nothing of it
LASAFT_V2 = LASAFT | {"activation": "leaky_relu", "embedding_dim": 8}
UMX = {
    "targets": ["a", "b"],
    "hidden_size": 8,
    "max_bin": 20,
    "n_fft": 64,
    "n_hop": 16,
    "sample_rate": 1000,
    "segment_s": 0.5,
}
XUMX = {
    "sources": ["a", "b"],
    "hidden_size": 8,
    "max_bin": 20,
    "in_chan": 64,
    "n_hop": 16,
    "sample_rate": 1000,
    "segment_s": 0.5,
}
BYTESEP = {
    "target_source_types": ["a", "b"],
    "widths": [4, 4, 4, 4, 8, 4],
    "n_fft": 256,
    "hop_length": 32,
    "sample_rate": 8000,
    "segment_seconds": 0.25,
}
CWS = {key: value for key, value in BYTESEP.items() if key != "target_source_types"} | {"margin_seconds": 0.1}
D3NET_SIZES = {
    "valid_signal_idx": 24,
    "band_split_idxs": [8],
    "num_init_features": [3, 2],
    "dens_k": [[2, 3, 2], [1]],
    "num_layer_blocks": [[2, 3, 1], [2]],
    "b_n_blocks": [[2, 1, 2], [2]],
    "f_num_init_features": 2,
    "f_dens_k": [2, 2, 3, 2, 2],
    "f_num_layer_block": [2, 1, 2, 2, 2],
    "f_n_blocks": [2, 2, 2, 1, 2],
    "ttl_dens_k": 2,
    "ttl_num_layer_block": 2,
    "test_patch_len": 16,
    "out_shift": 8,
}
D3NET = {
    "targets": {"a": D3NET_SIZES, "b": D3NET_SIZES | {"out_shift": 4}},
    "sample_rate": 1000,
    "fft_size": 64,
    "hop_size": 16,
    "segment_s": 0.5,
}
MDX23C = {
    "stems": ["a", "b"],
    "n_fft": 64,
    "hop_length": 16,
    "dim_f": 32,
    "num_subbands": 2,
    "num_channels": 4,
    "growth": 2,
    "num_scales": 2,
    "num_blocks_per_scale": 1,
    "bottleneck_factor": 2,
    "segment_samples": 500,
}
MDX_NET = {
    "stems": ["a", "b"],
    "n_fft": 64,
    "hop_length": 16,
    "dim_f": 32,
    "dim_t": 32,
    "num_blocks": 5,
    "l": 2,
    "g": 4,
    "bn": 2,
}
KUIELAB = {
    "networks": {
        "a": {k: v for k, v in MDX_NET.items() if k != "stems"},
        "b": {k: v for k, v in MDX_NET.items() if k != "stems"} | {"n_fft": 128, "num_blocks": 3},
    },
    "dim_t": 32,
    "folded": False,
}
APOLLO = {"sr": 8000, "feature_dim": 16, "layer": 1, "segment_samples": 500}
BANDIT = {
    "stems": ["a", "b"],
    "n_bands": 4,
    "n_sqm_modules": 1,
    "emb_dim": 4,
    "rnn_dim": 4,
    "mlp_dim": 4,
    "n_fft": 64,
    "win_length": 64,
    "hop_length": 16,
    "segment_samples": 500,
}
VR = {
    "windows": 1,
    "vr_model_param": {
        "bins": 32,
        "pre_filter_start": 30,
        "pre_filter_stop": 32,
        "band": {
            "1": {
                **{"sr": 2000, "hl": 8, "n_fft": 32, "crop_start": 0, "crop_stop": 15},
                **{"lpf_start": 10, "lpf_stop": 14, "res_type": "polyphase"},
            },
            "2": {
                **{"sr": 8000, "hl": 32, "n_fft": 64, "crop_start": 8, "crop_stop": 25},
                **{"hpf_start": 10, "hpf_stop": 8},
            },
        },
    },
}

SPLEETER = {
    "instrument_list": ["a", "b"],
    "conv_n_filters": [2, 3, 4],
    "T": 8,
    "F": 24,
    "frame_length": 64,
    "frame_step": 16,
    "groups": 2,
    "sample_rate": 8000,
}

WAVE_U_NET = {
    "instruments": ["a", "b"],
    "features": 8,
    "levels": 3,
    "kernel_size": 3,
    "strides": 2,
    "sr": 8000,
    "output_size": 0.1,
}
FIRST_WAVE_U_NET = {
    "num_initial_filters": 2,
    "num_layers": 3,
    "filter_size": 5,
    "merge_filter_size": 3,
    "expected_sr": 8000,
    "num_frames": 200,
}

# the smallest arguments with which a family is still itself
FAMILIES: list[tuple[str, dict[str, Any]]] = [
    ("apollo", APOLLO),
    ("bandit", BANDIT),
    ("bandit", BANDIT | {"rnn_type": "LSTM", "audio_channels": 1}),
    ("bandit", BANDIT | {"band_specs": "mel", "mult_add_mask": True}),
    ("bandit", BANDIT | {"band_specs": "erb", "common_encoder": False}),
    ("bandit_v2", BANDIT),
    ("bs_roformer", ROFORMER | BANDS),
    ("bs_roformer", ROFORMER | BANDS | LINEAR),
    ("bs_roformer", ROFORMER | BANDS | {"mask_estimator": "deep"}),
    ("bs_roformer", ROFORMER | BANDS | {"mask_estimator": "fno"}),
    ("bs_roformer", ROFORMER | BANDS | {"mask_estimator": "hyperace_v2"}),
    ("bs_roformer", ROFORMER | BANDS | {"use_shared_bias": True, "linear_transformer_depth": 1}),
    ("bs_roformer", ROFORMER | BANDS | {"use_pope": True, "attn_dropout": 0.1}),
    ("bs_roformer", ROFORMER | BANDS | VALUES),
    ("bs_roformer", ROFORMER | BANDS | {"siamese": True, "time_transformer_depth": 1}),
    ("bs_conformer", ROFORMER | BANDS | CONFORMER),
    ("mel_band_conformer", ROFORMER | CONFORMER | {"num_bands": 5, "skip_connection": True}),
    ("bsrnn", BSRNN),
    ("bytesep", BYTESEP),
    ("bytesep", BYTESEP | {"model_type": "ResUNet143_DecouplePlusInplaceABN_ISMIR2021", "n_fft": 128}),
    ("bytesep", BYTESEP | {"model_type": "MobileNet_Subbandtime", "input_channels": 1}),
    ("cws_presunet", CWS),
    ("cws_presunet", CWS | {"stems": ["a", "b"], "joint": True, "channels": 1}),
    ("d3net", D3NET),
    ("d3net", D3NET | {"filter": False, "flip": False, "nb_channels": 1}),
    ("demucs", WAVEFORM),
    ("demucs", WAVEFORM | {"normalize": False, "lstm_layers": 1, "dconv_mode": 3}),
    ("demucs_v2", WAVEFORM2),
    ("demucs_v2", WAVEFORM2 | {"normalize": True, "resample": False, "glu": False}),
    ("first_wave_u_net", FIRST_WAVE_U_NET),
    ("first_wave_u_net", FIRST_WAVE_U_NET | {"source_names": ["a", "b", "c"], "learned_upsampling": True}),
    ("hdemucs", HDEMUCS),
    ("hdemucs", HDEMUCS | {"cac": False, "hybrid_old": True}),
    ("htdemucs", HTDEMUCS),
    ("htdemucs", HTDEMUCS | HASHED),
    ("lasaft", LASAFT),
    ("lasaft", LASAFT | {"audio_channels": 1, "n_blocks": 3, "control_n_layer": 1}),
    ("lasaft_v2", LASAFT_V2),
    ("lasaft_v2", LASAFT_V2 | {"audio_channels": 1, "n_blocks": 3, "activation": "relu"}),
    ("mask_transformer", MASK),
    ("mask_transformer", MASK | {"attention": "parallel"}),
    ("mask_transformer", MASK | {"attention": "consecutive", "rmse": True, "zcr": True, "phase": True}),
    ("mdx23c", MDX23C),
    ("mdx23c", MDX23C | {"norm": "BatchNorm", "act": "elu1.0"}),
    ("mdx23c", MDX23C | {"norm": "GroupNorm2", "act": "relu"}),
    ("mdx_kuielab", KUIELAB),
    ("mdx_kuielab", KUIELAB | {"mixer": False, "folded": True}),
    ("mdx_net", MDX_NET),
    ("mdx_net", MDX_NET | {"folded": True, "match_freq_cut": True, "stems": ["a"]}),
    ("mdx_net", MDX_NET | {"norm": "gn", "bias": True, "denoise": True}),
    ("mel_band_roformer", ROFORMER | {"num_bands": 5}),
    ("openunmix", UMX),
    ("openunmix", UMX | {"residual": True, "softmask": True, "niter": 2}),
    ("openunmix", UMX | {"niter": 0, "nb_channels": 1}),
    ("scnet", SCNET),
    ("scnet", SCNET | {"normalise_spectrogram": True, "sources": ["a", "b"]}),
    ("scnet_masked", SCNET),
    ("scnet_tran", SCNET | TRAN),
    ("spleeter", SPLEETER),
    ("spleeter", SPLEETER | {"softmax": True, "conv_activation": "ELU", "mask_extension": "average"}),
    ("tasnet", TASNET),
    ("tasnet", TASNET | {"causal": True, "norm_type": "cLN", "mask_nonlinear": "softmax"}),
    ("vr", VR | {"ch": 2, "window_size": 272, "aspp_layers": 7}),
    ("vr", VR | {"ch": 2, "window_size": 288, "vr_model_param": "1band_sr44100_hl256", "encoders": 5}),
    ("vr_v51", VR | {"nout": 4, "nout_lstm": 8, "window_size": 144}),
    ("wave_u_net", WAVE_U_NET),
    ("wave_u_net", WAVE_U_NET | {"conv_type": "bn", "res": "learned", "separate": False, "channels": 1}),
    ("wave_u_net", WAVE_U_NET | {"conv_type": "normal", "feature_growth": "add", "features": 2}),
    ("xumx", XUMX),
    ("xumx", XUMX | {"niter": 0, "nb_channels": 1, "bidirectional": False}),
]


@pytest.fixture(params=FAMILIES, ids=lambda case: case[0])
def case(request: pytest.FixtureRequest) -> tuple[str, dict[str, Any]]:
    found: tuple[str, dict[str, Any]] = request.param
    return found


@pytest.fixture
def network(case: tuple[str, dict[str, Any]]) -> Network:
    return build(*case).eval()


def lengths(network: Network) -> list[int]:
    """Lengths from a single sample to three segments, or to the network's longest."""
    segment = network.segment_samples
    wanted = [1, 2, 17, segment // 2, segment - 1, segment, segment + 1, 3 * segment]
    longest = network.longest_segment_samples()
    return [n for n in wanted if longest is None or n <= longest]


def noise(network: Network, samples: int, batch: int = 1) -> Tensor:
    """[B, C, context + n + context]."""
    return torch.randn(batch, network.channels, samples + 2 * network.context_samples)


@pytest.mark.parametrize(
    "case", [each for each in FAMILIES if each[1].get("mask_estimator") != "hyperace_v2"]
)
@torch.inference_mode()
def test_a_prepared_network_computes_the_same(
    case: tuple[str, dict[str, Any]], decibels: Callable[[Tensor, Tensor], float]
) -> None:
    # Hyperace enlarges any rounding; test_mask_estimators.py says how much.
    network = build(*case).eval()
    mix = noise(network, network.segment_samples, batch=2)
    before, expected = mix.clone(), network(mix)
    assert decibels(expected, network.prepare()(mix)) >= 100
    assert torch.equal(mix, before)


@torch.inference_mode()
def test_any_length_comes_back_as_stems_of_that_length(network: Network) -> None:
    for samples in lengths(network):
        mix = noise(network, samples, batch=2)
        before = mix.clone()
        stems = network(mix)
        assert stems.shape == (2, len(network.stems), network.channels, samples)
        assert stems.isfinite().all()
        assert torch.equal(mix, before), "the mix was written into"


@torch.inference_mode()
def test_silence_stays_finite(network: Network) -> None:
    for samples in lengths(network):
        assert network(torch.zeros_like(noise(network, samples))).isfinite().all()


@torch.inference_mode()
def test_items_of_a_batch_are_independent(network: Network) -> None:
    mix = noise(network, network.segment_samples, batch=3)
    together, alone = network(mix), network(mix[1:2])
    torch.testing.assert_close(together[1:2], alone, rtol=1e-4, atol=1e-5)


@torch.inference_mode()
def test_the_same_input_gives_the_same_output(network: Network) -> None:
    mix = noise(network, network.segment_samples)
    assert torch.equal(network(mix), network(mix))


def test_every_parameter_gets_a_gradient(network: Network) -> None:
    network.train()
    segment = network.padded_samples(network.segment_samples)
    mix = torch.randn(1, network.channels, segment, requires_grad=True)
    network.estimate(mix).square().mean().backward()
    assert mix.grad is not None and mix.grad.isfinite().all()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, f"{name} takes no part"
        assert parameter.grad.isfinite().all(), name


def test_two_steps_lower_the_loss(network: Network) -> None:
    samples = network.padded_samples(network.segment_samples)
    sources = torch.randn(2, len(network.stems) + 1, network.channels, samples)
    mix, target = sources.sum(dim=1), sources[:, :-1]
    # the running statistics of batch normalisations take more than two steps to settle
    settling = any(isinstance(module, _BatchNorm) for module in network.modules())

    def loss() -> Tensor:
        torch.manual_seed(0)  # drop the same features each time
        return (network.estimate(mix) - target).abs().mean()

    network.train(settling)
    with torch.no_grad():
        before = loss()
    network.train()
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)
    for _ in range(2):
        optimizer.zero_grad()
        loss().backward()
        optimizer.step()
    network.train(settling)
    with torch.no_grad():
        assert loss() < before


@torch.inference_mode()
def test_a_narrowed_network_estimates_the_same_stems(case: tuple[str, dict[str, Any]]) -> None:
    whole, narrow = build(*case).eval(), build(*case).eval()
    narrow.load_state_dict(whole.state_dict())
    last = whole.stems[-1]
    assert narrow.select([last]) is narrow
    assert narrow.stems == (last,)
    mix = noise(whole, whole.segment_samples)
    torch.testing.assert_close(narrow(mix), whole(mix)[:, -1:], rtol=1e-5, atol=1e-6)


def test_an_unknown_stem_is_refused(network: Network) -> None:
    with pytest.raises(UnknownNameError):
        network.select(["theremin"])


@torch.inference_mode()
def test_saved_weights_give_the_same_bytes(case: tuple[str, dict[str, Any]]) -> None:
    first, second = build(*case).eval(), build(*case).eval()
    file = io.BytesIO()
    torch.save(first.state_dict(), file)
    file.seek(0)
    second.load_state_dict(torch.load(file, weights_only=True))
    mix = noise(first, first.segment_samples)
    assert torch.equal(first(mix), second(mix))


@torch.inference_mode()
def test_weights_fit_a_network_on_the_meta_device(case: tuple[str, dict[str, Any]]) -> None:
    whole = build(*case).eval()
    with torch.device("meta"):
        outline = build(*case).eval()
    outline.load_state_dict(whole.state_dict(), assign=True)
    mix = noise(whole, whole.segment_samples)
    assert torch.equal(outline(mix), whole(mix))


def test_an_empty_segment_is_refused(network: Network) -> None:
    with pytest.raises(SettingsError):
        network.use_segment(0)


@torch.inference_mode()
def test_a_shorter_segment_works(network: Network) -> None:
    network.use_segment(network.segment_samples / 2 / network.sample_rate)
    stems = network(noise(network, network.segment_samples))
    assert stems.shape[-1] == network.segment_samples
    assert stems.isfinite().all()
