"""Write the reference of LaSAFT: weights, a track, and what its authors' program makes of it.

`python -m tests.data.references.make_lasaft CLONE`, with a clone of
ws-choi/Conditioned-Source-Separation-LaSAFT at 4e1c060. What its modules import for training is replaced by
empty modules, and its transforms, which are of an older PyTorch, get and give complex numbers as pairs. The
chunks are cut by its own class, without overlap.
"""

import ast
import sys
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest.mock import MagicMock

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

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


REPLACED = (
    *("wandb", "museval", "omegaconf", "pytorch_lightning", "pytorch_lightning.loggers"),
    *("pytorch_lightning.utilities", "rich", "rich.tree", "rich.syntax", "lasaft.data.musdb_wrapper"),
)


class Module(nn.Module):
    """What the program uses of Lightning's module."""

    device = torch.device("cpu")

    def freeze(self) -> None:
        """Train nothing."""
        self.requires_grad_(False)

    def save_hyperparameters(self, *_: Any) -> None:
        """Save nothing."""


def program(clone: Path) -> tuple[Any, Any, Any]:
    """Return the program's network, its class that cuts chunks, and the length of their ends by the hop."""
    sys.path.insert(0, str(clone))
    for name in REPLACED:
        sys.modules[name] = MagicMock()
    sys.modules["pytorch_lightning"].LightningModule = Module
    from lasaft.source_separation.conditioned.cunet.models import dcun_tfc_gpocm_lasaft
    from lasaft.utils.fourier import get_trim_length

    tree = ast.parse((clone / "lasaft/data/musdb_wrapper.py").read_text())
    tree.body = [node for node in tree.body if getattr(node, "name", "") == "SingleTrackSet"]
    chunks = ModuleType("chunks")
    chunks.__dict__.update(np=np, torch=torch, Dataset=Dataset)
    exec(compile(tree, "musdb_wrapper.py", "exec"), chunks.__dict__)
    return dcun_tfc_gpocm_lasaft.DCUN_TFC_GPoCM_LaSAFT_Framework, chunks.SingleTrackSet, get_trim_length


def pairs_for_complex_numbers() -> None:
    """Let PyTorch's transforms give and take the two parts of complex numbers as a last dimension."""
    stft, istft = torch.stft, torch.istft

    def apart(*given: Any, **options: Any) -> Tensor:
        return torch.view_as_real(stft(*given, **options, return_complex=True))

    def joined(pairs: Tensor, *given: Any, **options: Any) -> Tensor:
        return istft(torch.view_as_complex(pairs.contiguous()), *given, **options)

    torch.stft, torch.istft = apart, joined


@torch.inference_mode()
def make(clone: Path) -> None:
    """Write the reference."""
    network_class, chunks, trim = program(clone)
    pairs_for_complex_numbers()
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
    cut = chunks(mix.T.numpy(), hop * (ARGUMENTS["num_frame"] - 1), trim(hop), 0)
    stems = []
    for i in range(len(ARGUMENTS["sources"])):
        kept = [network.separate(cut[k][0][None], torch.tensor([i])) for k in range(len(cut))]
        whole = torch.cat([one[0, trim(hop) : -trim(hop)] for one in kept])  # [T, C], to the last chunk's end
        stems.append(whole[: mix.shape[1]].T)
    write("lasaft", "lasaft", ARGUMENTS, state, mix, torch.stack(stems))
    print(len(cut), torch.stack(stems).std(dim=(1, 2)))


if __name__ == "__main__":
    make(Path(sys.argv[1]))
