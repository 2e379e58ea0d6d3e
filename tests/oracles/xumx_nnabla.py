"""The network of X-UMX in NNabla's layers, with the names of Sony's program, on random weights.

Written from its description, since no package has it; nnabla's layers decide about the layout of the weights.
The environment is that of d3net_nnabla.py.
"""

import json
import sys
from pathlib import Path

import nnabla as nn
import nnabla.functions as F
import nnabla.parametric_functions as PF
import numpy as np
from nnabla.parameter import get_parameter_or_create
from safetensors import safe_open
from safetensors.numpy import save_file

with safe_open(sys.argv[1], "np") as file:
    arguments = json.loads(file.metadata()["arguments"])
    spectrum = file.get_tensor("magnitudes")  # [B, C, F, frames]
hidden, layers, seen = arguments["hidden_size"], arguments["nb_layers"], arguments["max_bin"]
x = nn.Variable.from_numpy_array(spectrum.transpose(3, 0, 1, 2))  # [frames, B, C, F]
frames, batch, channels, bins = x.shape


def dense(x: nn.Variable, width: int, name: str) -> nn.Variable:
    y = PF.affine(x, width, base_axis=2, with_bias=False, name=name)
    return PF.batch_normalization(y, axes=[2], batch_stat=False, name=name)


def network() -> nn.Variable:
    encoded, recurrent = [], []
    for stem in arguments["sources"]:
        mean = get_parameter_or_create(f"input_mean_{stem}", (seen,))
        scale = get_parameter_or_create(f"input_scale_{stem}", (seen,))
        scaled = (x[..., :seen] + F.reshape(mean, (1, 1, 1, seen))) * F.reshape(scale, (1, 1, 1, seen))
        encoded.append(F.tanh(dense(scaled, hidden, f"fc1_{stem}")))
    shared = sum(encoded) / len(encoded)
    for stem in arguments["sources"]:
        start = [nn.Variable.from_numpy_array(np.zeros((layers, 2, batch, hidden // 2))) for _ in range(2)]
        y, _, _ = PF.lstm(
            shared, *start, num_layers=layers, bidirectional=True, training=False, name=f"lstm_{stem}"
        )
        recurrent.append(y)
    both = sum(F.concatenate(*pair, axis=2) for pair in zip(encoded, recurrent, strict=True)) / len(encoded)
    outs = []
    for stem in arguments["sources"]:
        y = F.relu(dense(both, hidden, f"fc2_{stem}"))
        y = F.reshape(dense(y, channels * bins, f"fc3_{stem}"), (frames, batch, channels, bins))
        scale = get_parameter_or_create(f"output_scale_{stem}", (bins,))
        mean = get_parameter_or_create(f"output_mean_{stem}", (bins,))
        y = y * F.reshape(scale, (1, 1, 1, bins)) + F.reshape(mean, (1, 1, 1, bins))
        outs.append(F.relu(y) * x)
    return F.stack(*outs, axis=0)  # [S, frames, B, C, F]


network()
random = np.random.default_rng(0)
for name, parameter in nn.get_parameters(grad_only=False).items():
    spread = (0.6, 1.4) if name.endswith(("var", "gamma")) or "scale" in name else (-0.3, 0.3)
    parameter.d = random.uniform(*spread, parameter.shape).astype(np.float32)
found = network()
found.forward()
nn.save_parameters(str(Path(arguments["checkpoint"]) / "x-umx.h5"))
save_file(
    {"stems": np.ascontiguousarray(found.d.transpose(2, 0, 3, 4, 1))}, sys.argv[2]
)  # [B, S, C, F, frames]
