"""Run torchaudio's Hybrid Demucs with random weights."""

import sys
from unittest.mock import MagicMock

# torchaudio's compiled part doesn't load beside every build of torch; this network doesn't need it.
sys.modules["torchaudio._extension"] = MagicMock(_IS_TORCHAUDIO_EXT_AVAILABLE=False)

import torch  # noqa: E402
from exchange import answer, asked, scattered, seeded, weights  # noqa: E402
from torchaudio.models import HDemucs  # noqa: E402

arguments, tensors = asked()
seeded()
network = scattered(HDemucs(**arguments)).eval()
with torch.inference_mode():
    answer(stems=network(tensors["mix"]), **weights(network))
