"""Benchmarks run through with tiny networks, and their tables say what was measured."""

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from torch import Tensor, nn

from tests.benchmarks import families, gpu, operators, peaks, shared, table


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


def of_a_family(model: str, stemsplit_s: float, agreement_db: float, **others: float) -> dict[str, object]:
    def figures(seconds: float, agreement: float) -> dict[str, float]:
        about = {"wall_s": seconds, "cpu_s": 2 * seconds - 2, "chunk_mb": 10 * seconds, "memory_mb": 900.0}
        return about | {"agreement_db": agreement}

    packages = {name.replace("_", "-"): figures(seconds, 35.0) for name, seconds in others.items()}
    peak = {"wall": 250e9, "cpu": 125e9}
    return {
        "model": model,
        "audio_s": 8.0,
        "overlap": 0.25,
        "rounds": 5 if others else 1,
        "flop": 4000e9,
        "gemm_flop_per_s": peak,
        "packages": packages | {"stemsplit": figures(stemsplit_s, agreement_db)},
    }


def measured_families() -> dict[str, Any]:
    two = {
        "bs_roformer": of_a_family("one", 20.0, 120.0, pymss_core=30.0, audio_separator=40.0),
        "mel_band_roformer": of_a_family("two", 25.0, 110.0, pymss_core=30.0, audio_separator=40.0),
        "tasnet": of_a_family("tasnet", 40.0, 999.0),
    }
    one = {"bs_roformer": two["bs_roformer"], "tasnet": two["tasnet"]}
    return {"1": {"cpu": "X", "families": one}, "2": {"cpu": "X", "families": two}}


def test_a_chunks_row_has_both_ratios_and_the_share_of_the_peak() -> None:
    rows = table.chunks(measured_families())
    ours = "20.0 s, 200 MB"
    assert rows[2] == f"| one | 8 s | pymss-core | 30.0 s, 300 MB | {ours} | 1.50 | 1.53 | 80 % | 120 dB |"
    assert (
        rows[3] == f"| one | 8 s | audio-separator | 40.0 s, 400 MB | {ours} | 2.00 | 2.05 | 80 % | 35 dB |"
    )
    assert len(rows) == 8  # a family without a reference has no row
    assert rows[-1] == "Medians of 5 alternated rounds, two threads, X."


def test_a_familys_row_has_the_first_reference_and_the_share_on_two_threads() -> None:
    rows = table.families(measured_families())
    assert rows[2] == "| `bs_roformer` | 0.16 × | 38.0 s | 58.0 s | 0.66 | 900 MB | 900 MB | 80 % |"
    assert rows[3] == "| `tasnet` | 0.08 × | 78.0 s |  |  | 900 MB |  | 40 % |"


def test_the_headline_speaks_of_whole_songs_and_of_roformers() -> None:
    whole = {
        "demucs": {"wall_s": 40.0, "peak_mb": 1500.0, "agreement_db": 999.0},
        "stemsplit": {"wall_s": 32.0, "peak_mb": 900.0, "agreement_db": 118.0},
    }
    speed = {"machine": {"cpu": "X"}, "whole": {"htdemucs": {"20": {}, "60": whole}}}
    text = " ".join(table.headline(speed, measured_families()))
    assert "60 s of music in 32 s and 900 MB, demucs 4.1.0 in 40 s and 1500 MB: 1.25 times as fast" in text
    assert "1.20 to 1.50 times as fast as pymss-core and 1.60 to 2.00 times as fast as audio-sep" in text
    assert "agree to 110 dB" in text


class Layers(nn.Module):
    """Layers whose operations are known: a grouped and a transposed convolution, and recurrent layers."""

    channels = 2

    def __init__(self) -> None:
        super().__init__()
        self.grouped = nn.Conv1d(2, 6, 5, padding=2, groups=2)
        self.lstm = nn.LSTM(6, 4, num_layers=2, bidirectional=True, batch_first=True)
        self.gru = nn.GRU(8, 3, batch_first=True)
        self.transposed = nn.ConvTranspose1d(3, 2, 4, stride=2)

    def estimate(self, mix: Tensor) -> Tensor:
        x = self.grouped(mix).transpose(1, 2)  # [1, T, 6]
        x, _ = self.gru(self.lstm(x)[0])
        y: Tensor = self.transposed(x.transpose(1, 2))
        return y


def test_operations_of_convolutions_and_recurrent_layers_are_counted() -> None:
    grouped = 6 * 5  # multiplications a sample; an output of a group sees one input
    lstm = 2 * 4 * 4 * (6 + 4) + 2 * 4 * 4 * (2 * 4 + 4)  # directions · gates · width · (input + state)
    gru = 3 * 3 * (8 + 3)
    transposed = 3 * 2 * 4
    assert peaks.operations(Layers(), 100) == 2 * 100 * (grouped + lstm + gru + transposed)


def test_the_operators_of_a_chunk_are_listed() -> None:
    ran = CliRunner().invoke(operators.main, ["mdx_net", "--quick", "--threads", "1"], catch_exceptions=False)
    assert ran.exit_code == 0
    assert ran.output.startswith("mdx_net: ") and "aten::bmm" in ran.output


@pytest.mark.slow
def test_families_run_through_alone(tmp_path: Path) -> None:
    line = ["--quick", "--alone", "--threads", "2", "--rounds", "2", "--only", "scnet", "--only", "vr"]
    output = tmp_path / "families.json"
    ran = CliRunner().invoke(families.main, [*line, "--output", str(output)], catch_exceptions=False)
    assert ran.exit_code == 0
    found = json.loads(output.read_text())["2"]["families"]
    for name in ("scnet", "vr"):
        ours = found[name]["packages"]["stemsplit"]
        assert found[name]["flop"] > 0 and ours["wall_s"] > 0 and ours["memory_mb"] > ours["chunk_mb"] > 0
        assert ours["agreement_db"] > 300
