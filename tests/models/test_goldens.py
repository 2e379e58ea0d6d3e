"""Every family computes what it computed when its golden was written (tests/data/goldens/make.py)."""

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from stemsplit.models import build

GOLDENS = sorted((Path(__file__).parents[1] / "data/goldens").glob("*.safetensors"))


@pytest.mark.parametrize("path", GOLDENS, ids=lambda path: path.stem)
@torch.inference_mode()
def test_output_is_that_of_the_golden(path: Path) -> None:
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    network = build(metadata["family"], json.loads(metadata["arguments"])).eval()
    weights = {k.removeprefix("weights/"): v for k, v in tensors.items() if k.startswith("weights/")}
    network.load_state_dict(weights)
    output, expected = network.estimate(tensors["input"]), tensors["output"]
    error = (output - expected).square().sum() / expected.square().sum()
    assert output.shape == expected.shape
    assert error < 1e-10, f"{-10 * error.log10():.0f} dB"
