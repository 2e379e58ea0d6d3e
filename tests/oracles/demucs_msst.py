"""Output of msst's networks of demucs with random weights, built from a configuration."""

import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace

import torch
from exchange import answer, asked, seeded, weights

# It is imported for Wiener filtering, which these networks don't use, and its package needs a torchaudio.
sys.modules["openunmix"] = sys.modules["openunmix.filtering"] = SimpleNamespace(wiener=None)

from msst.utils.settings import get_model_from_config  # noqa: E402

arguments, given = asked()
seeded()
with TemporaryDirectory() as folder:
    path = Path(folder, "config.yaml")
    path.write_text(arguments["config"])
    network = get_model_from_config("htdemucs", str(path))[0].eval()
for name, parameter in network.named_parameters():
    if name.endswith(".scale"):  # as large as in a trained network; the initial ones hide the branches
        parameter.data.uniform_(0.1, 0.4)
with torch.inference_mode():
    stems = network(given["mix"])
answer(stems=stems, **weights(network))
