"""What befalls runs: interrupts, lack of memory, what others left in the folder, damaged files."""

from collections.abc import Callable
from typing import Any

import pytest

from stemsplit.errors import ResourceError
from stemsplit.events import Event
from stemsplit.training.configfile import parse_config
from stemsplit.training.progress import Trained
from stemsplit.training.run import Result, train

MakeConfig = Callable[..., str]


def run(text: str, *overrides: str, **how: Any) -> Result:
    return train(parse_config(text, "config.yaml", overrides), **how)


@pytest.fixture(autouse=True)
def _tell_every_step(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stemsplit.training.keeper._EVERY_S", -1.0)


def test_an_interrupt_arrives_as_one(tiny_config: MakeConfig) -> None:
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
def test_a_lack_of_memory_is_told_of_plainly(tiny_config: MakeConfig, error: Exception) -> None:
    def fail(event: Event) -> None:
        if isinstance(event, Trained):
            raise error

    with pytest.raises(ResourceError, match="out of memory") as caught:
        run(tiny_config(), callback=fail)
    assert "fit.batch_size" in str(caught.value.hint)
