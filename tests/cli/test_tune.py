"""`stemsplit tune`, and the runs after it."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from stemsplit.hub.checkpoints import save_package
from stemsplit.separation import tuning
from stemsplit.separation.tuned import Choice, Record
from stemsplit.separation.tuning import Timed
from tests.separation.networks import small

Shell = Any


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "home/tiny.safetensors"
    path.parent.mkdir()
    save_package(path, small("htdemucs"))
    return path


@pytest.mark.slow
def test_tune_prints_what_it_timed_and_later_runs_say_what_they_use(shell: Shell, model: Path) -> None:
    ran = shell("tune", model, "-d", "cpu", "--json")
    assert ran.code == 0, ran.err
    found = json.loads(ran.out)
    assert found["schema"] and found["model"] == str(model) and found["choice"]["precision"]
    assert "note: precision fp32: " in ran.err and "s a chunk" in ran.err
    (path,) = (shell.folder / "home").rglob("tuned/*.json")
    kept = json.loads(path.read_text())
    assert found == {"schema": found["schema"], **kept}

    path.write_text(json.dumps(kept | {"choice": {"precision": "bf16"}, "agreement_db": 55.0}))
    shell.write("a.wav", seconds=0.2)
    run = ("a.wav", "-m", model, "-d", "cpu", "-s", "bass")
    ran = shell(*run, "--json")
    assert ran.code == 0 and "tuned for this machine (precision bf16; 55 dB from plain fp32)" in ran.err
    assert json.loads(ran.out)["settings"]["precision"] == "bf16"
    ran = shell(*run, "-o", "plain", "--json", "--no-tuned")
    assert ran.code == 0 and "tuned" not in ran.err
    assert json.loads(ran.out)["settings"]["precision"] == "auto"


@pytest.mark.slow
def test_progress_is_shown_as_asked(shell: Shell, model: Path) -> None:
    ran = shell("tune", "--model", model, "-d", "cpu", "--progress", "none")
    assert ran.code == 0 and ran.err == ""
    assert ran.out.decode().startswith(f"{model} on ") and "dB from plain fp32" in ran.out.decode()
    lines = shell("tune", "-m", model, "-d", "cpu", "--progress", "json").err.splitlines()
    assert {json.loads(line)["event"] for line in lines} == {"notice"}


@pytest.mark.parametrize("limit", [50, 100])
def test_the_conclusion_names_what_a_lower_limit_allows(
    shell: Shell, model: Path, monkeypatch: pytest.MonkeyPatch, limit: int
) -> None:
    def slower(settings: object, device: str, *, report: Callable[[Timed], object], **_: object) -> Record:
        report(Timed(Choice("fp32"), 2.0, 119.0))
        report(Timed(Choice("bf16"), 1.95, 55.6))
        return Record("m", "a CPU", "2", Choice("fp32"), 2.0, 2.0, 119.0)

    monkeypatch.setattr(tuning, "tune", slower)
    first, *more = shell("tune", model, "--min-agreement", str(limit)).out.decode().splitlines()
    assert first == "m on a CPU: nothing is faster than before, 119 dB from plain fp32"
    allowed = "precision bf16 takes 1.95 s a chunk; --min-agreement 55 allows it"
    assert more == ([allowed] if limit == 100 else [])


@pytest.mark.slow
def test_a_typed_model_prevails_over_the_environment_and_is_named_once(shell: Shell, model: Path) -> None:
    ran = shell("tune", model, "-d", "cpu", "--json", env={"STEMSPLIT_MODEL": "no-such-model"})
    assert json.loads(ran.out)["model"] == str(model)
    ran = shell("tune", model, "-m", "classic")
    assert ran.code == 2 and "exclude each other" in ran.err


def test_unknown_models_and_devices_are_refused(shell: Shell) -> None:
    ran = shell("tune", "no-such-model")
    assert ran.code == 2 and "no-such-model" in ran.err
    ran = shell("tune", "classic", "-d", "nonsense")
    assert ran.code != 0 and "nonsense" in ran.err
