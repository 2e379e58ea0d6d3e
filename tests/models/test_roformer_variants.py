"""Variants of the RoFormers' layers, and Conformers, fit what is published: tensors, configurations, outputs.

The references lie in `shared/zoo` beside the repository; without it their tests are skipped.
"""

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
import yaml
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from stemsplit import load_model
from stemsplit.errors import CheckpointError, StemsplitError
from stemsplit.hub.bare import describe
from stemsplit.models import build, family
from stemsplit.models.blocks.value_residual import ValueResidualTransformer
from stemsplit.models.network import Network

PLACES = [parent / "shared/zoo" for parent in Path(__file__).parents[2].parents]
ZOO = next((place for place in PLACES if place.is_dir()), PLACES[0])

Config = dict[str, Any]
Decibels = Callable[[Tensor, Tensor], float]
Oracle = Callable[..., dict[str, Tensor]]

GOLDENS: dict[str, tuple[str, Config]] = {
    "bs_roformer_shared_bias": ("bs_roformer", {}),
    "bs_roformer_pope": ("bs_roformer", {}),
    "bs_roformer_siamese": ("bs_roformer", {"siamese": True}),
    "bs_conformer": ("bs_conformer", {}),
    "mel_band_conformer": ("mel_band_conformer", {}),
}
# Lists of tensors, and what no configuration says but the tensors' names do
LISTS: dict[str, tuple[str, Config]] = {
    "BS-Roformer-SW": ("bs_roformer", {"use_shared_bias": True}),
    "bs_pope_instvoc_aname": ("bs_roformer", {"use_pope": True}),
    "model_bs_polarformer": ("bs_roformer", {"use_pope": True}),
    "BS_Inst_EXP_VRL": ("bs_roformer", {"use_value_residual_learning": True}),
    "bs_conformer_4stem": ("bs_conformer", {}),
    "bs_roformer_dim256_depth12_1stem": ("bs_roformer", {}),
    "bs_roformer_dim512_depth12_viperx": ("bs_roformer", {}),
    "mvsep_mega_53stems": ("bs_roformer", {}),
    "mel_band_roformer_becruily_karaoke_2stem": ("mel_band_roformer", {}),
    "mel_band_roformer_big_beta4": ("mel_band_roformer", {}),
    "mel_band_roformer_kim": ("mel_band_roformer", {}),
    "mel_band_roformer_viperx_3005": ("mel_band_roformer", {}),
}


def published(constructor: Config, **sections: Config) -> Config:
    """A configuration in the published layout around a constructor's arguments."""
    model = {name: value for name, value in constructor.items() if name != "sample_rate"}
    stems = [f"stem {number}" for number in range(model.get("num_stems", 1))]
    audio = {"sample_rate": constructor.get("sample_rate", 44_100)}
    return {"model": model, "audio": audio, "training": {"instruments": stems}} | sections


def from_config(name: str, config: Config) -> Network:
    return build(name, asdict(family(name).Arguments.from_config(config))).eval()


def by_formula(j: int, base: float, scale: float, shape: list[int]) -> Tensor:
    """Weights that a golden has only the rule of: an integer hash of their index, as in MurmurHash3."""
    h = np.arange(int(np.prod(shape)), dtype=np.uint64) * 2654435761 + (j + 1) * 40503 & 0xFFFFFFFF
    for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35)):
        h ^= h >> shift
        h = h * factor & 0xFFFFFFFF
    h ^= h >> 16
    value = ((h >> 8) / 2**23 - 1) * scale
    return torch.from_numpy(value.astype(np.float32) + np.float32(base)).view(shape)


def golden(name: str) -> tuple[Config, dict[str, Tensor], Tensor, Tensor]:
    """The reference's arguments, weights, input [B, C, T] and output [B, S, C, T']."""
    path = ZOO / f"goldens/{name}.safetensors"
    if not path.is_file():
        pytest.skip(f"no golden at {path}")
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    rules = json.loads(metadata.get("formula_weights", "{}")).get("keys", {})
    weights = {key: by_formula(**rule) for key, rule in rules.items()}
    weights |= {k.removeprefix("weights/"): v for k, v in tensors.items() if k.startswith("weights/")}
    expected = tensors["output"]
    return (
        json.loads(metadata["constructor"]),
        weights,
        tensors["input"],
        expected if expected.ndim == 4 else expected[:, None],
    )


@pytest.mark.parametrize("prepared", [False, True])
@pytest.mark.parametrize("name", GOLDENS)
@torch.inference_mode()
def test_outputs_are_the_references(name: str, prepared: bool, decibels: Decibels) -> None:
    constructor, weights, mix, expected = golden(name)
    of, extra = GOLDENS[name]
    network = from_config(of, published(constructor | extra))
    network.load_state_dict({**network.state_dict(), **weights})  # rotary frequencies and counts have no rule
    stems = (network.prepare() if prepared else network)(mix)
    assert decibels(expected, stems[..., : expected.shape[-1]]) >= 105


@torch.inference_mode()
def test_value_residuals_are_the_references(decibels: Decibels, monkeypatch: pytest.MonkeyPatch) -> None:
    """The reference, msst 0.1.0, adds no layer to its input after the first block.

    The code that the released network was trained with (BS-RoFormer 0.5.1) does, and so do we.
    """
    constructor, weights, mix, expected = golden("bs_roformer_value_residual")
    network = from_config("bs_roformer", published(constructor | {"zero_dc": False}))
    network.load_state_dict(weights)
    plain = ValueResidualTransformer.forward

    def without_input(self: Any, x: Tensor, first: list[Tensor]) -> Tensor:
        if not first:
            return plain(self, x, first)
        for attention, feed_forward in self.layers:
            x = feed_forward(attention.lean(x, first[0])[0])
        return x

    monkeypatch.setattr(ValueResidualTransformer, "forward", without_input)
    assert decibels(expected, network(mix)) >= 105


@pytest.mark.parametrize("name", LISTS)
def test_tensors_are_those_of_the_released_constructor(name: str, tmp_path: Path) -> None:
    path = ZOO / f"keys/{name}.json"
    if not path.is_file():
        pytest.skip(f"no list of tensors at {path}")
    listed = json.loads(path.read_text())
    of, variant = LISTS[name]
    constructor = {k: v for k, v in listed["constructor"].items() if k not in variant}
    (tmp_path / "model.yaml").write_text(yaml.safe_dump(published(constructor)))
    found = describe(tmp_path / "model.ckpt", dict.fromkeys(listed["keys"], torch.empty(0)))
    assert found.family == of
    with torch.device("meta"):
        network = build(of, found.arguments)
    assert {key: list(value.shape) for key, value in network.state_dict().items()} == listed["keys"]
    # The lists count the frequencies of both axes' rotary positions as parameters.
    frequencies = 0 if "use_pope" in variant else constructor["dim_head"]
    assert sum(p.numel() for p in network.parameters()) + frequencies == listed["parameters"]


@pytest.mark.parametrize(
    ("name", "tensors"),
    [
        ("BS-Roformer-SW.ckpt", "BS-Roformer-SW"),
        ("logic_bs_roformer.ckpt", "BS-Roformer-SW"),
        ("fused_model_bs_conformer_sdr_9.18.ckpt", "bs_conformer_4stem"),
        ("bs_pope_instvoc.ckpt", "bs_pope_instvoc_aname"),
        ("model_bs_polarformer_float16.ckpt", "model_bs_polarformer"),
        ("BS_Inst_EXP_VRL.ckpt", "BS_Inst_EXP_VRL"),
        ("bs_exp_siameseroformer.ckpt", None),
    ],
)
def test_released_files_are_explained(name: str, tensors: str | None, tmp_path: Path) -> None:
    if not (ZOO / "catalog.json").is_file():
        pytest.skip(f"no catalogue at {ZOO}")
    row = next(r for r in json.loads((ZOO / "catalog.json").read_text())["rows"] if r["name"] == name)
    listed = json.loads((ZOO / f"keys/{tensors}.json").read_text()) if tensors else {}
    keys = listed.get("keys", ["final_norm.gamma", "layers.0.0.y_attn.0"])
    config = row["config"] or published(listed["constructor"])
    training = config["training"]
    training["instruments"] = training["instruments"] or [training["target_instrument"]]
    (tmp_path / "model.yaml").write_text(yaml.safe_dump(config))
    found = describe(tmp_path / "model.ckpt", dict.fromkeys(keys, torch.empty(0)))
    with torch.device("meta"):
        network = build(found.family, found.arguments)
    assert network.state_dict().keys() == listed.get("keys", network.state_dict()).keys()
    if (size := row["files"][0]["size"]) is not None:
        # A file of torch.save has 300 to 450 bytes more per tensor.
        weights = sum(4 * p.numel() for p in network.parameters())
        assert 300 <= (size - weights) / len(network.state_dict()) <= 450


YAML = """
audio: {chunk_size: 500, sample_rate: 44100}
model: {dim: 8, depth: 2, stereo: true, num_stems: 2, dim_head: 4, heads: 2, mlp_expansion_factor: 1,
  stft_n_fft: 64, stft_hop_length: 16, stft_win_length: 64, flash_attn: true}
training: {instruments: [Vocals, Other], target_instrument: null}
inference: {num_overlap: 2}
"""
BANDS = {"freqs_per_bands": [2, 3, 4, 8, 16]}
# Small networks: what their configuration says, and what only their tensors' names say
SMALL: dict[str, tuple[str, Config, Config]] = {
    "plain": ("bs_roformer", BANDS, {}),
    "shared biases": ("bs_roformer", BANDS, {"use_shared_bias": True}),
    "polar": ("bs_roformer", BANDS, {"use_pope": True}),
    "value residuals": ("bs_roformer", BANDS, {"use_value_residual_learning": True}),
    "siamese": ("bs_roformer", BANDS, {"siamese": True}),
    "mel": ("mel_band_roformer", {"num_bands": 5}, {}),
    "conformer": ("bs_conformer", BANDS | {"conv_kernel_size": 3, "conv_dropout": 0.1}, {}),
    "mel conformer": ("mel_band_conformer", {"num_bands": 5, "mask_estimator_depth": 2, "ff_mult": 2}, {}),
}


def small(case: str) -> tuple[Network, Config]:
    """A network with weights that all change its output, and a configuration that doesn't say its variant."""
    name, said, unsaid = SMALL[case]
    config = yaml.safe_load(YAML)
    config["model"] |= said | unsaid
    network = from_config(name, config)
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.ndim < 2:
                parameter.add_(0.3 * torch.randn_like(parameter))
    config["model"] = {k: v for k, v in config["model"].items() if k not in unsaid}
    return network, config


def write(path: Path, network: Network, config: Config, prefix: str = "") -> None:
    save_file({prefix + key: value.clone() for key, value in network.state_dict().items()}, path)
    path.with_suffix(".yaml").write_text(yaml.safe_dump(config))


@pytest.mark.parametrize("prefix", ["", "model."])
@pytest.mark.parametrize("case", SMALL)
@torch.inference_mode()
def test_checkpoints_load_by_path_with_a_plain_yaml(case: str, prefix: str, tmp_path: Path) -> None:
    network, config = small(case)
    write(tmp_path / "published.safetensors", network, config, prefix)
    loaded, mix = cast(Network, load_model(tmp_path / "published.safetensors")), torch.randn(1, 2, 500)
    assert type(loaded) is type(network) and loaded.overlap == 0.5
    assert torch.equal(loaded(mix), network(mix))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("case", SMALL)
@torch.inference_mode()
def test_files_of_half_precision_are_widened(case: str, dtype: torch.dtype, tmp_path: Path) -> None:
    network, config = small(case)
    for parameter in network.parameters():
        parameter.copy_(parameter.to(dtype))
    before = network(mix := torch.randn(1, 2, 500))
    write(tmp_path / "half.safetensors", network.to(dtype), config)
    loaded = cast(Network, load_model(tmp_path / "half.safetensors"))
    assert all(value.dtype in (torch.float32, torch.int64) for value in loaded.state_dict().values())
    torch.testing.assert_close(loaded(mix), before, rtol=1e-3, atol=1e-4)


def test_shared_biases_that_differ_are_one_line(tmp_path: Path) -> None:
    network, config = small("shared biases")
    write(tmp_path / "damaged.safetensors", network, config)
    state = {key: value.clone() for key, value in network.state_dict().items()}
    state["layers.1.0.layers.0.0.to_qkv.bias"][0] += 1
    save_file(state, tmp_path / "damaged.safetensors")
    with pytest.raises(
        CheckpointError, match="layers.1.0.layers.0.0.to_qkv.bias and linear_62_bias_0 differ"
    ):
        load_model(tmp_path / "damaged.safetensors")


def test_hyper_connections_are_refused_by_name(tmp_path: Path) -> None:
    network, config = small("value residuals")
    state = {
        key.replace(".0.0.to_", ".0.0.branch.to_"): value.clone()
        for key, value in network.state_dict().items()
    }
    save_file(state, tmp_path / "streams.safetensors")
    (tmp_path / "streams.yaml").write_text(yaml.safe_dump(config))
    with pytest.raises(CheckpointError, match=r"variant .* isn't supported: its weights have .*\.branch\."):
        load_model(tmp_path / "streams.safetensors")


@torch.inference_mode()
def test_weights_of_a_variant_do_not_pass_as_plain(tmp_path: Path) -> None:
    """A person's own description has the last word, and the weights don't fit it."""
    network, config = small("value residuals")
    config["model"]["use_value_residual_learning"] = False
    write(tmp_path / "odd.safetensors", network, config)
    with pytest.raises(CheckpointError, match="unexpected layers.1.0.*to_value_residual_mix"):
        load_model(tmp_path / "odd.safetensors")


def test_a_convolution_without_a_middle_is_refused() -> None:
    with pytest.raises(StemsplitError, match="conv_kernel_size 4: must be odd"):
        build("bs_conformer", {"dim": 8, "depth": 1, "conv_kernel_size": 4})


# Released arguments: the program of tests/oracles that knows the reference, its arguments, and ours
BASE = {"stereo": True, "dim_head": 64, "heads": 8, "stft_n_fft": 2048, "stft_win_length": 2048}
AXES = {"time_transformer_depth": 1, "freq_transformer_depth": 1, "mask_estimator_depth": 2}
CONFORMERS = {
    "dim": 256,
    "depth": 6,
    "num_stems": 4,
    "time_conformer_depth": 1,
    "freq_conformer_depth": 1,
    "conv_kernel_size": 31,
    "conv_expansion_factor": 2,
    "ff_mult": 4,
    "mlp_expansion_factor": 2,
    "mask_estimator_depth": 2,
    "stft_hop_length": 512,
}
ORACLES: dict[str, tuple[str, str, Config]] = {
    "BS-Roformer-SW": (
        "bs_roformer",
        "roformer_pymss.py",
        AXES | {"dim": 256, "depth": 12, "num_stems": 6, "stft_hop_length": 512, "use_shared_bias": True},
    ),
    "model_bs_polarformer": (
        "bs_roformer",
        "roformer_pymss.py",
        AXES | {"dim": 256, "depth": 12, "num_stems": 1, "stft_hop_length": 512, "use_pope": True},
    ),
    "BS_Inst_EXP_VRL": (
        "bs_roformer",
        "roformer_lucidrains.py",
        AXES
        | {
            "dim": 384,
            "depth": 12,
            "num_stems": 1,
            "stft_hop_length": 441,
            "use_value_residual_learning": True,
        },
    ),
    "fused_model_bs_conformer_sdr_9.18": ("bs_conformer", "conformer_msst.py", CONFORMERS),
    "mel_band_conformer": ("mel_band_conformer", "conformer_msst.py", CONFORMERS | {"num_bands": 60}),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", ORACLES)
@torch.inference_mode()
def test_released_arguments_give_the_references_output(name: str, oracle: Oracle, decibels: Decibels) -> None:
    of, program, arguments = ORACLES[name]
    mix = 0.1 * torch.randn(1, 2, 11_025, generator=torch.Generator().manual_seed(1))
    found = oracle(program, {"family": of, "constructor": BASE | arguments}, mix=mix)
    if not found:
        pytest.skip(f"{program}: its package isn't in the environment")
    network = from_config(of, published(BASE | arguments | {"zero_dc": False}))
    network.load_state_dict({k.removeprefix("weights/"): v for k, v in found.items() if k != "stems"})
    stems = network(mix)
    assert decibels(found["stems"], stems[..., : found["stems"].shape[-1]]) >= 95
    prepared = network.prepare()(mix)
    assert decibels(stems, prepared) >= 95
