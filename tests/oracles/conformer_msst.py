"""Run msst's BSConformer or MelBandConformer with random weights and statistics."""

import importlib

import torch
from exchange import answer, asked, scattered, seeded, weights

CLASSES = {"bs_conformer": "BSConformer", "mel_band_conformer": "MelBandConformer"}

arguments, tensors = asked()
seeded()
module = importlib.import_module(f"msst.models.bs_roformer.{arguments['family']}")
make = getattr(module, CLASSES[arguments["family"]])
network = scattered(make(**arguments["constructor"], zero_dc=False, flash_attn=False)).eval()
with torch.inference_mode():
    stems = network(tensors["mix"])
answer(stems=stems if stems.ndim == 4 else stems[:, None], **weights(network))
