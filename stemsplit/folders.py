"""Folders of the package for a user's caches and settings."""

import os
from pathlib import Path

from platformdirs import PlatformDirs

REGISTRY = "STEMSPLIT_REGISTRY"


def cache_folder() -> Path:
    """Return the folder for downloads and caches: `STEMSPLIT_CACHE`, else the platform's cache folder."""
    if chosen := os.environ.get("STEMSPLIT_CACHE"):
        return Path(chosen).expanduser()
    return _platform().user_cache_path


def user_registry() -> Path:
    """Return the user's registry file: `STEMSPLIT_REGISTRY`, else `models.yaml` in the settings folder."""
    if chosen := os.environ.get(REGISTRY):
        return Path(chosen).expanduser()
    return _platform().user_config_path / "models.yaml"


def _platform() -> PlatformDirs:
    return PlatformDirs("stemsplit", appauthor=False, roaming=True)
