"""Write the reference of LaSAFT: weights, a track, and what its authors' program makes of it.

`python -m tests.data.references.make_lasaft CLONE`, with a clone of
ws-choi/Conditioned-Source-Separation-LaSAFT at 4e1c060. The chunks are cut by its own class, without overlap.
"""

import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tests.data.references.lasaft_programs import cutter, make_importable, separate
from tests.data.references.make import track
from tests.data.references.writing import write

ARGUMENTS: dict[str, Any] = {
    "sources": ["vocals", "drums"],
    "n_fft": 64,
    "hop_length": 32,
    "num_frame": 504,
    "n_blocks": 5,
    "internal_channels": 4,
    "n_internal_layers": 2,
    "num_tdfs": 3,
    "dk": 4,
    "embedding_dim": 4,
}
# values of its configuration of the large network, which the family doesn't vary
FIXED: dict[str, Any] = {
    "input_channels": 4,
    "first_conv_activation": "relu",
    "last_activation": "identity",
    "t_down_layers": None,
    "f_down_layers": None,
    "kernel_size_t": 3,
    "kernel_size_f": 3,
    "tfc_tdf_activation": "relu",
    "bn_factor": 16,
    "min_bn_units": 16,
    "tfc_tdf_bias": False,
    "control_vector_type": "embedding",
    "control_input_dim": 2,
    "condition_to": "decoder",
    "control_n_layer": 4,
    "control_type": "dense",
    "pocm_type": "matmul",
    "pocm_norm": "batch_norm",
    "spec_type": "complex",
    "spec_est_mode": "mapping",
    "optimizer": "adam",
    "lr": 0.0001,
    "auto_lr_schedule": True,
    "train_loss": "spec_mse",
    "val_loss": "raw_l1",
}


def program(clone: Path) -> tuple[Any, Any]:
    """Return the program's network, and the length of its chunks' ends by the hop."""
    make_importable(clone)
    from lasaft.source_separation.conditioned.cunet.models import dcun_tfc_gpocm_lasaft
    from lasaft.utils.fourier import get_trim_length

    return dcun_tfc_gpocm_lasaft.DCUN_TFC_GPoCM_LaSAFT_Framework, get_trim_length


@torch.inference_mode()
def make(clone: Path) -> None:
    """Write the reference."""
    network_class, trim = program(clone)
    torch.manual_seed(0)
    network = network_class(**FIXED | {k: v for k, v in ARGUMENTS.items() if k != "sources"}).eval()
    state: dict[str, Tensor] = network.state_dict()
    for key, value in state.items():  # away from zeros and ones, and into the range of audio
        if key.endswith(("running_mean", "running_var", ".1.weight", ".4.weight", "bias")):
            value += 0.2 * torch.rand_like(value)
        if key.endswith(("embedding.weight", "keys", "linear_gamma.0.weight")):  # stems differ
            value *= 4
    # The program takes silence for the context of a chunk to whose end less than a whole context follows.
    # Here more follows to the first chunk, and nothing to the second.
    mix = track(2, 11_500)
    hop = ARGUMENTS["hop_length"]
    cut = cutter(clone)(mix.T.numpy(), hop * (ARGUMENTS["num_frame"] - 1), trim(hop), 0)
    stems = separate(network, cut, len(ARGUMENTS["sources"]), trim(hop), mix.shape[1])
    write("lasaft", "lasaft", ARGUMENTS, state, mix, stems)
    print(len(cut), stems.std(dim=(1, 2)))


if __name__ == "__main__":
    make(Path(sys.argv[1]))
