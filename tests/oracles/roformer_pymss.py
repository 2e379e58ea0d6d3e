"""Run pymss_core's BS-RoFormer with random weights."""

import torch
from exchange import answer, asked, scattered, seeded, weights
from pymss_core.modules.bs_roformer import BSRoformer

arguments, tensors = asked()
seeded()
network = scattered(BSRoformer(**arguments["constructor"])).eval()
with torch.inference_mode():
    stems = network(tensors["mix"])
answer(stems=stems if stems.ndim == 4 else stems[:, None], **weights(network))
