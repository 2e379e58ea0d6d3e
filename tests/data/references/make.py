"""Write the references: weights, a track, and what Open-Unmix 1.3.0 and demucs 2.0.3 make of it.

`STEMSPLIT_DEMUCS2=FOLDER python tests/data/references/make.py` (see demucs2.py) with openunmix installed.
"""

import math
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from stemsplit.models import build
from tests.data.references.writing import write

HERE = Path(__file__).parent
WAVEFORM = {"sources": ["a", "b"], "samplerate": 8000, "segment_length": 1500}
DEMUCS = WAVEFORM | {"channels": 4, "depth": 3}
TASNET = WAVEFORM | {"N": 16, "B": 8, "H": 12, "X": 3, "R": 2}
UMX = {"targets": ["a", "b"], "hidden_size": 8, "nb_layers": 2, "max_bin": 20, "n_fft": 64, "n_hop": 16}

CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "demucs_v2": ("demucs_v2", DEMUCS),
    "demucs_v2_plain": (
        "demucs_v2",
        DEMUCS | {"glu": False, "resample": False, "normalize": True, "context": 5, "lstm_layers": 0},
    ),
    "tasnet": ("tasnet", TASNET),
    "tasnet_causal": (
        "tasnet",
        TASNET | {"causal": True, "norm_type": "cLN", "mask_nonlinear": "softmax", "P": 4, "L": 15},
    ),
    "tasnet_mono": ("tasnet", TASNET | {"audio_channels": 1, "norm_type": "BN"}),
    "openunmix": ("openunmix", UMX),
    "openunmix_residual": ("openunmix", UMX | {"residual": True, "niter": 2, "unidirectional": True}),
    "openunmix_softmask": ("openunmix", UMX | {"softmask": True, "niter": 0}),
    "openunmix_mono": ("openunmix", UMX | {"nb_channels": 1, "n_hop": 32, "max_bin": 33}),
}


def trained(family: str, arguments: dict[str, Any]) -> dict[str, Tensor]:
    """Weights in which every one matters, as training would leave them."""
    generator = torch.Generator().manual_seed(0)
    state: dict[str, Tensor] = build(family, arguments).state_dict()
    for key, value in state.items():
        if not value.is_floating_point():
            continue
        noise = torch.randn(value.shape, generator=generator)
        if key.endswith(("running_var", "scale", "gamma", "bn1.weight", "bn2.weight", "bn3.weight")):
            state[key] = 0.6 + 0.8 * torch.rand(value.shape, generator=generator)
        elif value.squeeze().dim() < 2:
            state[key] = 0.2 * noise
        else:
            state[key] = 1.3 * noise / math.sqrt(value[0].numel())
    return state


def track(channels: int, samples: int) -> Tensor:
    """Notes that come and go at different places, over noise: [C, T]."""
    generator = torch.Generator().manual_seed(1)
    time = torch.arange(samples) / 8000
    audio = 0.05 * torch.randn(channels, samples, generator=generator) + 0.02
    for step in range(8):
        place = torch.rand(channels, 1, generator=generator)
        swell = 0.5 + 0.5 * torch.sin(2 * math.pi * (1 + step) * time)
        audio += 0.1 * place * swell * torch.sin(2 * math.pi * 110 * 1.5**step * time)
    return audio


def demucs2(family: str, arguments: dict[str, Any], state: dict[str, Tensor], mix: Tensor) -> Tensor:
    """Stems from demucs 2.0.3, [S, C, T]."""
    network = {"demucs_v2": "Demucs", "tasnet": "ConvTasNet"}[family]
    with tempfile.TemporaryDirectory() as folder:
        job, result = Path(folder) / "job", Path(folder) / "result"
        torch.save({"network": network, "arguments": arguments, "state": state, "tracks": [mix]}, job)
        command = [sys.executable, HERE / "demucs2.py", os.environ["STEMSPLIT_DEMUCS2"], job, result]
        subprocess.run(command, check=True)
        (stems,) = torch.load(result, weights_only=True)
        return stems


def openunmix(_: str, arguments: dict[str, Any], state: dict[str, Tensor], mix: Tensor) -> Tensor:
    """Stems from openunmix, [S, C, T]."""
    sys.modules["torchaudio"] = ModuleType("torchaudio")  # it is imported, and not used for this
    from openunmix.model import OpenUnmix, Separator

    a = dict(arguments)
    targets, bins = a.pop("targets"), a["n_fft"] // 2 + 1
    network = {key: a.pop(key) for key in ("hidden_size", "nb_layers", "max_bin")}
    network["unidirectional"] = a.pop("unidirectional", False)
    channels = a.setdefault("nb_channels", 2)
    models = {t: OpenUnmix(nb_bins=bins, nb_channels=channels, **network) for t in targets}
    for name, model in models.items():
        own = f"targets.{name}."
        model.load_state_dict({k.removeprefix(own): v for k, v in state.items() if k.startswith(own)})
    separator = Separator(models, **{"niter": 1} | a).eval()
    with torch.no_grad():
        stems: Tensor = separator(mix[None])[0]
    return stems


def make(name: str, family: str, arguments: dict[str, Any]) -> None:
    """Write one reference."""
    state = trained(family, arguments)
    mono = 1 in (arguments.get("audio_channels"), arguments.get("nb_channels"))
    mix = track(1 if mono else 2, 5100 if family == "openunmix" else 3700)  # over 300 frames; three chunks
    stems = (openunmix if family == "openunmix" else demucs2)(family, arguments, state, mix)
    write(name, family, arguments, state, mix, stems)


if __name__ == "__main__":
    torch.set_num_threads(1)
    for name in sys.argv[1:] or CASES:
        make(name, *CASES[name])
