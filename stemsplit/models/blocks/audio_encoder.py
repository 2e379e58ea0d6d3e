"""Features of a self-supervised audio encoder: wav2vec 2.0, HuBERT, WavLM and the like."""

import importlib
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from stemsplit.errors import ModelUnavailableError, StemsplitError

SHORTEST = 400  # samples: receptive field of one frame, the same for all these encoders


def load_encoder(path: str) -> nn.Module:
    """Load an encoder saved by the `transformers` package, frozen, and double its frame rate.

    Args:
        path: the folder with its weights and configuration.

    Raises:
        ModelUnavailableError: `transformers` isn't installed, or can't read the folder.
    """
    try:
        transformers: Any = importlib.import_module("transformers")
    except ImportError as error:
        raise ModelUnavailableError(
            f"{path}: a self-supervised encoder needs the package transformers",
            hint="pip install 'stemsplit-cli[ssl]'",
        ) from error
    try:
        encoder: nn.Module = transformers.AutoModel.from_pretrained(path, local_files_only=True)
    except (OSError, ValueError) as error:
        raise ModelUnavailableError(f"{path}: no audio encoder: {error}") from error
    _double_frame_rate(encoder, path)
    return encoder.requires_grad_(False).eval()


def _double_frame_rate(encoder: nn.Module, path: str) -> None:
    """Halve the stride of the last convolution that works on the waveform."""
    front = getattr(encoder, "feature_extractor", encoder)
    convolutions = [module for module in front.modules() if isinstance(module, nn.Conv1d)]
    if not convolutions or convolutions[-1].stride != (2,):
        raise ModelUnavailableError(f"{path}: the encoder's last convolution doesn't have a stride of two")
    convolutions[-1].stride = (1,)


def hidden_states(encoder: nn.Module, audio: Tensor, frames: int) -> Tensor:
    """Return the hidden states of all layers, the convolutions' features first.

    Args:
        encoder: from `load_encoder`.
        audio: [B, T].
        frames: to return, by linear interpolation if the encoder gives another number.

    Returns:
        [layers, B, frames, width], without gradients.
    """
    audio = F.pad(audio, (0, max(0, SHORTEST - audio.shape[-1])))
    with torch.no_grad():
        states = torch.stack(encoder(audio, output_hidden_states=True).hidden_states)  # [layers, B, ·, width]
    if states.shape[2] == frames:
        return states
    flat = states.flatten(0, 1).transpose(1, 2)  # [layers·B, width, ·]
    resampled = F.interpolate(flat, frames, mode="linear").transpose(1, 2)  # [layers·B, frames, width]
    return resampled.reshape(*states.shape[:2], frames, -1)  # [layers, B, frames, width]


class LayerSum(nn.Module):
    """Sum of an encoder's layers, weighted by the softmax of learnt numbers.

    Args:
        layers: of the encoder.
    """

    def __init__(self, layers: int) -> None:
        super().__init__()
        self.weights = nn.Parameter(torch.ones(layers))

    def forward(self, states: Tensor) -> Tensor:
        """[layers, B, frames, width] -> [B, frames, width].

        Raises:
            StemsplitError: the encoder has another number of layers.
        """
        if len(states) != len(self.weights):
            raise StemsplitError(f"the encoder has {len(states)} layers, {len(self.weights)} are expected")
        return torch.einsum("l,lbtc->btc", self.weights.softmax(0), states)
