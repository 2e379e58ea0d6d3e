"""The benchmark for GPUs runs on a CPU with tiny networks, so that a GPU is needed for figures only."""

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from tests.benchmarks import gpu, table


def measured(tmp_path: Path, *options: str) -> tuple[dict[str, Any], str]:
    line = ["--device", "cpu", "--quick", "--output", str(tmp_path / "gpu.json"), *options]
    ran = CliRunner().invoke(gpu.main, line, catch_exceptions=False)
    assert ran.exit_code == 0
    found: dict[str, Any] = json.loads((tmp_path / "gpu.json").read_text())
    return found, ran.output


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of other packages
def test_every_family_runs_beside_demucs(tmp_path: Path) -> None:
    pytest.importorskip("demucs")
    found, _ = measured(tmp_path)
    assert found["networks"].keys() == gpu.families.CASES.keys()
    for case in found["networks"].values():
        assert case["variants"]["stemsplit fp32"]["s"] > 0
        assert "on a CPU" in case["variants"]["stemsplit fp16"]["reason"]
    variants = found["networks"]["htdemucs"]["variants"]
    assert variants["demucs fp32"]["agreement_db"] > 100 > variants["demucs fp16"]["agreement_db"] > 50
    assert found["whole"]["stemsplit"]["agreement_db"] > 100
    assert found["whole"]["demucs"]["wall_s"] > 0


def test_nothing_begins_after_the_time_is_over(tmp_path: Path) -> None:
    found, text = measured(tmp_path, "--only", "bs_roformer", "--minutes", "0")
    variants = found["networks"]["bs_roformer"]["variants"].values()
    assert len(variants) > 8 and all(one == {"reason": "no time left"} for one in variants)
    assert "bs_roformer, unblend fp16, kernels | no time left" in text


def test_the_table_takes_the_quicker_batch() -> None:
    one = {"s": 2.0, "batch": 4, "batch_s": 0.5, "weights_mb": 10.0, "peak_mb": 99.6, "agreement_db": 60.2}
    case = {"audio_s": 8.0, "variants": {"fp16": one, "other": {"reason": "absent"}}}
    rows = table.gpu(
        {"networks": {"scnet": case}, "whole": {"demucs": {"wall_s": 3.0, "agreement_db": 999.0}}}
    )
    assert rows[2:] == [
        "| scnet, fp16 | 16.0 × | 4 | 10.0 MB | 100 MB | 60 dB |",
        "| scnet, other | absent |  |  |  |  |",
        "| whole program, demucs | 3.0 s, same |  |  |  |  |",
    ]
