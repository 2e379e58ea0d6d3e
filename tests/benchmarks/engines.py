"""A network as `models export` writes it, in the engines that run ONNX files: ONNX Runtime and OpenVINO."""

import importlib
import tempfile
from pathlib import Path
from typing import Any

import torch

from stemsplit.hub.onnx_export import export_onnx
from tests.benchmarks import networks
from tests.benchmarks.peaks import Variant

PACKAGES = ("onnx", "onnxruntime", "openvino")


def variants(kind: str, quick: bool) -> dict[str, Variant]:
    """Both engines in fp32, on as many threads as torch."""
    onnxruntime: Any = importlib.import_module("onnxruntime")
    openvino: Any = importlib.import_module("openvino")
    threads = torch.get_num_threads()
    with tempfile.TemporaryDirectory() as folder:
        weights, graph = Path(folder) / f"{kind}.th", Path(folder) / "network.onnx"
        networks.write(kind, quick, weights)
        export_onnx(weights, graph)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        session = onnxruntime.InferenceSession(graph, options, ["CPUExecutionProvider"])
        hints = {
            "INFERENCE_PRECISION_HINT": "f32",
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_NUM_THREADS": threads,
        }
        compiled = openvino.Core().compile_model(graph, "CPU", hints)
    name = session.get_inputs()[0].name
    return {
        "ONNX Runtime": lambda mix: torch.from_numpy(session.run(None, {name: mix.numpy()})[0]),
        "OpenVINO": lambda mix: torch.from_numpy(compiled(mix.numpy())[0]),
    }
