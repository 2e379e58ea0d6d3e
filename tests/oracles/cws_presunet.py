"""The authors' CWS-PResUNet with narrower layers, on random weights.

STEMSPLIT_CWS is a clone of haoheliu/2021-ISMIR-MSS-Challenge-CWS-PResUNet. Its modules import the training
program and Lightning, neither of which the network needs.
"""

import os
import sys
import types
from pathlib import Path

import torch
from exchange import answer, asked, scattered, seeded, weights
from torch import nn


class LightningModule(nn.Module):
    def save_hyperparameters(self) -> None:
        pass


root = Path(os.environ["STEMSPLIT_CWS"]).absolute()
sys.path.insert(0, str(root))
for name in ("pytorch_lightning", "utils", "utils.file_io", "utils.overlapadd", "utils.logger", "git"):
    sys.modules[name] = types.ModuleType(name)
sys.modules["pytorch_lightning"].LightningModule = LightningModule  # type: ignore[attr-defined]
sys.modules["utils.overlapadd"].LambdaOverlapAdd = None  # type: ignore[attr-defined]
sys.modules["utils"].__path__ = [str(root / "utils")]

arguments, given = asked()
os.chdir(root)  # where it looks for the filters
joint, widths = arguments["joint"], arguments["widths"]
if joint:
    from models.resunet_joint_training_other import model as program
    from models.resunet_joint_training_other import modules
else:
    from models.resunet_conv8_vocals import model as program
    from models.resunet_conv8_vocals import modules
seeded()
own = {} if joint else {"target": "vocals"}
network = program.UNetResComplex_100Mb(channels=2, **own)
numbers = torch.tensor(sum(p.numel() for p in network.parameters() if p.requires_grad))
Encoder = modules.EncoderBlockRes4 if joint else modules.EncoderBlockRes8
Up = modules.DecoderBlockRes4 if joint else modules.DecoderBlockRes8
common = {"activation": "relu", "momentum": 0.01}
width = 8
for i, out in enumerate(widths, 1):
    setattr(network, f"encoder_block{i}", Encoder(width, out, downsample=(2, 2), **common))
    width = out
for i in range(7, 11):
    setattr(network, f"conv_block{i}", Encoder(width, width, downsample=(1, 1), **common))
for i, out in enumerate(reversed(widths), 1):
    setattr(network, f"decoder_block{i}", Up(width, out, stride=(2, 2), **common))
    width = out


def block() -> nn.Module:
    return modules.EncoderBlockRes4(width, width, downsample=(1, 1), **common)


if joint:
    for stem in ("bass", "drums", "other"):
        setattr(network, f"{stem}_blocks", nn.ModuleList([block(), nn.Conv2d(width, 32, 1)]))
else:
    network.after_conv_block1, network.after_conv2 = block(), nn.Conv2d(width, 32, 1)
constant = {name: value.clone() for name, value in network.state_dict().items() if "f_helper." in name}
scattered(network).eval()
network.load_state_dict(constant, strict=False)
with torch.inference_mode():
    stems = network(given["mix"])["wav"]
unused = ("f_helper.stft.", "f_helper.istft.", "wav_spec_loss.")
kept = {n: v for n, v in weights(network).items() if not n.removeprefix("weights/").startswith(unused)}
answer(stems=stems.unflatten(1, (-1, 2)), numbers=numbers, **kept)
