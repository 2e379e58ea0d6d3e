"""bytesep's network of the full band (ResUNetDecouple+), with narrower layers, on random weights.

The normalisation of inplace_abn 1.1.0, whose extension has to be compiled, is replaced by its own formula:
src/inplace_abn_cpu.cpp scales by |γ| + ε. bytesep's package imports its training program, so only the modules
of the network are loaded.
"""

import sys
import types

import torch
from exchange import answer, asked, scattered, seeded, skip_init, weights
from torch import Tensor, nn
from torch.nn import functional as F


class InPlaceABNSync(nn.BatchNorm2d):
    def __init__(self, num_features: int, momentum: float, activation: str) -> None:
        super().__init__(num_features, momentum=momentum)
        assert activation == "leaky_relu"

    def forward(self, x: Tensor) -> Tensor:
        scale = self.weight.abs() + self.eps
        y = F.batch_norm(
            x, self.running_mean, self.running_var, scale, self.bias, self.training, 0.01, self.eps
        )
        return F.leaky_relu(y, 0.01)


sys.modules["inplace_abn"] = types.ModuleType("inplace_abn")
sys.modules["inplace_abn.abn"] = types.ModuleType("inplace_abn.abn")
sys.modules["inplace_abn.abn"].InPlaceABNSync = InPlaceABNSync  # type: ignore[attr-defined]
skip_init("bytesep", "bytesep.models")

from bytesep.models import resunet_ismir2021 as original  # noqa: E402

arguments, given = asked()
seeded()
network = original.ResUNet143_DecouplePlusInplaceABN_ISMIR2021(2, arguments["sources"])
numbers = torch.tensor(sum(p.numel() for p in network.parameters() if p.requires_grad))
n_fft, hop, widths = arguments["n_fft"], arguments["hop_length"], arguments["widths"]
common = {"kernel_size": (3, 3), "activation": "leaky_relu", "momentum": 0.01}
transform = {"n_fft": n_fft, "hop_length": hop, "win_length": n_fft, "freeze_parameters": True}
network.bn0 = nn.BatchNorm2d(n_fft // 2 + 1)
width = 2
for i, out in enumerate(widths, 1):
    step = (1, 2) if i == 6 else (2, 2)
    setattr(network, f"encoder_block{i}", original.EncoderBlockRes4B(width, out, downsample=step, **common))
    width = out
for letter in "abcd":
    block = original.EncoderBlockRes4B(width, width, downsample=(1, 1), **common)
    setattr(network, f"conv_block7{letter}", block)
for i, out in enumerate(reversed(widths), 1):
    step = (1, 2) if i == 1 else (2, 2)
    setattr(network, f"decoder_block{i}", original.DecoderBlockRes4B(width, out, upsample=step, **common))
    width = out
network.after_conv_block1 = original.EncoderBlockRes4B(width, width, downsample=(1, 1), **common)
network.after_conv2 = nn.Conv2d(width, arguments["sources"] * 2 * network.K, 1)
scattered(network).eval()
network.stft, network.istft = original.STFT(**transform), original.ISTFT(**transform)
for name, value in network.state_dict().items():
    if ".abn2.weight" in name:
        value[::2] *= -1  # whose sign the normalisation ignores
with torch.inference_mode():
    stems = network({"waveform": given["mix"]})["waveform"]
kept = {name: value for name, value in weights(network).items() if "stft." not in name}
answer(stems=stems.unflatten(1, (-1, 2)), numbers=numbers, **kept)
