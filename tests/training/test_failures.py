"""Failures of runs: interrupts, lack of memory, unusable data and settings."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from stemsplit.errors import ResourceError, SettingsError
from stemsplit.events import Event
from stemsplit.training.configfile import ConfigFile, parse_config
from stemsplit.training.progress import Finished, Trained, Validated
from stemsplit.training.run import Result, dry_run, train

MakeConfig = Callable[..., str]


def run(text: str, *overrides: str, **how: Any) -> Result:
    return train(parse_config(text, "config.yaml", overrides), **how)


@pytest.fixture(autouse=True)
def _tell_every_step(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stemsplit.training.recorder._REPORT_INTERVAL_S", -1.0)


def test_an_interrupt_is_raised_as_keyboard_interrupt(tiny_config: MakeConfig) -> None:
    def interrupt(event: Event) -> None:
        if isinstance(event, Trained):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(tiny_config(), callback=interrupt)


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        RuntimeError(
            "[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes."
        ),
        RuntimeError("Caught _ArrayMemoryError in DataLoader worker process 0."),
    ],
)
def test_a_lack_of_memory_has_its_own_error(tiny_config: MakeConfig, error: Exception) -> None:
    def fail(event: Event) -> None:
        if isinstance(event, Trained):
            raise error

    with pytest.raises(ResourceError, match="out of memory") as caught:
        run(tiny_config(), callback=fail)
    assert "fit.batch_size" in str(caught.value.hint)


def test_songs_too_quiet_for_a_score_are_refused(tiny_config: MakeConfig, write_songs: Any) -> None:
    quiet = write_songs({"hum": {"drums": np.full((2, 2000), 1e-4, np.float32)}}, folder="quiet")
    with pytest.raises(SettingsError, match="data.valid: no song has drums or bass or other or vocals loud"):
        run(tiny_config(), f"data.valid=[{{path: {quiet}}}]")


def test_without_any_score_the_last_weights_are_exported(
    tiny_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nothing = torch.full((4,), torch.nan, dtype=torch.float64)
    monkeypatch.setattr("stemsplit.training.fit.score_song", lambda *_: nothing)
    events: list[Event] = []
    assert run(tiny_config(), callback=events.append).score is None
    assert (tmp_path / "run" / "model.safetensors").is_file()
    assert isinstance(events[-1], Finished) and events[-1].best is None
    assert {e.best for e in events if isinstance(e, Validated)} == {None}  # infinity isn't JSON


@pytest.mark.parametrize("work", [train, dry_run])
def test_changes_for_an_unknown_stem_are_refused(
    tiny_config: MakeConfig, work: Callable[[ConfigFile], Any]
) -> None:
    extra = "per_stem: {changes: {kazoo: {optim.lr: 1e-3}}}"
    with pytest.raises(SettingsError, match="per_stem.changes.kazoo: no such stem; there is drums, bass"):
        work(parse_config(tiny_config(extra=extra), "config.yaml"))
