"""Import what the makers of LaSAFT's references need of its authors' two programs.

What the programs import for training is replaced by empty modules. Their transforms, which are of an older
PyTorch, get and give complex numbers as pairs.
"""

import ast
import sys
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest.mock import MagicMock

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

REPLACED = (
    *("wandb", "museval", "omegaconf", "pytorch_lightning", "pytorch_lightning.loggers"),
    *("pytorch_lightning.utilities", "rich", "rich.tree", "rich.syntax", "lasaft.data.musdb_wrapper"),
)


class Module(nn.Module):
    """What the programs use of Lightning's module."""

    device = torch.device("cpu")

    def freeze(self) -> None:
        """Train nothing."""
        self.requires_grad_(False)

    def save_hyperparameters(self, *_: Any) -> None:
        """Save nothing."""


def make_importable(clone: Path, more: Iterable[str] = ()) -> None:
    """Let the program of a clone be imported.

    Args:
        clone: its folder.
        more: names of further modules to replace by empty ones.
    """
    sys.path.insert(0, str(clone))
    for name in (*REPLACED, *more):
        sys.modules[name] = MagicMock()
    sys.modules["pytorch_lightning"].LightningModule = Module
    _pairs_for_complex_numbers()


def cutter(clone: Path) -> Any:
    """Return the program's class that cuts a track into chunks."""
    tree = ast.parse((clone / "lasaft/data/musdb_wrapper.py").read_text())
    tree.body = [node for node in tree.body if getattr(node, "name", "") == "SingleTrackSet"]
    chunks = ModuleType("chunks")
    chunks.__dict__.update(np=np, torch=torch, Dataset=Dataset)
    exec(compile(tree, "musdb_wrapper.py", "exec"), chunks.__dict__)
    return chunks.SingleTrackSet


def _pairs_for_complex_numbers() -> None:
    """Let PyTorch's transforms give and take the two parts of complex numbers as a last dimension."""
    stft, istft = torch.stft, torch.istft

    def apart(*given: Any, **options: Any) -> Tensor:
        return torch.view_as_real(stft(*given, **options | {"return_complex": True}))

    def joined(pairs: Tensor, *given: Any, **options: Any) -> Tensor:
        return istft(torch.view_as_complex(pairs.contiguous()), *given, **options)

    torch.stft, torch.istft = apart, joined


def separate(network: Any, cut: Any, stems: int, context: int, samples: int) -> Tensor:
    """Return the stems of a track that is cut into chunks without overlap.

    Args:
        network: the program's.
        cut: the chunks.
        stems: their number.
        context: samples that are cut off both ends of a chunk.
        samples: of the track.

    Returns:
        [S, C, T].
    """
    found = []
    for i in range(stems):
        kept = [network.separate(cut[k][0][None], torch.tensor([i])) for k in range(len(cut))]
        whole = torch.cat([one[0, context:-context] for one in kept])  # [T, C], to the last chunk's end
        found.append(whole[:samples].T)
    return torch.stack(found)
