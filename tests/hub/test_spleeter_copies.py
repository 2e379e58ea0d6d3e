"""Copies of Spleeter in PyTorch and ONNX are read by the names that their programs give the layers."""

import random
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from stemsplit import load_model
from stemsplit.errors import CheckpointError, StemsplitError
from stemsplit.hub.describe import describe_model
from stemsplit.models import build
from stemsplit.models.spleeter import Spleeter

Decibels = Callable[[Tensor, Tensor], float]
Names = Callable[[str, int], str]

TWO, FOUR = ("vocals", "accompaniment"), ("vocals", "drums", "bass", "other")
ELU = {"conv_activation": "ELU", "deconv_activation": "ELU"}
WIDTHS = (2, 3, 2, 3, 2, 3)
LEVELS = len(WIDTHS)


def sherpa(kind: str, i: int) -> str:
    number = i + LEVELS - 1 if kind == "norm" else i + 1 if kind == "up" else i
    return {"conv": "conv", "before": "bn", "up": "up", "norm": "bn", "mask": "up7"}[kind] + (
        str(number) if number else ""
    )


def sequences(kind: str, i: int) -> str:
    names = {
        "conv": "down{}_conv.1",
        "before": "down{}_act.0",
        "up": "up{}.0",
        "norm": "up{}.3",
        "mask": "up7.0",
    }
    return names[kind].format(i + 1)


def lists(kind: str, i: int) -> str:
    if kind in ("up", "norm") and i == LEVELS - 1:
        return {"up": "mask_layer.conv", "norm": "mask_layer.bn"}[kind]
    names = {"conv": "conv_layers.{}.conv", "before": "conv_layers.{}.bn", "mask": "last_layer"}
    return (names | {"up": "deconv_layers.{}.conv", "norm": "deconv_layers.{}.bn"})[kind].format(i)


def coders(kind: str, i: int) -> str:
    names = {"conv": "encoder_layers.{}.conv", "before": "encoder_layers.{}.bn", "mask": "up_final"}
    return (names | {"up": "decoder_layers.{}.tconv", "norm": "decoder_layers.{}.bn"})[kind].format(i)


def original(stems: tuple[str, ...], **changed: Any) -> Spleeter:
    network = scattered(build("spleeter", {"instrument_list": stems, "conv_n_filters": WIDTHS} | changed))
    assert isinstance(network, Spleeter)
    return network


def scattered(network: nn.Module) -> nn.Module:
    """Move statistics away from zeros and ones, which exporters store once if they are equal."""
    for name, value in network.state_dict().items():
        if value.is_floating_point() and value.dim() == 1:
            value.copy_(torch.rand_like(value) + (0.5 if "var" in name else 0))
    return network.eval()


def copied(network: Spleeter, names: Names, net: int, before: str = "") -> dict[str, Tensor]:
    """Return the tensors of a U-Net by a program's names, with the normalisation that nothing follows."""
    found = {}
    for name, value in network.unets[net].state_dict().items():
        layer, _, part = name.rpartition(".")
        kind, *level = layer.split(".")[:2]
        i = int(level[0]) if level else 0
        if kind == "down":
            kind, i = ("before", i - 1) if ".before." in layer else ("conv", i)
        elif layer.endswith(".norm"):
            kind = "norm"
        found[f"{before}{names(kind, i)}.{part}"] = value
    unused = before + names("before", LEVELS - 1)
    if names is not sherpa:
        found |= {f"{unused}.{part}": torch.ones(WIDTHS[-1]) for part in ("weight", "bias", "running_mean")}
    return found


def agree(ours: Spleeter, theirs: Spleeter) -> None:
    assert ours.arguments == theirs.arguments
    state = theirs.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in ours.state_dict().items())


def loaded(path: Path) -> Spleeter:
    network = load_model(path)
    assert isinstance(network, Spleeter)
    return network


@pytest.mark.parametrize("stems", [TWO, FOUR])
@pytest.mark.parametrize("suffix", [".pt", ".fp16.safetensors"])
def test_files_of_single_stems_are_read_together(tmp_path: Path, stems: tuple[str, ...], suffix: str) -> None:
    network = original(stems, **(ELU if stems == FOUR else {}))
    for i, stem in enumerate(stems):
        path = tmp_path / f"{stem}{suffix}"
        tensors = copied(network, sherpa, i)
        torch.save(tensors, path) if suffix == ".pt" else save_file(tensors, path)
    for stem in stems:
        found = loaded(tmp_path / f"{stem}{suffix}")
        assert found.stems == stems
        agree(found, network)


@pytest.mark.parametrize(
    ("names", "before"),
    [(sequences, "instruments.{i}."), (lists, "{stem}."), (coders, "stems.{stem}."), (sherpa, "{stem}.")],
)
@pytest.mark.parametrize("stems", [TWO, FOUR])
def test_files_of_all_stems_are_read(
    tmp_path: Path, names: Names, before: str, stems: tuple[str, ...]
) -> None:
    network = original(stems, **(ELU if stems == FOUR else {}))
    tensors = {"win": torch.hann_window(4096)}
    for i, stem in enumerate(stems):
        tensors |= copied(network, names, i, before.format(i=i, stem=stem))
    torch.save({"model": tensors}, tmp_path / "model.pt")
    found = loaded(tmp_path / "model.pt")
    assert found.stems == stems
    agree(found, network)


def test_a_yaml_file_says_what_the_tensors_do_not(tmp_path: Path) -> None:
    network = original(TWO, F=1536)
    for i, stem in enumerate(TWO):
        torch.save(copied(network, sherpa, i), tmp_path / f"{stem}.pt")
    (tmp_path / "vocals.yaml").write_text("family: spleeter\narguments: {F: 1536}\n")
    found = loaded(tmp_path / "vocals.pt")
    assert found.arguments.F == 1536
    agree(found, network)


def test_the_identity_covers_all_files(tmp_path: Path) -> None:
    network, other = original(TWO), original(TWO)
    for i, stem in enumerate(TWO):
        torch.save(copied(network, sherpa, i), tmp_path / f"{stem}.pt")
    path = tmp_path / "vocals.pt"
    before = loaded(path).identity
    assert before is not None and before.sha256 == describe_model(path).sha256
    torch.save(copied(other, sherpa, 1), tmp_path / "accompaniment.pt")
    after = loaded(path).identity
    assert after is not None and after.sha256 == describe_model(path).sha256 != before.sha256


@pytest.mark.parametrize("name", ["vocals.pt", "drums.pt", "model.pt", "vocals_bass.pt"])
def test_a_single_stem_is_refused(tmp_path: Path, name: str) -> None:
    torch.save(copied(original(TWO), sherpa, 0), tmp_path / name)
    with pytest.raises(CheckpointError, match="without the other stems'") as error:
        load_model(tmp_path / name)
    assert error.value.hint and "vocals.pt and accompaniment.pt" in error.value.hint


def test_another_network_beside_a_stem_is_refused(tmp_path: Path) -> None:
    torch.save(copied(original(TWO), sherpa, 0), tmp_path / "vocals.pt")
    torch.save({"a.weight": torch.ones(2)}, tmp_path / "accompaniment.pt")
    with pytest.raises(CheckpointError, match=r"accompaniment\.pt.*not one U-Net"):
        load_model(tmp_path / "vocals.pt")
    torch.save(copied(original(TWO, n_channels=1), sherpa, 1), tmp_path / "accompaniment.pt")
    with pytest.raises(CheckpointError, match="don't fit a spleeter"):
        load_model(tmp_path / "vocals.pt")


def test_numbered_networks_without_known_stems_are_refused(tmp_path: Path) -> None:
    tensors = {}
    for i in range(3):
        tensors |= copied(original(TWO), sequences, 0, f"instruments.{i}.")
    torch.save(tensors, tmp_path / "model.pt")
    with pytest.raises(CheckpointError, match="3 U-Nets"):
        load_model(tmp_path / "model.pt")


class Exported(nn.Module):
    """A U-Net with sherpa-onnx's names and input, [C, groups, T, F]."""

    def __init__(self, activation: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.activation = activation
        widths = (2, *WIDTHS)
        outs = (*reversed(WIDTHS[:-1]), 1)
        for i in range(LEVELS):
            given = WIDTHS[-1] if i == 0 else 2 * outs[i - 1]
            self.add_module(sherpa("conv", i), nn.Conv2d(widths[i], widths[i + 1], 5, 2))
            self.add_module(sherpa("up", i), nn.ConvTranspose2d(given, outs[i], 5, 2))
            self.add_module(sherpa("norm", i), nn.BatchNorm2d(outs[i], eps=1e-3))
            if i < LEVELS - 1:
                self.add_module(sherpa("before", i), nn.BatchNorm2d(widths[i + 1], eps=1e-3))
        self.up7 = nn.Conv2d(1, 2, 4, dilation=2, padding=3)

    def forward(self, mix: Tensor) -> Tensor:
        x, skips = mix.transpose(0, 1), list[Tensor]()
        for i in range(LEVELS):
            if i:
                x = self.activation(self.get_submodule(sherpa("before", i - 1))(x))
            x = self.get_submodule(sherpa("conv", i))(F.pad(x, (1, 2, 1, 2)))
            skips.append(x)
        for i in range(LEVELS):
            x = torch.cat([skips[-1 - i], x], 1) if i else x
            x = self.get_submodule(sherpa("up", i))(x)[:, :, 1:-2, 1:-2]
            x = self.get_submodule(sherpa("norm", i))(self.activation(x))
        return self.up7(x).sigmoid().transpose(0, 1) * mix


def export(network: nn.Module, path: str, mix: Tensor) -> None:
    names: dict[str, Any] = {"input_names": ["x"], "dynamic_axes": {"x": {1: "groups"}}}
    torch.onnx.export(network, (mix,), path, dynamo=False, opset_version=13, **names)


@pytest.mark.parametrize("half", [False, True])
@pytest.mark.filterwarnings("ignore")  # of the exporter
def test_onnx_files_tell_sizes_and_activations(tmp_path: Path, half: bool, decibels: Decibels) -> None:
    onnx = pytest.importorskip("onnx")
    networks = {stem: scattered(Exported(F.elu)) for stem in FOUR}
    mix = torch.rand(2, 1, 64, 128)
    for stem, network in networks.items():
        path = str(tmp_path / f"{stem}.onnx")
        export(network, path, mix)
        if half:
            model = onnx.load(path)
            for tensor in model.graph.initializer:
                values = onnx.numpy_helper.to_array(tensor)
                if values.dtype == "float32":
                    tensor.CopyFrom(onnx.numpy_helper.from_array(values.astype("float16"), tensor.name))
            onnx.save(model, path)
    found = loaded(tmp_path / "drums.onnx")
    a = found.arguments
    assert (found.stems, a.T, a.F, a.conv_activation, a.deconv_activation) == (FOUR, 64, 128, "ELU", "ELU")
    with torch.inference_mode():
        ours = found.magnitudes(mix.permute(1, 0, 3, 2))[0].transpose(-1, -2)  # [S, C, T, F]
        theirs = [network(mix)[:, 0] for network in networks.values()]
    assert all(decibels(*pair) >= (50 if half else 110) for pair in zip(theirs, ours, strict=True))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of the exporter
def test_two_hundred_damaged_files_give_one_clear_error_each(tmp_path: Path) -> None:
    pytest.importorskip("onnx")
    path = tmp_path / "vocals.onnx"
    for stem in TWO:
        export(scattered(Exported(F.relu)), str(tmp_path / f"{stem}.onnx"), torch.rand(2, 1, 64, 64))
    good, refused = path.read_bytes(), 0
    for seed in range(200):
        generator = random.Random(seed)
        content = bytearray(good)
        for _ in range(generator.randint(1, 8)):
            at = generator.randrange(len(content))
            content[at] = generator.choice((0, 0xFF, content[at] ^ 1 << generator.randrange(8)))
        if seed % 3 == 0:
            del content[generator.randrange(len(content)) :]
        path.write_bytes(content)
        began = time.process_time()
        tracemalloc.start()
        try:
            found = load_model(path)
        except StemsplitError as error:
            refused += 1
            assert "\n" not in error.reason
        else:  # ONNX files have no check values: weights may have changed
            assert found.stems == TWO
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert time.process_time() - began < 5 and peak < 20_000_000
    assert refused > 100


@pytest.mark.slow
@torch.inference_mode()
def test_released_weights_give_what_another_program_does(
    oracle: Callable[..., dict[str, Tensor]], tmp_path: Path, decibels: Decibels
) -> None:
    bins = 10 * torch.rand(1, 2, 1024, 512)  # [B, C, F, T]
    path = tmp_path / "estimator.pt"
    theirs = oracle("spleeter_torch.py", {"path": str(path)}, bins=bins.transpose(2, 3))["stems"]
    network = loaded(path)
    assert network.stems == TWO
    assert decibels(theirs.transpose(-1, -2), network.magnitudes(bins)) >= 110
