"""Whole runs that train adapters, and the memory that they need."""

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from random import Random
from typing import Any

import pytest
import torch

from stemsplit.core.stream import separate_array
from stemsplit.errors import SettingsError
from stemsplit.events import Event
from stemsplit.hub.load import load_model
from stemsplit.models import build
from stemsplit.training.adapters import add_adapters
from stemsplit.training.configfile import parse_config
from stemsplit.training.footprint import LiveBytes, measure
from stemsplit.training.learning import LoraConfig
from stemsplit.training.optim import KINDS
from stemsplit.training.prepare import build_network
from stemsplit.training.progress import Footprint, Trained
from stemsplit.training.run import dry_run
from tests.memory import PRINT_PEAK
from tests.training.conftest import DEMUCS, MASK
from tests.training.test_run import (
    AVERAGES,
    Crash,
    MakeConfig,
    checkpoint,
    crash_at,
    differences,
    records,
    run,
)

LORA = AVERAGES + "lora: {rank: 1}\nvalid: {at_start: true}\nschedule: {kind: cosine, warmup_steps: 3}"
HTDEMUCS = {"sources": ["drums", "bass", "other", "vocals"], "bottom_channels": 512, "segment": 7.8}


@pytest.fixture(autouse=True)
def _tell_every_step(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stemsplit.training.recorder._REPORT_INTERVAL_S", -1.0)


def started(tiny_config: MakeConfig, tmp_path: Path, model: str = DEMUCS, extra: str = LORA) -> str:
    """Return the configuration of a run that starts from a trained model."""
    run(tiny_config(model), "fit.epochs=1", f"folder={tmp_path}/base")
    return tiny_config(f"\n  start: {tmp_path}/base", extra)


def test_a_run_with_adapters_exports_a_plain_model(tiny_config: MakeConfig, tmp_path: Path) -> None:
    text = started(tiny_config, tmp_path, extra="lora: {rank: 2, layers: ['decoder.*']}")
    losses: list[float] = []
    result = run(text, callback=lambda e: losses.append(e.loss) if isinstance(e, Trained) else None)
    assert losses[-1] < losses[0] and result.score is not None
    base, tuned = load_model(tmp_path / "base"), load_model(tmp_path / "run")
    before, after = base.state_dict(), tuned.state_dict()
    assert before.keys() == after.keys()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed and all(n.startswith("decoder.") and n.endswith(".weight") for n in changed)

    # the exported model is the one that was validated
    trained = build_network(parse_config(text, "config.yaml")).eval()
    best = checkpoint(tmp_path / "run", "best")["state_dict"]
    trained.load_state_dict({k.removeprefix("network."): v for k, v in best.items()})
    mix = torch.randn(2, 1700)
    assert torch.equal(separate_array(tuned, mix), separate_array(trained, mix))


POINTS = Random(19).sample(range(1, 16), 10)


@pytest.mark.slow
@pytest.mark.parametrize("model", [DEMUCS, MASK], ids=["demucs", "mask"])
def test_a_killed_run_with_adapters_ends_with_the_same_bits(
    tiny_config: MakeConfig, tmp_path: Path, model: str
) -> None:
    """With averages, accumulation, a schedule and recomputed activations, at several random steps."""
    text = started(tiny_config, tmp_path, model)
    how = "fit.accumulate=2", "fit.recompute=true", "fit.epochs=4"
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    run(text, *how, f"folder={whole}")
    with pytest.raises(Crash):
        run(text, *how, f"folder={parts}", callback=crash_at(min(POINTS)))
    for point in sorted(POINTS)[1:]:
        with pytest.raises(Crash):
            run(text, *how, f"folder={parts}", resume=True, callback=crash_at(point))
    run(text, *how, f"folder={parts}", resume=True)
    assert differences(checkpoint(whole), checkpoint(parts)) == []
    assert records(whole) == records(parts)
    assert differences(*(dict(load_model(folder).state_dict()) for folder in (whole, parts))) == []


@pytest.mark.parametrize(("kind", "lr"), [("adamw8bit", 0.01), ("muon", 0.01), ("prodigy", 1)])
def test_runs_with_other_optimisers_resume_to_the_bit(
    tiny_config: MakeConfig, tmp_path: Path, kind: str, lr: float
) -> None:
    library = KINDS[kind][0].partition(".")[0]
    if find_spec(library) is None:
        with pytest.raises(SettingsError, match=f"optim.kind: {kind} needs {library}"):
            run(tiny_config(), f"optim={{kind: {kind}, lr: {lr}}}")
        return
    text, how = tiny_config(), (f"optim.kind={kind}", f"optim.lr={lr}")
    run(text, *how, f"folder={tmp_path}/whole")
    with pytest.raises(Crash):
        run(text, *how, f"folder={tmp_path}/parts", callback=crash_at(3))
    run(text, *how, f"folder={tmp_path}/parts", resume=True)
    assert differences(checkpoint(tmp_path / "whole"), checkpoint(tmp_path / "parts")) == []


def test_recomputed_activations_train_the_same(tiny_config: MakeConfig, tmp_path: Path) -> None:
    for recompute in ("false", "true"):
        run(tiny_config(), "fit.epochs=1", f"fit.recompute={recompute}", f"folder={tmp_path}/{recompute}")
    states = [checkpoint(tmp_path / one)["state_dict"] for one in ("false", "true")]
    assert differences(*states) == []


def test_frozen_weights_stay(tiny_config: MakeConfig, tmp_path: Path) -> None:
    text = started(tiny_config, tmp_path, extra=AVERAGES + "valid: {at_start: true}")
    run(text, "model.freeze=['encoder.*']")
    before, after = (load_model(tmp_path / folder).state_dict() for folder in ("base", "run"))
    same = {name for name in before if torch.equal(before[name], after[name])}
    assert same == {name for name in before if name.startswith("encoder.")}


@pytest.mark.parametrize(
    ("override", "rule"),
    [
        ("lora.layers=['x.*']", "lora.layers.0: no linear or convolution layer is called x.*"),
        ("lora.rank=999", "lora.rank: 999 is too large for the layers of this network"),
        ("model.freeze=[nothing]", "model.freeze.0: no parameter is called nothing"),
        ("model.freeze=['*']", "model.freeze: leaves nothing to train"),
    ],
)
def test_patterns_that_match_nothing(
    tiny_config: MakeConfig, tmp_path: Path, override: str, rule: str
) -> None:
    with pytest.raises(SettingsError) as caught:
        run(started(tiny_config, tmp_path, extra="lora: {rank: 1}"), override)
    assert rule in caught.value.reason


def test_adapters_need_a_model_to_adapt(tiny_config: MakeConfig) -> None:
    with pytest.raises(SettingsError, match="lora: needs model.start"):
        run(tiny_config(extra="lora: {}"))


# ---------------------------------------------------------------- memory


def test_live_bytes_by_hand() -> None:
    given = torch.ones(1000)
    with LiveBytes() as live:
        a = given + 1  # 4000 bytes
        b = a * 2
        assert live.now == 8000
        view = b[:10].reshape(2, 5)
        del a
        assert live.now == 4000 and live.peak == 8000
        del b
        assert live.now == 4000  # the view holds it
        del view
        assert live.now == 0
        given.mul_(2)
    assert live.peak == 8000


def test_a_dry_run_tells_what_a_step_needs(tiny_config: MakeConfig, tmp_path: Path) -> None:
    text = started(tiny_config, tmp_path, extra=AVERAGES)

    def footprint(*overrides: str) -> Footprint:
        events: list[Event] = []
        dry_run(parse_config(text, "config.yaml", overrides), events.append)
        (found,) = [event for event in events if isinstance(event, Footprint)]
        return found

    full = footprint()
    weights = sum(p.numel() for p in load_model(tmp_path / "base").parameters())
    assert (full.of, full.trained, full.samples) == (weights, weights, 4)
    assert full.parameters == full.gradients == 4 * weights
    assert full.averages == 3 * 4 * weights
    assert 8 * weights <= full.optimizer < 9 * weights  # two moments; Adam counts steps
    assert full.total == full.parameters + full.gradients + full.optimizer + full.averages + (
        4 * full.activations
    )
    # the network's output, and what its layers keep
    assert full.activations > 4 * 4 * 2 * 500
    tuned = footprint("lora={rank: 1}", "fit.accumulate=2")
    assert tuned.samples == 2 and tuned.of == weights + tuned.trained
    assert tuned.gradients == 4 * tuned.trained
    assert not (tmp_path / "run").exists()


def test_adapters_of_htdemucs_need_a_twentieth_of_gradients_and_optimiser() -> None:
    with torch.device("meta"):
        network = build("htdemucs", HTDEMUCS)
    network = network.to_empty(device="cpu")
    full = sum(p.numel() for p in network.parameters())
    add_adapters(network, LoraConfig(), 1)
    trained = sum(p.numel() for p in network.parameters() if p.requires_grad)
    # gradients and moments are in proportion to the trained weights
    assert full == 41_473_616 and 0 < trained < 0.05 * full


STEP = """
import sys, torch
from stemsplit.models import build
from stemsplit.training import adapters
from stemsplit.training.learning import LoraConfig, LossConfig, OptimConfig
from stemsplit.training.criterion import Criterion
from stemsplit.training.optim import build_optimizer
from tests.training.test_lora import HTDEMUCS

torch.manual_seed(0)
network = build("htdemucs", HTDEMUCS)
if sys.argv[1] == "lora":
    adapters.add_adapters(network, LoraConfig(), 1)
    adapters.recompute_activations(network)
adapters.training_mode(network)
stems = 0.1 * torch.randn(1, 4, 2, network.segment_samples)
optimizer = build_optimizer(network, OptimConfig(kind="adamw"))
loss, _ = Criterion(LossConfig(), network.stems)(network, stems.sum(1), stems)
loss.backward()
optimizer.step()
"""


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_adapters_and_recomputation_need_less_than_six_tenths_of_the_memory() -> None:
    def peak_mb(how: str) -> float:
        done: Any = subprocess.run(
            [sys.executable, "-c", STEP + PRINT_PEAK, how], capture_output=True, text=True, check=True
        )
        return float(done.stdout)

    full, tuned = peak_mb("full"), peak_mb("lora")
    assert tuned < 0.6 * full, (tuned, full)


def test_a_footprint_counts_the_steps_own_samples() -> None:
    network = build("demucs", {"sources": ["a", "b"], "channels": 4, "depth": 2, "lstm_layers": 0})
    text = "folder: x\nmodel: {family: demucs}\ndata: {train: [{path: x}], segment_s: 0.2}\n"
    one, two = (measure(network, parse_config(text, "x", [f"data.segment_s={s}"]).config) for s in (0.2, 0.4))
    assert 1.7 < two.activations / one.activations < 2.1
    assert one.total - one.parameters - one.gradients - one.optimizer == 8 * one.activations
