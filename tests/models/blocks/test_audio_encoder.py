"""Self-supervised encoders, with a stand-in of the shape that the transformers package gives them."""

import sys
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from stemsplit.errors import ModelUnavailableError, StemsplitError
from stemsplit.models.blocks.audio_encoder import LayerSum, hidden_states, load_encoder


class Encoder(nn.Module):
    """Two convolutions of stride two, each seeing four samples, and two linear layers."""

    def __init__(self, width: int = 6, stride: int = 2) -> None:
        super().__init__()
        self.feature_extractor = nn.Sequential(nn.Conv1d(1, width, 4, 2), nn.Conv1d(width, width, 2, stride))
        self.layers = nn.ModuleList(nn.Linear(width, width) for _ in range(2))

    def forward(self, audio: Tensor, output_hidden_states: bool) -> Any:
        assert output_hidden_states
        states = [self.feature_extractor(audio[:, None]).transpose(1, 2)]
        for layer in self.layers:
            states.append(layer(states[-1]).tanh())
        return SimpleNamespace(hidden_states=tuple(states))


def install(monkeypatch: pytest.MonkeyPatch, encoder: nn.Module) -> None:
    def from_pretrained(path: str, local_files_only: bool) -> nn.Module:
        assert local_files_only
        if path != "there":
            raise OSError(f"nothing in {path}")
        return encoder

    module = SimpleNamespace(AutoModel=SimpleNamespace(from_pretrained=from_pretrained))
    monkeypatch.setitem(sys.modules, "transformers", module)


def test_an_encoder_is_frozen_and_its_frame_rate_doubled(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, Encoder().train())
    encoder = load_encoder("there")
    assert not encoder.training
    assert not any(parameter.requires_grad for parameter in encoder.parameters())
    assert encoder.feature_extractor(torch.randn(1, 1, 500)).shape == (1, 6, 248)  # type: ignore[operator]


def test_an_encoder_of_another_build_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    for other in (Encoder(stride=3), nn.Linear(2, 2)):
        install(monkeypatch, other)
        with pytest.raises(ModelUnavailableError, match="stride"):
            load_encoder("there")


def test_a_missing_package_or_folder_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, Encoder())
    with pytest.raises(ModelUnavailableError, match="nothing in elsewhere"):
        load_encoder("elsewhere")
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ModelUnavailableError, match="transformers") as caught:
        load_encoder("there")
    assert caught.value.hint is not None and "ssl" in caught.value.hint


def test_states_are_interpolated_to_the_wanted_frames() -> None:
    encoder, audio = Encoder(), torch.randn(1, 500)
    exact = hidden_states(encoder, audio, frames=124)
    torch.testing.assert_close(exact[0, 0], encoder.feature_extractor(audio[:, None])[0].T)
    assert exact.shape == (3, 1, 124, 6) and not exact.requires_grad
    finer = hidden_states(encoder, audio, frames=248)
    between = exact[..., 1:, :] * 0.25 + exact[..., :-1, :] * 0.75
    torch.testing.assert_close(finer[..., 1:-1:2, :], between)
    torch.testing.assert_close(finer[..., [0, -1], :], exact[..., [0, -1], :])


def test_the_shortest_audio_has_a_frame() -> None:
    assert hidden_states(Encoder(), torch.randn(2, 1), frames=1).shape == (3, 2, 1, 6)


def test_layers_start_out_equal_and_their_weights_learn() -> None:
    layer_sum, states = LayerSum(3), torch.randn(3, 2, 5, 4)
    torch.testing.assert_close(layer_sum(states), states.mean(0))
    layer_sum(states).square().sum().backward()
    assert layer_sum.weights.grad is not None and layer_sum.weights.grad.any()
    with pytest.raises(StemsplitError, match="2 layers, 3"):
        layer_sum(states[:2])
