"""A network as `models export` writes it, in the engines that run ONNX files: ONNX Runtime and OpenVINO."""

import importlib
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from stemsplit.hub.onnx_export import export_onnx
from tests.benchmarks import networks
from tests.benchmarks.peaks import Variant

PACKAGES = ("onnx", "onnxruntime", "openvino")


def onnx_runtime(graph: Path, threads: int) -> Variant:
    """The graph in ONNX Runtime."""
    package: Any = importlib.import_module("onnxruntime")
    options = package.SessionOptions()
    options.intra_op_num_threads = threads
    session = package.InferenceSession(graph, options, ["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda mix: torch.from_numpy(session.run(None, {name: mix.numpy()})[0])


def openvino(graph: Path, threads: int) -> Variant:
    """The graph in OpenVINO, in fp32."""
    package: Any = importlib.import_module("openvino")
    hints = {
        "INFERENCE_PRECISION_HINT": "f32",
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": threads,
    }
    compiled = package.Core().compile_model(graph, "CPU", hints)
    return lambda mix: torch.from_numpy(compiled(mix.numpy())[0])


ENGINES: dict[str, Callable[[Path, int], Variant]] = {"ONNX Runtime": onnx_runtime, "OpenVINO": openvino}


def variants(kind: str, quick: bool) -> dict[str, Variant]:
    """The network in every engine, on as many threads as torch."""
    with tempfile.TemporaryDirectory() as folder:
        weights, graph = Path(folder) / f"{kind}.th", Path(folder) / "network.onnx"
        networks.write(kind, quick, weights)
        export_onnx(weights, graph)
        return {name: make(graph, torch.get_num_threads()) for name, make in ENGINES.items()}
