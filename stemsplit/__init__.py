"""Separate music into stems.

    from stemsplit import separate
    stems = separate("song.mp3")            # {"drums": array [C, T], "bass": …}

The public names are imported on first use, so that `import stemsplit` stays free of torch.
"""

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
__all__ = ["Separator", "__version__", "check_songs", "evaluate", "list_models", "load_model", "separate"]

if TYPE_CHECKING:
    from stemsplit.api import evaluate
    from stemsplit.hub.load import load_model
    from stemsplit.hub.registry import list_models
    from stemsplit.separation.separator import Separator, separate
    from stemsplit.training.quality import check_songs

_HOMES = {
    "Separator": "stemsplit.separation.separator",
    "separate": "stemsplit.separation.separator",
    "evaluate": "stemsplit.api",
    "check_songs": "stemsplit.training.quality",
    "load_model": "stemsplit.hub.load",
    "list_models": "stemsplit.hub.registry",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'stemsplit' has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
