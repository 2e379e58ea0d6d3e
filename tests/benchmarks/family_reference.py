"""Time a reference package's network on one chunk, in the environment of `tests/oracles`.

    python tests/benchmarks/family_reference.py KIND CONSTRUCTOR.json CHANNELS SAMPLES

prints CPU seconds and peak memory as JSON. KIND is the family; the constructor has its arguments.
"""

import importlib
import inspect
import json
import logging
import os
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
    "demucs_v2": ("demucs.model", "Demucs"),
    "tasnet": ("demucs.tasnet", "ConvTasNet"),
    "bs_roformer": ("pymss_core.modules.bs_roformer", "BSRoformer"),
    "mel_band_roformer": ("pymss_core.modules.bs_roformer", "MelBandRoformer"),
    "bs_conformer": ("msst.models.bs_roformer.bs_conformer", "BSConformer"),
    "scnet": ("msst.models.scnet", "SCNet"),
    "bandit": ("msst.models.bandit.core.model.bsrnn.wrapper", "MultiMaskMultiSourceBandSplitRNN"),
    "bandit_v2": ("msst.models.bandit_v2.bandit", "Bandit"),
}


def stand_in() -> None:
    """Let Bandit's network be imported without the rest of its package, which is for training."""
    home = Path(str(find_spec("msst").origin)).parent / "models/bandit/core"  # type: ignore[union-attr]
    for name, place in (("msst.models.bandit.core", home), ("msst.models.bandit.core.model", home / "model")):
        sys.modules[name] = ModuleType(name)
        sys.modules[name].__path__ = [str(place)]


def first_demucs() -> None:
    """Let `demucs` be that of version 2.0.3, in the folder that STEMSPLIT_DEMUCS2 names."""
    sys.path.insert(0, os.environ["STEMSPLIT_DEMUCS2"])
    sys.modules["diffq"] = MagicMock()


def made(kind: str, constructor: dict[str, Any]) -> nn.Module:
    """Return the reference's network with random weights, from the arguments that it knows."""
    if kind.startswith("bandit"):
        stand_in()
    if kind in ("demucs_v2", "tasnet"):
        first_demucs()
    if kind == "openunmix":
        return unmix(constructor)
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


def unmix(constructor: dict[str, Any]) -> nn.Module:
    """Return the separator of Open-Unmix with its networks."""
    model = importlib.import_module("openunmix.model")
    sizes = {key: constructor[key] for key in ("nb_channels", "hidden_size", "nb_layers", "max_bin")}
    targets = {name: model.OpenUnmix(nb_bins=2049, **sizes) for name in constructor["targets"]}
    return model.Separator(targets, niter=constructor["niter"], sample_rate=44100.0)


def separate_mdx(constructor: dict[str, Any], samples: int) -> Callable[[], object]:
    """Return a way from a chunk to its stem by onnxruntime, as MDX-Net's files run, with random weights."""
    import onnxruntime

    sys.modules["onnx2torch"] = ModuleType("onnx2torch")
    network = importlib.import_module("audio_separator.separator.uvr_lib_v5.mdxnet").ConvTDFNet(
        target_name="x", lr=0, optimizer="rmsprop", dim_c=4, overlap=0, **constructor
    )
    path, bins = Path(sys.argv[2]).with_suffix(".onnx"), constructor["dim_f"]
    names: dict[str, Any] = {"input_names": ["input"], "output_names": ["output"]}
    example = torch.zeros(1, 4, bins, constructor["dim_t"])
    torch.onnx.export(network.eval(), (example,), str(path), opset_version=13, dynamo=False, **names)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    path.unlink()
    size, hop = constructor["n_fft"], constructor["hop_length"]
    window, mix = torch.hann_window(size), 0.1 * torch.randn(2, samples)

    def separate() -> object:
        spectra = torch.stft(mix, size, hop, window=window, return_complex=True)  # [2, F, frames]
        channels = torch.view_as_real(spectra[:, :bins]).permute(0, 3, 1, 2).flatten(0, 1)  # [4, F', frames]
        (out,) = session.run(None, {"input": channels[None].numpy()})
        parts = torch.from_numpy(out)[0].unflatten(0, (2, 2)).permute(0, 2, 3, 1)  # [2, F', frames, 2]
        spectra[:, :bins] = torch.view_as_complex(parts.contiguous())
        spectra[:, bins:] = 0
        return torch.istft(spectra, size, hop, window=window, length=samples)

    return separate


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


SEPARATE = {"vr": separate_vr, "vr_v51": separate_vr, "mdx_net": separate_mdx}
kind, path, channels, samples = sys.argv[1:]
# some packages import Lightning for training, and torchaudio, whose compiled part needn't fit this torch
sys.modules["pytorch_lightning"] = SimpleNamespace(LightningModule=nn.Module)  # type: ignore[assignment]
sys.modules["torchaudio._extension"] = MagicMock(_IS_TORCHAUDIO_EXT_AVAILABLE=False)
torch.manual_seed(0)
torch.set_num_threads(1)
constructor = json.loads(Path(path).read_text())
if kind in SEPARATE:
    act = SEPARATE[kind](constructor, int(samples))
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
