"""Export an MDX-Net with random weights, and separate a track by it with audio-separator."""

import logging
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from exchange import answer, asked, seeded
from torch import nn

# audio-separator imports both; a network that is only exported needs no Lightning, and onnxruntime runs it
sys.modules["onnx2torch"] = ModuleType("onnx2torch")
sys.modules["pytorch_lightning"] = ModuleType("pytorch_lightning")
sys.modules["pytorch_lightning"].LightningModule = nn.Module  # type: ignore[attr-defined]

from audio_separator.separator.architectures.mdx_separator import MDXSeparator  # noqa: E402
from audio_separator.separator.uvr_lib_v5.mdxnet import ConvTDFNet  # noqa: E402


def export(path: Path, uvr: dict[str, Any], constructor: dict[str, Any]) -> None:
    """Write the network, its batch normalisations adapted to noise, as UVR's files were written."""
    bins, frames = uvr["mdx_dim_f_set"], 2 ** uvr["mdx_dim_t_set"]
    fixed = {
        "target_name": "x",
        "lr": 0,
        "optimizer": "rmsprop",
        "dim_c": 4,
        "hop_length": 1024,
        "overlap": 0,
    }
    size = {"dim_f": bins, "dim_t": frames, "n_fft": uvr["mdx_n_fft_scale_set"]}
    network = ConvTDFNet(**fixed, **size, **constructor)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0
    example = torch.randn(1, 4, bins, 32)  # fewer frames, because the exporter runs the network
    with torch.no_grad():
        network.train()(example)
    axes = {name: {0: "batch", 3: "frames"} for name in ("input", "output")}
    names: dict[str, Any] = {"input_names": ["input"], "output_names": ["output"], "dynamic_axes": axes}
    torch.onnx.export(network.eval(), (example,), str(path), opset_version=13, dynamo=False, **names)


def separator(path: Path, uvr: dict[str, Any]) -> MDXSeparator:
    """Return audio-separator's class with its default settings."""
    common = {
        "logger": logging.getLogger("oracle"),
        "log_level": logging.WARNING,
        "torch_device": torch.device("cpu"),
        "torch_device_cpu": torch.device("cpu"),
        "onnx_execution_provider": ["CPUExecutionProvider"],
        "model_name": path.stem,
        "model_path": str(path),
        "model_data": uvr,
        "output_format": "wav",
        "normalization_threshold": 0.9,
        "sample_rate": 44100,
    }
    own = {"overlap": 0.25, "batch_size": 1, "hop_length": 1024, "enable_denoise": False}
    return MDXSeparator(common, own | {"segment_size": 2 ** uvr["mdx_dim_t_set"]})


if __name__ == "__main__":
    seeded()
    arguments, tensors = asked()
    place, table = Path(arguments["onnx"]), arguments["uvr"]
    export(place, table, arguments["constructor"])
    track: np.ndarray[Any, Any] = tensors["mix"].numpy()
    # the program multiplies by the peak even what it didn't divide by it; here the scale is undone exactly
    scale = max(1.0, float(np.abs(track).max()) / 0.9)
    model = separator(place, table)
    primary = torch.from_numpy(np.asarray(model.demix(track / scale), dtype=np.float32) * scale)
    secondary = tensors["mix"] - model.compensate * primary
    answer(vocals=primary, instrumental=secondary)
