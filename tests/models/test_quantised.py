"""Quantised checkpoints of demucs are decoded as the package diffq does, into the right parameters."""

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from stemsplit.hub.checkpoints import read_package
from stemsplit.models import build
from tests.hub.test_diffq import FOUR, KLASSES, SMALL

ORDERS: dict[str, list[dict[str, Any]]] = {
    "demucs": [{}, {"lstm_layers": 1, "dconv_mode": 3}],
    "hdemucs": [{}, {"multi_freqs": [0.2], "dconv_mode": 3}],
    "htdemucs": [
        {"bottom_channels": 512},
        {"t_emb": "scaled", "t_norm_in": False, "t_norm_in_group": True, "t_group_norm": True},
    ],
}


@pytest.mark.parametrize(("family", "case"), [(name, i) for name in ORDERS for i in range(2)])
def test_parameters_are_in_the_order_of_demucs(family: str, case: int) -> None:
    pytest.importorskip("demucs.hdemucs", reason="the demucs package isn't installed")
    module, _, name = KLASSES[family].rpartition(".")
    arguments = {"sources": FOUR} | ORDERS[family][case]
    with torch.device("meta"):
        theirs = getattr(importlib.import_module(module), name)(**arguments)
        ours = build(family, arguments)
    assert [name for name, _ in ours.named_parameters()] == [name for name, _ in theirs.named_parameters()]


GROUPED = {"group_size": 8, "min_size": 0.002}
UNIFORM = {"bits": 5, "min_size": 0.002}
SETTINGS: dict[str, tuple[str, dict[str, Any], bool]] = {
    "grouped": ("DiffQuantizer", GROUPED, True),
    "grouped unpacked": ("DiffQuantizer", GROUPED, False),
    "in small groups": ("DiffQuantizer", {"group_size": 4, "min_bits": 3}, True),
    "in half precision": ("DiffQuantizer", GROUPED | {"float16": True}, True),
    "uniform": ("UniformQuantizer", UNIFORM, True),
    "uniform unpacked": ("UniformQuantizer", UNIFORM, False),
}


@pytest.mark.slow
@pytest.mark.parametrize("case", SETTINGS)
@pytest.mark.parametrize("family", ["hdemucs", "demucs_v2"])
def test_weights_are_those_that_the_package_restores(
    family: str, case: str, tmp_path: Path, oracle: Callable[..., dict[str, Tensor]]
) -> None:
    kind, settings, packed = SETTINGS[case]
    shapes = [list(parameter.shape) for parameter in build(family, SMALL[family]).parameters()]
    asked = {"kind": kind, "settings": settings, "packed": packed, "shapes": shapes}
    path = tmp_path / "state.th"
    expected = oracle("quantised.py", asked | {"path": str(path)})
    found = read_package(path, family=family, arguments=SMALL[family]).state
    assert len(found) == len(expected) == len(shapes)
    for i, value in enumerate(found.values()):
        assert torch.equal(value.float(), expected[f"p{i}"]), i
