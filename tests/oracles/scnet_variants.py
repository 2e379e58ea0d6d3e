"""Outputs of msst's variants of SCNet with random weights."""

import importlib

import torch
from exchange import answer, asked, seeded, weights

arguments, given = asked()
variant = arguments.pop("variant")
kind = {"scnet_masked": "SCNet", "scnet_tran": "SCNet_Tran"}[variant]
seeded()
network = getattr(importlib.import_module(f"msst.models.scnet.{variant}"), kind)(**arguments).eval()
with torch.inference_mode():
    stems = network(given["mix"])
answer(stems=stems, **weights(network))
