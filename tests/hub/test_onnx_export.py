"""Networks as ONNX files, run by other programs."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx.reference import ReferenceEvaluator
from torch import Tensor

from stemsplit.errors import SettingsError, StemsplitError
from stemsplit.hub.agreement import agreement_db, noise_for
from stemsplit.hub.checkpoints import save_package
from stemsplit.hub.onnx_export import EXPORTED, export_onnx
from stemsplit.hub.onnx_outside import transforms_of
from stemsplit.hub.real_arithmetic import Pair, RealArithmetic
from stemsplit.models import build
from stemsplit.models.network import Network
from tests.models.test_contract import BANDS, HDEMUCS, HTDEMUCS, LINEAR, MDX23C, ROFORMER, SCNET, VALUES

NETWORKS: list[tuple[str, dict[str, Any]]] = [
    ("htdemucs", HTDEMUCS),
    ("hdemucs", HDEMUCS),
    ("bs_roformer", ROFORMER | BANDS),
    ("bs_roformer", ROFORMER | BANDS | LINEAR),
    ("bs_roformer", ROFORMER | BANDS | VALUES),
    ("bs_roformer", ROFORMER | BANDS | {"stft_hop_length": 15, "zero_dc": False}),
    ("mel_band_roformer", ROFORMER | {"num_bands": 5}),
    ("scnet", SCNET | {"sources": ["a", "b"]}),
    ("mdx23c", MDX23C),
]
IDS = [f"{name}{index}" for index, (name, _) in enumerate(NETWORKS)]


def saved(folder: Path, family: str, arguments: dict[str, Any]) -> tuple[Path, Network]:
    torch.manual_seed(1)
    network = build(family, arguments).eval()
    save_package(folder / "m.safetensors", network)
    return folder / "m.safetensors", network


def facts(path: Path) -> dict[str, str]:
    return {one.key.removeprefix("stemsplit."): one.value for one in onnx.load(str(path)).metadata_props}


def run_by(session: Any) -> Any:
    return lambda mix: torch.from_numpy(np.asarray(session.run(None, {"mix": mix.numpy()})[0]))


@pytest.mark.parametrize(("family", "arguments"), NETWORKS, ids=IDS)
def test_onnxruntime_gives_the_same_stems(tmp_path: Path, family: str, arguments: dict[str, Any]) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    source, network = saved(tmp_path, family, arguments)
    done = export_onnx(source, tmp_path / "m.onnx")
    assert done.agreement_db >= 90 and done.measured_with == f"onnxruntime {onnxruntime.__version__}"
    session = onnxruntime.InferenceSession(str(tmp_path / "m.onnx"), providers=["CPUExecutionProvider"])
    mix = torch.randn(1, network.channels, network.padded_samples(network.segment_samples))
    assert agreement_db(network, run_by(session), mix) >= 90  # another sound than at the export


@pytest.mark.parametrize(("family", "arguments"), NETWORKS, ids=IDS)
def test_real_arithmetic_is_the_complex_one(family: str, arguments: dict[str, Any]) -> None:
    network = build(family, arguments).eval()
    mix = noise_for(network, network.padded_samples(network.segment_samples))

    def run(mix: Tensor) -> Tensor:
        with RealArithmetic():
            return network.estimate(mix)

    assert agreement_db(network, run, mix) > 110


@pytest.mark.slow
@pytest.mark.parametrize(("family", "arguments"), NETWORKS, ids=IDS)
def test_a_program_can_compute_the_transforms(tmp_path: Path, family: str, arguments: dict[str, Any]) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    source, network = saved(tmp_path, family, arguments)
    done = export_onnx(source, tmp_path / "m.onnx", stft="outside")
    assert done.agreement_db >= 90
    found = facts(tmp_path / "m.onnx")
    how = json.loads(found["transforms"])
    assert found["stft"] == "outside"
    session = onnxruntime.InferenceSession(str(tmp_path / "m.onnx"), providers=["CPUExecutionProvider"])

    def run(mix: Tensor) -> Tensor:
        """Compute the transforms from the metadata alone, with numpy."""
        whole = np.pad(mix[0].numpy(), ((0, 0), (0, how["zeros"])))
        padded = np.pad(whole, ((0, 0), (how["left"], how["right"])), how["padding"])
        size, hop = how["fft_size"], how["hop"]
        if how["centred"]:
            padded = np.pad(padded, ((0, 0), (size // 2, size // 2)), "reflect")
        hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(size) / size)
        window = {"hann": hann, "rectangular": np.ones(size)}[how["window"]]
        scale = np.sqrt(size) if how["normalised"] else 1.0
        starts = range(0, padded.shape[-1] - size + 1, hop)
        z = np.stack([np.fft.rfft(padded[:, at : at + size] * window) / scale for at in starts], axis=-1)
        given = {"mix": mix.numpy(), "spectrum": np.stack([z.real, z.imag], -1).astype(np.float32)}
        names = [each.name for each in session.get_inputs()]
        spectra, added = session.run(["spectra", "added"], {name: given[name] for name in names})
        frames = np.fft.irfft(spectra[..., 0] + 1j * spectra[..., 1], n=size, axis=1) * scale  # [N, size, K]
        length = size + hop * (frames.shape[-1] - 1)
        total, weight = np.zeros((len(frames), length)), np.zeros(length)
        for index in range(frames.shape[-1]):
            total[:, index * hop : index * hop + size] += frames[..., index] * window
            weight[index * hop : index * hop + size] += window**2
        begin = size // 2 + how["begins_at"]
        stop = begin + mix.shape[-1]
        audio = np.zeros((len(frames), mix.shape[-1]))
        there = (total / np.maximum(weight, 1e-11))[:, begin:stop]
        audio[:, : there.shape[-1]] = there
        return torch.from_numpy(added + audio.reshape(added.shape)).float()

    mix = torch.randn(1, network.channels, network.padded_samples(network.segment_samples))
    assert agreement_db(network, run, mix) >= 90


def test_the_graph_is_valid_and_a_second_runtime_agrees(tmp_path: Path) -> None:
    source, network = saved(tmp_path, "bs_roformer", ROFORMER | BANDS)
    export_onnx(source, tmp_path / "m.onnx")
    onnx.checker.check_model(str(tmp_path / "m.onnx"), full_check=True)
    session = ReferenceEvaluator(str(tmp_path / "m.onnx"))
    assert agreement_db(network, run_by(session), noise_for(network, network.segment_samples)) >= 90


def test_the_metadata_say_how_to_run_it(tmp_path: Path) -> None:
    source, network = saved(tmp_path, "htdemucs", HTDEMUCS)
    done = export_onnx(source, tmp_path / "m.onnx")
    found = facts(tmp_path / "m.onnx")
    assert json.loads(found["stems"]) == ["a", "b"] and found["class"] == "demucs.htdemucs.HTDemucs"
    assert json.loads(found["agreement_db"]) == done.agreement_db and found["measured_with"]
    assert int(found["sample_rate"]) == 8000 and int(found["input_samples"]) == network.segment_samples == 400
    assert int(found["segment_begins_at"]) == 0
    shape = onnx.load(str(tmp_path / "m.onnx")).graph.input[0].type.tensor_type.shape
    assert [one.dim_value for one in shape.dim] == [1, 2, 400]
    export_onnx(source, tmp_path / "m.onnx", segment_s=0.03)
    assert int(facts(tmp_path / "m.onnx")["segment_samples"]) == 240


@pytest.mark.slow
@pytest.mark.parametrize(
    ("family", "arguments"), [NETWORKS[0], NETWORKS[7], NETWORKS[8]], ids=["ht", "sc", "mdx"]
)
def test_half_precision_halves_the_weights(tmp_path: Path, family: str, arguments: dict[str, Any]) -> None:
    source, network = saved(tmp_path, family, arguments)
    export_onnx(source, tmp_path / "m.onnx")
    done = export_onnx(source, tmp_path / "half.onnx", half=True)
    assert 40 < done.agreement_db < 90
    onnx.checker.check_model(str(tmp_path / "half.onnx"), full_check=True)

    def numbers(name: str, kind: int) -> int:
        held = onnx.load(str(tmp_path / name)).graph.initializer
        return sum(int(np.prod(one.dims)) for one in held if one.data_type == kind)

    weights = sum(one.numel() for one in network.parameters())
    assert numbers("half.onnx", onnx.TensorProto.FLOAT16) >= 0.9 * weights
    left = numbers("m.onnx", onnx.TensorProto.FLOAT) - numbers("half.onnx", onnx.TensorProto.FLOAT)
    assert left == numbers("half.onnx", onnx.TensorProto.FLOAT16)


@pytest.mark.slow
def test_what_is_not_exported(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=f"tiny is a band_unet; exported are {', '.join(EXPORTED)}"):
        export_onnx("tiny", tmp_path / "m.onnx")
    for family, arguments in (
        ("hdemucs", HDEMUCS | {"cac": False}),
        ("bs_roformer", ROFORMER | BANDS | {"mask_estimator": "fno"}),
    ):
        source, _ = saved(tmp_path, family, arguments)
        with pytest.raises(StemsplitError, match="m.safetensors: can't be exported"):
            export_onnx(source, tmp_path / "m.onnx")
    assert not [path for path in tmp_path.iterdir() if "onnx" in path.name]


def test_audio_that_is_changed_beside_the_transforms_is_not_exported(tmp_path: Path) -> None:
    source, network = saved(tmp_path, "bs_roformer", ROFORMER | BANDS)
    estimate = network.estimate
    for changed in (
        lambda mix: 2 * estimate(mix),
        lambda mix: estimate(mix.flip(-1)),
        lambda mix: mix[:, None],
    ):
        network.estimate = changed  # type: ignore[method-assign]
        with pytest.raises(StemsplitError, match="can't be exported without its STFT"):
            transforms_of(network, network.segment_samples)


@pytest.mark.parametrize("size", [1, 2, 7, 12, 64, 157, 441, 2048])
@pytest.mark.parametrize("norm", [None, "ortho", "forward"])
def test_fourier_transforms_in_real_numbers(size: int, norm: str | None) -> None:
    x = torch.randn(3, size)
    expected = torch.fft.rfft(x.double(), norm=norm)
    with RealArithmetic():
        z: Any = torch.fft.rfft(x, norm=norm)
        again = torch.fft.irfft(z, n=size, norm=norm)
    assert isinstance(z, Pair) and z.shape == expected.shape
    error = (torch.view_as_complex(z.parts.double()) - expected).abs().max()
    assert error < 1e-6 * max(1.0, expected.abs().max().item())
    assert (again - x).abs().max() < 1e-5


@pytest.mark.parametrize(("n_fft", "hop"), [(64, 16), (64, 15), (63, 20), (48, 24)])
@pytest.mark.parametrize("normalised", [False, True])
@pytest.mark.parametrize("length", [500, 511])
def test_short_time_transforms_in_real_numbers(n_fft: int, hop: int, normalised: bool, length: int) -> None:
    x, window = torch.randn(2, length), torch.hann_window(n_fft) + 0.1
    how = {"window": window, "normalized": normalised}
    expected = torch.stft(x, n_fft, hop, return_complex=True, **how)
    back = torch.istft(expected, n_fft, hop, length=length, **how)
    with RealArithmetic():
        z: Any = torch.stft(x, n_fft, hop, return_complex=True, **how)
        again = torch.istft(z, n_fft, hop, length=length, **how)
    assert (torch.view_as_complex(z.parts.contiguous()) - expected).abs().max() < 1e-4
    assert (again - back).abs().max() < 1e-4
