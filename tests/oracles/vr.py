"""audio-separator's VR networks with random weights, and its whole way from a file to the stems."""

import logging
from typing import Any

import torch
from audio_separator.separator.architectures.vr_separator import VRSeparator
from audio_separator.separator.uvr_lib_v5.vr_network import nets, nets_new
from exchange import answer, asked, seeded, weights
from torch import nn


def randomised(network: nn.Module) -> nn.Module:
    """Give batch normalisations statistics, and the mask values from almost 0 to almost 1."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d | nn.BatchNorm1d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.2, 0.6)
            module.weight.data.uniform_(0.7, 1.3)
            module.bias.data.normal_(0, 0.2)
    network.out.weight.data.normal_(0, 0.5)
    return network.eval()


def separator(arguments: dict[str, Any]) -> VRSeparator:
    """Return the package's separator, without a network."""
    common = {
        "logger": logging.getLogger("vr"),
        "torch_device": torch.device("cpu"),
        "model_name": "vr",
        "model_path": "vr.pth",
        "model_data": arguments["entry"],
        "sample_rate": 44100,
    }
    found = VRSeparator(common, arguments.get("options", {}))
    found.audio_file_path, found.wav_subtype = arguments["track"], "FLOAT"
    return found


arguments, _ = asked()
seeded()
package = separator(arguments)
bins = 2 * package.model_params.param["bins"]
if package.is_vr_51_model:
    package.model_run = nets_new.CascadedNet(
        bins, nout=arguments["entry"]["nout"], nout_lstm=arguments["entry"]["nout_lstm"]
    )
else:
    package.model_run = nets.determine_model_capacity(bins, arguments["nn_arch_size"])
randomised(package.model_run)
spectrum = package.loading_mix()
primary, secondary = package.inference_vr(spectrum, torch.device("cpu"), package.aggressiveness)
answer(
    primary=torch.from_numpy(package.spec_to_wav(primary)).float(),
    secondary=torch.from_numpy(package.spec_to_wav(secondary)).float(),
    **weights(package.model_run),
)
