"""The masking Transformer against the thesis, every ablation of its tables included."""

import sys
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from stemsplit.errors import StemsplitError
from stemsplit.models import build
from stemsplit.models.mask_transformer import MaskTransformer, positions, rmse, zero_crossing_rate

SMALL = {
    "n_fft": 64,
    "hop": 32,
    "window_trim": 1,
    "heads": 3,
    "hidden": 16,
    "layers": 2,
    "segment_samples": 500,
}
THESIS_LAYER = 4 * (1025 * 1025 + 1025) + 2 * 1025 * 2048 + 2048 + 1025 + 4 * 1025


def transformer(**arguments: Any) -> MaskTransformer:
    network = build("mask_transformer", arguments)
    assert isinstance(network, MaskTransformer)
    return network.eval()


def outline(**arguments: Any) -> MaskTransformer:
    with torch.device("meta"):
        return transformer(**arguments)


def count(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


@pytest.mark.parametrize(("layers", "published"), [(6, 58.9), (2, 25.2)])
def test_layers_are_as_large_as_published(layers: int, published: float) -> None:
    assert count(outline(layers=layers)) == layers * THESIS_LAYER
    # the published counts fit one layer more, such as the unused template that torch's own encoder copies
    assert round((layers + 1) * THESIS_LAYER / 1e6, 1) == published


def test_defaults_are_those_of_the_thesis() -> None:
    network = outline()
    assert (network.sample_rate, network.segment_samples) == (16_000, 6 * 16_000)
    assert (network.transform.fft_size, network.transform.hop, network.transform.reflect) == (
        2048,
        1024,
        False,
    )
    assert network.arguments.frames == 94
    window = network.transform.analyse(torch.zeros(1, 1, 1))
    assert window.shape == (1, 1, 1025, 1)


def test_positions_alternate_sines_and_cosines() -> None:
    code = positions(torch.zeros(3, 20, 7))
    assert code.shape == (20, 7)
    for t in (0, 3, 19):
        for i in range(4):
            angle = torch.tensor(t / 10_000 ** (2 * i / 7))
            torch.testing.assert_close(code[t, 2 * i], angle.sin())
            if 2 * i + 1 < 7:
                torch.testing.assert_close(code[t, 2 * i + 1], angle.cos())


def test_features_of_a_frame() -> None:
    frames = torch.tensor([[1.0, -1, 1, -1], [2, 2, 2, 2], [0, 0, 0, 0], [3, 0, 3, -3]])
    torch.testing.assert_close(rmse(frames), torch.tensor([1.0, 2, 0, 27**0.5 / 2]))
    torch.testing.assert_close(zero_crossing_rate(frames), torch.tensor([0.75, 0, 0.75, 0.75]))


@pytest.mark.parametrize("attention", ["time", "parallel", "consecutive"])
@torch.inference_mode()
def test_the_mask_is_between_zero_and_one(attention: str) -> None:
    network, mix = transformer(**SMALL, attention=attention), torch.randn(1, 2, 500)
    z = network.transform.analyse(mix)
    stems = network.spectrograms(mix)
    assert stems.shape == (1, 1, *z.shape[1:])
    ratio = stems[:, 0] / z
    rounding = 8 * torch.finfo(torch.float32).eps  # a complex quotient is rounded, differently by each CPU
    assert ratio.real.min() >= -rounding and ratio.real.max() <= 1 + rounding
    assert ratio.imag.abs().max() < 1e-5
    assert ratio.real.std() > 0.1


@torch.inference_mode()
def test_parallel_masks_are_fused_by_the_softmax() -> None:
    network, mix = transformer(**SMALL, attention="parallel"), torch.randn(1, 2, 500)
    assert torch.equal(network.fusion, torch.ones(2))
    half = network.spectrograms(mix)
    ends = []
    for weights in ([50.0, 0.0], [0.0, 50.0]):
        network.fusion.copy_(torch.tensor(weights))
        ends.append(network.spectrograms(mix))
    torch.testing.assert_close(half, (ends[0] + ends[1]) / 2)
    alone = transformer(**SMALL)
    alone.over_time.load_state_dict(network.over_time.state_dict())
    torch.testing.assert_close(ends[0], alone.spectrograms(mix))


@torch.inference_mode()
def test_frequencies_have_no_order_and_frames_have() -> None:
    network, x = transformer(**SMALL, attention="parallel"), torch.rand(1, 16, 33)
    order = torch.randperm(33)
    over = network._over_frequencies
    torch.testing.assert_close(over(x[..., order]), over(x)[..., order], rtol=1e-4, atol=1e-5)
    backwards = network._mask(x.flip(1))
    assert not torch.allclose(backwards, network._mask(x).flip(1), atol=1e-3)


@torch.inference_mode()
def test_consecutive_attention_keeps_both_inputs() -> None:
    network, x = transformer(**SMALL, attention="consecutive"), torch.rand(1, 16, 33)
    for encoder in (network.over_time, network.over_frequencies):
        norm = encoder[-1].norm2
        assert isinstance(norm, nn.LayerNorm)
        norm.weight.zero_()
        norm.bias.zero_()
    torch.testing.assert_close(network._mask(x), x.sigmoid())


def test_attention_over_frequencies_fixes_the_length() -> None:
    network = transformer(**SMALL, attention="consecutive")
    assert network.longest_segment_samples() == 500
    assert transformer(**SMALL).longest_segment_samples() is None
    with pytest.raises(StemsplitError, match="500"):
        network.estimate(torch.zeros(1, 2, 501))


@pytest.mark.parametrize(
    ("features", "width"),
    [({"rmse": True}, 34), ({"zcr": True}, 34), ({"rmse": True, "zcr": True}, 35), ({}, 33)],
)
def test_features_enter_by_a_projection(features: dict[str, bool], width: int) -> None:
    network = transformer(**SMALL, projection=True, **features)
    assert network.projection.weight.shape == (33, width)
    assert "projection.weight" not in transformer(**SMALL).state_dict()
    assert ("projection.weight" in transformer(**SMALL, **features).state_dict()) == bool(features)


@torch.inference_mode()
def test_features_belong_to_their_frames() -> None:
    network = transformer(**SMALL, rmse=True, zcr=True)
    network.projection.weight.zero_()
    network.projection.weight[0, 33] = network.projection.weight[1, 34] = 1
    network.projection.bias.zero_()
    audio = torch.zeros(1, 500)
    audio[0, 200:216] = 0.5
    found = network._features(audio, torch.zeros(1, 16, 33))[0]
    # frame k covers the samples from 32(k − 1) up to 32(k + 1)
    inside = [max(0, min(216, 32 * (k + 1)) - max(200, 32 * (k - 1))) for k in range(16)]
    torch.testing.assert_close(found[:, 0], torch.tensor([(0.25 * n / 64) ** 0.5 for n in inside]))
    assert found[0, 1] == 63 / 64


@torch.inference_mode()
def test_the_phase_branch_leaves_the_magnitude_alone() -> None:
    plain, mix = transformer(**SMALL), torch.randn(1, 2, 500)
    phased = transformer(**SMALL, phase=True)
    phased.over_time.load_state_dict(plain.over_time.state_dict())
    a, b = plain.spectrograms(mix), phased.spectrograms(mix)
    torch.testing.assert_close(a.abs(), b.abs(), rtol=1e-4, atol=1e-5)
    assert not torch.allclose(a, b, atol=0.1)


@torch.inference_mode()
def test_silence_stays_silent() -> None:
    for attention in ("time", "parallel", "consecutive"):
        network = transformer(**SMALL, attention=attention, phase=True, rmse=True, zcr=True)
        assert not network(torch.zeros(1, 2, 300)).any()


@pytest.mark.parametrize(
    "wrong",
    [
        {"heads": 4},
        {"attention": "sideways"},
        {"encoder_layers": "some"},
        {"attention": "parallel", "frequency_heads": 7},
    ],
)
def test_arguments_that_do_not_fit_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(StemsplitError):
        transformer(**SMALL | wrong)


class Encoder(nn.Module):
    """A stand-in for a self-supervised encoder: 3 layers of 4 features, every 64 samples before loading."""

    def __init__(self) -> None:
        super().__init__()
        self.feature_extractor = nn.Sequential(nn.Conv1d(1, 4, 32, 32), nn.Conv1d(4, 4, 2, 2))
        self.layers = nn.ModuleList(nn.Linear(4, 4) for _ in range(2))

    def forward(self, audio: Tensor, output_hidden_states: bool) -> Any:
        states = [self.feature_extractor(audio[:, None]).transpose(1, 2)]
        for layer in self.layers:
            states.append(layer(states[-1]).tanh())
        return SimpleNamespace(hidden_states=tuple(states))


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> Encoder:
    encoder = Encoder()
    auto = SimpleNamespace(from_pretrained=lambda path, local_files_only: encoder)
    monkeypatch.setitem(sys.modules, "transformers", SimpleNamespace(AutoModel=auto))
    return encoder


SSL = {"encoder": "a/folder", "encoder_width": 4, "encoder_depth": 3}


@pytest.mark.parametrize("layers", ["last", "all"])
def test_self_supervised_features_are_an_input(stand_in: Encoder, layers: str) -> None:
    network = transformer(**SMALL, **SSL, encoder_layers=layers)
    assert network.projection.weight.shape == (33, 37)
    assert ("layer_sum.weights" in network.state_dict()) == (layers == "all")
    assert not any("feature_extractor" in key for key in network.state_dict())
    for samples in (1, 100, 500, 1500):
        assert network.estimate(torch.randn(2, 2, samples)).shape == (2, 1, 2, samples)
    mix = torch.randn(1, 2, 500)
    before = network.estimate(mix)
    before.square().sum().backward()
    assert network.projection.weight.grad is not None and network.projection.weight.grad[:, 33:].any()
    assert all(parameter.grad is None for parameter in stand_in.parameters())
    with torch.no_grad():
        stand_in.layers[1].weight.add_(1)  # type: ignore[operator]
        assert not torch.equal(network.estimate(mix), before)


def test_features_are_aligned_with_the_frames(stand_in: Encoder) -> None:
    network = transformer(**SMALL, **SSL, encoder_layers="all")
    padded = nn.functional.pad(torch.randn(1, 500), (32, 32))
    assert stand_in.feature_extractor(padded[:, None]).shape[-1] == 8
    assert network._encoded(padded, 16).shape == (1, 16, 4)
    assert stand_in.feature_extractor(padded[:, None]).shape[-1] == 16


@pytest.mark.usefixtures("stand_in")
@pytest.mark.parametrize(
    ("wrong", "message"),
    [({"encoder_width": 768}, "4 wide, not 768"), ({"encoder_depth": 13}, "3 layers, 13")],
)
def test_an_encoder_of_another_shape_is_refused(wrong: dict[str, int], message: str) -> None:
    network = transformer(**SMALL, **SSL | wrong)
    with pytest.raises(StemsplitError, match=message):
        network.estimate(torch.zeros(1, 2, 500))
