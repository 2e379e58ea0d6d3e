"""Released checkpoints of the RoFormers and SCNet fit: their configurations, tensors and goldens.

tests/data/released has, per checkpoint, its configuration and the tree of its tensors with their shapes;
equal neighbours are folded into one entry, such as "0-11". The goldens are outputs of the reference code.
"""

import json
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors import safe_open
from torch import Tensor

from stemsplit.errors import StemsplitError
from stemsplit.models import build, family
from stemsplit.models.network import Network

REPOSITORY = Path(__file__).parents[2]
RELEASED = sorted((REPOSITORY / "tests/data/released").glob("*.json"))
GOLDENS = REPOSITORY.parent / "shared/goldens/goldens"

Released = dict[str, Any]


@pytest.fixture(params=RELEASED, ids=lambda path: path.stem)
def released(request: pytest.FixtureRequest) -> Released:
    found: Released = json.loads(request.param.read_text())
    return found


def from_config(name: str, config: dict[str, Any]) -> Network:
    cls: Any = family(name)
    network: Network = cls(cls.Arguments.from_config(config))
    return network


def outline(released: Released) -> Network:
    with torch.device("meta"):
        return from_config(released["family"], released["config"])


def unfold(tree: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, list[int]]]:
    for entry, child in tree.items():
        first, _, last = entry.partition("-")
        for name in range(int(first), int(last) + 1) if last else [entry]:
            if isinstance(child, dict):
                yield from unfold(child, f"{prefix}{name}.")
            else:
                yield f"{prefix}{name}", child


def test_tensors_are_those_of_the_released_file(released: Released) -> None:
    state = outline(released).state_dict()
    assert {key: list(value.shape) for key, value in state.items()} == dict(unfold(released["tree"]))
    assert len(state) == released["tensors"]


def test_parameters_are_as_many_as_published(released: Released) -> None:
    network = outline(released)
    trained = {id(p): p.numel() for p in network.parameters()}
    stored = {id(t): t.numel() for t in [*network.parameters(), *network.buffers()]}
    assert sum(trained.values()) == released["trainable"]
    assert sum(stored.values()) == released["elements"]


def test_configurations_say_how_the_model_is_used(released: Released) -> None:
    network, config = outline(released), released["config"]
    target = config["training"]["target_instrument"]
    assert network.stems == ((target,) if target else tuple(config["training"]["instruments"]))
    assert network.segment_samples == config["inference"]["chunk_size"]
    assert network.normalise == config["inference"].get("normalize", False)
    assert (network.sample_rate, network.channels) == (44100, 2)


def test_the_registry_has_the_released_configuration(released: Released) -> None:
    entries = yaml.safe_load((REPOSITORY / "models.yaml").read_text())["models"].values()
    entry = next((e for e in entries if released["file"] in str(e.get("files", ""))), None)
    if entry is None:
        pytest.skip(f"{released['file']} isn't in the registry")
    arguments: Any = family(released["family"]).Arguments
    assert entry["family"] == released["family"]
    # a registry entry has the overlap in a section of its own
    ours = arguments(**entry["arguments"], overlap=entry["inference"]["overlap"])
    assert plain(ours) == plain(arguments.from_config(released["config"]))
    assert entry["inference"]["overlap"] == 1 - 1 / released["config"]["inference"]["num_overlap"]


def plain(arguments: Any) -> dict[str, Any]:
    """Tuples as lists."""
    values: dict[str, Any] = json.loads(json.dumps(asdict(arguments)))
    return values


@pytest.mark.parametrize(
    ("name", "foreign"),
    [
        ("bs_roformer", "num_residual_streams"),
        ("bs_roformer", "use_hyper_connections"),
        ("bs_conformer", "linear_conformer_depth"),
        ("bs_conformer", "use_pope"),
        ("mel_band_roformer", "num_residual_streams"),
        ("mel_band_roformer", "use_pope"),
        ("mel_band_conformer", "num_residual_fracs"),
        ("scnet", "masking"),
    ],
)
def test_another_variants_configuration_is_refused(name: str, foreign: str) -> None:
    model = {foreign: 4}
    with pytest.raises(StemsplitError, match=foreign):
        from_config(name, {"model": model, "training": {"instruments": ["vocals"]}})


def test_arguments_that_do_not_change_the_output_are_ignored() -> None:
    model = {"flash_attn": True, "sage_attention": True, "stft_window_fn": None, "use_pope": False, "dim": 16}
    model |= {
        "attention_layout": "bhnd",
        "conv_dropout": 0.1,
        "norm_output": False,
        "use_torch_checkpoint": True,
    }
    model |= {"multi_stft_window_fn": "hann", "num_residual_streams": 1, "linear_conformer_depth": 0}
    config = {"model": model | {"depth": 1}, "training": {"instruments": ["vocals"]}}
    assert from_config("bs_roformer", config).arguments.dim == 16


Decibels = Callable[[Tensor, Tensor], float]


def golden_config(metadata: dict[str, str]) -> dict[str, Any]:
    model = {k: v for k, v in json.loads(metadata["constructor"]).items() if not k.startswith("_")}
    return {
        "model": model,
        "training": {"instruments": model.get("sources") or [f"stem {i}" for i in range(model["num_stems"])]},
    }


def load_golden(name: str) -> tuple[Network, Tensor, Tensor]:
    """The network with the golden's weights, its input [B, C, T] and its output [B, S, C, T']."""
    path = GOLDENS / f"{name}.safetensors"
    if not path.is_file():
        pytest.skip(f"no golden at {path}")
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    families = {"BSRoformer": "bs_roformer", "MelBandRoformer": "mel_band_roformer", "SCNet": "scnet"}
    config = golden_config(metadata)
    if name == "scnet_original_author":
        config["model"]["normalise_spectrogram"] = True
    network = from_config(families[metadata["arch"]], config).eval()
    network.load_state_dict(
        {k.removeprefix("weights/"): v for k, v in tensors.items() if k.startswith("weights/")}
    )
    output = tensors["output"]
    return network, tensors["input"], output if output.ndim == 4 else output[:, None]


REFERENCES = [
    "bs_roformer_4stem",
    "bs_roformer_options",
    "bs_roformer_vocals_realbands",
    "mel_band_roformer_2stem",
    "mel_band_roformer_vocals_realbands",
    "scnet_original_author",
    "scnet_small",
    "scnet_xl_ihf",
]


@pytest.mark.parametrize("name", REFERENCES)
@torch.inference_mode()
def test_outputs_are_the_references(name: str, decibels: Decibels) -> None:
    network, mix, expected = load_golden(name)
    stems = network(mix)
    assert stems.shape[:-1] == expected.shape[:-1]
    assert decibels(expected, stems[..., : expected.shape[-1]]) >= 105


@torch.inference_mode()
def test_each_mask_estimator_works_without_the_others(decibels: Decibels) -> None:
    network, mix, expected = load_golden("bs_roformer_4stem")
    network.select(["stem 1", "stem 3"])
    assert len(network.mask_estimators) == 2  # type: ignore[arg-type]
    assert decibels(expected[:, [1, 3]], network(mix)) >= 105


def tiny_state() -> tuple[Network, dict[str, Tensor]]:
    network = build("mel_band_roformer", {"dim": 8, "depth": 2})
    return network, network.state_dict()


def test_rotary_frequencies_may_be_missing_or_rounded() -> None:
    network, state = tiny_state()
    exact = {k: v for k, v in state.items() if "rotary" in k}
    network.load_state_dict({k: v for k, v in state.items() if "rotary" not in k})
    assert all(torch.equal(network.state_dict()[k], v) for k, v in exact.items())
    network.load_state_dict({k: v.half() for k, v in state.items()})
    assert all(torch.equal(network.state_dict()[k], v) for k, v in exact.items())


def test_the_old_numbering_with_an_empty_place_is_read() -> None:
    network, state = tiny_state()
    old = {}
    for key, value in state.items():
        head, block, axis, *rest = key.split(".")
        old[".".join([head, block, str(int(axis) + 1), *rest]) if head == "layers" else key] = value
    assert old.keys() != state.keys()
    network.load_state_dict(old)


def test_weights_with_other_mathematics_are_refused() -> None:
    network, state = tiny_state()
    with pytest.raises(StemsplitError, match="variant"):
        network.load_state_dict({**state, "layers.0.0.layers.0.0.branch.norm.gamma": torch.zeros(1)})
