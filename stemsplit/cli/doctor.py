"""`stemsplit doctor`: what this installation and this machine can do."""

import json
import os
import platform
import shutil
import tempfile
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import click

from stemsplit import __version__
from stemsplit.outcome import SCHEMA

PACKAGES = ("torch", "numpy", "soundfile", "av", "soxr", "safetensors", "huggingface-hub", "lightning")


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def doctor(as_json: bool) -> None:
    """Show versions, devices, codecs, folders and free space, for bug reports and new machines.

    \b
    stemsplit doctor
    stemsplit doctor --json | jq .devices
    """
    found = examine()
    if as_json:
        click.echo(json.dumps({"schema": SCHEMA, **found}, indent=2))
        return
    for section, content in found.items():
        click.echo(f"{section}:")
        for key, value in content.items():
            click.echo(f"  {key:<16} {value}")


def examine() -> dict[str, dict[str, Any]]:
    """Return everything that `doctor` shows, by section."""
    return {
        "versions": _versions(),
        "devices": _devices(),
        "encoders": _encoders(),
        "folders": _folders(),
        "free": _free(),
    }


def _versions() -> dict[str, str]:
    found = {"stemsplit": __version__, "python": platform.python_version(), "system": platform.platform()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found


def _devices() -> dict[str, str]:
    import torch

    from stemsplit.core.devices import INSTALL, count_devices, vendor

    found = {"cpu": f"{os.cpu_count()} cores, {torch.get_num_threads()} threads"}
    made_by = f"AMD, ROCm {torch.version.hip}" if torch.version.hip else f"NVIDIA, CUDA {torch.version.cuda}"
    for index in range(torch.cuda.device_count()):
        memory = torch.cuda.get_device_properties(index).total_memory
        found[f"cuda:{index}"] = f"{torch.cuda.get_device_name(index)}, {memory / 1e9:.0f} GB ({made_by})"
    if torch.backends.mps.is_available():
        found["mps"] = f"Apple {platform.machine()}, {torch.mps.recommended_max_memory() / 1e9:.0f} GB"
    other = torch.accelerator.current_accelerator()
    if other is not None and other.type not in ("cuda", "mps"):
        for index in range(count_devices(other.type)):
            found[f"{other.type}:{index}"] = _described(torch, other.type, index)
    maker = vendor()
    found["install torch"] = f"pip install torch{INSTALL[maker]}  ({maker or 'no graphics processor'})"
    return found


def _described(torch: Any, kind: str, index: int) -> str:
    """Return name and memory of a device, as far as the module of its kind tells them."""
    module: Any = getattr(torch, kind, None)
    try:
        properties = module.get_device_properties(index)
        return f"{properties.name}, {properties.total_memory / 1e9:.0f} GB"
    except (AttributeError, RuntimeError):
        return "no more is known"


def _encoders() -> dict[str, str]:
    from stemsplit.audio.encoding import encoders

    return {name: "yes" if there else "no" for name, there in encoders().items()}


def _folders() -> dict[str, str]:
    from huggingface_hub.constants import HF_HUB_CACHE

    from stemsplit.folders import cache_folder, user_registry

    return {
        "models (hub)": HF_HUB_CACHE,
        "models (URLs)": str(cache_folder()),
        "your registry": str(user_registry()),
        "temporary": tempfile.gettempdir(),
    }


def _free() -> dict[str, str]:
    from stemsplit.core.devices import free_memory

    here = Path.cwd()
    found = {"disk here": f"{shutil.disk_usage(here).free / 1e9:.1f} GB"}
    if (memory := free_memory()) is not None:
        found["memory"] = f"{memory / 1e9:.1f} GB"
    return found
