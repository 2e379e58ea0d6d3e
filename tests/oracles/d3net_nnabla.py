"""Separate with Sony's D3Net on random weights, and save them as NNabla does.

The environment has Python 3.10, nnabla, safetensors, librosa and its like, and d3net-spleeterweb without its
requirements.
"""

import json
import sys
from pathlib import Path

import librosa
import nnabla as nn
import numpy as np
from d3net.filter import apply_mwf
from d3net.model import D3NetMSS
from d3net.util import model_separate
from safetensors import safe_open
from safetensors.numpy import save_file


def randomise() -> None:
    """Give every parameter of the current scope random values of realistic size."""
    random = np.random.default_rng(0)
    for name, parameter in nn.get_parameters(grad_only=False).items():
        shape = parameter.shape
        if name.endswith("/W"):
            value = random.normal(0, 1.3 / np.sqrt(np.prod(shape[1:])), shape)
        elif name.endswith(("var", "gamma", "scale")):
            value = random.uniform(0.6, 1.4, shape)
        else:
            value = random.normal(0, 0.1, shape)
        parameter.d = value.astype(np.float32)


with safe_open(sys.argv[1], "np") as file:
    arguments = json.loads(file.metadata()["arguments"])
    mix = file.get_tensor("mix")  # [C, T]
size, hop, samples = arguments["fft_size"], arguments["hop_size"], mix.shape[1]
spectrum = librosa.stft(mix, n_fft=size, hop_length=hop, pad_mode="reflect").transpose(2, 0, 1)
magnitude, stems, numbers = np.abs(np.ascontiguousarray(spectrum)), {}, {}
for target, sizes in arguments["targets"].items():
    sizes = {
        **sizes,
        "fft_size": size,
        "n_channels": len(mix),
        "comp_rates": [[1.0] * 9] * len(sizes["dens_k"]),
        "f_comp_rates": [1.0] * 9,
    }
    with nn.parameter_scope(target):
        patch = nn.Variable((1, sizes["test_patch_len"], len(mix), size // 2 + 1))
        D3NetMSS(sizes, test=True)(patch)
        randomise()
        numbers[target] = np.array(sum(p.size for p in nn.get_parameters(grad_only=True).values()))
        estimate = model_separate(magnitude, sizes, ch_flip_average=True)
        stems[target] = estimate * np.exp(1j * np.angle(spectrum))
nn.save_parameters(str(Path(arguments["checkpoint"]) / "d3net.h5"))
stems = apply_mwf(stems, spectrum)
waves = [librosa.istft(stem.transpose(1, 2, 0), hop_length=hop, length=samples) for stem in stems.values()]
found = {"stems": np.stack(waves).astype(np.float32)}
save_file(found | {f"numbers/{name}": value for name, value in numbers.items()}, sys.argv[2])
