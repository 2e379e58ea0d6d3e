"""BS-RoFormer's released mask estimators: outputs, tensors, sizes and files.

The references lie in `shared/zoo` beside the repository; without it their tests are skipped.
"""

import copy
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors import safe_open
from torch import Tensor
from torch.nn import functional as F

from stemsplit import load_model
from stemsplit.errors import CheckpointError, StemsplitError
from stemsplit.hub import bare
from stemsplit.hub.checkpoints import build_network, convert, read_package
from stemsplit.models import build, family
from stemsplit.models.blocks.bands import linear_bands
from stemsplit.models.blocks.fourier import FourierOperator
from stemsplit.models.blocks.hyperace import V2, HyperaceMaskEstimator
from stemsplit.models.network import Network
from stemsplit.models.roformer import BANDS_62
from tests.models.test_contract import BANDS, ROFORMER
from tests.models.test_published_families import ZOO

Config = dict[str, Any]
Decibels = Callable[[Tensor, Tensor], float]

# What the released configurations agree in
RELEASED = {
    "stereo": True,
    "time_transformer_depth": 1,
    "freq_transformer_depth": 1,
    "linear_transformer_depth": 0,
    "dim_head": 64,
    "heads": 8,
    "stft_n_fft": 2048,
    "stft_win_length": 2048,
    "stft_normalized": False,
    "mask_estimator_depth": 2,
    "dim": 256,
    "depth": 12,
    "num_stems": 1,
}
SMALL = {key: value for key, value in (ROFORMER | BANDS).items() if key not in ("stems", "segment_samples")}


def config(model: Config, samples: int = 500, stems: tuple[str, ...] = ("a", "b")) -> Config:
    """A configuration in the published layout."""
    return {
        "audio": {"chunk_size": samples, "sample_rate": 44100},
        "model": model,
        "training": {"instruments": list(stems), "target_instrument": None},
        "inference": {"num_overlap": 2},
    }


def network_of(arguments: Config) -> Network:
    return build("bs_roformer", arguments).eval()


def small(estimator: str, **changed: Any) -> Network:
    return network_of(ROFORMER | BANDS | {"mask_estimator": estimator} | changed)


def formula_weights(spec: Mapping[str, Config]) -> dict[str, Tensor]:
    """Weights that every implementation can make: integer hashes of the tensor's and element's numbers."""
    weights = {}
    for key, value in spec.items():
        shape = torch.Size(value["shape"])
        h = (torch.arange(shape.numel()) * 2654435761 + (value["j"] + 1) * 40503) % 2**32
        for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35), (16, 1)):
            h = (h ^ (h >> shift)) * factor % 2**32
        scaled = (((h >> 8).double() / 2**23 - 1) * value["scale"]).float()
        weights[key] = (scaled + value["base"]).view(shape)
    return weights


def golden(name: str, estimator: str) -> tuple[Network, Tensor, Tensor]:
    """The network of a golden with its weights, the golden's input and its output."""
    path = ZOO / f"goldens/bs_roformer_{name}.safetensors"
    if not path.is_file():
        pytest.skip(f"no golden at {path}")
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    given = {k: v for k, v in json.loads(metadata["constructor"]).items() if k not in ("_fixed", "zero_dc")}
    model = given | {"mask_estimator": estimator, "zero_dc": False}
    network = network_of(asdict(family("bs_roformer").Arguments.from_config(config(model, 6000, ("a",)))))
    weights = {
        key.removeprefix("weights/").removesuffix("#complex"): (
            torch.view_as_complex(value) if key.endswith("#complex") else value
        )
        for key, value in tensors.items()
        if key.startswith("weights/")
    }
    if "formula_weights" in metadata:
        weights = formula_weights(json.loads(metadata["formula_weights"])["keys"])
    missing, surplus = network.load_state_dict(weights, strict=False)
    assert not surplus and all(key.endswith("rotary_embed.freqs") for key in missing)
    return network, tensors["input"], tensors["output"][:, None]


@pytest.mark.parametrize(("name", "estimator"), [("large_inst", "deep"), ("fno", "fno")])
@torch.inference_mode()
def test_outputs_are_the_references(name: str, estimator: str, decibels: Decibels) -> None:
    network, mix, expected = golden(name, estimator)
    assert decibels(expected, network(mix)) >= 120
    assert decibels(expected, network.prepare()(mix)) >= 120


# These random weights amplify rounding: the goldens, computed in single precision, lie as far from the result
# in double precision as it is required here.
@pytest.mark.parametrize(("name", "floor"), [("hyperace_v1", 86), ("hyperace_v2", 78)])
@torch.inference_mode()
def test_outputs_are_the_references_to_their_rounding(name: str, floor: float, decibels: Decibels) -> None:
    network, mix, expected = golden(name, name)
    assert decibels(expected, copy.deepcopy(network).double()(mix.double())) >= floor
    assert decibels(expected, network(mix)) >= floor - 3
    assert decibels(expected, network.prepare()(mix)) >= floor - 3


@pytest.mark.parametrize(
    ("name", "estimator"), [("bs_roformer_hyperacev2", "hyperace_v2"), ("bs_roformer_fno", "fno")]
)
def test_tensors_are_those_of_the_released_constructor(name: str, estimator: str) -> None:
    path = ZOO / f"keys/{name}.json"
    if not path.is_file():
        pytest.skip(f"no list of tensors at {path}")
    listed = json.loads(path.read_text())
    model = listed["constructor"] | {"mask_estimator": estimator}
    with torch.device("meta"):
        network = network_of(asdict(family("bs_roformer").Arguments.from_config(config(model, stems=("a",)))))
    state = network.state_dict(keep_vars=True)
    assert {key: list(value.shape) for key, value in state.items()} == listed["keys"]
    assert [key for key, value in state.items() if value.is_complex()] == listed.get("complex", [])
    assert sum(t.numel() for t in {id(t): t for t in state.values()}.values()) == listed["parameters"]


@pytest.mark.parametrize(
    ("name", "estimator"),
    [
        ("bs_large_v2_inst.ckpt", "deep"),
        ("bs_roformer_fno.ckpt", "fno"),
        ("bs_roformer_inst_hyperacev2.ckpt", "hyperace_v2"),
        ("bs_roformer_voc_hyperacev2.ckpt", "hyperace_v2"),
    ],
)
def test_parameters_explain_the_size_of_the_released_file(name: str, estimator: str) -> None:
    path = ZOO / "catalog.json"
    if not path.is_file():
        pytest.skip(f"no catalogue at {path}")
    row = next(row for row in json.loads(path.read_text())["rows"] if row["name"] == name)
    found: Config = row["config"] or config(RELEASED, stems=("a",))
    found["model"]["mask_estimator"] = estimator
    with torch.device("meta"):
        network = network_of(asdict(family("bs_roformer").Arguments.from_config(found)))
    state = network.state_dict(keep_vars=True)
    stored = sum(t.numel() * t.element_size() for t in {id(t): t for t in state.values()}.values())
    # besides, a file of torch.save has a name, an entry and padding per tensor
    assert 250 * len(state) <= row["files"][0]["size"] - stored <= 500 * len(state)


ESTIMATORS = ["deep", "fno", "hyperace_v1", "hyperace_v2"]


@pytest.mark.parametrize("prefix", ["", "model."])
@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_tensor_names_say_what_the_configuration_leaves_out(
    estimator: str, prefix: str, tmp_path: Path
) -> None:
    with torch.device("meta"):
        state = {prefix + key: tensor for key, tensor in small(estimator).state_dict().items()}
    path = tmp_path / "published.yaml"
    path.write_text(yaml.safe_dump(config(SMALL)))
    name, arguments, _ = bare.describe(tmp_path / "a.ckpt", state)
    assert (name, arguments["mask_estimator"], arguments["zero_dc"]) == ("bs_roformer", estimator, False)
    path.write_text(yaml.safe_dump(config(SMALL | {"mask_estimator": "hyperace_v1", "zero_dc": True})))
    _, arguments, _ = bare.describe(tmp_path / "a.ckpt", state)
    assert (arguments["mask_estimator"], arguments["zero_dc"]) == ("hyperace_v1", True)


def test_plain_tensors_say_nothing(tmp_path: Path) -> None:
    (tmp_path / "published.yaml").write_text(yaml.safe_dump(config(SMALL)))
    _, arguments, _ = bare.describe(tmp_path / "a.ckpt", small("mlp").state_dict())
    assert (arguments["mask_estimator"], arguments["zero_dc"]) == ("mlp", True)


def test_mel_bands_have_no_such_estimator(tmp_path: Path) -> None:
    with torch.device("meta"):
        found = small("fno").state_dict()
    state = {key.replace("final_norm.gamma", "layers.0.0.norm.gamma"): value for key, value in found.items()}
    model = {key: value for key, value in SMALL.items() if key != "freqs_per_bands"} | {"num_bands": 5}
    (tmp_path / "published.yaml").write_text(yaml.safe_dump(config(model)))
    with pytest.raises(CheckpointError, match="mel_band_roformer.*mask_estimator"):
        bare.describe(tmp_path / "a.ckpt", state)


def test_other_estimators_are_refused_by_name() -> None:
    for wrong in ("segm", ["fno"], None):
        with pytest.raises(StemsplitError, match="mask_estimator is mlp, .*, not "):
            family("bs_roformer").Arguments.from_config(config(SMALL | {"mask_estimator": wrong}))
    with pytest.raises(StemsplitError, match="1 band: HyperACE needs two"):
        small("hyperace_v2", freqs_per_bands=[33])


def released_file(path: Path, state: Mapping[str, Tensor]) -> None:
    """Save tensors as neuraloperator's networks do, with their constructor's arguments among them."""
    arguments = {"n_modes_height": 64, "non_linearity": F.gelu, "norm": None, "args": (), "_name": "FNO1d"}
    bands = {key.rsplit(".fno_blocks.", 1)[0] for key in state if ".fno_blocks." in key}
    torch.save({**state, "_metadata": arguments, **{f"{b}._metadata": arguments for b in bands}}, path)
    path.with_suffix(".yaml").write_text(yaml.safe_dump(config(SMALL)))


@torch.inference_mode()
def test_files_of_fourier_operators_load_and_convert(tmp_path: Path) -> None:
    network, mix = small("fno", zero_dc=False), torch.randn(1, 2, 500)
    released_file(tmp_path / "released.ckpt", network.state_dict())
    loaded = load_model(tmp_path / "released.ckpt")
    assert torch.equal(loaded(mix), network(mix))
    convert(tmp_path / "released.ckpt", tmp_path / "own.safetensors")
    converted = build_network(read_package(tmp_path / "own.safetensors"))
    assert torch.equal(converted(mix), network(mix))
    assert torch.equal(converted.select(["b"])(mix), network(mix)[:, 1:])


def test_damaged_complex_weights_are_refused(tmp_path: Path) -> None:
    state = small("fno").state_dict()
    key = next(key for key, value in state.items() if value.is_complex())
    state[key] = state[key].clone()
    state[key][0, 0] = complex(0, float("nan"))
    released_file(tmp_path / "released.ckpt", state)
    with pytest.raises(CheckpointError, match=r"damaged.*weight\.tensor"):
        load_model(tmp_path / "released.ckpt")


def test_the_first_version_takes_any_length_and_trains() -> None:
    network = small("hyperace_v1", depth=1, stems=["a"], num_stems=1, freqs_per_bands=[2, 31])
    for samples in (1, 17, 501):
        stems = network(torch.randn(1, 2, samples))
        assert stems.shape == (1, 1, 2, samples) and stems.isfinite().all()
    network.train()(torch.randn(1, 2, 200)).square().mean().backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name


def read_weights(answer: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {k.removeprefix("weights/"): v for k, v in answer.items() if k.startswith("weights/")}


@pytest.mark.slow
@pytest.mark.parametrize("frames", [1, 100])
@torch.inference_mode()
def test_hyperace_is_that_of_pymss(
    frames: int, oracle: Callable[..., dict[str, Tensor]], decibels: Decibels
) -> None:
    parts = 4
    arguments = {"dim": 256, "depth": 2, "dim_inputs": [parts * width for width in BANDS_62]}
    x = torch.randn(1, frames, len(BANDS_62), 256)
    theirs = oracle("hyperace.py", arguments | {"mlp_expansion_factor": 4}, x=x)
    estimator = HyperaceMaskEstimator(V2, linear_bands(BANDS_62, 1025), parts, 256, 4 * 256, depth=1)
    estimator.load_state_dict(read_weights(theirs))
    assert decibels(theirs["output"], estimator(x)) >= 60
    assert decibels(theirs["output"], estimator.double()(x.double())) >= 200


@pytest.mark.slow
@pytest.mark.parametrize("frames", [1, 40, 65, 1700])
@torch.inference_mode()
def test_fourier_operators_are_those_of_neuraloperator(
    frames: int, oracle: Callable[..., dict[str, Tensor]], decibels: Decibels
) -> None:
    arguments = {"n_modes_height": 64, "hidden_channels": 256, "in_channels": 256, "out_channels": 96}
    fixed = {"lifting_channel_ratio": 2, "projection_channel_ratio": 2, "n_layers": 3, "separable": True}
    x = torch.randn(1, 256, frames)
    theirs = oracle("fno.py", arguments | fixed, x=x)
    operator = FourierOperator(256, 96)
    operator.load_state_dict(read_weights(theirs))
    assert decibels(theirs["output"], operator(x)) >= 115
