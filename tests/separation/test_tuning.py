"""The command's `tune`: what it times, what it records, and what later runs make of the record."""

import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from stemsplit import Request, separate_files
from stemsplit.core import compute as computing
from stemsplit.core.compute import Compute, place
from stemsplit.core.devices import processor
from stemsplit.errors import SettingsError
from stemsplit.events import Event, Notice
from stemsplit.hub.checkpoints import save_package
from stemsplit.hub.describe import describe_model
from stemsplit.separation import tuning
from stemsplit.separation.inputs import find
from stemsplit.separation.run import prepare
from stemsplit.separation.tuned import Choice, path_of
from stemsplit.separation.tuning import Timed, tune
from stemsplit.settings import (
    BatchSettings,
    ChunkSettings,
    CombinationSettings,
    ComputeSettings,
    ModelSettings,
    OutputSettings,
)
from tests.separation.networks import small
from tests.separation.test_run import songs

Record = Callable[..., Path]
Pace = Callable[[Callable[[Choice], float]], list[Choice]]
CPU = ComputeSettings("cpu")


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A tiny HT Demucs, and a cache folder of the test's own."""
    monkeypatch.setenv("STEMSPLIT_CACHE", str(tmp_path / "cache"))
    path = tmp_path / "tiny.safetensors"
    save_package(path, small("htdemucs"))
    return path


@pytest.fixture
def record(model: Path) -> Record:
    """Write a record of this machine for the model, with other values where they are given."""

    def write(precision: str = "fp32", other: dict[str, Any] | None = None, **choice: Any) -> Path:
        content = {
            "model": "tiny",
            "device": processor(),
            "torch": torch.__version__,
            "choice": {"precision": precision, **choice},
            "chunk_s": 1.0,
            "before_s": 2.0,
            "agreement_db": 55.5,
        }
        path = path_of(describe_model(model), "cpu")
        path.parent.mkdir(parents=True)
        path.write_text(json.dumps(content | (other or {})))
        return path

    return write


def request_for(model: Path, folder: Path, **compute: Any) -> Request:
    return Request(
        model=ModelSettings(str(model)),
        compute=replace(CPU, **compute),
        batch=BatchSettings(output=str(folder / "out")),
        output=OutputSettings(bit_depth="32f"),
    )


def prepared(request: Request, folder: Path) -> tuple[Request, list[str]]:
    """Return the request of a run and its notices."""
    events = list[Event]()
    session = prepare(find([songs(folder, "a.wav")], request), request, callback=events.append)
    return session.request, [event.message for event in events if isinstance(event, Notice)]


@pytest.fixture
def paced(monkeypatch: pytest.MonkeyPatch) -> Pace:
    """Let chunks take other times than they do, on a CPU with two threads that multiplies bf16."""

    run = tuning._Bench._run

    def pace(seconds: Callable[[Choice], float]) -> list[Choice]:
        order, known = list[Choice](), dict[Choice, float]()

        def timed(bench: Any, choice: Choice) -> tuple[float, float]:
            order.append(choice)
            took = seconds(choice)
            if choice not in known:
                known[choice] = run(bench, choice)[1]
            return took, known[choice]

        monkeypatch.setattr(tuning._Bench, "_run", timed)
        return order

    monkeypatch.setattr(computing, "has_bf16", lambda: True)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    return pace


def quick(choice: Choice) -> float:
    """Half the time in bf16, and slower with fewer threads or in batches."""
    return (
        (0.5 if choice.precision == "bf16" else 1.0)
        * (choice.threads is None or 1.5)
        * (choice.batch_size or 1)
    )


@pytest.mark.slow
def test_a_model_is_timed_and_recorded(model: Path, tmp_path: Path) -> None:
    reported = list[Timed]()
    found = tune(ModelSettings(str(model)), "cpu", report=reported.append)
    assert 0 < found.chunk_s <= found.before_s and 100 < found.agreement_db
    assert {one.choice.precision for one in reported} <= {"fp32", "bf16"}
    assert reported[0].choice == Choice("fp32") and reported[-1].choice.batch_size == 2
    request, notices = prepared(request_for(model, tmp_path), tmp_path)
    assert bool(notices) == (found.choice != Choice("fp32"))
    assert (request.compute.threads, request.chunks.batch_size) == (
        found.choice.threads,
        found.choice.batch_size,
    )


@pytest.mark.slow
def test_what_overflows_is_never_chosen(model: Path, paced: Pace, monkeypatch: pytest.MonkeyPatch) -> None:
    def overflowing(bench: Any, networks: Any, compute: Compute, batch: int) -> Tensor:
        stems: Tensor = of(bench, networks, compute, batch)
        return stems if compute.dtype == torch.float32 else stems * torch.inf

    of = tuning._Bench._stems
    monkeypatch.setattr(tuning._Bench, "_stems", overflowing)
    paced(quick)
    assert tune(ModelSettings(str(model)), "cpu", min_agreement_db=0).choice == Choice("fp32")


@pytest.mark.slow
def test_what_is_accurate_enough_is_chosen_by_its_time(model: Path, paced: Pace) -> None:
    order = paced(quick)
    accurate = tune(ModelSettings(str(model)), "cpu", min_agreement_db=125)
    assert accurate.choice == Choice("fp32") and accurate.chunk_s == accurate.before_s == 1
    assert order[:4] == [Choice("fp32"), Choice("bf16")] * 2  # in turn
    assert order[8:10] == [Choice("fp32"), Choice("fp32", threads=1)]
    fast = tune(ModelSettings(str(model)), "cpu")
    assert fast.choice == Choice("bf16") and (fast.chunk_s, fast.before_s) == (0.5, 1)
    assert 100 < fast.agreement_db < 125 < accurate.agreement_db  # so small a network rounds little


@pytest.mark.slow
def test_gains_build_on_each_other_and_small_ones_are_chance(model: Path, paced: Pace) -> None:
    paced(lambda choice: 1.0 - 0.2 * (choice.threads == 1) - 0.2 * (choice.batch_size == 2))
    assert tune(ModelSettings(str(model)), "cpu").choice == Choice("fp32", threads=1, batch_size=2)
    paced(lambda choice: 1.0 - 0.02 * (choice.threads == 1))
    assert tune(ModelSettings(str(model)), "cpu").choice == Choice("fp32")


@pytest.mark.slow
def test_what_the_device_cannot_do_is_left_out(model: Path, paced: Pace) -> None:
    def seconds(choice: Choice) -> float:
        if choice.batch_size == 2:
            raise RuntimeError("no such kernel")
        return quick(choice)

    paced(seconds)
    reported = list[Timed]()
    tune(ModelSettings(str(model)), "cpu", report=reported.append)
    assert {one.choice.batch_size for one in reported} == {None}
    paced(lambda choice: 1 / 0 if choice.batch_size else 1.0)
    with pytest.raises(ZeroDivisionError):  # a fault of the program isn't hidden
        tune(ModelSettings(str(model)), "cpu")


def test_a_recipe_is_refused(model: Path) -> None:
    recipe = model.parent / "two.yaml"
    recipe.write_text(f"steps: [{{models: [{model}, {model}]}}]\n")
    with pytest.raises(SettingsError, match=r"two\.yaml combines models"):
        tune(ModelSettings(str(recipe)), "cpu")


@pytest.mark.slow
@pytest.mark.parametrize("programs", [3.5, 8.0])
def test_a_busy_machine_is_noticed(
    model: Path, paced: Pace, monkeypatch: pytest.MonkeyPatch, programs: float
) -> None:
    paced(quick)
    monkeypatch.setattr(os, "getloadavg", lambda: (programs, 0, 0))
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    events = list[Event]()
    tune(ModelSettings(str(model)), "cpu", callback=events.append)
    said = [event for event in events if isinstance(event, Notice) and "other programs" in event.message]
    assert bool(said) == (programs == 8)


def test_on_a_gpu_its_own_ways_are_timed() -> None:
    bench: Any = SimpleNamespace(device=torch.device("cuda"), usual=Choice("bf16"))
    changes = [change for varied in tuning._Bench.variations(bench) for change in varied]
    assert [change["precision"] for change in changes if "precision" in change] == ["fp32", "fp16"]
    assert {"channels_last": True} in changes and {"compile": True} in changes


@pytest.mark.parametrize("last", [True, False])
def test_channels_last_lays_out_the_weights_of_a_device(last: bool) -> None:
    layer = place(torch.nn.Conv2d(4, 4, 3), Compute(torch.device("meta"), channels_last=last))
    assert layer.weight.is_contiguous(memory_format=torch.channels_last) == last


# ---------------------------------------------------------------- records


def test_a_record_decides_what_no_option_does(model: Path, record: Record, tmp_path: Path) -> None:
    record("fp32", threads=1, batch_size=2)
    request, notices = prepared(request_for(model, tmp_path), tmp_path)
    assert (request.compute.threads, request.chunks.batch_size) == (1, 2)
    assert request.compute.precision == "auto"  # which is fp32: outputs from before count as the same
    assert len(notices) == 1 and "precision fp32, threads 1, batch size 2; 56 dB" in notices[0]
    request, _ = prepared(replace(request_for(model, tmp_path), jobs=2), tmp_path)
    assert request.compute.threads is None
    given = request_for(model, tmp_path, threads=3)
    request, _ = prepared(replace(given, chunks=ChunkSettings(batch_size=4)), tmp_path)
    assert (request.compute.threads, request.chunks.batch_size) == (3, 4)


@pytest.mark.parametrize(
    "options", [{"tuned": False}, {"precision": "fp32"}, {"reduced": True}], ids=lambda options: [*options][0]
)
def test_an_option_prevails_over_the_record(
    model: Path, record: Record, tmp_path: Path, options: dict[str, Any]
) -> None:
    record("bf16")
    request = request_for(model, tmp_path, **options)
    assert prepared(request, tmp_path) == (request, [])


def test_a_record_cannot_change_results_silently(model: Path, record: Record, tmp_path: Path) -> None:
    folder, request = songs(tmp_path, "a.wav"), request_for(model, tmp_path)
    assert separate_files(folder, request).exit_code == 0
    path = record("fp32", batch_size=2)
    assert [track.status for track in separate_files(folder, request).tracks] == ["skipped"]
    path.unlink()
    path.parent.rmdir()
    record("bf16")
    (track,) = separate_files(folder, request).tracks
    assert track.status == "failed" and track.error is not None
    assert "precision was auto and is now bf16" in track.error.message
    again = replace(request, batch=BatchSettings(output=str(tmp_path / "new")))
    report = separate_files(folder, again)
    assert report.exit_code == 0 and report.settings["precision"] == "bf16"
    plain = replace(again, compute=replace(CPU, tuned=False))
    (track,) = separate_files(folder, plain).tracks
    assert track.error is not None and "precision was bf16 and is now auto" in track.error.message


@pytest.mark.parametrize("other", [{"torch": "2.0.0"}, {"device": "another CPU, 8 cores"}])
def test_a_record_of_another_machine_is_ignored(
    model: Path, record: Record, tmp_path: Path, other: dict[str, str]
) -> None:
    record("bf16", other)
    request = request_for(model, tmp_path)
    found, notices = prepared(request, tmp_path)
    assert found == request
    assert len(notices) == 1 and "ignored" in notices[0] and [*other.values()][0] in notices[0]


@pytest.mark.parametrize(
    "content",
    ["", "{", "no record", '{"model": "x"}', "\x00", '{"choice": {"precision": "int8"}}'],
)
def test_an_unreadable_record_is_one_line(model: Path, record: Record, tmp_path: Path, content: str) -> None:
    path = record("bf16")
    path.write_text(content)
    request = request_for(model, tmp_path)
    found, notices = prepared(request, tmp_path)
    assert found == request
    assert len(notices) == 1 and str(path) in notices[0] and "ignored" in notices[0]
    assert "\n" not in notices[0]


@pytest.mark.parametrize(
    ("choice", "what"),
    [
        ({"precision": "int8"}, "must be one of fp32, bf16, fp16"),
        ({"precision": "fp32", "threads": 0}, "must be from 1 to 4096"),
        ({"precision": "fp32", "batch_size": 0}, "must be a positive whole number"),
        ({"precision": "fp32", "shifts": 3}, "no such key"),
    ],
)
def test_a_wrong_value_is_named(
    model: Path, record: Record, tmp_path: Path, choice: dict[str, Any], what: str
) -> None:
    record(other={"choice": choice})
    _, (notice,) = prepared(request_for(model, tmp_path), tmp_path)
    assert what in notice and "choice" in notice


def test_other_models_and_several_together_have_no_record(
    model: Path, record: Record, tmp_path: Path
) -> None:
    record("bf16")
    several = replace(request_for(model, tmp_path), combination=CombinationSettings(others=(str(model),)))
    other = tmp_path / "other.safetensors"
    save_package(other, small("bs_roformer"))
    for request in (several, request_for(other, tmp_path)):
        assert prepared(request, tmp_path)[0] == request
