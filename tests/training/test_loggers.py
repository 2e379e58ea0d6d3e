from importlib.util import find_spec
from pathlib import Path

import pytest

from stemsplit.errors import SettingsError
from tests.training.test_run import Crash, MakeConfig, crash_at, run


@pytest.fixture(autouse=True)
def _tell_every_step(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stemsplit.training.recorder._REPORT_INTERVAL_S", -1.0)


def logs(folder: Path) -> set[str]:
    return {path.relative_to(folder / "run/logs").as_posix() for path in folder.glob("run/logs/*/start-*")}


def test_each_start_has_a_log_of_its_own(tiny_config: MakeConfig, tmp_path: Path) -> None:
    text = tiny_config(extra="loggers: [csv]")
    with pytest.raises(Crash):
        run(text, callback=crash_at(3))
    assert logs(tmp_path) == {"csv/start-0"}
    run(text, "loggers=[tensorboard]", resume=True)
    assert logs(tmp_path) == {"csv/start-0", "tensorboard/start-1"}


def test_weights_and_biases(tiny_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that isn't sent anywhere, where wandb is installed; else an error that says how to install it."""
    monkeypatch.setenv("WANDB_MODE", "offline")
    text = tiny_config(extra="loggers: [wandb]")
    if find_spec("wandb") is None:
        with pytest.raises(SettingsError, match="loggers: wandb isn't installed: pip install wandb"):
            run(text)
        return
    run(text, "fit.epochs=1")
    assert list((tmp_path / "run/logs/wandb").glob("offline-run-*/run-*.wandb")) and logs(tmp_path) == set()
