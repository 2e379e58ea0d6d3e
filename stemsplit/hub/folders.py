"""Where the package keeps downloads and its user's entries: never in /tmp or the working folder."""

import os
import sys
from pathlib import Path

REGISTRY = "STEMSPLIT_REGISTRY"


def cache_folder() -> Path:
    """The folder of downloaded files: `STEMSPLIT_CACHE`, else the platform's cache folder for this user."""
    if chosen := os.environ.get("STEMSPLIT_CACHE"):
        return Path(chosen).expanduser()
    if sys.platform == "win32":
        return _windows("LOCALAPPDATA", "Local") / "stemsplit" / "Cache"
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "stemsplit"
    return _xdg("XDG_CACHE_HOME", ".cache") / "stemsplit"


def user_registry() -> Path:
    """The user's own registry file: `STEMSPLIT_REGISTRY`, else `models.yaml` in the configuration folder."""
    if chosen := os.environ.get(REGISTRY):
        return Path(chosen).expanduser()
    if sys.platform == "win32":
        return _windows("APPDATA", "Roaming") / "stemsplit" / "models.yaml"
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Application Support" / "stemsplit" / "models.yaml"
    return _xdg("XDG_CONFIG_HOME", ".config") / "stemsplit" / "models.yaml"


def _windows(variable: str, folder: str) -> Path:
    return Path(os.environ.get(variable) or Path.home() / "AppData" / folder)


def _xdg(variable: str, folder: str) -> Path:
    # The XDG base directory specification: a relative value is to be ignored.
    chosen = Path(os.environ.get(variable, ""))
    return chosen if chosen.is_absolute() else Path.home() / folder
