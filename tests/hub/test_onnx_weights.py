"""ONNX files of MDX-Net, as exporters write them: read without running anything, and bounded."""

import hashlib
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import Tensor, nn
from torch.nn.utils import fuse_conv_bn_eval

from stemsplit import folders, load_model
from stemsplit.core.stream import separate_array
from stemsplit.errors import CheckpointError, StemsplitError
from stemsplit.hub import onnx_weights
from stemsplit.hub.checkpoints import build_network, convert, read_package
from stemsplit.models import build
from stemsplit.models.mdx_net import GROUPS, MDXNet
from stemsplit.models.network import Network

onnx = pytest.importorskip("onnx")

TRANSFORM = {"n_fft": 64, "hop_length": 16}
OUTSIDE = TRANSFORM | {"stems": ["vocals", "instrumental"]}  # what the graph doesn't show
SHAPE = {"dim_f": 32, "dim_t": 32, "num_blocks": 5, "l": 2, "g": 4, "bn": 2}
FRAMES, BINS = 32, 32


@dataclass
class Exporter:
    """Writes the graph of an MDX-Net as PyTorch's exporters do.

    Attributes:
        fold: fold batch normalisation into convolutions (not into transposed ones).
        named: name tensors after parameters; else by bare numbers.
        transposed: transpose the linear layers' weights in the graph.
        inputs: list the weights among the graph's inputs too, as older exporters do.
    """

    fold: bool = True
    named: bool = True
    transposed: bool = False
    inputs: bool = False
    nodes: list[Any] = field(default_factory=list)
    tensors: list[Any] = field(default_factory=list)

    def weight(self, value: Tensor) -> str:
        name = f"onnx::Conv_{len(self.tensors)}" if self.named else str(len(self.tensors))
        self.tensors.append(onnx.numpy_helper.from_array(value.detach().contiguous().numpy(), name))
        return name

    def node(self, kind: str, *inputs: str, **attributes: Any) -> str:
        output = f"{kind}_{len(self.nodes)}"
        self.nodes.append(onnx.helper.make_node(kind, inputs, [output], **attributes))
        return output

    def constant(self, value: Tensor) -> str:
        return self.node("Constant", value=onnx.numpy_helper.from_array(value.numpy()))

    def layer(self, x: str, layer: nn.Module, norm: nn.Module) -> str:
        is_batch = isinstance(norm, nn.BatchNorm2d)
        if isinstance(layer, nn.Linear):
            matrix = self.weight(layer.weight if self.transposed else layer.weight.t())
            x = self.node("MatMul", x, self.node("Transpose", matrix) if self.transposed else matrix)
            x = x if layer.bias is None else self.node("Add", self.weight(layer.bias), x)
        else:
            assert isinstance(layer, nn.Conv2d | nn.ConvTranspose2d)
            if isinstance(layer, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d) and self.fold:
                layer, is_batch = fuse_conv_bn_eval(layer, norm), False
            assert layer.bias is not None
            kind = "ConvTranspose" if isinstance(layer, nn.ConvTranspose2d) else "Conv"
            places = self.weight(layer.weight), self.weight(layer.bias)
            x = self.node(kind, x, *places, strides=list(layer.stride), group=1)
        if is_batch:
            assert isinstance(norm, nn.BatchNorm2d)
            values = (norm.weight, norm.bias, norm.running_mean, norm.running_var)
            x = self.node("BatchNormalization", x, *map(self.weight, values), epsilon=norm.eps)
        if isinstance(norm, nn.GroupNorm):
            shape = self.constant(torch.tensor([0, GROUPS, -1]))
            same = self.constant(torch.ones(GROUPS)), self.constant(torch.zeros(GROUPS))
            y = self.node("InstanceNormalization", self.node("Reshape", x, shape), *same, epsilon=norm.eps)
            y = self.node("Reshape", y, self.node("Shape", x))
            y = self.node("Mul", y, self.weight(norm.weight[:, None, None]))
            x = self.node("Add", y, self.weight(norm.bias[:, None, None]))
        return self.node("Relu", x)

    def block(self, x: str, block: Any) -> str:
        for convolution in block.tfc.H:
            x = self.layer(x, convolution[0], convolution[1])
        y = self.layer(x, block.tdf[0], block.tdf[1])
        return self.node("Add", x, self.layer(y, block.tdf[3], block.tdf[4]))

    def write(self, network: MDXNet, path: Path) -> Path:
        x, saved = self.layer("input", network.first_conv[0], network.first_conv[1]), []
        x = self.node("Transpose", x, perm=[0, 1, 3, 2])
        for block, down in zip(network.encoding_blocks, network.ds, strict=True):
            saved.append(self.block(x, block))
            x = self.layer(saved[-1], down[0], down[1])
        x = self.block(x, network.bottleneck_block)
        for up, block in zip(network.us, network.decoding_blocks, strict=True):
            x = self.block(self.node("Mul", self.layer(x, up[0], up[1]), saved.pop()), block)
        last: Any = network.final_conv[0]
        x = self.node("Transpose", x, perm=[0, 1, 3, 2])
        x = self.node("Conv", x, self.weight(last.weight), self.weight(last.bias), strides=[1, 1])
        self.save(path, x)
        return path

    def save(self, path: Path, output: str, **options: Any) -> None:
        info = onnx.helper.make_tensor_value_info
        inputs = [info("input", 1, ["batch", 4, BINS, FRAMES])]
        if self.inputs:
            inputs += [info(tensor.name, tensor.data_type, tensor.dims) for tensor in self.tensors]
        graph = onnx.helper.make_graph(self.nodes, "g", inputs, [info(output, 1, None)], self.tensors)
        onnx.save(onnx.helper.make_model(graph, producer_name="pytorch"), path, **options)


def trained(**arguments: Any) -> MDXNet:
    """A network whose normalisations have other values than the initial ones."""
    network = build("mdx_net", TRANSFORM | SHAPE | arguments).eval()
    with torch.no_grad():
        for name, value in network.state_dict().items():
            if name.endswith("running_var") or (name.endswith("weight") and value.ndim == 1):
                value.uniform_(0.5, 1.5)
            elif value.ndim == 1:
                value.normal_(0, 0.1)
    assert isinstance(network, MDXNet)
    return network


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return Exporter().write(trained(), tmp_path / "net.onnx")


@pytest.mark.parametrize(
    "exporter",
    [
        Exporter(),
        Exporter(fold=False),
        Exporter(named=False, inputs=True),
        Exporter(transposed=True),
    ],
    ids=["today's", "nothing folded", "bare numbers", "weights transposed in the graph"],
)
@torch.inference_mode()
def test_batch_normalisation(exporter: Exporter, tmp_path: Path) -> None:
    network, mix = trained(), torch.randn(1, 2, 496)
    package = read_package(exporter.write(network, tmp_path / "x.onnx"), family="mdx_net", arguments=OUTSIDE)
    wanted = SHAPE | OUTSIDE
    assert {key: package.arguments[key] for key in wanted} == wanted
    assert package.arguments["folded"] and package.arguments["norm"] == "bn" and package.described
    expected = network(mix)
    assert (build_network(package)(mix) - expected).norm() < 1e-5 * expected.norm()


@pytest.mark.parametrize("shape", [{}, {"num_blocks": 1, "bias": False, "bn": 4}])
@torch.inference_mode()
def test_group_normalisation(shape: dict[str, Any], tmp_path: Path) -> None:
    network, mix = trained(**({"norm": "gn", "bias": True} | shape)), torch.randn(1, 2, 496)
    path = Exporter().write(network, tmp_path / "x.onnx")
    package = read_package(path, family="mdx_net", arguments=OUTSIDE)
    assert not package.arguments["folded"] and package.arguments["bias"] == network.arguments.bias
    assert torch.equal(build_network(package)(mix), network(mix))


def test_the_released_shapes_are_those_of_the_graph(file: Path) -> None:
    found = onnx_weights.read(file).arguments
    assert found == SHAPE | {"audio_channels": 2, "k": 3, "bias": False, "norm": "bn", "folded": True}


def test_a_file_is_described_by_a_yaml_beside_it_and_by_its_graph(file: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="net.onnx: .* doesn't say what network") as caught:
        load_model(file)
    assert caught.value.hint == "put a net.yaml with `family` and `arguments` beside it"
    arguments = TRANSFORM | {"stems": ["No Crowd", "Crowd"], "compensate": 1.02}
    file.with_suffix(".yaml").write_text(yaml.safe_dump({"family": "mdx_net", "arguments": arguments}))
    network = load_model(file)
    assert isinstance(network, MDXNet)
    assert (network.stems, network.arguments.compensate) == (("no_crowd", "crowd"), 1.02)
    assert (network.arguments.g, network.segment_samples) == (4, 496)
    converted = tmp_path / "converted.safetensors"
    convert(file, converted)
    mix = torch.randn(1, 2, 496)
    assert torch.equal(build_network(read_package(converted))(mix), network(mix))


def test_what_the_yaml_says_about_the_shape_has_to_fit(file: Path) -> None:
    file.with_suffix(".yaml").write_text(
        yaml.safe_dump({"family": "mdx_net", "arguments": OUTSIDE | {"g": 8}})
    )
    with pytest.raises(CheckpointError, match=r"first_conv.0.weight is \[4, 4, 1, 1\], not \[8, 4, 1, 1\]"):
        load_model(file)


@pytest.mark.parametrize(
    ("given", "said"),
    [({}, "n_fft and stems"), ({"n_fft": 64}, "stems"), ({"stems": ["a", "b"]}, "n_fft")],
)
def test_what_the_graph_does_not_show_is_not_guessed(file: Path, given: dict[str, Any], said: str) -> None:
    with pytest.raises(CheckpointError, match=f"net.onnx: its graph doesn't show {said}: state"):
        read_package(file, family="mdx_net", arguments=given)


def test_networks_in_several_files_make_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STEMSPLIT_REGISTRY", str(tmp_path / "models.yaml"))
    parts = {stem: trained(stems=[stem], silent_bins=0, folded=True) for stem in ("bass", "drums")}
    mixer, files = {"linear.weight": torch.randn(4, 6)}, []
    for stem, network in parts.items():
        path = Exporter().write(network, tmp_path / f"{stem}.onnx")
        files.append({"path": str(path), "prefix": f"networks.{stem}."})
    torch.save(mixer, tmp_path / "mixer.ckpt")
    files.append({"path": str(tmp_path / "mixer.ckpt"), "prefix": "mixer."})
    for one in files:
        one["sha256"] = hashlib.sha256(Path(one["path"]).read_bytes()).hexdigest()
    arguments = {"dim_t": 32, "networks": {stem: TRANSFORM | SHAPE for stem in parts}}
    entry = {"family": "mdx_kuielab", "stems": list(parts), "sample_rate": 44100, "license": "MIT"}
    joined = entry | {"arguments": arguments, "files": files}
    alone = entry | {"arguments": arguments | {"mixer": False}, "files": files[:2]}
    folders.user_registry().write_text(yaml.safe_dump({"models": {"joined": joined, "alone": alone}}))
    mix = torch.randn(1, 2, 496)
    with torch.inference_mode():
        stems = torch.cat([network.estimate(mix) for network in parts.values()], dim=1)
        mixed = mixer["linear.weight"] @ torch.cat([stems, mix[:, None]], dim=1).flatten(1, 2)
        whole = load_model("joined")
        assert isinstance(whole, Network)
        torch.testing.assert_close(whole(mix), mixed.view(1, 2, 2, 496)[..., 32:-32])
        (tmp_path / "bass.onnx").unlink()
        torch.testing.assert_close(load_model("alone", stems=["drums"])(mix), stems[:, 1:, :, 32:-32])


def test_members_with_different_stems_make_a_bag(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STEMSPLIT_REGISTRY", str(tmp_path / "models.yaml"))
    common = {"family": "mdx_kuielab", "sample_rate": 44100, "license": "MIT"}
    entries: dict[str, Any] = {}
    alone: dict[str, Network] = {}
    for name, stems in (("first", ["bass"]), ("second", ["drums"]), ("both", ["drums", "bass"])):
        files = []
        for stem in stems:
            path = Exporter().write(
                trained(stems=[stem], silent_bins=0, folded=True), tmp_path / f"{name}_{stem}.onnx"
            )
            sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
            files.append({"path": str(path), "prefix": f"networks.{stem}.", "sha256": sha256})
        arguments = {"dim_t": 32, "mixer": False, "networks": {stem: TRANSFORM | SHAPE for stem in stems}}
        entries[name] = common | {"stems": stems, "arguments": arguments, "files": files}
    weights = [[0.9, 0], [0, 0.7], [0.1, 0.3]]
    bag = {"members": list(entries), "weights": weights}
    entries["all"] = {"stems": ["bass", "drums"], "sample_rate": 44100, "license": "MIT", "bag": bag}
    folders.user_registry().write_text(yaml.safe_dump({"models": entries}))
    for name in ("first", "second", "both"):
        alone[name] = load_model(name)  # type: ignore[assignment]
    mix = torch.randn(2, 1200)
    parts = {
        name: dict(zip(network.stems, separate_array(network, mix), strict=True))
        for name, network in alone.items()
    }
    bass = 0.9 * parts["first"]["bass"] + 0.1 * parts["both"]["bass"]
    drums = 0.7 * parts["second"]["drums"] + 0.3 * parts["both"]["drums"]
    torch.testing.assert_close(separate_array(load_model("all"), mix), torch.stack([bass, drums]))
    (tmp_path / "first_bass.onnx").unlink()
    torch.testing.assert_close(separate_array(load_model("all", stems=["drums"]), mix), drums[None])


class TestRefusals:
    def test_no_onnx(self, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "onnx", None)
        with pytest.raises(StemsplitError, match="net.onnx: reading ONNX files needs onnx") as caught:
            read_package(file)
        assert caught.value.hint == "pip install 'stemsplit-cli[onnx]'"
        assert caught.value.code == 1 and not isinstance(caught.value, CheckpointError)

    @pytest.mark.parametrize("share", [0.02, 0.5, 0.999])
    def test_half_a_file(self, file: Path, share: float) -> None:
        content = file.read_bytes()
        file.write_bytes(content[: int(share * len(content))])
        with pytest.raises(CheckpointError, match="net.onnx: not a readable ONNX file|isn't|not that of"):
            read_package(file, family="mdx_net", arguments=OUTSIDE)

    @pytest.mark.parametrize("content", [b"", b"\x08", b"\x08\x07\x99", b"\x80\x02}q\x00."])
    def test_other_files(self, tmp_path: Path, content: bytes) -> None:
        (tmp_path / "x.onnx").write_bytes(content)
        assert not onnx_weights.is_onnx(tmp_path / "x.onnx")
        with pytest.raises(CheckpointError):
            read_package(tmp_path / "x.onnx")

    def test_weights_in_another_file(self, tmp_path: Path) -> None:
        exporter = Exporter()
        exporter.write(trained(), tmp_path / "x.onnx")
        exporter.save(
            tmp_path / "x.onnx", "y", save_as_external_data=True, location="weights", size_threshold=0
        )
        with pytest.raises(CheckpointError, match="x.onnx: keeps its weights in another file"):
            read_package(tmp_path / "x.onnx")

    @pytest.mark.parametrize(
        ("limit", "said"), [("LARGEST_BYTES", "too large"), ("MOST_NODES", "more nodes")]
    )
    def test_more_than_any_network_has(
        self, file: Path, limit: str, said: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(onnx_weights, limit, 20)
        with pytest.raises(CheckpointError, match=said):
            read_package(file)

    @pytest.mark.parametrize(
        ("change", "said"),
        [
            (lambda g: setattr(g.node[1], "op_type", "Sigmoid"), "with Sigmoid, which isn't an MDX-Net"),
            (lambda g: g.node.pop(0), "not that of an MDX-Net"),
            (lambda g: g.node.pop(), "not that of an MDX-Net"),
            (lambda g: g.ClearField("node"), "not that of an MDX-Net"),
            (lambda g: g.ClearField("initializer"), "not a readable ONNX file"),
            (lambda g: g.initializer[0].dims.append(10**9), "not a readable ONNX file"),
            (lambda g: g.initializer[0].dims.__setitem__(0, -1), "weights that aren't numbers"),
            (lambda g: g.initializer[0].dims.__setitem__(1, 1), "not a readable ONNX file"),
            (
                lambda g: swap(node(g, "Conv"), onnx.helper.make_attribute("group", 2)),
                "frames and bins",
            ),
            (lambda g: swap(node(g, "Conv"), onnx.helper.make_attribute("strides", [3, 3])), "not that of"),
            (
                lambda g: swap(node(g, "BatchNormalization"), onnx.helper.make_attribute("epsilon", 0.1)),
                "epsilon",
            ),
            (lambda g: setattr(node(g, "BatchNormalization"), "op_type", "Relu"), "without normalisation"),
            (
                lambda g: setattr(node(g, "MatMul"), "op_type", "Add"),
                "constants that an MDX-Net doesn't have",
            ),
        ],
    )
    def test_another_graph(self, file: Path, change: Callable[[Any], Any], said: str) -> None:
        model = onnx.load(file)
        change(model.graph)
        onnx.save(model, file)
        with pytest.raises(CheckpointError, match=f"net.onnx: .*{said}"):
            read_package(file, family="mdx_net", arguments=OUTSIDE)


def node(graph: Any, kind: str) -> Any:
    return next(one for one in graph.node if one.op_type == kind)


def swap(one: Any, attribute: Any) -> None:
    kept = [other for other in one.attribute if other.name != attribute.name]
    one.ClearField("attribute")
    one.attribute.extend([*kept, attribute])
