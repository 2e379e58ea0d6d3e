"""BS-RoFormer with HyperACE v2 of pymss-core, its image network switched on, in double precision."""

import torch
from exchange import answer, asked, seeded, weights
from pymss_core.modules.bs_roformer.bs_roformer_hyperace import BSRoformerHyperACE

seeded()
arguments, tensors = asked()
network = BSRoformerHyperACE(**arguments).eval()
network.set_mask_mode("full")
for name, parameter in network.named_parameters():
    if ".fusion_d" in name:  # zeros would hide the correlations
        torch.nn.init.uniform_(parameter, 0.2, 0.6)
stored = {name: tensor.clone() for name, tensor in weights(network).items()}
with torch.inference_mode():
    output = network.double()(tensors["mix"].double())
answer(output=output, **stored)
