"""Whole runs of the smallest networks."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from stemsplit.core.stream import separate_array
from stemsplit.errors import Cancelled, ResourceError, SettingsError, StemsplitError
from stemsplit.events import Event
from stemsplit.hub.load import load_model
from stemsplit.models.network import Network
from stemsplit.training.configfile import parse_config, read_config
from stemsplit.training.criterion import Criterion
from stemsplit.training.prepare import build_network
from stemsplit.training.progress import Finished, Preparing, Trained, Validated
from stemsplit.training.run import Result, dry_run, train
from tests.training.conftest import DEMUCS, MASK

MakeConfig = Callable[..., str]
AVERAGES = "ema: {step: [0.5, 0.9], epoch: [0.5]}\n"


def run(text: str, *overrides: str, **how: Any) -> Result:
    return train(parse_config(text, "config.yaml", overrides), **how)


def records(folder: Path) -> list[dict[str, Any]]:
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [{k: v for k, v in json.loads(line).items() if k != "wall_s"} for line in lines]


def checkpoint(folder: Path, name: str = "last") -> Any:
    return torch.load(folder / "checkpoints" / f"{name}.ckpt", weights_only=True)


def differences(first: Any, second: Any, path: str = "") -> list[str]:
    """Yield the places where two nested structures differ by as much as a bit."""
    if isinstance(first, dict):
        if first.keys() != second.keys():
            return [path]
        return [d for key in first for d in differences(first[key], second[key], f"{path}.{key}")]
    if isinstance(first, list | tuple):
        pairs = enumerate(zip(first, second, strict=True))
        return [d for i, (a, b) in pairs for d in differences(a, b, f"{path}.{i}")]
    same = torch.equal(first, second) if isinstance(first, torch.Tensor) else first == second
    return [] if same else [path]


class Crash(RuntimeError):
    """Simulated power cut: the run's own clean-up doesn't handle it."""


def crash_at(step: int) -> Callable[[Event], None]:
    def callback(event: Event) -> None:
        if isinstance(event, Trained) and event.step >= step:
            raise Crash

    return callback


@pytest.fixture(autouse=True)
def _tell_every_step(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stemsplit.training.recorder._REPORT_INTERVAL_S", -1.0)


def test_a_run_leaves_the_documented_files(tiny_config: MakeConfig, tmp_path: Path) -> None:
    events: list[Event] = []
    result = run(tiny_config(extra=AVERAGES + "valid: {at_start: true}"), callback=events.append)
    folder = tmp_path / "run"
    assert result.folder == folder and result.step == 8
    assert (folder / "model.safetensors").is_file() and (folder / "checkpoints" / "best.ckpt").is_file()
    assert list(folder.glob("logs/tensorboard/start-0/events*")) and list(
        folder.glob("logs/csv/start-0/*.csv")
    )
    assert not list(folder.rglob("*.part"))
    names = [type(event) for event in events]
    assert names.count(Preparing) == 2 and names.count(Trained) == 8 and names.count(Validated) == 3
    assert names[-1] is Finished
    noted = records(folder)
    assert [(r["epoch"], r["step"]) for r in noted] == [(0, 0), (1, 4), (2, 8)]
    assert set(noted[0]["valid"]) == {"raw"}
    assert set(noted[2]["valid"]) == {"raw", "step 0.5", "step 0.9", "epoch 0.5"}
    assert set(noted[2]["valid"]["raw"]) == {"drums", "bass", "other", "vocals", "mean"}
    assert 0 < noted[2]["loss"] < 1 and set(noted[2]["loss_by_stem"]) == {"drums", "bass", "other", "vocals"}
    assert noted[2]["lr"] == 3e-3
    best = max(row["mean"] for r in noted for row in r["valid"].values())
    assert result.score == best == noted[2]["best"]["score"] and best > noted[0]["valid"]["raw"]["mean"]


def test_the_written_configuration_is_the_whole_one(tiny_config: MakeConfig, tmp_path: Path) -> None:
    text = tiny_config()
    run(text, "fit.epochs=1", "data.valid=[]")
    written = read_config(tmp_path / "run" / "config.yaml").config
    assert written == parse_config(text, "x", ["fit.epochs=1", "data.valid=[]"]).config


def test_the_exported_model_is_the_best_candidate(tiny_config: MakeConfig, tmp_path: Path) -> None:
    run(tiny_config(extra=AVERAGES))
    best = records(tmp_path / "run")[-1]["best"]
    assert best["step"] == 8
    state = checkpoint(tmp_path / "run")
    averages = {name: a["values"] for name, a in state["stemsplit"]["averages"].items()}
    raw = {k.removeprefix("network."): v for k, v in state["state_dict"].items()}
    exported = load_model(tmp_path / "run").state_dict()
    assert differences(dict(exported), {"raw": raw, **averages}[best["candidate"]]) == []


@pytest.mark.parametrize("model", [DEMUCS, MASK])
def test_the_exported_model_separates_to_the_same_bytes(
    tiny_config: MakeConfig, tmp_path: Path, model: str
) -> None:
    text = tiny_config(model)
    run(text)
    trained = build_network(parse_config(text, "config.yaml")).eval()
    best = checkpoint(tmp_path / "run", "best")["state_dict"]
    trained.load_state_dict({k.removeprefix("network."): v for k, v in best.items()})
    mix = torch.randn(2, 1700)
    exported = separate_array(load_model(tmp_path / "run"), mix)
    assert torch.equal(exported, separate_array(trained, mix)) and exported.std() > 0


def test_half_precision_on_request(tiny_config: MakeConfig, tmp_path: Path) -> None:
    sizes = []
    for half in ("false", "true"):
        run(tiny_config(), f"half={half}", "fit.epochs=1", f"folder={tmp_path}/{half}")
        sizes.append((tmp_path / half / "model.safetensors").stat().st_size)
    assert sizes[1] < 0.75 * sizes[0]


@pytest.mark.parametrize(("model", "step"), [(DEMUCS, 4), (MASK, 3), (MASK, 7)])
def test_a_crashed_and_resumed_run_ends_with_the_same_bits(
    tiny_config: MakeConfig, tmp_path: Path, model: str, step: int
) -> None:
    text = tiny_config(model, AVERAGES + "valid: {at_start: true}\nschedule: {kind: cosine, warmup_steps: 3}")
    run(text, f"folder={tmp_path}/whole")
    with pytest.raises(Crash):
        run(text, f"folder={tmp_path}/parts", callback=crash_at(step))
    run(text, f"folder={tmp_path}/parts", resume=True)
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert differences(checkpoint(whole), checkpoint(parts)) == []
    assert records(whole) == records(parts)
    models = [dict(load_model(folder).state_dict()) for folder in (whole, parts)]
    assert differences(*models) == []


def test_a_finished_run_is_not_continued(tiny_config: MakeConfig, tmp_path: Path) -> None:
    first = run(tiny_config())
    before = (tmp_path / "run" / "model.safetensors").stat().st_mtime_ns
    events: list[Event] = []
    assert run(tiny_config(), resume=True, callback=events.append) == first
    assert [type(event) for event in events] == [Finished]
    assert (tmp_path / "run" / "model.safetensors").stat().st_mtime_ns == before
    longer = run(tiny_config(), "fit.epochs=3", resume=True)
    assert longer.step == 12 and [r["epoch"] for r in records(tmp_path / "run")] == [1, 2, 3]


def test_resume_without_a_checkpoint_starts_a_run(tiny_config: MakeConfig) -> None:
    assert run(tiny_config(), "fit.epochs=1", resume=True).step == 4


def test_a_folder_with_a_run_is_not_overwritten(tiny_config: MakeConfig, tmp_path: Path) -> None:
    text = tiny_config()
    run(text, "fit.epochs=1")
    kept = tmp_path / "run" / "mine.txt"
    kept.write_text("keep")
    with pytest.raises(SettingsError, match="already holds a run") as caught:
        run(text, "fit.epochs=1")
    assert caught.value.hint == "continue it with --resume, or start over with --fresh"
    with pytest.raises(
        SettingsError, match=r"optim.lr=0.1: optim.lr: is 0.1, but 0.003 in the run to resume"
    ):
        run(text, "fit.epochs=1", "optim.lr=0.1", resume=True)
    assert run(text, "fit.epochs=1", "optim.lr=0.1", fresh=True).step == 4
    assert kept.read_text() == "keep" and len(records(tmp_path / "run")) == 1


def test_early_stop(tiny_config: MakeConfig, tmp_path: Path) -> None:
    text = tiny_config(extra="valid: {patience: 2, at_start: true}")
    result = run(text, "fit.epochs=9", "optim.lr=1e-30")  # the score stays what it was
    assert result.step == 8
    assert run(text, "fit.epochs=9", "optim.lr=1e-30", resume=True) == result
    assert run(text, "fit.epochs=9", "optim.lr=1e-30", "valid.patience=3", resume=True).step == 12


def test_without_validation_the_last_average_is_exported(tiny_config: MakeConfig, tmp_path: Path) -> None:
    result = run(tiny_config(extra=AVERAGES), "data.valid=[]")
    assert result.score is None and "valid" not in records(tmp_path / "run")[-1]
    averages = checkpoint(tmp_path / "run")["stemsplit"]["averages"]
    assert differences(dict(load_model(tmp_path / "run").state_dict()), averages["epoch 0.5"]["values"]) == []


def test_accumulation_trains_the_same(tiny_config: MakeConfig, tmp_path: Path) -> None:
    for parts in (1, 2):
        run(tiny_config(), f"fit.accumulate={parts}", f"folder={tmp_path}/{parts}")
    weights = [checkpoint(tmp_path / f"{parts}")["state_dict"] for parts in (1, 2)]
    for name, value in weights[0].items():
        torch.testing.assert_close(weights[1][name], value, rtol=0, atol=1e-5)
    assert records(tmp_path / "1")[-1]["loss"] == pytest.approx(records(tmp_path / "2")[-1]["loss"], rel=1e-5)


def test_bf16_trains(tiny_config: MakeConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    losses: list[float] = []

    def listen(event: Event) -> None:
        losses.extend([event.loss] if isinstance(event, Trained) else [])

    seen: list[Any] = []

    def see(self: Criterion, network: Network, mix: torch.Tensor, target: torch.Tensor) -> Any:
        seen.append((torch.is_autocast_enabled("cpu"), mix.dtype, target.dtype))
        return compare(self, network, mix, target)

    compare = Criterion.__call__
    monkeypatch.setattr(Criterion, "__call__", see)
    run(tiny_config(), "fit.precision=bf16", "data.valid=[]", callback=listen)
    assert losses[-1] < losses[0]
    # the network computes in half precision, but what it is compared with isn't rounded to it
    assert set(seen) == {(True, torch.float32, torch.float32)}


def test_groups_schedule_and_penalty_reach_the_optimiser(tiny_config: MakeConfig, tmp_path: Path) -> None:
    extra = "schedule: {kind: decay, decay: 0.5, every_epochs: 1}\n"
    extra += "loss: {weights: {drums: 2}, svd: {penalty: 1e-4, smallest: 8, rank: 4}}"
    run(tiny_config(extra=extra), "optim.groups=[{match: 'decoder.*', lr: 1e-4}]", "optim.kind=adamw")
    state = checkpoint(tmp_path / "run")
    (optimizer,) = state["optimizer_states"]
    assert [group["initial_lr"] for group in optimizer["param_groups"]] == [3e-3, 1e-4]
    assert [r["lr"] for r in records(tmp_path / "run")] == pytest.approx([1.5e-3, 7.5e-4])


@pytest.mark.parametrize("clip", [1e-3, 1e-4])
def test_gradients_are_clipped(tiny_config: MakeConfig, tmp_path: Path, clip: float) -> None:
    run(
        tiny_config(), f"optim.clip={clip}", "fit.epochs=1", "fit.steps_per_epoch=1", "fit.checkpoint_steps=1"
    )
    (optimizer,) = checkpoint(tmp_path / "run")["optimizer_states"]
    # Adam's first moment after one step is a tenth of the gradient
    moments = [state["exp_avg"].norm() for state in optimizer["state"].values()]
    assert float(torch.stack(moments).norm()) == pytest.approx(0.1 * clip, rel=1e-3)


def test_the_last_epoch_is_validated_whatever_the_interval(tiny_config: MakeConfig, tmp_path: Path) -> None:
    run(tiny_config(), "fit.epochs=3", "valid.every_epochs=2")
    assert [r["epoch"] for r in records(tmp_path / "run") if "valid" in r] == [2, 3]


def test_the_callback_may_cancel(tiny_config: MakeConfig, tmp_path: Path) -> None:
    with pytest.raises(Cancelled):
        run(tiny_config(), callback=lambda event: not isinstance(event, Trained))
    assert not (tmp_path / "run" / "model.safetensors").exists()


def test_a_dry_run_leaves_nothing(tiny_config: MakeConfig, tmp_path: Path) -> None:
    events: list[Event] = []
    dry_run(parse_config(tiny_config(extra=AVERAGES), "config.yaml"), events.append)
    (step,) = [event for event in events if isinstance(event, Trained)]
    assert (step.step, step.steps) == (1, 1)
    assert not (tmp_path / "run").exists()


def test_a_run_changes_nothing_outside(tiny_config: MakeConfig) -> None:
    import logging
    import warnings

    state, filters = torch.random.get_rng_state(), list(warnings.filters)
    run(tiny_config(), "fit.epochs=1")
    assert torch.equal(torch.random.get_rng_state(), state)
    assert list(warnings.filters) == filters
    assert logging.getLogger("lightning.pytorch").level != logging.WARNING


def test_the_cached_audio_trains_the_same(tiny_config: MakeConfig, tmp_path: Path) -> None:
    for name, cache in (("plain", "null"), ("cached", f"{tmp_path}/decoded")):
        run(tiny_config(), "fit.epochs=1", f"data.cache={cache}", f"folder={tmp_path}/{name}")
    assert differences(checkpoint(tmp_path / "plain"), checkpoint(tmp_path / "cached")) == []


def test_per_stem_fine_tuning_makes_a_one_hot_bag(tiny_config: MakeConfig, tmp_path: Path) -> None:
    run(tiny_config(), "fit.epochs=1", f"folder={tmp_path}/base")
    start = f"\n  start: {tmp_path}/base"
    result = run(tiny_config(start, "per_stem: {}"), "fit.epochs=1", "optim.lr=1e-3")
    folder, stems = tmp_path / "run", ("drums", "bass", "other", "vocals")
    assert result.folder == folder and result.step == 16
    bag = load_model(folder)
    assert bag.stems == stems
    mix = torch.randn(2, 900)
    whole = separate_array(bag, mix)
    for index, stem in enumerate(stems):
        part = read_config(folder / stem / "config.yaml").config
        assert part.loss.weights == {name: float(name == stem) for name in stems}
        one = separate_array(load_model(folder / stem), mix)
        torch.testing.assert_close(whole[index], one[index], rtol=1e-6, atol=1e-6)
        assert set(records(folder / stem)[-1]["valid"]["raw"]) == {*stems, "mean"}
        assert (
            records(folder / stem)[-1]["valid"]["raw"]["mean"]
            == records(folder / stem)[-1]["valid"]["raw"][stem]
        )
    torch.testing.assert_close(separate_array(load_model(folder, stems=["bass"]), mix), whole[1:2])
    again = run(tiny_config(start, "per_stem: {}"), "fit.epochs=1", "optim.lr=1e-3", resume=True)
    assert again == result


PER_STEM = """
per_stem:
  changes:
    drums: {model.arguments.stem: drums}
    bass: {model.arguments.stem: bass, model.arguments.hidden: 8, optim.lr: 1e-3}
    other: {model.arguments.stem: other}
"""


def test_networks_of_one_stem_make_a_bag(tiny_config: MakeConfig, tmp_path: Path) -> None:
    run(tiny_config(MASK, PER_STEM), "fit.epochs=1", "fit.steps_per_epoch=2")
    bag = load_model(tmp_path / "run")
    assert bag.stems == ("drums", "bass", "other", "vocals")
    config = read_config(tmp_path / "run" / "bass" / "config.yaml").config
    assert config.model.arguments["hidden"] == 8 and config.optim.lr == 1e-3 and config.per_stem is None
    assert separate_array(bag, torch.randn(2, 700)).shape == (4, 2, 700)


def test_a_stem_without_its_network_is_found_before_training(tiny_config: MakeConfig, tmp_path: Path) -> None:
    text = tiny_config(MASK, PER_STEM.replace("other: {model.arguments.stem: other}", ""))
    with pytest.raises(SettingsError, match=r"per_stem.changes.other: its network estimates vocals"):
        run(text)
    assert not (tmp_path / "run").exists()


def test_semi_supervised_training_promotes_its_teacher(tiny_config: MakeConfig, tmp_path: Path) -> None:
    run(tiny_config(MASK), "fit.epochs=1", f"folder={tmp_path}/base")
    extra = "semi: {}\nvalid: {at_start: true}"
    text = tiny_config(f"\n  start: {tmp_path}/base", extra)
    unlabelled = f"data.unlabelled=[{{path: {tmp_path}/songs, only: ['1/*']}}]"
    events: list[Event] = []
    run(text, unlabelled, "fit.epochs=3", f"folder={tmp_path}/whole", callback=events.append)
    scores = [e.scores for e in events if isinstance(e, Validated)]
    best = max(row["raw"]["mean"] for row in scores)
    state = checkpoint(tmp_path / "whole")["stemsplit"]
    assert state["teacher"]["score"] == best > scores[0]["raw"]["mean"]
    with pytest.raises(Crash):
        run(text, unlabelled, "fit.epochs=3", f"folder={tmp_path}/parts", callback=crash_at(7))
    run(text, unlabelled, "fit.epochs=3", f"folder={tmp_path}/parts", resume=True)
    assert differences(checkpoint(tmp_path / "whole"), checkpoint(tmp_path / "parts")) == []


def test_an_exported_demucs_separates_alike_in_demucs(tiny_config: MakeConfig, tmp_path: Path) -> None:
    hf = pytest.importorskip("demucs.hf", reason="needs demucs")
    run(tiny_config(), "fit.epochs=1")
    theirs = hf.load_safetensors_model(tmp_path / "run" / "model.safetensors")
    ours = load_model(tmp_path / "run")
    mix = torch.randn(2, 500)
    with torch.inference_mode():
        torch.testing.assert_close(ours.estimate(mix[None]), theirs.eval()(mix[None]), rtol=1e-5, atol=1e-6)


def test_a_diverging_run_stops_with_an_error(tiny_config: MakeConfig) -> None:
    with pytest.raises(StemsplitError, match=r"the loss is nan after \d steps") as caught:
        run(tiny_config(), "optim.lr=1e30", "optim.clip=null", "data.valid=[]")
    assert caught.value.hint == "lower optim.lr, or set optim.clip"


def test_an_incomplete_line_of_a_killed_run_is_dropped(tiny_config: MakeConfig, tmp_path: Path) -> None:
    run(tiny_config(), "fit.epochs=1")
    with (tmp_path / "run" / "metrics.jsonl").open("a") as lines:
        lines.write('{"step": 8, "epoch": 2}\n{"step": 12, "ep')
    run(tiny_config(), "fit.epochs=2", resume=True)
    assert [r["step"] for r in records(tmp_path / "run")] == [4, 8]


def test_another_number_of_steps_between_checkpoints_is_refused(tiny_config: MakeConfig) -> None:
    run(tiny_config(), "fit.epochs=1")
    with pytest.raises(SettingsError, match="fit.checkpoint_steps: is 4, but 2 in the run"):
        run(tiny_config(), "fit.checkpoint_steps=4", resume=True)


def test_a_bag_is_no_network_to_start_from(tiny_config: MakeConfig, tmp_path: Path) -> None:
    run(tiny_config(MASK, PER_STEM), "fit.epochs=1", "fit.steps_per_epoch=2", f"folder={tmp_path}/bag")
    with pytest.raises(SettingsError, match="model.start: .*/bag is several networks in one"):
        run(tiny_config(f"\n  start: {tmp_path}/bag"))


@pytest.mark.parametrize(
    ("override", "rule"),
    [
        ("data.segment_s=9", "data.segment_s: the network takes at most 0.5 s"),
        ("fit.devices=2", "fit.device"),
        ("data.unlabelled=[{path: nowhere}]", "data.unlabelled: is used by semi-supervised training only"),
        (
            "per_stem.changes={drums: {data.segmnt_s: 3}}",
            "data.segmnt_s: no such key; did you mean segment_s",
        ),
    ],
)
def test_settings_that_do_not_fit_the_network_are_refused(
    tiny_config: MakeConfig, tmp_path: Path, override: str, rule: str
) -> None:
    model = MASK.replace("hidden", "attention: consecutive, frequency_heads: 2, hidden")
    overrides = [override] if "devices" not in override else [override, "fit.device=cuda"]
    with pytest.raises(SettingsError, match=re.escape(rule)):
        run(tiny_config(model, PER_STEM if "per_stem" in override else ""), *overrides)
    assert not (tmp_path / "run").exists()


def test_a_lost_process_has_its_own_error(tiny_config: MakeConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    def fit(*args: Any, **how: Any) -> None:
        raise RuntimeError("[gloo/transport/tcp/pair.cc:553] Connection closed by peer [127.0.0.1]:64142.")

    monkeypatch.setattr("stemsplit.training.run.fit", fit)
    with pytest.raises(ResourceError, match="another process of this run has died"):
        run(tiny_config())
