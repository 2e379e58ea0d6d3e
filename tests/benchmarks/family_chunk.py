"""One chunk through a network, again and again, in a process of its own: this package's or another one's.

    python tests/benchmarks/family_chunk.py JOB.json

runs in the environment of the package that the job names. For every line on its standard input it computes
the chunk, and prints wall-clock seconds, CPU seconds and memory as JSON; after the first line it has written
the stems. `tests.benchmarks.families` writes the jobs:

    package, family      what to compute
    constructor          arguments
    stems                the outputs to estimate, with this package's network; null for all
    samples, threads     length of the chunk, and how many threads compute it
    weights, mix, output files of torch: a state dict to read, the chunk [1, C, T] to read, stems to write
"""

import ctypes
import importlib
import inspect
import json
import logging
import os
import sys
import time
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import torch
from torch import Tensor, nn

UVR = "audio_separator.separator.uvr_lib_v5"
BANDIT = "msst.models.bandit.core.model.bsrnn.wrapper"
PLACES = {
    ("demucs", "htdemucs"): ("demucs.htdemucs", "HTDemucs"),
    ("demucs", "hdemucs"): ("demucs.hdemucs", "HDemucs"),
    ("demucs 2", "demucs_v2"): ("demucs.model", "Demucs"),
    ("demucs 2", "tasnet"): ("demucs.tasnet", "ConvTasNet"),
    ("pymss-core", "bs_roformer"): ("pymss_core.modules.bs_roformer", "BSRoformer"),
    ("pymss-core", "mel_band_roformer"): ("pymss_core.modules.bs_roformer", "MelBandRoformer"),
    ("audio-separator", "bs_roformer"): (f"{UVR}.roformer.bs_roformer", "BSRoformer"),
    ("audio-separator", "mel_band_roformer"): (f"{UVR}.roformer.mel_band_roformer", "MelBandRoformer"),
    ("msst", "bs_conformer"): ("msst.models.bs_roformer.bs_conformer", "BSConformer"),
    ("msst", "scnet"): ("msst.models.scnet", "SCNet"),
    ("msst", "mdx23c"): ("msst.models.mdx23c_tfc_tdf_v3", "TFC_TDF_net"),
    ("msst", "bandit"): (BANDIT, "MultiMaskMultiSourceBandSplitRNN"),
    ("msst", "bandit_v2"): ("msst.models.bandit_v2.bandit", "Bandit"),
    ("msst", "apollo"): ("msst.models.look2hear.models.apollo", "Apollo"),
}
Act = Callable[[], Tensor]


def stand_in() -> None:
    """Let modules be imported without what their packages import for training only."""
    # Lightning, and torchaudio, whose compiled part needn't fit this torch
    sys.modules["pytorch_lightning"] = SimpleNamespace(LightningModule=nn.Module)  # type: ignore[assignment]
    sys.modules["torchaudio._extension"] = MagicMock(_IS_TORCHAUDIO_EXT_AVAILABLE=False)
    sys.modules["onnx2torch"] = ModuleType("onnx2torch")
    if (msst := find_spec("msst")) is not None:
        home = Path(str(msst.origin)).parent / "models/bandit/core"
        for name, place in (("core", home), ("core.model", home / "model")):
            sys.modules[f"msst.models.bandit.{name}"] = ModuleType(name)
            sys.modules[f"msst.models.bandit.{name}"].__path__ = [str(place)]


def reference(place: tuple[str, str], constructor: Mapping[str, Any], weights: Mapping[str, Tensor]) -> Any:
    """Return another package's network with our weights, from the arguments that it knows.

    Args:
        place: its module and class.
        constructor: keyword arguments; those that the class doesn't know are left out.
        weights: by name.

    Raises:
        ValueError: the weights don't fit.
    """
    cls = getattr(importlib.import_module(place[0]), place[1])
    known = inspect.signature(cls.__init__).parameters
    given = {key: _hashable(value) for key, value in constructor.items() if key in known}
    if "mlp_hidden_layers" in known:  # pymss-core's way to say it, else one less
        given["mlp_hidden_layers"] = constructor["mask_estimator_depth"]
    network = cls(**given).eval()
    _load(network, weights)
    return network


def _hashable(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) and value and isinstance(value[0], int) else value


def _load(network: nn.Module, weights: Mapping[str, Tensor]) -> None:
    missing, unexpected = network.load_state_dict(weights, strict=False)
    named = dict(network.named_parameters())
    missing = [name for name in missing if name in named]
    if missing or unexpected:
        raise ValueError(f"the weights don't fit: {missing[:3]} are missing, {unexpected[:3]} too many")


def separate_stemsplit(job: dict[str, Any], weights: dict[str, Tensor], mix: Tensor) -> Act:
    """Return this package's way; for VR's windows, the core adds what is before the track."""
    from stemsplit.core.stream import separate_array
    from stemsplit.models import build

    network = build(job["family"], job["constructor"]).eval()
    network.load_state_dict(weights)
    if job["stems"] is not None:
        network.select(job["stems"])
    network.prepare()
    if job["family"].startswith("vr"):
        return lambda: separate_array(network, mix[0])[None]
    return lambda: network.estimate(mix)


def separate_mdx(job: dict[str, Any], weights: dict[str, Tensor], mix: Tensor) -> Act:
    """Return a way to the stem by onnxruntime, as MDX-Net's files run."""
    import onnxruntime

    constructor, path = dict(job["constructor"]), Path(job["output"]).with_suffix(".onnx")
    silent, bins = constructor.pop("silent_bins"), constructor["dim_f"]
    network = importlib.import_module(f"{UVR}.mdxnet").ConvTDFNet(
        target_name="x", lr=0, optimizer="rmsprop", dim_c=4, overlap=0, **constructor
    )
    missing, _ = network.load_state_dict(weights, strict=False)
    for name, module in network.named_modules():
        if f"{name}.running_var" in missing:  # our weights have it folded in: do nothing, exactly
            module.running_var.fill_(1 - module.eps)
    names: dict[str, Any] = {"input_names": ["input"], "output_names": ["output"]}
    example = torch.zeros(1, 4, bins, constructor["dim_t"])
    torch.onnx.export(network.eval(), (example,), str(path), opset_version=13, dynamo=False, **names)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = job["threads"]
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    size, hop, window = (
        constructor["n_fft"],
        constructor["hop_length"],
        torch.hann_window(constructor["n_fft"]),
    )

    def separate() -> Tensor:
        spectra = torch.stft(mix[0], size, hop, window=window, return_complex=True)  # [2, F, frames]
        channels = torch.view_as_real(spectra[:, :bins]).permute(0, 3, 1, 2).flatten(0, 1)  # [4, F', frames]
        channels[:, :silent] = 0
        (out,) = session.run(None, {"input": channels[None].numpy()})
        parts = torch.from_numpy(out)[0].unflatten(0, (2, 2)).permute(0, 2, 3, 1)  # [2, F', frames, 2]
        spectra[:, :bins] = torch.view_as_complex(parts.contiguous())
        spectra[:, bins:] = 0
        return torch.istft(spectra, size, hop, window=window, length=mix.shape[-1])[None]

    return separate


def separate_vr(job: dict[str, Any], weights: dict[str, Tensor], mix: Tensor) -> Act:
    """Return audio-separator's way from a track to both stems."""
    import soundfile
    from audio_separator.separator.architectures.vr_separator import VRSeparator
    from audio_separator.separator.uvr_lib_v5.vr_network import nets, nets_new

    track, entry = Path(job["output"]).with_suffix(".wav"), job["constructor"]["entry"]
    soundfile.write(track, mix[0].T.numpy(), 44100, "FLOAT")
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
        network = nets_new.CascadedNet(bins, nout=entry["nout"], nout_lstm=entry["nout_lstm"])
    else:
        network = nets.determine_model_capacity(bins, job["constructor"]["kilobytes"])
    _load(network, weights)
    package.model_run = network.eval()

    def separate() -> Tensor:
        stems = package.inference_vr(package.loading_mix(), torch.device("cpu"), package.aggressiveness)
        waves = [torch.from_numpy(package.spec_to_wav(stem)).float() for stem in stems]
        return torch.stack(waves)[None]  # [1, S, C, T]

    return separate


def separate_unmix(job: dict[str, Any], weights: dict[str, Tensor], mix: Tensor) -> Act:
    """Return Open-Unmix's separator of several networks."""
    constructor, model = job["constructor"], importlib.import_module("openunmix.model")
    sizes = {key: constructor[key] for key in ("nb_channels", "hidden_size", "nb_layers", "max_bin")}
    targets = {name: model.OpenUnmix(nb_bins=2049, **sizes) for name in constructor["targets"]}
    for name, target in targets.items():
        prefix = f"targets.{name}."
        _load(target, {key.removeprefix(prefix): weights[key] for key in weights if key.startswith(prefix)})
    network = model.Separator(targets, niter=constructor["niter"], sample_rate=44100.0).eval()
    return lambda: network(mix)


def separate_network(job: dict[str, Any], weights: dict[str, Tensor], mix: Tensor) -> Act:
    """Return the way of a package whose network takes audio and returns audio."""
    constructor, place = job["constructor"], PLACES[job["package"], job["family"]]
    if job["package"] == "demucs 2":  # in a folder of its own
        sys.path.insert(0, os.environ["STEMSPLIT_DEMUCS2"])
        sys.modules["diffq"] = MagicMock()
    if job["family"] == "mdx23c":
        from ml_collections import ConfigDict

        constructor = {"config": ConfigDict(constructor)}
    network = reference(place, constructor, weights)
    if job["family"] == "bandit":
        return lambda: torch.stack([*network({"audio": {"mixture": mix}})[1]["audio"].values()], dim=1)
    return lambda: network(mix)


SEPARATE: dict[str, Callable[[dict[str, Any], dict[str, Tensor], Tensor], Act]] = {
    "stemsplit": separate_stemsplit,
    "onnxruntime": separate_mdx,
    "openunmix": separate_unmix,
    "audio-separator vr": separate_vr,
    "audio-separator vr_v51": separate_vr,
}


def memory_mb(field: str) -> float:
    """Memory of this process, of that field of /proc/self/status."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{field}:")) / 1024


def run(act: Act) -> tuple[Tensor, dict[str, float]]:
    """Stems of a chunk; wall-clock and CPU seconds, the chunk's memory and the whole process's in MB."""
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far
    before, wall, cpu = memory_mb("VmRSS"), time.perf_counter(), time.process_time()
    out = act()
    took = {"wall_s": time.perf_counter() - wall, "cpu_s": time.process_time() - cpu}
    peak = memory_mb("VmHWM")
    return out, took | {"chunk_mb": peak - before, "memory_mb": peak}


@torch.inference_mode()
def main(path: str) -> None:
    """Compute the chunk once for every line."""
    answers, sys.stdout = sys.stdout, sys.stderr  # packages print, too
    job = json.loads(Path(path).read_text())
    torch.set_num_threads(job["threads"])
    package = job["package"]
    if package != "stemsplit":
        stand_in()
    separate = SEPARATE.get(package) or SEPARATE.get(f"{package} {job['family']}") or separate_network
    act = separate(job, torch.load(job["weights"]), torch.load(job["mix"]))
    for turn, _ in enumerate(sys.stdin):
        stems, figures = run(act)
        if turn == 0:
            torch.save(stems.clone(), job["output"])
        print(json.dumps(figures), file=answers, flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
