"""Time a reference package's network on one chunk, in the environment of `tests/oracles`.

    python tests/benchmarks/family_reference.py KIND CONSTRUCTOR.json CHANNELS SAMPLES

prints CPU seconds and peak memory as JSON. KIND is the family; the constructor has its arguments.
"""

import importlib
import inspect
import json
import logging
import sys
import time
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import torch
from torch import nn

PLACES = {
    "htdemucs": ("demucs.htdemucs", "HTDemucs"),
    "hdemucs": ("demucs.hdemucs", "HDemucs"),
    "bs_roformer": ("pymss_core.modules.bs_roformer", "BSRoformer"),
    "mel_band_roformer": ("pymss_core.modules.bs_roformer", "MelBandRoformer"),
    "bs_conformer": ("msst.models.bs_roformer.bs_conformer", "BSConformer"),
    "scnet": ("msst.models.scnet", "SCNet"),
    "bandit": ("msst.models.bandit.core.model.bsrnn.wrapper", "MultiMaskMultiSourceBandSplitRNN"),
    "bandit_v2": ("msst.models.bandit_v2.bandit", "Bandit"),
}


def stand_in() -> None:
    """Replace what Bandit's packages import for training, and torchaudio's compiled part."""
    home = Path(str(find_spec("msst").origin)).parent / "models/bandit/core"  # type: ignore[union-attr]
    for name, place in (("msst.models.bandit.core", home), ("msst.models.bandit.core.model", home / "model")):
        sys.modules[name] = ModuleType(name)
        sys.modules[name].__path__ = [str(place)]
    sys.modules["pytorch_lightning"] = SimpleNamespace(LightningModule=nn.Module)  # type: ignore[assignment]
    sys.modules["torchaudio._extension"] = MagicMock(_IS_TORCHAUDIO_EXT_AVAILABLE=False)


def made(kind: str, constructor: dict[str, Any]) -> nn.Module:
    """Return the reference's network with random weights, from the arguments that it knows."""
    if kind.startswith("bandit"):
        stand_in()
    if kind in PLACES:
        module, name = PLACES[kind]
        cls = getattr(importlib.import_module(module), name)
        known = inspect.signature(cls.__init__).parameters
        given = {key: _hashable(value) for key, value in constructor.items() if key in known}
        return cls(**given)
    if kind == "mdx23c":
        from ml_collections import ConfigDict

        return importlib.import_module("msst.models.mdx23c_tfc_tdf_v3").TFC_TDF_net(ConfigDict(constructor))
    return importlib.import_module("msst.models.look2hear.models").BaseModel.apollo(**constructor)


def separate_vr(constructor: dict[str, Any], samples: int) -> Callable[[], object]:
    """Return audio-separator's way from a track to both stems, with random weights."""
    import soundfile
    from audio_separator.separator.architectures.vr_separator import VRSeparator
    from audio_separator.separator.uvr_lib_v5.vr_network import nets, nets_new

    track, entry = Path(sys.argv[2]).with_suffix(".wav"), constructor["entry"]
    soundfile.write(track, 0.1 * torch.randn(samples, 2).numpy(), 44100, "FLOAT")
    common = {
        "logger": logging.getLogger("vr"),
        "torch_device": torch.device("cpu"),
        "model_name": "vr",
        "model_path": "vr.pth",
        "model_data": entry,
        "sample_rate": 44100,
    }
    package = VRSeparator(common, {})
    package.audio_file_path, package.wav_subtype = str(track), "FLOAT"
    bins = 2 * package.model_params.param["bins"]
    if package.is_vr_51_model:
        package.model_run = nets_new.CascadedNet(
            bins, nout=entry["nout"], nout_lstm=entry["nout_lstm"]
        ).eval()
    else:
        package.model_run = nets.determine_model_capacity(bins, constructor["kilobytes"]).eval()

    def separate() -> object:
        stems = package.inference_vr(package.loading_mix(), torch.device("cpu"), package.aggressiveness)
        return [package.spec_to_wav(stem) for stem in stems]

    return separate


def _hashable(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) and value and isinstance(value[0], int) else value


kind, path, channels, samples = sys.argv[1:]
torch.manual_seed(0)
torch.set_num_threads(1)
constructor = json.loads(Path(path).read_text())
if kind.startswith("vr"):
    act = separate_vr(constructor, int(samples))
else:
    network = made(kind, constructor).eval()
    mix: Any = 0.1 * torch.randn(1, int(channels), int(samples))
    act = partial(network, {"audio": {"mixture": mix}} if kind == "bandit" else mix)
with torch.inference_mode():
    began = time.process_time()
    act()
    took = time.process_time() - began
# not ru_maxrss, which counts the parent's peak too
memory = int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) / 1024
print(json.dumps({"cpu_s": took, "memory_mb": memory}))
