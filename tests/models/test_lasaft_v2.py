"""LASAFT-Net-v2's networks can be the released ones, and its checkpoints load with its configuration."""

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from stemsplit import load_model
from stemsplit.errors import CheckpointError, StemsplitError
from stemsplit.hub.registry import find_model
from stemsplit.models import build
from stemsplit.models.lasaft_v2 import LaSAFTv2Arguments, NormedLinear
from tests.models.test_contract import LASAFT_V2

LIMIT = 100 * 2**20  # GitHub takes no larger file into a repository


def config(**changed: Any) -> dict[str, Any]:
    """A configuration as the authors' program writes it, with the references that it has."""
    a: dict[str, Any] = {**LASAFT_V2, "sources": None}
    block = {
        "_target_": "lasaft.models.conditioned.spec2spec.block_functions.MkTFCLightSAFTGPoCM",
        **{
            "gr": "${model.spec2spec.internal_channels}",
            "num_layers": "${model.spec2spec.n_internal_layers}",
        },
        **{"kt": 3, "kf": 3, "bn_factor": 16, "min_bn_units": 16, "bias": False, "norm": "${model.norm}"},
        **{"activation": a["activation"], "num_tdfs": a["num_tdfs"], "dk": a["dk"]},
        **{"condition_dim": "${model.spec2spec.embedding_dim}", "query_listen": "${model.query_listen}"},
    }
    unet = {
        "_target_": "lasaft.models.conditioned.spec2spec.base.BaseNet",
        **{"n_fft": "${model.n_fft}", "input_channels": 4, "internal_channels": a["internal_channels"]},
        **{"n_blocks": a["n_blocks"], "n_internal_layers": a["n_internal_layers"]},
        **{"first_conv_activation": a["activation"], "last_activation": "identity"},
        **{"control_vector_type": "embedding", "control_input_dim": 4, "condition_to": "decoder"},
        **{"embedding_dim": a["embedding_dim"], "norm": "${model.norm}", "mk_block_f": block},
        "mk_ds_f": {"activation": a["activation"], "norm": "${model.norm}"},
        "mk_us_f": {"activation": a["activation"], "norm": "${model.norm}"},
    }
    model = {
        "_target_": "lasaft.models.conditioned.base_framework.AbstractLaSAFTNet",
        **{"lr": 5e-4, "optimizer": "adam", "initializer": "kaiming", "name": "v2_light"},
        **{"query_listen": True, "key_listen": True, "norm": "bn"},
        **{key: a[key] for key in ("n_fft", "num_frame", "hop_length")},
        **{"spec_type": "complex", "spec_est_mode": "mapping", "train_loss": "spec_mse"},
        "spec2spec": {**unet, **changed.pop("spec2spec", {})},
    }
    return {
        "trainer": {"gpus": 4},
        "dataset": {"hop_length": 1, "n_fft": 2048},
        "model": {**model, **changed},
        "work_dir": "${hydra:runtime.cwd}",
    }


@pytest.mark.parametrize(
    ("name", "expected"), [("lasaft_v2_large", 7_900_700), ("lasaft_v2_light", 1_910_270)]
)
def test_the_released_networks_fit_into_a_repository(name: str, expected: int) -> None:
    """With as many parameters as the authors' program counts, and two moments of Adam for each."""
    spec = find_model(name)
    with torch.device("meta"):
        network = build("lasaft_v2", spec.arguments)
    parameters = sum(p.numel() for p in network.parameters())
    assert parameters == expected and 12 * parameters < LIMIT
    assert network.stems == spec.stems and network.overlap == 0.5


@pytest.mark.parametrize("changed", [{}, {"n_blocks": 3, "audio_channels": 1}])
def test_shapes_tell_the_arguments(changed: dict[str, int]) -> None:
    state = build("lasaft_v2", LASAFT_V2 | changed).state_dict()
    told = LaSAFTv2Arguments.from_shapes({name: tuple(tensor.shape) for name, tensor in state.items()})
    expected = LASAFT_V2 | {"audio_channels": 2} | changed
    assert told == {key: value for key, value in expected.items() if key in told}
    assert expected.keys() - told.keys() == {"sources", "hop_length", "num_frame", "activation"}


def test_a_checkpoint_loads_with_the_configuration_in_its_folder(tmp_path: Path) -> None:
    """The tensors with the window beside them, as the authors' program saves both."""
    torch.manual_seed(0)
    network = build("lasaft_v2", {**LASAFT_V2, "sources": LaSAFTv2Arguments.sources})
    state = network.state_dict() | {"stft.stft.window": torch.hann_window(64)}
    torch.save({"epoch": 669, "state_dict": state, "lr_schedulers": []}, tmp_path / "epoch=669.ckpt")
    with pytest.raises(CheckpointError, match="doesn't say what network"):  # the activations aren't known
        load_model(tmp_path / "epoch=669.ckpt")
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config()))
    found: Any = load_model(tmp_path / "epoch=669.ckpt")
    assert found.arguments == network.arguments
    for name, tensor in network.state_dict().items():
        assert torch.equal(found.state_dict()[name], tensor), name


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"key_listen": False}, "key_listen"),
        ({"spec_est_mode": "masking"}, "spec_est_mode"),
        ({"norm": "gn"}, "norm"),
        ({"spec2spec": {"condition_to": "full"}}, "condition_to"),
        ({"spec2spec": {"mk_ds_f": {"activation": "relu"}}}, "differ from layer to layer"),
    ],
)
def test_another_network_of_the_program_is_refused(changed: dict[str, Any], message: str) -> None:
    assert LaSAFTv2Arguments.from_config(config())
    with pytest.raises(StemsplitError, match=message):
        LaSAFTv2Arguments.from_config(config(**changed))


def test_an_unknown_activation_is_refused() -> None:
    with pytest.raises(StemsplitError, match="lasaft_v2: activation 'elu'"):
        build("lasaft_v2", LASAFT_V2 | {"activation": "elu"})


def test_normed_weights_are_pytorchs() -> None:
    own, plain = NormedLinear(3, 5), torch.nn.Linear(3, 5)
    torch.nn.init.normal_(own.weight_g)
    other = torch.nn.utils.parametrizations.weight_norm(plain)
    other.load_state_dict(own.state_dict())  # PyTorch renames them
    x = torch.randn(4, 3)
    torch.testing.assert_close(own(x), other(x))
