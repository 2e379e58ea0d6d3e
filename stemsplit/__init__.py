"""Separate music into stems.

    from stemsplit import separate
    stems = separate("song.mp3")            # {"drums": float32 array [C, T], "bass": …}

The public names are imported on first use, so that `import stemsplit` doesn't import torch.
"""

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
__all__ = [
    "Recipe",
    "Report",
    "Request",
    "Separator",
    "Step",
    "__version__",
    "check_songs",
    "evaluate",
    "list_models",
    "load_model",
    "separate",
    "separate_files",
]

if TYPE_CHECKING:
    from stemsplit.api import evaluate
    from stemsplit.hub.load import load_model
    from stemsplit.hub.recipes import Recipe, Step
    from stemsplit.hub.registry import list_models
    from stemsplit.separation.report import Report
    from stemsplit.separation.run import separate_files
    from stemsplit.separation.separator import Separator, separate
    from stemsplit.settings import Request
    from stemsplit.training.quality import check_songs

_HOMES = {
    "Recipe": "stemsplit.hub.recipes",
    "Report": "stemsplit.separation.report",
    "Request": "stemsplit.settings",
    "Separator": "stemsplit.separation.separator",
    "Step": "stemsplit.hub.recipes",
    "check_songs": "stemsplit.training.quality",
    "evaluate": "stemsplit.api",
    "list_models": "stemsplit.hub.registry",
    "load_model": "stemsplit.hub.load",
    "separate": "stemsplit.separation.separator",
    "separate_files": "stemsplit.separation.run",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'stemsplit' has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
