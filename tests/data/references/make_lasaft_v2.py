"""Write the reference of LASAFT-Net-v2: weights, a track, and what its authors' program makes of it.

`python -m tests.data.references.make_lasaft_v2 CLONE`, with a clone of ws-choi/LASAFT-Net-v2 at 56ec6cc. The
chunks are cut by its own class, without overlap: it would average overlapping ones with equal weights, while
the core crossfades them.
"""

import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tests.data.references.lasaft_programs import cutter, make_importable, separate
from tests.data.references.make import track
from tests.data.references.make_lasaft import ARGUMENTS as FIRST
from tests.data.references.writing import write

ARGUMENTS: dict[str, Any] = {**FIRST, "activation": "leaky_relu"}


def program(clone: Path, given: dict[str, Any]) -> tuple[Any, Any]:
    """Return a network of the program, and the length of its chunks' ends by the hop."""
    make_importable(clone, more=("hydra", "pkg_resources"))
    from lasaft.models.conditioned.base_framework import AbstractLaSAFTNet
    from lasaft.models.conditioned.spec2spec import block_functions as blocks
    from lasaft.models.conditioned.spec2spec.base import BaseNet
    from lasaft.utils.fourier import get_trim_length

    same = {"activation": given["activation"], "norm": "bn"}
    block = blocks.MkTFCLightSAFTGPoCM(
        gr=given["internal_channels"],
        num_layers=given["n_internal_layers"],
        condition_dim=given["embedding_dim"],
        **{key: given[key] for key in ("num_tdfs", "dk")},
        **{"kt": 3, "kf": 3, "bn_factor": 16, "min_bn_units": 16, "bias": False},
        **{"query_listen": True, "key_listen": True},
        **same,
    )
    unet = BaseNet(
        mk_block_f=block,
        mk_ds_f=blocks.MKConvDS(**same),
        mk_us_f=blocks.MkConvTransposeUS(**same),
        first_conv_activation=given["activation"],
        control_input_dim=len(given["sources"]),
        **{key: given[key] for key in ("n_fft", "internal_channels", "n_blocks", "n_internal_layers")},
        **{"input_channels": 4, "last_activation": "identity", "control_vector_type": "embedding"},
        **{"embedding_dim": given["embedding_dim"], "condition_to": "decoder", "norm": "bn"},
    )
    network = AbstractLaSAFTNet(
        spec2spec=unet,
        **{key: given[key] for key in ("n_fft", "num_frame", "hop_length")},
        **{"lr": 5e-4, "optimizer": "adam", "initializer": "kaiming"},
        **{"spec_type": "complex", "spec_est_mode": "mapping"},
        **{"train_loss": "spec_mse", "val_loss": "raw_l1"},
    )
    return network.eval(), get_trim_length


@torch.inference_mode()
def make(clone: Path) -> None:
    """Write the reference."""
    torch.manual_seed(0)
    network, trim = program(clone, ARGUMENTS)
    state: dict[str, Tensor] = network.state_dict()
    for key, value in state.items():  # away from zeros and ones, and into the range of audio
        if key.endswith(("running_mean", "running_var", ".1.weight", ".4.weight", "bias")):
            value += 0.2 * torch.rand_like(value)
    # The program takes silence for the context of a chunk to whose end less than a whole context follows.
    # Here more follows to the first chunk, and nothing to the second.
    mix = track(2, 11_500)
    hop = ARGUMENTS["hop_length"]
    cut = cutter(clone)(mix.T.numpy(), hop * (ARGUMENTS["num_frame"] - 1), trim(hop), 0)
    stems = separate(network, cut, len(ARGUMENTS["sources"]), trim(hop), mix.shape[1])
    write("lasaft_v2", "lasaft_v2", ARGUMENTS, state, mix, stems, overlap=0.0)
    print(len(cut), stems.std(dim=(1, 2)), (stems[0] - stems[1]).std())


if __name__ == "__main__":
    make(Path(sys.argv[1]))
