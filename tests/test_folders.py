"""The user's folders on every platform, and the environment variables that replace them."""

from pathlib import Path

import pytest
from platformdirs.macos import MacOS
from platformdirs.unix import Unix
from platformdirs.windows import Windows

from stemsplit import folders


@pytest.fixture(autouse=True)
def _unset(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("STEMSPLIT_CACHE", "STEMSPLIT_REGISTRY", "XDG_CACHE_HOME", "XDG_CONFIG_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", "/home/somebody")


def test_on_linux(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folders, "PlatformDirs", Unix)
    assert folders.cache_folder() == Path("/home/somebody/.cache/stemsplit")
    assert folders.user_registry() == Path("/home/somebody/.config/stemsplit/models.yaml")
    monkeypatch.setenv("XDG_CACHE_HOME", "/big")
    monkeypatch.setenv("XDG_CONFIG_HOME", "relative")
    assert folders.cache_folder() == Path("/big/stemsplit")
    assert folders.user_registry() == Path("/home/somebody/.config/stemsplit/models.yaml")


def test_on_a_mac(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folders, "PlatformDirs", MacOS)
    assert folders.cache_folder() == Path("/home/somebody/Library/Caches/stemsplit")
    support = Path("/home/somebody/Library/Application Support")
    assert folders.user_registry() == support / "stemsplit" / "models.yaml"


def test_on_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folders, "PlatformDirs", Windows)
    monkeypatch.setenv("WIN_PD_OVERRIDE_LOCAL_APPDATA", r"C:\local")
    monkeypatch.setenv("WIN_PD_OVERRIDE_APPDATA", r"C:\roaming")
    assert folders.cache_folder() == Path(r"C:\local") / "stemsplit" / "Cache"
    assert folders.user_registry() == Path(r"C:\roaming") / "stemsplit" / "models.yaml"


def test_the_environment_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STEMSPLIT_CACHE", "~/elsewhere")
    monkeypatch.setenv("STEMSPLIT_REGISTRY", "/etc/models.yaml")
    assert folders.cache_folder() == Path("/home/somebody/elsewhere")
    assert folders.user_registry() == Path("/etc/models.yaml")
