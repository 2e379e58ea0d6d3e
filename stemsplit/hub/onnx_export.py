"""Write a network as an ONNX file, with or without its STFT, for other programs to run.

The graph takes one chunk of fixed length, [1, C, T], and gives its stems, [1, S, C, T]; without the STFT,
`onnx_outside` says what it takes. Cutting a track into chunks and fading them over is left to the program;
the file's metadata say what it needs for that.
"""

import json
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from stemsplit import __version__
from stemsplit.errors import SettingsError, StemsplitError
from stemsplit.events import Callback
from stemsplit.files import replacing
from stemsplit.hub.agreement import agreement_db, halve, noise_for
from stemsplit.hub.arguments import klass_of
from stemsplit.hub.load import load_model
from stemsplit.hub.onnx_outside import WithoutTransforms, transforms_of
from stemsplit.hub.real_arithmetic import RealArithmetic
from stemsplit.hub.registry import registry
from stemsplit.models import FAMILIES
from stemsplit.models.bag import Bag
from stemsplit.models.network import Network

EXPORTED = ("htdemucs", "hdemucs", "bs_roformer", "mel_band_roformer", "scnet", "mdx23c")
_OPSET = 17  # the first with layer normalisation


class Exported(NamedTuple):
    """A finished export.

    Attributes:
        agreement_db: energy of the network's output over that of the file's difference to it.
        measured_with: what ran the file's graph for that.
    """

    agreement_db: float
    measured_with: str


class _Graph(nn.Module):
    """The network in real arithmetic, from chunk [1, C, T] to stems [1, S, C, T]."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.network = network

    def forward(self, mix: Tensor) -> Tensor:
        """Estimate the stems."""
        with RealArithmetic():
            return self.network.estimate(mix)


def export_onnx(
    source: str | Path,
    target: str | Path,
    *,
    half: bool = False,
    stft: Literal["inside", "outside"] = "inside",
    segment_s: float | None = None,
    offline: bool = False,
    callback: Callback | None = None,
) -> Exported:
    """Export a model, and compare the result with it.

    The file is run by onnxruntime if that is installed; otherwise PyTorch runs the same graph.

    Args:
        source: a name, a path or hf:OWNER/REPO.
        target: the `.onnx` file, replaced if it exists.
        half: store weights in half precision; the file computes in fp32.
        stft: whether the file computes the STFT and its inverse, or the program that runs it.
        segment_s: chunk length in seconds; None for the model's own.
        offline: never open a connection.
        callback: receives the events of a download.

    Raises:
        SettingsError: the model is of a family that isn't exported, or a bag.
        StemsplitError: the package onnx isn't installed, or the network has a part without a counterpart.
        OSError: the file can't be written.
    """
    target = Path(target)
    _require_onnx(target)
    model = load_model(source, segment_s=segment_s, offline=offline, callback=callback)
    network, family = _exportable(source, model)
    mix = noise_for(network, network.padded_samples(network.segment_samples))
    chosen = halve(network) if half else network
    graph: nn.Module = _Graph(chosen)
    inputs, around = {"mix": mix}, _alone
    described: dict[str, Any] = {"stft": "inside"}
    if stft == "outside":
        with _named(source):
            transforms = transforms_of(network, mix.shape[-1])
        graph, around, described = WithoutTransforms(chosen), transforms.around, transforms.facts()
        inputs["spectrum"] = transforms.analyse(mix)
    with replacing(target) as part:
        _trace(graph.eval(), inputs, part, source)
        if half:
            _store_half(part)
        run, measured_with = _runner(part, graph)
        agreement = agreement_db(network, around(run), mix)
        measured = {"agreement_db": agreement, "measured_with": measured_with}
        _add_metadata(part, _facts(source, family, network) | described | measured)
    return Exported(agreement, measured_with)


def _require_onnx(target: Path) -> None:
    try:
        import onnx  # noqa: F401
    except ImportError as error:
        hint = "pip install 'stemsplit-cli[onnx]'"
        raise StemsplitError(f"{target}: writing ONNX files needs onnx", hint=hint) from error


def _exportable(source: str | Path, model: Network | Bag) -> tuple[Network, str]:
    """Return the network and its family.

    Raises:
        SettingsError: it isn't exported.
    """
    if isinstance(model, Bag):
        what = f"{source} is a bag of {len(model.members)} networks: export them one by one, by their paths"
        raise SettingsError(what, setting="NAME", hint=f"stemsplit models path {source}")
    home = f"{type(model).__module__}:{type(model).__qualname__}"
    family = next((name for name, place in FAMILIES.items() if place == home), type(model).__name__)
    if family not in EXPORTED:
        known = ", ".join(EXPORTED)
        raise SettingsError(f"{source} is a {family}; exported are {known}", setting="NAME")
    return model, family


def _alone(run: Callable[..., Any]) -> Callable[[Tensor], Tensor]:
    """Return a graph that has its transforms inside as it is."""
    return run


@contextmanager
def _named(source: str | Path) -> Iterator[None]:
    """Put the model's name before an error's text."""
    try:
        yield
    except StemsplitError as error:
        raise StemsplitError(f"{source}: {error}") from error


def _trace(graph: nn.Module, inputs: Mapping[str, Tensor], path: Path, source: str | Path) -> None:
    """Write the graph for inputs of these shapes."""
    outputs = ["stems"] if len(inputs) == 1 else ["spectra", "added"]
    with torch.no_grad(), warnings.catch_warnings(), _named(source):
        warnings.simplefilter("ignore")  # the exporter of traces is old, but knows no complex numbers either
        try:
            torch.onnx.export(
                graph,
                tuple(inputs.values()),
                str(path),
                dynamo=False,
                opset_version=_OPSET,
                input_names=list(inputs),
                output_names=outputs,
            )
        except (RuntimeError, TypeError, ValueError) as error:
            reason = str(error).strip().splitlines()[0]
            raise StemsplitError(f"can't be exported ({reason})") from error


def _runner(path: Path, graph: nn.Module) -> tuple[Callable[..., Any], str]:
    """Return what runs the file, a function of its inputs, and the name of the program."""
    try:
        import onnxruntime
    except ImportError:
        return graph, f"torch {torch.__version__}"
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    names = [each.name for each in session.get_inputs()]

    def run(*inputs: Tensor) -> Any:
        given = dict(zip(("mix", "spectrum"), inputs, strict=False))
        found = session.run(None, {name: given[name].numpy() for name in names})
        outputs = [torch.from_numpy(each) for each in found]
        return outputs[0] if len(outputs) == 1 else outputs

    return run, f"onnxruntime {onnxruntime.__version__}"


def _facts(source: str | Path, family: str, network: Network) -> dict[str, Any]:
    """Return what a program needs to know to run the file on tracks."""
    entry = registry().get(str(source))
    samples = network.padded_samples(network.segment_samples)
    return {
        "version": __version__,
        "model": str(source),
        "sha256": network.identity.sha256 if network.identity else None,
        "class": klass_of(family),
        "license": entry.license if entry else None,
        "stems": list(network.stems),
        "residual": network.residual,
        "sample_rate": network.sample_rate,
        "channels": network.channels,
        "input_samples": samples,
        "segment_samples": network.segment_samples,
        "segment_begins_at": (samples - network.segment_samples) // 2,
        "overlap": network.overlap,
        "normalise": network.normalised_by if network.normalise else None,
    }


def _add_metadata(path: Path, facts: Mapping[str, Any]) -> None:
    import onnx

    model = onnx.load(str(path))
    for key, value in facts.items():
        text = value if isinstance(value, str) else json.dumps(value)
        model.metadata_props.add(key=f"stemsplit.{key}", value=text)
    onnx.save(model, str(path))


def _store_half(path: Path) -> None:
    """Store the tensors that fp16 holds exactly as such, each with a node that converts it back.

    The weights were rounded before, so this takes them all, and leaves the tables of the Fourier transform.
    """
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    model = onnx.load(str(path))
    casts = []
    for tensor in model.graph.initializer:
        if tensor.data_type != TensorProto.FLOAT:
            continue
        values = numpy_helper.to_array(tensor)
        with np.errstate(over="ignore"):
            halved = values.astype(np.float16)
        if np.array_equal(halved, values):
            name = tensor.name
            tensor.CopyFrom(numpy_helper.from_array(halved, f"{name}.half"))
            casts.append(helper.make_node("Cast", [f"{name}.half"], [name], to=TensorProto.FLOAT))
    nodes = [*casts, *model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    onnx.save(model, str(path))
