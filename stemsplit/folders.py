"""Folders that the package keeps for a user: never in /tmp or the working folder."""

import os
from pathlib import Path

from platformdirs import PlatformDirs

REGISTRY = "STEMSPLIT_REGISTRY"


def cache_folder() -> Path:
    """Return the folder of downloads and caches: `STEMSPLIT_CACHE`, else the platform's for this user."""
    if chosen := os.environ.get("STEMSPLIT_CACHE"):
        return Path(chosen).expanduser()
    return _platform().user_cache_path


def user_registry() -> Path:
    """Return the user's registry: `STEMSPLIT_REGISTRY`, else `models.yaml` in the configuration folder."""
    if chosen := os.environ.get(REGISTRY):
        return Path(chosen).expanduser()
    return _platform().user_config_path / "models.yaml"


def _platform() -> PlatformDirs:
    return PlatformDirs("stemsplit", appauthor=False, roaming=True)
