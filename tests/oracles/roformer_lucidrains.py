"""Run the BS-RoFormer of BS-RoFormer 0.5.1 with random weights; answer nothing with another version."""

from importlib.metadata import PackageNotFoundError, version

import torch
from exchange import answer, asked, scattered, seeded, weights

arguments, tensors = asked()
seeded()
try:
    found = version("BS-RoFormer")
except PackageNotFoundError:
    found = "none"
if found != "0.5.1":
    answer()
else:
    from bs_roformer import BSRoformer

    given = arguments["constructor"]
    # This version has value residuals and no argument for them.
    constructor = {name: value for name, value in given.items() if name != "use_value_residual_learning"}
    network = scattered(BSRoformer(**constructor, flash_attn=False)).eval()
    with torch.inference_mode():
        stems = network(tensors["mix"])
    answer(stems=stems if stems.ndim == 4 else stems[:, None], **weights(network))
