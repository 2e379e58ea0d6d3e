"""Benchmarks run through with tiny networks, and their tables say what was measured."""

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from tests.benchmarks import gpu, shared, table


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


def test_more_cores_are_computed_from_the_gain_of_the_second() -> None:
    seconds = {"1 × 1": 2.0, "1 × 2": 1.25, "2 × 1": 1.0, "2 × 2": 1.1, "batch of two": 1.3}
    peaks = {"1 × 1": 900.0, "1 × 2": 910.0, "2 × 1": 1500.0, "2 × 2": 1510.0, "batch of two": 1400.0}
    rows = table.jobs({"seconds": seconds, "peak_mb": peaks})
    assert "| 1 job of 2 threads | 1.25 | 1.00 | 910 MB |" in rows
    assert "| batch of two | 1.30 | 0.96 | 1400 MB |" in rows
    # A quarter can't be shared, f = 0.25, so that n threads gain 1/(0.25 + 0.75/n): 1.6 and 2.29
    assert "| 2 | 1.00 | 1.25 |  |  |  |" in rows
    assert "| 4 | 1.00 | 1.40 | 1.75 |  |  |" in rows
    assert "| more memory | 0 MB | 600 MB | 1800 MB | 4200 MB | 9000 MB |" in rows


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_both_programs_are_measured_beside_busy_loops(tmp_path: Path) -> None:
    pytest.importorskip("demucs")
    line = ["--quick", "--rounds", "1", "--seconds", "1", "--output", str(tmp_path / "shared.json")]
    ran = CliRunner().invoke(shared.main, line, catch_exceptions=False)
    assert ran.exit_code == 0
    found = json.loads((tmp_path / "shared.json").read_text())
    assert found["agreement_db"] > 100
    assert 0 < found["first_progress_s"] < found["loads"]["idle"]["stemsplit"]["wall_s"]
    assert [row.split(" | ")[0] for row in table.shared(found)[2:4]] == ["| idle", "| beside two busy loops"]


def chunk(wall_s: float, cpu_s: float, memory_mb: float, agreement_db: float) -> dict[str, float]:
    return {"wall_s": wall_s, "cpu_s": cpu_s, "chunk_mb": memory_mb, "agreement_db": agreement_db}


def of_a_model(stemsplit_s: float, agreement_db: float) -> dict[str, object]:
    packages = {
        "pymss-core": chunk(30.0, 55.0, 1000.0, 999.0),
        "audio-separator": chunk(40.0, 70.0, 900.0, 35.0),
        "stemsplit": chunk(stemsplit_s, 2 * stemsplit_s, 200.0, agreement_db),
    }
    peak = {"wall": 250e9, "cpu": 125e9}
    about = {"seconds": 8.0, "threads": 2, "rounds": 5, "flop": 4000e9, "gemm_flop_per_s": peak}
    return {**about, "packages": packages}


def test_a_roformers_row_has_both_ratios_and_the_share_of_the_peak() -> None:
    result = {"cpu": "X", "models": {"one": of_a_model(20.0, 120.0), "two": of_a_model(25.0, 110.0)}}
    rows = table.roformers(result)
    cells = "30.0 s, 1000 MB | 40.0 s, 900 MB | 20.0 s, 200 MB | 1.50, 2.00 | 1.38, 1.75 | 80 % | 120 dB"
    assert rows[2] == f"| one | 8 s | {cells} |"
    assert rows[-1] == "Medians of 5 alternated rounds, 2 threads, X."
    whole = {
        "demucs": {"wall_s": 40.0, "peak_mb": 1500.0, "agreement_db": 999.0},
        "stemsplit": {"wall_s": 32.0, "peak_mb": 900.0, "agreement_db": 118.0},
    }
    speed = {"machine": {"cpu": "X"}, "whole": {"htdemucs": {"20": {}, "60": whole}}}
    text = " ".join(table.headline(speed, result))
    assert "60 s of music in 32 s and 900 MB, demucs 4.1.0 in 40 s and 1500 MB: 1.25 times as fast" in text
    assert "1.20 to 1.50 times as fast as pymss-core and 1.60 to 2.00 times as fast as audio-sep" in text
    assert "agree to 110 dB" in text
